package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/sandbox"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// turns of what takes seconds.
const turns = 5

// wires are two ways to the same kind of network: the bare link of a namespace, and a slot, whose
// packets this machine filters and forwards. At the end of each is a machine with one address that
// answers; it swallows what goes to the rest of the network, and counts.
type wires struct {
	net         *scope.Net
	bare        *os.File // the namespace at this end of the bare link
	behindBare  *os.File
	behindSlots *os.File
	undo        []func() error
}

const (
	farAddress = "11.0.255.254" // in network, and answers
	farNetwork = "11.0.0.0/10"
)

func newWires() (_ *wires, err error) {
	w := &wires{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	namespace := func(into **os.File) error {
		if *into, err = emptyNetwork(); err == nil {
			w.undo = append(w.undo, (*into).Close)
		}
		return err
	}
	if err := errors.Join(namespace(&w.bare), namespace(&w.behindBare), namespace(&w.behindSlots)); err != nil {
		return nil, err
	}
	if err := errors.Join(join(w.bare, "10.87.0.1/30", w.behindBare, "10.87.0.2/30", "10.254.200.0/22"), join(nil, "10.87.1.1/30", w.behindSlots, "10.87.1.2/30", "10.254.200.0/22")); err != nil {
		return nil, err
	}
	w.undo = append(w.undo, func() error {
		l, err := netlink.LinkByName("bench0")
		if err == nil {
			err = netlink.LinkDel(l)
		}
		return err
	})
	if err := scope.Reclaim(); err != nil {
		return nil, err
	}
	w.net, err = scope.Open(scope.Config{V4: netip.MustParsePrefix("10.254.200.0/22"), V6: netip.MustParsePrefix("fd5e:c0de:5ca1::/48"), Mode: scope.Routed, Ready: 2})
	if err != nil {
		return nil, err
	}
	w.undo = append(w.undo, w.net.Close)
	return w, nil
}

func (w *wires) close() (err error) {
	for i := len(w.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, w.undo[i]())
	}
	return err
}

// join makes a link between two namespaces (nil: this one) with the far network behind it.
func join(here *os.File, near string, there *os.File, far, back string) error {
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(there.Fd())}
	veth.Name = "bench0"
	if here != nil {
		veth.Namespace = netlink.NsFd(here.Fd())
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	side := func(ns *os.File, name string, addresses ...string) (h *netlink.Handle, l netlink.Link, err error) {
		if ns == nil {
			h, err = netlink.NewHandle()
		} else {
			h, err = netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
		}
		if err != nil {
			return nil, nil, err
		}
		if l, err = h.LinkByName(name); err != nil {
			return nil, nil, err
		}
		for _, a := range addresses {
			parsed, err := netlink.ParseAddr(a)
			if err != nil {
				return nil, nil, err
			}
			if err := h.AddrAdd(l, parsed); err != nil {
				return nil, nil, err
			}
		}
		return h, l, h.LinkSetUp(l)
	}
	ours, nearLink, err := side(here, "bench0", near)
	if err != nil {
		return fmt.Errorf("near side: %w", err)
	}
	defer ours.Close()
	theirs, farLink, err := side(there, "eth0", far, farAddress+"/32")
	if err != nil {
		return fmt.Errorf("far side: %w", err)
	}
	defer theirs.Close()
	to, through := parse(farNetwork), addressOf(far)
	if here != nil {
		to = parse("0.0.0.0/0") // masscan wants a default route
	}
	return errors.Join(
		ours.RouteAdd(&netlink.Route{LinkIndex: nearLink.Attrs().Index, Dst: to, Gw: through}),
		theirs.RouteAdd(&netlink.Route{LinkIndex: farLink.Attrs().Index, Dst: parse(back), Gw: addressOf(near)}))
}

func parse(prefix string) *net.IPNet { _, n, _ := net.ParseCIDR(prefix); return n }

func addressOf(prefix string) net.IP { a, _, _ := net.ParseCIDR(prefix); return a }

// arrived is how many packets have come to the end of a way.
func arrived(there *os.File) (uint64, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(there.Fd()))
	if err != nil {
		return 0, err
	}
	defer h.Close()
	l, err := h.LinkByName("eth0")
	if err != nil {
		return 0, err
	}
	return l.Attrs().Statistics.RxPackets, nil
}

// within runs a program in a namespace until it ends, or for as long as it may.
func within(ns *os.File, howLong time.Duration, argv ...string) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // given up: it is in another namespace
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			ended <- err
			return
		}
		ctx, done := context.WithTimeout(context.Background(), howLong)
		defer done()
		err := exec.CommandContext(ctx, argv[0], argv[1:]...).Run()
		if ctx.Err() != nil {
			err = nil // masscan never ends on a quiet link
		}
		ended <- err
	}()
	return <-ended
}

// masscan sends SYNs at a rate to so many addresses and says how many arrived, and how many in a
// second of those while it lasted.
func masscan(from, there *os.File, rate, addresses int, howLong time.Duration) (packets, perSecond float64, err error) {
	before, err := arrived(there)
	if err != nil {
		return 0, 0, err
	}
	stop := make(chan struct{})
	most := make(chan float64)
	go func() { // the middle of the time alone: it begins and ends slowly
		var speeds []float64
		last, at := before, time.Now()
		for {
			select {
			case <-stop:
				if len(speeds) > 2 {
					speeds = speeds[1 : len(speeds)-1]
				}
				most <- median(speeds)
				return
			case <-time.After(250 * time.Millisecond):
				n, err := arrived(there)
				if err == nil && n > last {
					speeds = append(speeds, float64(n-last)/time.Since(at).Seconds())
				}
				last, at = n, time.Now()
			}
		}
	}()
	bits := 32
	for 1<<(32-bits) < addresses {
		bits--
	}
	err = within(from, howLong, "masscan", "-p", "80", "11.0.0.0/"+strconv.Itoa(bits), "--rate", strconv.Itoa(rate), "--wait", "0")
	close(stop)
	perSecond = <-most
	after, err2 := arrived(there)
	return float64(after - before), perSecond, errors.Join(err, err2)
}

// scopes measures what the kernel's filter costs.
func (b *bench) scopes() (err error) {
	w, err := newWires()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.given(); err != nil {
		return err
	}
	if err := b.job(w); err != nil {
		return err
	}
	if err := w.speeds(); err != nil {
		return err
	}
	return w.ports()
}

// job is a scan's box with all that belongs to it: a slot and its scope as well.
func (b *bench) job(w *wires) error {
	whole := []netip.Prefix{netip.MustParsePrefix(farAddress + "/32")}
	var boxed, wrapped []float64
	for range rounds {
		time.Sleep(50 * time.Millisecond) // a link is ready
		began := time.Now()
		s, err := w.net.Slot(context.Background(), scope.All(whole...), 1000)
		if err != nil {
			return err
		}
		err = b.boxOf(sandbox.Spec{Box: "nmap-raw", Raw: true, NetNS: s.NetNS(), Argv: []string{"true"}}, "/usr/bin/true")
		if err := errors.Join(err, s.Close()); err != nil {
			return err
		}
		boxed = append(boxed, float64(time.Since(began).Microseconds())/1000)
		began = time.Now()
		if err := command(bwrap...); err != nil {
			return err
		}
		wrapped = append(wrapped, float64(time.Since(began).Microseconds())/1000)
	}
	report("job_true", boxed, "ms", "/bin/true in the box of a raw scan, with a slot and its scope")
	ratio("job_over_bwrap", boxed, wrapped, "that against bwrap, which has a network of nothing")
	return nil
}

// given is what a job waits for: its scope, on a link that is ready.
func (w *wires) given() error {
	for _, n := range []int{1, 1000, 10000} {
		var allow []netip.Prefix
		for i := range n {
			allow = append(allow, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 7), byte(i << 1), 0}), 24))
		}
		var took []float64
		for range 20 {
			time.Sleep(50 * time.Millisecond) // a link is ready
			began := time.Now()
			s, err := w.net.Slot(context.Background(), scope.All(allow...), 1000)
			if err != nil {
				return err
			}
			took = append(took, float64(time.Since(began).Microseconds())/1000)
			if err := s.Close(); err != nil {
				return err
			}
		}
		report(fmt.Sprintf("scope_%d", n), took, "ms", fmt.Sprintf("giving a slot a scope of %d prefixes", n))
	}
	return nil
}

// speeds compares what masscan gets through a slot with what it gets through a bare link.
func (w *wires) speeds() error {
	whole := []netip.Prefix{netip.MustParsePrefix(farNetwork)}
	for _, c := range []struct {
		name      string
		rate      int
		limit     int // of the slot
		addresses int
		howLong   time.Duration
	}{
		{"masscan_10k", 10000, 10000, 1 << 15, 8 * time.Second},
		{"masscan_100k", 100000, 0, 1 << 18, 4 * time.Second},
		{"masscan_flat_out", 10000000, 0, 1 << 21, 3 * time.Second},
	} {
		var bare, slot, lost []float64
		for range turns {
			_, speed, err := masscan(w.bare, w.behindBare, c.rate, c.addresses, c.howLong)
			if err != nil {
				return err
			}
			bare = append(bare, speed)
			s, err := w.net.Slot(context.Background(), scope.All(whole...), c.limit)
			if err != nil {
				return err
			}
			packets, speed, err := masscan(s.NetNS(), w.behindSlots, c.rate, c.addresses, c.howLong)
			if err := errors.Join(err, s.Close()); err != nil {
				return err
			}
			slot, lost = append(slot, speed), append(lost, max(float64(c.addresses)-packets, 0))
		}
		report(c.name+"_bare", bare, "packets/s", "masscan over a bare link")
		report(c.name+"_slot", slot, "packets/s", "masscan through a slot, routed")
		ratio(c.name+"_ratio", slot, bare, "a slot's against the bare link's")
		if c.limit > 0 {
			report(c.name+"_lost", lost, "packets", fmt.Sprintf("of %d, sent through a slot of that rate, that did not arrive", c.addresses))
		}
	}
	return nil
}

// ports compares nmap's scan of every port of a machine that answers at once.
func (w *wires) ports() error {
	argv := []string{"nmap", "-n", "-Pn", "-sS", "-T4", "-p-", farAddress}
	var bare, slot []float64
	for range turns {
		began := time.Now()
		if err := within(w.bare, time.Minute, argv...); err != nil {
			return err
		}
		bare = append(bare, float64(time.Since(began).Microseconds())/1000)
		began = time.Now()
		s, err := w.net.Slot(context.Background(), scope.All(netip.MustParsePrefix(farAddress+"/32")), 0)
		if err != nil {
			return err
		}
		err = within(s.NetNS(), time.Minute, argv...)
		slot = append(slot, float64(time.Since(began).Microseconds())/1000)
		if err := errors.Join(err, s.Close()); err != nil {
			return err
		}
	}
	report("nmap_all_ports_bare", bare, "ms", "nmap -sS -p- of a machine without latency over a bare link")
	report("nmap_all_ports_slot", slot, "ms", "the same through a slot, routed")
	ratio("nmap_all_ports_ratio", slot, bare, "a slot's against the bare link's")
	return nil
}
