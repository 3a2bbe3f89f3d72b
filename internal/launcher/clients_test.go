package launcher

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

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
