package scope

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// In the mode L2 a range is slots' alone by the operator's word. Before an address of it is lent the
// segment is asked whether somebody has it: two stations under one address cut each other off.

// The segment is asked so many times, so far apart, and given that long to answer the last time.
const (
	claimAsks  = 3
	claimApart = 150 * time.Millisecond
)

// Claim is an address of the slots' range that a station on their segment has. No slot gets it.
type Claim struct {
	Addr netip.Addr
	By   net.HardwareAddr
}

// Claims are those that were met when the addresses were last asked for, in order.
func (n *Net) Claims() (list []Claim) {
	n.claimed.Lock()
	defer n.claimed.Unlock()
	for _, a := range slices.SortedFunc(maps.Keys(n.claimed.by), netip.Addr.Compare) {
		list = append(list, Claim{a, n.claimed.by[a]})
	}
	return list
}

// vacant waits for the number of a link whose addresses nobody on the segment has.
func (n *Net) vacant(ctx context.Context, on *segment) (int, error) {
	for {
		number, err := n.numbers.take(ctx)
		if err != nil || on == nil {
			return number, err
		}
		of := n.inners(&link{addresses: n.cfg.addresses(number)})
		found, err := on.claims(of)
		if err != nil {
			n.numbers.putUnused(number)
			return 0, errors.Join(n.lookOn(on, nil), err) // which says what is wrong with it, most often
		}
		n.claim(on, of, found)
		if len(found) == 0 {
			return number, nil
		}
		n.numbers.put(number) // it is asked for again, a while later
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("others on %s have addresses of the slots' range: %w", on.name, err)
		}
	}
}

// claim remembers which of some addresses somebody has. What was not known is told.
func (n *Net) claim(on *segment, of []netip.Addr, found map[netip.Addr]net.HardwareAddr) {
	n.claimed.Lock()
	defer n.claimed.Unlock()
	for _, a := range of {
		by, is := found[a]
		switch known, was := n.claimed.by[a]; {
		case !is:
			delete(n.claimed.by, a)
		case !was || !slices.Equal(known, by):
			n.claimed.by[a] = by
			n.failed(fmt.Errorf("the address %s of the slots' range is used by %s on %s: no scan gets it", a, by, on.name))
		}
	}
}

// claims asks a segment whether somebody has one of some addresses, as a host does before it takes one: by
// ARP from no address (RFC 5227), by neighbour solicitations from none (RFC 4862).
func (s *segment) claims(of []netip.Addr) (map[netip.Addr]net.HardwareAddr, error) {
	found := map[netip.Addr]net.HardwareAddr{}
	var ears []unix.PollFd
	defer func() {
		for _, e := range ears {
			unix.Close(int(e.Fd))
		}
	}()
	for _, kind := range []uint16{unix.ETH_P_ARP, unix.ETH_P_IPV6} {
		fd, err := s.ear(kind)
		if err != nil {
			return nil, fmt.Errorf("cannot ask on %s who has an address: %w", s.name, err)
		}
		ears = append(ears, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	for range claimAsks {
		for _, a := range of {
			if err := sendFrame(int(ears[0].Fd), s.index, s.question(a)); err != nil {
				return nil, fmt.Errorf("cannot ask on %s who has %s: %w", s.name, a, err)
			}
		}
		for end := time.Now().Add(claimApart); time.Now().Before(end); {
			_, _ = unix.Poll(ears, int(time.Until(end).Milliseconds())+1) // it is read all the same
			for _, e := range ears {
				s.hear(int(e.Fd), of, found)
			}
		}
		if len(found) > 0 {
			break
		}
	}
	return found, nil
}

// claimants passes advertisements of neighbours to an ear, and drops the rest of IPv6.
var claimants = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ethernetHeader + 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_ICMPV6, Jf: 3},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ethernetHeader + ipv6Header},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: advertisement, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// Kinds of ICMPv6.
const solicitation, advertisement = 135, 136

// ear is a socket that hears one kind of frames of a segment.
func (s *segment) ear(kind uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // it hears nothing yet
	if err != nil {
		return -1, err
	}
	if kind == unix.ETH_P_IPV6 {
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(claimants)), Filter: &claimants[0]})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: s.index, Protocol: toNetwork(kind)})
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// hear takes all that an ear has heard.
func (s *segment) hear(fd int, of []netip.Addr, found map[netip.Addr]net.HardwareAddr) {
	b := make([]byte, 256)
	for range 1 << 10 { // a flood does not keep the next question from being asked
		size, from, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if a, by, ok := claimOf(b[:size]); ok && slices.Contains(of, a) && !slices.Equal(by, s.mac) {
			found[a] = by
		}
	}
}

// Where a frame of ARP has its sender, and one of neighbour discovery what it is about.
const (
	arpSender = ethernetHeader + 8
	arpLength = ethernetHeader + 28
	ndTarget  = ethernetHeader + ipv6Header + 8
	ndLength  = ndTarget + 16
)

// claimOf reads a frame that says who has an address: any of ARP that is sent under it, an advertisement.
func claimOf(f []byte) (a netip.Addr, by net.HardwareAddr, ok bool) {
	if len(f) < arpLength {
		return a, nil, false
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_ARP:
		if binary.BigEndian.Uint16(f[ethernetHeader+2:]) != unix.ETH_P_IP || f[ethernetHeader+4] != 6 || f[ethernetHeader+5] != 4 {
			return a, nil, false
		}
		return netip.AddrFrom4([4]byte(f[arpSender+6:])), slices.Clone(f[arpSender : arpSender+6]), true
	case unix.ETH_P_IPV6:
		if len(f) < ndLength || f[ethernetHeader+6] != unix.IPPROTO_ICMPV6 || f[ethernetHeader+7] != 255 || f[ethernetHeader+ipv6Header] != advertisement {
			return a, nil, false
		}
		return netip.AddrFrom16([16]byte(f[ndTarget:])), slices.Clone(f[6:12]), true
	}
	return a, nil, false
}

// question asks all who may have an address for it, under none.
func (s *segment) question(a netip.Addr) []byte {
	if a.Is4() {
		return slices.Concat([]byte{255, 255, 255, 255, 255, 255}, s.mac, []byte{8, 6}, // for everybody
			[]byte{0, 1, 8, 0, 6, 4, 0, 1}, s.mac, make([]byte, 4), make([]byte, 6), a.AsSlice())
	}
	end := a.AsSlice()[13:]
	group := slices.Concat([]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}, end) // of those whose addresses end so
	asks := slices.Concat([]byte{solicitation, 0, 0, 0, 0, 0, 0, 0}, a.AsSlice())
	from := make([]byte, 16)
	binary.BigEndian.PutUint16(asks[2:], checksum(slices.Concat(from, group, []byte{0, 0, 0, byte(len(asks)), 0, 0, 0, unix.IPPROTO_ICMPV6}, asks)))
	return slices.Concat([]byte{0x33, 0x33, 0xff}, end, s.mac, []byte{0x86, 0xdd},
		[]byte{0x60, 0, 0, 0, 0, byte(len(asks)), unix.IPPROTO_ICMPV6, 255}, from, group, asks)
}

// checksum is the internet's, of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	return ^uint16(sum + sum>>16)
}
