package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sys/unix"
)

// FrontUID is the user of the front. No user of that number has to exist.
const FrontUID = 65401

// Role is one of the two processes of the daemon.
type Role string

const (
	Front    Role = "serve"
	Launcher Role = "launcher"
)

// Daemon is secmcpd, started as systemd starts it: sockets first, then two roles of numeric
// ids, each in its surroundings.
type Daemon struct {
	Dir    string // everything of it: sockets, configuration, state
	Config string // path of secmcpd.yaml
	binary string
	cgroup string
	outer  string   // the group to remove: cgroup, or the one that it is in
	limits []string // layers that the cgroup of this machine cannot give

	mu       sync.Mutex
	sockets  map[Role][]socket
	starts   map[Role]int
	http     string
	roles    map[Role]*role
	restart  bool
	ending   bool
	mounted  []string // disks of their own
	breaks   string   // the one of them that can break
	watchdog time.Duration
	running  sync.WaitGroup
}

type role struct {
	cmd    *exec.Cmd
	log    *tailLog
	told   *notices
	exited chan struct{}
}

// Notice is what a role told the service manager (sd_notify), and when.
type Notice struct {
	At    time.Time
	State string
}

// notices keeps the last maxNotices of them.
type notices struct {
	mu  sync.Mutex
	all []Notice
}

const maxNotices = 1000

func (t *notices) add(state string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, Notice{time.Now(), state})
	t.all = t.all[max(len(t.all)-maxNotices, 0):]
}

// Notices is what a role told the service manager in its present life.
func (d *Daemon) Notices(r Role) []Notice {
	d.mu.Lock()
	one := d.roles[r]
	d.mu.Unlock()
	if one == nil {
		return nil
	}
	one.told.mu.Lock()
	defer one.told.mu.Unlock()
	return slices.Clone(one.told.all)
}

// Engagement is what the daemon's callers may do unless a test says otherwise.
const Engagement = `name: lab
description: Everything in the lab but one host.
callers: {users: [0, 65402]}
targets:
  - 10.77.0.0/16
  - fd77::/64
  - {name: .lab.internal, within: [10.77.0.0/16, fd77::/64]}
exclude: [10.77.0.13]
tools: {nmap_scan: {profiles: ["*"]}, masscan_scan: {profiles: ["*"]}}
intrusive: allow
`

// socket is one that systemd would hold.
type socket struct {
	name string
	file *os.File
}

// Options of Start. The zero value is a daemon with Engagement, restarting what dies.
type Options struct {
	Settings    string            // more of secmcpd.yaml
	Engagements map[string]string // by name; nil: Engagement as "lab"
	Runners     map[string]string // declared scanners, by name
	NoRestart   bool              // leave dead what dies
	AcceptNone  bool              // accept no missing layer
	NoRoles     bool              // start neither role: agents use Stdio
	// Translated leaves the mode of the slots' network at its default, in which the lab sees no address
	// of a slot; without it the mode is routed.
	Translated bool
	Table      bool   // the filter is nf_tables alone
	HTTP       string // where the front serves HTTP, as address and port (0: any that is free); "": nowhere
	Breaks     string // state, launcher or audit: it has a disk of its own that Break makes read-only
	StateMiB   int    // the front's state has a disk of its own of this size; 0: it has not
	AuditMiB   int    // the audit log likewise
	// Watchdog is told to both roles as systemd does (WatchdogSec=); the lab restarts nobody for it.
	Watchdog time.Duration
	// NoControllers is a machine whose cgroups have no controllers.
	NoControllers bool
}

// Start starts the daemon of a binary and waits until it is ready.
func Start(binary string, o Options) (_ *Daemon, err error) {
	d := &Daemon{sockets: map[Role][]socket{}, starts: map[Role]int{}, roles: map[Role]*role{}, restart: !o.NoRestart, watchdog: o.Watchdog}
	defer func() {
		if err != nil {
			logs := d.Log(Launcher) + d.Log(Front)
			err = errors.Join(fmt.Errorf("cannot start the daemon: %w\n%s", err, logs), d.Stop())
		}
	}()
	if d.Dir, err = os.MkdirTemp("", "secmcpd-lab"); err != nil {
		return nil, err
	}
	if err := os.Chmod(d.Dir, 0o755); err != nil {
		return nil, err
	}
	// A copy, since the front's user may not be let into the directory of the original.
	d.binary = filepath.Join(d.Dir, "secmcpd")
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(d.binary, program, 0o755); err != nil {
		return nil, err
	}
	if err := d.makeCgroup(o.NoControllers); err != nil {
		return nil, err
	}
	if err := d.configure(o); err != nil || o.NoRoles {
		return d, err
	}
	for _, s := range []struct {
		role                Role
		name, path, network string
		mode                os.FileMode
	}{
		{Launcher, "mcp", d.Socket(), "unix", 0o666}, {Launcher, "launcher-admin", d.LauncherAdminSocket(), "unixpacket", 0o600},
		{Launcher, "bell", filepath.Join(d.Dir, "bell.sock"), "unix", 0o666},
		{Front, "front", filepath.Join(d.Dir, "front.sock"), "unixpacket", 0o600}, {Front, "admin", d.AdminSocket(), "unix", 0o600},
	} {
		l, err := net.ListenUnix(s.network, &net.UnixAddr{Name: s.path, Net: s.network})
		if err != nil {
			return nil, err
		}
		l.SetUnlinkOnClose(false)
		f, err := l.File()
		if err := errors.Join(err, l.Close(), os.Chmod(s.path, s.mode)); err != nil {
			return nil, err
		}
		d.sockets[s.role] = append(d.sockets[s.role], socket{s.name, f})
	}
	if o.HTTP != "" {
		l, err := net.Listen("tcp", o.HTTP)
		if err != nil {
			return nil, err
		}
		f, err := l.(*net.TCPListener).File()
		d.http = l.Addr().String()
		if err := errors.Join(err, l.Close()); err != nil {
			return nil, err
		}
		d.sockets[Front] = append(d.sockets[Front], socket{"http", f})
	}
	for _, r := range []Role{Front, Launcher} {
		if err := d.start(r); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// HTTP is where MCP is spoken over HTTP, as address and port; "": it is not.
func (d *Daemon) HTTP() string { return d.http }

// Tokens is the file of tokens of HTTP.
func (d *Daemon) Tokens() string { return filepath.Join(d.Dir, "http-tokens") }

// Starts is how often a role has been started.
func (d *Daemon) Starts(r Role) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.starts[r]
}

// Socket is where agents connect.
func (d *Daemon) Socket() string { return filepath.Join(d.Dir, "mcp.sock") }

// AdminSocket and LauncherAdminSocket are where operators find the two rooms.
func (d *Daemon) AdminSocket() string         { return filepath.Join(d.Dir, "admin.sock") }
func (d *Daemon) LauncherAdminSocket() string { return filepath.Join(d.Dir, "launcher-admin.sock") }

// Accepts are the layers that this machine cannot enforce, as the configuration accepts them.
func (d *Daemon) Accepts() []string { return d.limits }

// StateDir, AuditDir and Engagements are where the daemon keeps them.
func (d *Daemon) StateDir() string    { return filepath.Join(d.Dir, "state") }
func (d *Daemon) AuditDir() string    { return filepath.Join(d.Dir, "audit") }
func (d *Daemon) Engagements() string { return filepath.Join(d.Dir, "engagements.d") }

func (d *Daemon) makeCgroup(bare bool) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if len(f) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		group := filepath.Join(f[4], "secmcpd-lab-"+filepath.Base(d.Dir))
		if err := os.Mkdir(group, 0o755); err != nil {
			return err
		}
		d.cgroup, d.outer = group, group
		if bare { // a group of which nobody enabled a controller for those below it
			group = filepath.Join(group, "bare")
			if err := os.Mkdir(group, 0o755); err != nil {
				return err
			}
			d.cgroup = group
		}
		controllers, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, c := range []string{"cpu", "io", "memory", "pids"} {
			if !slices.Contains(strings.Fields(string(controllers)), c) {
				d.limits = append(d.limits, "cgroup-"+c)
			}
		}
		return nil
	}
	return errors.New("cgroup v2 is not mounted")
}

func (d *Daemon) configure(o Options) error {
	for name, owner := range map[string]int{"state": FrontUID, "launcher": 0, "audit": 0, "engagements.d": 0, "runners.d": 0} {
		path := filepath.Join(d.Dir, name)
		if err := errors.Join(os.Mkdir(path, 0o755), os.Chown(path, owner, owner)); err != nil {
			return err
		}
	}
	for _, disk := range []struct {
		dir       string
		mib, user int
	}{{d.StateDir(), o.StateMiB, FrontUID}, {d.AuditDir(), o.AuditMiB, 0}} {
		if disk.mib == 0 {
			continue
		}
		if err := unix.Mount("tmpfs", disk.dir, "tmpfs", 0, fmt.Sprintf("size=%dm,uid=%d,mode=755", disk.mib, disk.user)); err != nil {
			return fmt.Errorf("cannot give %s a disk: %w", disk.dir, err)
		}
		d.mounted = append(d.mounted, disk.dir)
	}
	if o.Breaks != "" {
		if err := d.brittle(o.Breaks, map[string]int{"state": FrontUID}[o.Breaks]); err != nil {
			return err
		}
	}
	if o.Engagements == nil {
		o.Engagements = map[string]string{"lab": Engagement}
	}
	for name, text := range o.Runners {
		if err := os.WriteFile(filepath.Join(d.Dir, "runners.d", name+".yaml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, text := range o.Engagements {
		if err := os.WriteFile(filepath.Join(d.Engagements(), name+".yaml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	accept := strings.Join(d.limits, ", ")
	if o.AcceptNone {
		accept = ""
	}
	if !strings.Contains(o.Settings, "shutdown:") {
		o.Settings += "shutdown: {grace: 0s}\n" // a test that ends need not wait for its scans
	}
	var slots []string
	if !o.Translated {
		slots = append(slots, "mode: routed")
	}
	if o.Table {
		slots = append(slots, "filter: nftables")
	}
	o.Settings += "slots: {" + strings.Join(slots, ", ") + "}\n"
	d.Config = filepath.Join(d.Dir, "secmcpd.yaml")
	return os.WriteFile(d.Config, fmt.Appendf(nil, "front_user: %q\nfront_socket: %s/front.sock\nbell_socket: %s/bell.sock\nhttp: {tokens: %s/http-tokens}\nadmin_socket: %s/admin.sock\nlauncher_admin_socket: %s/launcher-admin.sock\nstate_dir: %s/state\nlauncher_state_dir: %s/launcher\n"+
		"audit_dir: %s/audit\nengagements_dir: %s/engagements.d\nrunners_dir: %s/runners.d\nresolvers: [%s]\naccept_unenforced: [%s]\n%s",
		strconv.Itoa(FrontUID), d.Dir, d.Dir, d.Dir, d.Dir, d.Dir, d.Dir, d.Dir, d.Dir, d.Dir, d.Dir, DNS, accept, o.Settings), 0o644)
}

// start starts a role and waits until it says READY=1.
func (d *Daemon) start(r Role) error {
	notify, path, err := notifySocket(d.Dir)
	if err != nil {
		return err
	}
	listening := false
	defer func() {
		if !listening {
			notify.Close()
		}
	}()
	// The shell is there for LISTEN_PID alone, which must be the pid of what it executes.
	argv := []string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}
	attr := &syscall.SysProcAttr{Setpgid: true}
	if r == Front {
		id := strconv.Itoa(FrontUID)
		argv = append(argv, "setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
		attr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC
	} else {
		group, err := os.Open(d.cgroup)
		if err != nil {
			return err
		}
		defer group.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(group.Fd())
		// A second start finds the launcher's own leaf: systemd puts it there, too.
		if leaf, err := os.Open(filepath.Join(d.cgroup, "supervisor")); err == nil {
			defer leaf.Close()
			attr.CgroupFD = int(leaf.Fd())
		}
	}
	argv = append(argv, d.binary, string(r), "--config", d.Config)
	one := &role{cmd: exec.Command(argv[0], argv[1:]...), log: &tailLog{}, told: &notices{}, exited: make(chan struct{})}
	d.mu.Lock()
	if before := d.roles[r]; before != nil {
		one.log = before.log
	}
	d.mu.Unlock()
	var names []string
	for _, s := range d.sockets[r] {
		names = append(names, s.name)
		one.cmd.ExtraFiles = append(one.cmd.ExtraFiles, s.file)
	}
	one.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LISTEN_FDS=" + strconv.Itoa(len(names)), "LISTEN_FDNAMES=" + strings.Join(names, ":"), "NOTIFY_SOCKET=" + path}
	if d.watchdog > 0 {
		one.cmd.Env = append(one.cmd.Env, fmt.Sprintf("WATCHDOG_USEC=%d", d.watchdog.Microseconds()))
	}
	one.cmd.Dir, one.cmd.Stderr, one.cmd.SysProcAttr = "/", one.log, attr
	if err := one.cmd.Start(); err != nil {
		return err
	}
	d.mu.Lock()
	d.roles[r] = one
	d.starts[r]++
	ending := d.ending
	d.mu.Unlock()
	listening = true
	ready := make(chan struct{})
	d.running.Go(func() { one.listen(notify, ready) })
	d.running.Go(func() { d.mind(r, one) })
	if ending { // Stop may have looked before there was something to end
		_ = one.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	return awaitReady(ready, r, one)
}

// mind waits for the end of a role, and starts it again: a front that has ended well when somebody connects
// to one of its sockets, whatever else has ended at once, as Restart= does.
func (d *Daemon) mind(r Role, one *role) {
	_ = one.cmd.Wait() // how it ended is told by its log
	fmt.Fprintf(one.log, "lab: %s ended: %s\n", r, one.cmd.ProcessState)
	close(one.exited)
	// systemd would now kill what is left in the cgroup (KillMode=mixed). The lab does not: the
	// boxes of a launcher that died have to be gone without anybody's help.
	switch {
	case r == Front && one.cmd.ProcessState.Success():
		d.awaitConnection(r)
	case d.again():
		time.Sleep(100 * time.Millisecond) // RestartSec=
	}
	if d.again() {
		if err := d.start(r); err != nil {
			fmt.Fprintln(one.log, "cannot start again:", err)
		}
	}
}

// awaitConnection waits until somebody connects to a socket of a role that is not there, or the daemon ends.
func (d *Daemon) awaitConnection(r Role) {
	for d.again() {
		var polled []unix.PollFd
		for _, s := range d.sockets[r] {
			raw, err := s.file.SyscallConn()
			if err == nil {
				err = raw.Control(func(fd uintptr) { polled = append(polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}) })
			}
			if err != nil {
				return
			}
		}
		if n, err := unix.Poll(polled, 100); err == nil && n > 0 {
			return
		}
	}
}

// again tells whether what dies is to be started once more.
func (d *Daemon) again() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.restart && !d.ending
}

func notifySocket(dir string) (*net.UnixConn, string, error) {
	path := filepath.Join(dir, fmt.Sprintf("notify%d", time.Now().UnixNano()))
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, "", err
	}
	return c, path, os.Chmod(path, 0o666)
}

const startTimeout = 20 * time.Second

// listen keeps what a role tells until it has ended.
func (one *role) listen(c *net.UnixConn, ready chan<- struct{}) {
	defer c.Close()
	go func() {
		<-one.exited
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // fails once closed
	}()
	b := make([]byte, 4096)
	for said := false; ; {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		one.told.add(string(b[:n]))
		if !said && bytes.Contains(b[:n], []byte("READY=1")) {
			said = true
			close(ready)
		}
	}
}

func awaitReady(ready <-chan struct{}, r Role, one *role) error {
	select {
	case <-ready:
		return nil
	case <-one.exited:
		return fmt.Errorf("%s ended at its start: %s", r, one.log)
	case <-time.After(startTimeout):
		return fmt.Errorf("%s is not ready after %s: %s", r, startTimeout, one.log)
	}
}

// Pid is the process of a role.
func (d *Daemon) Pid(r Role) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.roles[r] == nil {
		return 0
	}
	return d.roles[r].cmd.Process.Pid
}

// Kill9 kills a role and waits until it is gone.
func (d *Daemon) Kill9(r Role) error {
	d.mu.Lock()
	one := d.roles[r]
	d.mu.Unlock()
	if err := one.cmd.Process.Kill(); err != nil {
		return err
	}
	<-one.exited
	return nil
}

// Log is the end of what a role wrote to standard error, in all its lives.
func (d *Daemon) Log(r Role) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.roles[r] == nil {
		return ""
	}
	return d.roles[r].log.String()
}

// Boxes are the processes in the boxes' cgroups.
func (d *Daemon) Boxes() (pids []string, err error) {
	groups, err := filepath.Glob(filepath.Join(d.cgroup, "boxes", "box-*"))
	ofStdio, err2 := filepath.Glob(filepath.Join(d.cgroup, "stdio", "boxes", "box-*"))
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	for _, g := range append(groups, ofStdio...) {
		b, err := os.ReadFile(filepath.Join(g, "cgroup.procs"))
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
		pids = append(pids, strings.Fields(string(b))...)
	}
	return pids, err
}

// Cgroups is how many cgroups there are below the daemon's.
func (d *Daemon) Cgroups() (n int, err error) {
	err = filepath.WalkDir(d.cgroup, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			n++
		}
		if errors.Is(err, fs.ErrNotExist) { // it has gone meanwhile
			return nil
		}
		return err
	})
	return n, err
}

// Stop ends the daemon as systemctl stop does, and removes what was made for it. What is left
// of it is an error.
func (d *Daemon) Stop() error {
	d.mu.Lock()
	d.ending = true
	roles := maps.Clone(d.roles)
	d.mu.Unlock()
	var errs []error
	for _, r := range []Role{Launcher, Front} {
		one := roles[r]
		if one == nil {
			continue
		}
		_ = one.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-one.exited:
		case <-time.After(20 * time.Second):
			errs = append(errs, fmt.Errorf("%s did not end: %s", r, one.log), one.cmd.Process.Kill())
			<-one.exited
		}
	}
	d.running.Wait()
	for _, of := range d.sockets {
		for _, s := range of {
			errs = append(errs, s.file.Close())
		}
	}
	if d.outer != "" {
		errs = append(errs, removeCgroup(d.outer))
	}
	for _, dir := range d.mounted {
		errs = append(errs, unix.Unmount(dir, unix.MNT_DETACH))
	}
	if d.Dir != "" {
		errs = append(errs, os.RemoveAll(d.Dir))
	}
	return errors.Join(errs...)
}

// removeCgroup fails when a process is left in it.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	// The last process may still be on its way out.
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// Client connects an agent through `secmcpd connect`, as a user. Close the session to end it.
func (d *Daemon) Client(ctx context.Context, uid uint32, onProgress func(*mcp.ProgressNotificationParams)) (*mcp.ClientSession, error) {
	cmd := exec.Command(d.binary, "connect", "--socket", d.Socket())
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	options := &mcp.ClientOptions{}
	if onProgress != nil {
		options.ProgressNotificationHandler = func(_ context.Context, r *mcp.ProgressNotificationClientRequest) { onProgress(r.Params) }
	}
	return mcp.NewClient(&mcp.Implementation{Name: "lab", Version: "1"}, options).Connect(ctx, &mcp.CommandTransport{Command: cmd}, nil)
}

// Stdio runs `secmcpd stdio` for one agent, as root in a cgroup of its own, as `systemd-run --pipe
// -p Delegate=yes` would. The process is the session's; closing the session ends it.
func (d *Daemon) Stdio(ctx context.Context) (*mcp.ClientSession, *os.Process, error) {
	group := filepath.Join(d.cgroup, "stdio")
	if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, nil, err
	}
	fd, err := os.Open(group)
	if err != nil {
		return nil, nil, err
	}
	defer fd.Close()
	cmd := exec.Command(d.binary, "stdio", "--config", d.Config)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())}
	s, err := mcp.NewClient(&mcp.Implementation{Name: "lab", Version: "1"}, nil).Connect(ctx, &mcp.CommandTransport{Command: cmd}, nil)
	return s, cmd.Process, err
}

// tailLog keeps the last 64 KiB.
type tailLog struct {
	mu sync.Mutex
	b  []byte
}

func (t *tailLog) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if over := len(t.b) - 64<<10; over > 0 {
		t.b = slices.Delete(t.b, 0, over)
	}
	return len(b), nil
}

func (t *tailLog) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
