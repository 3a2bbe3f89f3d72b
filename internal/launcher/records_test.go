package launcher

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secmcpd/secmcpd/internal/wire"
)

const jobA, jobB, jobC = "aaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbb", "cccccccccccccccccccccccccc"

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
	got, removed, unread, err := r.load()
	if err != nil || len(removed) != 0 || len(unread) != 0 {
		t.Fatalf("removed %v, unread %v, %v", removed, unread, err)
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

// What cannot be read may be all that is left of a scan: it is put aside whole, and told.
func TestWhatCannotBeReadIsPutAside(t *testing.T) {
	good := recordHeader + recordVersion + "\n" + encoded(t, wire.Job{ID: jobA, State: wire.Ended})
	for name, content := range map[string]string{
		"empty":                  "",
		"cut off":                good[:len(good)-2],
		"of another job":         recordHeader + recordVersion + "\n" + encoded(t, wire.Job{ID: jobB, State: wire.Queued}),
		"with something after":   good + "x",
		"larger than any record": recordHeader + recordVersion + "\n" + strings.Repeat("x", wire.MaxMessage+1),
		"of a newer version":     recordHeader + "2\n" + encoded(t, wire.Job{ID: jobA, State: wire.Ended}),
		"without a version":      encoded(t, wire.Job{ID: jobA, State: wire.Ended}),
		"gone":                   "gone",
	} {
		t.Run(name, func(t *testing.T) {
			r := testRecords(t)
			if err := r.create(wire.Job{ID: jobA, State: wire.Queued}); err != nil {
				t.Fatal(err)
			}
			if err := r.note(jobA, fileStdout, []byte("<nmaprun>")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(r.path(jobA, fileRecord), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if content == "gone" {
				if err := os.Remove(r.path(jobA, fileRecord)); err != nil {
					t.Fatal(err)
				}
			}
			jobs, removed, unread, err := r.load()
			if err != nil || len(jobs) != 0 || len(removed) != 0 || len(unread) != 1 || unread[0].name != jobA || unread[0].why == "" {
				t.Fatalf("jobs %v, removed %v, unread %v, %v", jobs, removed, unread, err)
			}
			to, err := r.setAside(jobA, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(filepath.Join(to, fileStdout)); err != nil || string(b) != "<nmaprun>" {
				t.Errorf("of the scan's output there is %q, %v", b, err)
			}
			if _, err := os.Stat(filepath.Join(r.dir, jobA)); !os.IsNotExist(err) {
				t.Errorf("its directory is still there: %v", err)
			}
		})
	}
}

func TestACreationThatWasCutOffIsRemoved(t *testing.T) {
	for name, files := range map[string][]string{"nothing in it": nil, "a record that was not finished": {fileRecord + ".new"}} {
		r := testRecords(t)
		if err := os.Mkdir(filepath.Join(r.dir, jobA), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := r.note(jobA, f, []byte("secm")); err != nil {
				t.Fatal(err)
			}
		}
		jobs, removed, unread, err := r.load()
		if err != nil || len(jobs)+len(unread) != 0 || len(removed) != 1 || removed[0] != jobA {
			t.Errorf("%s: jobs %v, removed %v, unread %v, %v", name, jobs, removed, unread, err)
		}
	}
}

// A removal that is cut off leaves the record: outputs without one would be taken for damage.
func TestARecordIsRemovedLast(t *testing.T) {
	for _, left := range artefacts {
		r := testRecords(t)
		if err := r.create(wire.Job{ID: jobA, State: wire.Ended}); err != nil {
			t.Fatal(err)
		}
		for _, name := range artefacts {
			if name == left { // what cannot be removed as a file
				if err := os.MkdirAll(filepath.Join(r.path(jobA, name), "x"), 0o700); err != nil {
					t.Fatal(err)
				}
			} else if err := r.note(jobA, name, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.remove(jobA); err == nil {
			t.Errorf("%s: it is said to be removed", left)
		}
		if jobs, _, unread, err := r.load(); err != nil || len(jobs) != 1 || len(unread) != 0 {
			t.Errorf("%s: there are %v, unread %v, %v", left, jobs, unread, err)
		}
		if err := os.Remove(filepath.Join(r.path(jobA, left), "x")); err != nil {
			t.Fatal(err)
		}
		if err := r.remove(jobA); err != nil {
			t.Errorf("%s: %v", left, err)
		}
		if _, err := os.Stat(filepath.Join(r.dir, jobA)); !os.IsNotExist(err) {
			t.Errorf("%s: the directory is left: %v", left, err)
		}
	}
}

func TestOnlySoManyBrokenRecordsAreKept(t *testing.T) {
	r := testRecords(t)
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	var last string
	for range maxBroken + 3 {
		if err := r.create(wire.Job{ID: jobA, State: wire.Queued}); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Millisecond)
		var err error
		if last, err = r.setAside(jobA, at); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := os.ReadDir(r.broken); err != nil || len(kept) != maxBroken || kept[len(kept)-1].Name() != filepath.Base(last) {
		t.Errorf("%d are kept, %v", len(kept), err)
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
