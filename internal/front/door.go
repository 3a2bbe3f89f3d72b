package front

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// door is a listener that can be left for a while: whoever connects then waits in its backlog. It
// counts the connections that it has let in.
type door struct {
	l    Listener
	ctx  context.Context
	most int    // connections at once; 0: any number
	turn func() // called at least every acceptTurn by who accepts; nil: nobody minds

	mu      sync.Mutex
	open    int
	left    chan struct{} // closed when it is attended again; nil: it is
	nobody  chan struct{} // closed when nobody accepts any more
	refused int           // connections beyond most
}

// Listener is one whose accepting can be ended without closing it.
type Listener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// newDoor is attended from now on, until ctx ends. The listener stays open: it is systemd's.
func newDoor(ctx context.Context, l Listener, most int) (d *door, stop func() bool) {
	d = &door{l: l, ctx: ctx, most: most}
	return d, context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
}

// Accept waits for a connection, also while the door is left.
func (d *door) Accept() (net.Conn, error) {
	for {
		d.begin()
		conn, err := d.l.Accept()
		switch {
		case err == nil:
			if d.letIn() {
				return &visitor{Conn: conn, door: d}, nil
			}
			turnAway(conn)
		case d.ctx.Err() != nil:
			return nil, net.ErrClosed
		case errors.Is(err, os.ErrDeadlineExceeded):
			d.wait()
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			time.Sleep(100 * time.Millisecond)
		default:
			return nil, err
		}
	}
}

// begin has Accept come round.
func (d *door) begin() {
	if d.turn == nil {
		return
	}
	d.turn()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left == nil {
		_ = d.l.SetDeadline(time.Now().Add(acceptTurn))
	}
	if d.ctx.Err() != nil { // its end may have set the deadline before
		_ = d.l.SetDeadline(time.Unix(1, 0))
	}
}

// Addr and Close are a net.Listener's.
func (d *door) Addr() net.Addr { return d.l.Addr() }
func (d *door) Close() error   { return nil }

func (d *door) letIn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.most > 0 && d.open >= d.most {
		d.refused++
		return false
	}
	d.open++
	return true
}

// turnAway ends a connection for which there is no room. Its send buffer is empty: nothing waits.
func turnAway(conn net.Conn) {
	_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = conn.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
	conn.Close()
}

// inside is how many connections are open.
func (d *door) inside() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}

// leave has connections wait in the backlog. When it returns, each that was accepted is counted.
func (d *door) leave() {
	d.mu.Lock()
	if d.left == nil {
		d.left, d.nobody = make(chan struct{}), make(chan struct{})
	}
	nobody := d.nobody
	_ = d.l.SetDeadline(time.Unix(1, 0))
	d.mu.Unlock()
	select {
	case <-nobody:
	case <-d.ctx.Done():
	}
}

// attend takes leave back.
func (d *door) attend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left == nil {
		return
	}
	_ = d.l.SetDeadline(time.Time{})
	if d.ctx.Err() != nil { // its end may have set the deadline before
		_ = d.l.SetDeadline(time.Unix(1, 0))
	}
	close(d.left)
	d.left = nil
}

// wait is where who accepts is while the door is left.
func (d *door) wait() {
	d.mu.Lock()
	left := d.left
	if left != nil {
		select {
		case <-d.nobody:
		default:
			close(d.nobody)
		}
	}
	d.mu.Unlock()
	if left == nil {
		return
	}
	select {
	case <-left:
	case <-d.ctx.Done():
	}
}

// visitor is a connection that came through a door.
type visitor struct {
	net.Conn
	door *door
	once sync.Once
}

// Close counts it out.
func (v *visitor) Close() error {
	v.once.Do(func() {
		v.door.mu.Lock()
		defer v.door.mu.Unlock()
		v.door.open--
	})
	return v.Conn.Close()
}
