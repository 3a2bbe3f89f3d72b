package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

const twoHalves = `
name: x
callers: {users: [1000]}
targets: [10.0.0.0/8, {name: .lab, within: [10.0.0.0/16]}]
tools: {nmap_scan: {profiles: [quick, thorough]}, masscan_scan: {profiles: ["*"]}}
limits: {addresses_per_job: 1024, packets_per_second: 1000}
intrusive: approve
approve: [masscan_scan, nmap_scan/thorough]
approval: {addresses_over: 16, packets_per_second_over: 500, within: 10m, self: true}
`

// What has to be approved is told, each reason by itself, and what is granted is what would be allowed.
func TestApprove(t *testing.T) {
	slow := scan("10.0.0.5").with(func(r *Request) { r.Rate = 100 })
	w := world{&Policy{Engagements: []Engagement{parse(t, twoHalves)}}, alice, monday}
	w.check(t, []row{
		allow("a small look", slow, "10.0.0.5", "engagement x allows it"),
		approve("an intrusive one", slow.with(func(r *Request) { r.Intrusive = []string{"scripts", "os"} }), "10.0.0.5", "intrusive: scripts, os", "within 10m0s, by any operator, also whoever asked", "100 packets a second"),
		approve("a profile", slow.with(func(r *Request) { r.Profile = "thorough" }), "10.0.0.5", "nmap_scan/thorough", "once an operator has approved it"),
		approve("a tool", slow.with(func(r *Request) { r.Tool = "masscan_scan" }), "10.0.0.5", "masscan_scan"),
		allow("as many addresses as need none", scan("10.0.0.0/28").with(func(r *Request) { r.Rate = 500 }), "10.0.0.0/28"),
		approve("more of them", scan("10.0.0.0/27").with(func(r *Request) { r.Rate = 500 }), "10.0.0.0/27", "32 addresses, more than 16"),
		approve("the answers of a name count", slow.with(func(r *Request) {
			r.Targets = []Target{asTarget("web.lab=10.0.0.1,10.0.0.2"), asTarget("10.0.1.0/28")}
		}), "10.0.0.1 10.0.0.2 10.0.1.0/28", "18 addresses"),
		approve("a higher rate", slow.with(func(r *Request) { r.Rate = 501 }), "10.0.0.5", "501 packets a second, more than 500"),
		approve("no rate, which is the highest", scan("10.0.0.5"), "10.0.0.5", "1000 packets a second"),
		approve("all at once", scan("10.0.0.0/24").with(func(r *Request) { r.Tool, r.Intrusive = "masscan_scan", []string{"banners"} }), "10.0.0.0/24",
			"intrusive: banners", "masscan_scan", "256 addresses", "1000 packets"),
		refuse("more than is allowed at all", scan("10.0.0.0/21"), TooManyAddresses),
		refuse("outside", scan("11.0.0.1"), TargetOutOfScope),
	})
	budget := world{&Policy{Engagements: []Engagement{parse(t, twoHalves)}, Machine: Machine{Budget: 200}}, alice, monday}
	budget.check(t, []row{allow("a rate that the machine lowers is judged as it will be", scan("10.0.0.5"), "10.0.0.5", "200 packets a second")})
}

// An engagement that allows at once is taken before one that wants an approval, whatever they are called; the approval is
// asked for where no other allows.
func TestWhatNeedsNoApprovalComesFirst(t *testing.T) {
	free := strings.NewReplacer("name: x", "name: z", "10.0.0.0/8", "10.0.0.0/30", "intrusive: approve", "intrusive: allow", "approve: [masscan_scan, nmap_scan/thorough]\n", "",
		"approval: {addresses_over: 16, packets_per_second_over: 500, within: 10m, self: true}\n", "").Replace(twoHalves)
	w := world{&Policy{Engagements: []Engagement{parse(t, free), parse(t, twoHalves)}}, alice, monday}
	loud := func(r *Request) { r.Intrusive = []string{"scripts"} }
	w.check(t, []row{
		allow("by the other engagement", scan("10.0.0.1").with(loud), "10.0.0.1", "engagement z"),
		approve("outside of it", scan("10.0.0.9").with(loud), "10.0.0.9", "engagement x"),
		approve("by name", scan("10.0.0.1").with(loud).with(func(r *Request) { r.Engagement = "x" }), "10.0.0.1", "engagement x"),
	})
}

// While names have no answers, their number is not known: what is decided then may be stricter, and is never less.
func TestAPrecheckWantsNoMoreApprovalThanADecision(t *testing.T) {
	p := &Policy{Engagements: []Engagement{parse(t, strings.Replace(twoHalves, "addresses_over: 16", "addresses_over: 1", 1))}}
	r := scan("web.lab=").with(func(r *Request) { r.Rate = 1 })
	if v := Precheck(p, alice, r, monday); v.Outcome != Allow || !v.MoreNames {
		t.Errorf("%s", v)
	}
	r.Targets[0].Answers = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	if v := Decide(p, alice, r, monday); v.Outcome != Approve {
		t.Errorf("%s", v)
	}
}

func TestWhatAnEngagementWantsApproved(t *testing.T) {
	e := parse(t, twoHalves)
	if got := strings.Join(e.Approve(), "; "); got != "intrusive; masscan_scan; nmap_scan/thorough; more than 16 addresses; more than 500 packets a second" {
		t.Error(got)
	}
	for _, want := range []string{"approve     intrusive", "within 10m0s, by any operator, also whoever asked"} {
		if !strings.Contains(e.String(), want) {
			t.Errorf("does not say %q:\n%s", want, e)
		}
	}
	plain := parse(t, office)
	if v := Decide(&Policy{Engagements: []Engagement{plain}}, alice, scan("172.16.0.1").with(func(r *Request) { r.Intrusive = []string{"x"} }), monday); v.Approval.Within != time.Hour || v.Approval.Self {
		t.Errorf("without the keys: %+v", v.Approval)
	}
}
