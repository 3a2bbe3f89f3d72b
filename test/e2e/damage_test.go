package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/secmcpd/secmcpd/test/lab"
)

// The database of jobs is no database any more, while a scan runs: it is set aside and said, the scan's
// result arrives, and the service goes on.
func TestADamagedDatabaseStopsNothing(t *testing.T) {
	h := newHouse(t, lab.Options{})
	before := h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 45})
	if before["status"] != "completed" {
		t.Fatalf("%s", show(before))
	}
	id := h.slow()
	garbage := bytes.Repeat([]byte("garbage "), 8192)
	db := filepath.Join(h.daemon.StateDir(), "jobs.db")
	for _, err := range []error{os.Truncate(db+"-wal", 0), os.WriteFile(db, garbage, 0o600), h.daemon.Kill9(lab.Front)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	now := h.again(id.(string))
	if now["status"] != "partial" || at(now, "coverage", "asked_unknown") != true || at(now, "summary", "open_ports") != 2.0 { // what it was asked for is lost
		t.Errorf("the scan that ran: %s", show(now))
	}
	if !strings.Contains(h.daemon.Log(lab.Front), "is set aside") {
		t.Error("the log does not say that anything is set aside")
	}
	if kept, err := filepath.Glob(filepath.Join(h.daemon.StateDir(), "damaged-*", "jobs.db")); err != nil || len(kept) != 1 {
		t.Errorf("set aside: %v, %v", kept, err)
	} else if b, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(b, garbage) {
		t.Errorf("what is set aside is not what was there: %v, %d bytes", err, len(b))
	}
	if after, err := h.anew("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 45}); err != nil || after["status"] != "completed" {
		t.Errorf("the next scan: %v %s", err, show(after))
	}
}

// A part of the database is damaged while it is used: the front ends by itself when it meets it, what can be read is
// taken over, and scans run on.
func TestADamageThatIsMetIsMended(t *testing.T) {
	h := newHouse(t, lab.Options{Engagements: map[string]string{"lab": lab.Engagement + "limits: {jobs: 64}\n"}})
	var ids []string
	for range 12 {
		a := h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{"1-400"}, "wait_s": 45})
		if a["status"] != "completed" {
			t.Fatalf("%s", show(a))
		}
		ids = append(ids, a["job_id"].(string))
	}
	if err := h.daemon.Kill9(lab.Front); err != nil { // the next one has read nothing yet
		t.Fatal(err)
	}
	a, err := h.anew("nmap_scan", object{"targets": []string{lab.SSHAndWeb, "10.77.1.0/26"}, "ports": []any{22, 80}, "skip_discovery": true, "wait_s": 1})
	if err != nil || a["status"] != "running" {
		t.Fatalf("%v %s", err, show(a))
	}
	running := a["job_id"]
	db := filepath.Join(h.daemon.StateDir(), "jobs.db")
	d, err := sql.Open("sqlite3", "file:"+db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil { // out of the log beside it
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(db)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(db, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for page := info.Size() / 4096 / 2; page < info.Size()/4096/2+6; page++ {
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 4096), page*4096); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	pid := h.daemon.Pid(lab.Front)
	deadline := time.Now().Add(30 * time.Second)
	for i := 0; h.daemon.Pid(lab.Front) == pid; i++ {
		if time.Now().After(deadline) {
			t.Fatalf("the front goes on with a damaged database\n%s", h.daemon.Log(lab.Front))
		}
		_, _ = h.anew("job_result", object{"job_id": ids[i%len(ids)]})
	}
	if now := h.again(running); now["status"] != "completed" && at(now, "coverage", "asked_unknown") != true {
		t.Errorf("the scan that ran: %s", show(now))
	}
	kept := 0
	for _, id := range ids {
		if a, err := h.anew("job_result", object{"job_id": id}); err == nil && a["status"] == "completed" {
			kept++
		}
	}
	t.Logf("%d of %d results could be read", kept, len(ids))
	if kept == 0 || !strings.Contains(h.daemon.Log(lab.Front), "is set aside") {
		t.Errorf("%d results are there\n%s", kept, h.daemon.Log(lab.Front))
	}
}

// anew connects anew, as soon as the daemon lets it, and calls a tool.
func (h *house) anew(tool string, arguments object) (object, error) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
		s, err := h.daemon.Client(ctx, 0, nil)
		done()
		if err == nil {
			defer s.Close()
			return call(s, tool, arguments)
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("nobody gets in: %v", err)
		}
	}
}
