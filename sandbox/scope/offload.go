package scope

import (
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
func finished(ns *os.File, link string) error {
	if err := inside(ns, func() error { return checksums(link, 0) }); err != nil {
		return fmt.Errorf("cannot have the checksums of %s finished: %w", link, err)
	}
	return nil
}

// checksums switches on or off that an interface is left to finish them.
func checksums(link string, on uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	value := struct{ command, data uint32 }{unix.ETHTOOL_STXCSUM, on}
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
