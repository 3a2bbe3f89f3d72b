package scope

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrUnproven says that nothing of a slot got through to where it may, or that no answer came back:
// nothing can be said of what it may not then. Another firewall on this machine drops it, most often.
var ErrUnproven = errors.New("what a slot sends to its scope does not arrive, or its answer does not")

// targetName is the name of the link behind which the target of the proof is.
const targetName = "secp0"

// proofTable has a rule as container engines make them, for the time of the proof.
const proofTable = tableName + "-proof"

// What is translated leaves for the target under these, and is answered there. They are set aside for
// documentation; nothing comes back to an address of the slots' range in that mode.
var (
	targetOwn4 = netip.MustParseAddr("192.0.2.1")
	targetOwn6 = netip.MustParseAddr("2001:db8::1")
)

// The port that one of the proof's slots may send to, and one that it may not.
const (
	openPort = 9
	shutPort = 7
)

// Prove attacks the filter as a hostile scanner would, in both families of addresses: by every way
// there is to put frames on a link it sends off scope, then to a port that is not in the scope, then to
// another slot; a host off scope sends into a slot; somebody else's rule translates what is bound for
// the scope. Before and after each, a packet that differs in being permitted has to arrive where that
// one must not. It takes about 0.2 s. An error other than ErrUnproven says that a frame got through, or
// that it could not be tried.
func (n *Net) Prove(ctx context.Context) (err error) {
	p := &proof{net: n}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.open(ctx); err != nil {
		return err
	}
	err = p.leave()
	if err == nil {
		err = p.enter()
	}
	if arrived := p.arrived(); len(arrived) > 0 { // whatever could not be tried after it
		return fmt.Errorf("the filter lets through what it must not: %s", strings.Join(arrived, "; "))
	}
	if err != nil {
		return err
	}
	if err := p.beTranslated(); err != nil {
		return err
	}
	if arrived := p.arrived(); len(arrived) > 0 {
		return fmt.Errorf("a rule that translates destinations carries packets past the filter: %s", strings.Join(arrived, "; "))
	}
	return nil
}

// proof is what an attack on the filter needs.
type proof struct {
	net       *Net
	on        *segment     // in the mode L2: what stands in for the segment, on which nothing of the proof is seen
	ends      []targetEnds // of each family that slots can have
	target    *eye         // at the target
	may, held *Slot        // whose scopes are the one address of the target, and a port of the other
	slot      *eye         // in the first of them
	sent      uint16       // by slots
	tried     []attempt
	undo      []func() error
}

// targetEnds are the target's addresses of a family: one that a slot may send to, and one that another
// may.
type targetEnds struct{ to, beside netip.Addr }

func (e targetEnds) first() netip.Addr  { return e.to }
func (e targetEnds) second() netip.Addr { return e.beside }

// attempt is a datagram that must not come to where an eye is, or there to one address.
type attempt struct {
	name   string
	from   netip.Addr
	to     netip.AddrPort
	at     *eye
	there  netip.Addr // invalid: any
	cookie cookie
}

// open makes the target and the slots.
func (p *proof) open(ctx context.Context) error {
	n := p.net
	var at [2]addresses
	for i := range at {
		number, err := n.numbers.take(ctx)
		if err != nil {
			return err
		}
		p.undo = append(p.undo, func() error { n.numbers.put(number); return nil })
		at[i] = n.cfg.addresses(number)
	}
	p.ends = []targetEnds{{at[0].inner4, at[1].inner4}}
	if n.ipv6 {
		p.ends = append(p.ends, targetEnds{at[0].inner6, at[1].inner6})
	}
	far, on, remove, err := n.makeTarget(p.ends)
	if err != nil {
		return fmt.Errorf("cannot make a target for the filter's proof: %w", err)
	}
	p.on, p.undo = on, append(p.undo, remove)
	if p.target, err = p.watch(far); err != nil {
		return err
	}
	if p.may, err = p.give(ctx, nil, targetEnds.first); errors.Is(err, ErrNoIPv6) {
		p.ends = p.ends[:1] // no slot has it
		p.may, err = p.give(ctx, nil, targetEnds.first)
	}
	if err != nil {
		return err
	}
	if p.slot, err = p.watch(p.may.netns); err != nil {
		return err
	}
	p.held, err = p.give(ctx, &Ports{UDP: [][2]uint16{{openPort, openPort}}}, targetEnds.second)
	return err
}

// give makes a slot whose scope is ports of an address of the target.
func (p *proof) give(ctx context.Context, ports *Ports, which func(targetEnds) netip.Addr) (*Slot, error) {
	t := Target{Ports: ports}
	for _, e := range p.ends {
		t.Prefixes = append(t.Prefixes, netip.PrefixFrom(which(e), which(e).BitLen()))
	}
	s, err := p.net.slotOn(ctx, p.on, []Target{t}, 0)
	if err != nil {
		return nil, err
	}
	p.undo = append(p.undo, s.Close)
	if p.on != nil {
		err = s.know(p.ends)
	}
	return s, err
}

// know tells a slot's kernel that the target's addresses are on the link. It would ask, and only once in
// a second: the target's kernel hears questions of IPv6 when it has come to it, some time after it was
// given the address. Which station has them is the filter's matter.
func (s *Slot) know(ends []targetEnds) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(s.netns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, e := range ends {
		for _, a := range []netip.Addr{e.to, e.beside} {
			err = errors.Join(err, h.NeighSet(neighbour(eth0, a, s.outer.Attrs().HardwareAddr)))
		}
	}
	return err
}

func (p *proof) close() error {
	var errs []error
	for _, undo := range slices.Backward(p.undo) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}

// leave tries what must not leave a slot.
func (p *proof) leave() error {
	if err := p.pass(p.may, targetEnds.first); err != nil {
		return err
	}
	for _, f := range frames {
		var list []attempt
		for _, e := range p.ends {
			from := p.held.own(e.to)
			if f.spoofed {
				from = e.to
			}
			list = append(list, attempt{name: f.name, from: from, to: netip.AddrPortFrom(e.to, openPort), at: p.target})
		}
		if err := p.try(f, list); err != nil {
			return err
		}
		if err := p.pass(p.may, targetEnds.first); err != nil {
			return fmt.Errorf("after %s: %w", f.name, err)
		}
	}
	if err := p.pass(p.held, targetEnds.second); err != nil {
		return err
	}
	var list []attempt
	for _, e := range p.ends {
		list = append(list, attempt{name: "another port", from: p.held.own(e.to), to: netip.AddrPortFrom(e.beside, shutPort), at: p.target})
	}
	if err := p.try(frames[0], list); err != nil {
		return err
	}
	if err := p.pass(p.held, targetEnds.second); err != nil {
		return fmt.Errorf("after another port: %w", err)
	}
	return nil
}

// pass makes sure that the way of a slot to an address of each family is open.
func (p *proof) pass(s *Slot, which func(targetEnds) netip.Addr) error {
	for _, e := range p.ends {
		if _, err := p.passes(s, which(e)); err != nil {
			return err
		}
	}
	return nil
}

// enter tries what must not come into a slot: what is said under an address that it asked nothing of,
// where the answer of the one that it asked comes in; and what another slot says.
func (p *proof) enter() error {
	for _, e := range p.ends {
		asked, err := p.passes(p.may, e.to)
		if err != nil {
			return err
		}
		if err := p.answers(asked); err != nil {
			return err
		}
		own := p.may.own(e.to)
		for _, to := range []netip.AddrPort{asked.from, netip.AddrPortFrom(own, asked.from.Port())} { // two where it is translated
			f, c := datagram(asked.back(), netip.AddrPortFrom(e.beside, openPort), to)
			if err := p.target.send(f); err != nil {
				return err
			}
			p.tried = append(p.tried, attempt{name: "a host off scope", from: e.beside, to: to, at: p.slot, cookie: c})
		}
		if err := p.try(frames[0], []attempt{{name: "another slot", from: p.held.own(e.to), to: netip.AddrPortFrom(own, openPort), at: p.slot}}); err != nil {
			return err
		}
		if err := p.answers(asked); err != nil {
			return fmt.Errorf("after what must not come in: %w", err)
		}
	}
	return nil
}

// beTranslated tries to have somebody else's rule carry to one address what may be sent to another.
func (p *proof) beTranslated() error {
	done, restore, err := p.net.rewrite(p.ends)
	if err != nil || !done {
		return err
	}
	p.undo = append(p.undo, restore)
	var list []attempt
	for _, e := range p.ends {
		list = append(list, attempt{name: frames[0].name, from: p.held.own(e.to), to: netip.AddrPortFrom(e.beside, openPort), at: p.target, there: e.to})
	}
	return p.try(frames[0], list)
}

// source is an address with a port of which nothing was sent before: rules that translate are asked
// for what begins a connection.
func (p *proof) source(a netip.Addr) netip.AddrPort {
	p.sent++
	return netip.AddrPortFrom(a, 1<<15+p.sent)
}

// try sends from the slot that is held to one port what must not arrive.
func (p *proof) try(by frameBy, list []attempt) error {
	var all [][]byte
	for _, a := range list {
		f, c := datagram(p.held.hardware(), p.source(a.from), a.to)
		a.cookie = c
		all, p.tried = append(all, f), append(p.tried, a)
	}
	if err := inside(p.held.netns, func() error { return by.send(all...) }); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		// What this kernel cannot send, no scanner sends. Anything else is no proof.
		return fmt.Errorf("cannot try the filter by %s: %w", by.name, err)
	}
	return nil
}

// arrived names what was tried so far and has arrived.
func (p *proof) arrived() (names []string) {
	// What crosses two links of this machine takes microseconds; a busy machine is given more.
	time.Sleep(30 * time.Millisecond)
	for _, a := range p.tried {
		if got, found := a.at.sees(a.cookie, 0); found && (!a.there.IsValid() || got.to.Addr() == a.there) {
			names = append(names, a.name+", "+family(a.from))
		}
	}
	p.tried = nil
	return names
}

// passes sends from a slot to where it may until that arrives, and says as what; ErrUnproven: it
// does not.
func (p *proof) passes(s *Slot, to netip.Addr) (arrival, error) {
	return p.reaches(p.target, to, func() (cookie, error) {
		f, c := datagram(s.hardware(), p.source(s.own(to)), netip.AddrPortFrom(to, openPort))
		return c, inside(s.netns, func() error { return frames[0].send(f) })
	})
}

// answers has the target answer what has arrived until the slot has the answer.
func (p *proof) answers(asked arrival) error {
	_, err := p.reaches(p.slot, asked.from.Addr(), func() (cookie, error) {
		f, c := datagram(asked.back(), asked.to, asked.from)
		return c, p.target.send(f)
	})
	return err
}

func (p *proof) reaches(at *eye, to netip.Addr, send func() (cookie, error)) (arrival, error) {
	for range 10 { // one may be lost on a machine that is busy, or just starting
		c, err := send()
		if err != nil {
			return arrival{}, fmt.Errorf("cannot try whether the way is open: %w", err)
		}
		if a, found := at.sees(c, 20*time.Millisecond); found {
			return a, nil
		}
	}
	return arrival{}, fmt.Errorf("%w (%s)", ErrUnproven, family(to))
}

func family(a netip.Addr) string {
	if a.Is6() {
		return "IPv6"
	}
	return "IPv4"
}

// rewrite makes rules that translate destinations, in a table that none of our own knows of. false:
// this kernel has no such rules.
func (n *Net) rewrite(ends []targetEnds) (done bool, restore func() error, err error) {
	t := n.nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: proofTable})
	c := n.nft.AddChain(&nftables.Chain{Table: t, Name: "prerouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	for _, e := range ends {
		to, protocol := slices.Concat(is4(), equal(netDst4, e.beside.AsSlice())), uint32(unix.NFPROTO_IPV4)
		if e.to.Is6() {
			to, protocol = slices.Concat(is6(), equal(netDst6, e.beside.AsSlice())), unix.NFPROTO_IPV6
		}
		n.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: append(to,
			&expr.Immediate{Register: 1, Data: e.to.AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: protocol, RegAddrMin: 1})})
	}
	if err := n.nft.Flush(); err != nil {
		err = errors.Join(fmt.Errorf("cannot make a rule for the filter's proof: %w", err), n.drain())
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
			return false, nil, nil
		}
		return false, nil, err
	}
	return true, func() error {
		n.nft.DelTable(t)
		return n.nft.Flush()
	}, nil
}

// frameBy is a way to put a frame on a link.
type frameBy struct {
	name    string
	spoofed bool
	send    func(frames ...[]byte) error // on the link of the thread's namespace
}

// frames are these ways; the first is what a scanner does.
var frames = []frameBy{
	{"a raw socket", false, sendRaw},
	{"a packet socket", false, func(f ...[]byte) error { return sendPacket(false, f) }},
	{"a packet socket past the queue", false, func(f ...[]byte) error { return sendPacket(true, f) }},
	{"a packet socket under another source", true, func(f ...[]byte) error { return sendPacket(true, f) }},
	{"an XDP socket", false, sendXDP},
}

// cookie tells the datagrams of a proof apart, whatever became of their headers on the way.
type cookie [16]byte

// hardware is where a frame of the slot goes, and where it comes from.
func (s *Slot) hardware() []byte { return slices.Concat(s.outer.Attrs().HardwareAddr, s.inner) }

// own is the slot's address of the same family as another one.
func (s *Slot) own(like netip.Addr) netip.Addr {
	if like.Is6() {
		return s.inner6
	}
	return s.inner4
}

// Sizes of headers.
const (
	ethernetHeader, ipv4Header, ipv6Header, udpHeader = 14, 20, 40, 8
)

// datagram is a frame of UDP, without its checksum, around a new cookie.
func datagram(hardware []byte, from, to netip.AddrPort) (frame []byte, c cookie) {
	rand.Read(c[:]) // never fails (crypto/rand)
	udp := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from.Port()), to.Port())
	udp = append(binary.BigEndian.AppendUint16(udp, uint16(udpHeader+len(c))), 0, 0)
	udp = append(udp, c[:]...)
	if to.Addr().Is6() {
		ip := make([]byte, 8, ipv6Header)
		ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_UDP, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(udp)))
		return slices.Concat(hardware, []byte{0x86, 0xdd}, ip, from.Addr().AsSlice(), to.Addr().AsSlice(), udp), c
	}
	ip := make([]byte, 12, ipv4Header)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Header+len(udp)))
	ip = slices.Concat(ip, from.Addr().AsSlice(), to.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return slices.Concat(hardware, []byte{8, 0}, ip, udp), c
}

// arrival is a datagram where it came.
type arrival struct {
	cookie   cookie
	from, to netip.AddrPort
	hardware []byte
}

// back is where a frame goes that answers it, and where that comes from.
func (a arrival) back() []byte { return slices.Concat(a.hardware[6:], a.hardware[:6]) }

// arrivalOf reads a frame; false: it is none of a proof.
func arrivalOf(f []byte) (a arrival, ok bool) {
	size, from, to := ipv4Header, 12, 16
	if len(f) > ethernetHeader && f[ethernetHeader]>>4 == 6 {
		size, from, to = ipv6Header, 8, 24
	}
	if len(f) != ethernetHeader+size+udpHeader+len(a.cookie) {
		return a, false
	}
	ip, udp := f[ethernetHeader:], f[ethernetHeader+size:]
	source, _ := netip.AddrFromSlice(ip[from:to])
	destination, _ := netip.AddrFromSlice(ip[to:size])
	a = arrival{cookie(udp[udpHeader:]), netip.AddrPortFrom(source, binary.BigEndian.Uint16(udp)),
		netip.AddrPortFrom(destination, binary.BigEndian.Uint16(udp[2:])), slices.Clone(f[:12])}
	return a, true
}

// linkInside finds the box's side of a link, for a thread that is there.
func linkInside() (int, error) {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

func sendPacket(pastQueue bool, frames [][]byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if pastQueue {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return err
		}
	}
	link, err := linkInside()
	if err != nil {
		return err
	}
	for _, f := range frames {
		if err := sendFrame(fd, link, f); err != nil {
			return err
		}
	}
	return nil
}

// sendFrame puts a frame on a link by a packet socket.
func sendFrame(fd, link int, f []byte) error {
	return unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: link, Protocol: toNetwork(binary.BigEndian.Uint16(f[12:]))})
}

func toNetwork(v uint16) uint16 { return v<<8 | v>>8 }

// sendRaw sends the packets of frames.
func sendRaw(frames ...[]byte) error {
	for _, f := range frames {
		family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(f[ethernetHeader+16:])})
		if f[ethernetHeader]>>4 == 6 {
			family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(f[ethernetHeader+24:])}
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, f[ethernetHeader:], 0, to); err != nil {
			return err
		}
	}
	return nil
}

// sendXDP hands frames, at most four, to the driver by the ring of an XDP socket, which no queue and no
// egress hook sees.
func sendXDP(frames ...[]byte) error {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const size, entries = 4096, 4
	memory, err := unix.Mmap(-1, 0, size*entries, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(memory) }() // it is ours
	for i, f := range frames {
		copy(memory[i*size:], f)
	}
	register := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&memory[0]))), Len: uint64(len(memory)), Size: size}
	if err := setsockopt(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&register), unsafe.Sizeof(register)); err != nil {
		return err
	}
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, ring, entries); err != nil {
			return err
		}
	}
	var at unix.XDPMmapOffsets
	length := uint32(unsafe.Sizeof(at))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS,
		uintptr(unsafe.Pointer(&at)), uintptr(unsafe.Pointer(&length)), 0); errno != 0 {
		return errno
	}
	var descriptor unix.XDPDesc
	ring, err := unix.Mmap(fd, unix.XDP_PGOFF_TX_RING, int(at.Tx.Desc)+entries*int(unsafe.Sizeof(descriptor)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(ring) }() // it is ours
	link, err := linkInside()
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(link)}); err != nil {
		return err
	}
	for i, f := range frames {
		*(*unix.XDPDesc)(unsafe.Pointer(&ring[at.Tx.Desc+uint64(i)*uint64(unsafe.Sizeof(descriptor))])) = unix.XDPDesc{Addr: uint64(i * size), Len: uint32(len(f))}
	}
	binary.NativeEndian.PutUint32(ring[at.Tx.Producer:], uint32(len(frames)))
	return unix.Sendto(fd, nil, unix.MSG_DONTWAIT, nil)
}

func setsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0); errno != 0 {
		return errno
	}
	return nil
}

// makeTarget makes a namespace that routes lead to, and whoever removes it. In the mode L2 the link to
// it stands in for the segment.
func (n *Net) makeTarget(ends []targetEnds) (_ *os.File, on *segment, remove func() error, err error) {
	far, err := newNetns(false)
	if err != nil {
		return nil, nil, nil, err
	}
	link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(far.Fd())}
	link.Name = targetName
	link.HardwareAddr, link.PeerHardwareAddr = hardwareAddress(), hardwareAddress()
	if n.segment() != nil {
		link.HardwareAddr = n.segment().mac
	}
	remove = func() error {
		err := netlink.LinkDel(link)
		if gone(err) {
			err = nil
		}
		return errors.Join(err, far.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	if err := netlink.LinkAdd(link); err != nil {
		return nil, nil, nil, err
	}
	there, err := netlink.NewHandleAt(netns.NsHandle(far.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, nil, err
	}
	defer there.Close()
	eth0, err := there.LinkByName("eth0")
	if err != nil {
		return nil, nil, nil, err
	}
	if hasIPv6() {
		err = quiet(targetName)
	}
	err = errors.Join(err, there.LinkSetUp(eth0), netlink.LinkSetUp(link))
	if n.segment() != nil {
		on = &segment{name: targetName, index: link.Attrs().Index, mac: link.HardwareAddr, mtu: n.segment().mtu, nets: n.segment().nets}
		err = errors.Join(err, n.filter.attachWire(on))
	}
	for _, e := range ends {
		at, own := []netip.Addr{e.to, e.beside}, targetOwn4
		if e.to.Is6() {
			own = targetOwn6
		}
		for _, a := range at {
			err = errors.Join(err, netlink.NeighSet(neighbour(link, a, link.PeerHardwareAddr)))
		}
		if on != nil {
			continue // no route leads there
		}
		err = errors.Join(err, netlink.AddrAdd(link, alone(own)))
		for _, a := range at {
			err = errors.Join(err, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: whole(a), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL}))
		}
	}
	return far, on, remove, err
}

// eye is a socket that sees what arrives in a namespace.
type eye struct {
	fd, link int
	seen     []arrival
}

// watch opens an eye until the proof is closed.
func (p *proof) watch(ns *os.File) (*eye, error) {
	e := &eye{fd: -1}
	err := inside(ns, func() (err error) {
		if e.link, err = linkInside(); err == nil {
			e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(toNetwork(unix.ETH_P_ALL)))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot watch what arrives of the filter's proof: %w", err)
	}
	p.undo = append(p.undo, func() error { return unix.Close(e.fd) })
	return e, nil
}

// send puts a frame on the link.
func (e *eye) send(f []byte) error {
	if err := sendFrame(e.fd, e.link, f); err != nil {
		return fmt.Errorf("cannot send from the target of the filter's proof: %w", err)
	}
	return nil
}

// sees waits for a datagram.
func (e *eye) sees(c cookie, wait time.Duration) (arrival, bool) {
	for until := time.Now().Add(wait); ; {
		e.read()
		if i := slices.IndexFunc(e.seen, func(a arrival) bool { return a.cookie == c }); i >= 0 {
			return e.seen[i], true
		}
		left := time.Until(until)
		if left <= 0 {
			return arrival{}, false
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1) // it is read all the same
	}
}

// read takes all that has arrived.
func (e *eye) read() {
	b := make([]byte, 2048)
	for {
		size, from, err := unix.Recvfrom(e.fd, b, 0)
		if err != nil {
			return
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if a, ok := arrivalOf(b[:size]); ok {
			e.seen = append(e.seen, a)
		}
	}
}
