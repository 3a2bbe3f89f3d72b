package scope

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld says that somebody else has this network namespace: there is one set of links, one table
// and one range of addresses in it.
var ErrHeld = errors.New("another launcher has the slots of this network namespace")

// holdName is in the abstract namespace of sockets, which is one for each network namespace, and
// whose names end with their owner, however it ends.
const holdName = "@secmcpd-scope"

// hold takes the namespace until the socket is closed.
func hold() (*net.UnixListener, error) {
	address := &net.UnixAddr{Name: holdName, Net: "unix"}
	held, err := net.ListenUnix("unix", address)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, heldBy(address)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot hold the slots: %w", err)
	}
	go func() {
		for { // whoever connects learns from the kernel who this is
			c, err := held.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(time.Second)
				continue
			}
			_ = c.Close()
		}
	}()
	return held, nil
}

// heldBy says who has the name. Anybody can take it; one that is not root's is no launcher.
func heldBy(address *net.UnixAddr) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%w: nobody says which (%w)", ErrHeld, err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: address.Name}); err != nil {
		return fmt.Errorf("%w: nobody says which (%w)", ErrHeld, err)
	}
	who, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("%w: nobody says which (%w)", ErrHeld, err)
	}
	if who.Uid != 0 {
		return fmt.Errorf("%w: process %d of user %d has the socket %s and is none", ErrHeld, who.Pid, who.Uid, holdName)
	}
	return fmt.Errorf("%w: process %d", ErrHeld, who.Pid)
}
