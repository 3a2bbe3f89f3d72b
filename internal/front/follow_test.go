package front

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// Whoever confirms a scan confirms what follows it, and is told.
func TestAQuestionNamesWhatFollows(t *testing.T) {
	v := wire.Verdict{AddressCount: 4, Engagement: "lab", Rate: 100, LimitS: 60, Confirm: []string{"masscan_scan"}}
	got := question("masscan_scan", "web", []string{"the same a second time", "nmap_scan of the ports that are found"}, v)
	if !strings.HasPrefix(got, "Start this scan? masscan_scan with profile web (and then: the same a second time; nmap_scan of the ports that are found) on 4 addresses under") {
		t.Error(got)
	}
}

// A result is complete only if what was to follow it did, and confirmed it; what did not is said.
func TestWhatFollowedIsSaid(t *testing.T) {
	record := wire.Job{Started: time.Now(), Verdict: wire.Verdict{Outcome: "allow", Addresses: []string{"10.0.0.0/30"}, AddressCount: 4},
		Outcome: &wire.Outcome{Reason: wire.Exited, Usage: wire.Usage{SentPackets: 9}}}
	none := report.OnePass{Ports: []string{}}
	one := report.OnePass{Count: 1, Ports: []string{"10.0.0.1 80/tcp"}}
	for _, c := range []struct {
		says     string
		pass     *report.SecondPass
		verified []report.Verification
		complete bool
		next     string
	}{
		{"nothing was asked for", nil, nil, true, ""},
		{"two passes that agree", &report.SecondPass{Status: "completed", Agreed: true, OnlyFirst: none, OnlySecond: none}, nil, true, ""},
		{"two that differ", &report.SecondPass{Status: "completed", OnlyFirst: one, OnlySecond: one}, nil, false, "differ: 2 open ports"},
		{"one alone", &report.SecondPass{Status: "none", Why: "the daemon was restarted before it began", OnlyFirst: none, OnlySecond: none}, nil, false, "no second pass to compare it with: the daemon was restarted"},
		{"all verified", nil, []report.Verification{{Status: "completed", Asked: 3, Open: 3, NotOpen: none}}, true, ""},
		{"one that is open no more", nil, []report.Verification{{Status: "completed", Asked: 3, Open: 2, NotOpen: one}}, true, "not open any more when nmap looked: 1"},
		{"one of which nothing is known", nil, []report.Verification{{Status: "partial", Asked: 3, Open: 2, Unknown: 1, NotOpen: none}}, false, "Not verified: 1 of 3 open ports."},
		{"none verified", nil, []report.Verification{{Status: "refused", Why: "tool_not_allowed: no", Asked: 3, Unknown: 3, NotOpen: none}}, false, "Not verified: 3 of 3 open ports: tool_not_allowed: no."},
	} {
		r := report.Report{Scanner: "masscan", Finished: true, ExitOK: true, Hosts: []report.Host{}}
		r.Coverage.Whole, r.Coverage.SecondPass, r.Coverage.Verification = true, c.pass, c.verified
		got := cover(record, r)
		a := answer{Status: stateOf(record, r), Coverage: got, Page: &page{}}
		if next := a.next(); got.Complete != c.complete || !strings.Contains(next, c.next) || c.next == "" && next != "" && !strings.Contains(next, "silent") || a.Status != store.Completed {
			t.Errorf("%s: %s, complete %v, %q", c.says, a.Status, got.Complete, next)
		}
	}
}

// How a job that followed ended is told in words of ours.
func TestWhatBecameOfAFollower(t *testing.T) {
	for _, c := range []struct {
		says    string
		state   store.State
		outcome wire.Outcome
		started bool
		why     string
	}{
		{"well", store.Completed, wire.Outcome{Reason: wire.Exited}, true, ""},
		{"refused", store.Refused, wire.Outcome{Reason: wire.Refused, Refused: &wire.Refusal{Code: "caller_gone", Reason: "the connection is closed"}}, false, "caller_gone: the connection is closed"},
		{"out of time", store.Partial, wire.Outcome{Reason: wire.Timeout}, true, "it was ended: timeout"},
		{"with hosts given up", store.Partial, wire.Outcome{Reason: wire.Exited}, true, "it did not come to a good end"},
	} {
		row := store.Job{ID: "x", State: c.state, Record: encode(wire.Job{Outcome: &c.outcome}), Result: json.RawMessage(`{}`)}
		if c.started {
			row.Started = time.Now()
		}
		if got := outcomeOf(row); got.why != c.why || got.ran != c.started || got.id != "x" || got.status != string(c.state) {
			t.Errorf("%s: %+v", c.says, got)
		}
	}
	if got := outcomeOf(store.Job{ID: "x", Result: json.RawMessage(`{"hosts":1}`)}); got.why == "" || got.ran {
		t.Errorf("a result that cannot be read: %+v", got)
	}
}

// A second pass is compared with the first where it looked at the same.
func TestASecondPassOfSomethingElse(t *testing.T) {
	first := wire.Verdict{Addresses: []string{"10.0.0.0/30", "10.0.0.8/32"}, AddressCount: 5, Ports: []string{"22", "udp/53"}, PortsCount: 2}
	for says, change := range map[string]func(v *wire.Verdict){
		"the same":                       func(*wire.Verdict) {},
		"under a newer engagement":       func(v *wire.Verdict) { v.Revision = "2" },
		"an address that is excluded":    func(v *wire.Verdict) { v.Addresses, v.AddressCount = v.Addresses[:1], 4 },
		"a name with another address":    func(v *wire.Verdict) { v.Addresses = []string{"10.0.0.0/30", "10.0.0.9/32"} },
		"more addresses than are listed": func(v *wire.Verdict) { v.AddressCount = 6 },
		"a port that is excluded":        func(v *wire.Verdict) { v.Ports, v.PortsCount = v.Ports[:1], 1 },
	} {
		second := first
		change(&second)
		second.Addresses = slices.Clone(second.Addresses)
		c := outcomeOf(store.Job{ID: "x", State: store.Completed, Started: time.Now(), Result: json.RawMessage(`{}`),
			Record: encode(wire.Job{Verdict: second, Outcome: &wire.Outcome{Reason: wire.Exited}})}).of(first)
		if same := says == "the same" || says == "under a newer engagement"; c.ran != same || (c.why == "") != same {
			t.Errorf("%s: %+v", says, c)
		}
	}
	if c := (follower{why: "refused"}).of(first); c.why != "refused" {
		t.Errorf("one that never ran: %+v", c)
	}
}

// A verification that could not even be asked for is no scan without one.
func TestAVerificationThatCannotBeAskedFor(t *testing.T) {
	f := &front{log: slog.New(slog.DiscardHandler)}
	r := report.Report{Hosts: []report.Host{{Addr: netip.MustParseAddr("10.0.0.1"), Ports: []report.Port{{Port: 80, Proto: "tcp", State: "open"}}}}}
	call := runners.Call{Tool: "masscan_scan", Masscan: &runners.Masscan{Verify: "ports", Limit: 1}}
	if err := f.verify(&job{}, &r, call, "lab", ""); err != nil {
		t.Fatal(err)
	}
	if v := r.Coverage.Verification; len(v) != 1 || v[0].Why == "" || v[0].Unknown != 1 || r.Coverage.Confirmed() {
		t.Errorf("%+v", v)
	}
}

// Of a job that waits for the approval of another the agent is told which one it is.
func TestAJobWhoseFollowerIsToBeApprovedSaysSo(t *testing.T) {
	j := &job{row: store.Job{ID: "first", Tool: "masscan_scan"}, then: true, follower: "second", held: time.Unix(1_800_000_000, 0)}
	j.record = wire.Job{State: wire.Ended, Outcome: &wire.Outcome{Reason: wire.Exited}}
	a := j.underWay()
	if a.Status != store.Running || a.WaitingFor != waitsForApproval || !strings.Contains(a.Next, "secmcpd approve second` until 2027-01-15T08:00:00Z") || strings.Contains(a.Next, "no target") {
		t.Errorf("%+v", a)
	}
	if got := j.message(); !strings.Contains(got, "follows it waits for an operator's approval until 2027-01-15T08:00:00Z") {
		t.Error(got)
	}
	j.held = time.Time{}
	if a := j.underWay(); a.WaitingFor != "" || !strings.HasPrefix(a.Next, "The scan goes on.") {
		t.Errorf("%+v", a)
	}
}
