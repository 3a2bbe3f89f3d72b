package observability

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("AUDIT_WRITER"); dir != "" {
		writeForEver(dir)
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
		for n := range len(is) + 1 {
			killed(t, fmt.Sprintf("after %d records, %d bytes of the head", records, n), records+1, map[string][]byte{
				current: read(after, current), head: was, head + ".new": is[:n]})
		}
		killed(t, "before the first head", 0, map[string][]byte{head + ".new": []byte("0")})
		killed(t, "before the first file", 0, map[string][]byte{head: []byte("0 \n")})
		killed(t, "before the first record", 0, map[string][]byte{head: []byte("0 \n"), current: nil})
		killed(t, "with an older head than the last", records+1, map[string][]byte{current: read(after, current), head: []byte("0 \n")})
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

func TestAFullDiskRefusesAndRecovers(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	a := open(t, dir)
	fill(t, a, 3)
	ballast := filepath.Join(dir, "ballast")
	_ = os.WriteFile(ballast, make([]byte, 1<<20), 0o600) // fails when all is full: that is its purpose
	refused := 0
	for range 200 {
		if a.Append(Record{Event: Asked, Reason: strings.Repeat("x", 900)}) != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Fatal("the disk was not full")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := a.Append(Record{Event: Asked}); err != nil {
		t.Fatalf("with space again: %v", err)
	}
	s, err := VerifyAudit(dir)
	if err != nil || s.Records != 3+200-uint64(refused)+1 {
		t.Errorf("%v, %v; %d were refused", s, err, refused)
	}
}

// What happened while the log could not be written is written first when it can be again, in
// order and with its time; what was refused meanwhile is not there.
func TestWhatHappenedWaitsForAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	a := open(t, dir)
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	a.now = func() time.Time { at = at.Add(time.Second); return at }
	fill(t, a, 1)
	ballast := filepath.Join(dir, "ballast")
	_ = os.WriteFile(ballast, make([]byte, 1<<20), 0o600) // fails when all is full: that is its purpose
	if err := a.Note(Record{Event: Done, Job: "first"}); err == nil {
		t.Fatal("the disk was not full")
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
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := a.Append(Record{Event: Launched, Job: "third"}); err != nil {
		t.Fatal(err)
	}
	if err := a.Flush(); err != nil {
		t.Error(err)
	}
	verify(t, dir, 1+maxPending+2)
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

func writeForEver(dir string) {
	a, err := OpenAudit(dir, time.Now)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	a.rotateAt = 2000
	for {
		if err := a.Append(Record{Event: Asked}); err != nil {
			os.Exit(1)
		}
		fmt.Println("answered")
	}
}
