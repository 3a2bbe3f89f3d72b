package lab

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func attacks(t *testing.T) *Attacks {
	t.Helper()
	if built := os.Getenv("SECMCPD_ATTACK"); built != "" { // where there is no compiler
		a, err := BuiltAttacks(built)
		must(t, err)
		return a
	}
	dir, err := os.MkdirTemp("", "attack")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	a, err := BuildAttacks(dir)
	must(t, err)
	return a
}

// awaitForbidden looks until something is there: a busy machine delivers late.
func awaitForbidden(t *testing.T, o *Observer) []Frame {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		frames, err := o.Forbidden()
		must(t, err)
		if len(frames) > 0 || time.Now().After(deadline) {
			return frames
		}
	}
}

// What the kernel of the sender itself never lets out, on any link.
const impossible = "larger than the link takes"

// On a link without a filter every attack is seen: so an observer that has seen nothing says
// something, and an attack that did nothing is none.
func TestEveryAttackIsSeen(t *testing.T) {
	a := attacks(t)
	s, undo, err := world.Direct()
	must(t, err)
	defer func() { must(t, undo()) }()
	o := observed(t, s.Scope())
	if len(a.List) < 100 {
		t.Fatalf("%d attacks", len(a.List))
	}
	for _, what := range a.List {
		said, err := a.Run(s, what)
		if err != nil {
			t.Error(err)
			continue
		}
		if stays[what.Mode] == impossible {
			if frames, err := o.Forbidden(); said != "sent 0 of 3, EMSGSIZE" || len(frames) > 0 || err != nil {
				t.Errorf("%s: %s, %v, %v", what, said, frames, err)
			}
			continue
		}
		if said != "sent 3 of 3" {
			t.Errorf("%s: %s", what, said)
		}
		frames := awaitForbidden(t, o)
		if want := reasons[what.Mode]; !slices.ContainsFunc(frames, func(f Frame) bool { return f.Segment == "direct" && strings.Contains(f.Why, want) }) {
			t.Errorf("%s was not seen: %v", what, frames)
		}
	}
}

// reasons are what the observer must have against some of them: each reason of its own has one.
var reasons = map[string]string{
	"udp": "off scope", "spoof": "a source of others", "mcast": "multicast", "mac-broadcast": "a broadcast frame",
	"macspoof": "from the hardware address", "mac-other": "for the hardware address", "vlan": "a VLAN tag", "qinq": "a VLAN tag",
	"lsrr": "IPv4 options", "rh0": "protocol 43", "destopt": "protocol 60", "esp": "protocol 50", "tcp-badlen": ", cut",
	"badlen": "a false length", "redirect": "ICMP that steers", "ra-host": "ICMP that steers", "na-host": "ICMP that steers",
	"garp": "ARP 2", "ethertype": "type 88b5", "runt": "header",
}

// stays are the attacks that a router of the ordinary kind does not forward, each with its
// reason. One with "4" or "6" at its end stays in that family alone.
var stays = map[string]string{
	"udp-gateway": "it is for the machine itself", "udp-host": "it is for the machine itself",
	"mac-other": "it is for another machine", "mac-broadcast": "a router forwards nothing that all have got",
	"mcast": "multicast is not routed", "bcast": "broadcast is not routed", "join": "reports are for the link",
	"dhcp": "broadcast is not routed", "dhcp6": "multicast is not routed", "linklocal": "link-local addresses are not routed",
	"arp-kernel": "ARP is for the link", "arp-off": "ARP is for the link", "garp": "ARP is for the link", "arp-poison": "ARP is for the link",
	"na-host": "neighbour discovery is for the link", "ra-host": "neighbour discovery is for the link",
	"hbh-jumbo": "a router discards what is malformed", "badihl": "a router discards what is malformed",
	"runt": "a router discards what is malformed", "spoof-machine 4": "a machine takes nothing that claims to be from itself",
	"badlen": "a router discards what is malformed", "zerolen 4": "a router discards what is malformed",
	"ethertype": "it is not IP", "vlan": "the machine is not in that VLAN", "qinq": "the machine is not in that VLAN",
	"mpls": "it is not IP", "pppoe": "it is not IP", "doubled": "it is not IP", "lldp": "it is not IP", "llc": "it is not IP",
	"jumbo": impossible,
}

func staysOnItsLink(what Attack) bool {
	family := " 4"
	if what.IPv6 {
		family = " 6"
	}
	return stays[what.Mode] != "" || stays[what.Mode+family] != ""
}

// Through a machine that routes as it does for slots, but filters nothing, all others arrive.
func TestAttacksCrossARouter(t *testing.T) {
	a := attacks(t)
	s := routed(t)
	o := observed(t, s.Scope())
	for _, what := range a.List {
		said, err := a.Run(s, what)
		if err != nil {
			t.Error(err)
			continue
		}
		if staysOnItsLink(what) {
			frames, err := o.Forbidden()
			must(t, err)
			if len(frames) > 0 {
				t.Errorf("%s has crossed the router: %v", what, frames)
			}
		} else if len(awaitForbidden(t, o)) == 0 {
			t.Errorf("%s has not crossed the router (%s)", what, said)
		}
	}
	for key := range stays {
		mode, _, _ := strings.Cut(key, " ")
		if !slices.ContainsFunc(a.List, func(w Attack) bool { return w.Mode == mode }) {
			t.Errorf("there is no %s", mode)
		}
	}
}
