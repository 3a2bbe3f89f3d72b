package front

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// Of a declared scanner the exit status says whether it was through: its report claims what would hold then.
func TestTheEndOfADeclaredScanner(t *testing.T) {
	at := netip.MustParsePrefix("10.0.0.5/32")
	record := wire.Job{Verdict: wire.Verdict{Addresses: []string{at.String()}, AddressCount: 1}}
	for _, row := range []struct {
		says     string
		outcome  wire.Outcome
		statuses []int
		finished bool
		want     string
	}{
		{"a status of a scan that went well", wire.Outcome{Reason: wire.Exited, Code: 1}, []int{0, 1}, true, "completed complete 0"},
		{"another", wire.Outcome{Reason: wire.Exited, Code: 2}, []int{0, 1}, true, "failed incomplete 1"},
		{"zero, where that is none", wire.Outcome{Reason: wire.Exited}, []int{3}, true, "failed incomplete 1"},
		{"no word of its end", wire.Outcome{Reason: wire.Exited}, []int{0}, false, "failed incomplete 1"},
		{"out of time", wire.Outcome{Reason: wire.Timeout}, []int{0}, true, "partial incomplete 1"},
		{"cancelled", wire.Outcome{Reason: wire.Cancelled}, []int{0}, true, "cancelled incomplete 1"},
		{"killed", wire.Outcome{Reason: wire.Signalled, Signal: 9}, []int{0}, true, "failed incomplete 1"},
	} {
		row.outcome.Usage.SentPackets = 1
		record.Outcome = &row.outcome
		r := report.Report{Finished: row.finished, ExitOK: row.finished, Statuses: row.statuses, Coverage: report.Coverage{Whole: row.finished}}
		r = settled(record.Outcome, r)
		c := cover(record, r)
		got := fmt.Sprint(stateOf(record, r), map[bool]string{true: " complete ", false: " incomplete "}[c.Complete], c.NotReached)
		if got != row.want {
			t.Errorf("%s: %s, want %s", row.says, got, row.want)
		}
	}
}

// What a line does not say is of the only address and port that were asked.
func TestWhatWasTheOnlyOne(t *testing.T) {
	one, two := netip.MustParsePrefix("10.0.0.5/32"), netip.MustParsePrefix("10.0.0.4/31")
	tcp, udp := runners.Reach{TCP: [][2]uint16{{80, 80}}}, runners.Reach{UDP: [][2]uint16{{161, 161}}}
	for _, row := range []struct {
		asked []netip.Prefix
		all   bool
		reach runners.Reach
		want  string
	}{
		{[]netip.Prefix{one}, true, tcp, "10.0.0.5:80 false"},
		{[]netip.Prefix{one}, true, udp, "10.0.0.5:161 true"},
		{[]netip.Prefix{two}, true, tcp, "invalid AddrPort false"},
		{[]netip.Prefix{one}, false, tcp, "invalid AddrPort false"},
		{[]netip.Prefix{one}, true, runners.Reach{TCP: [][2]uint16{{80, 81}}}, "10.0.0.5:0 false"},
		{[]netip.Prefix{one}, true, runners.Reach{ICMP: true}, "10.0.0.5:0 false"},
	} {
		at, isUDP := only(runners.Plan{Asked: row.reach}, row.asked, row.all)
		if got := fmt.Sprint(at, " ", isUDP); got != row.want {
			t.Errorf("%v %v: %s, want %s", row.asked, row.reach, got, row.want)
		}
	}
}
