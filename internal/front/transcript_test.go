package front

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// What changes from run to run is replaced before sessions are compared.
var changing = []struct {
	form *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`[a-z2-7]{26}`), "JOB"},
	{regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
}

// Each file of testdata/sessions is one session, line by line: what a client of an era sends, and
// what it gets, in the order of ids. Lines beginning with ">" stand for the session's own comment.
func TestSessions(t *testing.T) {
	files, err := filepath.Glob("testdata/sessions/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no session (%v)", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			r := newRoom(t)
			go r.answerAll()
			var sent string
			for _, f := range archive.Files {
				if f.Name == "client" {
					sent = string(f.Data)
				}
			}
			got := converse(t, r, sent)
			if *update {
				archive.Files = []txtar.File{{Name: "client", Data: []byte(sent)}, {Name: "server", Data: []byte(got)}}
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want := ""
			for _, f := range archive.Files {
				if f.Name == "server" {
					want = string(f.Data)
				}
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// answerAll is a launcher that refuses every scan and knows nothing.
func (r *room) answerAll() {
	for m := range r.inbox {
		reply := wire.Reply{Refused: &wire.Refusal{Code: "target_out_of_scope", Field: "targets[0]", Rule: "lab: targets", Allowed: []string{"10.77.0.0/16"}}}
		switch {
		case m.Start != nil:
			reply.Seq = m.Start.Seq
		case m.Preview != nil:
			reply.Seq = m.Preview.Seq
		case m.Ask != nil:
			reply = wire.Reply{Seq: m.Ask.Seq, Capabilities: &wire.Capabilities{Slots: 4}}
		default:
			continue
		}
		if r.conn.Send(wire.Message{Reply: &reply}) != nil {
			return
		}
	}
}

func converse(t *testing.T, r *room, sent string) string {
	t.Helper()
	conn, _ := r.client(1000)
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	var lines []string
	for line := range strings.Lines(sent) {
		if _, err := fmt.Fprint(conn, line); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(line, `"id":`) {
			continue
		}
		answer, err := answers.ReadString('\n')
		if err != nil {
			t.Fatalf("no answer to %s: %v", line, err)
		}
		for _, c := range changing {
			answer = c.form.ReplaceAllString(answer, c.by)
		}
		if strings.Contains(line, "tools/list") {
			answer = fmt.Sprintf("(the list of tools, %d of them: testdata/tools)\n", strings.Count(answer, `"inputSchema"`))
		}
		lines = append(lines, answer)
	}
	return strings.Join(slices.Clip(lines), "")
}
