package scope

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// virtio sends a frame of a slot behind a header of virtio-net, as a virtual machine would.
func virtio(s *Slot, header, packet []byte) error {
	outer, err := netlink.LinkByName(s.name())
	if err != nil {
		return err
	}
	var result error
	err = in(s.netns, func() {
		result = func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
				return err
			}
			eth0, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			f := ethernet(outer.Attrs().HardwareAddr, eth0.HardwareAddr, unix.ETH_P_IPV6, packet)
			return unix.Sendto(fd, append(header, f...), 0, &unix.SockaddrLinklayer{Ifindex: eth0.Index})
		}()
	})
	return errors.Join(err, result)
}

// virtioHeader says from where a checksum is taken and where behind that it is written, and, when
// size is not 0, that the packet is TCP over IPv6 in segments of so many bytes.
func virtioHeader(from, at, size uint16) []byte {
	header := make([]byte, 10)
	header[0] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	if size != 0 {
		header[1] = 4                                       // VIRTIO_NET_HDR_GSO_TCPV6
		binary.NativeEndian.PutUint16(header[2:], 14+40+20) // of headers
		binary.NativeEndian.PutUint16(header[4:], size)
	}
	binary.NativeEndian.PutUint16(header[6:], from)
	binary.NativeEndian.PutUint16(header[8:], at)
	return header
}

// rewritten sends a packet that is bound for allowed6 as long as its checksum is not finished. It
// is written into the middle of the destination.
func rewritten(s *Slot) error {
	const to = 14 + 24
	return virtio(s, virtioHeader(34, to+8-34, 0), ip6(inner6(s), allowed6, 17, udp(9)))
}

// A box whose kernel finishes its checksums sends such a packet as it will be: to a destination
// that the filter drops.
func TestNoChecksumIsWrittenBehindTheFilter(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		l := newLab(t)
		n := openNet(t)
		must(t, checksums("uplink", 0)) // as on an interface that finishes none by itself
		s := slotOf(t, n, All(host(allowed6)))
		must(t, reaches(s.NetNS(), allowed6))
		l.strangers(inner(s), inner6(s))
		must(t, rewritten(s))
		for _, f := range l.strangers(inner(s), inner6(s)) {
			t.Errorf("a packet reached the lab: %s", f)
		}
		unfinished(t, s)
		must(t, rewritten(s))
		if found := l.strangers(inner(s), inner6(s)); len(found) != 1 || strings.Contains(found[0], "> "+allowed6.String()) {
			t.Errorf("left to others to finish, it reached the lab as %q: the test proves nothing", found)
		}
	})
}

// unfinished leaves checksums and cutting to others, as a link does that nothing was said about.
func unfinished(t *testing.T, s *Slot) {
	t.Helper()
	var result error
	must(t, in(s.netns, func() {
		result = errors.Join(checksums("eth0", 1), offload("eth0", unix.ETHTOOL_STSO, 1), offload("eth0", unix.ETHTOOL_SGSO, 1))
	}))
	must(t, result)
}

// What a box sends is as large as it will be on the wire when it is judged and counted.
func TestLargePacketsAreCutBeforeTheFilter(t *testing.T) {
	newLab(t)
	n := openNet(t)
	s := slotOf(t, n, All(host(allowed6)))
	link, err := net.InterfaceByName(s.name())
	must(t, err)
	witness, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(witness)
	must(t, unix.SetsockoptTimeval(witness, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000}))
	must(t, unix.Bind(witness, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_IPV6), Ifindex: link.Index}))
	sizes := func() (found []int) {
		t.Helper()
		large := ip6(inner6(s), allowed6, 6, append(tcp(80), make([]byte, 2500)...), kind(16, 53)) // an ACK, that nobody answers but by a RST
		must(t, virtio(s, virtioHeader(14+40, 16, 1000), large))
		b := make([]byte, 8192)
		for {
			size, _, err := unix.Recvfrom(witness, b, 0)
			if err != nil {
				return found
			}
			if b[20] == unix.IPPROTO_TCP && [16]byte(b[22:]) == inner6(s).As16() {
				found = append(found, size-14-40-20)
			}
		}
	}
	if got := sizes(); !slices.Equal(got, []int{1000, 1000, 500}) {
		t.Errorf("payloads of %d bytes", got)
	}
	unfinished(t, s)
	if got := sizes(); !slices.Equal(got, []int{2500}) {
		t.Errorf("with what a link can do by itself, payloads of %d bytes: the test proves nothing", got)
	}
}

// The box's end of a link takes no packet larger than the link's: libpcap would have few places for it.
func TestASlotTakesNoLargePackets(t *testing.T) {
	newLab(t)
	n := openNet(t)
	s, err := n.Slot(t.Context(), All(host(allowed)), 0)
	must(t, err)
	defer s.Close()
	for name, command := range map[string]uint32{"TSO": unix.ETHTOOL_GTSO, "GSO": unix.ETHTOOL_GGSO, "GRO": unix.ETHTOOL_GGRO} {
		value := struct{ command, data uint32 }{command, 1}
		request := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:], "eth0")
		must(t, inside(s.netns, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
				return errno
			}
			return nil
		}))
		if value.data != 0 {
			t.Errorf("%s is on", name)
		}
	}
}
