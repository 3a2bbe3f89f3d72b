package launcher

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/sandbox"
)

// Of each scan that is kept, its end, a violation of its scope and its withdrawal fit into what the audit log keeps
// free, with every text at its bound.
func TestTheReserveOfTheAuditLogHoldsTheEndsOfAllScans(t *testing.T) {
	long := strings.Repeat("x", 4096)
	j := &job{caller: wire.Client{UID: 4294967295, GID: 4294967295, PID: 2147483647}, plan: runners.Plan{Profile: long[:64], Engagement: long[:64]},
		argv: strings.Split(strings.Repeat("x ", 5000), " "), limits: onAudit(sandbox.Limits{Wall: time.Hour, Memory: 1 << 40, Pids: 4096, CPUPercent: 102400}, 10_000_000),
		record: wire.Job{ID: strings.Repeat("a", wire.JobIDLength), Tool: "masscan_scan", State: wire.Ended,
			Verdict:  wire.Verdict{Engagement: long[:64], Revision: long[:64], Rule: clip(long), Addresses: strings.Fields(strings.Repeat(long[:40]+" ", wire.MaxList))},
			Scanner:  wire.Scanner{Path: "/usr/local/bin/" + long[:200], Version: long[:64], SHA256: long[:64]},
			Wordlist: &wire.Wordlist{Name: long[:64], Lines: 1 << 40, SHA256: long[:64]},
			Outcome: &wire.Outcome{Reason: wire.ScopeLost, Signal: 64, Stage: long[:32], Detail: clip(long), Refused: bounded(wire.Refusal{Code: long, Reason: long}),
				Usage: wire.Usage{WallMS: 1 << 40, CPUMS: 1 << 40, MemoryPeak: 1 << 40, Output: 1 << 40, SentPackets: 1 << 60, Received: 1 << 60, Dropped: 1 << 60, OffScope: 1 << 60}}}}
	for _, layer := range append(append([]string{}, sandbox.Layers...), wire.RoomLayers...) {
		j.record.NotEnforced = append(j.record.NotEnforced, wire.Gap{Layer: layer})
	}
	violation := j.entry(observability.ScopeViolation)
	for range wire.MaxOffScope {
		violation.OffScope = append(violation.OffScope, observability.Destination{To: "fd00:1111:2222:3333:4444:5555:6666:7777", Protocol: 255, Port: 65535, Packets: 1 << 60})
	}
	all := 0
	for _, e := range []observability.Record{violation, j.entry(observability.Done), j.denied(policy.Verdict{Code: policy.RateTooHigh, Rule: clip(long), Reason: clip(long)})} {
		e.Time, e.Prev, e.Hash, e.Seq = time.Now(), long[:64], long[:64], 1<<60
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		all += len(b) + 1
	}
	if each := observability.Reserve / maxRecords; all > each {
		t.Errorf("the end of one scan takes %d bytes, %d are kept for each of %d", all, each, maxRecords)
	}
}
