package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"
)

const (
	supervisor = "supervisor"
	together   = "boxes" // holds all of them, to the limits that they share
	leafPrefix = "box-"
	// emptyTimeout is how long a killed cgroup may take to become empty. A
	// process can hang in the kernel; we must not hang with it.
	emptyTimeout = 5 * time.Second
)

// delegated finds the cgroup that is ours to divide. A service manager that
// knows DelegateSubgroup= has put us into its leaf already; systemd before 254
// leaves us in the directory itself.
func delegated() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("cannot find cgroups: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("cannot find own cgroup: %w", err)
	}
	dir, err := ownCgroup(string(mounts), string(own))
	if err != nil {
		return "", err
	}
	if filepath.Base(dir) == supervisor {
		dir = filepath.Dir(dir)
	}
	// Only a cgroup that is not the root of all has a type.
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err != nil {
		return "", fmt.Errorf("no cgroup was delegated to secmcpd (it is in %s)", dir)
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil && !handedOver(dir) {
		return "", fmt.Errorf("systemd did not delegate cgroup %s to secmcpd", dir)
	}
	return dir, nil
}

// handedOver reports systemd's mark on a cgroup that it leaves to its service.
// What is not marked is systemd's to change, a login session for instance.
func handedOver(dir string) bool {
	for _, mark := range []string{"trusted.delegate", "user.delegate"} {
		value := make([]byte, 8)
		if n, err := unix.Getxattr(dir, mark, value); err == nil && string(value[:n]) == "1" {
			return true
		}
	}
	return false
}

// ownCgroup reads the kernel's tables: where the unified hierarchy is mounted
// and which directory of it is ours.
func ownCgroup(mounts, own string) (string, error) {
	var path string
	for line := range strings.Lines(own) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = rest
		}
	}
	if !strings.HasPrefix(path, "/") {
		return "", errors.New("the kernel names no cgroup of the unified hierarchy for secmcpd")
	}
	if strings.HasPrefix(path, "/..") {
		return "", fmt.Errorf("secmcpd's cgroup %s lies outside what it can see", path)
	}
	for line := range strings.Lines(mounts) {
		front, back, _ := strings.Cut(line, " - ")
		fields := strings.Fields(front)
		if len(fields) < 5 || !strings.HasPrefix(back, "cgroup2 ") {
			continue
		}
		inside, err := filepath.Rel(fields[3], path)
		if err != nil || strings.HasPrefix(inside, "..") {
			continue // this mount shows another part of the hierarchy
		}
		return filepath.Join(fields[4], inside), nil
	}
	return "", errors.New("cgroup2 is not mounted")
}

func controllers(dir, file string) []string {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

func wanted(all []string) []string {
	return slices.DeleteFunc(all, func(c string) bool {
		return !slices.Contains([]string{"cpu", "io", "memory", "pids"}, c)
	})
}

// divide moves this process into a leaf of its own (a cgroup with processes
// cannot give controllers to its children), makes the cgroup of all boxes beside
// it, and turns on what there is. It returns the controllers that boxes will
// have. To keep is to leave the limits of all boxes together as somebody else has set them.
func divide(dir string, available []string, total Total, keep bool) ([]string, error) {
	own, boxes := filepath.Join(dir, supervisor), filepath.Join(dir, together)
	set := true
	for _, d := range []string{own, boxes} {
		err := os.Mkdir(d, 0o755)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("cannot create own cgroup: %w", err)
		}
		set = !keep || err == nil
	}
	if err := writeControl(own, "cgroup.procs", "0"); err != nil {
		return nil, fmt.Errorf("cannot move into own cgroup: %w", err)
	}
	for _, c := range available {
		// One by one: a controller that cannot be had takes no other with it.
		// What was refused is missing from the list below, and becomes a gap.
		_ = writeControl(dir, "cgroup.subtree_control", "+"+c)
		_ = writeControl(boxes, "cgroup.subtree_control", "+"+c)
	}
	enabled := wanted(controllers(boxes, "cgroup.subtree_control"))
	if !set {
		return enabled, nil
	}
	for _, c := range total.controls(enabled) {
		if err := c.write(boxes); err != nil {
			return nil, fmt.Errorf("cannot limit all boxes together: %w", err)
		}
	}
	return enabled, nil
}

// Delegated says what of the cgroup that was handed over at the start is no longer there: somebody else
// took a controller away, or the directory.
func (s *Sandbox) Delegated() error {
	f := s.features
	if f.Cgroup == "" {
		return nil // a gap since the start
	}
	boxes := filepath.Join(f.Cgroup, together)
	if _, err := os.Stat(boxes); err != nil {
		return fmt.Errorf("the cgroup of the boxes is gone: %w", err)
	}
	now := controllers(boxes, "cgroup.subtree_control")
	for _, c := range f.Controllers {
		if !slices.Contains(now, c) {
			return fmt.Errorf("the controller %s is no longer there for boxes in %s", c, boxes)
		}
	}
	return nil
}

// Total limits all boxes of a Sandbox together; 0 is no limit beside those of
// each. A box that runs into it is told like one that ran into its own.
type Total struct {
	Memory     int64 // bytes
	Pids       int
	CPUPercent int   // of one processor
	IO         int64 // bytes a second from each disk, and as many to it
}

func (t Total) controls(enabled []string) (list []control) {
	orMax := func(n int64) string {
		if n == 0 {
			return "max" // also to take back what a predecessor wrote
		}
		return strconv.FormatInt(n, 10)
	}
	if slices.Contains(enabled, "memory") {
		list = append(list, control{"memory.max", orMax(t.Memory), false}, control{"memory.swap.max", "0", true})
	}
	if slices.Contains(enabled, "pids") {
		list = append(list, control{"pids.max", orMax(int64(t.Pids)), false})
	}
	if slices.Contains(enabled, "cpu") {
		list = append(list, control{"cpu.max", orMax(int64(t.CPUPercent)*1000) + " 100000", false})
	}
	return list
}

// Change replaces what was accepted and the limits of all boxes together, also for boxes that run. On an
// error all is as it was.
func (s *Sandbox) Change(accept []string, total Total) error {
	if err := known(accept); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.limitLocked(s.total, total); err != nil {
		return errors.Join(fmt.Errorf("cannot limit all boxes together: %w", err), s.limitLocked(total, s.total))
	}
	s.accept, s.total = slices.Clone(accept), total
	return nil
}

// limitLocked writes the limits of all boxes together, as far as they differ.
func (s *Sandbox) limitLocked(before, total Total) error {
	if s.features.Cgroup == "" || total == before {
		return nil
	}
	boxes := filepath.Join(s.features.Cgroup, together)
	for _, c := range total.controls(s.features.Controllers) {
		if err := c.write(boxes); err != nil {
			return err
		}
	}
	for _, d := range s.devices {
		if d.name == "" || total.IO == before.IO {
			continue
		}
		text := d.name + " rbps=max wbps=max"
		if total.IO > 0 {
			text = share(d.name, total.IO)
		}
		if err := writeControl(boxes, "io.max", text); err != nil {
			return err
		}
	}
	return nil
}

// writeControl and readControl make three system calls; an os.File makes twice as
// many, since it asks to be told when such a file changes.
func writeControl(dir, file, value string) error {
	fd, err := openControl(dir, file, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write", Path: file, Err: err}
	}
	return nil
}

// readControl reads at most a page, which holds every file that has no line for
// each device.
func readControl(dir, file string) (string, error) {
	fd, err := openControl(dir, file, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var text [4096]byte
	n, err := unix.Read(fd, text[:])
	if err != nil {
		return "", &os.PathError{Op: "read", Path: file, Err: err}
	}
	return string(text[:n]), nil
}

func openControl(dir, file string, mode int) (int, error) {
	fd, err := unix.Open(filepath.Join(dir, file), mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: file, Err: err}
	}
	return fd, nil
}

// leaf is the cgroup of one box. It is made for it and never used again: since
// Linux 6.18 a cgroup that was killed once kills whatever is cloned into it.
type leaf struct {
	dir     string
	manager *cgroup2.Manager // for what the kernel counted
	fd      *os.File         // the directory, to clone into; nil in one that is only reclaimed
}

// newLeaf makes the cgroup and writes its limits, before there is a process. The
// library's own way takes four times as long.
func newLeaf(parent string, spec Spec, devices []string) (_ *leaf, err error) {
	name := leafPrefix + spec.Job
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot create cgroup: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(dir)
		}
	}()
	for _, c := range controls(spec, devices) {
		if err := c.write(dir); err != nil {
			return nil, fmt.Errorf("cannot limit cgroup: %w", err)
		}
	}
	manager, err := cgroup2.Load("/"+name, cgroup2.WithMountpoint(parent))
	if err != nil {
		return nil, fmt.Errorf("cannot watch cgroup: %w", err)
	}
	fd, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open cgroup: %w", err)
	}
	return &leaf{dir: dir, manager: manager, fd: fd}, nil
}

type control struct {
	file, value string
	optional    bool // not every kernel has it, and one that has not needs it not
}

func (c control) write(dir string) error {
	err := writeControl(dir, c.file, c.value)
	if c.optional && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func controls(spec Spec, devices []string) (list []control) {
	l := spec.Limits
	if spec.Has(CgroupMemory) {
		list = append(list, control{"memory.max", strconv.FormatInt(l.Memory, 10), false}, control{"memory.oom.group", "1", false},
			control{"memory.swap.max", "0", true})
	}
	if spec.Has(CgroupPids) {
		list = append(list, control{"pids.max", strconv.Itoa(l.Pids), false})
	}
	if spec.Has(CgroupCPU) && l.CPUPercent > 0 {
		list = append(list, control{"cpu.max", fmt.Sprintf("%d 100000", l.CPUPercent*1000), false})
	}
	if spec.Has(CgroupIO) && l.IO > 0 {
		for _, device := range devices {
			list = append(list, control{"io.max", share(device, l.IO), false})
		}
	}
	return list
}

// disks are the devices behind what a box reads and writes. unknown: some of it lies where no device
// can be found, and no limit holds.
func (s *Sandbox) disks(spec Spec, files Files) (found []string, unknown bool, err error) {
	s.mu.Lock()
	bounded := spec.Limits.IO > 0 || s.total.IO > 0
	s.mu.Unlock()
	if !spec.Has(CgroupIO) || !bounded {
		return nil, false, nil
	}
	for _, f := range []*os.File{files.Stdout, files.Stderr, spec.Exe} {
		if f == nil {
			continue
		}
		d, err := s.disk(f)
		if err != nil {
			return nil, false, err
		}
		if d.name != "" && !slices.Contains(found, d.name) {
			found = append(found, d.name)
		}
		unknown = unknown || d.unknown
	}
	return found, unknown, nil
}

// disk is a device as io.max names it: a whole disk, not its partition; "" where there is none.
type disk struct {
	name    string
	unknown bool // there is one, or may be
}

// disk looks up once what the number of a file system stands for, and sets the limit of all boxes
// together on it then, before the first of them uses it.
func (s *Sandbox) disk(f *os.File) (d disk, err error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return disk{unknown: true}, nil // whatever is wrong with the file is found out by its user
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d, known := s.devices[stat.Dev]
	if known {
		return d, nil
	}
	d.name = lookUpDisk(stat.Dev)
	if d.name == "" && !diskless(f) {
		d.name = lookUpDisk(sourceOf(f))
		d.unknown = d.name == ""
	}
	if d.name != "" && s.total.IO > 0 {
		if err := writeControl(filepath.Join(s.features.Cgroup, together), "io.max", share(d.name, s.total.IO)); err != nil {
			return disk{}, fmt.Errorf("cannot limit all boxes together: %w", err)
		}
	}
	s.devices[stat.Dev] = d
	return d, nil
}

// diskless are file systems in memory and over a network: no disk of this machine is kept busy by them.
func diskless(f *os.File) bool {
	var stat unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &stat) == nil &&
		slices.Contains([]int64{unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.NFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC}, int64(stat.Type))
}

// sourceOf is the device that a file's mount names, for a file system whose files have a number of no
// device, as those of btrfs have; 0: it names none, as an overlay does.
func sourceOf(f *os.File) uint64 {
	var stat unix.Statx_t
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stat) != nil || stat.Mask&unix.STATX_MNT_ID == 0 {
		return 0
	}
	var device unix.Stat_t
	if source := mountSource(string(mounts), stat.Mnt_id); !filepath.IsAbs(source) || unix.Stat(source, &device) != nil || device.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0
	}
	return device.Rdev
}

func mountSource(mounts string, id uint64) string {
	for line := range strings.Lines(mounts) {
		front, back, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(back); strings.HasPrefix(front, strconv.FormatUint(id, 10)+" ") && len(fields) > 1 {
			return fields[1]
		}
	}
	return ""
}

// share is a line of io.max.
func share(device string, bytes int64) string {
	return fmt.Sprintf("%s rbps=%d wbps=%d", device, bytes, bytes)
}

func lookUpDisk(number uint64) string {
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(number), unix.Minor(number)))
	if err != nil {
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	name, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

func (l *leaf) kill() error { return writeControl(l.dir, "cgroup.kill", "1") }

// empty says that no process is in it.
func (l *leaf) empty() (bool, error) {
	text, err := readControl(l.dir, "cgroup.events")
	return strings.Contains(text, "populated 0"), err
}

// waitEmpty returns when no process is left, or after emptyTimeout.
func (l *leaf) waitEmpty() error {
	events, err := openControl(l.dir, "cgroup.events", unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("cannot watch cgroup: %w", err)
	}
	defer unix.Close(events)
	deadline := time.Now().Add(emptyTimeout)
	var text [4096]byte
	for {
		n, err := unix.Pread(events, text[:], 0)
		if err != nil {
			return fmt.Errorf("cannot read cgroup.events: %w", err)
		}
		if strings.Contains(string(text[:n]), "populated 0") {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("cannot empty cgroup %s within %s", filepath.Base(l.dir), emptyTimeout)
		}
		// A change of the file is an exceptional condition; the bound is for a change missed in between.
		fds := []unix.PollFd{{Fd: int32(events), Events: unix.POLLPRI}}
		_, _ = unix.Poll(fds, int(min(left, 100*time.Millisecond).Milliseconds())+1)
	}
}

// refusedTogether is how often a task was refused by the limit of all boxes. Since Linux 6.11 a refusal
// counts where the limit is, before that in the box that wanted the task; then there is no such file.
func refusedTogether(boxes string) int64 {
	text, _ := readControl(boxes, "pids.events.local")
	return counter(text, "max")
}

// all is the cgroup of all boxes.
func (l *leaf) all() string { return filepath.Dir(l.dir) }

// remove takes the cgroup away. It must be empty.
func (l *leaf) remove() error {
	if err := os.Remove(l.dir); err != nil {
		return fmt.Errorf("cannot remove cgroup: %w", err)
	}
	return nil
}

// cpu is the processor time used so far.
func (l *leaf) cpu() time.Duration {
	text, _ := readControl(l.dir, "cpu.stat") // "": not counted here
	return time.Duration(counter(text, "usage_usec")) * time.Microsecond
}

// measure adds to a Usage what the cgroup knows.
func (l *leaf) measure(spec Spec, u *Usage) {
	u.CPU = max(u.CPU, l.cpu())
	file := func(name string) string { text, _ := readControl(l.dir, name); return text } // "": not counted here
	if spec.Has(CgroupMemory) {
		if m, err := l.manager.StatFiltered(cgroup2.StatMemory | cgroup2.StatMemoryEvents); err == nil {
			u.Memory = max(u.Memory, int64(m.Memory.GetMaxUsage()))
			u.OOMKills = int64(m.MemoryEvents.GetOomKill())
		}
	}
	if spec.Has(CgroupPids) {
		u.PidsRefused = counter(file("pids.events"), "max")
	}
	if spec.Has(CgroupCPU) {
		u.Throttled = time.Duration(counter(file("cpu.stat"), "throttled_usec")) * time.Microsecond
	}
	if spec.Has(CgroupIO) {
		u.Read, u.Written = transferred(filepath.Join(l.dir, "io.stat"))
	}
	u.WaitedCPU, u.WaitedMemory, u.WaitedIO = pressure(file("cpu.pressure")), pressure(file("memory.pressure")), pressure(file("io.pressure"))
}

// pressure is how long at least one task of a cgroup waited for a resource; 0
// also where the kernel does not count it.
func pressure(text string) time.Duration {
	var total int64
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "some "); ok {
			_, micro, _ := strings.Cut(rest, "total=")
			fmt.Sscan(micro, &total)
		}
	}
	return time.Duration(total) * time.Microsecond
}

// transferred adds up what went to and from all devices, in bytes.
func transferred(path string) (read, written int64) {
	data, err := os.ReadFile(path) // a line for each device
	if err != nil {
		return 0, 0
	}
	for _, field := range strings.Fields(string(data)) {
		key, value, _ := strings.Cut(field, "=")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "rbytes":
			read += n
		case "wbytes":
			written += n
		}
	}
	return read, written
}

// counter reads one line "name value".
func counter(text, name string) (value int64) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			fmt.Sscan(rest, &value)
		}
	}
	return value
}

// reclaim kills and removes the boxes that an earlier launcher left.
func reclaim(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("cannot look for left boxes: %w", err)
	}
	var failed []error
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), leafPrefix) {
			continue
		}
		left := &leaf{dir: filepath.Join(parent, e.Name())}
		failed = append(failed, left.end())
	}
	return errors.Join(failed...)
}

// end kills whatever is left in the cgroup, waits and removes it.
func (l *leaf) end() error {
	if err := l.kill(); err != nil {
		return fmt.Errorf("cannot kill cgroup: %w", err)
	}
	if err := l.waitEmpty(); err != nil {
		return err
	}
	return l.remove()
}
