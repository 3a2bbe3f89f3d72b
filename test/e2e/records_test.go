package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/test/lab"
)

// longScan takes about four seconds.
func longScan(id string) object {
	scan := object{"targets": []string{lab.SSHAndWeb}, "ports": []any{"1-400"}, "rate": 100, "wait_s": 0}
	if id != "" {
		scan["correlation_id"] = id
	}
	return scan
}

// records are those of the audit log that are about a job.
func (h *house) records(job string) (all []observability.Record) {
	h.t.Helper()
	if err := observability.ReadAudit(h.daemon.AuditDir(), func(r observability.Record, _ []byte) error {
		if r.Job == job {
			all = append(all, r)
		}
		return nil
	}); err != nil {
		h.t.Error(err)
	}
	return all
}

func eventsOf(records []observability.Record) string {
	var events []string
	for _, r := range records {
		events = append(events, string(r.Event))
	}
	return strings.Join(events, " ")
}

// eventually waits for something that is on its way.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// One id follows a call from the agent to the scanner's cgroup: its own, or the job's where it gave
// none.
func TestOneIdFollowsAScanThroughAllRecords(t *testing.T) {
	for _, own := range []string{"order-66:a.b_c", ""} {
		t.Run("id "+own, func(t *testing.T) {
			h := newHouse(t, lab.Options{Settings: "log: {format: json}\n"})
			answer := h.call("nmap_scan", longScan(own))
			job := fmt.Sprint(answer["job_id"])
			id := job
			if own != "" {
				id = own
				if answer["correlation_id"] != own {
					t.Errorf("the answer has the id %v", answer["correlation_id"])
				}
			}
			// While it runs: the launcher's record, the box's cgroup.
			eventually(t, "the box", func() bool {
				pids, err := h.daemon.Boxes()
				return err == nil && len(pids) > 0
			})
			inGroup := false
			pids, err := h.daemon.Boxes()
			for _, pid := range pids {
				group, wrong := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
				err = errors.Join(err, wrong)
				inGroup = inGroup || strings.HasSuffix(strings.TrimSpace(string(group)), "/boxes/box-"+job)
			}
			record, wrong := os.ReadFile(filepath.Join(h.daemon.Dir, "launcher", "boxes", job, "record"))
			if err := errors.Join(err, wrong); err != nil || !inGroup || !bytes.Contains(record, []byte(id)) {
				t.Errorf("in its cgroup: %v; in the launcher's record: %v (%v)", inGroup, bytes.Contains(record, []byte(id)), err)
			}
			eventually(t, "the end", func() bool { return h.call("job_status", object{"job_id": job})["status"] == "completed" })

			if list := h.call("job_list", object{}); own != "" && at(list, "jobs", 0, "correlation_id") != id {
				t.Errorf("job_list says %s", show(list))
			}
			spec, err := os.ReadFile(filepath.Join(h.daemon.StateDir(), "jobs", job, "spec.txt"))
			if err != nil || !strings.HasPrefix(string(spec), "correlation "+id+"\n") || !strings.Contains(string(spec), "cgroup box-"+job) {
				t.Errorf("spec.txt is %s (%v)", spec, err)
			}
			audited := h.records(job)
			if got := eventsOf(audited); got != "asked decided launched done" {
				t.Errorf("the audit log has %s", got)
			}
			for _, r := range audited {
				if r.Correlation != id {
					t.Errorf("the record %s has the id %q", r.Event, r.Correlation)
				}
			}
			said := map[string]bool{}
			for line := range strings.Lines(h.daemon.Log(lab.Launcher)) {
				var e struct{ Event, Job, Correlation, Tool string }
				if json.Unmarshal([]byte(line), &e) == nil && e.Job == job {
					said[e.Event] = e.Correlation == id && e.Tool == "nmap_scan"
				}
			}
			if len(said) != 2 || !said["scan_launched"] || !said["scan_ended"] {
				t.Errorf("the log has the id in %v of\n%s", said, h.daemon.Log(lab.Launcher))
			}
		})
	}
}

// Outputs, results and the audit log are on one disk, and another writer fills it to the last byte
// while scans run: each of their ends is on record while there is no space at all, nothing new is
// launched, and with space again all goes on.
func TestAFullDiskLosesNoEndOfAScan(t *testing.T) {
	dir, err := os.MkdirTemp("", "small")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", dir)
	h := newHouse(t, lab.Options{Settings: "limits: {output_mib: 1}\njobs: {free_mib: 8}\n"})
	var jobs []string
	for range 3 {
		jobs = append(jobs, fmt.Sprint(h.call("nmap_scan", longScan(""))["job_id"]))
	}
	for _, job := range jobs {
		eventually(t, "the launch", func() bool { return strings.HasSuffix(eventsOf(h.records(job)), "launched") })
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 130<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	for _, job := range jobs {
		eventually(t, "the end on record", func() bool { return eventsOf(h.records(job)) == "asked decided launched done" })
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil || disk.Bavail > 0 {
		t.Fatalf("%d blocks are free (%v)", disk.Bavail, err)
	}
	if s, err := observability.VerifyAudit(h.daemon.AuditDir()); err != nil {
		t.Errorf("on the full disk: %v, %v", s, err)
	}
	scan := object{"targets": []string{lab.SSH}, "ports": []any{22}, "wait_s": 45}
	if answer := h.call("nmap_scan", scan); at(answer, "error", "code") != "disk_full" && at(answer, "error", "code") != "audit_unavailable" {
		t.Errorf("a new one on the full disk: %s", show(answer))
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if answer := h.call("nmap_scan", scan); answer["status"] != "completed" {
		t.Errorf("with space again: %s", show(answer))
	}
	for _, job := range jobs {
		eventually(t, "the result", func() bool {
			status := fmt.Sprint(h.call("job_status", object{"job_id": job})["status"])
			return status != "running" && status != "queued"
		})
	}
}
