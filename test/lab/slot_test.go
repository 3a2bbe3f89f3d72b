package lab

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// eachFilter runs a test with each of the filters that a slot can have.
func eachFilter(t *testing.T, run func(t *testing.T, noBPF bool)) {
	t.Run("bpf", func(t *testing.T) { run(t, false) })
	t.Run("table", func(t *testing.T) { run(t, true) })
}

// mode is that of the slots' network.
var mode = scope.Routed

// translated has what follows run in the mode in which no address of a slot is seen outside, with a
// lab that has no way to one.
func translated(t *testing.T) {
	t.Helper()
	back, err := world.Strand()
	must(t, err)
	mode = scope.Translated
	t.Cleanup(func() { mode = scope.Routed; must(t, back()) })
}

// leaving is what a slot may send, as it is seen outside.
func leaving(s Sender) Scope {
	out := s.Scope()
	if mode == scope.Translated {
		out.Sources = Prefixes(Uplink, Uplink6)
	}
	return out
}

// open makes the kernel's scope without a slot.
func open(t *testing.T, noBPF bool) *scope.Net {
	t.Helper()
	must(t, scope.Reclaim())
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/all/force_forwarding"); errors.Is(err, os.ErrNotExist) {
		// Before Linux 6.17 the operator has to switch it for the whole machine.
		must(t, switches("ipv6/conf/all/forwarding", "1"))
		t.Cleanup(func() { must(t, switches("ipv6/conf/all/forwarding", "0")) })
	}
	n, err := scope.Open(scope.Config{V4: one(SlotsV4), V6: one(SlotsV6), Mode: mode, NoBPF: noBPF})
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	return n
}

// slot makes one with a scope.
func slot(t *testing.T, n *scope.Net, allow ...string) (s Sender, end func()) {
	t.Helper()
	made, err := n.Slot(t.Context(), scope.All(Prefixes(allow...)...), 0)
	must(t, err)
	end = sync.OnceFunc(func() { must(t, made.Close()) })
	t.Cleanup(end)
	s, err = SenderIn(made.NetNS())
	must(t, err)
	return s, end
}

// speaks makes sure that a slot has a way to its scope, and that the observer sees it: silence
// means something only then.
func speaks(t *testing.T, s Sender, o *Observer, allow []string) {
	t.Helper()
	for _, to := range allow {
		before := o.Permitted()
		c, err := dial(s.NS, "tcp", netip.AddrPortFrom(one(to).Addr(), 80).String())
		if err != nil {
			t.Fatalf("the slot does not reach its scope: %v", err)
		}
		c.Close()
		if o.Permitted() <= before {
			t.Fatal("the observer has not seen what it may")
		}
	}
	o.Check(t, "what a slot may do")
}

// Of all attacks, and whatever the sender's own kernel says to them, nothing leaves a slot that
// is not for its scope.
func TestNoAttackLeavesASlot(t *testing.T) {
	a := attacks(t)
	for _, c := range []struct {
		says                             string
		allowed, allowed6, other, other6 string
		only6, noBPF, translated         bool
	}{
		{"a network that the router knows", SSHAndWeb, IPv6Host, Outside, Outside6, false, false, false},
		{"the same, where the table is the filter", SSHAndWeb, IPv6Host, Outside, Outside6, false, true, false},
		{"a neighbour on the uplink's own link", Near, Near6, NearOther, NearOther6, false, false, false},
		{"IPv6 from a job without", SSHAndWeb, "", Outside, Outside6, true, false, false},
		{"translated, a network that the router knows", SSHAndWeb, IPv6Host, Outside, Outside6, false, false, true},
		{"translated, where the table is the filter", SSHAndWeb, IPv6Host, Outside, Outside6, false, true, true},
		{"translated, a neighbour on the uplink's own link", Near, Near6, NearOther, NearOther6, false, false, true},
	} {
		t.Run(c.says, func(t *testing.T) {
			if c.translated {
				translated(t)
			}
			allow := []string{c.allowed}
			if c.allowed6 != "" {
				allow = append(allow, c.allowed6)
			}
			s, _ := slot(t, open(t, c.noBPF), allow...)
			s.Four.Allowed, s.Four.Forbidden, s.Six.Forbidden = one(c.allowed).Addr(), one(c.other).Addr(), one(c.other6).Addr()
			expect := Scope{Sources: leaving(s).Sources, Targets: Prefixes(allow...)}
			if c.allowed6 != "" {
				s.Six.Allowed = one(c.allowed6).Addr()
			}
			o := observed(t, expect)
			speaks(t, s, o, allow)
			list := slices.DeleteFunc(slices.Clone(a.List), func(what Attack) bool { return c.only6 && !what.IPv6 })
			for some := range slices.Chunk(list, 8) { // what one is about, its frame says
				said := make([]string, len(some))
				var running sync.WaitGroup
				for i, what := range some {
					running.Go(func() {
						told, err := a.Run(s, what)
						if err != nil {
							t.Error(err)
						}
						said[i] = what.String() + ", " + told
					})
				}
				running.Wait()
				o.Check(t, strings.Join(said, "; "))
			}
			time.Sleep(time.Second) // kernels ask for neighbours again
			o.Check(t, "all of them")
			speaks(t, s, o, allow)
		})
	}
}

// A slot is off scope for its neighbour.
func TestNoAttackReachesAnotherSlot(t *testing.T) { eachFilter(t, noAttackReachesAnotherSlot) }

func noAttackReachesAnotherSlot(t *testing.T, noBPF bool) {
	a := attacks(t)
	n := open(t, noBPF)
	from, _ := slot(t, n, SSHAndWeb, IPv6Host)
	to, _ := slot(t, n, SSHAndWeb, IPv6Host)
	from.Four.Forbidden, from.Six.Forbidden = to.Four.Source, to.Six.Source
	o, err := Watch(to.NS, Scope{})
	must(t, err)
	defer o.Close()
	for _, what := range a.List {
		switch what.Mode {
		case "tcp", "tcp6", "udp", "rawip", "packet", "packet6", "packet-bypass", "xdp", "gso", "spoof", "ttl1", "gw-reflect", "icmp-error", "ipip", "rh0", "lsrr-host":
			said, err := a.Run(from, what)
			if err != nil {
				t.Error(err)
			}
			o.Check(t, what.String()+", "+said+",")
		}
	}
}

// What comes from an address off scope does not get into a slot, errors of routers aside.
func TestNothingFromOutsideGetsIntoASlot(t *testing.T) {
	eachFilter(t, nothingFromOutsideGetsIntoASlot)
}

func nothingFromOutsideGetsIntoASlot(t *testing.T, noBPF bool) {
	s, _ := slot(t, open(t, noBPF), Hostile, Hostile6)
	o, err := Watch(s.NS, Scope{Sources: Prefixes(Hostile, Hostile6), Targets: s.Scope().Sources})
	must(t, err)
	defer o.Close()
	for _, to := range []netip.Addr{s.Four.Source, s.Six.Source} {
		for _, name := range []string{"a datagram from outside", "a SYN from outside", "a SYN-ACK from outside", "a reset from outside",
			"an echo reply from outside", "a tunnel from outside", "a fragment from outside"} {
			must(t, world.Intrude(name, to))
			o.Check(t, name)
		}
	}
	for _, to := range []string{Hostile, Hostile6} {
		if answer, err := answered(s.NS, "udp", netip.AddrPortFrom(one(to).Addr(), 53).String(), "question"); answer != "question" {
			t.Errorf("%s answers %q, %v", to, answer, err)
		}
		o.Check(t, "its lie")
	}
}

// Whatever a host sends that is no target does not get into a slot. The table alone lets errors of
// routers pass, about whatever.
func TestNoIntrusionGetsIntoASlot(t *testing.T) { eachFilter(t, noIntrusionGetsIntoASlot) }

func noIntrusionGetsIntoASlot(t *testing.T, noBPF bool) {
	s, _ := slot(t, open(t, noBPF), SSHAndWeb, IPv6Host)
	o, err := Watch(s.NS, Scope{})
	must(t, err)
	defer o.Close()
	for _, to := range []netip.Addr{s.Four.Source, s.Six.Source} {
		for _, name := range Intrusions(to) {
			if noBPF && (strings.HasPrefix(name, "an error") || name == "a tiny path") {
				continue
			}
			must(t, world.Intrude(name, to))
			o.Check(t, name)
		}
	}
}

// A host of one job's scope that goes on sending does not get into the next job, at whichever
// address.
func TestTheLastJobsHostsDoNotReachTheNext(t *testing.T) {
	eachFilter(t, theLastJobsHostsDoNotReachTheNext)
}

func theLastJobsHostsDoNotReachTheNext(t *testing.T, noBPF bool) {
	n := open(t, noBPF)
	s, end := slot(t, n, Hostile, Hostile6)
	for _, to := range []netip.Addr{s.Four.Source, s.Six.Source} {
		stop := world.Persist(to)
		defer func() {
			if sent, err := stop(); err != nil || sent < 100 {
				t.Errorf("the hostile host has sent %d packets to %s, %v", sent, to, err)
			}
		}()
	}
	o, err := Watch(s.NS, Scope{Sources: Prefixes(Hostile, Hostile6), Targets: s.Scope().Sources})
	must(t, err)
	for until := time.Now().Add(patience); o.Permitted() == 0 && time.Now().Before(until); {
	}
	if o.Permitted() == 0 {
		t.Error("the hostile host is not heard by the job that asked for it")
	}
	must(t, o.Close())
	end()
	next, _ := slot(t, n, SSHAndWeb, IPv6Host)
	for _, to := range []netip.Addr{next.Four.Source, next.Six.Source} {
		stop := world.Persist(to)
		defer func() {
			_, err := stop()
			must(t, err)
		}()
	}
	o, err = Watch(next.NS, next.Back())
	must(t, err)
	defer o.Close()
	time.Sleep(300 * time.Millisecond)
	o.Check(t, "another job's scan")
}

// The rules of container engines do not turn a slot's packets away from its scope. What is tracked
// and translated all the same is dropped.
func TestNoTranslationOfASlot(t *testing.T) {
	eachFilter(t, func(t *testing.T, noBPF bool) { noTranslationOfASlot(t, noBPF, true) })
	t.Run("translated", func(t *testing.T) {
		translated(t)
		eachFilter(t, func(t *testing.T, noBPF bool) { noTranslationOfASlot(t, noBPF, false) })
	})
}

func noTranslationOfASlot(t *testing.T, noBPF, arrives bool) {
	s, _ := slot(t, open(t, noBPF), SSHAndWeb)
	o := observed(t, leaving(s))
	speaks(t, s, o, []string{SSHAndWeb})
	for _, from := range []netip.AddrPort{netip.AddrPortFrom(s.Four.Allowed, 80), netip.AddrPortFrom(netip.Addr{}, 80)} {
		undo, err := world.Translate(from, netip.AddrPortFrom(s.Four.Forbidden, 80))
		must(t, err)
		defer func() { must(t, undo()) }()
	}
	for to, reached := range map[string]bool{s.Four.Allowed.String() + ":80": arrives, s.Four.Gateway.String() + ":80": false, Uplink + ":80": false} {
		c, err := dialWithin(s.NS, map[bool]time.Duration{true: patience, false: briefly}[reached], "tcp", to)
		if (err == nil) != reached {
			t.Errorf("%s was reached is %v, want %v (%v)", to, err == nil, reached, err)
		}
		if err == nil {
			c.Close()
		}
		o.Check(t, "a connection to "+to)
	}
}
