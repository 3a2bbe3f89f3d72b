package scope

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrUnproven says that nothing of a slot got through to where it may: nothing can be said of what
// it may not then. Another firewall on this machine drops what slots send, most often.
var ErrUnproven = errors.New("what a slot sends to its scope does not arrive")

// target is the name of the link behind which the target of the proof is.
const targetName = "secp0"

// proofTable has a rule as container engines make them, for the time of the proof.
const proofTable = tableName + "-proof"

// Prove attacks the filter as a hostile scanner would, from a slot of its own: first a packet to
// an address of the scope, which has to arrive, then by every way there is to put frames on a link,
// which must not, each followed by one more that has to arrive; and then a packet to the scope that somebody else's rule translates to where the
// scope does not reach. It takes about 0.2 s. An error other than ErrUnproven says that a frame got
// through, or that it could not be tried.
func (n *Net) Prove(ctx context.Context) (err error) {
	var at [2]netip.Addr
	for i := range at {
		number, err := n.numbers.take(ctx)
		if err != nil {
			return err
		}
		defer n.numbers.put(number)
		at[i] = n.cfg.addresses(number).inner4
	}
	to, beside := at[0], at[1]
	far, remove, err := n.makeTarget(to, beside)
	if err != nil {
		return fmt.Errorf("cannot make a target for the filter's proof: %w", err)
	}
	defer func() { err = errors.Join(err, remove()) }()
	eye, err := watchFrames(far)
	if err != nil {
		return fmt.Errorf("cannot watch the target of the filter's proof: %w", err)
	}
	defer unix.Close(eye)

	// What is sent first may be lost on a machine that is just starting.
	arrived, err := n.try(ctx, to, to, to, eye, slices.Repeat(frames[:1], 50), 1, nil)
	if err == nil && len(arrived) == 0 {
		err = ErrUnproven
	}
	if err != nil {
		return err
	}
	may, err := n.Slot(ctx, All(netip.PrefixFrom(to, to.BitLen())), 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, may.Close()) }()
	arrived, err = n.try(ctx, beside, to, to, eye, frames, len(frames), func() error { return may.arrives(to, eye) })
	if err == nil && len(arrived) > 0 {
		err = fmt.Errorf("the filter lets through what it must not: %v", arrived)
	}
	if err != nil {
		return err
	}
	rewritten, restore, err := n.rewrite(beside, to)
	if err != nil || !rewritten {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	arrived, err = n.try(ctx, beside, beside, to, eye, frames[:1], 1, nil)
	if err == nil && len(arrived) > 0 {
		err = fmt.Errorf("a rule that translates destinations carries packets past the filter: %v", arrived)
	}
	return err
}

// rewrite makes a rule that translates a destination, in a table that none of our own knows of.
// false: this kernel has no such rules.
func (n *Net) rewrite(from, to netip.Addr) (done bool, restore func() error, err error) {
	t := n.nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: proofTable})
	c := n.nft.AddChain(&nftables.Chain{Table: t, Name: "prerouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	n.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: slices.Concat(is4(), equal(netDst4, from.AsSlice()), []expr.Any{
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1}})})
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

// try sends frames to an address from a slot whose scope is one address, and names those that
// arrive at a third one, until so many have. After each, open says whether the way is still open;
// nil: nobody asks.
func (n *Net) try(ctx context.Context, scope, to, at netip.Addr, eye int, by []frameBy, enough int, open func() error) (arrived []string, err error) {
	s, err := n.Slot(ctx, All(netip.PrefixFrom(scope, scope.BitLen())), 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for i, f := range by {
		from := s.inner4
		if f.spoofed {
			from = to
		}
		if err := inside(s.netns, func() error { return f.send(s.frame(from, to)) }); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			// What this kernel cannot send, no scanner sends. Anything else is no proof.
			return nil, fmt.Errorf("cannot try the filter by %s: %w", f.name, err)
		}
		// What crosses two links of this machine takes microseconds, but for the last one, which is
		// waited for as long as a busy machine may need.
		wait := 2 * time.Millisecond
		if i == len(by)-1 {
			wait = 30 * time.Millisecond
		}
		if seen(eye, at, wait) {
			if arrived = append(arrived, f.name); len(arrived) == enough {
				break
			}
		}
		if open != nil {
			if err := open(); err != nil {
				return nil, fmt.Errorf("after %s: %w", f.name, err)
			}
		}
	}
	return arrived, nil
}

// arrives sends to an address of the slot's scope until that is seen; ErrUnproven: it is not.
func (s *Slot) arrives(to netip.Addr, eye int) error {
	for range 10 { // one may be lost on a machine that is busy
		if err := inside(s.netns, func() error { return frames[0].send(s.frame(s.inner4, to)) }); err != nil {
			return fmt.Errorf("cannot try whether the way is open: %w", err)
		}
		if seen(eye, to, 20*time.Millisecond) {
			return nil
		}
	}
	return ErrUnproven
}

// frameBy is a way to put a frame on a link.
type frameBy struct {
	name    string
	spoofed bool
	send    func(frame []byte) error
}

// frames are these ways; the first is what a scanner does.
var frames = []frameBy{
	{"a raw socket", false, func(f []byte) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, f[14:], 0, &unix.SockaddrInet4{Addr: [4]byte(f[30:34])})
	}},
	{"a packet socket", false, func(f []byte) error { return sendPacket(f, false) }},
	{"a packet socket past the queue", false, func(f []byte) error { return sendPacket(f, true) }},
	{"a packet socket under another source", true, func(f []byte) error { return sendPacket(f, true) }},
	{"an XDP socket", false, sendXDP},
}

// frame is a datagram to the discard port, with its Ethernet header.
func (s *Slot) frame(from, to netip.Addr) []byte {
	f := make([]byte, 14+20+8)
	copy(f, s.outer.Attrs().HardwareAddr)
	copy(f[6:], s.inner)
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip := f[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], from.AsSlice())
	copy(ip[16:], to.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(ip[20:], 9)
	binary.BigEndian.PutUint16(ip[22:], 9)
	binary.BigEndian.PutUint16(ip[24:], 8)
	return f
}

// linkInside finds the box's side of a link, for a thread that is there.
func linkInside() (int, error) {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

func sendPacket(f []byte, pastQueue bool) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const packetQdiscBypass = 20
	if pastQueue {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, packetQdiscBypass, 1); err != nil {
			return err
		}
	}
	link, err := linkInside()
	if err != nil {
		return err
	}
	return unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: link, Protocol: toNetwork(unix.ETH_P_IP)})
}

func toNetwork(v uint16) uint16 { return v<<8 | v>>8 }

// sendXDP hands a frame to the driver by the ring of an XDP socket, which no queue and no egress
// hook sees.
func sendXDP(f []byte) error {
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
	copy(memory, f)
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
	descriptor := unix.XDPDesc{Len: uint32(len(f))}
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
	*(*unix.XDPDesc)(unsafe.Pointer(&ring[at.Tx.Desc])) = descriptor
	binary.NativeEndian.PutUint32(ring[at.Tx.Producer:], 1)
	return unix.Sendto(fd, nil, unix.MSG_DONTWAIT, nil)
}

func setsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0); errno != 0 {
		return errno
	}
	return nil
}

// makeTarget makes a namespace that routes lead to, and whoever removes it.
func (n *Net) makeTarget(at ...netip.Addr) (_ *os.File, remove func() error, err error) {
	far, err := newNetns(false)
	if err != nil {
		return nil, nil, err
	}
	link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(far.Fd())}
	link.Name = targetName
	link.HardwareAddr, link.PeerHardwareAddr = hardwareAddress(), hardwareAddress()
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
		return nil, nil, err
	}
	there, err := netlink.NewHandleAt(netns.NsHandle(far.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, err
	}
	defer there.Close()
	eth0, err := there.LinkByName("eth0")
	if err != nil {
		return nil, nil, err
	}
	if hasIPv6() {
		err = quiet(targetName)
	}
	// What is translated leaves under an address of the link.
	err = errors.Join(err, there.LinkSetUp(eth0), netlink.LinkSetUp(link), netlink.AddrAdd(link, alone(n.cfg.addresses(0).outer4)))
	for _, a := range at {
		err = errors.Join(err, netlink.NeighSet(neighbour(link, a, link.PeerHardwareAddr)),
			netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: whole(a), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL}))
	}
	return far, remove, err
}

// watchFrames opens a socket that sees what arrives in a namespace.
func watchFrames(ns *os.File) (eye int, err error) {
	err = inside(ns, func() error {
		eye, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(toNetwork(unix.ETH_P_ALL)))
		return err
	})
	return eye, err
}

// seen waits for a frame that is bound for an address.
func seen(eye int, to netip.Addr, wait time.Duration) bool {
	ready := []unix.PollFd{{Fd: int32(eye), Events: unix.POLLIN}}
	for until := time.Now().Add(wait); time.Now().Before(until); {
		if n, err := unix.Poll(ready, 1); err != nil || n == 0 {
			continue
		}
		b := make([]byte, 2048)
		size, from, err := unix.Recvfrom(eye, b, 0)
		if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype != unix.PACKET_OUTGOING && size >= 34 && netip.AddrFrom4([4]byte(b[30:34])) == to {
			for err == nil { // the rest of them
				_, _, err = unix.Recvfrom(eye, b, 0)
			}
			return true
		}
	}
	return false
}
