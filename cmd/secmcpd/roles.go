package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/front"
	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// serveCommand is the front: the room that faces agents.
func serveCommand(s *surroundings) *cobra.Command {
	var own bool
	var addresses []string
	c := &cobra.Command{
		Use: "serve", Short: "run the front (systemd starts it)", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			settings.tellClamped(settings.logger(s.stderr))
			settings.tellDeclared(settings.logger(s.stderr))
			if len(addresses) > 0 && !own {
				return usage(c, errors.New("--http takes --listen: with systemd the socket is secmcpd-http.socket's"))
			}
			take := func() (map[string]*net.UnixListener, []front.Listener, error) { return activated("front") }
			if own {
				take = func() (map[string]*net.UnixListener, []front.Listener, error) { return settings.listenFront(addresses) }
			}
			sockets, overHTTP, err := take()
			if err != nil {
				return err
			}
			collectSeldom(c.Context())
			cfg := settings.front(s, sockets["front"], nil)
			if own {
				defer shut(sockets, overHTTP)
				cfg.IdleExit = 0 // its sockets would be gone, and nobody would start it for whoever comes
			}
			cfg.Admin, cfg.HTTP = sockets["admin"], overHTTP
			cfg.Replaced = replaced()
			again := rereading(s.config, settings)
			cfg.Reload, cfg.Hangup = func() (front.Next, error) { return again.front(false) }, hangups()
			return front.Serve(c.Context(), cfg)
		},
	}
	c.Flags().BoolVar(&own, "listen", false, "make the sockets, where there is no systemd to do it")
	c.Flags().StringArrayVar(&addresses, "http", nil, "with --listen: answer over HTTP at this ADDRESS:PORT; may be given again")
	return c
}

// launcherCommand is the privileged room.
func launcherCommand(s *surroundings) *cobra.Command {
	var clean, own bool
	c := &cobra.Command{
		Use: "launcher", Short: "run the launcher (systemd starts it)", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := loadSettings(s.config)
			switch {
			case clean && err == nil:
				return scope.Reclaim(settings.Slots.IPv4, settings.Slots.IPv6)
			case clean: // the settings may be why it ended; what their slots' addresses were is not known then
				return scope.Reclaim()
			case err != nil:
				return err
			}
			settings.tellClamped(settings.logger(s.stderr))
			settings.tellDeclared(settings.logger(s.stderr))
			cfg, err := settings.launcher()
			if err != nil {
				return err
			}
			take := settings.listenLauncher
			if !own {
				take = func() (map[string]*net.UnixListener, error) { named, _, err := activated("mcp"); return named, err }
			}
			sockets, err := take()
			if err != nil {
				return err
			}
			if own {
				defer shut(sockets, nil)
			}
			cfg.Listener, cfg.Operators, cfg.Bell = sockets["mcp"], sockets["launcher-admin"], sockets["bell"]
			if err := undumpable(); err != nil {
				return err
			}
			cfg.Hurry, cfg.Replaced = secondSignal(), replaced()
			cfg.Log, cfg.Notify = settings.logger(s.stderr), notify
			cfg.Reload, cfg.Hangup = rereading(s.config, settings).launcher, hangups()
			return launcher.Serve(c.Context(), cfg)
		},
	}
	c.Flags().BoolVar(&own, "listen", false, "make the sockets, where there is no systemd to do it")
	c.Flags().BoolVar(&clean, "clean", false, "remove the network of a launcher that is dead, and end")
	_ = c.Flags().MarkHidden("clean") // fails for an unknown flag only
	return c
}

// activated takes the sockets that systemd has for this role, by their names. One it cannot do without.
// Those for HTTP may be several, and of any kind.
func activated(needed string) (sockets map[string]*net.UnixListener, overHTTP []front.Listener, err error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot take sockets: %w", err)
	}
	sockets = map[string]*net.UnixListener{}
	for name, listeners := range named {
		for _, l := range listeners {
			if u, ok := l.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false) // the path is systemd's
				sockets[name] = u
			}
			if one, ok := l.(front.Listener); ok && name == "http" {
				overHTTP = append(overHTTP, one)
			}
		}
	}
	if sockets[needed] == nil {
		return nil, nil, fmt.Errorf("cannot start by hand: no socket named %q was passed (LISTEN_FDS); systemd starts this role, --listen makes its sockets, `secmcpd stdio` needs neither", needed)
	}
	return sockets, overHTTP, nil
}

// undumpable keeps other processes of the same user from reading this one's memory.
func undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become undumpable: %w", err)
	}
	return nil
}

// stdioCommand is the daemon without a daemon: it starts as the launcher and forks the front,
// for one caller, whose standard input and output carry MCP.
func stdioCommand(s *surroundings) *cobra.Command {
	var linkFD int
	var drop bool
	c := &cobra.Command{
		Use: "stdio", Short: "serve one agent on standard input and output, without the daemon", Args: noArgs,
		Long: `Serve one agent on standard input and output, without the daemon.

As root this is the whole of secmcpd: the front runs as its own user without capability or network,
and each scan is boxed as the daemon does it. The caller is the real user who started it.

Without root there is no wall between the rooms, no audit log that its user could not write, and
no box with a network of its own. Everything is refused then, unless accept_unenforced in the
configuration names each layer that is missing; every result says so.`,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			if drop {
				uid, gid, err := settings.frontIDs()
				if err != nil {
					return err
				}
				return dropAndExec(uid, gid, append([]string{"secmcpd", "stdio", "--front", strconv.Itoa(linkFD)}, s.config.again()...), s.config.own())
			}
			if linkFD != 0 {
				return stdioFront(c.Context(), s, settings, linkFD)
			}
			return stdioLauncher(c.Context(), s, settings)
		},
	}
	c.Flags().IntVar(&linkFD, "front", 0, "be the front, with the link in this descriptor")
	c.Flags().BoolVar(&drop, "drop", false, "become the front's user first")
	for _, own := range []string{"front", "drop"} {
		_ = c.Flags().MarkHidden(own) // fails for an unknown flag only
	}
	return c
}

func stdioLauncher(ctx context.Context, s *surroundings, settings settings) error {
	settings.tellClamped(settings.logger(s.stderr))
	settings.tellDeclared(settings.logger(s.stderr))
	cfg, err := settings.launcher()
	if err != nil {
		return err
	}
	if err := undumpable(); err != nil {
		return err
	}
	link, child, err := startFront(s, settings)
	if err != nil {
		return err
	}
	cfg.Log, cfg.Notify = settings.logger(s.stderr), func(string) {}
	cfg.Health, cfg.Watchdog = health.Settings{}, 0 // nobody asks
	cfg.Reload, cfg.Hangup = rereading(s.config, settings).launcher, hangups()
	cfg.Front = link
	if cfg.Stdio, err = stdioCaller(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		cfg.FrontUID = ^uint32(0) // nobody: there is no front's user
		cfg.Gaps = []wire.Gap{{Layer: wire.Wall, Why: "secmcpd stdio runs without root",
			Follows: "what parses scanners' output runs as the same user as what starts them, and that user can rewrite the audit log"}}
	}
	err = launcher.Serve(ctx, cfg)
	// The front ends by itself when the link does; it is given a moment, then killed.
	exited := make(chan error, 1)
	go func() { exited <- child.Wait() }()
	select {
	case <-exited:
	case <-time.After(5 * time.Second):
		err = errors.Join(err, child.Process.Kill())
		<-exited
	}
	return err
}

// stdioCaller is who started this program: real uid and groups, before anything is dropped.
func stdioCaller() (*launcher.Stdio, error) {
	groups, err := os.Getgroups()
	if err != nil {
		return nil, fmt.Errorf("cannot tell the caller's groups: %w", err)
	}
	caller := wire.Client{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), PID: int32(os.Getppid())}
	for _, g := range groups {
		caller.Groups = append(caller.Groups, uint32(g))
	}
	return &launcher.Stdio{In: os.Stdin, Out: os.Stdout, Caller: caller}, nil
}

// startFront forks the front at the other end of a socket pair. With root it gets its own user,
// no group, no capability and a network namespace with nothing in it.
func startFront(s *surroundings, settings settings) (*net.UnixConn, *exec.Cmd, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot start the front: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link")
	defer ours.Close()
	defer theirs.Close()
	from := s.config
	if from.file, err = filepath.Abs(from.file); err != nil { // the front has another working directory
		return nil, nil, fmt.Errorf("cannot start the front: %w", err)
	}
	child := exec.Command("/proc/self/exe", append([]string{"stdio", "--front", "3"}, from.again()...)...)
	child.Args[0] = "secmcpd"
	if os.Geteuid() == 0 {
		child.Args = append(child.Args, "--drop")
	}
	child.Env = from.own() // nothing else of the caller's environment
	child.Dir = "/"
	child.Stderr = os.Stderr
	child.ExtraFiles = []*os.File{theirs}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		uid, gid, err := settings.frontIDs()
		if err != nil {
			return nil, nil, err
		}
		if err := os.MkdirAll(settings.StateDir, 0o750); err != nil {
			return nil, nil, fmt.Errorf("cannot start the front: %w", err)
		}
		if err := os.Chown(settings.StateDir, int(uid), int(gid)); err != nil {
			return nil, nil, fmt.Errorf("cannot start the front: %w", err)
		}
		child.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC
	}
	if err := child.Start(); err != nil {
		return nil, nil, fmt.Errorf("cannot start the front: %w", err)
	}
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot start the front: %w", err), child.Process.Kill(), child.Wait())
	}
	return conn.(*net.UnixConn), child, nil
}

// stdioFront is the forked half.
func stdioFront(ctx context.Context, s *surroundings, settings settings, fd int) error {
	f := os.NewFile(uintptr(fd), "link")
	if f == nil {
		return errors.New("cannot serve: no link from descriptor " + strconv.Itoa(fd))
	}
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("cannot serve: %w", err)
	}
	link, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("cannot serve: the link is no Unix socket")
	}
	collectSeldom(ctx)
	cfg := settings.front(s, nil, link)
	again := rereading(s.config, settings)
	cfg.Reload = func() (front.Next, error) { return again.front(true) }
	return front.Serve(ctx, cfg)
}

// collectSeldom lets the front's heap grow further before it is collected than Go does by itself: a
// call leaves 90 KiB of the SDK's buffers behind, of which nothing stays. It is collected as often as it takes
// to stay small, and where results are at work that are large themselves, from half of the unit's
// MemoryMax on. GOGC and GOMEMLIMIT say otherwise.
func collectSeldom(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	limit := func() {
		metrics.Read(live)
		if live[0].Value.Uint64() > smallHeap/2 {
			debug.SetMemoryLimit(largeHeap)
		} else {
			debug.SetMemoryLimit(smallHeap)
		}
	}
	limit()
	go func() {
		for tick := time.NewTicker(time.Second); ctx.Err() == nil; {
			select {
			case <-ctx.Done():
			case <-tick.C:
				limit()
			}
		}
	}()
}

const (
	smallHeap = 40 << 20 // beside it, 22 MiB are the program
	largeHeap = 256 << 20
)
