package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/bridge"
	"github.com/secmcpd/secmcpd/internal/front"
)

// systemd makes the sockets of both rooms, and keeps them while a room restarts. Where it is not, as in a container,
// each room makes its own with --listen: of the same names and kinds, and gone with it. The front's are of its
// directory's group, whoever is in it: it listens to nobody but root as its launcher.

// listening is one of them.
type listening struct {
	name, network, path string
	group               string // whose members may connect; empty: that of the directory, if that hands it on
}

// listen makes the sockets of a role.
func listen(wanted []listening) (map[string]*net.UnixListener, error) {
	made := map[string]*net.UnixListener{}
	for _, w := range wanted {
		l, err := w.make()
		if err != nil {
			shut(made, nil)
			return nil, fmt.Errorf("cannot make the socket %s: %w", w.path, err)
		}
		made[w.name] = l
	}
	return made, nil
}

// shut removes what listen has made.
func shut(made map[string]*net.UnixListener, overHTTP []front.Listener) {
	for _, l := range made {
		l.Close()
	}
	for _, l := range overHTTP {
		l.Close()
	}
}

// make has nobody else connect before the socket is its group's.
func (w listening) make() (_ *net.UnixListener, err error) {
	if err := vacate(w.path); err != nil {
		return nil, err
	}
	before := syscall.Umask(0o177)
	l, err := net.ListenUnix(w.network, &net.UnixAddr{Net: w.network, Name: w.path})
	syscall.Umask(before)
	if err != nil {
		return nil, err
	}
	if w.group != "" {
		gid, err := groupID(w.group)
		if err == nil {
			err = os.Lchown(w.path, -1, gid)
		}
		if err != nil {
			l.Close()
			return nil, err
		}
	}
	if err := os.Chmod(w.path, 0o660); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// vacate removes what is left of a room that was killed, and nothing that somebody listens at, be it systemd: whoever starts
// a second room by mistake would take the agents of the first away for good. To connect to a socket as another kind than
// it is tells the one from the other, and whoever listens hears nothing of it.
func vacate(path string) error {
	if old, err := os.Lstat(path); err != nil || old.Mode().Type() != fs.ModeSocket {
		return nil // what else is there is told by whoever makes the socket
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); {
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, unix.EPROTOTYPE):
		return errors.New("somebody listens there: another secmcpd, or systemd for it")
	default:
		return fmt.Errorf("cannot tell whether somebody listens there: %w", err)
	}
}

func groupID(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// listenLauncher joins the groups that its sockets are for: who is a member may give a file of his own to a group,
// and connect to the front's socket, without the right to do so with any file.
func (s *settings) listenLauncher() (map[string]*net.UnixListener, error) {
	_, gid, err := s.frontIDs()
	if err != nil {
		return nil, err
	}
	wanted := []listening{
		{"mcp", "unix", bridge.Socket, agentsGroup},
		{"bell", "unix", s.BellSocket, strconv.FormatUint(uint64(gid), 10)},
		{"launcher-admin", "unixpacket", s.LauncherAdmin, "secmcpd-admin"},
	}
	groups, err := os.Getgroups()
	if err != nil {
		return nil, fmt.Errorf("cannot tell the launcher's groups: %w", err)
	}
	for _, w := range wanted {
		gid, err := groupID(w.group)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(groups, gid) {
			groups = append(groups, gid)
		}
	}
	if err := syscall.Setgroups(groups); err != nil {
		return nil, fmt.Errorf("cannot join the groups of the sockets: %w", err)
	}
	return listen(wanted)
}

// listenFront gives no socket to a group: the front may not. Its directory hands its own on (g+s).
func (s *settings) listenFront(overHTTP []string) (map[string]*net.UnixListener, []front.Listener, error) {
	sockets, err := listen([]listening{
		{"front", "unixpacket", s.FrontSocket, ""},
		{"admin", "unix", s.AdminSocket, ""},
	})
	if err != nil {
		return nil, nil, err
	}
	var listeners []front.Listener
	for _, address := range overHTTP {
		l, err := net.Listen("tcp", address)
		if err != nil {
			shut(sockets, listeners)
			return nil, nil, fmt.Errorf("cannot listen for HTTP: %w", err)
		}
		listeners = append(listeners, l.(*net.TCPListener))
	}
	return sockets, listeners, nil
}
