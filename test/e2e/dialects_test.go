//go:build dialects

package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// Every gobuster that was built for it (make dialects) finds the same: what a version takes as its arguments, and what
// it prints, is no matter of its users.
func TestDialectsOfGobuster(t *testing.T) {
	all, err := filepath.Glob("../../bin/gobuster/*/gobuster")
	if err != nil || len(all) == 0 {
		t.Fatalf("there is none in bin/gobuster: make dialects builds them (%v)", err)
	}
	for _, path := range all {
		path, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		version := filepath.Base(filepath.Dir(path))
		settings := "scanners: {gobuster: " + path + "}\n"
		t.Run(version, func(t *testing.T) { scansByWords(t, settings) })
		t.Run(version+", cut", func(t *testing.T) { scansByWordsThatAreCut(t, settings, version < "3.7") })
		t.Run(version+", not answered", func(t *testing.T) { scansByWordsThatAreNotAnswered(t, settings) })
	}
}
