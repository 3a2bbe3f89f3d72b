package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// stubborn is a scanner that no signal ends but SIGKILL. It writes 10 GB, or nothing.
const stubborn = `#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
	static char block[1 << 20];
	if (argc == 2 && !strcmp(argv[1], "--version"))
		return puts("Nmap version 7.93 ( https://nmap.org )") < 0;
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_IGN);
	memset(block, 'A', sizeof block);
	for (int i = 0; WRITES && i < 10240; i++)
		if (write(1, block, sizeof block) < 0)
			break;
	for (;;)
		pause();
}
`

// A scanner that writes 10 GB is ended at its limit, and what it wrote is bounded.
func TestTenGigabytesOfOutputAreCut(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "scanners: {nmap: " + compiled(t, strings.ReplaceAll(stubborn, "WRITES", "1")) + "}\nlimits: {output_mib: 8}\n"})
	began := time.Now()
	a := h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 45})
	if a["status"] != "truncated" || at(a, "end", "reason") != "output" {
		t.Errorf("%s", show(a))
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, dir := range []string{"state", "launcher"} {
		size := int64(0)
		err := filepath.Walk(filepath.Join(h.daemon.Dir, dir), func(_ string, info os.FileInfo, err error) error {
			if err == nil {
				size += info.Size()
			}
			return nil // what has gone meanwhile counts for nothing
		})
		if err != nil || size > 24<<20 {
			t.Errorf("%s has %d MiB, %v", dir, size>>20, err)
		}
	}
	h.noBoxes(2 * time.Second)
}

// A scanner that ignores every signal is ended all the same, by its user and by its time.
func TestAScannerThatIgnoresEverySignalEnds(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "scanners: {nmap: " + compiled(t, strings.ReplaceAll(stubborn, "WRITES", "0")) + "}\n"})
	a := h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 1})
	if a["status"] != "running" {
		t.Fatalf("%s", show(a))
	}
	began := time.Now()
	h.call("job_cancel", object{"job_id": a["job_id"]})
	if now := h.call("job_status", object{"job_id": a["job_id"], "wait_s": 20}); now["status"] != "cancelled" || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %s", time.Since(began), show(now))
	}
	h.noBoxes(2 * time.Second)
	if a = h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "limit": 10, "wait_s": 30}); a["status"] != "partial" || at(a, "end", "reason") != "timeout" {
		t.Errorf("%s", show(a))
	}
	h.noBoxes(2 * time.Second)
}

// The disk of results becomes read-only while a scan runs: new scans are refused, and the result arrives once the
// disk is mended.
func TestTheDiskOfResultsBreaks(t *testing.T) {
	h := newHouse(t, lab.Options{Breaks: "state"})
	before := h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 45})
	if before["status"] != "completed" {
		t.Fatalf("%s", show(before))
	}
	id := h.slow()
	h.breaks()
	refused := h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 1})
	if code := at(refused, "error", "code"); code != "store_unavailable" || at(refused, "error", "retryable") != true {
		t.Errorf("on a broken disk: %s", show(refused))
	}
	if again := h.call("job_result", object{"job_id": before["job_id"]}); again["status"] != "completed" {
		t.Errorf("what was found before: %s", show(again))
	}
	for deadline := time.Now().Add(40 * time.Second); !strings.Contains(h.daemon.Log(lab.Front), "cannot keep a result"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the front does not say that it cannot keep a result")
		}
	}
	if s := h.call("job_status", object{"job_id": id}); s["status"] != "running" {
		t.Errorf("nobody knows it for good: %s", show(s))
	}
	h.mended(lab.Front)
	if now := h.again(id); now["status"] != "completed" || at(now, "summary", "open_ports") != 2.0 {
		t.Errorf("mended: %s", show(now))
	}
	if now := h.again(before["job_id"]); now["status"] != "completed" {
		t.Errorf("mended: %s", show(now))
	}
}

// The disk of the scanners' outputs becomes read-only: what cannot be written is no result, and nothing new is begun.
func TestTheDiskOfOutputsBreaks(t *testing.T) {
	h := newHouse(t, lab.Options{Breaks: "launcher"})
	id := h.slow()
	h.breaks()
	refused := h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 20})
	if code := at(refused, "error", "code"); code != "records_unavailable" {
		t.Errorf("on a broken disk: %s", show(refused))
	}
	now := h.again(id)
	if now["status"] == "completed" {
		t.Errorf("it could not write its report: %s", show(now))
	}
	h.mended(lab.Launcher)
	if a, err := h.anew("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 45}); err != nil || a["status"] != "completed" {
		t.Errorf("mended: %v %s", err, show(a))
	}
	if then := h.again(id); then["status"] != now["status"] {
		t.Errorf("it was %v and is %v", now["status"], then["status"])
	}
}

// The disk of the audit log becomes read-only: nothing is launched off the record; what runs comes to its end.
func TestTheDiskOfTheAuditLogBreaks(t *testing.T) {
	h := newHouse(t, lab.Options{Breaks: "audit"})
	id := h.slow()
	h.breaks()
	refused := h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 20})
	if code := at(refused, "error", "code"); code != "audit_unavailable" {
		t.Errorf("on a broken disk: %s", show(refused))
	}
	now := h.again(id)
	if now["status"] != "completed" {
		t.Errorf("what ran: %s", show(now))
	}
	h.mended(lab.Launcher)
	if a, err := h.anew("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 45}); err != nil || a["status"] != "completed" {
		t.Errorf("mended: %v %s", err, show(a))
	}
	if then := h.again(id); then["status"] != "completed" {
		t.Errorf("it was completed and is %v", then["status"])
	}
	if !slices.Contains(h.everyLaunchHasAnEnd(), id.(string)) {
		t.Error("the launch is not on record")
	}
}

func (h *house) breaks() {
	h.t.Helper()
	if err := h.daemon.Break(); err != nil {
		h.t.Fatal(err)
	}
}

// mended has the disk in order again, for the next life of the role that uses it.
func (h *house) mended(r lab.Role) {
	h.t.Helper()
	if err := h.daemon.Mend(r); err != nil {
		h.t.Fatal(err)
	}
}
