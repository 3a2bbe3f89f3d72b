package scope

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The ends of a link as frames name them.
var (
	box      = net.HardwareAddr{2, 0, 0, 0, 0, 0x10}
	gateway  = net.HardwareAddr{2, 0, 0, 0, 0, 0x01}
	stranger = net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
	everyone = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	group6   = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}

	own4, gate4 = addr("10.254.200.2"), addr("10.254.200.1")
	own6, gate6 = addr("fd5e:c0de:5ca1::2"), addr("fd5e:c0de:5ca1::1")

	denied, denied6 = addr("10.88.7.7"), addr("fd88::7:7")
	web, web6       = addr("10.66.0.80"), addr("fd66::80") // ports alone are granted
	router, router6 = addr("192.0.2.1"), addr("2001:db8::1")
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// granted is the scope of most tests: two hosts, two networks with a hole, and two hosts of which
// some ports are granted.
func granted() grant {
	return grant{
		inner4: own4, outer4: gate4, inner6: own6, innerMAC: box, outerMAC: gateway,
		allow: []targets{
			{prefixes: []netip.Prefix{host(allowed), host(allowed6)}, icmp: true},
			{prefixes: prefixes("10.88.0.0/16", "fd88::/32"), icmp: true},
			{prefixes: []netip.Prefix{host(web), host(web6)}, ports: &portRule{tcp: []portRange{{80, 80}, {8000, 8999}}, udp: []portRange{{0, 0}, {65535, 65535}}}},
		},
		deny: []netip.Prefix{host(denied), host(denied6)},
		arp:  true,
		mark: 0x5ec,
	}
}

func ethernet(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	f := slices.Concat(to, from)
	return append(binary.BigEndian.AppendUint16(f, kind), payload...)
}

// frame4 and frame6 are frames as a box sends them.
func frame4(p []byte) []byte { return ethernet(gateway, box, unix.ETH_P_IP, p) }
func frame6(p []byte) []byte { return ethernet(gateway, box, unix.ETH_P_IPV6, p) }

// back4 and back6 are frames as they go into a box.
func back4(p []byte) []byte { return ethernet(box, gateway, unix.ETH_P_IP, p) }
func back6(p []byte) []byte { return ethernet(box, gateway, unix.ETH_P_IPV6, p) }

func ip4(src, dst netip.Addr, protocol byte, payload []byte, edits ...func(p []byte)) []byte {
	p := make([]byte, 20, 20+len(payload))
	p[0], p[8], p[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	p = append(p, payload...)
	for _, edit := range edits {
		edit(p)
	}
	return checksummed(p)
}

func ip6(src, dst netip.Addr, next byte, payload []byte, edits ...func(p []byte)) []byte {
	p := make([]byte, 40, 40+len(payload))
	p[0], p[6], p[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	copy(p[8:], src.AsSlice())
	copy(p[24:], dst.AsSlice())
	p = append(p, payload...)
	for _, edit := range edits {
		edit(p)
	}
	return p
}

func ports(size int, to uint16) []byte {
	h := make([]byte, size)
	binary.BigEndian.PutUint16(h, 40000)
	binary.BigEndian.PutUint16(h[2:], to)
	return h
}

func tcp(to uint16) []byte {
	h := ports(20, to)
	h[12], h[13] = 5<<4, 2
	return h
}

func udp(to uint16) []byte {
	h := ports(8, to)
	h[5] = 8
	return h
}

func sctp(to uint16) []byte { return ports(16, to) }

func icmpOf(kind byte, quoted ...byte) []byte { return append([]byte{kind, 7: 0}, quoted...) }

func arpOf(operation uint16, from net.HardwareAddr, sender, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(operation >> 8), byte(operation)}
	b = slices.Concat(b, from, sender.AsSlice(), make([]byte, 6), target.AsSlice())
	return append(b, make([]byte, 18)...) // as long as a frame on a wire is
}

// fragment edits the field of flags and offset.
func fragment(v uint16) func([]byte) {
	return func(p []byte) { binary.BigEndian.PutUint16(p[6:], v) }
}

// long is an edit of the length that the header gives.
func long(at int, v uint16) func([]byte) {
	return func(p []byte) { binary.BigEndian.PutUint16(p[at:], v) }
}

func kind(v byte, at int) func([]byte) { return func(p []byte) { p[at] = v } }

// wire is a filter on a link of the test's own. Its other end stands for the box.
type wire struct {
	*testing.T
	*filter
	ifindex, peer int
	socket        int // for frames
}

// onWire attaches a new filter to a new link.
func onWire(t *testing.T) *wire {
	t.Helper()
	f, err := loadFilter()
	must(t, err)
	t.Cleanup(func() { must(t, f.close()) })
	w := &wire{T: t, filter: f, ifindex: newWire(t, f, "secvwire").Attrs().Index}
	peer, err := net.InterfaceByName("secvwirex")
	must(t, err)
	w.peer = peer.Index
	w.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(w.socket)) })
	return w
}

func newWire(t *testing.T, f *filter, name string) netlink.Link {
	t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: name + "x"}
	v.Name = name
	must(t, netlink.LinkAdd(v))
	link, err := netlink.LinkByName(name)
	must(t, err)
	t.Cleanup(func() { must(t, netlink.LinkDel(link)) })
	must(t, f.attach(link))
	peer, err := netlink.LinkByName(name + "x")
	must(t, err)
	// Neither end says anything by itself.
	must(t, errors.Join(set("ipv6", name, "disable_ipv6", "1"), set("ipv6", name+"x", "disable_ipv6", "1")))
	must(t, errors.Join(netlink.LinkSetUp(link), netlink.LinkSetUp(peer)))
	return link
}

// skb is struct __sk_buff, of which a test sets and reads little.
type skb struct {
	Len, PktType, Mark, Queue, Protocol, VlanPresent, VlanTCI, VlanProto, Priority, Ingress, Ifindex uint32
	_                                                                                                [30]uint32
	GsoSegs                                                                                          uint32
	_                                                                                                [2]uint32
	GsoSize                                                                                          uint32
	_                                                                                                [3]uint32
}

// run lets the kernel run a program on a frame of a link.
func run(p *ebpf.Program, ifindex int, frame []byte) (verdict uint32, after skb, err error) {
	return runAs(p, skb{Ifindex: uint32(ifindex)}, frame)
}

func runAs(p *ebpf.Program, before skb, frame []byte) (verdict uint32, after skb, err error) {
	verdict, err = p.Run(&ebpf.RunOptions{Data: frame, Context: &before, ContextOut: &after})
	return verdict, after, err
}

const (
	passes    = 0
	drops     = 2
	redirects = 7
)

// judged says which counter a frame lands in: as the kernel runs the program for a test, and as
// it comes over the link. It must be one counter alone, by one packet, and the verdict that of
// the counter.
func (w *wire) judged(p *ebpf.Program, frame []byte) string {
	w.Helper()
	real := w.counted(frame, func() {
		from := w.peer
		if p == w.programs.In {
			from = w.ifindex
		}
		err := unix.Sendto(w.socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: from})
		if from == w.ifindex && errors.Is(err, unix.ENOBUFS) {
			return // dropped on its way to the link
		}
		must(w.T, err)
	})
	if short(frame) {
		return real
	}
	var verdict uint32
	var after skb
	run := w.counted(frame, func() {
		var err error
		verdict, after, err = run(p, w.ifindex, frame)
		must(w.T, err)
	})
	want := uint32(drops)
	if run == "sent" || run == "received" {
		want = passes
	}
	l2 := w.slots[w.ifindex].record.Flags&flagL2 != 0
	if run == "sent" && l2 {
		want = redirects
	}
	if verdict != want {
		w.Errorf("counted as %q, and the verdict is %d", run, verdict)
	}
	if run == "sent" && !l2 && after.Mark != granted().mark {
		w.Errorf("sent with mark %#x", after.Mark)
	}
	if run != real {
		return run + " in a test, and " + real + " over the link"
	}
	return run
}

// short says of a frame that the kernel runs no program on it for a test: the header that its
// kind promises is not there.
func short(frame []byte) bool {
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		return len(frame) < 14+20
	case unix.ETH_P_IPV6:
		return len(frame) < 14+40
	}
	return false
}

// counted says which counter grows when a frame is sent.
func (w *wire) counted(frame []byte, send func()) string {
	w.Helper()
	before, _, err := w.counters(w.ifindex)
	must(w.T, err)
	send()
	now := before
	for end := time.Now().Add(5 * time.Second); now == before && time.Now().Before(end); {
		now, _, err = w.counters(w.ifindex)
		must(w.T, err)
	}
	var where []string
	a, b := reflect.ValueOf(before), reflect.ValueOf(now)
	for i := range a.NumField() {
		name, more := a.Type().Field(i).Name, b.Field(i).Uint()-a.Field(i).Uint()
		switch {
		case more == 0:
		case strings.HasSuffix(name, "Bytes"):
			if more != uint64(len(frame)) {
				w.Errorf("%s grew by %d for a frame of %d", name, more, len(frame))
			}
		case more != 1:
			w.Errorf("%s grew by %d", name, more)
		default:
			where = append(where, name)
		}
	}
	return strings.Join(where, " and ")
}

type judgement struct {
	says  string
	frame []byte
	want  string
}

func (w *wire) all(p *ebpf.Program, table []judgement) {
	w.Helper()
	for _, c := range table {
		if got := w.judged(p, c.frame); got != c.want {
			w.Errorf("%s: counted as %q, not as %q", c.says, got, c.want)
		}
	}
}

func TestWhatLeavesABox(t *testing.T) {
	w := onWire(t)
	must(t, w.give(w.ifindex, granted()))
	lsrr := func(to netip.Addr) []byte { // with a route that leads elsewhere
		p := ip4(own4, to, 17, append(append([]byte{131, 7, 4}, append(forbidden.AsSlice(), 0)...), udp(9)...))
		p[0] = 0x47
		return checksummed(p)
	}
	routing := append([]byte{17, 2, 0, 1, 0, 0, 0, 0}, append(forbidden6.AsSlice(), udp(9)...)...)
	segments := append([]byte{17, 2, 4, 1, 0, 0, 0, 0}, append(forbidden6.AsSlice(), udp(9)...)...)
	w.all(w.programs.Out, []judgement{
		{"a SYN to a host of the scope", frame4(ip4(own4, allowed, 6, tcp(80))), "sent"},
		{"a SYN to the last port", frame4(ip4(own4, allowed, 6, tcp(65535))), "sent"},
		{"a datagram", frame4(ip4(own4, allowed, 17, udp(161))), "sent"},
		{"an empty datagram", frame4(ip4(own4, allowed, 17, udp(0))), "sent"},
		{"an SCTP INIT", frame4(ip4(own4, allowed, 132, sctp(36412))), "sent"},
		{"an echo request", frame4(ip4(own4, allowed, 1, icmpOf(8))), "sent"},
		{"a timestamp request", frame4(ip4(own4, allowed, 1, icmpOf(13))), "sent"},
		{"an address mask request", frame4(ip4(own4, allowed, 1, icmpOf(17))), "sent"},
		{"an unreachable port", frame4(ip4(own4, allowed, 1, icmpOf(3))), "sent"},
		{"a packet of TTL 1, for a route to be traced", frame4(ip4(own4, allowed, 17, udp(9), kind(1, 8))), "sent"},
		{"a packet that may not be fragmented", frame4(ip4(own4, allowed, 6, tcp(80), fragment(0x4000))), "sent"},
		{"a frame that is padded", append(frame4(ip4(own4, allowed, 17, udp(9))), make([]byte, 18)...), "sent"},
		{"a header of TCP with options", frame4(ip4(own4, allowed, 6, append(tcp(80), 2, 4, 5, 180), kind(6<<4, 32))), "sent"},
		{"the first address of a network", frame4(ip4(own4, addr("10.88.0.0"), 6, tcp(80))), "sent"},
		{"the last address of a network", frame4(ip4(own4, addr("10.88.255.255"), 6, tcp(80))), "sent"},
		{"a SYN over IPv6", frame6(ip6(own6, allowed6, 6, tcp(80))), "sent"},
		{"a datagram over IPv6", frame6(ip6(own6, allowed6, 17, udp(161))), "sent"},
		{"an SCTP INIT over IPv6", frame6(ip6(own6, allowed6, 132, sctp(36412))), "sent"},
		{"an echo request over IPv6", frame6(ip6(own6, allowed6, 58, icmpOf(128))), "sent"},
		{"an unreachable port over IPv6", frame6(ip6(own6, allowed6, 58, icmpOf(1))), "sent"},
		{"the last address of an IPv6 network", frame6(ip6(own6, addr("fd88:0:ffff:ffff:ffff:ffff:ffff:ffff"), 6, tcp(80))), "sent"},
		{"the question for the gateway", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, gate4)), "sent"},
		{"the question for the gateway, asked of it", ethernet(gateway, box, unix.ETH_P_ARP, arpOf(1, box, own4, gate4)), "sent"},

		{"a SYN to a forbidden host", frame4(ip4(own4, forbidden, 6, tcp(80))), "offScope"},
		{"a datagram to a forbidden host", frame4(ip4(own4, forbidden, 17, udp(9))), "offScope"},
		{"an echo request to a forbidden host", frame4(ip4(own4, forbidden, 1, icmpOf(8))), "offScope"},
		{"the address before a network", frame4(ip4(own4, addr("10.87.255.255"), 6, tcp(80))), "offScope"},
		{"the address behind a network", frame4(ip4(own4, addr("10.89.0.0"), 6, tcp(80))), "offScope"},
		{"a denied address within an allowed network", frame4(ip4(own4, denied, 6, tcp(80))), "offScope"},
		{"the gateway itself", frame4(ip4(own4, gate4, 6, tcp(22))), "offScope"},
		{"the box's own address", frame4(ip4(own4, own4, 6, tcp(22))), "offScope"},
		{"no address", frame4(ip4(own4, addr("0.0.0.0"), 17, udp(9))), "offScope"},
		{"loopback", frame4(ip4(own4, addr("127.0.0.1"), 17, udp(9))), "offScope"},
		{"a multicast", frame4(ip4(own4, addr("224.0.0.1"), 17, udp(9))), "offScope"},
		{"a multicast to its group's station", ethernet(net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, box, unix.ETH_P_IP, ip4(own4, addr("224.0.0.1"), 17, udp(9))), "offScope"},
		{"a broadcast", frame4(ip4(own4, addr("255.255.255.255"), 17, udp(9))), "offScope"},
		{"a packet of the scope to every station", ethernet(everyone, box, unix.ETH_P_IP, ip4(own4, allowed, 17, udp(9))), "offScope"},
		{"a packet of the scope to another station", ethernet(stranger, box, unix.ETH_P_IP, ip4(own4, allowed, 17, udp(9))), "offScope"},
		{"a SYN to a forbidden host over IPv6", frame6(ip6(own6, forbidden6, 6, tcp(80))), "offScope"},
		{"a denied address within an allowed IPv6 network", frame6(ip6(own6, denied6, 6, tcp(80))), "offScope"},
		{"an IPv4 host in IPv6's clothes", frame6(ip6(own6, addr("::ffff:10.77.0.10"), 6, tcp(80))), "offScope"},
		{"an IPv6 multicast", frame6(ip6(own6, addr("ff02::1"), 17, udp(9))), "offScope"},
		{"an IPv6 packet to a group of stations", ethernet(group6, box, unix.ETH_P_IPV6, ip6(own6, allowed6, 17, udp(9))), "offScope"},
		{"a question for a forbidden host's hardware address", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, forbidden)), "offScope"},
		{"a question for a target's, on a routed link", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, allowed)), "offScope"},
		{"gratuitous ARP", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, own4)), "offScope"},
		{"a solicitation of the gateway, which is not asked", frame6(ip6(own6, gate6, 58, icmpOf(135, gate6.AsSlice()...), kind(255, 7))), "offScope"},

		{"a forbidden source, that this machine may answer", frame4(ip4(forbidden, allowed, 17, udp(9))), "spoofed"},
		{"a forbidden source of an echo to the gateway", frame4(ip4(forbidden, gate4, 1, icmpOf(8))), "spoofed"},
		{"a forbidden source of TTL 1", frame4(ip4(forbidden, allowed, 17, udp(9), kind(1, 8))), "spoofed"},
		{"the gateway as source", frame4(ip4(gate4, allowed, 17, udp(9))), "spoofed"},
		{"no source", frame4(ip4(addr("0.0.0.0"), allowed, 17, udp(68))), "spoofed"},
		{"a decoy's hardware address", ethernet(gateway, stranger, unix.ETH_P_IP, ip4(own4, allowed, 6, tcp(80))), "spoofed"},
		{"the gateway's hardware address", ethernet(gateway, gateway, unix.ETH_P_IP, ip4(own4, allowed, 6, tcp(80))), "spoofed"},
		{"a forbidden IPv6 source", frame6(ip6(forbidden6, allowed6, 17, udp(9))), "spoofed"},
		{"a source of the link alone", frame6(ip6(addr("fe80::2"), allowed6, 17, udp(9))), "spoofed"},
		{"ARP from another station", ethernet(everyone, stranger, unix.ETH_P_ARP, arpOf(1, stranger, own4, gate4)), "spoofed"},
		{"ARP in another station's name", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, stranger, own4, gate4)), "spoofed"},
		{"ARP in another address's name", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, forbidden, gate4)), "spoofed"},
		{"an ARP probe", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, addr("0.0.0.0"), gate4)), "spoofed"},

		{"a source route", frame4(lsrr(allowed)), "form"},
		{"a source route by the gateway", frame4(lsrr(gate4)), "form"},
		{"a header that is too short to be one", frame4(ip4(own4, allowed, 17, udp(9), kind(0x44, 0))), "form"},
		{"a header of no length", frame4(ip4(own4, allowed, 17, udp(9), kind(0x40, 0))), "form"},
		{"IPv6 in IPv4's frame", ethernet(gateway, box, unix.ETH_P_IP, ip6(own6, allowed6, 17, udp(9))), "form"},
		{"IPv4 in IPv6's frame", ethernet(gateway, box, unix.ETH_P_IPV6, ip4(own4, allowed, 6, append(tcp(9), make([]byte, 20)...))), "form"},
		{"the first fragment", frame4(ip4(own4, allowed, 17, udp(9), fragment(0x2000))), "form"},
		{"the rest of a fragment", frame4(ip4(own4, allowed, 17, udp(9), fragment(5))), "form"},
		{"a length beyond the frame", frame4(ip4(own4, allowed, 17, udp(9), long(2, 29))), "form"},
		{"a length less than the header", frame4(ip4(own4, allowed, 17, udp(9), long(2, 19))), "form"},
		{"half a header of IPv4", frame4(ip4(own4, allowed, 17, udp(9))[:12]), "form"},
		{"a byte of a header of IPv4", frame4([]byte{0x45}), "form"},
		{"half a header of TCP", frame4(ip4(own4, allowed, 6, tcp(80)[:12])), "form"},
		{"a header of TCP that ends behind the packet", frame4(ip4(own4, allowed, 6, tcp(80), kind(6<<4, 32))), "form"},
		{"a header of TCP of four words", frame4(ip4(own4, allowed, 6, tcp(80), kind(4<<4, 32))), "form"},
		{"a header of TCP beyond the length, in the padding", frame4(ip4(own4, allowed, 6, tcp(80), long(2, 32))), "form"},
		{"half a header of UDP", frame4(ip4(own4, allowed, 17, udp(9)[:4])), "form"},
		{"half a header of SCTP", frame4(ip4(own4, allowed, 132, sctp(9)[:8])), "form"},
		{"an echo request that ends in the padding", frame4(ip4(own4, allowed, 1, icmpOf(8), long(2, 24))), "form"},
		{"half an echo request", frame4(ip4(own4, allowed, 1, icmpOf(8)[:4])), "form"},
		{"IPv6 with hop-by-hop options", frame6(ip6(own6, allowed6, 0, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp(9)...))), "form"},
		{"an IPv6 source route", frame6(ip6(own6, allowed6, 43, routing)), "form"},
		{"IPv6 segment routing", frame6(ip6(own6, allowed6, 43, segments)), "form"},
		{"an IPv6 fragment", frame6(ip6(own6, allowed6, 44, append([]byte{17, 0, 0, 1, 0, 0, 0, 9}, udp(9)...))), "form"},
		{"IPv6 with options for its destination", frame6(ip6(own6, allowed6, 60, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp(9)...))), "form"},
		{"IPv6 with an authentication header", frame6(ip6(own6, allowed6, 51, make([]byte, 32))), "form"},
		{"IPv6 with a mobility header", frame6(ip6(own6, allowed6, 135, make([]byte, 8))), "form"},
		{"an IPv6 length beyond the frame", frame6(ip6(own6, allowed6, 17, udp(9), long(4, 9))), "form"},
		{"IPv6 of no length", frame6(ip6(own6, allowed6, 17, udp(9), long(4, 0))), "form"},
		{"half a header of IPv6", frame6(ip6(own6, allowed6, 17, udp(9))[:30]), "form"},
		{"half a header of TCP over IPv6", frame6(ip6(own6, allowed6, 6, tcp(80)[:12])), "form"},
		{"half an ARP", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, gate4)[:20]), "form"},
		{"ARP of other sizes", ethernet(everyone, box, unix.ETH_P_ARP, append([]byte{0, 1, 8, 0, 8, 4}, arpOf(1, box, own4, gate4)[6:]...)), "form"},

		{"a tagged frame", ethernet(gateway, box, 0x8100, append([]byte{0, 5, 8, 0}, ip4(own4, allowed, 17, udp(9))...)), "ethertype"},
		{"a frame tagged twice", ethernet(gateway, box, 0x88a8, append([]byte{0, 5, 0x81, 0, 0, 5, 8, 0}, ip4(own4, allowed, 17, udp(9))...)), "ethertype"},
		{"a frame of another kind", ethernet(gateway, box, 0x88b5, ip4(own4, allowed, 17, udp(9))), "ethertype"},
		{"a frame with a length", ethernet(gateway, box, 64, make([]byte, 64)), "ethertype"},
		{"a reverse ARP", ethernet(everyone, box, 0x8035, arpOf(3, box, own4, gate4)), "ethertype"},

		{"a tunnel", frame4(ip4(own4, allowed, 4, ip4(own4, forbidden, 17, udp(9)))), "protocol"},
		{"a tunnel of IPv6", frame4(ip4(own4, allowed, 41, ip6(own6, forbidden6, 17, udp(9)))), "protocol"},
		{"GRE", frame4(ip4(own4, allowed, 47, make([]byte, 24))), "protocol"},
		{"ESP", frame4(ip4(own4, allowed, 50, make([]byte, 24))), "protocol"},
		{"IGMP", frame4(ip4(own4, allowed, 2, make([]byte, 8))), "protocol"},
		{"a redirect", frame4(ip4(own4, allowed, 1, icmpOf(5))), "protocol"},
		{"an echo reply", frame4(ip4(own4, allowed, 1, icmpOf(0))), "protocol"},
		{"a router's advertisement", frame4(ip4(own4, allowed, 1, icmpOf(9))), "protocol"},
		{"IPv6's ICMP in IPv4", frame4(ip4(own4, allowed, 58, icmpOf(128))), "protocol"},
		{"IPv4's ICMP in IPv6", frame6(ip6(own6, allowed6, 1, icmpOf(8))), "protocol"},
		{"a tunnel in IPv6", frame6(ip6(own6, allowed6, 41, ip6(own6, forbidden6, 17, udp(9)))), "protocol"},
		{"a redirect over IPv6", frame6(ip6(own6, allowed6, 58, icmpOf(137))), "protocol"},
		{"a router's advertisement over IPv6", frame6(ip6(own6, allowed6, 58, icmpOf(134))), "protocol"},
		{"a neighbour's advertisement to a target", frame6(ip6(own6, allowed6, 58, icmpOf(136))), "protocol"},
		{"no next header", frame6(ip6(own6, allowed6, 59, make([]byte, 8))), "protocol"},
		{"an ARP reply", ethernet(gateway, box, unix.ETH_P_ARP, arpOf(2, box, own4, gate4)), "protocol"},
		{"an ARP reply that lies", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(2, box, forbidden, gate4)), "protocol"},

		{"a granted port", frame4(ip4(own4, web, 6, tcp(80))), "sent"},
		{"the first port of a range", frame4(ip4(own4, web, 6, tcp(8000))), "sent"},
		{"the last port of a range", frame4(ip4(own4, web, 6, tcp(8999))), "sent"},
		{"the first datagram port", frame4(ip4(own4, web, 17, udp(0))), "sent"},
		{"the last datagram port", frame4(ip4(own4, web, 17, udp(65535))), "sent"},
		{"a granted port over IPv6", frame6(ip6(own6, web6, 6, tcp(80))), "sent"},
		{"the port beside a granted one", frame4(ip4(own4, web, 6, tcp(81))), "port"},
		{"the port behind a range", frame4(ip4(own4, web, 6, tcp(9000))), "port"},
		{"the port before a range", frame4(ip4(own4, web, 6, tcp(7999))), "port"},
		{"a datagram to a port of TCP", frame4(ip4(own4, web, 17, udp(80))), "port"},
		{"another port over IPv6", frame6(ip6(own6, web6, 6, tcp(443))), "port"},
		{"a protocol without a granted port", frame4(ip4(own4, web, 132, sctp(80))), "protocol"},
		{"an echo request where ports alone are granted", frame4(ip4(own4, web, 1, icmpOf(8))), "protocol"},
		{"an echo request over IPv6 where ports alone are granted", frame6(ip6(own6, web6, 58, icmpOf(128))), "protocol"},

		{"a router's solicitation", ethernet(group6, box, unix.ETH_P_IPV6, ip6(addr("fe80::2"), addr("ff02::2"), 58, icmpOf(133))), "noise"},
		{"a report of listeners", ethernet(group6, box, unix.ETH_P_IPV6, ip6(addr("::"), addr("ff02::16"), 0, append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, icmpOf(143)...))), "noise"},
		{"the search for a double address", ethernet(group6, box, unix.ETH_P_IPV6, ip6(addr("::"), addr("ff02::1:ff00:2"), 58, icmpOf(135, own6.AsSlice()...), kind(255, 7))), "noise"},
		{"a neighbour's solicitation in the scope's name", ethernet(group6, box, unix.ETH_P_IPV6, ip6(own6, addr("ff02::1:ff00:10"), 58, icmpOf(135, allowed6.AsSlice()...), kind(255, 7))), "noise"},
		{"what looks like noise, of another station", ethernet(group6, stranger, unix.ETH_P_IPV6, ip6(addr("fe80::2"), addr("ff02::2"), 58, icmpOf(133))), "spoofed"},
		{"a datagram to a group of the link", ethernet(group6, box, unix.ETH_P_IPV6, ip6(own6, addr("ff02::1"), 17, udp(9))), "offScope"},
	})
}

// Each grant of its own is passed with it and dropped without.
// solicits asks for the station of an address as a kernel does; to is its group, or what is given. No
// station: it does not say its own.
func solicits(target netip.Addr, from net.HardwareAddr, to ...netip.Addr) []byte {
	a := target.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
	if len(to) > 0 {
		group = to[0]
	}
	body := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, a[:]...)
	if from != nil {
		body = append(append(body, 1, 1), from...)
	}
	return ethernet(net.HardwareAddr{0x33, 0x33, 0xff, a[13], a[14], a[15]}, box, unix.ETH_P_IPV6,
		ip6(own6, group, 58, body, func(p []byte) { p[7] = 255 }))
}

func edited(frame []byte, at int, to byte) []byte {
	frame[at] = to
	return frame
}

func TestWhatIsGrantedBesides(t *testing.T) {
	l2 := func(g *grant) { g.l2 = 1 }
	w := onWire(t)
	first := frame4(ip4(own4, allowed, 6, tcp(80)[:8], fragment(0x2000)))
	rest := frame4(ip4(own4, allowed, 6, tcp(80)[8:], fragment(1)))
	for _, c := range []struct {
		says  string
		grant func(g *grant)
		judgement
		without string
	}{
		{"fragments", func(g *grant) { g.fragments = true }, judgement{"the first one", first, "sent"}, "form"},
		{"fragments", func(g *grant) { g.fragments = true }, judgement{"the rest", rest, "sent"}, "form"},
		{"fragments", func(g *grant) { g.fragments = true }, judgement{"to a forbidden host", frame4(ip4(own4, forbidden, 17, udp(9), fragment(1))), "offScope"}, "form"},
		{"fragments", func(g *grant) { g.fragments = true }, judgement{"of a forbidden source", frame4(ip4(forbidden, allowed, 17, udp(9), fragment(1))), "spoofed"}, "form"},
		{"fragments", func(g *grant) { g.fragments = true }, judgement{"the first one to a granted port", frame4(ip4(own4, web, 6, tcp(80), fragment(0x2000))), "form"}, "form"},
		{"fragments", func(g *grant) { g.fragments = true }, judgement{"the rest where ports are granted", frame4(ip4(own4, web, 6, tcp(80), fragment(3))), "form"}, "form"},
		{"fragments", func(g *grant) { g.fragments = true }, judgement{"of a tunnel", frame4(ip4(own4, allowed, 4, make([]byte, 24), fragment(0x2000))), "protocol"}, "form"},
		{"fragments", func(g *grant) { g.fragments = true }, judgement{"of a redirect", frame4(ip4(own4, allowed, 1, icmpOf(5), fragment(0x2000))), "protocol"}, "form"},
		{"fragments", func(g *grant) { g.fragments = true }, judgement{"that show no port", frame4(ip4(own4, allowed, 17, udp(9)[:4], fragment(0x2000))), "form"}, "form"},
		{"any protocol", func(g *grant) { g.allow[0].others = true }, judgement{"GRE", frame4(ip4(own4, allowed, 47, nil)), "sent"}, "protocol"},
		{"any protocol", func(g *grant) { g.allow[0].others = true }, judgement{"GRE over IPv6", frame6(ip6(own6, allowed6, 47, make([]byte, 4))), "sent"}, "protocol"},
		{"any protocol", func(g *grant) { g.allow[0].others = true }, judgement{"a source route", frame6(ip6(own6, allowed6, 43, make([]byte, 24))), "form"}, "form"},
		{"any protocol", func(g *grant) { g.allow[0].others = true }, judgement{"a redirect", frame4(ip4(own4, allowed, 1, icmpOf(5))), "protocol"}, "protocol"},
		{"any protocol", func(g *grant) { g.allow[0].others = true }, judgement{"a redirect of the other family", frame6(ip6(own6, allowed6, 1, icmpOf(5))), "protocol"}, "protocol"},
		{"any protocol", func(g *grant) { g.allow[0].others = true }, judgement{"GRE to another target", frame4(ip4(own4, addr("10.88.0.1"), 47, nil)), "protocol"}, "protocol"},
		{"any protocol", func(g *grant) { g.allow[0].others = true }, judgement{"half a header of TCP", frame4(ip4(own4, allowed, 6, tcp(9)[:8])), "form"}, "form"},
		{"ICMP beside ports", func(g *grant) { g.allow[2].icmp = true }, judgement{"an echo request", frame4(ip4(own4, web, 1, icmpOf(8))), "sent"}, "protocol"},
		{"ICMP beside ports", func(g *grant) { g.allow[2].icmp = true }, judgement{"an echo request over IPv6", frame6(ip6(own6, web6, 58, icmpOf(128))), "sent"}, "protocol"},
		{"no ICMP", func(g *grant) { g.allow[0].icmp = false }, judgement{"an echo request", frame4(ip4(own4, allowed, 1, icmpOf(8))), "protocol"}, "sent"},
		{"no ARP", func(g *grant) { g.arp = false }, judgement{"a question", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, gate4)), "ethertype"}, "sent"},
		{"no IPv6", func(g *grant) { g.inner6 = netip.Addr{} }, judgement{"IPv6", frame6(ip6(own6, allowed6, 6, tcp(80))), "ethertype"}, "sent"},
		{"no IPv6", func(g *grant) { g.inner6 = netip.Addr{} }, judgement{"IPv6 from nowhere", frame6(ip6(addr("::"), allowed6, 6, tcp(80))), "ethertype"}, "spoofed"},
		{"l2", func(g *grant) { g.l2 = 1 }, judgement{"a question for a target", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, allowed)), "sent"}, "offScope"},
		{"l2", func(g *grant) { g.l2 = 1 }, judgement{"a question for a forbidden host", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, forbidden)), "offScope"}, "offScope"},
		{"l2", func(g *grant) { g.l2 = 1 }, judgement{"a question for a denied host", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, denied)), "offScope"}, "offScope"},
		{"l2", func(g *grant) { g.l2 = 1 }, judgement{"a packet to a target's station", ethernet(stranger, box, unix.ETH_P_IP, ip4(own4, allowed, 6, tcp(80))), "sent"}, "offScope"},
		{"l2", func(g *grant) { g.l2 = 1 }, judgement{"a packet to every station", ethernet(everyone, box, unix.ETH_P_IP, ip4(own4, allowed, 6, tcp(80))), "offScope"}, "offScope"},
		{"l2", l2, judgement{"a question for a target's station", ethernet(stranger, box, unix.ETH_P_ARP, arpOf(1, box, own4, allowed)), "sent"}, "offScope"},
		{"l2", l2, judgement{"a question with something behind it", append(ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, allowed)), make([]byte, 19)...), "form"}, "offScope"},
		{"l2", l2, judgement{"a question for a target under another address", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, gate4, allowed)), "spoofed"}, "spoofed"},
		{"l2", l2, judgement{"a question for a target under another station", ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, stranger, own4, allowed)), "spoofed"}, "spoofed"},
		{"l2", l2, judgement{"a solicitation", solicits(allowed6, box), "sent"}, "noise"},
		{"l2", l2, judgement{"a solicitation for a forbidden host", solicits(forbidden6, box), "offScope"}, "noise"},
		{"l2", l2, judgement{"a solicitation for a denied host", solicits(denied6, box), "offScope"}, "noise"},
		{"l2", l2, judgement{"a solicitation under another station", solicits(allowed6, stranger), "spoofed"}, "noise"},
		{"l2", l2, judgement{"a solicitation without a station", solicits(allowed6, nil), "noise"}, "noise"},
		{"l2", l2, judgement{"a solicitation with something behind it", append(solicits(allowed6, box), 0), "form"}, "noise"},
		{"l2", l2, judgement{"a solicitation with another option", edited(solicits(allowed6, box), 14+40+24, 2), "form"}, "noise"},
		{"l2", l2, judgement{"a solicitation that has crossed a router", edited(solicits(allowed6, box), 14+7, 64), "form"}, "noise"},
		{"l2", l2, judgement{"a solicitation of another code", edited(solicits(allowed6, box), 14+40+1, 1), "form"}, "noise"},
		{"l2", l2, judgement{"a solicitation to another group", edited(solicits(allowed6, box), 14+39, 0x77), "offScope"}, "noise"},
		{"l2", l2, judgement{"a solicitation to the stations of another group", edited(solicits(allowed6, box), 5, 0x77), "offScope"}, "noise"},
		{"l2", l2, judgement{"a solicitation for a target's station", ethernet(stranger, box, unix.ETH_P_IPV6, solicits(allowed6, box, allowed6)[14:]), "sent"}, "offScope"},
		{"l2", l2, judgement{"a solicitation for one target, to another", ethernet(stranger, box, unix.ETH_P_IPV6, solicits(allowed6, box, addr("fd88::1"))[14:]), "offScope"}, "offScope"},
		{"l2", l2, judgement{"an advertisement", ethernet(stranger, box, unix.ETH_P_IPV6, edited(solicits(allowed6, box, allowed6), 14+40, 136)[14:]), "protocol"}, "offScope"},
		{"l2", l2, judgement{"a redirect", ethernet(stranger, box, unix.ETH_P_IPV6, edited(solicits(allowed6, box, allowed6), 14+40, 137)[14:]), "protocol"}, "offScope"},
		{"l2", l2, judgement{"a packet to every station, of IPv6", ethernet(group6, box, unix.ETH_P_IPV6, ip6(own6, allowed6, 6, tcp(80))), "offScope"}, "offScope"},
		{"l2", func(g *grant) { g.l2 = 1 }, judgement{"an answer", ethernet(stranger, box, unix.ETH_P_ARP, arpOf(2, box, own4, allowed)), "protocol"}, "offScope"},
		{"all of IPv6", func(g *grant) { g.allow[1].prefixes = prefixes("::/0"); g.deny = nil }, judgement{"an IPv6 host", frame6(ip6(own6, forbidden6, 6, tcp(80))), "sent"}, "offScope"},
		{"all of IPv6", func(g *grant) { g.allow[1].prefixes = prefixes("::/0"); g.deny = nil }, judgement{"an IPv4 host", frame4(ip4(own4, forbidden, 6, tcp(80))), "offScope"}, "offScope"},
		{"all of IPv6", func(g *grant) { g.allow[1].prefixes = prefixes("::/0"); g.deny = nil }, judgement{"a multicast", frame6(ip6(own6, addr("ff05::2"), 17, udp(9))), "offScope"}, "offScope"},
		{"all of IPv4", func(g *grant) { g.allow[1].prefixes = prefixes("0.0.0.0/0") }, judgement{"an IPv4 host", frame4(ip4(own4, forbidden, 6, tcp(80))), "sent"}, "offScope"},
		{"all of IPv4", func(g *grant) { g.allow[1].prefixes = prefixes("0.0.0.0/0") }, judgement{"a broadcast", frame4(ip4(own4, addr("255.255.255.255"), 6, tcp(80))), "offScope"}, "offScope"},
		{"all of IPv4", func(g *grant) { g.allow[1].prefixes = prefixes("0.0.0.0/0") }, judgement{"a multicast", frame4(ip4(own4, addr("239.1.1.1"), 17, udp(9))), "offScope"}, "offScope"},
		{"all of IPv4", func(g *grant) { g.allow[1].prefixes = prefixes("0.0.0.0/0") }, judgement{"the denied one", frame4(ip4(own4, denied, 6, tcp(80))), "offScope"}, "offScope"},
		{"a denied network around an allowed one", func(g *grant) { g.deny = prefixes("10.0.0.0/8") }, judgement{"a SYN", frame4(ip4(own4, allowed, 6, tcp(80))), "offScope"}, "sent"},
		{"nothing denied", func(g *grant) { g.deny = nil }, judgement{"a SYN", frame4(ip4(own4, denied, 6, tcp(80))), "sent"}, "offScope"},
	} {
		g := granted()
		must(t, w.give(w.ifindex, g))
		if got := w.judged(w.programs.Out, c.frame); got != c.without {
			t.Errorf("without %s: %s: counted as %q, not as %q", c.says, c.judgement.says, got, c.without)
		}
		c.grant(&g)
		must(t, w.give(w.ifindex, g))
		if got := w.judged(w.programs.Out, c.frame); got != c.want {
			t.Errorf("%s: %s: counted as %q, not as %q", c.says, c.judgement.says, got, c.want)
		}
	}
}

func TestWhatGoesIntoABox(t *testing.T) {
	w := onWire(t)
	must(t, w.give(w.ifindex, granted()))
	asked := func(to netip.Addr) []byte { return ip4(own4, to, 17, udp(9)) }
	asked6 := func(to netip.Addr) []byte { return ip6(own6, to, 17, udp(9)) }
	w.all(w.programs.In, []judgement{
		{"an answer of a target", back4(ip4(allowed, own4, 6, tcp(40000))), "received"},
		{"an answer of a host of which ports are granted", back4(ip4(web, own4, 6, tcp(40000))), "received"},
		{"an echo reply of a target", back4(ip4(allowed, own4, 1, icmpOf(0))), "received"},
		{"a fragment of a target's", back4(ip4(allowed, own4, 17, udp(9), fragment(0x2000))), "received"},
		{"an answer over IPv6", back6(ip6(allowed6, own6, 6, tcp(40000))), "received"},
		{"a fragment of a target's over IPv6", back6(ip6(allowed6, own6, 44, append([]byte{17, 0, 0, 1, 0, 0, 0, 9}, udp(9)...))), "received"},
		{"a router that says the time is over", back4(ip4(router, own4, 1, icmpOf(11, asked(allowed)...))), "received"},
		{"a router that knows no way", back4(ip4(router, own4, 1, icmpOf(3, asked(allowed)...))), "received"},
		{"a router that misses a parameter", back4(ip4(router, own4, 1, icmpOf(12, asked(allowed)...))), "received"},
		{"this machine's own error", back4(ip4(gate4, own4, 1, icmpOf(11, asked(web)...))), "received"},
		{"a router's error over IPv6", back6(ip6(router6, own6, 58, icmpOf(3, asked6(allowed6)...))), "received"},
		{"a packet that is too big", back6(ip6(router6, own6, 58, icmpOf(2, asked6(allowed6)...))), "received"},
		{"the gateway's hardware address", ethernet(box, gateway, unix.ETH_P_ARP, arpOf(2, gateway, gate4, own4)), "received"},
		{"the gateway's question", ethernet(everyone, gateway, unix.ETH_P_ARP, arpOf(1, gateway, gate4, own4)), "received"},

		{"a packet from elsewhere", back4(ip4(forbidden, own4, 6, tcp(40000))), "refused"},
		{"a packet from a denied address", back4(ip4(denied, own4, 6, tcp(40000))), "refused"},
		{"an echo reply from elsewhere", back4(ip4(forbidden, own4, 1, icmpOf(0))), "refused"},
		{"an echo request from elsewhere", back4(ip4(forbidden, own4, 1, icmpOf(8))), "refused"},
		{"a packet to another slot", back4(ip4(allowed, addr("10.254.200.6"), 6, tcp(40000))), "refused"},
		{"a broadcast", back4(ip4(allowed, addr("255.255.255.255"), 17, udp(9))), "refused"},
		{"an error about a packet to elsewhere", back4(ip4(router, own4, 1, icmpOf(11, asked(forbidden)...))), "refused"},
		{"an error about a packet to a denied address", back4(ip4(router, own4, 1, icmpOf(11, asked(denied)...))), "refused"},
		{"an error about another's packet", back4(ip4(router, own4, 1, icmpOf(11, ip4(forbidden, allowed, 17, udp(9))...))), "refused"},
		{"an error about nothing", back4(ip4(router, own4, 1, icmpOf(11))), "refused"},
		{"an error about half a header", back4(ip4(router, own4, 1, icmpOf(11, asked(allowed)[:12]...))), "refused"},
		{"a router's redirect", back4(ip4(router, own4, 1, icmpOf(5, asked(allowed)...))), "refused"},
		{"a fragment of an error", back4(ip4(router, own4, 1, icmpOf(11, asked(allowed)...), fragment(0x2000))), "refused"},
		{"an error in a later fragment", back4(ip4(router, own4, 1, icmpOf(11, asked(allowed)...), fragment(1))), "refused"},
		{"an IPv6 packet from elsewhere", back6(ip6(forbidden6, own6, 6, tcp(40000))), "refused"},
		{"an IPv6 packet from a denied address", back6(ip6(denied6, own6, 6, tcp(40000))), "refused"},
		{"an IPv6 packet to another slot", back6(ip6(allowed6, gate6, 6, tcp(40000))), "refused"},
		{"an error about an IPv6 packet to elsewhere", back6(ip6(router6, own6, 58, icmpOf(3, asked6(forbidden6)...))), "refused"},
		{"an error about another's IPv6 packet", back6(ip6(router6, own6, 58, icmpOf(3, ip6(forbidden6, allowed6, 17, udp(9))...))), "refused"},
		{"an IPv6 redirect", back6(ip6(router6, own6, 58, icmpOf(137, asked6(allowed6)...))), "refused"},
		{"a router's advertisement", ethernet(group6, gateway, unix.ETH_P_IPV6, ip6(addr("fe80::1"), addr("ff02::1"), 58, icmpOf(134))), "noise"},
		{"this machine's report of listeners", ethernet(group6, gateway, unix.ETH_P_IPV6, ip6(addr("fe80::1"), addr("ff02::16"), 0, append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, icmpOf(143)...))), "noise"},
		{"a false hardware address of the gateway", ethernet(box, stranger, unix.ETH_P_ARP, arpOf(2, stranger, gate4, own4)), "refused"},
		{"another's hardware address", ethernet(box, gateway, unix.ETH_P_ARP, arpOf(2, gateway, allowed, own4)), "refused"},
		{"an answer to another's question", ethernet(box, gateway, unix.ETH_P_ARP, arpOf(2, gateway, gate4, addr("10.254.200.6"))), "refused"},
		{"a tagged frame", ethernet(box, gateway, 0x8100, append([]byte{0, 5, 8, 0}, ip4(allowed, own4, 17, udp(9))...)), "refused"},
		{"half a header", back4(ip4(allowed, own4, 17, udp(9))[:16]), "refused"},
	})
	g := granted()
	g.inner6, g.arp = netip.Addr{}, false
	must(t, w.give(w.ifindex, g))
	w.all(w.programs.In, []judgement{
		{"IPv6 into a slot without", back6(ip6(allowed6, own6, 6, tcp(40000))), "refused"},
		{"IPv6 to no address", back6(ip6(allowed6, addr("::"), 6, tcp(40000))), "refused"},
		{"ARP into a slot without", ethernet(box, gateway, unix.ETH_P_ARP, arpOf(2, gateway, gate4, own4)), "refused"},
	})
	g = granted()
	g.l2 = 1
	must(t, w.give(w.ifindex, g))
	advertises := func(target, from netip.Addr) []byte {
		a := target.As16()
		body := append(append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, a[:]...), 2, 1, 2, 0, 0, 0, 0, 0x66)
		return back6(ip6(from, own6, 58, body, func(p []byte) { p[7] = 255 }))
	}
	w.all(w.programs.In, []judgement{
		{"a target's answer", ethernet(box, stranger, unix.ETH_P_ARP, arpOf(2, stranger, allowed, own4)), "received"},
		{"a target's question", ethernet(box, stranger, unix.ETH_P_ARP, arpOf(1, stranger, allowed, own4)), "refused"},
		{"another's answer", ethernet(box, stranger, unix.ETH_P_ARP, arpOf(2, stranger, forbidden, own4)), "refused"},
		{"a target's advertisement", advertises(allowed6, allowed6), "received"},
		{"a target's advertisement from its other address", advertises(allowed6, addr("fe80::1")), "received"},
		{"a target's advertisement about another", advertises(forbidden6, allowed6), "refused"},
		{"another's advertisement", advertises(forbidden6, forbidden6), "refused"},
		{"a denied one's advertisement", advertises(denied6, denied6), "refused"},
		{"an advertisement that has crossed a router", edited(advertises(allowed6, allowed6), 14+7, 64), "refused"},
		{"a target's solicitation", edited(advertises(allowed6, allowed6), 14+40, 135), "refused"},
		{"a target's redirect", edited(advertises(allowed6, allowed6), 14+40, 137), "refused"},
		{"a target that advertises itself as a router", edited(advertises(allowed6, allowed6), 14+40, 134), "refused"},
		{"a target's echo reply", back6(ip6(allowed6, own6, 58, icmpOf(129))), "received"},
	})
}

// What is granted ends, and what was never granted does not pass.
func TestNothingPassesWithoutAGrant(t *testing.T) {
	w := onWire(t)
	out, in := frame4(ip4(own4, allowed, 6, tcp(80))), back4(ip4(allowed, own4, 6, tcp(40000)))
	closed := func(when string, ifindex int) {
		t.Helper()
		for p, frame := range map[*ebpf.Program][]byte{w.programs.Out: out, w.programs.In: in} {
			if verdict, _, err := run(p, ifindex, frame); err != nil || verdict != drops {
				t.Errorf("%s: verdict %d, %v", when, verdict, err)
			}
		}
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	closed("on a link that is not attached", lo.Attrs().Index)
	closed("before a grant", w.ifindex)
	if err := w.give(lo.Attrs().Index, granted()); err == nil {
		t.Error("a link that is not attached was given a grant")
	}
	must(t, w.give(w.ifindex, granted()))
	if got := w.judged(w.programs.Out, out); got != "sent" {
		t.Errorf("a SYN is %s", got)
	}
	closed("on a link that is not attached, beside one that is", lo.Attrs().Index)
	link, err := netlink.LinkByIndex(w.ifindex)
	must(t, err)
	must(t, w.attach(link))
	if got := w.judged(w.programs.Out, out); got != "sent" {
		t.Errorf("attached again, a SYN is %s", got)
	}
	must(t, w.stop(w.ifindex))
	closed("stopped", w.ifindex)
	if c, _, err := w.counters(w.ifindex); err != nil || c.sent != 4 || c.notReady != 2 {
		t.Errorf("stopped, %+v, %v", c, err)
	}
	must(t, w.take(w.ifindex))
	closed("taken", w.ifindex)
	if c, _, err := w.counters(w.ifindex); err != nil || c != (counts{}) {
		t.Errorf("taken, %+v, %v", c, err)
	}
	must(t, w.take(w.ifindex))
	must(t, w.give(w.ifindex, granted()))
	if c, v, err := w.counters(w.ifindex); err != nil || c != (counts{}) || v != nil {
		t.Errorf("given again, %+v, %v, %v", c, v, err)
	}
	if got := w.judged(w.programs.Out, out); got != "sent" {
		t.Errorf("given again, a SYN is %s", got)
	}
	must(t, w.detach(w.ifindex))
	closed("forgotten", w.ifindex)
	if c, err := w.count(0); err != nil || c.notReady != 10 {
		t.Errorf("without a job, %+v, %v", c, err)
	}
}

// A grant that is not taken as it is leaves the one before in force.
func TestGrantsThatMakeNoSense(t *testing.T) {
	w := onWire(t)
	must(t, w.give(w.ifindex, granted()))
	before := w.entries()
	for says, edit := range map[string]func(g *grant){
		"no address":                   func(g *grant) { g.inner4 = netip.Addr{} },
		"IPv6 for IPv4":                func(g *grant) { g.outer4 = gate6 },
		"IPv4 for IPv6":                func(g *grant) { g.inner6 = own4 },
		"a mapped address":             func(g *grant) { g.inner6 = addr("::ffff:10.0.0.1") },
		"no hardware address":          func(g *grant) { g.innerMAC = nil },
		"a long hardware address":      func(g *grant) { g.outerMAC = make([]byte, 8) },
		"no mark":                      func(g *grant) { g.mark = 0 },
		"no prefix":                    func(g *grant) { g.allow[0].prefixes = []netip.Prefix{{}} },
		"a mapped prefix":              func(g *grant) { g.deny = prefixes("::ffff:10.0.0.0/104") },
		"two rules for a prefix":       func(g *grant) { g.allow[2].prefixes = append(g.allow[2].prefixes, host(allowed)) },
		"a range without ports":        func(g *grant) { g.allow[2].ports.tcp = []portRange{{2, 1}} },
		"a burst without a rate":       func(g *grant) { g.rate.burst = 1 },
		"a rate without a burst":       func(g *grant) { g.rate.perSecond = 1 },
		"more than a packet each ns":   func(g *grant) { g.shared[1].limit = limit{1e9 + 1, 1} },
		"a burst of more than 10^9":    func(g *grant) { g.shared[0].limit = limit{1, 1e9 + 1} },
		"a prefix with bits of a host": nil,
	} {
		g := granted()
		if edit == nil { // which is only untidy
			g.allow[1].prefixes = prefixes("10.88.1.2/16", "fd88::1/32", "fd88::1/32")
			must(t, w.give(w.ifindex, g))
			continue
		}
		edit(&g)
		if err := w.give(w.ifindex, g); err == nil {
			t.Errorf("%s: no error", says)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", says, err)
		}
		if got := w.judged(w.programs.Out, frame4(ip4(own4, addr("10.88.255.255"), 6, tcp(80)))); got != "sent" {
			t.Errorf("%s: a SYN is %s afterwards", says, got)
		}
	}
	if after := w.entries(); after != before {
		t.Errorf("the maps hold %s, not %s", after, before)
	}
	must(t, w.take(w.ifindex))
	if after, want := w.entries(), "0 of the scope, 0 of ports, 0 of budgets, 1 of counters, 0 of violations"; after != want {
		t.Errorf("after all, the maps hold %s, not %s", after, want)
	}
}

// entries says how much the maps hold.
func (w *wire) entries() string {
	w.Helper()
	size := func(m *ebpf.Map) (n int) {
		var key any // the first one follows nil
		for ; ; n++ {
			next, err := m.NextKeyBytes(key)
			must(w.T, err)
			if next == nil {
				return n
			}
			key = next
		}
	}
	return fmt.Sprintf("%d of the scope, %d of ports, %d of budgets, %d of counters, %d of violations", size(w.maps.Scope), size(w.maps.Ports), size(w.maps.Budgets), size(w.maps.Counters), size(w.maps.Violations))
}

func TestTheFirstDestinationsAreNamed(t *testing.T) {
	w := onWire(t)
	must(t, w.give(w.ifindex, granted()))
	send := func(frame []byte) {
		t.Helper()
		if verdict, _, err := run(w.programs.Out, w.ifindex, frame); err != nil || verdict != drops {
			t.Fatalf("verdict %d, %v", verdict, err)
		}
	}
	want := []violation{
		{forbidden, 6, 443, "off scope", 3},
		{web, 6, 81, "port", 2},
		{allowed, 47, 0, "protocol", 1},
		{forbidden, 0, 0, "off scope", 1},
		{forbidden6, 17, 53, "off scope", 1},
	}
	for range 3 {
		send(frame4(ip4(own4, forbidden, 6, tcp(443))))
	}
	for range 2 {
		send(frame4(ip4(own4, web, 6, tcp(81))))
	}
	send(frame6(ip6(own6, forbidden6, 17, udp(53))))
	send(frame4(ip4(own4, allowed, 47, nil)))
	send(ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, forbidden)))
	send(frame4(ip4(forbidden, allowed, 17, udp(9))))                // its source is the lie
	send(frame4(ip4(own4, forbidden, 17, udp(9), fragment(0x2000)))) // its destination was not read
	if _, got, err := w.counters(w.ifindex); err != nil || !slices.Equal(got, want) {
		t.Errorf("named %v, %v, not %v", got, err, want)
	}
	// A flood does not push them out, and all of it is counted.
	for i := range 1000 {
		send(frame4(ip4(own4, netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}), 17, udp(9))))
	}
	send(frame4(ip4(own4, forbidden, 6, tcp(443))))
	c, got, err := w.counters(w.ifindex)
	if err != nil || len(got) != 64 || c.offScope != 1006 {
		t.Errorf("%d named, %+v, %v", len(got), c, err)
	}
	want[0].packets++
	for _, v := range want {
		if !slices.Contains(got, v) {
			t.Errorf("%v is no longer named", v)
		}
	}
	for i := range 64 - len(want) {
		if v := (violation{netip.AddrFrom4([4]byte{11, 0, 0, byte(i)}), 17, 9, "off scope", 1}); !slices.Contains(got, v) {
			t.Errorf("%v is not named", v)
		}
	}
	// Another link has a list of its own.
	other := newWire(t, w.filter, "secvother").Attrs().Index
	must(t, w.give(other, granted()))
	if _, _, err := run(w.programs.Out, other, frame4(ip4(own4, forbidden, 17, udp(9)))); err != nil {
		t.Fatal(err)
	}
	if _, got, err := w.counters(other); err != nil || len(got) != 1 {
		t.Errorf("the other link names %v, %v", got, err)
	}
}

// What Go writes into maps has the places that C reads.
func TestRecordsAreTheSameInBothLanguages(t *testing.T) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	must(t, err)
	for _, c := range []struct {
		name       string
		key, value any
	}{
		{"slots", uint32(0), record{}},
		{"scope", place{}, targetRecord{}},
		{"ports", portSet{}, portBits{}},
		{"budgets", uint64(0), budgetRecord{}},
		{"counters", uint32(0), countersRecord{}},
		{"violations", violationKey{}, uint64(0)},
		{"range", uint32(0), rangeRecord{}},
		{"owners", [16]byte{}, uint32(0)},
	} {
		m := spec.Maps[c.name]
		if m == nil {
			t.Errorf("there is no map %s", c.name)
			continue
		}
		for _, half := range []struct {
			c btf.Type
			g any
		}{{m.Key, c.key}, {m.Value, c.value}} {
			inC, inGo := places(t, half.c, 0), goPlaces(reflect.TypeOf(half.g), 0)
			if !slices.Equal(inC, inGo) {
				t.Errorf("%s: %v in C, %v in Go", c.name, inC, inGo)
			}
		}
	}
}

// places are the bytes at which members begin and end. Lists of long words and of structs have
// the places of their elements; all others are one member.
func places(t *testing.T, of btf.Type, at int) (out []int) {
	t.Helper()
	of = btf.UnderlyingType(of)
	size, err := btf.Sizeof(of)
	must(t, err)
	switch s := of.(type) {
	case *btf.Struct:
		for _, m := range s.Members {
			out = append(out, places(t, m.Type, at+int(m.Offset.Bytes()))...)
		}
	case *btf.Array:
		if each, err := btf.Sizeof(s.Type); err == nil && each >= 8 {
			for i := range int(s.Nelems) {
				out = append(out, places(t, s.Type, at+i*each)...)
			}
		}
	}
	return once(append(out, at, at+size))
}

func goPlaces(of reflect.Type, at int) (out []int) {
	switch of.Kind() {
	case reflect.Struct:
		for i := range of.NumField() {
			out = append(out, goPlaces(of.Field(i).Type, at+int(of.Field(i).Offset))...)
		}
	case reflect.Array:
		if each := int(of.Elem().Size()); each >= 8 {
			for i := range of.Len() {
				out = append(out, goPlaces(of.Elem(), at+i*each)...)
			}
		}
	}
	return once(append(out, at, at+int(of.Size())))
}

func once(p []int) []int {
	slices.Sort(p)
	return slices.Compact(p)
}

// The object is what the sources were compiled to, as far as sums tell. make lint compiles them
// again where the compiler is there.
func TestTheObjectIsOfItsSources(t *testing.T) {
	sums, err := os.ReadFile("bpf/scope.sum")
	must(t, err)
	var want strings.Builder
	for _, name := range []string{"scope.c", "scope.h", "scope.o"} {
		b, err := os.ReadFile("bpf/" + name)
		must(t, err)
		fmt.Fprintf(&want, "%x  %s\n", sha256.Sum256(b), name)
	}
	if string(sums) != want.String() {
		t.Errorf("bpf/scope.sum is\n%swhich should be\n%sSay make bpf.", sums, want.String())
	}
}

func TestTheFilterIsSupported(t *testing.T) { must(t, SupportedBPF()) }
