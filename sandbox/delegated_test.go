package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What was handed over at the start and is gone is told.
func TestWhatIsNoLongerDelegatedIsTold(t *testing.T) {
	dir := t.TempDir()
	boxes := filepath.Join(dir, together)
	has := func(controllers string) {
		t.Helper()
		if err := os.MkdirAll(boxes, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(boxes, "cgroup.subtree_control"), []byte(controllers+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := &Sandbox{features: Features{Cgroup: dir, Controllers: []string{"memory", "pids"}}}
	has("cpu memory pids")
	if err := s.Delegated(); err != nil {
		t.Error(err)
	}
	has("memory")
	if err := s.Delegated(); err == nil || !strings.Contains(err.Error(), "controller pids") {
		t.Errorf("%v", err)
	}
	if err := os.RemoveAll(boxes); err != nil {
		t.Fatal(err)
	}
	if err := s.Delegated(); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("%v", err)
	}
	s.features = Features{NoCgroup: "none was delegated"}
	if err := s.Delegated(); err != nil {
		t.Errorf("what was never there: %v", err)
	}
}

// A proof in the cgroup of a launcher that runs, as in a container, leaves that launcher's limits as they are.
func TestAProofKeepsTheLimitsOfAllBoxes(t *testing.T) {
	for _, c := range []struct {
		says string
		keep bool
		want string
	}{
		{"a proof", true, "1000"},
		{"a launcher", false, "max"},
	} {
		dir := t.TempDir()
		for file, text := range map[string]string{
			"cgroup.subtree_control": "", "supervisor/cgroup.procs": "",
			"boxes/cgroup.subtree_control": "memory", "boxes/memory.max": "1000",
		} {
			path := filepath.Join(dir, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		enabled, err := divide(dir, nil, Total{}, c.keep)
		if err != nil || !slices.Equal(enabled, []string{"memory"}) {
			t.Fatalf("%s: %v, %v", c.says, enabled, err)
		}
		if got, _ := readControl(filepath.Join(dir, "boxes"), "memory.max"); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: the limit is %q, want %q", c.says, got, c.want)
		}
	}
}
