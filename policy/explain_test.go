package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Every reason is told under every engagement, and there is one exactly where Decide denies.
func TestExplainTellsEveryReason(t *testing.T) {
	parse := func(name, text string) Engagement {
		t.Helper()
		e, faults := ParseEngagement(name+".yaml", []byte("name: "+name+"\n"+text), Lookup{})
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		return e
	}
	p := &Policy{Engagements: []Engagement{
		parse("office", "callers: {users: [1000]}\ntargets: [10.0.0.0/16]\nexclude: [10.0.7.0/24]\ntools: {nmap_scan: {profiles: [quick]}}\nlimits: {addresses_per_job: 16}\n"),
		parse("lab", "callers: {users: [1001]}\ntargets: [10.9.0.0/16]\ntools: {masscan_scan: {profiles: [\"*\"]}}\nexpires: 2026-01-01\nintrusive: allow\n"),
	}, Suspended: map[string]string{"broken": "line 3"}}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	net := func(texts ...string) (out []Target) {
		for _, text := range texts {
			out = append(out, Target{Text: text, Prefix: netip.MustParsePrefix(text)})
		}
		return out
	}
	for _, c := range []struct {
		says string
		r    Request
		want string
	}{
		{"what is allowed", Request{Tool: "nmap_scan", Profile: "quick", Targets: net("10.0.0.5/32"), Ports: 1},
			"broken suspended; lab: expired engagement, tool_not_allowed tool, target_out_of_scope targets[0]; office named:"},
		{"each target", Request{Tool: "nmap_scan", Profile: "quick", Targets: net("10.0.0.5/32", "192.0.2.1/32", "10.0.7.9/32"), Ports: 1},
			"broken suspended; lab: expired engagement, tool_not_allowed tool, target_out_of_scope targets[0], target_never targets[1], target_out_of_scope targets[2]; " +
				"office named: target_never targets[1], target_excluded targets[2]"},
		{"size and what it does", Request{Tool: "nmap_scan", Profile: "script", Targets: net("10.0.0.0/24"), Ports: 1, Intrusive: []string{"scripts"}},
			"broken suspended; lab: expired engagement, tool_not_allowed tool, target_out_of_scope targets[0]; office named: profile_not_allowed profile, too_many_addresses targets, intrusive"},
	} {
		var said []string
		for _, x := range Explain(p, Caller{UID: 1000}, c.r, now, true) {
			line := x.Engagement
			if x.Names {
				line += " named"
			}
			var against []string
			for _, v := range x.Against {
				against = append(against, strings.TrimSpace(v.Code+" "+v.Field))
			}
			if x.Suspended != "" {
				line += " suspended"
			} else {
				line += strings.TrimSuffix(": "+strings.Join(against, ", "), " ")
				if (len(x.Against) == 0) != (x.Verdict.Outcome != Deny) {
					t.Errorf("%s, %s: %d reasons and the verdict %s", c.says, x.Engagement, len(x.Against), x.Verdict.Outcome)
				}
			}
			said = append(said, line)
		}
		if got := strings.Join(said, "; "); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.says, got, c.want)
		}
	}
}

// Whatever is asked: Explain has a reason if and only if Decide, under that engagement alone, denies.
func FuzzExplainAgreesWithDecide(f *testing.F) {
	f.Add("10.0.0.0/24", "10.0.7.0/25", 3, 100, int64(60), uint8(0))
	f.Add("10.0.0.5/32", "10.0.6.0/23", 70000, 0, int64(0), uint8(3))
	f.Fuzz(func(t *testing.T, a, b string, ports, rate int, seconds int64, more uint8) {
		e, faults := ParseEngagement("office.yaml", []byte("name: office\ncallers: {users: [1000]}\ntargets: [10.0.0.0/16, {network: 10.1.0.0/16, ports: [80]}]\nexclude: [10.0.7.0/24, {network: 10.0.0.9, ports: [22]}]\ntools: {nmap_scan: {profiles: [quick]}}\nhours: {days: [mon], from: \"08:00\", to: \"18:00\", timezone: UTC}\n"), Lookup{})
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		r := Request{Tool: "nmap_scan", Profile: "quick", Ports: max(ports, 0), Rate: max(rate, 0), Duration: time.Duration(max(min(seconds, 1e6), 0)) * time.Second}
		for _, text := range []string{a, b} {
			if p, err := netip.ParsePrefix(text); err == nil {
				r.Targets = append(r.Targets, Target{Text: text, Prefix: p.Masked()})
			}
		}
		if more&1 != 0 {
			r.Intrusive = []string{"scripts"}
		}
		if more&2 != 0 {
			r.Asked, _ = ParsePorts([]string{"22", "80"})
		}
		if more&4 != 0 {
			r.Profile = "script"
		}
		p := &Policy{Engagements: []Engagement{e}}
		for _, now := range []time.Time{time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} {
			x := Explain(p, Caller{UID: 1000}, r, now, true)[0]
			v := Decide(p, Caller{UID: 1000}, r, now)
			if (len(x.Against) > 0) != (v.Outcome == Deny) {
				t.Fatalf("%d reasons %v, and Decide says %s", len(x.Against), fmt.Sprint(x.Against), v)
			}
		}
	})
}
