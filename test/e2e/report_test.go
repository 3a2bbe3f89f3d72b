package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/secmcpd/secmcpd/test/lab"
)

// asUser runs the binary as a user who may only connect.
func (h *house) asUser(uid uint32, args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(filepath.Join(h.daemon.Dir, "secmcpd"), args...) // where others may execute it
	cmd.Dir, cmd.Env = "/", []string{"SECMCPD_SOCKET=" + h.daemon.Socket()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	return out.String(), said.String(), err
}

// The command writes what a real scan found, in each form, to a new file of its user's or to standard output, and
// never another user's.
func TestAReportByCommand(t *testing.T) {
	h := newHouse(t, lab.Options{})
	answer := h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "profile": "version", "ports": []any{22, 80}, "wait_s": 45})
	if answer["status"] != "completed" {
		t.Fatalf("%v", answer)
	}
	id := answer["job_id"].(string)
	dir := t.TempDir()
	for format, has := range map[string]string{
		"html": `<td class="n">22/tcp</td><td class="n">open`, "jsonl": `"port":22,"proto":"tcp","state":"open"`, "csv": lab.SSHAndWeb + ",tcp,22,open,",
		"sarif": "tcp://" + lab.SSHAndWeb + ":22", "xml": `<port protocol="tcp" portid="22"><state state="open"`,
	} {
		path := filepath.Join(dir, "report."+format)
		if _, stderr, err := h.asUser(0, "report", id, "--format", format, "-o", path); err != nil {
			t.Errorf("%s: %v\n%s", format, err, stderr)
			continue
		}
		written, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || info.Mode() != 0o600 || !strings.Contains(string(written), has) {
			t.Errorf("%s: %v, %v, %v\n%.2000s", format, err, statErr, info.Mode(), written)
		}
		printed, stderr, err := h.asUser(0, "report", id, "--format", format)
		if err != nil || printed != string(written) {
			t.Errorf("%s on standard output is not what is in the file: %v, %s", format, err, stderr)
		}
		if _, stderr, err := h.asUser(0, "report", id, "--format", format, "-o", path); err == nil || !strings.Contains(stderr, "file exists") {
			t.Errorf("%s over a file that was there: %v, %s", format, err, stderr)
		}
	}
	missing := filepath.Join(dir, "nothing.csv")
	_, stderr, err := h.asUser(0, "report", strings.Repeat("a", len(id)), "--format", "csv", "-o", missing)
	if _, statErr := os.Stat(missing); err == nil || !strings.Contains(stderr, "job_list") || !os.IsNotExist(statErr) {
		t.Errorf("of no job: %v, %s, %v", err, stderr, statErr)
	}
	for _, wrong := range [][]string{{id, "--format", "pdf"}, {"../" + id}, {}, {id, id}} {
		_, stderr, err := h.asUser(0, append([]string{"report"}, wrong...)...)
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 2 {
			t.Errorf("%v: %v, %s", wrong, err, stderr)
		}
	}
	theirs, stderr, err := h.asUser(2001, "report", id)
	if err == nil || theirs != "" || !strings.Contains(stderr, "not found") {
		t.Errorf("another user's: %v, %s%s", err, theirs, stderr)
	}
}
