package observability

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("AUDIT_WRITER"); dir != "" {
		writeForEver(dir, os.Getenv("AUDIT_KILLED_AFTER"))
	}
	os.Exit(m.Run())
}

func open(t *testing.T, dir string) *Audit {
	t.Helper()
	a, err := OpenAudit(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// openSmall opens a log that rotates early and keeps little.
func openSmall(dir string) (*Audit, error) {
	return openAudit(&Audit{dir: dir, now: time.Now, rotateAt: 2000, reserve: 32 << 10})
}

func fill(t *testing.T, a *Audit, n int) {
	t.Helper()
	for i := range n {
		if err := a.Append(Record{Event: Asked, Job: fmt.Sprint("job-", i), Caller: &Caller{UID: 1000}, Targets: []string{"10.0.0.1"}}); err != nil {
			t.Fatal(err)
		}
	}
}

func verify(t *testing.T, dir string, records uint64) {
	t.Helper()
	s, err := VerifyAudit(dir)
	if err != nil || s.Records != records {
		t.Errorf("%v, %v; want %d records", s, err, records)
	}
}

func TestTheChainGoesOnAfterAReopen(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		a := open(t, dir)
		fill(t, a, 4)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	verify(t, dir, 12)
}

func TestTwoLaunchersCannotWriteOneLog(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if a, err := OpenAudit(dir, time.Now); err == nil {
		a.Close()
		t.Error("the second one opened it")
	}
}

// Each kind of tampering is told by file, line and record of the first thing that is wrong. Each file
// of the log has five records, of fifteen in all.
func TestVerifyNamesTheFirstThingThatIsWrong(t *testing.T) {
	const first, second = "audit-00000000000000000001.jsonl", "audit-00000000000000000006.jsonl"
	whole := t.TempDir()
	a := open(t, whole)
	for i := range 15 {
		a.rotateAt = rotateAt
		if i == 5 || i == 10 {
			a.rotateAt = 1
		}
		fill(t, a, 1)
	}
	a.Close()
	other := t.TempDir() // another log, of the same size
	b := open(t, other)
	fill(t, b, 15)
	b.Close()
	lines := func(dir string, from, to int) []byte { // by the records' numbers
		var all []byte
		for _, name := range []string{first, second, current} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		return bytes.Join(bytes.SplitAfter(all, []byte("\n"))[from-1:to], nil)
	}
	part := func(from, to int) []byte { return lines(whole, from, to) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	put := func(name string, parts ...[]byte) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), join(parts...), 0o640) }
	}
	gone := func(names ...string) func(string) error {
		return func(dir string) (err error) {
			for _, name := range names {
				err = errors.Join(err, os.Remove(filepath.Join(dir, name)))
			}
			return err
		}
	}
	pipe := func(name string) func(string) error {
		return func(dir string) error {
			_ = os.Remove(filepath.Join(dir, name))
			return unix.Mkfifo(filepath.Join(dir, name), 0o600)
		}
	}
	renamed := func(from, to string) func(string) error {
		return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	}
	// follow is a record that continues the chain after another, as a forger would make it.
	follow := func(after int) []byte {
		var r Record
		if err := json.Unmarshal(part(after, after), &r); err != nil {
			t.Fatal(err)
		}
		r.Seq, r.Prev, r.Job = r.Seq+1, r.Hash, "forged"
		line, err := r.seal()
		if err != nil {
			t.Fatal(err)
		}
		return append(line, '\n')
	}
	edited := func(n int) []byte { return bytes.Replace(part(n, n), []byte("10.0.0.1"), []byte("10.0.0.2"), 1) }
	hash := func(n int) string {
		var r Record
		if err := json.Unmarshal(part(n, n), &r); err != nil {
			t.Fatal(err)
		}
		return r.Hash
	}
	const notAll = "the launcher found the log tampered with when it was started: what is before this record is not all that was written"
	for _, c := range []struct {
		says string
		do   func(dir string) error
		want string // the message, without the directory
	}{
		{"nothing was done", put(current, part(11, 15)), ""},
		{"the head is an older one", put(head, fmt.Appendf(nil, "12 %s\n", hash(12))), ""},

		{"the first record is changed", put(first, edited(1), part(2, 5)), first + ":1: record 1: changed since it was written: its hash differs"},
		{"one in the middle is changed", put(second, part(6, 7), edited(8), part(9, 10)), second + ":3: record 8: changed since it was written: its hash differs"},
		{"the last record is changed", put(current, part(11, 14), edited(15)), current + ":5: record 15: changed since it was written: its hash differs"},
		{"of two changed records the first is named", put(second, part(6, 6), edited(7), part(8, 8), edited(9), part(10, 10)), second + ":2: record 7: changed since it was written: its hash differs"},
		{"a record is written anew, with its hash", put(second, part(6, 7), follow(7), part(9, 10)), second + ":4: record 9: it does not follow record 8: one of the two was written anew or put in"},
		{"the last of a file is written anew, with its hash", put(first, part(1, 4), follow(4)), second + ":1: record 6: it does not follow record 5: its file was replaced, or the one before was written anew"},
		{"the last of all is written anew, with its hash", put(current, part(11, 14), follow(14)), current + ":5: record 15: not the one that audit.head names: it was written anew, with all that follows"},

		{"a record is gone", put(second, part(6, 7), part(9, 10)), second + ":3: record 8: missing: record 9 follows record 7"},
		{"three are gone", put(second, part(6, 6), part(10, 10)), second + ":2: record 7: missing, with those up to 9: record 10 follows record 6"},
		{"the first of the log is gone", put(first, part(2, 5)), first + ":1: record 1: missing: the log begins with record 2, what was before this file is gone"},
		{"the first of a file is gone", put(second, part(7, 10)), second + ":1: record 6: missing: its file begins with record 7"},
		{"the last of a file is gone", put(second, part(6, 9)), current + ":1: record 10: missing: the end of " + second + " was cut off, or a file after it is gone"},
		{"the last of all is gone", put(current, part(11, 14)), current + ":5: record 15: missing: audit.head names record 15, and the log ends with record 14: its end was cut off"},
		{"the last three are gone", put(current, part(11, 12)), current + ":3: record 13: missing: audit.head names record 15, and the log ends with record 12: its end was cut off"},

		{"two are exchanged", put(second, part(6, 6), part(8, 8), part(7, 7), part(9, 10)), second + ":2: record 7: out of its order: it stands at " + second + ":3, and here is record 8"},
		{"one stands in a later file", func(dir string) error {
			return errors.Join(put(second, part(6, 7), part(9, 10))(dir), put(current, part(11, 12), part(8, 8), part(13, 15))(dir))
		}, second + ":3: record 8: out of its order: it stands at " + current + ":3, and here is record 9"},
		{"one stands twice", put(second, part(6, 7), part(7, 10)), second + ":3: record 7: it stands here twice"},
		{"one stands again, later", put(current, part(11, 13), part(8, 8), part(14, 15)), current + ":4: record 8: it stands here again, after record 13"},
		{"a file is there twice", func(dir string) error { return put("audit-00000000000000000007.jsonl", part(6, 10))(dir) }, "audit-00000000000000000007.jsonl:1: record 6: it stands here again, after record 10"},

		{"a forged record is put in", put(second, part(6, 7), follow(7), part(8, 10)), second + ":4: record 8: it stands here twice, and differs: one of the two was put in"},
		{"a forged record is put at the end of a file", put(second, part(6, 10), follow(10)), current + ":1: record 11: it stands here twice, and differs: one of the two was put in"},
		{"a record of another log is put in", put(second, part(6, 7), lines(other, 8, 8), part(8, 10)), second + ":3: record 8: it does not follow record 7: one of the two was written anew or put in"},
		{"a line of something else is put in", put(second, part(6, 7), []byte("{}\n"), part(8, 10)), second + ":3: record 8: changed since it was written: its hash differs"},
		{"a line that is no record is put in", put(second, part(6, 7), []byte("nothing\n"), part(8, 10)), second + ":3: record 8: what stands here is no record"},
		{"an empty line is put in", put(second, part(6, 7), []byte("\n"), part(8, 10)), second + ":3: record 8: what stands here is no record"},
		{"a line without an end is put in", put(second, part(6, 7), bytes.Repeat([]byte("x"), 1<<20)), second + ":3: record 8: longer than any record"},

		{"a record is cut in its file", put(second, part(6, 9), part(10, 10)[:40]), second + ":5: record 10: cut off in the middle"},
		{"a file's last newline is gone", put(second, bytes.TrimSuffix(part(6, 10), []byte("\n"))), second + ":5: record 10: cut off in the middle"},
		{"the last record is cut", put(current, part(11, 14), part(15, 15)[:40]), current + ":5: record 15: cut off in the middle"},
		{"a file is empty", put(second), current + ":1: record 6: missing, with those up to 10: the end of " + second + " was cut off, or a file after it is gone"},

		{"the first file is gone", gone(first), second + ":1: record 1: missing, with those up to 5: the log begins with record 6, what was before this file is gone"},
		{"the file in the middle is gone", gone(second), current + ":1: record 6: missing, with those up to 10: " + second + " is gone"},
		{"the last file is gone", gone(current), current + ": record 11: missing: audit.head names record 15, and the log ends with record 10: its end was cut off, with this file"},
		{"all files are gone", gone(first, second, current), current + ": record 1: missing: audit.head names record 15, and the log ends with record 0: its end was cut off, with this file"},
		{"the last file is empty", put(current), current + ": record 11: missing: audit.head names record 15, and the log ends with record 10: its end was cut off"},
		{"the first file is another log's", put(first, lines(other, 1, 5)), second + ":1: record 6: it does not follow record 5: its file was replaced, or the one before was written anew"},
		{"the file in the middle is another log's", put(second, lines(other, 6, 10)), second + ":1: record 6: it does not follow record 5: its file was replaced, or the one before was written anew"},
		{"the last file is another log's", put(current, lines(other, 11, 15)), current + ":1: record 11: it does not follow record 10: its file was replaced, or the one before was written anew"},
		{"two files have exchanged their names", func(dir string) error {
			return errors.Join(renamed(first, "x")(dir), renamed(second, first)(dir), renamed("x", second)(dir))
		}, first + ":1: record 1: out of its order: it stands at " + second + ":1, and here is record 6"},
		{"a file has another name", renamed(second, "audit-00000000000000000007.jsonl"), "audit-00000000000000000007.jsonl:1: record 6: the name of its file is of another record"},

		{"a pipe is there as the first file", pipe("audit-00000000000000000000.jsonl"), "audit-00000000000000000000.jsonl: it is no regular file"},
		{"a directory is there as a file", func(dir string) error { return os.Mkdir(filepath.Join(dir, "audit-00000000000000000011.jsonl"), 0o700) }, "audit-00000000000000000011.jsonl: it is no regular file"},
		{"the last file is a pipe", pipe(current), current + ": it is no regular file"},
		{"the head is a pipe", pipe(head), head + ": it is no regular file"},
		{"the head is gone", gone(head), head + ": it is gone, so nothing says that the log has its end"},
		{"the head is empty", put(head), head + ": it names no record, so nothing says that the log has its end"},
		{"the head is something else", put(head, []byte("nothing")), head + ": it names no record, so nothing says that the log has its end"},
		{"both slots of the head are damaged", func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, head))
			return errors.Join(err, put(head, bytes.ReplaceAll(b, []byte("15 "), []byte("13 ")), nil)(dir), put(head, bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("15 "), []byte("13 ")), []byte("14 "), []byte("13 ")))(dir))
		}, head + ": it names no record, so nothing says that the log has its end"},
		{"the head names another record by its number", put(head, fmt.Appendf(nil, "12 %s\n", hash(13))), current + ":2: record 12: not the one that audit.head names: it was written anew, with all that follows"},
		{"the head names a record that is to come", put(head, slotText(1, 99, hash(15)), slotText(2, 99, hash(15))), current + ":6: record 16: missing: audit.head names record 99, and the log ends with record 15: its end was cut off"},
		{"the head says that there is nothing", put(head, []byte("0 \n")), ""}, // as a crash could have left it

		{"the end was cut off before a start", func(dir string) error {
			if err := put(current, part(11, 14))(dir); err != nil {
				return err
			}
			a, err := OpenAudit(dir, time.Now)
			if err != nil {
				return err
			}
			return a.Close()
		}, current + ":5: record 15: " + notAll},
	} {
		t.Run(c.says, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.CopyFS(dir, os.DirFS(whole)), c.do(dir)); err != nil {
				t.Fatal(err)
			}
			size, err := os.Stat(filepath.Join(whole, first))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if _, err := verifyAudit(dir, size.Size()); err != nil {
				got = strings.ReplaceAll(err.Error(), dir+"/", "")
			}
			if got != c.want {
				t.Errorf("got:  %s\nwant: %s", got, c.want)
			}
		})
	}
}

func TestEveryChangeIsFound(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	fill(t, a, 5)
	a.Close()
	whole, err := os.ReadFile(filepath.Join(dir, current))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n"))
	join := func(order ...int) []byte {
		var out []byte
		for _, i := range order {
			out = append(out, bytes.TrimSuffix(lines[i], []byte("\n"))...)
			out = append(out, '\n')
		}
		return out
	}
	for says, changed := range map[string][]byte{
		"the first record is gone":     join(1, 2, 3, 4),
		"one in the middle is gone":    join(0, 1, 3, 4),
		"the last one is gone":         join(0, 1, 2, 3),
		"all are gone":                 nil,
		"two are exchanged":            join(0, 2, 1, 3, 4),
		"one is there twice":           join(0, 1, 1, 2, 3, 4),
		"a space is added":             bytes.Replace(whole, []byte(`"event"`), []byte(` "event"`), 1),
		"a field is added":             bytes.Replace(whole, []byte(`"event"`), []byte(`"extra":1,"event"`), 1),
		"a key is written in capitals": bytes.Replace(whole, []byte(`"event"`), []byte(`"Event"`), 1),
		"a line is added":              append(bytes.Clone(whole), []byte("{}\n")...),
		"the last newline is gone":     bytes.TrimSuffix(whole, []byte("\n")),
		"the last one is another":      append(join(0, 1, 2, 3), forged(t, lines[4])...),
	} {
		if err := os.WriteFile(filepath.Join(dir, current), changed, 0o640); err != nil {
			t.Fatal(err)
		}
		if s, err := VerifyAudit(dir); err == nil {
			t.Errorf("%s: %v", says, s)
		}
	}
	for i := range whole {
		changed := bytes.Clone(whole)
		changed[i] ^= 1
		if err := os.WriteFile(filepath.Join(dir, current), changed, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyAudit(dir); err == nil {
			t.Errorf("byte %d (%q) can be changed", i, whole[i])
		}
	}
}

// forged is a record with another job, and with the hash that it has to have.
func forged(t *testing.T, line []byte) []byte {
	t.Helper()
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		t.Fatal(err)
	}
	r.Job = "another"
	line, err := r.seal()
	if err != nil {
		t.Fatal(err)
	}
	return append(line, '\n')
}

// What was done to a log while nobody had it open is on the record from the next start on,
// and stays there: no later start makes the log look whole again.
func TestTamperingIsNeverWhitewashed(t *testing.T) {
	nothing := func([]byte) []byte { return nil }
	same := func(b []byte) []byte { return b }
	for says, c := range map[string]struct {
		log, head func([]byte) []byte
		want      string // of the reason; empty: the log is not opened at all
	}{
		"the last record is gone":          {firstLines(4), same, "found that the log ends with record 4 "},
		"three are gone":                   {firstLines(2), same, "expected record 5 "},
		"all are gone":                     {nothing, same, "the log ends with record 0 "},
		"all are gone, with the head":      {nothing, nil, "found none"},
		"the file is gone":                 {nil, same, "the log ends with record 0 "},
		"the last newline is gone":         {func(b []byte) []byte { return bytes.TrimSuffix(b, []byte("\n")) }, same, "its end was cut off"},
		"the last record is cut":           {func(b []byte) []byte { return b[:len(b)-20] }, same, "its end was cut off"},
		"the last record is written anew":  {func(b []byte) []byte { return append(firstLines(4)(b), forged(t, b[len(firstLines(4)(b)):])...) }, same, "the end was written anew"},
		"the head is gone":                 {same, nil, "found none"},
		"the head is empty":                {same, nothing, "found something else"},
		"the head is another":              {same, func([]byte) []byte { return []byte("5 00\n") }, "expected record 5 (00)"},
		"the head is ahead":                {same, func([]byte) []byte { return []byte("6 00\n") }, "expected record 6 (00)"},
		"an earlier head has another hash": {same, func([]byte) []byte { return []byte("3 00\n") }, "expected record 3 (00)"},
		"the last record is changed":       {func(b []byte) []byte { return bytes.Replace(b, []byte("job-4"), []byte("job-9"), 1) }, same, ""},
	} {
		t.Run(says, func(t *testing.T) {
			dir := t.TempDir()
			a := open(t, dir)
			fill(t, a, 5)
			a.Close()
			change(t, filepath.Join(dir, current), c.log)
			change(t, filepath.Join(dir, head), c.head)
			if s, err := VerifyAudit(dir); err == nil {
				t.Errorf("before the start it verifies: %v", s)
			}
			a, err := OpenAudit(dir, time.Now)
			if c.want == "" {
				if err == nil {
					a.Close()
					t.Error("it was opened")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(a.Tampered(), c.want) {
				t.Errorf("at the start it says %q", a.Tampered())
			}
			fill(t, a, 1)
			a.Close()
			if a := open(t, dir); a.Tampered() != "" {
				t.Errorf("it is told of again: %s", a.Tampered())
			}
			if s, err := VerifyAudit(dir); err == nil || !strings.Contains(err.Error(), "tampered with") {
				t.Errorf("after the start: %v, %v", s, err)
			}
			if b, _ := os.ReadFile(filepath.Join(dir, current)); !bytes.Contains(b, []byte(`"event":"tampered"`)) {
				t.Errorf("the log does not say so:\n%s", b)
			}
		})
	}
}

func firstLines(n int) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Join(bytes.SplitAfter(b, []byte("\n"))[:n], nil) }
}

// change rewrites a file; without a function it is taken away.
func change(t *testing.T, path string, by func([]byte) []byte) {
	t.Helper()
	if by == nil {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, by(b), 0o640)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Every moment at which a writer can be killed: each byte of a record, of the head that is to
// replace the old one, and each step of a rotation. None of them looks like tampering, and none
// loses what was answered before.
func TestAKillAtAnyStepIsNoTampering(t *testing.T) {
	for _, records := range []int{0, 1, 5} {
		before, after := t.TempDir(), t.TempDir()
		a := open(t, before)
		fill(t, a, records)
		a.Close()
		if err := os.CopyFS(after, os.DirFS(before)); err != nil {
			t.Fatal(err)
		}
		a = open(t, after)
		fill(t, a, 1)
		a.Close()
		read := func(dir, name string) []byte {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		log, line := read(before, current), bytes.TrimPrefix(read(after, current), read(before, current))
		was, is := read(before, head), read(after, head)
		for n := range len(line) + 1 {
			killed(t, fmt.Sprintf("after %d records, %d bytes of the next", records, n), records, map[string][]byte{
				current: append(bytes.Clone(log), line[:n]...), head: was})
		}
		for n := 0; n <= 160; n += 4 { // it is blank from there on; which of the two slots it is does not matter
			torn := bytes.Clone(was)
			copy(torn[slotSize:], is[slotSize:][:n])
			killed(t, fmt.Sprintf("after %d records, %d bytes of the head", records, n), records+1, map[string][]byte{current: read(after, current), head: torn})
			copy(torn, is[:n])
			copy(torn[slotSize:], was[slotSize:])
			killed(t, fmt.Sprintf("after %d records, %d bytes of the head", records, n), records+1, map[string][]byte{current: read(after, current), head: torn})
		}
		first := slotText(1, 0, "")
		first = append(bytes.Repeat([]byte(" "), slotSize), first...)
		killed(t, "before the first head", 0, map[string][]byte{head + ".new": []byte("0")})
		killed(t, "before the first file", 0, map[string][]byte{head: first})
		killed(t, "before the first record", 0, map[string][]byte{head: first, current: nil})
		killed(t, "with an older head than the last", records+1, map[string][]byte{current: read(after, current), head: first})
		killed(t, "by an earlier version, before the first record", 0, map[string][]byte{head: []byte("0 \n"), current: nil})
		killed(t, "by an earlier version", records+1, map[string][]byte{current: read(after, current), head: []byte("0 \n"), head + ".new": []byte("1")})
		if records > 0 {
			old := "audit-00000000000000000001.jsonl"
			killed(t, "in a rotation, before it", records, map[string][]byte{current: log, current + ".new": nil, head: was})
			killed(t, "in a rotation, between", records, map[string][]byte{old: log, current + ".new": nil, head: was})
			killed(t, "in a rotation, after it", records, map[string][]byte{old: log, current: nil, head: was})
			killed(t, "in a rotation, in the next record", records, map[string][]byte{old: log, current: line[:20], head: was})
			killed(t, "in a rotation, before the next head", records+1, map[string][]byte{old: log, current: line, head: was})
		}
	}
}

// killed opens a log as it was left.
func killed(t *testing.T, says string, atLeast int, files map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	a, err := OpenAudit(dir, time.Now)
	if err != nil {
		t.Fatalf("killed %s: %v", says, err)
	}
	defer a.Close()
	if a.Tampered() != "" || a.seq < uint64(atLeast) {
		t.Errorf("killed %s: %d records, %s", says, a.seq, a.Tampered())
	}
	fill(t, a, 1)
	if s, err := VerifyAudit(dir); err != nil {
		t.Errorf("killed %s: %v, %v", says, s, err)
	}
}

func TestATornRecordIsCutOffAndTold(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	fill(t, a, 3)
	a.Close()
	f, err := os.OpenFile(filepath.Join(dir, current), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":4,"time":"20`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	open(t, dir)
	verify(t, dir, 4)
	b, _ := os.ReadFile(filepath.Join(dir, current))
	if !strings.Contains(string(b), `"event":"recovered","bytes":19`) {
		t.Errorf("the log does not tell of it:\n%s", b)
	}
}

func TestADamagedLogIsNotContinued(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	fill(t, a, 3)
	a.Close()
	path := filepath.Join(dir, current)
	b, _ := os.ReadFile(path)
	if err := os.WriteFile(path, bytes.Replace(b, []byte("job-1"), []byte("job-9"), 1), 0o640); err != nil {
		t.Fatal(err)
	}
	if a, err := OpenAudit(dir, time.Now); err == nil {
		a.Close()
		t.Error("a log with a changed record was opened")
	}
}

func TestRotationKeepsTheChain(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	a.rotateAt = 1000
	fill(t, a, 40)
	a.Close()
	if files, _ := auditFiles(dir); len(files) < 5 {
		t.Errorf("only %v", files)
	}
	verify(t, dir, 40)
	a = open(t, dir)
	fill(t, a, 1)
	verify(t, dir, 41)
}

// disks are small file systems, made for a test.
var disks = map[string]func(t *testing.T, dir string){
	"tmpfs": func(t *testing.T, dir string) { mount(t, "tmpfs", dir, "tmpfs", "size=8m") },
	"ext4":  func(t *testing.T, dir string) { image(t, dir, "24M", "mkfs.ext4", "-q", "-m", "0") },
	"xfs":   func(t *testing.T, dir string) { image(t, dir, "300M", "mkfs.xfs", "-q") },
	"btrfs": func(t *testing.T, dir string) { image(t, dir, "120M", "mkfs.btrfs", "-q", "-m", "single") },
}

func image(t *testing.T, dir, size string, mkfs ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image")
	for _, args := range [][]string{{"truncate", "-s", size, file}, append(mkfs, file), {"mount", "-o", "loop", file, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("this test needs root and loop devices: %v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func mount(t *testing.T, source, dir, kind, data string) {
	t.Helper()
	if err := unix.Mount(source, dir, kind, 0, data); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// fillDisk takes what is left of a file system, to the last byte and inode, as another writer would.
func fillDisk(t *testing.T, dir string) (empty func()) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	if err := os.Mkdir(ballast, 0o700); err != nil {
		t.Fatal(err)
	}
	for n, size := 0, 1<<20; size > 0; n++ {
		f, err := os.Create(filepath.Join(ballast, fmt.Sprint(n)))
		if err != nil {
			break // no inode is left, or no space for a name
		}
		written, err := f.Write(make([]byte, size))
		if err == nil {
			err = f.Sync() // what was only promised is found out
		}
		f.Close()
		if err != nil && written < size {
			size /= 2
		}
	}
	return func() {
		if err := os.RemoveAll(ballast); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever fills the disk that the log is on, the ends of what runs are recorded: the log has its
// space for them already. Nothing new is begun, and all goes on when there is space again.
func TestAFullDiskTakesNothingFromTheReserve(t *testing.T) {
	for name, disk := range disks {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			disk(t, dir)
			log := filepath.Join(dir, "audit")
			a := open(t, log)
			fill(t, a, 3)
			empty := fillDisk(t, dir)
			records := uint64(3)
			var err error
			for err == nil {
				// XFS and btrfs say that something is free which cannot be had, so that what is kept
				// beyond the reserve is used up first.
				if err = a.Append(Record{Event: Launched, Reason: strings.Repeat("x", 900)}); err == nil {
					records++
				}
				if records > 3+heldAhead/900 {
					t.Fatal("on a full disk launches are recorded without an end")
				}
			}
			if !noSpace(err) {
				t.Fatalf("on a full disk a launch is answered with %v", err)
			}
			if left := a.State().Reserved; left < Reserve {
				t.Errorf("what was refused took from the reserve: %d bytes of %d are left", left, Reserve)
			}
			// A launcher that is started now has to say so, and finds what its predecessor kept.
			a.Close()
			a = open(t, log)
			ends := 0
			for range 256 {
				for _, event := range []Event{ScopeViolation, Done} {
					if err := a.Note(Record{Event: event, Reason: strings.Repeat("x", 1000), Rule: strings.Repeat("x", 1000), Stage: strings.Repeat("x", 1000)}); err != nil {
						t.Fatalf("after %d records on a full disk: %v", ends, err)
					}
					ends++
				}
			}
			if s := a.State(); s.Waiting+s.Lost > 0 {
				t.Errorf("%d records wait, %d are lost", s.Waiting, s.Lost)
			}
			if s, err := VerifyAudit(log); err != nil || s.Records != records+512 {
				t.Errorf("while the disk is full: %v, %v; %d were written", s, err, records+512)
			}
			empty()
			if err := a.Append(Record{Event: Launched}); err != nil {
				t.Fatalf("with space again: %v", err)
			}
			if left := a.State().Reserved; left < Reserve {
				t.Errorf("the reserve is not whole again: %d bytes", left)
			}
			verify(t, log, records+513)
		})
	}
}

// A log that would be put aside while the disk is full goes on in its file, and is put aside later.
func TestAFullDiskPutsARotationOff(t *testing.T) {
	for name, disk := range disks {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			disk(t, dir)
			log := filepath.Join(dir, "audit")
			a, err := openSmall(log)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			fill(t, a, 1)
			empty := fillDisk(t, dir)
			for range 20 {
				if err := a.Note(Record{Event: Done, Reason: strings.Repeat("x", 500)}); err != nil {
					t.Fatal(err)
				}
			}
			if files, _ := auditFiles(log); len(files) != 1 {
				t.Errorf("on a full disk there are %v", files)
			}
			empty()
			fill(t, a, 1)
			if files, _ := auditFiles(log); len(files) != 2 {
				t.Errorf("with space again there are %v", files)
			}
			verify(t, log, 22)
		})
	}
}

// What happened while the log could not be written is written first when it can be again, in
// order and with its time; what was refused meanwhile is not there.
func TestWhatHappenedWaitsForAFullDisk(t *testing.T) {
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "tmpfs", "size=2m")
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	a, err := openAudit(&Audit{dir: dir, now: func() time.Time { at = at.Add(time.Second); return at }, rotateAt: rotateAt, reserve: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	fill(t, a, 1)
	empty := fillDisk(t, dir)
	long := make([]string, MaxList) // 16 KiB a record: the reserve is soon used up
	for i := range long {
		long[i] = strings.Repeat("a", 250)
	}
	written := 0
	for ; a.Note(Record{Event: Done, Job: "first", Targets: long}) == nil; written++ {
		if written == 1000 {
			t.Fatal("the disk was not full")
		}
	}
	if err := a.Append(Record{Event: Launched, Job: "refused"}); err == nil {
		t.Error("something was launched while a record waited")
	}
	if err := a.Note(Record{Event: Done, Job: "second"}); err == nil {
		t.Error("a record was written before the one that waits")
	}
	if err := a.Flush(); err == nil {
		t.Error("it says that nothing waits")
	}
	for range maxPending + 5 - 2 {
		_ = a.Note(Record{Event: Denied}) // waits or is counted, as the others
	}
	empty()
	if err := a.Append(Record{Event: Launched, Job: "third"}); err != nil {
		t.Fatal(err)
	}
	if err := a.Flush(); err != nil {
		t.Error(err)
	}
	verify(t, dir, uint64(1+written+maxPending+2))
	b, err := os.ReadFile(filepath.Join(dir, current))
	if err != nil {
		t.Fatal(err)
	}
	var got []Record
	for line := range bytes.Lines(b) {
		var r Record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		if len(got) > 0 && r.Time.Before(got[len(got)-1].Time) {
			t.Errorf("record %d is earlier than the one before it", r.Seq)
		}
		got = append(got, r)
	}
	last := len(got) - 1
	got = got[written:]
	last -= written
	if got[1].Job != "first" || got[2].Job != "second" || got[last-1].Event != Lost || got[last-1].Records != 5 || got[last].Job != "third" {
		t.Errorf("in the log: %+v, %+v … %+v, %+v", got[1], got[2], got[last-1], got[last])
	}
}

func TestLongListsAreCutAndCounted(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	long := make([]string, 5000)
	for i := range long {
		long[i] = strings.Repeat("a", 1000) + "\xff"
	}
	if err := a.Append(Record{Event: Launched, Argv: long, Words: len(long), Addresses: long, Targets: long, Reason: strings.Repeat("r", 1<<20)}); err != nil {
		t.Fatal(err)
	}
	verify(t, dir, 1)
}

// A writer that is killed at any moment leaves a log that opens, verifies and goes on.
func TestKilledWritersLoseNothingThatWasAnswered(t *testing.T) {
	dir := t.TempDir()
	before := uint64(0)
	for i := range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "AUDIT_WRITER="+dir)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(5+i) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		a := open(t, dir)
		answered := uint64(strings.Count(out.String(), "\n"))
		if a.Tampered() != "" {
			t.Fatalf("a kill is told as tampering: %s", a.Tampered())
		}
		if a.seq < before+answered {
			t.Fatalf("%d answered after %d, %d in the log", answered, before, a.seq)
		}
		before = a.seq
		a.Close()
	}
	if s, err := VerifyAudit(dir); err != nil {
		t.Errorf("%v, %v", s, err)
	}
}

// A writer that is killed after any of its steps, those of a rotation among them, leaves a log that
// opens, verifies and goes on.
func TestAKillAfterAnyStepIsNoTampering(t *testing.T) {
	for _, step := range []string{"the line", "its sync", "the head", "the next file", "the full file's new name", "the next file's name"} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			for range 3 {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "AUDIT_WRITER="+dir, "AUDIT_KILLED_AFTER="+step)
				out, err := cmd.Output()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
					t.Fatalf("the writer was not killed: %v", err)
				}
				answered := uint64(bytes.Count(out, []byte("\n")))
				a, err := openSmall(dir)
				if err != nil {
					t.Fatal(err)
				}
				if a.Tampered() != "" || a.seq < answered {
					t.Errorf("%d answered, %d in the log; %s", answered, a.seq, a.Tampered())
				}
				fill(t, a, 1)
				a.Close()
				if s, err := VerifyAudit(dir); err != nil {
					t.Errorf("%v, %v", s, err)
				}
			}
		})
	}
}

// A rename that fails in the middle of a rotation refuses what was to be written, and nothing else.
func TestARotationThatFailsIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	a, err := openSmall(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	name := filepath.Join(dir, current)
	a.step = func(after string) {
		if after == "the full file's new name" { // nor can it be taken back while a directory is in the way
			if err := os.Mkdir(name, 0o700); err != nil {
				t.Error(err)
			}
			a.step = nil
		}
	}
	refused := 0
	for range 20 {
		if a.Append(Record{Event: Asked, Reason: strings.Repeat("x", 300)}) != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Fatal("it has not failed")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	fill(t, a, 3)
	verify(t, dir, uint64(20-refused+3))
}

func writeForEver(dir, killedAfter string) {
	a, err := openAudit(&Audit{dir: dir, now: time.Now, rotateAt: 2000, reserve: 32 << 10})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	steps := 0
	a.step = func(after string) {
		// The first rotation of a writer is its first; of the other steps it is the third.
		if steps++; after == killedAfter && (steps > 6 || !strings.HasPrefix(after, "the line") && !strings.HasPrefix(after, "its") && after != "the head") {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	for {
		if err := a.Append(Record{Event: Asked}); err != nil {
			os.Exit(1)
		}
		fmt.Println("answered")
	}
}

// A log is verified while it is written to: what is under way is no tampering.
func TestALogCanBeVerifiedWhileItIsWritten(t *testing.T) {
	dir := t.TempDir()
	a, err := openSmall(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	fill(t, a, 1)
	written := make(chan error, 1)
	go func() {
		for range 300 {
			if err := a.Append(Record{Event: Asked, Reason: strings.Repeat("x", 200)}); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for looks := 0; ; looks++ {
		if s, err := VerifyAudit(dir); err != nil {
			t.Fatalf("after %d looks: %v, %v", looks, s, err)
		}
		select {
		case err := <-written:
			if err != nil || looks == 0 {
				t.Errorf("%v, %d looks", err, looks)
			}
			verify(t, dir, 301)
			return
		default:
		}
	}
}
