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

// wires are ways to the same kind of network: the bare link of a namespace, and slots, whose
// packets this machine filters. At the end of each is a machine with one address that
// answers; it swallows what goes to the rest of the network, and counts.
type wires struct {
	net           *scope.Net
	bare          *os.File // the namespace at this end of the bare links
	behindBare    *os.File
	behindSlots   *os.File
	behindSegment *os.File
	besideBare    *os.File // on the bare segment
	ways          []way
	undo          []func() error
}

// way is one of them, in the order in which they take turns; the first is bare.
type way struct {
	name    string
	config  *scope.Config // nil: there is no slot
	there   *os.File
	far     string // an address that answers
	network string
	scanned string // addresses of the network that nobody has
}

const (
	farAddress     = "11.0.255.254"
	farNetwork     = "11.0.0.0/10"
	segmentAddress = "12.0.255.254"
	segmentNetwork = "12.0.0.0/10"
)

// addresses are how many are scanned; a kernel has room for so many neighbours.
const addresses = 512

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
	if err := errors.Join(namespace(&w.bare), namespace(&w.behindBare), namespace(&w.behindSlots), namespace(&w.behindSegment), namespace(&w.besideBare)); err != nil {
		return nil, err
	}
	if err := errors.Join(join("bench0", w.bare, "10.87.0.1/30", w.behindBare, "10.87.0.2/30", "10.254.200.0/22"),
		join("bench0", nil, "10.87.1.1/30", w.behindSlots, "10.87.1.2/30", "10.254.200.0/22"), joinSegment(nil, w.behindSegment), joinSegment(w.bare, w.besideBare)); err != nil {
		return nil, err
	}
	for _, name := range []string{"bench0", "bench1"} {
		w.undo = append(w.undo, func() error {
			l, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkDel(l)
			}
			return err
		})
	}
	if err := scope.Reclaim(); err != nil {
		return nil, err
	}
	routed := scope.Config{V4: netip.MustParsePrefix("10.254.200.0/22"), V6: netip.MustParsePrefix("fd5e:c0de:5ca1::/48"), Mode: scope.Routed, Ready: 2}
	translated := routed
	translated.Mode = scope.Translated
	l2 := scope.Config{V4: netip.MustParsePrefix("12.32.0.0/22"), Mode: scope.L2, Interface: "bench1", Ready: 2}
	w.ways = []way{
		{"bare", nil, w.behindBare, farAddress, farNetwork, "11.0.2.0/23"},
		{"routed", &routed, w.behindSlots, farAddress, farNetwork, "11.0.2.0/23"},
		{"translated", &translated, w.behindSlots, farAddress, farNetwork, "11.0.2.0/23"},
		{"l2", &l2, w.behindSegment, segmentAddress, segmentNetwork, "12.0.2.0/23"},
	}
	w.net, err = scope.Open(routed)
	return w, err
}

// through does something at this end of a way, in a slot of its own with all of the network for its scope.
// It says how long that took: the slot is made and given up meanwhile, as for a job, and nothing is open
// before that its launcher has not open.
func (w *wires) through(y way, limit int, do func(from *os.File) error) (took time.Duration, err error) {
	if y.config == nil {
		began := time.Now()
		err := do(w.bare)
		return time.Since(began), err
	}
	net, err := scope.Open(*y.config)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	time.Sleep(100 * time.Millisecond) // links are ready
	began := time.Now()
	s, err := net.Slot(context.Background(), scope.All(netip.MustParsePrefix(y.network)), limit)
	if err != nil {
		return 0, err
	}
	err = do(s.NetNS())
	took = time.Since(began)
	return took, errors.Join(err, s.Close())
}

func (w *wires) close() (err error) {
	for i := len(w.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, w.undo[i]())
	}
	return err
}

// join makes a link between two namespaces (nil: this one) with the far network behind it.
func join(name string, here *os.File, near string, there *os.File, far, back string) error {
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(there.Fd())}
	veth.Name = name
	if here != nil {
		veth.Namespace = netlink.NsFd(here.Fd())
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	ours, nearLink, err := side(here, name, near)
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

// side brings one side of a link up.
func side(ns *os.File, name string, addresses ...string) (h *netlink.Handle, l netlink.Link, err error) {
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

// joinSegment makes a link from a namespace (nil: this one) to a network on it, of which the scanned addresses are
// known neighbours.
func joinSegment(here, there *os.File) error {
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(there.Fd())}
	veth.Name = "bench1"
	if here != nil {
		veth.Namespace = netlink.NsFd(here.Fd())
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("segment: %w", err)
	}
	ours, near, err := side(here, "bench1", "12.63.0.1/10")
	if err != nil {
		return fmt.Errorf("segment: %w", err)
	}
	defer ours.Close()
	theirs, far, err := side(there, "eth0", segmentAddress+"/10")
	if err != nil {
		return fmt.Errorf("far side of the segment: %w", err)
	}
	defer theirs.Close()
	for i := range addresses {
		err := ours.NeighSet(&netlink.Neigh{LinkIndex: near.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.IPv4(12, 0, byte(2+i>>8), byte(i)), HardwareAddr: far.Attrs().HardwareAddr})
		if err != nil {
			return fmt.Errorf("neighbours: %w", err)
		}
	}
	return nil
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

// masscan sends SYNs at a rate to so many ports of each scanned address and says how many arrived, and how
// many in a second of those while it lasted.
func masscan(from, there *os.File, to string, rate, ports int, howLong time.Duration) (packets, perSecond float64, err error) {
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
	err = within(from, howLong, "masscan", "-p", "1-"+strconv.Itoa(ports), to, "--rate", strconv.Itoa(rate), "--wait", "0")
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
	if err := w.net.Close(); err != nil {
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

// speeds compares what masscan gets through slots with what it gets through a bare link.
func (w *wires) speeds() error {
	for _, c := range []struct {
		name    string
		rate    int
		limit   int // of the slot
		ports   int
		howLong time.Duration
	}{
		{"masscan_10k", 10000, 10000, 64, 8 * time.Second},
		{"masscan_100k", 100000, 0, 512, 4 * time.Second},
		{"masscan_flat_out", 10000000, 0, 4096, 3 * time.Second},
	} {
		speeds, lost := map[string][]float64{}, map[string][]float64{}
		for range turns {
			for _, y := range w.ways {
				_, err := w.through(y, c.limit, func(from *os.File) error {
					packets, speed, err := masscan(from, y.there, y.scanned, c.rate, c.ports, c.howLong)
					speeds[y.name], lost[y.name] = append(speeds[y.name], speed), append(lost[y.name], max(float64(c.ports*addresses)-packets, 0))
					return err
				})
				if err != nil {
					return fmt.Errorf("%s, %s: %w", c.name, y.name, err)
				}
			}
		}
		report(c.name+"_bare", speeds["bare"], "packets/s", "masscan over a bare link")
		for _, y := range w.ways[1:] {
			report(c.name+"_"+y.name, speeds[y.name], "packets/s", "masscan through a slot, "+y.name)
			ratio(c.name+"_"+y.name+"_ratio", speeds[y.name], speeds["bare"], "a slot's against the bare link's")
			if c.limit > 0 {
				report(c.name+"_"+y.name+"_lost", lost[y.name], "packets", fmt.Sprintf("of %d, sent through a slot of that rate, that did not arrive", c.ports*addresses))
			}
		}
	}
	return nil
}

// ports compares nmap's scan of every port of a machine that answers at once. Who stands on a machine's
// segment asks for its station first, over a bare link as well.
func (w *wires) ports() error {
	took := map[string][]float64{}
	for range turns {
		for _, y := range append([]way{{name: "bare_segment", far: segmentAddress}}, w.ways...) {
			d, err := w.through(y, 0, func(from *os.File) error {
				return within(from, time.Minute, "nmap", "-n", "-Pn", "-sS", "-T4", "-p-", y.far)
			})
			if err != nil {
				return fmt.Errorf("nmap, %s: %w", y.name, err)
			}
			took[y.name] = append(took[y.name], float64(d.Microseconds())/1000)
		}
	}
	report("nmap_all_ports_bare", took["bare"], "ms", "nmap -sS -p- of a machine without latency over a bare link")
	report("nmap_all_ports_bare_segment", took["bare_segment"], "ms", "the same of a machine on the link's own segment")
	for _, y := range w.ways[1:] {
		bare := "bare"
		if y.config.Mode == scope.L2 {
			bare = "bare_segment"
		}
		report("nmap_all_ports_"+y.name, took[y.name], "ms", "the same through a slot, "+y.name)
		ratio("nmap_all_ports_"+y.name+"_ratio", took[y.name], took[bare], "a slot's against that of "+bare)
	}
	return nil
}
