package health

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What both rooms, and doctor, ask of the machine. The kernel hides some of it from the front.

// Settings are the operator's.
type Settings struct {
	Every   time.Duration // between two looks; 0: nothing is looked at
	Timeout time.Duration // of one check
	// Above these the room is degraded: percent of the machine's processors, of memory, of a disk.
	CPU, Memory, Disk int
}

// Beat is how often what is critical is looked at: it is cheap, and the watchdog hangs on it.
const Beat = 5 * time.Second

// Need is what has to be free on a disk.
type Need struct {
	Dir   string
	Bytes int64
}

// Disk is the file system of a directory.
type Disk struct {
	Free int64 // bytes that may still be written
	Used int   // percent, as df has it
	id   unix.Fsid
}

// DiskOf asks for the file system of a directory. One in which no more files can be made has
// nothing free.
func DiskOf(dir string) (Disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Disk{}, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	d := Disk{Free: int64(st.Bavail) * st.Bsize, id: st.Fsid}
	if used := st.Blocks - st.Bfree; used+st.Bavail > 0 {
		d.Used = int((used*100 + used + st.Bavail - 1) / (used + st.Bavail))
	}
	if st.Files > 0 && st.Ffree == 0 {
		d.Free = 0
	}
	return d, nil
}

// Disks finds out whether there is what is needed, and whether a disk is fuller than percent.
func Disks(percent int, needs ...Need) Finding {
	f := Well("enough is free")
	full := map[unix.Fsid]bool{}
	for _, n := range needs {
		d, err := DiskOf(n.Dir)
		if err != nil {
			return Ill("%v", err)
		}
		f = f.With(n.Dir, fmt.Sprintf("%d MiB free, %d%% used", d.Free>>20, d.Used))
		switch {
		case d.Free < n.Bytes && f.Status != Unhealthy:
			f.Status, f.Message = Unhealthy, fmt.Sprintf("%d MiB are free in %s, %d MiB have to be", d.Free>>20, n.Dir, (n.Bytes+1<<20-1)>>20)
		case d.Used > percent && f.Status == Healthy && !full[d.id]:
			full[d.id] = true
			f.Status, f.Message = Degraded, fmt.Sprintf("the disk of %s is used to %d%%, more than %d%%", n.Dir, d.Used, percent)
		}
	}
	return f
}

// Memory finds out how much of the machine's memory is used, and of what this room's cgroup may.
func Memory(percent int) Finding {
	f, asked := Well("enough is free"), 0
	tell := func(whose, key string, used, all int64) {
		asked++
		share := int(used * 100 / all)
		f = f.With(key, fmt.Sprintf("%d of %d MiB, %d%%", used>>20, all>>20, share))
		if share > percent {
			f.Status, f.Message = Degraded, fmt.Sprintf("%d%% of %s is used, more than %d%%", share, whose, percent)
		}
	}
	if all, available, err := machineMemory(); err == nil && all > 0 {
		tell("the machine's memory", "machine", all-available, all)
	}
	if used, all, err := cgroupMemory(); err == nil && all > 0 {
		tell("the memory that this room may have", "room", used, all)
	}
	if asked == 0 {
		return Well("not to be seen from here")
	}
	return f
}

func machineMemory() (all, available int64, err error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64) // what is no number is none of these
		switch f[0] {
		case "MemTotal:":
			all = n << 10
		case "MemAvailable:":
			available = n << 10
		}
	}
	return all, available, nil
}

var errNoCgroup = errors.New("no cgroup of the unified hierarchy")

// ownCgroup is the directory of this process in the unified hierarchy, at the places where that is
// mounted.
func ownCgroup() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		path, is := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !is {
			continue
		}
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			dir := filepath.Join(mount, path)
			if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
				return dir, nil
			}
		}
	}
	return "", errNoCgroup
}

// cgroupMemory is what the nearest limit at or above this process's cgroup counts: the limit is
// the unit's, and the process may be in a leaf of it. Its cache, which the kernel gives back when
// it is needed, is not counted.
func cgroupMemory() (used, limit int64, err error) {
	dir, err := ownCgroup()
	if err != nil {
		return 0, 0, err
	}
	for range 3 {
		limit, err := cgroupNumber(dir, "memory.max")
		if err != nil { // "max", or no controller here
			dir = filepath.Dir(dir)
			continue
		}
		used, err := cgroupNumber(dir, "memory.current")
		if err != nil {
			return 0, 0, err
		}
		return used - inactive(dir), limit, nil
	}
	return 0, 0, errNoCgroup
}

func inactive(dir string) int64 {
	b, _ := os.ReadFile(filepath.Join(dir, "memory.stat")) // without it all counts
	for line := range strings.Lines(string(b)) {
		if n, is := strings.CutPrefix(line, "inactive_file "); is {
			bytes, _ := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			return bytes
		}
	}
	return 0
}

func cgroupNumber(dir, file string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// stalled is the share of the last minute in which something waited for a resource, in percent:
// of the machine, or of a cgroup.
func stalled(path string) (some float64, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "some ") {
			continue
		}
		for _, f := range strings.Fields(line) {
			if n, is := strings.CutPrefix(f, "avg60="); is {
				return strconv.ParseFloat(n, 64)
			}
		}
	}
	return 0, errors.New("no line of that form")
}

// Pressure tells what waited in the last minute, of the machine and of this room's cgroup. It
// judges nothing: scanners are meant to use what they are given.
func Pressure() Finding {
	f := Well("")
	var said []string
	own, _ := ownCgroup() // without it only the machine's
	for _, resource := range []string{"cpu", "memory", "io"} {
		if some, err := stalled("/proc/pressure/" + resource); err == nil {
			f = f.With(resource, fmt.Sprintf("%.1f%%", some))
			said = append(said, fmt.Sprintf("%s %.0f%%", resource, some))
		}
		if own == "" {
			continue
		}
		if some, err := stalled(filepath.Join(own, resource+".pressure")); err == nil {
			f = f.With("room_"+resource, fmt.Sprintf("%.1f%%", some))
		}
	}
	if f.Message = "of the last minute something waited for " + strings.Join(said, ", "); len(said) == 0 {
		f.Message = "this kernel does not tell, or not from here"
	}
	return f
}

// Processors counts how busy the machine's processors are from one look to the next.
type Processors struct{ busy, all uint64 }

// Look returns the share since the last look in percent; false: nothing to compare with.
func (p *Processors) Look() (percent int, known bool) {
	file, err := os.Open("/proc/stat")
	if err != nil {
		return 0, false
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	if !lines.Scan() {
		return 0, false
	}
	var busy, all uint64
	for i, word := range strings.Fields(lines.Text()) {
		n, err := strconv.ParseUint(word, 10, 64)
		if err != nil || i > 8 { // "cpu"; what follows is counted already
			continue
		}
		all += n
		if i != 4 && i != 5 { // idle, and waiting for a disk
			busy += n
		}
	}
	last := *p
	p.busy, p.all = busy, all
	if last.all == 0 || all <= last.all || busy < last.busy {
		return 0, false
	}
	return int((busy - last.busy) * 100 / (all - last.all)), true
}

// Descriptors finds out how many files this process has open, of how many.
func Descriptors() Finding {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return Well("not to be seen from here")
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return Well("not to be seen from here")
	}
	f := Well("%d of %d are open", len(open), limit.Cur)
	if uint64(len(open)) > limit.Cur/5*4 {
		f.Status = Degraded
	}
	return f
}

// Clock watches the wall clock beside the one that only runs.
type Clock struct {
	last time.Time
	jump Finding // the last one
	at   time.Time
}

// jumpTold is how long a jump is told: whoever looks comes later.
const jumpTold = 5 * time.Minute

// jumpFrom is how far the two may come apart between two looks.
const jumpFrom = 2 * time.Second

// Look tells of a jump since the last look, and whether the kernel's clock is kept in time.
func (c *Clock) Look() Finding {
	last, now := c.last, time.Now()
	c.last = now
	if last.IsZero() {
		last = now
	}
	return c.look(now.Round(0).Sub(last.Round(0)), now.Sub(last), now)
}

// look is Look where the wall clock went so far while time did.
func (c *Clock) look(wall, ran time.Duration, now time.Time) Finding {
	if f, jumped := compared(wall, ran); jumped {
		c.jump, c.at = f, now
	}
	if !c.at.IsZero() && now.Sub(c.at) < jumpTold {
		return c.jump
	}
	return Well("%s", synchronised())
}

// compared says whether the wall clock went another way than time did.
func compared(wall, ran time.Duration) (Finding, bool) {
	jump := wall - ran
	if jump > -jumpFrom && jump < jumpFrom {
		return Finding{}, false
	}
	way := "forward"
	if jump < 0 {
		way, jump = "back", -jump
	}
	return Poor("the wall clock went %s by %s between two looks: it was set, or the machine slept; hours and terms of engagements go by it", way, jump.Round(time.Second)), true
}

// synchronised says what the kernel knows, or where it may not be asked (ProtectClock=) what
// systemd-timesyncd left.
func synchronised() string {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0:
		return "kept in time"
	case err == nil:
		return "nobody keeps it in time"
	}
	if _, err := os.Stat("/run/systemd/timesync/synchronized"); err == nil {
		return "kept in time by systemd-timesyncd"
	}
	return "whether it is kept in time is not to be seen from here"
}
