package front

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Whoever connects while a door is left is let in when it is attended again, and everybody is counted.
func TestADoorThatIsLeftLosesNobody(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, end := context.WithCancel(context.Background())
	d, stop := newDoor(ctx, l, 0)
	defer stop()
	var served atomic.Int32
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			conn, err := d.Accept()
			if err != nil {
				return
			}
			served.Add(1)
			_, _ = conn.Write([]byte("x"))
			conn.Close()
		}
	}()
	var clients sync.WaitGroup
	for range 200 {
		clients.Go(func() {
			conn, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			if b, err := io.ReadAll(conn); err != nil || string(b) != "x" {
				t.Errorf("%q, %v", b, err)
			}
		})
		d.leave()
		before := served.Load()
		time.Sleep(time.Millisecond)
		if served.Load() != before {
			t.Fatal("somebody is let in at a door that is left")
		}
		d.attend()
	}
	clients.Wait()
	if served.Load() != 200 || d.inside() != 0 {
		t.Errorf("%d served, %d inside", served.Load(), d.inside())
	}
	d.leave()
	end() // also of a door that is left
	<-over
	d.attend()
	if _, err := d.Accept(); err == nil {
		t.Error("a door is attended after its end")
	}
}

func TestADoorHasABound(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, stop := newDoor(t.Context(), l, 2)
	defer stop()
	inside := make(chan net.Conn, 3)
	go func() {
		for {
			conn, err := d.Accept()
			if err != nil {
				return
			}
			inside <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		return conn
	}
	dial()
	dial()
	first := <-inside
	<-inside
	if b, _ := io.ReadAll(dial()); len(b) == 0 || string(b[:12]) != "HTTP/1.1 503" {
		t.Errorf("one too many: %q", b)
	}
	first.Close()
	first.Close() // counted once
	dial()
	<-inside
	if d.inside() != 2 {
		t.Errorf("%d inside", d.inside())
	}
}
