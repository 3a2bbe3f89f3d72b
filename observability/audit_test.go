package observability

import (
	"bytes"
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
	for {
		if err := a.Append(Record{Event: Asked}); err != nil {
			os.Exit(1)
		}
		fmt.Println("answered")
	}
}
