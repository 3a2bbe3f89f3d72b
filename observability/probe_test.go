package observability

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A probe says whether the log can be written, before anybody needs it to be, and leaves no trace in it.
func TestAProbeWritesNoRecord(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	a, err := OpenAudit(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if err := a.Append(Record{Event: Started}); err != nil {
		t.Fatal(err)
	}
	log := func() string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, current))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := log()
	for range 3 {
		if err := a.Probe(); err != nil {
			t.Fatal(err)
		}
	}
	if got := log(); got != before {
		t.Errorf("the log was %q and is %q", before, got)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 128<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	if err := a.Probe(); err == nil {
		t.Error("on a full disk a probe finds nothing")
	}
	if err := a.Append(Record{Event: Stopped}); err == nil {
		t.Error("a record was written on a full disk")
	}
	if err := a.Note(Record{Event: Done}); err != nil { // the reserve is for this
		t.Error(err)
	}
	if !a.Figures().Unwritable { // that something could be put into the reserve helps nobody who wants to launch
		t.Error("it is told as writable")
	}
	before = log()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := a.Probe(); err != nil {
		t.Error(err)
	}
	if got := log(); got != before {
		t.Errorf("the log was %q and is %q", before, got)
	}
	if s, err := VerifyAudit(dir); err != nil || s.Records != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Probe(); err == nil {
		t.Error("a log that is closed can be written")
	}
}
