package scope

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// events is a subscription to changes in this namespace, by whoever made them.
type events struct {
	file *os.File
	conn syscall.RawConn
	buf  []byte
}

// eventBytes is what the kernel may keep for us. A firewall that loads a long list of addresses
// says each of them; what does not fit is lost, and found out about.
const eventBytes = 8 << 20

func subscribe(protocol int, groups ...int) (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	// Without CAP_NET_ADMIN over the machine there is a smaller buffer, which is only a matter of luck.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBytes)
	file := os.NewFile(uintptr(fd), "netlink events")
	address := unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, group := range groups {
		address.Groups |= 1 << (group - 1)
	}
	if err := unix.Bind(fd, &address); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &events{file: file, conn: conn, buf: make([]byte, 1<<17)}, nil
}

// errOverrun says that events were lost.
var errOverrun = errors.New("events were lost")

// next waits for messages of the kernel. errOverrun: some of them are lost.
func (e *events) next() ([]syscall.NetlinkMessage, error) {
	var n, flags int
	var from unix.Sockaddr
	var received error
	err := e.conn.Read(func(fd uintptr) bool {
		n, _, flags, from, received = unix.Recvmsg(int(fd), e.buf, nil, 0)
		return !errors.Is(received, unix.EAGAIN)
	})
	err = errors.Join(err, received)
	if errors.Is(err, unix.ENOBUFS) || err == nil && flags&unix.MSG_TRUNC != 0 {
		return nil, errOverrun
	}
	if err != nil {
		return nil, err
	}
	if k, ok := from.(*unix.SockaddrNetlink); !ok || k.Pid != 0 {
		return nil, nil // not the kernel
	}
	messages, err := syscall.ParseNetlinkMessage(e.buf[:n])
	if err != nil {
		return nil, errOverrun
	}
	return messages, nil
}

// forget drops what is waiting to be read, also while somebody waits for more.
func (e *events) forget() error {
	var received error
	err := e.conn.Control(func(fd uintptr) {
		b := make([]byte, 1) // the rest of each is dropped
		for range 1 << 16 {  // an overrun is reported once, then what there is
			if _, _, _, _, received = unix.Recvmsg(int(fd), b, nil, 0); errors.Is(received, unix.EAGAIN) {
				received = nil
				break
			}
		}
	})
	return errors.Join(err, received)
}

// ofOthers says whether somebody else has changed our table.
func ofOthers(messages []syscall.NetlinkMessage, ours uint32) bool {
	for _, m := range messages {
		// The kernel writes the port of the socket by which a change came.
		if m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES && m.Header.Pid != ours && ofOurTable(m.Data) {
			return true
		}
	}
	return false
}

// nfgenmsg is the size of the header of every message: family, version, number.
const nfgenmsg = 4

// ofOurTable reads the attribute that is the table's name in every message that has one:
// tables, chains, rules, sets, elements, objects.
func ofOurTable(b []byte) bool {
	if len(b) < nfgenmsg || b[0] != unix.NFPROTO_INET {
		return false
	}
	for b = b[nfgenmsg:]; len(b) >= unix.NLA_HDRLEN; {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < unix.NLA_HDRLEN || size > len(b) {
			return true // not as we know it: looked at as if it were
		}
		if kind&0x3fff == unix.NFTA_TABLE_NAME {
			return strings.TrimRight(string(b[unix.NLA_HDRLEN:size]), "\x00") == tableName
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false
}

// Watch waits for somebody else to change what holds slots to their scopes, until ctx ends. When
// that is the table or the rule of routing for what it has not unmarked, every slot's link is taken
// down at once, each slot says so (Lost), and both are made anew for the slots to come. When it is
// one slot's link, or what belongs to it, that slot is lost alone. Each time lost is told what was
// changed (an ErrLost), and what went wrong in what followed.
func (n *Net) Watch(ctx context.Context, lost func(what, err error)) error {
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() {
		_ = n.events.file.SetReadDeadline(time.Unix(1, 0)) // fails once closed
		_ = n.links.file.SetReadDeadline(time.Unix(1, 0))
	})()
	g.Go(func() error { return n.watchTable(ctx, lost) })
	g.Go(func() error { return n.watchLinks(ctx, lost) })
	return g.Wait()
}

var errTable = lostBy("the nftables table inet " + tableName)

func (n *Net) watchTable(ctx context.Context, lost func(what, err error)) error {
	for {
		messages, err := n.events.next()
		changed := ofOthers(messages, n.port)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errOverrun):
			changed = !n.intact()
		case err != nil:
			return fmt.Errorf("cannot watch the filter: %w", err)
		}
		if changed {
			lost(errTable, n.lose(errTable))
		}
	}
}

// lose is what follows when the filter is no longer ours.
func (n *Net) lose(what error) error {
	n.losing.Lock()
	defer n.losing.Unlock()
	first := linksDown() // at once: a slot that is just being made holds the lock
	n.mu.Lock()
	defer n.mu.Unlock()
	errs := []error{linksDown()} // those that are ready, too: no slot is made of one that is down
	if errs[0] != nil {
		errs = append(errs, first)
	}
	for s := range n.slots {
		s.end(what)
	}
	// The guards are gone with the filter. Whoever needs an interface switches it on again.
	errs = append(errs, n.unguard(), n.events.forget(), n.renew())
	return errors.Join(errs...)
}

// end says that a slot is lost. Its link is down by then.
func (s *Slot) end(what error) {
	s.what = what
	close(s.lost)
	delete(s.net.slots, s)
}

// linksDown takes down the link of every slot.
func linksDown() error {
	links, err := consistent(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}
	var errs []error
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, prefix) && l.Type() == "veth" {
			errs = append(errs, down(l))
		}
	}
	return errors.Join(errs...)
}

// renew replaces whatever is there by the base.
func (n *Net) renew() (err error) {
	n.t, n.print = nil, ""
	if n.filter != nil {
		if err := trap(); err != nil {
			return fmt.Errorf("cannot make a rule of routing: %w", err)
		}
	}
	n.nft.AddTable(ourTable())
	n.nft.DelTable(ourTable())
	t, err := n.newTable()
	if err != nil {
		return errors.Join(fmt.Errorf("cannot make the filter's base: %w", err), n.drain())
	}
	n.t = t
	return n.remember()
}

// remember keeps what the filter looks like after a change of ours.
func (n *Net) remember() (err error) {
	if n.print, err = n.t.fingerprint(); err != nil {
		return fmt.Errorf("cannot read the filter back: %w", err)
	}
	return nil
}

// Intact reports whether the filter's table is as this program last made it. After a change by somebody
// else it is not until Watch has made it anew, which takes milliseconds.
func (n *Net) Intact() bool { return n.intact() }

// intact compares the filter with what it looked like after the last change of ours.
func (n *Net) intact() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.t == nil {
		return false
	}
	print, err := n.t.fingerprint()
	return err == nil && print == n.print
}
