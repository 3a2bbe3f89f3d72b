package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// WriteTimeout bounds one Send. A peer that does not read for so long is gone: the rooms
// answer each other in microseconds.
const WriteTimeout = 5 * time.Second

// Conn is one end of the connection between the rooms. Send may be called from several
// goroutines, Receive from one.
type Conn struct {
	c *net.UnixConn
	// takesFiles is true in the front alone. In the launcher no buffer for descriptors is
	// given to the kernel, which then discards them and says so.
	takesFiles bool
	mu         sync.Mutex // one packet at a time
	buf        []byte     // Receive's
}

// NewLauncher wraps the launcher's end of a SOCK_SEQPACKET connection.
func NewLauncher(c *net.UnixConn) *Conn { return &Conn{c: c, buf: make([]byte, MaxMessage+1)} }

// NewFront wraps the front's end.
func NewFront(c *net.UnixConn) *Conn {
	return &Conn{c: c, takesFiles: true, buf: make([]byte, MaxMessage+1)}
}

// ErrUnsendable says that a message is none that this protocol can carry. Nothing of it was
// written: the connection is as it was, and other messages go on.
var ErrUnsendable = errors.New("no message of this protocol")

// Send writes one message with descriptors, which stay the caller's.
func (c *Conn) Send(m Message, files ...*os.File) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("cannot send: %w: %w", ErrUnsendable, err)
	}
	b, err := Encode(&m, MaxMessage)
	if err != nil {
		return fmt.Errorf("cannot send: %w: %w", ErrUnsendable, err)
	}
	if len(files) > MaxFiles {
		return fmt.Errorf("cannot send %d descriptors, at most %d", len(files), MaxFiles)
	}
	if len(files) > 0 && c.takesFiles {
		return errors.New("cannot send descriptors from the front")
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			// SyscallConn rather than Fd: Fd would switch the file to blocking mode.
			raw, err := f.SyscallConn()
			if err != nil {
				return fmt.Errorf("cannot send descriptor %d: %w", i, err)
			}
			if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
				return fmt.Errorf("cannot send descriptor %d: %w", i, err)
			}
		}
		oob = unix.UnixRights(fds...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.c.SetWriteDeadline(time.Now().Add(WriteTimeout)); err != nil {
		return fmt.Errorf("cannot send: %w", err)
	}
	if _, _, err := c.c.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("cannot send: %w", err)
	}
	runtime.KeepAlive(files) // the numbers above must stay open until the kernel has them
	return nil
}

// Receive reads one message and its descriptors, which become the caller's. io.EOF says that
// the peer has closed. Any other error leaves the connection unusable: the caller closes it.
func (c *Conn) Receive() (Message, []*os.File, error) {
	var oob []byte
	if c.takesFiles {
		oob = make([]byte, unix.CmsgSpace(MaxFiles*4))
	}
	n, oobn, flags, _, err := c.c.ReadMsgUnix(c.buf, oob)
	if errors.Is(err, syscall.ECONNRESET) {
		// The peer has ended and left something unread. The kernel says so once, before it gives what the peer
		// had said.
		n, oobn, flags, _, err = c.c.ReadMsgUnix(c.buf, oob)
	}
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return Message{}, nil, io.EOF
		}
		return Message{}, nil, fmt.Errorf("cannot receive: %w", err)
	}
	files, err := takeFiles(oob[:oobn])
	if err != nil {
		return Message{}, nil, err
	}
	m, err := c.decode(n, flags)
	if err != nil {
		closeAll(files)
		return Message{}, nil, fmt.Errorf("cannot receive: %w", err)
	}
	return m, files, nil
}

func (c *Conn) decode(n, flags int) (Message, error) {
	var m Message
	switch {
	case n == 0:
		return m, io.EOF // a sequenced-packet peer that has closed; an empty packet is no message either
	case flags&unix.MSG_TRUNC != 0 || n > MaxMessage:
		return m, fmt.Errorf("a packet is larger than %d bytes", MaxMessage)
	case flags&unix.MSG_CTRUNC != 0 && c.takesFiles:
		return m, fmt.Errorf("a packet has more than %d descriptors", MaxFiles)
	case flags&unix.MSG_CTRUNC != 0:
		return m, errors.New("the front sent a descriptor: it never may")
	}
	if err := Decode(c.buf[:n], MaxMessage, &m); err != nil {
		return m, err
	}
	return m, m.check()
}

// takeFiles turns control data into files. Whatever it cannot use it closes.
func takeFiles(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("cannot read control data: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // credentials or the like: nothing that has to be closed
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "from the launcher"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Close ends the connection; a Receive under way returns.
func (c *Conn) Close() error { return c.c.Close() }
