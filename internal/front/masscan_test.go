package front

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners/report"
)

// A scan that lists only what it found has looked at all addresses once it has come to its end, and at none before.
func TestCoverageOfAScanInNoOrder(t *testing.T) {
	record := wire.Job{Verdict: wire.Verdict{Outcome: "allow", Addresses: []string{"10.0.0.0/30"}, AddressCount: 4},
		Outcome: &wire.Outcome{Reason: wire.Exited, Usage: wire.Usage{SentPackets: 9}}}
	row := store.Job{Tool: masscanTool, Arguments: []byte(`{"targets":["10.0.0.0/30"],"ports":[80]}`)}
	const head = "Starting masscan 1.3.2 (http://bit.ly/14GZzcT) at 2026-11-25 14:46:19 GMT\n"
	const line = "Discovered open port 80/tcp on 10.0.0.1\n"
	for _, c := range []struct {
		says, told, reason string
		complete           bool
		silent             int
		notReached         uint64
		fate               string // of 10.0.0.2
		state              store.State
	}{
		{"at its end", "rate:  0.00-kpps, 100.00% done, waiting 0-secs, found=1       \r", wire.Exited, true, 3, 0, "silent", store.Completed},
		{"out of time", "rate:  1.00-kpps,  50.00% done,   0:00:10 remaining, found=1       \r", wire.Timeout, false, 0, 4, "not_reached", store.Partial},
		{"still listening", "rate:  0.00-kpps, 100.00% done, waiting 2-secs, found=1       \r", wire.Cancelled, false, 0, 4, "not_reached", store.Cancelled},
		{"ended without a word", "", wire.Exited, false, 0, 4, "not_reached", store.Failed},
	} {
		r, err := report.ParseMasscan(strings.NewReader(line), strings.NewReader(head+c.told), nil)
		if err != nil {
			t.Fatal(err)
		}
		record.Outcome.Reason = c.reason
		got := cover(record, r)
		if got.Complete != c.complete || got.Silent != c.silent || got.Up != 1 || c.complete != (got.NotReached == 0) || c.complete != (got.Addresses.Completed.Count == 4) {
			t.Errorf("%s: %s", c.says, encode(got))
		}
		if f := fateOf(row, record, r, netip.MustParseAddr("10.0.0.2")); f.State != c.fate {
			t.Errorf("%s: %s", c.says, f.State)
		}
		if f := fateOf(row, record, r, netip.MustParseAddr("10.0.0.1")); f.State != "found" {
			t.Errorf("%s: what was found is %s", c.says, f.State)
		}
		if s := stateOf(record, r); s != c.state {
			t.Errorf("%s: %s", c.says, s)
		}
	}
	// More was counted than printed: what was lost is nobody's silence.
	r, err := report.ParseMasscan(strings.NewReader(line), strings.NewReader(head+"rate:  0.00-kpps, 100.00% done, waiting 0-secs, found=2       \r"), nil)
	if record.Outcome.Reason = wire.Exited; err != nil || cover(record, r).Complete || cover(record, r).NotReached == 0 {
		t.Errorf("%v: %s", err, encode(cover(record, r)))
	}
	a := answer{Status: stateOf(record, r), Coverage: cover(record, r), End: &end{ScannerError: r.ErrorClass}, Page: &page{}}
	if next := a.next(); a.Status != store.Partial || !strings.Contains(next, "more open ports than it printed") {
		t.Errorf("%s: %s", a.Status, next)
	}
}
