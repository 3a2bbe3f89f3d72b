package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/sandbox"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// The tests run a whole launcher, with real boxes, in a network namespace and a cgroup of their
// own; the test is its front, and not always an honest one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "resolve" {
		time.Sleep(time.Hour) // the launcher has put this program into the resolver's box
	}
	if os.Getenv("LAUNCHER_TEST") != "" {
		os.Exit(m.Run())
	}
	group, err := ownCgroup()
	if err != nil {
		fmt.Fprintln(os.Stderr, "launcher: these tests need root and cgroup v2:", err)
		os.Exit(1)
	}
	dir, err := os.Open(group)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "LAUNCHER_TEST=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	err = cmd.Run()
	left := removeTree(group)
	if err != nil || left != nil {
		fmt.Fprintln(os.Stderr, err, left)
		os.Exit(1)
	}
}

func ownCgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); len(f) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			own := filepath.Join(f[4], "secmcpd-launcher-test-"+strconv.Itoa(os.Getpid()))
			return own, os.Mkdir(own, 0o755)
		}
	}
	return "", fmt.Errorf("cgroup v2 is not mounted")
}

// removeTree fails when a process is left in it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}

const engagement = `name: lab
description: the lab
callers: {users: [0]}
targets: [10.77.0.0/16, {name: .lab.internal, within: [10.77.0.0/16]}]
exclude: [10.77.0.13]
tools: {nmap_scan: {profiles: ["*"]}}
`

// house is a launcher with the test as its front.
type house struct {
	t      *testing.T
	cfg    Config
	front  *net.UnixListener
	stop   func()
	ended  chan error
	conn   *wire.Conn // the front's end
	raw    *net.UnixConn
	events chan event
	states chan wire.State     // the last one
	early  []event             // came before an answer that was waited for
	ends   map[string]wire.Job // of jobs that nobody has waited for yet
	seq    uint64
	inside func(*Launcher) // changes it before it lives
}

type event struct {
	m     wire.Message
	files []*os.File
	err   error
}

func newHouse(t *testing.T) *house {
	t.Helper()
	// Not t.TempDir: the name of a test would make the sockets' paths too long.
	dir, err := os.MkdirTemp("", "launcher")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	engagements := filepath.Join(dir, "engagements.d")
	if err := os.Mkdir(engagements, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, cfg: Config{StateDir: filepath.Join(dir, "state"), AuditDir: filepath.Join(dir, "audit"), EngagementsDir: engagements,
		FrontSocket: filepath.Join(dir, "front.sock"), FrontUID: 65401, Slots: 2, FirstSlotUID: 66000, Mode: scope.Routed,
		SlotsV4: netip.MustParsePrefix("10.254.200.0/22"), SlotsV6: netip.MustParsePrefix("fd5e:c0de:5ca1::/48"),
		Live: Live{Tools: runners.BuiltIn(), Queue: 8, Approvals: time.Hour, Scanners: map[string]string{"nmap": "/usr/bin/nmap"},
			Accept: []string{sandbox.CgroupMemory, sandbox.CgroupPids, sandbox.CgroupCPU, sandbox.CgroupIO},
			Limits: Limits{Memory: 256 << 20, Pids: 32, CPUPercent: 100, CPUTime: time.Minute, Output: 8 << 20, Tmp: 1 << 20, OpenFiles: 256}},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Notify: func(string) {}}}
	h.engage("lab", engagement)
	if h.front, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: h.cfg.FrontSocket, Net: "unixpacket"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.front.Close() })
	return h
}

func (h *house) engage(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.cfg.EngagementsDir, name+".yaml"), []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// open starts the launcher. Its clients connect to mcp.sock.
func (h *house) open() {
	h.t.Helper()
	path := filepath.Join(filepath.Dir(h.cfg.FrontSocket), fmt.Sprintf("mcp%d.sock", time.Now().UnixNano()))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		h.t.Fatal(err)
	}
	h.cfg.Listener = l
	ctx, stop := context.WithCancel(context.Background())
	h.stop, h.ended = stop, make(chan error, 1)
	go func() { h.ended <- h.serve(ctx) }()
	h.t.Cleanup(func() { h.close(); l.Close() })
}

// serve is Serve, with the test's hand inside.
func (h *house) serve(ctx context.Context) error {
	if h.inside == nil {
		return Serve(ctx, h.cfg)
	}
	l, err := open(h.cfg)
	if err != nil {
		return err
	}
	defer l.close()
	h.inside(l)
	return l.serveFrom(ctx)
}

func (h *house) close() {
	if h.stop == nil {
		return
	}
	h.stop()
	h.stop = nil
	select {
	case err := <-h.ended:
		if err != nil {
			h.t.Errorf("the launcher ended: %v", err)
		}
	case <-time.After(20 * time.Second):
		h.t.Fatal("the launcher does not end")
	}
}

// link accepts the launcher's connection and greets it.
func (h *house) link() { h.greet() }

// greet is link, with what the front says that it cannot enforce.
func (h *house) greet(gaps ...wire.Gap) {
	h.t.Helper()
	if err := h.front.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		h.t.Fatal(err)
	}
	raw, err := h.front.AcceptUnix()
	if err != nil {
		h.t.Fatal(err)
	}
	h.raw, h.conn, h.events, h.early = raw, wire.NewFront(raw), make(chan event, 256), nil
	if err := h.conn.Send(wire.Message{Hello: &wire.Hello{Version: wire.Version, Gaps: gaps}}); err != nil {
		h.t.Fatal(err)
	}
	h.states = make(chan wire.State, 1)
	go func(conn *wire.Conn, events chan event, states chan wire.State) {
		for {
			m, files, err := conn.Receive()
			if m.State != nil {
				select { // it comes again and again, between all else: the last one counts
				case <-states:
				default:
				}
				states <- *m.State
				continue
			}
			events <- event{m, files, err}
			if err != nil {
				return
			}
		}
	}(h.conn, h.events, h.states)
	if e := h.next(); e.m.Hello == nil {
		h.t.Fatalf("the launcher began with %+v, %v", e.m, e.err)
	}
}

func (h *house) next() event {
	h.t.Helper()
	if len(h.early) > 0 {
		e := h.early[0]
		h.early = h.early[1:]
		return e
	}
	select {
	case e := <-h.events:
		return e
	case <-time.After(30 * time.Second):
		h.t.Fatal("the launcher says nothing")
		panic("unreachable")
	}
}

// stateOnce waits for a state that fits.
func (h *house) stateOnce(fits func(wire.State) bool) wire.State {
	h.t.Helper()
	for deadline := time.After(20 * time.Second); ; {
		select {
		case s := <-h.states:
			if fits(s) {
				return s
			}
		case <-deadline:
			h.t.Fatal("the state is never so")
		}
	}
}

// until skips events until one fits.
func (h *house) until(fits func(wire.Message) bool) event {
	h.t.Helper()
	for {
		e := h.next()
		if e.err != nil {
			h.t.Fatalf("the launcher hung up: %v", e.err)
		}
		if fits(e.m) {
			return e
		}
	}
}

// client connects as this test's own user and returns its handle.
func (h *house) client() (uint64, *net.UnixConn) {
	h.t.Helper()
	c, err := unixDial(h)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.known(c), c
}

// clientAs connects as another user.
func (h *house) clientAs(uid int) (uint64, *net.UnixConn) {
	h.t.Helper()
	c := h.dialAs(uid)
	return h.known(c), c
}

func (h *house) dialAs(uid int) *net.UnixConn {
	h.t.Helper()
	path := h.cfg.Listener.Addr().String()
	if err := os.Chmod(path, 0o666); err != nil {
		h.t.Fatal(err)
	}
	type dialled struct {
		fd  int
		err error
	}
	done := make(chan dialled)
	go func() {
		// Never unlocked: the thread that has become somebody else ends with the goroutine.
		runtime.LockOSThread()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				err = errno
			}
		}
		done <- dialled{fd, errors.Join(err, unix.Connect(fd, &unix.SockaddrUnix{Name: path}))}
	}()
	d := <-done
	if d.err != nil {
		h.t.Fatal(d.err)
	}
	return unixConn(h.t, d.fd)
}

// known waits until the launcher has told of a client.
func (h *house) known(c *net.UnixConn) uint64 {
	h.t.Helper()
	h.t.Cleanup(func() { c.Close() })
	if h.conn == nil {
		h.link()
	}
	e := h.until(func(m wire.Message) bool { return m.Client != nil })
	for _, f := range e.files {
		h.t.Cleanup(func() { f.Close() })
	}
	h.meet(e.m.Client.Handle)
	return e.m.Client.Handle
}

// meet says that this front reads from a client from now on.
func (h *house) meet(handle uint64) {
	h.t.Helper()
	if err := h.conn.Send(wire.Message{Met: &wire.Met{Handle: handle}}); err != nil {
		h.t.Fatal(err)
	}
}

// reply sends a request and waits for its answer. What comes before it comes after it: a job may end before
// the answer to its cancel.
func (h *house) reply(request func(seq uint64) wire.Message) wire.Reply {
	h.t.Helper()
	h.seq++
	seq := h.seq
	if err := h.conn.Send(request(seq)); err != nil {
		h.t.Fatal(err)
	}
	var early []event
	for {
		e := h.next()
		if e.err != nil {
			h.t.Fatalf("the launcher hung up: %v", e.err)
		}
		if e.m.Reply != nil && e.m.Reply.Seq == seq {
			h.early = append(early, h.early...)
			return *e.m.Reply
		}
		early = append(early, e)
	}
}

func (h *house) start(handle uint64, job string, value []byte) *wire.Refusal {
	h.t.Helper()
	return h.reply(func(seq uint64) wire.Message {
		return wire.Message{Start: &wire.Start{Seq: seq, Handle: handle, Job: job, Value: value}}
	}).Refused
}

// accepted starts a scan that is not refused.
func (h *house) accepted(handle uint64, job, arguments string) {
	h.t.Helper()
	if r := h.start(handle, job, value(h.t, arguments)); r != nil {
		h.t.Fatalf("refused: %+v", r)
	}
}

// running starts a scan and waits until it runs; the files of the event are the caller's.
func (h *house) running(handle uint64, job, arguments string) event {
	h.t.Helper()
	h.accepted(handle, job, arguments)
	return h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.ID == job && m.Job.State == wire.Running })
}

func (h *house) cancel(handle uint64, job string) *wire.Refusal {
	h.t.Helper()
	return h.reply(func(seq uint64) wire.Message {
		return wire.Message{Cancel: &wire.Cancel{Seq: seq, Handle: handle, Job: job}}
	}).Refused
}

func (h *house) ask(handle uint64) wire.Reply {
	h.t.Helper()
	return h.reply(func(seq uint64) wire.Message { return wire.Message{Ask: &wire.Ask{Seq: seq, Handle: handle}} })
}

// endOf waits for the end of a job. That of another which comes before it is kept until it is asked for:
// of two jobs that end at once either may be told first.
func (h *house) endOf(job string) wire.Job {
	h.t.Helper()
	if end, is := h.ends[job]; is {
		delete(h.ends, job)
		return end
	}
	return *h.until(func(m wire.Message) bool {
		if m.Job == nil || m.Job.State != wire.Ended {
			return false
		}
		if m.Job.ID != job {
			if h.ends == nil {
				h.ends = map[string]wire.Job{}
			}
			h.ends[m.Job.ID] = *m.Job
		}
		return m.Job.ID == job
	}).m.Job
}

// value is a call as an honest front encodes it.
func value(t *testing.T, arguments string) []byte {
	t.Helper()
	call, faults := runners.BuiltIn().Read("nmap_scan", []byte(arguments))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	b, err := wire.Encode(&call, wire.MaxValue)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unixDial(h *house) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, h.cfg.Listener.Addr().(*net.UnixAddr))
}
