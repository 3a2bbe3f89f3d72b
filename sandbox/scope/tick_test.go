package scope

import (
	"bytes"
	"context"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A slot's link that is ticked has a frame of no protocol now and then, in the box and nowhere else, until it is
// stopped; nothing of it is counted as the scan's.
func TestASlotIsTicked(t *testing.T) {
	l := newLab(t)
	n := openNet(t)
	s, err := n.Slot(context.Background(), All(host(allowed)), 0)
	must(t, err)
	defer s.Close()
	eye := -1
	must(t, in(s.netns, func() {
		if eye, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(swap(unix.ETH_P_ALL))); err != nil {
			return
		}
		var link int
		if link, err = linkInside(); err == nil {
			err = unix.Bind(eye, &unix.SockaddrLinklayer{Ifindex: link, Protocol: swap(unix.ETH_P_ALL)})
		}
	}))
	must(t, err)
	defer unix.Close(eye)
	frames := func() (n int) {
		b := make([]byte, 2048)
		for {
			size, _, err := unix.Recvfrom(eye, b, 0)
			if err != nil {
				return n
			}
			if size >= 14 && bytes.Equal(b[:6], s.inner) && b[12] == localExperimental>>8 && b[13] == localExperimental&0xff {
				n++
			}
		}
	}
	stop, err := s.Tick()
	must(t, err)
	time.Sleep(4 * tickEvery)
	stop()
	if got := frames(); got < 3 || got > 8 {
		t.Errorf("%d frames in %v", got, 4*tickEvery)
	}
	time.Sleep(2 * tickEvery)
	if got := frames(); got != 0 {
		t.Errorf("%d frames after it was stopped", got)
	}
	if c, err := s.Counters(); err != nil || c.Sent+c.Received+c.Dropped+c.Refused != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if found := l.strangers(s.inner4, s.inner6); len(found) > 0 {
		t.Errorf("in the lab: %q", found)
	}
}

// The box's end of a link takes no packet larger than the link's: libpcap would have few places for it.
func TestASlotTakesNoLargePackets(t *testing.T) {
	newLab(t)
	n := openNet(t)
	s, err := n.Slot(context.Background(), All(host(allowed)), 0)
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
