package scope

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stopsWithin is what documentation promises of a slot whose filter is gone. Most of it is for a
// machine that is busy with other things.
const stopsWithin = 250 * time.Millisecond

// watching runs the watch until the test ends.
func watching(t *testing.T, n *Net) chan error {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	told, ended := make(chan error, 64), make(chan error, 1)
	go func() { ended <- n.Watch(ctx, func(_, err error) { told <- err }) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			must(t, err)
		case <-time.After(5 * time.Second):
			t.Error("the watch does not end")
		}
	})
	return told
}

// somebody is another program that changes the machine's filter.
func somebody(t *testing.T) *nftables.Conn {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	return c
}

func TestAFilterThatSomebodyChangesEndsItsSlots(t *testing.T) {
	ours := ourTable()
	chain := func(name string) *nftables.Chain { return &nftables.Chain{Table: ours, Name: name} }
	for _, c := range []struct {
		says       string
		change     func(t *testing.T, c *nftables.Conn, s *Slot)
		ofTheTable bool // it is about what the table has for each slot
	}{
		{"every rule is forgotten", func(_ *testing.T, c *nftables.Conn, _ *Slot) { c.FlushRuleset() }, false},
		{"the table is deleted", func(_ *testing.T, c *nftables.Conn, _ *Slot) { c.DelTable(ours) }, false},
		{"the table is flushed", func(_ *testing.T, c *nftables.Conn, _ *Slot) { c.FlushTable(ours) }, false},
		{"a chain is flushed", func(_ *testing.T, c *nftables.Conn, s *Slot) { c.FlushChain(chain(chainName(s.number))) }, true},
		{"the base is flushed", func(_ *testing.T, c *nftables.Conn, _ *Slot) { c.FlushChain(chain("prerouting")) }, false},
		{"a rule is deleted", func(t *testing.T, c *nftables.Conn, _ *Slot) {
			rules, err := c.GetRules(ours, chain("prerouting"))
			must(t, err)
			must(t, c.DelRule(rules[0]))
		}, false},
		{"a rule is added", func(_ *testing.T, c *nftables.Conn, s *Slot) {
			c.InsertRule(&nftables.Rule{Table: ours, Chain: chain(chainName(s.number)), Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		}, true},
		{"an address is added to the scope", func(t *testing.T, c *nftables.Conn, s *Slot) {
			must(t, c.SetAddElements(&nftables.Set{Table: ours, Name: set4Name(s.number), KeyType: nftables.TypeIPAddr, Interval: true},
				[]nftables.SetElement{{Key: forbidden.AsSlice()}, {Key: forbidden.Next().AsSlice(), IntervalEnd: true}}))
		}, true},
		{"what judges translations is flushed", func(_ *testing.T, c *nftables.Conn, _ *Slot) {
			if config.Mode != Translated {
				c.FlushRuleset()
				return
			}
			c.FlushChain(chain("tracked"))
		}, false},
		{"a chain is added", func(_ *testing.T, c *nftables.Conn, _ *Slot) { c.AddChain(chain("more")) }, false},
	} {
		filters := withBoth
		if c.ofTheTable {
			filters = func(t *testing.T, try func(*testing.T)) { withTable(t); try(t) }
		}
		t.Run(c.says, func(t *testing.T) {
			filters(t, func(t *testing.T) {
				l := newLab(t)
				n := openNet(t)
				told := watching(t, n)
				s := slotOf(t, n, All(host(allowed)))
				must(t, reaches(s.NetNS(), allowed)) // neighbours are known from here on
				stop := sending(t, s)
				time.Sleep(20 * time.Millisecond)
				l.strangers(outside(s))

				other := somebody(t)
				source, _ := outside(s)
				c.change(t, other, s)
				changed := time.Now()
				must(t, other.Flush())
				last, elsewhere := l.lastFrom(source, changed.Add(2*stopsWithin))
				stop()
				t.Logf("the last packet came %v after the change", max(last.Sub(changed), 0))
				if last.Sub(changed) > stopsWithin {
					t.Errorf("packets came for %v after the change", last.Sub(changed))
				}
				if elsewhere > 0 {
					t.Errorf("%d packets went elsewhere than to the scope", elsewhere)
				}
				select {
				case <-s.Lost():
				case <-time.After(8 * stopsWithin): // nothing has passed since: this is about the word of it
					t.Error("the slot does not say that it is lost")
				}
				if c, err := s.Counters(); config.NoBPF && !errors.Is(err, ErrLost) || !config.NoBPF && (err != nil || c.Sent == 0) {
					t.Errorf("its counters: %+v, %v", c, err)
				}
				select {
				case err := <-told: // when all is done that follows
					must(t, err)
				case <-time.After(8 * stopsWithin):
					t.Error("nobody is told")
				}
				if get("ipv4", "uplink", "forwarding") != "0" {
					t.Error("an interface still forwards for slots")
				}
				must(t, s.Close())

				next := slotOf(t, n, All(host(allowed)))
				must(t, reaches(next.NetNS(), allowed))
				l.strangers(outside(next))
				for _, a := range attacks[:4] {
					must(t, a.send(next))
				}
				for _, f := range l.strangers(outside(next)) {
					t.Errorf("from the next slot: %s", f)
				}
				select {
				case <-next.Lost():
					t.Error("the next slot is lost, too")
				default:
				}
			})
		})
	}
}

// sending sends to an address of the scope and to one beside it, without a pause.
func sending(t *testing.T, s *Slot) (stop func()) {
	t.Helper()
	outer, err := netlink.LinkByName(s.name())
	must(t, err)
	var frames [][]byte
	var fd, index int
	must(t, in(s.netns, func() {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		var eth0 *net.Interface
		if eth0, err = net.InterfaceByName("eth0"); err != nil {
			return
		}
		index = eth0.Index
		for _, to := range []netip.Addr{allowed, forbidden} {
			f := slices.Concat(outer.Attrs().HardwareAddr, eth0.HardwareAddr, []byte{8, 0}, packet4(inner(s), to, 17, nil, 0))
			frames = append(frames, f)
		}
	}))
	must(t, err)
	var stopped atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stopped.Load() {
			for _, f := range frames {
				// A link that is down refuses; that is what is waited for.
				_ = unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: index, Protocol: swap(unix.ETH_P_IP)})
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	return func() {
		stopped.Store(true)
		<-done
		unix.Close(fd)
	}
}

// lastFrom watches what comes from a slot and says when the last packet came, and how many went
// elsewhere than to the allowed address.
func (l *lab) lastFrom(source netip.Addr, until time.Time) (last time.Time, elsewhere int) {
	b := make([]byte, 4096)
	for time.Now().Before(until) {
		n, from, err := unix.Recvfrom(l.witness, b, 0)
		if err != nil {
			time.Sleep(100 * time.Microsecond)
			continue
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING || n < 34 || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_IP ||
			netip.AddrFrom4([4]byte(b[26:30])) != source {
			continue
		}
		last = time.Now()
		if netip.AddrFrom4([4]byte(b[30:34])) != allowed {
			elsewhere++
		}
	}
	return last, elsewhere
}

// What others do to tables of their own, and what we do, ends nothing.
func TestAFilterThatIsLeftAloneKeepsItsSlots(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		n := openNet(t)
		told := watching(t, n)
		s := slotOf(t, n, All(host(allowed)))
		other := somebody(t)
		for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4} {
			table := other.AddTable(&nftables.Table{Family: family, Name: "secmcpd2"})
			other.AddChain(&nftables.Chain{Table: table, Name: "prerouting"})
			must(t, other.Flush())
			other.DelTable(table)
			must(t, other.Flush())
		}
		// The same name, another family.
		table := other.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
		must(t, other.Flush())
		other.DelTable(table)
		must(t, other.Flush())
		for range 5 {
			second, err := n.Slot(context.Background(), All(host(allowed), host(allowed6)), 0)
			must(t, err)
			must(t, second.Close())
		}
		time.Sleep(stopsWithin)
		select {
		case err := <-told:
			t.Errorf("the watch says it is lost (%v)", err)
		case <-s.Lost():
			t.Error("the slot is lost")
		default:
		}
		must(t, reaches(s.NetNS(), allowed))
	})
}

// The kernel drops events for a watch that does not keep up. Then the filter itself is asked.
func TestLostEventsAreFoundOutAbout(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		for says, changed := range map[string]bool{"and the filter is as it was": false, "and the filter was changed": true} {
			t.Run(says, func(t *testing.T) {
				newLab(t)
				n := openNet(t)
				must(t, n.events.conn.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) }))
				slotOf(t, n, All(host(allowed)))
				other := somebody(t)
				for range 50 { // before anybody reads
					other.DelTable(other.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "noise"}))
					must(t, other.Flush())
				}
				if changed {
					other.FlushTable(ourTable())
					must(t, other.Flush())
				}
				told := watching(t, n)
				select {
				case err := <-told:
					must(t, err)
					if !changed {
						t.Error("the watch says it is lost")
					}
				case <-time.After(stopsWithin):
					if changed {
						t.Error("the change was not found out about")
					}
				}
			})
		}
	})
}

// A slot that is made while the filter goes is lost as well, or was never made.
func TestASlotIsNeverMadeOfAFilterThatIsGone(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		n := openNet(t)
		told := watching(t, n)
		other := somebody(t)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range 20 {
				other.FlushRuleset()
				_ = other.Flush()
				time.Sleep(7 * time.Millisecond)
			}
		}()
		made := 0
		for working := true; working; {
			select {
			case <-ended:
				working = false
			case <-told:
			default:
			}
			s, err := n.Slot(context.Background(), All(host(allowed)), 0)
			if err != nil {
				continue
			}
			made++
			time.Sleep(stopsWithin / 10)
			if _, err := s.Counters(); err != nil && !errors.Is(err, ErrLost) {
				t.Errorf("counters: %v", err)
			}
			if err := s.Close(); err != nil && !errors.Is(err, unix.ENOENT) { // the table went in that moment; the link is down
				t.Error(err)
			}
		}
		var s *Slot
		for until := time.Now().Add(10 * time.Second); ; { // a busy machine tells the last change late
			s = slotOf(t, n, All(host(allowed)))
			err := errors.Join(reaches(s.NetNS(), allowed), s.Check())
			if err == nil {
				break
			}
			if time.Now().After(until) {
				t.Fatal(err)
			}
		}
		if dial(s.NetNS(), forbidden, 300*time.Millisecond) == nil {
			t.Error("reached what is not in the scope")
		}
		t.Logf("%d slots were made meanwhile", made)
	})
}
