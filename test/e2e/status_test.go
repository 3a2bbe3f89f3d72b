package e2e

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// command is the operator's command with the daemon's configuration, as a user.
func (h *house) command(uid uint32, words ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(h.daemon.Dir, "secmcpd"), append(words, "--config", h.daemon.Config)...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return c
}

// Both rooms say how they are, to those who may open their sockets.
func TestOperatorsSeeTheStatus(t *testing.T) {
	h := newHouse(t, lab.Options{})
	h.slow()
	out, err := h.command(0, "status").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var view object
	if err := json.Unmarshal(out, &view); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if at(view, "launcher", "running") != 1.0 || at(view, "front", "running") != 1.0 || at(view, "launcher", "clients") != at(view, "front", "sessions") {
		t.Errorf("%s", out)
	}
	for deadline := time.Now().Add(10 * time.Second); at(view, "front", "launcher", "running") != 1.0; time.Sleep(100 * time.Millisecond) {
		out, err := h.command(0, "status").Output()
		if err := errors.Join(err, json.Unmarshal(out, &view)); err != nil || time.Now().After(deadline) {
			t.Fatalf("the front does not learn the launcher's state: %v\n%s", err, out)
		}
	}
	out, err = h.command(lab.FrontUID, "status").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "secmcpd-admin") {
		t.Errorf("the front's user: %v\n%s", err, out)
	}
}
