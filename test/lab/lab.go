// Package lab is the world of the tests, the demo and the benchmarks: a scanning machine and a
// network of hosts, made of network namespaces, with nothing outside in reach. It needs root.
//
//	scanhost (this process, after Enter)     router
//	  uplink 172.30.0.1, fd30::1  ─────────  172.30.0.2, fd30::2
//	                                         172.30.0.10 and .13, fd30::10 and ::13, on the link
//	  the launcher and its slots             10.77.0.10 to .12, fd77::10   hosts that listen
//	                                         10.77.0.20, fd77::20          web sites
//	                                         10.77.0.21, fd77::21          answers SNMP
//	                                         10.77.0.53, fd77::53          a name server
//	                                         10.77.0.66, fd77::66          a host that is hostile
//	                                         10.77.0.67, fd77::67          a host that talks to whoever reads its answers
//	                                         10.77.0.68                   a host that accepts and says nothing
//	                                         10.77.1.0/24, fd77::1:0/112   answers nothing
//	                                         10.77.128.0/19                refuses every connection
//	                                           ├── 10.77.64.10, fd77::64:10   behind the router
//	                                           ├── 10.77.65.10, fd77::65:10   the same, with no way back
//	                                           └── 10.99.0.5, fd99::5         outside every engagement
//
// An Observer sees what arrives on each of these links.
package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses of the lab.
const (
	SSHAndWeb  = "10.77.0.10" // 22, 80
	Web        = "10.77.0.11" // 80, 8080
	SSH        = "10.77.0.12" // 22
	IPv6Host   = "fd77::10"   // 22, 80
	Sites      = "10.77.0.20" // 80: see sites
	Sites6     = "fd77::20"
	SNMP       = "10.77.0.21" // UDP 161
	SNMP6      = "fd77::21"
	DNS        = "10.77.0.53"
	DNS6       = "fd77::53"
	Hostile    = "10.77.0.66" // UDP 53: answers from Outside, too
	Hostile6   = "fd77::66"
	Talker     = "10.77.0.67" // 13, 21, 22, 23, 25, 79, 80, 443, UDP 53 and 161: says Talk wherever it can
	Talker6    = "fd77::67"
	Mute       = "10.77.0.68"  // 21, 80: accepts, and says nothing
	Behind     = "10.77.64.10" // 22, 80, one hop further
	Behind6    = "fd77::64:10"
	NoWayBack  = "10.77.65.10" // 80, but its answers reach nobody
	NoWayBack6 = "fd77::65:10"
	Slow       = "10.77.1.0/24"
	Slow6      = "fd77::1:0/112"
	Closed     = "10.77.128.0/19"
	Near       = "172.30.0.10" // 22, 80, on the uplink's own link
	Near6      = "fd30::10"
	NearOther  = "172.30.0.13" // its neighbour
	NearOther6 = "fd30::13"
	Outside    = "10.99.0.5" // 80
	Outside6   = "fd99::5"
	Uplink     = "172.30.0.1" // the scanning machine itself
	Uplink6    = "fd30::1"
)

// The ranges of slots, to which the lab has a way back.
const (
	SlotsV4 = "10.254.200.0/22"
	SlotsV6 = "fd5e:c0de:5ca1::/48"
)

const inside = "INSIDE_THE_LAB"

// Enter runs main in a network namespace of its own, which is the scanning machine, and returns
// its status. Call it first: it starts this program again.
func Enter(main func() int) int {
	if os.Getenv(inside) != "" {
		return main()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "lab: this needs root:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// Lab is the network while it is there.
type Lab struct {
	router, behind, noWayBack, outside *os.File

	segments  []segment // where observers sit
	names     *nameServer
	neighbour neighbour
	strangers *Observer
	close     []func() error
	running   sync.WaitGroup
	routed    int // how many senders there have been
}

// segment is a place of observers. Of the router they see the links alone on which scanners send.
type segment struct {
	name  string
	ns    *os.File
	links []string            // nil: all
	mac   net.HardwareAddr    // of the one machine that sends there
	ends  map[netip.Addr]bool // of the link: their kernels may look for each other
	// switched says that the frames that come there are for the stations behind it.
	switched bool
	// routed says that no scanner has a link there: a kernel passes on what it sends.
	routed bool
}

// outsideLink is the router's link to the host that nothing may reach.
const outsideLink = "outside"

// New makes the lab. It fails on a machine whose own namespace this is.
func New() (_ *Lab, err error) {
	if os.Getenv(inside) == "" {
		return nil, errors.New("lab: call Enter first")
	}
	l := &Lab{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot make the lab: %w", err), l.Close())
		}
	}()
	for _, ns := range []**os.File{&l.router, &l.behind, &l.noWayBack, &l.outside} {
		if *ns, err = namespace(); err != nil {
			return nil, err
		}
		l.close = append(l.close, (*ns).Close)
	}
	if err := l.wire(); err != nil {
		return nil, err
	}
	if err := l.openNeighbour(); err != nil {
		return nil, err
	}
	// Whoever uses what was made so far has ended before it is closed.
	l.close = append(l.close, func() error { l.running.Wait(); return nil })
	if err := l.hosts(); err != nil {
		return nil, err
	}
	if l.strangers, err = l.observe(mentions); err != nil {
		return nil, err
	}
	l.close = append(l.close, l.strangers.Close)
	return l, nil
}

// Close takes everything away.
func (l *Lab) Close() error {
	var errs []error
	for i := len(l.close) - 1; i >= 0; i-- {
		errs = append(errs, l.close[i]())
	}
	l.close = nil
	return errors.Join(errs...)
}

// thread runs do on a thread that is given up afterwards. Not on the first one, which does not end
// and is what /proc/self shows.
func thread(do func()) {
	done := make(chan struct{})
	run := func() {
		defer close(done)
		do()
	}
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			run()
			return
		}
		go func() { runtime.LockOSThread(); run() }()
		<-done
		runtime.UnlockOSThread()
	}()
	<-done
}

// namespace makes a network namespace. Its kernel does not keep addresses waiting, listens to no
// router and filters no source.
func namespace() (ns *os.File, err error) {
	thread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			err = switches("ipv6/conf/default/accept_dad", "0", "ipv6/conf/default/accept_ra", "0",
				"ipv4/conf/all/rp_filter", "0", "ipv4/conf/default/rp_filter", "0")
		}
		if err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
	})
	return ns, err
}

// switches writes names and values below /proc/sys/net of the thread's namespace.
func switches(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if err := os.WriteFile("/proc/sys/net/"+pairs[i], []byte(pairs[i+1]), 0); err != nil {
			return err
		}
	}
	return nil
}

// in runs do on a thread inside a namespace. Sockets made there stay there. nil is this process's
// own.
func in(ns *os.File, do func() error) (err error) {
	if ns == nil {
		return do()
	}
	thread(func() {
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			err = do()
		}
	})
	return err
}

// In runs do on a thread inside the lab, where most of its hosts are, and gives the thread up.
func (l *Lab) In(do func() error) error { return in(l.router, do) }

// handle speaks with the kernel about a namespace's links.
func handle(ns *os.File) (*netlink.Handle, error) {
	if ns == nil {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	return netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
}

// end is one side of a link: its namespace (nil: this one), its name there, its addresses.
type end struct {
	ns        *os.File
	name      string
	addresses []string
}

// link joins two namespaces and brings both sides up. It goes with the namespace of either.
func link(a, b end) error {
	h, err := handle(a.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: b.name, PeerNamespace: netlink.NsFd(b.ns.Fd())}
	v.Name = a.name
	if err := h.LinkAdd(v); err != nil {
		return fmt.Errorf("%s to %s: %w", a.name, b.name, err)
	}
	for _, e := range []end{a, b} {
		if err := e.up(); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	for _, e := range []end{a, b} {
		if err := e.taken(); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

// taken waits until a kernel takes what comes for its addresses.
func (e end) taken() error {
	h, err := handle(e.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, text := range e.addresses {
		if err := taken(h, address(text)); err != nil {
			return err
		}
	}
	return nil
}

// taken does so for one address. A worker of the kernel's gives an IPv6 address its route, and is the
// later the more links are being changed.
func taken(h *netlink.Handle, a *netlink.Addr) error {
	for until := time.Now().Add(5 * time.Second); a.IP.To4() == nil; time.Sleep(time.Millisecond) {
		routes, err := h.RouteGet(a.IP)
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("the kernel has no route for its own address %s: %w", a.IP, errors.Join(err, unix.ETIMEDOUT))
		}
	}
	return nil
}

// observed makes the far end of a link a segment. What comes there comes from the near end.
func (l *Lab) observed(name string, near, far end) error {
	s := segment{name: name, ns: far.ns, links: []string{far.name}, ends: map[netip.Addr]bool{}}
	for _, text := range slices.Concat(near.addresses, far.addresses) {
		s.ends[netip.MustParsePrefix(text).Addr()] = true
	}
	var err error
	s.mac, err = near.mac()
	l.segments = append(l.segments, s)
	return err
}

// mac is the hardware address of an end.
func (e end) mac() (mac net.HardwareAddr, err error) {
	err = in(e.ns, func() error {
		i, err := net.InterfaceByName(e.name)
		if err == nil {
			mac = i.HardwareAddr
		}
		return err
	})
	return mac, err
}

func (e end) up() error {
	h, err := handle(e.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, name := range []string{"lo", e.name} {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
		if name == "lo" {
			continue
		}
		for _, text := range e.addresses {
			if err := h.AddrAdd(link, address(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// route is one of a namespace's: to a network by a gateway, or by none where kind says so.
type route struct {
	ns      *os.File
	to, via string
	kind    int
}

func (r route) add() error {
	h, err := handle(r.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	n := &netlink.Route{Dst: network(r.to), Type: r.kind}
	switch {
	case r.via != "":
		n.Gw = net.ParseIP(r.via)
	case r.kind == unix.RTN_LOCAL:
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		n.LinkIndex, n.Scope, n.Table = lo.Attrs().Index, netlink.SCOPE_HOST, unix.RT_TABLE_LOCAL
	}
	if err := h.RouteAdd(n); err != nil {
		return fmt.Errorf("route to %s: %w", r.to, err)
	}
	return nil
}

// wire makes the links and the routes.
func (l *Lab) wire() error {
	if err := switches("ipv6/conf/default/accept_dad", "0"); err != nil {
		return err
	}
	near, far := end{nil, "uplink", []string{Uplink + "/24", Uplink6 + "/64"}}, end{l.router, "eth0", []string{"172.30.0.2/24", "fd30::2/64"}}
	if err := link(near, far); err != nil {
		return err
	}
	if err := l.observed("uplink", near, far); err != nil {
		return err
	}
	l.close = append(l.close, func() error { return unlink("uplink") })
	for _, s := range []struct {
		name         string
		ns           *os.File
		near4, near6 string
		far4, far6   string
	}{
		{"behind", l.behind, "10.77.64.1", "fd77::64:1", Behind, Behind6},
		{"no-way-back", l.noWayBack, "10.77.65.1", "fd77::65:1", NoWayBack, NoWayBack6},
		{outsideLink, l.outside, "10.99.0.1", "fd99::1", Outside, Outside6},
	} {
		near, far := end{l.router, s.name, []string{s.near4 + "/24", s.near6 + "/112"}}, end{s.ns, "eth0", []string{s.far4 + "/24", s.far6 + "/112"}}
		if err := link(near, far); err != nil {
			return err
		}
		if err := l.observed(s.name, near, far); err != nil {
			return err
		}
		if s.ns == l.noWayBack {
			continue
		}
		if err := errors.Join(route{ns: s.ns, to: "0.0.0.0/0", via: s.near4}.add(), route{ns: s.ns, to: "::/0", via: s.near6}.add()); err != nil {
			return err
		}
	}
	for i := range l.segments {
		l.segments[i].routed = true
	}
	here := []string{SSHAndWeb, Web, SSH, Sites, SNMP, DNS, Hostile, Talker, Mute, Near, NearOther}
	if err := l.own(here, []string{IPv6Host, Sites6, SNMP6, DNS6, Hostile6, Talker6, Near6, NearOther6}); err != nil {
		return err
	}
	for _, r := range []route{
		{nil, "0.0.0.0/0", "172.30.0.2", 0}, {nil, "::/0", "fd30::2", 0},
		{l.router, SlotsV4, Uplink, 0}, {l.router, SlotsV6, Uplink6, 0},
		{l.router, Closed, "", unix.RTN_LOCAL},
		{l.router, Slow, "", unix.RTN_BLACKHOLE}, {l.router, Slow6, "", unix.RTN_BLACKHOLE},
		// What is nobody's gets no answer, as before a router stood here.
		{l.router, "0.0.0.0/0", "", unix.RTN_BLACKHOLE}, {l.router, "::/0", "", unix.RTN_BLACKHOLE},
	} {
		if err := r.add(); err != nil {
			return err
		}
	}
	return in(l.router, func() error {
		return switches("ipv4/ip_forward", "1", "ipv6/conf/all/forwarding", "1", "ipv4/conf/all/send_redirects", "0")
	})
}

// own gives the router the addresses of hosts that it plays.
func (l *Lab) own(four, six []string) error {
	h, err := handle(l.router)
	if err != nil {
		return err
	}
	defer h.Close()
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, a := range four {
		err = errors.Join(err, h.AddrAdd(eth0, address(a+"/32")))
	}
	for _, a := range six {
		err = errors.Join(err, h.AddrAdd(eth0, address(a+"/128")))
	}
	for _, a := range six {
		err = errors.Join(err, taken(h, address(a+"/128")))
	}
	return err
}

// unlink takes a link of this namespace away. One that is gone is gone.
func unlink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

// indexes are those of links of the thread's namespace.
func indexes(names []string) (map[int]bool, error) {
	out := map[int]bool{}
	for _, name := range names {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return nil, err
		}
		out[i.Index] = true
	}
	return out, nil
}

func address(text string) *netlink.Addr {
	ip, n, err := net.ParseCIDR(text)
	if err != nil {
		panic(err) // a constant of this package
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: n.Mask}}
	if ip.To4() == nil {
		a.Flags = unix.IFA_F_NODAD // it can be listened on at once
	}
	return a
}

func network(text string) *net.IPNet { return address(text).IPNet }
