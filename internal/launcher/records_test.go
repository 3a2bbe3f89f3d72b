package launcher

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secmcpd/secmcpd/internal/wire"
)

const jobA, jobB = "aaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbb"

func testRecords(t *testing.T) *records {
	t.Helper()
	r, err := openRecords(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestARecordIsThereAfterARestart(t *testing.T) {
	r := testRecords(t)
	want := wire.Job{ID: jobA, UID: 1000, Tool: "nmap_scan", State: wire.Queued}
	if err := r.create(want); err != nil {
		t.Fatal(err)
	}
	want.State = wire.Running
	if err := r.write(want); err != nil {
		t.Fatal(err)
	}
	got, removed, err := r.load()
	if err != nil || len(removed) != 0 {
		t.Fatalf("removed %v, %v", removed, err)
	}
	if diff := cmp.Diff([]wire.Job{want}, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnIDIsUsedOnce(t *testing.T) {
	r := testRecords(t)
	if err := r.create(wire.Job{ID: jobA, State: wire.Queued}); err != nil {
		t.Fatal(err)
	}
	if err := r.create(wire.Job{ID: jobA, State: wire.Queued}); err == nil {
		t.Error("the second job took the record of the first")
	}
	if _, err := r.output(jobA, fileStdout); err != nil {
		t.Fatal(err)
	}
	if _, err := r.output(jobA, fileStdout); err == nil {
		t.Error("an output that exists was opened for writing")
	}
}

func TestABrokenRecordIsRemovedAndTold(t *testing.T) {
	for name, content := range map[string]string{
		"empty":                  "",
		"cut off":                "\xa5\x62id",
		"of another job":         encoded(t, wire.Job{ID: jobB, State: wire.Queued}),
		"with something after":   encoded(t, wire.Job{ID: jobA, State: wire.Queued}) + "x",
		"larger than any record": strings.Repeat("x", wire.MaxMessage+1),
	} {
		t.Run(name, func(t *testing.T) {
			r := testRecords(t)
			if err := r.create(wire.Job{ID: jobA, State: wire.Queued}); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(r.path(jobA, fileRecord), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			jobs, removed, err := r.load()
			if err != nil || len(jobs) != 0 || len(removed) != 1 || removed[0] != jobA {
				t.Errorf("jobs %v, removed %v, %v", jobs, removed, err)
			}
			if _, err := os.Stat(filepath.Join(r.dir, jobA)); !os.IsNotExist(err) {
				t.Errorf("its directory is still there: %v", err)
			}
		})
	}
}

func encoded(t *testing.T, j wire.Job) string {
	t.Helper()
	b, err := wire.Encode(&j, wire.MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTheFrontGetsReadOnlyDescriptorsOfWhatThereIs(t *testing.T) {
	r := testRecords(t)
	if err := r.create(wire.Job{ID: jobA, State: wire.Queued}); err != nil {
		t.Fatal(err)
	}
	out, err := r.output(jobA, fileStdout)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := r.note(jobA, fileArgv, []byte("[]")); err != nil {
		t.Fatal(err)
	}
	names, files := r.open(jobA)
	if diff := cmp.Diff([]string{fileStdout, fileArgv}, names); diff != "" {
		t.Error(diff)
	}
	for i, f := range files {
		if _, err := f.WriteString("x"); err == nil {
			t.Errorf("%s can be written to", names[i])
		}
		f.Close()
	}
}
