package launcher

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Which tools are off is durable, one thing at a time, and unknown where its file cannot be read.
func TestSwitches(t *testing.T) {
	dir := t.TempDir()
	s := switches{dir: dir}
	look := func(want ...string) (changed bool) {
		t.Helper()
		got, changed, err := s.look()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
		return changed
	}
	set := func(tool string, off bool) {
		t.Helper()
		if err := SetDisabled(dir, tool, off); err != nil {
			t.Fatal(err)
		}
	}
	if look() {
		t.Error("nothing that is off is told")
	}
	set("b_scan", true)
	set("a_scan", true)
	set("a_scan", true)
	if !look("a_scan", "b_scan") || look("a_scan", "b_scan") {
		t.Error("a change is told once")
	}
	set("a_scan", false)
	look("b_scan")
	set("b_scan", false)
	set("b_scan", false)
	if !look() {
		t.Error("that all are on again is told")
	}
	set("b_scan", true)
	if later := (&switches{dir: dir}); true {
		if got, changed, err := later.look(); !slices.Equal(got, []string{"b_scan"}) || !changed || err != nil {
			t.Errorf("a later launcher: %v %v %v", got, changed, err)
		}
	}
	path := filepath.Join(dir, switchesName)
	for says, spoil := range map[string]func() error{
		"nonsense":                func() error { return os.WriteFile(path, []byte("disabled: x\n"), 0o600) },
		"what others could write": func() error { return os.Chmod(path, 0o666) },
		"a link":                  func() error { return os.Symlink("/dev/null", path) },
		"a directory":             func() error { return os.Mkdir(path, 0o700) },
		"too much":                func() error { return os.WriteFile(path, []byte(strings.Repeat("#", maxSwitches+1)), 0o600) },
	} {
		if says == "a link" || says == "a directory" {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if got, _, err := s.look(); err == nil {
			t.Errorf("%s: %v", says, got)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		set("b_scan", true)
		look("b_scan")
	}
}
