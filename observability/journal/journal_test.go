package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the catalogue")

const root = "../.."

func TestTheCatalogueIsTheTable(t *testing.T) {
	path := filepath.Join(root, "packaging/journal/secmcpd.catalog")
	if *update {
		if err := os.WriteFile(path, []byte(Catalogue()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Catalogue(), string(b)); diff != "" {
		t.Errorf("go test ./observability/journal -update writes it:\n%s", diff)
	}
}

func TestEachEventIsWholeAndDocumented(t *testing.T) {
	docs, err := os.ReadFile(filepath.Join(root, "docs/monitoring.md"))
	if err != nil {
		t.Fatal(err)
	}
	ids, names := map[string]bool{}, map[string]bool{}
	for _, e := range Events {
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(e.ID) || ids[e.ID] || names[e.Name] {
			t.Errorf("%s has no id, or not one of its own: %q", e.Name, e.ID)
		}
		ids[e.ID], names[e.Name] = true, true
		for _, text := range []string{e.Subject, e.What, e.Follows, e.Do} {
			if text == "" {
				t.Errorf("%s says too little", e.Name)
			}
		}
		if row := fmt.Sprintf("| `%s` | `%s` |", e.Name, e.ID); !strings.Contains(string(docs), row) {
			t.Errorf("docs/monitoring.md has no row %s", row)
		}
	}
}

// Every event is in the list, and in some line of the log.
func TestEachEventIsLogged(t *testing.T) {
	source, err := os.ReadFile("events.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^\t(\w+) += &Event\{"`).FindAllStringSubmatch(string(source), -1)
	if len(declared) != len(Events) {
		t.Errorf("%d events are declared, %d are in the list", len(declared), len(Events))
	}
	used := map[string]bool{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, use := range regexp.MustCompile(`journal\.([A-Z]\w+)`).FindAllStringSubmatch(string(b), -1) {
			used[use[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range declared {
		if !used[d[1]] {
			t.Errorf("journal.%s is in no line", d[1])
		}
	}
}

// journald listens as the journal does, and gives each datagram as its fields.
func journald(t *testing.T) (path string, next func() map[string]string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return path, func() map[string]string {
		t.Helper()
		b := make([]byte, 1<<20)
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return parsed(t, b[:n])
	}
}

// parsed reads the native protocol as journald does.
func parsed(t *testing.T, b []byte) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		name, value, short := strings.Cut(string(line), "=")
		if !short {
			size := binary.LittleEndian.Uint64(rest)
			value, rest = string(rest[8:8+size]), rest[8+size:]
			if rest[0] != '\n' {
				t.Fatalf("%s has another length than it says", name)
			}
			rest = rest[1:]
		}
		if _, twice := fields[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		fields[name], b = value, rest
	}
	return fields
}

func native(path string) *slog.Logger {
	d := &datagrams{path: path}
	return slog.New(&handler{level: slog.LevelInfo, write: d.send})
}

func TestALineHasItsFieldsInTheJournal(t *testing.T) {
	path, next := journald(t)
	log := native(path)
	log.With("uid", 1000).WithGroup("a").Warn("a scan was refused", Key, ScanRefused, "job", "abc", "why", errors.New("two words"), slog.Group("b", "c", 1))
	want := map[string]string{"MESSAGE": `a scan was refused uid=1000 a_job=abc a_why="two words" a_b_c=1`, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "secmcpd",
		"MESSAGE_ID": ScanRefused.ID, "SECMCPD_EVENT": "scan_refused", "SECMCPD_UID": "1000", "SECMCPD_A_JOB": "abc", "SECMCPD_A_WHY": "two words", "SECMCPD_A_B_C": "1"}
	if diff := cmp.Diff(want, next()); diff != "" {
		t.Error(diff)
	}
	log.Debug("below its level")
	log.Info("nothing more")
	if got := next()["MESSAGE"]; got != "nothing more" {
		t.Errorf("got %q", got)
	}
}

// Whatever a value is, it is one field, of bounded size, and makes no other.
func TestAValueIsNoOtherField(t *testing.T) {
	path, next := journald(t)
	log := native(path)
	for _, value := range []string{"x\nMESSAGE_ID=00000000000000000000000000000000\nPRIORITY=0\n", "x\n_UID=0", "=", "", "\x00\x01\xff", strings.Repeat("é\n", 4096),
		"MESSAGE\n\x05\x00\x00\x00\x00\x00\x00\x00hello\n"} {
		log.Error("a line", "job", value, "x\nMESSAGE_ID", "y", "_uid", "0", strings.Repeat("k", 200), "z")
		got := next()
		names := map[string]bool{"MESSAGE": true, "PRIORITY": true, "SYSLOG_IDENTIFIER": true, "SECMCPD_JOB": true, "SECMCPD_X_MESSAGE_ID": true, "SECMCPD__UID": true,
			"SECMCPD_" + strings.Repeat("K", 56): true}
		for name, v := range got {
			if !names[name] || len(v) > maxMessage {
				t.Errorf("%.20q makes the field %s (%d bytes)", value, name, len(v))
			}
		}
		if len(got) != len(names) || got["PRIORITY"] != "3" || strings.Contains(got["MESSAGE"], "\n") || len(got["SECMCPD_JOB"]) > maxValue {
			t.Errorf("%.20q: %q", value, got)
		}
	}
	var many []any
	for i := range 500 {
		many = append(many, fmt.Sprint("k", i), strings.Repeat("v", 5000))
	}
	log.Info("a long line", many...)
	if got := next(); len(got) != maxFields+3 || len(got["MESSAGE"]) > maxMessage {
		t.Errorf("%d fields, a message of %d bytes", len(got), len(got["MESSAGE"]))
	}
}

// A journal that takes nothing is not waited for, and one that was restarted is found again.
func TestTheDaemonDoesNotWaitForTheJournal(t *testing.T) {
	path, _ := journald(t)
	d := &datagrams{path: path}
	began := time.Now()
	var err error
	lost := 0
	for range 2000 { // nobody reads
		if err = d.send(entry{message: strings.Repeat("x", 1000)}); err != nil {
			lost++
		}
		if lost == 100 {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > 5*sendTimeout {
		t.Errorf("%d lost after %s: %v", lost, time.Since(began), err)
	}
	again, next := journald(t)
	d.path = again
	if err := d.send(entry{message: "here"}); err != nil {
		t.Fatal(err)
	}
	if got := next(); got["MESSAGE"] != "here" || got["SECMCPD_LOST"] != "100" {
		t.Errorf("got %q", got)
	}
}

func TestLinesHaveTheirPriority(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(&handler{level: slog.LevelDebug, write: lines(&out)})
	log.Debug("one")
	log.Info("two\nlines", "a", "b\n<0>c")
	log.Warn("three", Key, FrontLost)
	log.Error("four", "n", 4)
	want := "<7>one\n<6>two lines a=\"b\\n<0>c\"\n<4>three event=front_lost\n<3>four n=4\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutAJournalALogIsTextOrJSON(t *testing.T) {
	for format, want := range map[string]string{
		Auto: `level=WARN msg="the front was lost" event=front_lost n=1`,
		Text: `level=WARN msg="the front was lost" event=front_lost n=1`,
		JSON: `"level":"WARN","msg":"the front was lost","event":"front_lost","n":1}`,
	} {
		var out bytes.Buffer
		log := New(&out, Level("warn"), format)
		log.Info("not this")
		log.Warn("the front was lost", Key, FrontLost, "n", 1)
		if got := strings.TrimSpace(out.String()); !strings.HasSuffix(got, want) || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%s: %s", format, got)
		}
		out.Reset()
		log.Warn("long", "text", strings.Repeat("x", 2*maxValue), "why", errors.New(strings.Repeat("y", 2*maxValue)))
		if n := out.Len(); n < 2*maxValue || n > 2*maxValue+200 {
			t.Errorf("%s: long values make a line of %d bytes", format, n)
		}
	}
}

// Who has the daemon say something again and again neither fills the log nor hides what others look for.
func TestWhatIsSaidTooOftenIsLeftOutAndCounted(t *testing.T) {
	var out bytes.Buffer
	h := newSparing(handlerOf(&out, slog.LevelInfo, Text))
	now := time.Now()
	h.said.now = func() time.Time { return now }
	log := slog.New(h)
	for i := range 10000 {
		log.With("room", "launcher").Warn("client refused", "n", i)
		if i%1000 == 0 {
			log.Error("a scanner sent to what its scope does not have", Key, ScopeViolation)
			log.Error("something else", "n", i)
		}
	}
	now = now.Add(time.Second)
	log.Warn("client refused")
	for text, want := range map[string]int{"client refused": sameBurst + 1, ScopeViolation.Name: 10, "something else": 10, "left_out=9940": 1} {
		if got := strings.Count(out.String(), text); got != want {
			t.Errorf("%q is there %d times, want %d", text, got, want)
		}
	}
	for i := range 10 * maxMessages {
		log.Info(fmt.Sprint("message ", i))
	}
	if len(h.said.each) > maxMessages {
		t.Errorf("%d messages are told apart", len(h.said.each))
	}
}
