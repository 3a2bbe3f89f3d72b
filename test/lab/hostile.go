package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// intrusions are what the hostile host sends to somebody who did not ask. Each is a packet to an
// address, made in the family of that address; nil is none.
var intrusions = []struct {
	name string
	make func(to netip.Addr) []byte
}{
	{"a datagram from outside", func(to netip.Addr) []byte { return datagram(outside(to), to, 53, 40000, []byte("intruder")) }},
	{"a SYN from outside", func(to netip.Addr) []byte { return tcpSegment(outside(to), to, 2) }},
	{"a SYN-ACK from outside", func(to netip.Addr) []byte { return tcpSegment(outside(to), to, 0x12) }},
	{"a reset from outside", func(to netip.Addr) []byte { return tcpSegment(outside(to), to, 4) }},
	{"an echo reply from outside", func(to netip.Addr) []byte {
		return icmp(outside(to), to, byFamily[byte](to, 0, 129), 0, []byte("\x01\x02\x00\x01intruder"))
	}},
	{"a tunnel from outside", func(to netip.Addr) []byte {
		return packet(outside(to), to, byFamily[byte](to, 4, 41), datagram(outside(to), to, 53, 40000, []byte("intruder")))
	}},
	{"a fragment from outside", func(to netip.Addr) []byte {
		if to.Is6() {
			return packet(outside(to), to, 44, append([]byte{17, 0, 0, 1, 0, 0, 1, 0xab}, make([]byte, 8)...))
		}
		p := datagram(outside(to), to, 53, 40000, []byte("intruder"))
		p[6] |= 0x20
		return checked(p)
	}},
	{"a datagram nobody asked for", func(to netip.Addr) []byte { return datagram(hostile(to), to, 53, 40000, []byte("intruder")) }},
	{"an error from outside about nothing", func(to netip.Addr) []byte { return unreachable(outside(to), to, outside(to)) }},
	{"an error about a packet to outside", func(to netip.Addr) []byte { return unreachable(hostile(to), to, outside(to)) }},
	{"an error about a packet to the scope", func(to netip.Addr) []byte { return unreachable(hostile(to), to, hostile(to)) }},
	{"a tiny path", func(to netip.Addr) []byte {
		quoted := datagram(to, hostile(to), 40000, 53, []byte("attack!!"))
		return icmp(hostile(to), to, byFamily[byte](to, 3, 2), byFamily[byte](to, 4, 0), append([]byte{0, 0, 0, 68}, quoted...))
	}},
	{"a redirect", func(to netip.Addr) []byte {
		quoted := datagram(to, hostile(to), 40000, 53, []byte("attack!!"))
		if to.Is6() {
			body := append(make([]byte, 4), outside(to).AsSlice()...)
			return icmp(hostile(to), to, 137, 0, append(body, hostile(to).AsSlice()...))
		}
		return icmp(hostile(to), to, 5, 1, append(outside(to).AsSlice(), quoted...))
	}},
	{"a router advertisement", func(to netip.Addr) []byte {
		if to.Is4() {
			return icmp(hostile(to), to, 9, 0, append([]byte{1, 2, 7, 8}, append(hostile(to).AsSlice(), 0, 0, 0, 9)...))
		}
		prefix := append([]byte{3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, one(Outside6).Addr().AsSlice()...)
		return icmp(hostile(to), to, 134, 0, append([]byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, prefix...))
	}},
	{"a neighbour advertisement", func(to netip.Addr) []byte {
		if to.Is4() {
			return nil
		}
		return icmp(hostile(to), to, 136, 0, append([]byte{0x60, 0, 0, 0}, outside(to).AsSlice()...))
	}},
}

// Intrusions names what Intrude sends to an address of a family.
func Intrusions(to netip.Addr) (names []string) {
	for _, i := range intrusions {
		if i.make(to) != nil {
			names = append(names, i.name)
		}
	}
	return names
}

// Intrude has the hostile host send one packet to an address of the scanning machine or of a
// slot.
func (l *Lab) Intrude(name string, to netip.Addr) error {
	for _, i := range intrusions {
		if p := i.make(to); i.name == name && p != nil {
			return l.inject(p)
		}
	}
	return fmt.Errorf("the hostile host has no %q for %s", name, to)
}

// Persist has the hostile host send to an address, from itself and from outside, every
// millisecond until stop is called: into the job that comes next, too.
func (l *Lab) Persist(to netip.Addr) (stop func() (sent int, err error)) {
	ending := make(chan struct{})
	var done sync.WaitGroup
	var sent int
	var failed error
	done.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for failed == nil {
			select {
			case <-ending:
				return
			case <-tick.C:
				failed = errors.Join(l.Intrude("a datagram nobody asked for", to), l.Intrude("a datagram from outside", to))
				sent += 2
			}
		}
	})
	return func() (int, error) {
		close(ending)
		done.Wait()
		return sent, failed
	}
}

func outside(like netip.Addr) netip.Addr {
	return byFamily(like, one(Outside).Addr(), one(Outside6).Addr())
}
func hostile(like netip.Addr) netip.Addr {
	return byFamily(like, one(Hostile).Addr(), one(Hostile6).Addr())
}

func byFamily[T any](a netip.Addr, four, six T) T {
	if a.Is6() {
		return six
	}
	return four
}

// packet puts a header of the addresses' family before a payload.
func packet(from, to netip.Addr, protocol byte, payload []byte) []byte {
	if to.Is6() {
		p := make([]byte, 40, 40+len(payload))
		p[0], p[6], p[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
		copy(p[8:], from.AsSlice())
		copy(p[24:], to.AsSlice())
		return append(p, payload...)
	}
	p := make([]byte, 20, 20+len(payload))
	p[0], p[8], p[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.AsSlice())
	return checked(append(p, payload...))
}

// checked puts the checksum of an IPv4 header right.
func checked(p []byte) []byte {
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
	return p
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// summed writes the checksum of what a transport carries at an offset of it.
func summed(from, to netip.Addr, protocol byte, b []byte, at int) []byte {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = append(binary.BigEndian.AppendUint32(pseudo, uint32(len(b))), 0, 0, 0, protocol)
	binary.BigEndian.PutUint16(b[at:], checksum(append(pseudo, b...)))
	return packet(from, to, protocol, b)
}

func datagram(from, to netip.Addr, source, destination uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, source), destination)
	b = append(binary.BigEndian.AppendUint16(b, uint16(8+len(payload))), 0, 0)
	return summed(from, to, unix.IPPROTO_UDP, append(b, payload...), 6)
}

func tcpSegment(from, to netip.Addr, flags byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, 80), 40000)
	return summed(from, to, unix.IPPROTO_TCP, append(b, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 4, 0, 0, 0, 0, 0), 16)
}

func icmp(from, to netip.Addr, kind, code byte, rest []byte) []byte {
	b := append([]byte{kind, code, 0, 0}, rest...)
	if to.Is6() {
		return summed(from, to, unix.IPPROTO_ICMPV6, b, 2)
	}
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return packet(from, to, unix.IPPROTO_ICMP, b)
}

// unreachable says that nobody listens at about for what to sends.
func unreachable(from, to, about netip.Addr) []byte {
	quoted := datagram(to, about, 40000, 53, []byte("attack!!"))
	return icmp(from, to, byFamily[byte](to, 3, 1), byFamily[byte](to, 3, 4), append(make([]byte, 4), quoted...))
}
