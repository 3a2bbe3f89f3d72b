package scope

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// shell is somebody at this machine's shell.
func shell(t *testing.T, words ...string) {
	t.Helper()
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", words, err, out)
	}
}

// hands are what somebody does to a slot that is in use.
var hands = []struct {
	says   string
	change func(t *testing.T, s *Slot)
	what   string // the slot is told
	all    bool   // the slot beside it suffers from it, too
	only   string // with this filter alone
}{
	{"takes its link down", func(t *testing.T, s *Slot) { shell(t, "ip", "link", "set", s.name(), "down") }, s0, false, ""},
	{"takes the box's side down", func(t *testing.T, s *Slot) {
		must(t, in(s.netns, func() { shell(t, "ip", "link", "set", "eth0", "down") }))
	}, "box's side", false, ""},
	{"deletes its link", func(t *testing.T, s *Slot) { shell(t, "ip", "link", "del", s.name()) }, s0, false, ""}, // its routes go first
	{"gives its link another name", func(t *testing.T, s *Slot) {
		shell(t, "ip", "link", "set", s.name(), "down")
		shell(t, "ip", "link", "set", s.name(), "name", "other0")
		shell(t, "ip", "link", "set", "other0", "up")
	}, s0, false, ""},
	{"gives its link another hardware address", func(t *testing.T, s *Slot) {
		shell(t, "ip", "link", "set", s.name(), "address", "02:00:00:00:00:99")
	}, "hardware address", false, ""},
	{"puts its link into a bridge", func(t *testing.T, s *Slot) {
		shell(t, "ip", "link", "add", "bridge0", "type", "bridge")
		t.Cleanup(func() { shell(t, "ip", "link", "del", "bridge0") })
		shell(t, "ip", "link", "set", s.name(), "master", "bridge0")
	}, "belongs to another", false, ""},
	{"takes the filter off", func(t *testing.T, s *Slot) { shell(t, "tc", "qdisc", "del", "dev", s.name(), "clsact") }, "filter is not on", false, "bpf"},
	{"takes one side of the filter off", func(t *testing.T, s *Slot) { shell(t, "tc", "filter", "del", "dev", s.name(), "egress") }, "filter is not on", false, "bpf"},
	{"puts a filter beside ours", func(t *testing.T, s *Slot) {
		must(t, netlink.FilterAdd(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: s.outer.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS,
			Handle: 1, Priority: 7, Protocol: unix.ETH_P_ALL}, Fd: s.net.filter.programs.Out.FD(), Name: "other", DirectAction: true}))
	}, "filter is not on", false, "bpf"},
	{"flushes its addresses", func(t *testing.T, s *Slot) { shell(t, "ip", "addr", "flush", "dev", s.name()) }, s0, false, ""},
	{"flushes its IPv6 addresses", func(t *testing.T, s *Slot) { shell(t, "ip", "-6", "addr", "flush", "dev", s.name()) }, "lost its address", false, ""},
	{"flushes its routes", func(t *testing.T, s *Slot) { shell(t, "ip", "route", "flush", "dev", s.name()) }, "no route", false, ""},
	{"flushes its IPv6 routes", func(t *testing.T, s *Slot) { shell(t, "ip", "-6", "route", "flush", "dev", s.name()) }, "no route", false, ""},
	{"leads its answers elsewhere", func(t *testing.T, s *Slot) {
		shell(t, "ip", "route", "replace", s.inner4.String()+"/32", "dev", "uplink")
	}, "no route", false, ""},
	{"leads its answers elsewhere by a rule", func(t *testing.T, s *Slot) {
		shell(t, "ip", "route", "add", "default", "dev", "uplink", "table", "77")
		shell(t, "ip", "rule", "add", "to", s.inner4.String(), "lookup", "77", "pref", "50")
		t.Cleanup(func() { shell(t, "ip", "rule", "del", "pref", "50"); shell(t, "ip", "route", "flush", "table", "77") })
	}, "no route", false, ""},
	{"switches forwarding of its link off", func(t *testing.T, s *Slot) { must(t, set("ipv4", s.name(), "forwarding", "0")) }, "forwarding of secv", false, ""},
	{"switches forwarding of the uplink off", func(t *testing.T, s *Slot) { must(t, set("ipv4", "uplink", "forwarding", "0")) }, "forwarding of uplink", true, ""},
	{"switches IPv6 forwarding of its link off", func(t *testing.T, s *Slot) {
		must(t, set("ipv6", s.name(), "force_forwarding", "0"))
	}, "IPv6 forwarding of secv", false, ""},
	{"removes the rule that has the mark", func(t *testing.T, _ *Slot) {
		must(t, netlink.RuleDel(trapRule(netlink.FAMILY_V4)))
	}, "rule of routing", true, "bpf"},
	{"removes the rule that has the mark of IPv6", func(t *testing.T, _ *Slot) {
		must(t, netlink.RuleDel(trapRule(netlink.FAMILY_V6)))
	}, "rule of routing", true, "bpf"},
	{"removes the rule of its fence", func(t *testing.T, s *Slot) {
		must(t, netlink.RuleDel(fenceRule(s.number, netlink.FAMILY_V6, s.name())))
	}, "routing of the link", false, "nftables"},
	{"removes a route of its fence", func(t *testing.T, s *Slot) {
		must(t, netlink.RouteDel(fenceRoutes(s.number, netlink.FAMILY_V4, s.allow)[0]))
	}, "routing of the link", false, "nftables"},
}

// byFilter is withBoth in one mode: what is looked at is the same in each.
func byFilter(t *testing.T, try func(t *testing.T)) {
	t.Run("bpf", try)
	t.Run("nftables", func(t *testing.T) { withTable(t); try(t) })
}

// s0 stands for whatever is said of the link: there is more than one consequence, and which one is seen
// first is a matter of luck.
const s0 = "secv"

func TestASlotThatSomebodyChangesIsLost(t *testing.T) {
	byFilter(t, func(t *testing.T) {
		for _, hand := range hands {
			if hand.only != "" && (hand.only == "nftables") != config.NoBPF {
				continue
			}
			t.Run("who "+hand.says, func(t *testing.T) {
				newLab(t)
				n := openNet(t)
				told := watching(t, n)
				scope := []netip.Prefix{host(allowed), host(allowed6)}
				s := slotOf(t, n, All(scope...))
				beside, err := n.Slot(context.Background(), All(scope...), 0)
				must(t, err)
				defer beside.Close()
				must(t, errors.Join(reaches(s.netns, allowed), s.Check(), beside.Check()))
				hand.change(t, s)
				changed := time.Now()
				select {
				case <-s.Lost():
					t.Logf("lost %v after the change", time.Since(changed))
				case <-time.After(5 * stopsWithin):
					t.Fatal("the slot does not say that it is lost")
				}
				if err := s.Check(); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), hand.what) {
					t.Errorf("it says: %v", err)
				}
				if dial(s.netns, allowed, 200*time.Millisecond) == nil {
					t.Error("it still reaches its scope")
				}
				select {
				case err := <-told:
					must(t, err)
				case <-time.After(time.Second):
					t.Error("nobody is told")
				}
				if _, err := s.Counters(); err != nil && !(config.NoBPF || hand.all) {
					t.Errorf("its counters: %v", err)
				}
				if !hand.all {
					select {
					case <-beside.Lost():
						t.Errorf("the slot beside it is lost, too: %v", beside.Check())
					case err := <-told:
						t.Errorf("something else is told: %v", err)
					case <-time.After(50 * time.Millisecond):
					}
					must(t, errors.Join(reaches(beside.netns, allowed), beside.Check()))
				}
				must(t, s.Close())
				next := slotOf(t, n, All(scope...))
				must(t, errors.Join(reaches(next.netns, allowed), reaches(next.netns, allowed6), next.Check()))
				if n.filter != nil && !trapped() {
					t.Error("what has the mark is no longer swallowed")
				}
			})
		}
	})
}

// Whoever asks at the end hears of it even if the watch has not come to it yet.
func TestALastLookFindsWhatSomebodyHasChanged(t *testing.T) {
	byFilter(t, func(t *testing.T) {
		for _, hand := range hands {
			if hand.only != "" && (hand.only == "nftables") != config.NoBPF || hand.says == "removes a route of its fence" { // which only events tell
				continue
			}
			t.Run("who "+hand.says, func(t *testing.T) {
				newLab(t)
				n := openNet(t)
				s := slotOf(t, n, All(host(allowed), host(allowed6)))
				must(t, s.Check())
				hand.change(t, s)
				if err := s.Check(); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), hand.what) {
					t.Errorf("it says: %v", err)
				}
			})
		}
	})
}

// The same for all that are made ready: none of them is given to anybody.
func TestALinkThatSomebodyChangedIsNotGivenOut(t *testing.T) {
	byFilter(t, func(t *testing.T) {
		for _, hand := range hands {
			if hand.all || hand.only == "nftables" || hand.only == "bpf" && config.NoBPF || strings.Contains(hand.says, "forwarding") || hand.says == "flushes its IPv6 addresses" {
				continue // of the slot alone, or set again by it; or of no consequence
			}
			t.Run("who "+hand.says, func(t *testing.T) {
				newLab(t)
				defer func(ready int) { config.Ready = ready }(config.Ready)
				config.Ready = 0
				n := openNet(t)
				n.ready = make(chan *link, 1)
				l, err := n.newLink(context.Background())
				must(t, err)
				hand.change(t, &Slot{link: l, net: n})
				n.ready <- l
				s := slotOf(t, n, All(host(allowed), host(allowed6)))
				if s.link == l {
					t.Error("it is given out")
				}
				must(t, errors.Join(reaches(s.netns, allowed), reaches(s.netns, allowed6)))
			})
		}
	})
}

// Slots that come and go beside one, and what others do to their own, end none.
func TestASlotThatIsLeftAloneIsNotLost(t *testing.T) {
	byFilter(t, func(t *testing.T) {
		newLab(t)
		n := openNet(t)
		told := watching(t, n)
		s, err := n.Slot(context.Background(), All(host(allowed), host(allowed6)), 1000)
		must(t, err)
		defer s.Close()
		for range 5 {
			second, err := n.Slot(context.Background(), All(host(allowed), host(allowed6)), 100)
			must(t, err)
			must(t, second.Close())
		}
		shell(t, "ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
		shell(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "other0")
		shell(t, "ip", "link", "set", "other0", "up")
		shell(t, "tc", "qdisc", "add", "dev", "other0", "clsact")
		shell(t, "ip", "rule", "add", "to", "192.0.2.0/24", "lookup", "main", "pref", "60")
		shell(t, "ip", "rule", "del", "pref", "60")
		shell(t, "ip", "link", "del", "other0")
		// And when events were lost, all is looked at.
		must(t, n.links.conn.Control(func(fd uintptr) { _ = setReceive(int(fd), 1) }))
		// Not of lo: IPv6 routes that swallow are its routes, and those of a fence are gone with it.
		shell(t, "ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
		for range 50 {
			shell(t, "ip", "link", "set", "other0", "up")
			shell(t, "ip", "link", "set", "other0", "down")
		}
		shell(t, "ip", "link", "del", "other0")
		time.Sleep(stopsWithin)
		select {
		case err := <-told:
			t.Errorf("the watch says it is lost (%v): %v", err, s.Check())
		case <-s.Lost():
			t.Errorf("the slot is lost: %v", s.Check())
		default:
		}
		must(t, errors.Join(reaches(s.netns, allowed), s.Check()))
	})
}

// The kernel drops events for a watch that does not keep up. Then every slot is looked at.
func TestLostEventsOfLinksAreFoundOutAbout(t *testing.T) {
	newLab(t)
	n := openNet(t)
	s := slotOf(t, n, All(host(allowed)))
	must(t, n.links.conn.Control(func(fd uintptr) { _ = setReceive(int(fd), 1) }))
	for range 20 { // before anybody reads
		shell(t, "ip", "link", "set", "uplink", "alias", "noise")
		shell(t, "ip", "link", "set", "uplink", "alias", "more")
	}
	shell(t, "ip", "link", "set", s.name(), "down")
	watching(t, n)
	select {
	case <-s.Lost():
	case <-time.After(stopsWithin):
		t.Error("the change was not found out about")
	}
}

func setReceive(fd, bytes int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}
