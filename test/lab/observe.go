package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Scope is what may be seen on a wire: whole TCP, UDP, SCTP and ICMP packets from one of Sources
// to one of Targets. The rest of the world's own talk is permitted too: what kernels say to
// find their neighbours on the lab's links.
type Scope struct {
	Sources, Targets []netip.Prefix
	// Ports are the destinations of each protocol that may be asked; ICMP, which has none, if it is
	// there at all. Nil: all of them.
	Ports map[byte][]uint16
}

// Frame is one that may not be seen.
type Frame struct {
	Segment string // where it was seen
	Why     string
	Bytes   []byte // from the Ethernet header on, at most 256
}

// String names the frame in one line.
func (f Frame) String() string {
	return fmt.Sprintf("%s: %s: %x", f.Segment, f.Why, f.Bytes[:min(len(f.Bytes), 74)])
}

// The most frames that are kept between two looks, and of each, the most bytes.
const (
	ring = 1024
	snap = 256
)

// Observer sees every frame that arrives in some namespaces, on every interface but lo. What
// the scope permits is counted; the rest is kept, the last 1024 of it.
type Observer struct {
	judge func(seen) string // why a frame may not be seen, or ""
	taps  []*tap
	stop  chan struct{}
	done  sync.WaitGroup

	mu        sync.Mutex
	buffer    []byte
	kept      []Frame
	forbidden int // all of it, kept or not
	permitted int
	missed    int
	broken    error
}

// seen is a frame where it was seen.
type seen struct {
	frame  []byte
	tagged bool // it had a VLAN tag
	other  bool // it is for none of the observed machine's hardware addresses
	at     segment
}

// tap is one packet socket.
type tap struct {
	segment
	fd   int
	only map[int]bool // interfaces; nil: all but lo
}

// Observe watches the lab's side of the uplink, every host behind the router and the network
// that nothing may reach.
func (l *Lab) Observe(s Scope) (*Observer, error) { return l.observe(s.judge) }

func (l *Lab) observe(judge func(seen) string) (*Observer, error) {
	o := newObserver(judge)
	for _, s := range l.segments {
		if err := o.tap(s); err != nil {
			return nil, errors.Join(err, o.Close())
		}
	}
	o.start()
	return o, nil
}

// Watch observes what arrives in a namespace that is not the lab's, a slot's for example. Nobody
// needs to look for a neighbour there.
func Watch(ns *os.File, s Scope) (*Observer, error) {
	o := newObserver(s.judge)
	if err := o.tap(segment{name: "inside", ns: ns}); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	o.start()
	return o, nil
}

func newObserver(judge func(seen) string) *Observer {
	return &Observer{judge: judge, stop: make(chan struct{}), buffer: make([]byte, 64<<10+128)}
}

func (o *Observer) tap(s segment) error {
	t := &tap{segment: s, fd: -1}
	err := in(s.ns, func() (err error) {
		if s.links != nil {
			if t.only, err = indexes(s.links); err != nil {
				return err
			}
		}
		t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(swap(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot observe %s: %w", s.name, err)
	}
	o.taps = append(o.taps, t)
	return errors.Join(
		unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		// A tag is taken off a frame before any socket sees it; this tells of it.
		unix.SetsockoptInt(t.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
}

// start reads all the time, so that no socket's buffer runs over.
func (o *Observer) start() {
	o.done.Go(func() {
		ready := make([]unix.PollFd, len(o.taps))
		for {
			select {
			case <-o.stop:
				return
			default:
			}
			for i, t := range o.taps {
				ready[i] = unix.PollFd{Fd: int32(t.fd), Events: unix.POLLIN}
			}
			if n, err := unix.Poll(ready, 50); err == nil && n > 0 {
				o.mu.Lock()
				o.read()
				o.mu.Unlock()
			}
		}
	})
}

// read takes all that the sockets have. The lock is held.
func (o *Observer) read() {
	b, control := o.buffer[:64<<10], o.buffer[64<<10:]
	for _, t := range o.taps {
		for {
			n, c, _, from, err := unix.Recvmsg(t.fd, b, control, 0)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EINTR) {
				continue // a link of the namespace went down; the socket hears the others
			}
			if err != nil {
				o.broken = errors.Join(o.broken, fmt.Errorf("%s: %w", t.name, err))
				return
			}
			ll, ok := from.(*unix.SockaddrLinklayer)
			if !ok || ll.Pkttype == unix.PACKET_OUTGOING || ll.Hatype == unix.ARPHRD_LOOPBACK || t.only != nil && !t.only[ll.Ifindex] {
				continue
			}
			why := o.judge(seen{b[:n], tagged(control[:c]), ll.Pkttype == unix.PACKET_OTHERHOST, t.segment})
			if why == "" {
				o.permitted++
				continue
			}
			o.forbidden++
			o.kept = append(o.kept, Frame{Segment: t.name, Why: why, Bytes: bytes.Clone(b[:min(n, snap)])})
			if len(o.kept) > ring {
				o.kept = slices.Delete(o.kept, 0, len(o.kept)-ring)
			}
		}
		// Reading the statistics begins them anew.
		if s, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			o.missed += int(s.Drops)
		} else {
			o.broken = errors.Join(o.broken, err)
		}
	}
}

// tagged tells whether the kernel took a VLAN tag off.
func tagged(control []byte) bool {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return true // what cannot be read is not vouched for
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			return binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0
		}
	}
	return false
}

// settle is the time that a frame on its way is given: two links, and a busy machine.
const settle = 50 * time.Millisecond

// Forbidden is what was seen and may not be seen, since the last look. An error says that the
// observer cannot vouch for what it did not see, or saw more than it kept.
func (o *Observer) Forbidden() ([]Frame, error) {
	time.Sleep(settle)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.read()
	frames, err := o.kept, o.broken
	if o.missed > 0 {
		err = errors.Join(err, fmt.Errorf("%d frames were not seen", o.missed))
	}
	if n := o.forbidden - len(frames); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d forbidden frames more than are kept", n))
	}
	o.kept, o.forbidden, o.missed = nil, 0, 0
	return frames, err
}

// Permitted is how many frames were seen that may be, since the start: an observer that has
// seen none proves nothing.
func (o *Observer) Permitted() int {
	time.Sleep(settle)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.read()
	return o.permitted
}

// Check fails a test for every frame that may not be seen.
func (o *Observer) Check(t interface {
	Helper()
	Errorf(string, ...any)
}, after string) {
	t.Helper()
	frames, err := o.Forbidden()
	if err != nil {
		t.Errorf("after %s: the observer: %v", after, err)
	}
	for _, f := range frames {
		t.Errorf("after %s: %s", after, f)
	}
}

// Close ends it.
func (o *Observer) Close() error {
	close(o.stop)
	o.done.Wait()
	var errs []error
	for _, t := range o.taps {
		errs = append(errs, unix.Close(t.fd))
	}
	return errors.Join(errs...)
}

// judge says why a frame may not be seen.
func (s Scope) judge(f seen) string {
	switch {
	case f.tagged:
		return "a VLAN tag"
	case len(f.frame) < 14:
		return "no frame"
	case f.other && !f.at.switched:
		return fmt.Sprintf("for the hardware address %x", f.frame[:6])
	case f.at.mac != nil && !bytes.Equal(f.frame[6:12], f.at.mac):
		return fmt.Sprintf("from the hardware address %x", f.frame[6:12])
	}
	p, unicast := f.frame[14:], f.frame[0]&1 == 0
	between := func(from, to netip.Addr) string {
		if !unicast && !to.IsMulticast() {
			return fmt.Sprintf("a broadcast frame %s > %s", from, to)
		}
		return s.between(from, to)
	}
	switch kind := binary.BigEndian.Uint16(f.frame[12:]); kind {
	case unix.ETH_P_ARP:
		return s.judgeARP(p, unicast, f.at)
	case unix.ETH_P_IP:
		if why := form4(p); why != "" {
			return why
		}
		if why := between(netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))); why != "" {
			return why
		}
		return s.port(p[9], p[20:])
	case unix.ETH_P_IPV6:
		if s.neighbourly(p, unicast, f.at) {
			return ""
		}
		if why := form6(p); why != "" {
			return why
		}
		if why := between(netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))); why != "" {
			return why
		}
		return s.port(p[6], p[40:])
	default:
		return fmt.Sprintf("type %04x", kind)
	}
}

func (s Scope) between(from, to netip.Addr) string {
	switch ends := fmt.Sprintf("%s > %s", from, to); {
	case to.IsMulticast():
		return "multicast " + ends
	case !contains(s.Targets, to):
		return "off scope " + ends
	case !contains(s.Sources, from):
		return "a source of others " + ends
	}
	return ""
}

// port judges what follows the header of a packet that is whole.
func (s Scope) port(protocol byte, p []byte) string {
	if s.Ports == nil {
		return ""
	}
	ports, known := s.Ports[protocol]
	if protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6 {
		if known {
			return ""
		}
		return fmt.Sprintf("ICMP, type %d", p[0])
	}
	if port := binary.BigEndian.Uint16(p[2:]); !slices.Contains(ports, port) {
		return fmt.Sprintf("protocol %d, port %d", protocol, port)
	}
	return ""
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// judgeARP permits what the two ends of a link ask and answer each other, and questions for the
// scope; behind a switch also those who may send to it, and a machine answers for them.
func (s Scope) judgeARP(p []byte, unicast bool, at segment) string {
	ends, hosts := at.ends, at.sources(s)
	if len(p) < 28 {
		return "ARP too short"
	}
	op, sender, target := binary.BigEndian.Uint16(p[6:]), netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28]))
	asked := op == 1 && (ends[target] || contains(s.Targets, target))
	answered := op == 2 && unicast && (ends[target] || len(hosts) > 0 && contains(s.Targets, target))
	if (ends[sender] || contains(hosts, sender)) && sender != target && (asked || answered) {
		return ""
	}
	return fmt.Sprintf("ARP %d of %s about %s", op, sender, target)
}

// sources are those that stand on a segment themselves.
func (at segment) sources(s Scope) []netip.Prefix {
	if !at.switched {
		return nil
	}
	return s.Sources
}

// neighbourly is what a kernel says on an IPv6 link by itself: it asks for routers, for the other
// end of the link and for the scope, and reports the groups that go with its own addresses.
func (s Scope) neighbourly(p []byte, unicast bool, at segment) bool {
	ends, hosts := at.ends, at.sources(s)
	if len(p) < 48 {
		return false
	}
	next, body := p[6], p[40:]
	if next == 0 && p[40] == unix.IPPROTO_ICMPV6 && p[41] == 0 { // the router alert of a report
		body = p[48:]
	} else if next != unix.IPPROTO_ICMPV6 {
		return false
	}
	from := netip.AddrFrom16([16]byte(p[8:24]))
	if len(body) < 8 || !from.IsUnspecified() && !from.IsLinkLocalUnicast() && !ends[from] && !contains(hosts, from) {
		return false
	}
	switch body[0] {
	case 133:
		return true
	case 135, 136:
		if len(body) < 24 || p[7] != 255 || body[0] == 136 && !unicast {
			return false
		}
		target := netip.AddrFrom16([16]byte(body[8:24]))
		// A router asks for its neighbour in the name of the host whose packet it has (fd77::20, say), is
		// answered there, and the kernel that answered confirms that neighbour some seconds later, by unicast.
		// A hop limit of 255 has passed no router; whom a kernel does not know it asks by multicast.
		known := netip.AddrFrom16([16]byte(p[24:40])) == target
		if at.routed && body[0] == 135 && known && from.IsLinkLocalUnicast() {
			return true
		}
		return target.IsLinkLocalUnicast() || ends[target] || body[0] == 135 && contains(s.Targets, target) || body[0] == 136 && contains(hosts, target) && target == from
	case 143:
		return ownGroups(body[8:], int(binary.BigEndian.Uint16(body[6:])))
	}
	return false
}

var ownGroup = []netip.Prefix{netip.MustParsePrefix("ff02::1:ff00:0/104"), netip.MustParsePrefix("ff01::2/128"),
	netip.MustParsePrefix("ff02::2/128"), netip.MustParsePrefix("ff05::2/128"), netip.MustParsePrefix("ff02::6a/128")}

func ownGroups(records []byte, n int) bool {
	for range n {
		if len(records) < 20 || !contains(ownGroup, netip.AddrFrom16([16]byte(records[4:20]))) {
			return false
		}
		size := 20 + 16*int(binary.BigEndian.Uint16(records[2:])) + 4*int(records[1])
		records = records[min(size, len(records)):]
	}
	return true
}

// form4 says what is not as it should be with an IPv4 packet.
func form4(p []byte) string {
	if len(p) < 20 || p[0]>>4 != 4 {
		return "no IPv4 header"
	}
	ends := fmt.Sprintf(" %s > %s", netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])))
	size := int(binary.BigEndian.Uint16(p[2:]))
	switch {
	case p[0]&15 != 5:
		return "IPv4 options" + ends
	case size < 20 || size > len(p):
		return "a false length" + ends
	case binary.BigEndian.Uint16(p[6:])&0x3fff != 0:
		return "a fragment" + ends
	}
	return above(p[9], p[20:size], unix.IPPROTO_ICMP, ends)
}

// form6 says what is not as it should be with an IPv6 packet.
func form6(p []byte) string {
	if len(p) < 40 || p[0]>>4 != 6 {
		return "no IPv6 header"
	}
	ends := fmt.Sprintf(" %s > %s", netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])))
	size := 40 + int(binary.BigEndian.Uint16(p[4:]))
	if size == 40 || size > len(p) {
		return "a false length" + ends
	}
	return above(p[6], p[40:size], unix.IPPROTO_ICMPV6, ends)
}

// The messages of ICMP that tell others which way to send, in both families.
var steering = map[byte][]byte{unix.IPPROTO_ICMP: {5, 9, 10}, unix.IPPROTO_ICMPV6: {133, 134, 135, 136, 137}}

func above(protocol byte, p []byte, icmp byte, ends string) string {
	least := map[byte]int{unix.IPPROTO_TCP: 20, unix.IPPROTO_UDP: 8, unix.IPPROTO_SCTP: 12, icmp: 8}[protocol]
	switch {
	case least == 0:
		return fmt.Sprintf("protocol %d%s", protocol, ends)
	case len(p) < least || protocol == unix.IPPROTO_TCP && (p[12]>>4 < 5 || int(p[12]>>4)*4 > len(p)):
		return fmt.Sprintf("protocol %d, cut%s", protocol, ends)
	case protocol == icmp && slices.Contains(steering[icmp], p[0]):
		return fmt.Sprintf("ICMP that steers, type %d%s", p[0], ends)
	}
	return ""
}

// mentions tells whether a frame has an address of the network outside anywhere in its headers,
// its tunnels, tags and options included.
func mentions(f seen) string {
	if f.at.name == outsideLink && neighbours(f.frame) {
		return ""
	}
	head := f.frame[:min(len(f.frame), 200)]
	for _, a := range []string{Outside, Outside6} {
		if bytes.Contains(head, netip.MustParseAddr(a).AsSlice()) {
			return "something for " + a
		}
	}
	return ""
}

// neighbours tells what a kernel asks about who is on its link, some seconds after it has sent something
// there. No router passes it on: ARP is no IP, and a hop limit of 255 is that of the link's own.
func neighbours(frame []byte) bool {
	if len(frame) < 14+40+1 {
		return len(frame) >= 14 && binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_ARP
	}
	kind, p := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	return kind == unix.ETH_P_ARP || kind == unix.ETH_P_IPV6 && p[6] == unix.IPPROTO_ICMPV6 && p[7] == 255 && (p[40] == 135 || p[40] == 136)
}

// Strangers is how many frames have arrived since New with the address of the host that nothing
// may reach. Frames that the observer missed count: nobody can vouch for them.
func (l *Lab) Strangers() int64 {
	time.Sleep(settle)
	o := l.strangers
	o.mu.Lock()
	defer o.mu.Unlock()
	o.read()
	if o.broken != nil {
		return int64(o.forbidden+o.missed) + 1
	}
	return int64(o.forbidden + o.missed)
}

// one is the prefix of an address alone.
func one(a string) netip.Prefix {
	if strings.Contains(a, "/") {
		return netip.MustParsePrefix(a)
	}
	addr := netip.MustParseAddr(a)
	return netip.PrefixFrom(addr, addr.BitLen())
}

// Prefixes makes a list of addresses and prefixes into one of prefixes. It panics on others:
// they are constants of tests.
func Prefixes(list ...string) (out []netip.Prefix) {
	for _, a := range list {
		out = append(out, one(a))
	}
	return out
}
