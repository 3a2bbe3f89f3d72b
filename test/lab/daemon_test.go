package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A role that dies at its start, and would live at the next one, is not started again behind the
// back of whoever gives up.
func TestADaemonThatCannotStartIsGivenUp(t *testing.T) {
	dir, err := os.MkdirTemp("", "daemon")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o777))
	program, mark := filepath.Join(dir, "program"), filepath.Join(dir, "mark")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\n[ -e "+mark+" ] && exec sleep 30\ntouch "+mark+"\nexit 1\n"), 0o755))
	began := time.Now()
	if _, err := Start(program, Options{}); err == nil || !strings.Contains(err.Error(), "ended at its start") {
		t.Errorf("it was started: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s to give up", took)
	}
}
