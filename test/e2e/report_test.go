package e2e

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/html"

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

// What a host says to whoever reads its answers is in each form where a host's words stand, and acts on nothing.
func TestAHostThatTalksInReports(t *testing.T) {
	h := newHouse(t, lab.Options{})
	answer := h.call("nmap_scan", object{"targets": []string{lab.Talker}, "ports": []any{21, 22, 80, 443}, "profile": "script",
		"scripts": []string{"banner", "http-title", "http-headers", "ssl-cert"}, "wait_s": 45})
	if answer["status"] != "completed" {
		t.Fatalf("%v", answer)
	}
	for _, format := range []string{"html", "jsonl", "csv", "sarif", "xml"} {
		text, stderr, err := h.asUser(0, "report", answer["job_id"].(string), "--format", format)
		if err != nil || !strings.Contains(text, lab.Told) {
			t.Fatalf("%s: %v, %s\n%.500s", format, err, stderr, text)
		}
		for line := range strings.Lines(text) {
			if err := plainText(strings.TrimSuffix(line, "\n")); err != nil {
				t.Errorf("%s: %v", format, err)
			}
		}
		switch format {
		case "html":
			page, err := html.Parse(strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			quoted(t, page, false)
		case "jsonl", "sarif":
			for d := json.NewDecoder(strings.NewReader(text)); ; {
				var v any
				if err := d.Decode(&v); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v", format, err)
				}
				apart(v, func(text string, untrusted bool) {
					if !untrusted && strings.Contains(text, lab.Told) {
						t.Errorf("%s: not apart: %s", format, text)
					}
				})
			}
		case "csv":
			rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
			if err != nil || len(rows) < 5 {
				t.Errorf("%d rows, %v", len(rows), err)
			}
			for _, row := range rows {
				for _, cell := range row {
					if cell != "" && strings.Contains("=+-@\t\r", cell[:1]) {
						t.Errorf("a formula: %s", cell)
					}
				}
			}
		case "xml":
			for d := xml.NewDecoder(strings.NewReader(text)); ; {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// quoted walks a page as a browser makes it: a host's words are marked as such, and no element is theirs.
func quoted(t *testing.T, n *html.Node, within bool) {
	t.Helper()
	for _, a := range n.Attr {
		within = within || a.Key == "class" && strings.Contains(a.Val, "quote")
		if strings.Contains(a.Val, lab.Told) {
			t.Errorf("in the attribute %s of <%s>: %s", a.Key, n.Data, a.Val)
		}
	}
	switch {
	case n.Type == html.TextNode && strings.Contains(n.Data, lab.Told) && !within, n.Type == html.CommentNode:
		t.Errorf("not marked: %s", n.Data)
	case n.Type == html.ElementNode && (n.Data == "script" || n.Data == "img" || n.Data == "a" || n.Data == "iframe"):
		t.Errorf("<%s> is on the page", n.Data)
	}
	for child := range n.ChildNodes() {
		quoted(t, child, within)
	}
}
