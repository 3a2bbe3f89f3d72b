package scope

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// finished makes the kernel finish the checksums of what an interface sends, and cut what is
// larger than a packet, before it leaves the interface. Without it the sender says where in the
// packet a checksum is to be written, and that is done when the packet leaves this machine: a
// packet socket with a virtio-net header can have it written over an IPv6 destination, behind
// every filter on the way.
//
// Nor may it take packets larger than the link's, in one piece or several as one: libpcap makes room for
// those in its ring, which then has 31 places, and loses what comes faster than a scanner reads. Of 510
// open ports at 1000 packets a second masscan heard of 450 to 492; without, of all.
func finished(ns *os.File, link string) error {
	if err := inside(ns, func() error {
		return errors.Join(checksums(link, 0), offload(link, unix.ETHTOOL_STSO, 0), offload(link, unix.ETHTOOL_SGSO, 0), offload(link, unix.ETHTOOL_SGRO, 0))
	}); err != nil {
		return fmt.Errorf("cannot have the packets of %s finished: %w", link, err)
	}
	return nil
}

// checksums switches on or off that an interface is left to finish them.
func checksums(link string, on uint32) error { return offload(link, unix.ETHTOOL_STXCSUM, on) }

// offload sets what an interface does for the machine.
func offload(link string, command, on uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	value := struct{ command, data uint32 }{command, on}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], link)
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
