package scope

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// An address that a station has is no slot's, of either family, is told once, and is a slot's again when
// the station is gone.
func TestAnAddressThatAStationHasIsNotLent(t *testing.T) {
	for _, c := range []struct {
		says string
		of   func(addresses) netip.Addr
	}{
		{"IPv4", func(a addresses) netip.Addr { return a.inner4 }},
		{"IPv6", func(a addresses) netip.Addr { return a.inner6 }},
	} {
		t.Run(c.says, func(t *testing.T) {
			withMode(t, L2)
			config.Ready = 0
			l := newLab(t)
			var told sayings
			config.Failed = told.add
			n := openNet(t)
			n.numbers.rest = 0
			n.numbers.size = 2
			n.numbers.start = 0 // the first is 1, then 0
			its := c.of(config.addresses(1))
			station, err := netlink.NewHandleAt(netns.NsHandle(l.ns.Fd()))
			must(t, err)
			defer station.Close()
			eth0, err := station.LinkByName("eth0")
			must(t, err)
			must(t, station.AddrAdd(eth0, alone(its)))
			must(t, awaitOwn(station, its))

			one := slotOf(t, n, All(host(allowed)))
			if one.number != 0 {
				t.Errorf("a slot has %s", its)
			}
			want := Claim{its, eth0.Attrs().HardwareAddr}
			if got := n.Claims(); len(got) != 1 || got[0].Addr != want.Addr || !slices.Equal(got[0].By, want.By) {
				t.Errorf("it is said that %v, want %v", got, want)
			}
			ctx, done := context.WithTimeout(t.Context(), time.Second)
			defer done()
			if _, err := n.Slot(ctx, All(host(allowed)), 0); err == nil || !strings.Contains(err.Error(), "others") {
				t.Errorf("there was nothing left, and yet: %v", err)
			}
			if got := told.all(); len(got) != 1 || !strings.Contains(got[0], its.String()) || !strings.Contains(got[0], want.By.String()) {
				t.Errorf("it was told: %q", got)
			}

			must(t, station.AddrDel(eth0, alone(its)))
			other := slotOf(t, n, All(host(allowed)))
			if other.number != 1 || len(n.Claims()) != 0 {
				t.Errorf("the station is gone: number %d, %v", other.number, n.Claims())
			}
			must(t, reaches(other.netns, allowed))
		})
	}
}

// sayings is what somebody was told.
type sayings struct {
	mu   sync.Mutex
	list []string
}

func (s *sayings) add(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, err.Error())
}

func (s *sayings) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// What is no claim is not taken for one, whatever its length.
func TestClaimsAreRead(t *testing.T) {
	withMode(t, L2)
	arp := ethernet(box, stranger, 0x0806, arpOf(2, stranger, allowed, here))
	nd := back6(ip6(allowed6, addr("ff02::1"), 58, slices.Concat([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, forbidden6.AsSlice())))
	nd[ethernetHeader+7] = 255
	change := func(f []byte, at int, to byte) []byte {
		f = slices.Clone(f)
		f[at] = to
		return f
	}
	for _, c := range []struct {
		says  string
		frame []byte
		want  netip.Addr
	}{
		{"an answer of ARP", arp, allowed},
		{"a question under an address", change(arp, ethernetHeader+7, 1), allowed},
		{"of another protocol than IPv4", change(arp, ethernetHeader+2, 9), netip.Addr{}},
		{"an advertisement", nd, forbidden6},
		{"from behind a router", change(nd, ethernetHeader+7, 254), netip.Addr{}},
		{"a solicitation", change(nd, ethernetHeader+ipv6Header, 135), netip.Addr{}},
	} {
		if got, _, ok := claimOf(c.frame); ok != c.want.IsValid() || ok && got != c.want {
			t.Errorf("%s: %v, %v", c.says, got, ok)
		}
		for i := range c.frame {
			claimOf(c.frame[:i])
		}
	}
}
