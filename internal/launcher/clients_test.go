package launcher

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
)

func TestThePeersIdentityComesFromTheKernel(t *testing.T) {
	a, b := connected(t)
	defer b.Close()
	got, err := peer(a)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	var want []uint32
	for _, g := range groups {
		want = append(want, uint32(g))
	}
	slices.Sort(want)
	slices.Sort(got.Groups)
	if got.UID != uint32(os.Getuid()) || got.GID != uint32(os.Getgid()) || got.PID != int32(os.Getpid()) || !slices.Equal(got.Groups, want) {
		t.Errorf("got %+v, groups should be %v", got, want)
	}
}

// A client that has nothing more to say still waits for answers: only the end of both
// directions is a hang-up.
func TestAHangUpIsBothDirectionsClosed(t *testing.T) {
	h, err := newHangups()
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan uint64, 8)
	ended := make(chan error, 1)
	go func() {
		ended <- h.run(func(handle uint64) {
			select {
			case gone <- handle:
			default: // told before; the event lasts until the connection is forgotten
			}
		})
	}()

	ours, theirs := connected(t)
	file, err := ours.File()
	if err != nil {
		t.Fatal(err)
	}
	c := &client{Client: wire.Client{Handle: 1<<62 + 7}, files: []*os.File{file}}
	if err := h.watch(c); err != nil {
		t.Fatal(err)
	}
	if err := theirs.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	select {
	case handle := <-gone:
		t.Fatalf("handle %d ended at a half-close", handle)
	case <-time.After(100 * time.Millisecond):
	}
	theirs.Close()
	select {
	case handle := <-gone:
		if handle != c.Handle {
			t.Errorf("handle %d ended, not %d", handle, c.Handle)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("a hang-up went unnoticed")
	}
	h.forget(c)
	h.close()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the watch does not end")
	}
}

func connected(t *testing.T) (server, client *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

// A job is its user's: another one cannot tell it from a job that does not exist, and it goes on.
func TestNobodyEndsAnothersJob(t *testing.T) {
	h := newHouse(t)
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, longScan)
	other, _ := h.clientAs(1000)
	theirs, nobodys := h.cancel(other, jobA), h.cancel(other, jobB)
	if theirs == nil || nobodys == nil || theirs.Code != "no_such_job" {
		t.Fatalf("%+v, of a job that does not exist %+v", theirs, nobodys)
	}
	if theirs.Got, nobodys.Got = "", ""; !reflect.DeepEqual(theirs, nobodys) {
		t.Errorf("%+v differs from %+v", theirs, nobodys)
	}
	time.Sleep(500 * time.Millisecond)
	same, _ := h.client() // by user, not by connection
	if r := h.cancel(same, jobA); r != nil {
		t.Fatalf("it did not go on: %+v", r)
	}
	if o := h.endOf(jobA).Outcome; o.Reason != wire.Cancelled || o.Usage.WallMS < 400 {
		t.Errorf("it ended: %+v", o)
	}
}

// One user's connections lock out nobody else, nor do all of them together break anything.
func TestConnectionsAreBounded(t *testing.T) {
	h := newHouse(t)
	h.open()
	first, conn := h.client()
	for range maxClientsPerUID - 1 {
		h.client()
	}
	refused := func(says string, dial func() *net.UnixConn) {
		t.Helper()
		c := dial()
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s was let in (%d, %v)", says, n, err)
		}
	}
	refused("one more of a user", func() *net.UnixConn { return h.dialAs(os.Getuid()) })
	h.clientAs(1000)

	// With one less there is room for one again.
	conn.Close()
	h.until(func(m wire.Message) bool { return m.Gone != nil && m.Gone.Handle == first })
	h.client()

	for uid := 1000; uid < 1000+maxClients/maxClientsPerUID-1; uid++ {
		for n := range maxClientsPerUID {
			if uid == 1000 && n == 0 {
				continue // is there already
			}
			h.clientAs(uid)
		}
	}
	refused("one more than all", func() *net.UnixConn { return h.dialAs(2000) })
}
