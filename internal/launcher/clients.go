package launcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
)

const (
	// maxClients bounds the connections in all, maxClientsPerUID those of one user, so that one
	// agent's leak does not lock out the others.
	maxClients       = 512
	maxClientsPerUID = 128
)

// client is one connected caller. Its identity was asked of the kernel when it was accepted
// and never comes from a message.
type client struct {
	wire.Client
	// files are the launcher's own copies: one socket, or the two pipes of stdio. No byte is
	// ever read from or written to them here; they are watched for a hang-up and handed on.
	files []*os.File
	// introduced says that the front of now has the connection, met that one has begun to read from it, tries how
	// many have had it. Guarded by link.mu.
	introduced, met bool
	tries           int
	// token is by which it came, over HTTP: it has no files then. It never changes.
	token *Token
}

// may says whether a client may ask for scans: a token may be good for less.
func (c *client) may() bool { return c.token == nil || c.token.is(wire.ForMCP) }

// accept takes clients until ctx ends. The listener is left open: it is systemd's, and whoever
// connects from then on waits in its backlog for the next launcher.
func (l *Launcher) accept(ctx context.Context) error {
	if l.cfg.stdio() {
		return l.connect(&client{Client: l.cfg.Stdio.Caller, files: []*os.File{l.cfg.Stdio.In, l.cfg.Stdio.Out}})
	}
	defer context.AfterFunc(ctx, func() { _ = l.cfg.Listener.SetDeadline(time.Unix(1, 0)) })()
	for {
		l.accepting.Came()
		// The health of this room goes by it that the loop turns. Whoever ends ctx sets the deadline after that.
		if err := l.cfg.Listener.SetDeadline(time.Now().Add(acceptTurn)); err != nil && ctx.Err() == nil {
			return fmt.Errorf("cannot accept: %w", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		conn, err := l.cfg.Listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			l.log.Error("cannot accept for lack of descriptors", "why", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot accept: %w", err)
		}
		if err := l.admit(conn); err != nil {
			l.log.Warn("client refused", "why", err)
		}
		conn.Close() // what admit keeps is a copy
	}
}

// admit asks the kernel who is calling and gives the connection a handle.
func (l *Launcher) admit(conn *net.UnixConn) error {
	caller, err := peer(conn)
	if err != nil {
		return err
	}
	if err := l.cfg.Never(caller.UID); err != nil {
		return err
	}
	file, err := conn.File()
	if err != nil {
		return fmt.Errorf("cannot keep a connection: %w", err)
	}
	return l.connect(&client{Client: caller, files: []*os.File{file}})
}

// connect registers a client, watches its connection and tells the front.
func (l *Launcher) connect(c *client) error {
	if err := l.register(c); err != nil {
		c.close()
		return err
	}
	if err := l.hangups.watch(c); err != nil {
		l.disconnect(c.Handle)
		return err
	}
	l.introduce(c)
	l.stateChanged()
	return nil
}

// register gives a client a handle, if there is room for it.
func (l *Launcher) register(c *client) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	same := 0
	for _, other := range l.clients {
		if other.UID == c.UID {
			same++
		}
	}
	if all := len(l.clients); all >= maxClients || same >= maxClientsPerUID {
		return fmt.Errorf("uid %d has %d connections of %d, all have %d of %d", c.UID, same, maxClientsPerUID, all, maxClients)
	}
	l.lastHandle++
	c.Handle = l.lastHandle
	l.clients[c.Handle] = c
	return nil
}

// disconnect ends a handle. It is dead before the connection is closed.
func (l *Launcher) disconnect(handle uint64) {
	l.mu.Lock()
	c := l.clients[handle]
	delete(l.clients, handle)
	l.mu.Unlock()
	if c == nil {
		return
	}
	if len(c.files) > 0 {
		l.hangups.forget(c)
	}
	c.close()
	l.send(wire.Message{Gone: &wire.Gone{Handle: handle}})
	l.stateChanged()
	if l.cfg.stdio() {
		l.stop() // it was the only one there will be
	}
}

// caller finds the live client behind a handle, if it may ask for scans.
func (l *Launcher) caller(handle uint64) (wire.Client, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clients[handle]
	if c == nil || !c.may() {
		return wire.Client{}, false
	}
	return c.Client, true
}

// close ends the connection for both rooms: the front holds a copy of the same socket, so
// closing ours alone would leave the caller waiting.
func (c *client) close() {
	for _, f := range c.files {
		if raw, err := f.SyscallConn(); err == nil {
			// ENOTSOCK for the pipes of stdio, which end with the front.
			_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
		}
		f.Close()
	}
}

// peer asks the kernel for the credentials that the peer had when it connected.
func peer(conn *net.UnixConn) (wire.Client, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return wire.Client{}, fmt.Errorf("cannot ask for the peer: %w", err)
	}
	var c wire.Client
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			failed = fmt.Errorf("cannot ask for the peer: SO_PEERCRED: %w", err)
			return
		}
		c.UID, c.GID, c.PID = cred.Uid, cred.Gid, cred.Pid
		c.Groups, failed = peerGroups(int(fd))
	})
	return c, errors.Join(err, failed)
}

// maxGroups bounds the supplementary groups that are asked for. A caller with more is refused
// rather than judged by a part of them.
const maxGroups = 1024

func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, maxGroups)
	size := uint32(len(groups) * 4)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("cannot ask for the peer's groups (at most %d): SO_PEERGROUPS: %w", maxGroups, errno)
	}
	return slices.Clone(groups[:size/4]), nil
}

// hangups watches connections for their end without reading from them. A hang-up is both
// directions closed; a client that only has nothing more to say (SHUT_WR) still waits for
// answers and keeps its handle.
type hangups struct {
	epoll int
	wake  *os.File // write end of a pipe whose read end ends the loop
	stop  *os.File
}

func newHangups() (*hangups, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot watch connections: %w", err)
	}
	stop, wake, err := os.Pipe()
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("cannot watch connections: %w", err)
	}
	h := &hangups{epoll: epoll, wake: wake, stop: stop}
	// Handle 0 is never given out: it stands for the pipe.
	if err := h.add(stop, 0); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// add registers f with no event asked for: EPOLLHUP and EPOLLERR come always.
func (h *hangups) add(f *os.File, handle uint64) error {
	event := unix.EpollEvent{Fd: int32(uint32(handle)), Pad: int32(uint32(handle >> 32))}
	var err error
	raw, rawErr := f.SyscallConn()
	if rawErr == nil {
		rawErr = raw.Control(func(fd uintptr) { err = unix.EpollCtl(h.epoll, unix.EPOLL_CTL_ADD, int(fd), &event) })
	}
	if err := errors.Join(rawErr, err); err != nil {
		return fmt.Errorf("cannot watch a connection: %w", err)
	}
	return nil
}

func (h *hangups) watch(c *client) error {
	// Of the two files of stdio the second tells that nobody reads the answers any more; the
	// end of the first is a caller that has nothing more to say. A file or a terminal has no
	// such end (EPERM), and needs none.
	err := h.add(c.files[len(c.files)-1], c.Handle)
	if errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

// forget must come before the file is closed: the front's copy keeps the socket alive, and
// with it an entry that could no longer be removed.
func (h *hangups) forget(c *client) {
	if raw, err := c.files[len(c.files)-1].SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.EpollCtl(h.epoll, unix.EPOLL_CTL_DEL, int(fd), nil) })
	}
}

// run calls gone for each connection that hangs up, until close.
func (h *hangups) run(gone func(handle uint64)) error {
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(h.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot watch connections: %w", err)
		}
		for _, e := range events[:n] {
			handle := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			if handle == 0 {
				unix.Close(h.epoll)
				h.stop.Close()
				return nil
			}
			gone(handle)
		}
	}
}

// close ends run.
func (h *hangups) close() { h.wake.Close() }
