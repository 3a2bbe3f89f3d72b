package launcher

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// handed waits for a client of the front of now, and gives its handle and its connection.
func (h *house) handed() (uint64, net.Conn) {
	h.t.Helper()
	e := h.until(func(m wire.Message) bool { return m.Client != nil })
	conn, err := net.FileConn(e.files[0])
	if err := errors.Join(err, e.files[0].Close()); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	return e.m.Client.Handle, conn
}

// ends tells whether a client's connection has ended; it is open for as long as it takes to be sure.
func ends(t *testing.T, c net.Conn, within time.Duration) bool {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// A front that ends before it reads from a client has taken nothing from it: the next one has it, as if the first
// had never been. What one has begun to read ends with it.
func TestWhomAFrontHasNotMetIsForTheNext(t *testing.T) {
	h := newHouse(t)
	h.open()
	c, err := unixDial(h)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h.link()
	first, held := h.handed()
	held.Close()
	h.conn.Close()
	h.link()
	second, held := h.handed()
	if second != first {
		t.Errorf("handle %d, then %d", first, second)
	}
	if _, err := held.Write([]byte("?")); err != nil {
		t.Error(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("the client reads %d, %v", n, err)
	}
	h.meet(second)
	held.Close()
	h.conn.Close()
	if !ends(t, c, 10*time.Second) {
		t.Error("what a front has read from goes on without it")
	}
}

// A front that is killed leaves what it was sent unread, and what it said unheard so far: both are looked at.
func TestAFrontThatReadsNothingLosesNobody(t *testing.T) {
	h := newHouse(t)
	var l *Launcher
	h.inside = func(made *Launcher) { l = made }
	h.open()
	met, err := unixDial(h)
	if err != nil {
		t.Fatal(err)
	}
	defer met.Close()
	if err := h.front.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	raw, err := h.front.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	conn := wire.NewFront(raw)
	if err := conn.Send(wire.Message{Hello: &wire.Hello{Version: wire.Version}}); err != nil {
		t.Fatal(err)
	}
	var handle uint64
	for handle == 0 {
		m, files, err := conn.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Client != nil {
			handle = m.Client.Handle
		}
		for _, f := range files {
			f.Close()
		}
	}
	other, err := unixDial(h)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	eventually(t, func() bool {
		l.link.mu.Lock()
		defer l.link.mu.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range l.clients {
			if !c.introduced {
				return false
			}
		}
		return len(l.clients) == 2
	})
	if err := conn.Send(wire.Message{Met: &wire.Met{Handle: handle}}); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	h.link()
	if again, _ := h.handed(); again == handle {
		t.Error("the one whom it had met is handed on")
	}
	if !ends(t, met, 10*time.Second) || ends(t, other, 200*time.Millisecond) {
		t.Error("the wrong one has ended")
	}
}

// A client is not handed from front to front for ever.
func TestAClientHasSoManyFronts(t *testing.T) {
	h := newHouse(t)
	h.open()
	c, err := unixDial(h)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range maxTries {
		h.link()
		_, held := h.handed()
		held.Close()
		h.conn.Close()
	}
	if !ends(t, c, 10*time.Second) {
		t.Error("it is kept for another")
	}
}

// A front that hears nothing any more and stays is let go of: whoever comes is for the next.
func TestAFrontThatPretendsToHaveEndedIsLetGoOf(t *testing.T) {
	h := newHouse(t)
	h.open()
	h.client()
	if err := h.raw.CloseRead(); err != nil {
		t.Fatal(err)
	}
	c, err := unixDial(h)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h.link()
	h.handed()
}
