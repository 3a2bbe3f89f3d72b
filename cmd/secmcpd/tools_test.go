package main

import (
	"os"
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/runners"
)

// doctor and the launcher ask a scanner in the same words: fping says the name that it was called by.
func TestDoctorAsksADeclaredScanner(t *testing.T) {
	text, err := os.ReadFile("../../packaging/runners.d/fping_scan.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, faults := runners.ParseDeclaration("fping_scan.yaml", text)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	version, err := scannerVersion(runners.BuiltIn().With(d), "fping", d.Program)
	if err != nil || !strings.HasPrefix(version, "5.") {
		t.Errorf("%q, %v", version, err)
	}
}
