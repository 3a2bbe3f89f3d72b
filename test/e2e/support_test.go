package e2e

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/test/lab"
)

// What is given away for help has nothing that a host said, no target of a job, and no record of the audit log.
func TestASupportDumpGivesNothingAway(t *testing.T) {
	h := newHouse(t, lab.Options{})
	answer := h.call("nmap_scan", object{"targets": []string{lab.Talker}, "profile": "version", "ports": []any{21, 22}, "wait_s": 45, "correlation_id": "ticket-17"})
	if answer["status"] != "completed" || !strings.Contains(show(answer), "untrusted") {
		t.Fatalf("%s", show(answer))
	}
	h.slow()
	path := filepath.Join(t.TempDir(), "dump.tar.gz")
	r := h.expect(0, "support", "dump", "--output", path)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || info.Size() > 4<<20 {
		t.Fatalf("%v, %v", info, err)
	}
	files := unpacked(t, path)
	for name, has := range map[string]string{"CONTENTS": "status.json", "versions.json": `"version"`, "status.json": `"is": "`, "doctor.json": `"check": "kernel"`,
		"kernel.json": `"features"`, "engagements.txt": "lab: revision ", "audit.txt": "records", "settings.yaml": h.daemon.Dir} {
		if !strings.Contains(files[name], has) {
			t.Errorf("%s has no %q:\n%.2000s", name, has, files[name])
		}
		if !strings.Contains(r.stderr, name) && name != "CONTENTS" {
			t.Errorf("%s is not in the list:\n%s", name, r.stderr)
		}
	}
	for name, text := range files {
		for _, secret := range []string{lab.Talker, lab.SSHAndWeb, "10.77.1.0", "ticket-17", `"event":"`, "untrusted", lab.Told} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %q", name, secret)
			}
		}
	}
}

func unpacked(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil || head.Mode != 0o600 {
			t.Fatalf("%s: %v, mode %o", head.Name, err, head.Mode)
		}
		files[strings.TrimPrefix(head.Name, "secmcpd-support/")] = string(text)
	}
}
