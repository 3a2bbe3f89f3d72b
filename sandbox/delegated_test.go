package sandbox

import (
	"os"
	"path/filepath"
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
