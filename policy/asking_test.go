package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Names that are only asked for: the name server is sent to, and nothing else.
func TestNamesThatAreAskedFor(t *testing.T) {
	w := labWorld(t)
	server := netip.MustParseAddrPort("192.0.2.53:53")
	for _, row := range []struct {
		says, name, server string
		below              bool
		code               string
	}{
		{"all below a name that a rule for all below it covers", "lab.internal", "", true, ""},
		{"all below a name in it", "a.lab.internal", "", true, ""},
		{"the name alone is not below itself", "lab.internal", "", false, NameNotAllowed},
		{"a rule for one name is none for those below it", "internal", "", true, NameNotAllowed},
		{"nobody's name", "example.com", "", true, NameNotAllowed},
		{"an end that is no label's beginning", "notlab.internal", "", true, NameNotAllowed},
		{"a name server that is excluded", "lab.internal", "10.0.0.1:53", true, TargetExcluded},
		{"another port", "lab.internal", "192.0.2.53:5353", true, ""},
	} {
		r := Request{Tool: "nmap_scan", Profile: "quick", Ports: 1, PortsField: "domain", Resolver: server,
			Targets: []Target{{Text: row.name, Name: row.name, Field: "domain", Below: row.below}}}
		if row.server != "" {
			r.Resolver = netip.MustParseAddrPort(row.server)
		}
		for _, v := range []Verdict{Precheck(w.Policy, w.caller, r, w.now), Decide(w.Policy, w.caller, r, w.now)} {
			if v.Code != row.code || (v.Outcome == Allow) != (row.code == "") || v.MoreNames {
				t.Errorf("%s: %+v", row.says, v)
			}
			if v.Outcome != Allow {
				if v.Field != "domain" {
					t.Errorf("%s: field %q", row.says, v.Field)
				}
				continue
			}
			port := r.Resolver.Port()
			want := Ports{TCP: [][2]uint16{{port, port}}, UDP: [][2]uint16{{port, port}}}
			if got := v.Addresses(); len(got) != 1 || got[0].Addr() != r.Resolver.Addr() || v.Ports == nil || !v.Ports.Covers(&want) || !want.Covers(v.Ports) {
				t.Errorf("%s: %v %v", row.says, got, v.Ports)
			}
		}
	}
}

// A name that is only said to an address is allowed where a rule for names has both.
func TestNamesThatAreSaidToAnAddress(t *testing.T) {
	w := labWorld(t)
	for _, row := range []struct {
		name, at string
		below    bool
		code     string
	}{
		{"lab.internal", "10.0.0.9", true, ""},
		{"www.lab.internal", "10.0.0.9", false, ""},
		{"db.lab.internal", "192.168.1.4", false, ""},
		{"db.lab.internal", "192.168.1.4", true, NameOutsideScope}, // below it the wider rule holds alone
		{"lab.internal", "10.77.0.9", true, NameOutsideScope},
		{"example.com", "10.0.0.9", true, NameNotAllowed},
		{"example.com", "10.0.0.9", false, NameNotAllowed},
	} {
		a := netip.MustParseAddr(row.at)
		r := scan(row.at)
		r.Targets = append(r.Targets, Target{Text: row.name, Name: row.name, Field: "domain", Below: row.below, Said: true, Answers: []netip.Addr{a}})
		v := Decide(w.Policy, w.caller, r, w.now)
		if v.Code != row.code || v.Code == NameNotAllowed && strings.Contains(v.Hint, "address") {
			t.Errorf("%s at %s: %+v", row.name, row.at, v)
		}
		if v.Outcome == Allow && !slices.Equal(v.Addresses(), prefixes(row.at+"/32")) {
			t.Errorf("%s at %s: %v", row.name, row.at, v.Addresses())
		}
	}
}
