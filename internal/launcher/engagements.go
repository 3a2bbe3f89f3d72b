package launcher

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
)

const (
	// maxEngagementFiles and maxEngagementBytes bound what one directory may hold.
	maxEngagementFiles = 256
	maxEngagementBytes = 1 << 20
	// lookEvery is how often the directory is looked at while nobody asks; each decision looks too.
	lookEvery = 2 * time.Second
)

// Engagements reads every engagement of a directory, in the order of file names. A file that
// is not safe or does not parse gives faults and suspends the engagement that it held before;
// the others stand.
func Engagements(dir string, lookup policy.Lookup) ([]policy.Engagement, strict.Faults, error) {
	names, err := engagementFiles(dir)
	if err != nil {
		return nil, nil, err
	}
	var engagements []policy.Engagement
	var faults strict.Faults
	seen := map[string]string{}
	for _, name := range names {
		path := filepath.Join(dir, name)
		data, err := readTrusted(path, maxEngagementBytes)
		if err != nil {
			faults = append(faults, strict.Fault{File: path, Line: 1, Field: "file", Got: err.Error(),
				Allowed: "a readable regular file, owned by root and writable by nobody else", Hint: "chown root " + path + " && chmod go-w " + path})
			continue
		}
		e, wrong := policy.ParseEngagement(path, data, lookup)
		if len(wrong) > 0 {
			faults = append(faults, wrong...)
			continue
		}
		if first, twice := seen[e.Name]; twice {
			faults = append(faults, strict.Fault{File: path, Line: 1, Field: "name", Got: e.Name,
				Allowed: "a name that no other engagement has", Hint: "it is in " + first + " already"})
			continue
		}
		seen[e.Name] = path
		engagements = append(engagements, e)
	}
	return engagements, faults, nil
}

func engagementFiles(dir string) ([]string, error) {
	if err := trusted(dir); err != nil {
		return nil, fmt.Errorf("cannot read engagements: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read engagements: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".yaml") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	if len(names) > maxEngagementFiles {
		return nil, fmt.Errorf("cannot read engagements: %s holds %d files, at most %d are read", dir, len(names), maxEngagementFiles)
	}
	return names, nil
}

// trusted refuses what somebody other than root (or, without root, than ourselves) could have
// written: whoever writes an engagement decides what is scanned.
func trusted(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	return trustedInfo(path, info)
}

func trustedInfo(path string, info fs.FileInfo) error {
	if info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link", path)
	}
	owner := ownerOf(info)
	if owner != 0 && owner != uint32(os.Geteuid()) {
		return fmt.Errorf("%s belongs to uid %d", path, owner)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s may be written by others (mode %04o)", path, info.Mode().Perm())
	}
	return nil
}

// readTrusted checks the descriptor that it reads, so that nothing changes between.
func readTrusted(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if err := trustedInfo(path, info); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}

// Lookup finds users and groups in the local files (this program is built without NSS: a
// privileged process does not load other people's name services). Others are given by number.
func Lookup(tools runners.Table) policy.Lookup {
	number := func(id string, err error) (uint32, bool) {
		if err != nil {
			return 0, false
		}
		n, err := strconv.ParseUint(id, 10, 32)
		return uint32(n), err == nil
	}
	return policy.Lookup{
		Profiles: tools.Profiles,
		User: func(name string) (uint32, bool) {
			u, err := user.Lookup(name)
			if err != nil {
				return 0, false
			}
			return number(u.Uid, nil)
		},
		Group: func(name string) (uint32, bool) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return 0, false
			}
			return number(g.Gid, nil)
		},
	}
}

// rules is the policy in force and where it came from.
type rules struct {
	mu     sync.Mutex
	dir    string
	lookup policy.Lookup
	print  string // fingerprint of the directory as it was last read
	failed string // why it could not be read, as it was last told
	policy policy.Policy
}

// look reads the directory again if it has changed, and returns the policy in force. changed
// says that running jobs have to be judged again. When the directory as a whole cannot be read
// the old engagements stay, and the error is told once per change.
func (r *rules) look() (p policy.Policy, changed bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	print := fingerprint(r.dir)
	if print == r.print {
		return r.policy, false, nil
	}
	engagements, faults, err := Engagements(r.dir, r.lookup)
	if err != nil {
		// Looked at again next time: what is wrong with a directory (its mode, say) does not
		// show in its entries.
		if err.Error() == r.failed {
			return r.policy, false, nil
		}
		r.failed = err.Error()
		return r.policy, false, err
	}
	r.print, r.failed = print, ""
	next := policy.Policy{Engagements: engagements, Suspended: map[string]string{}, Machine: r.policy.Machine}
	for _, e := range r.policy.Engagements {
		if why := broken(e, engagements, faults); why != "" {
			// As it last was, for what runs under it.
			next.Engagements = append(next.Engagements, e)
			next.Suspended[e.Name] = why
		}
	}
	Suspend(next.Suspended, engagements, faults)
	r.policy = next
	return next, true, faults.Err()
}

// Suspend adds the engagements that are not there since their files have faults, each with the first of them.
func Suspend(suspended map[string]string, there []policy.Engagement, faults strict.Faults) {
	for _, f := range faults {
		// The name of the file is the name of the engagement, also of one that was never read.
		name := strings.TrimSuffix(filepath.Base(f.File), ".yaml")
		if _, is := suspended[name]; !is && !inForce(name, there) {
			suspended[name] = f.String()
		}
	}
}

// broken says why an engagement that was in force no longer parses; "" when it is there, or
// was removed with its file.
func broken(e policy.Engagement, now []policy.Engagement, faults strict.Faults) string {
	if inForce(e.Name, now) {
		return ""
	}
	for _, f := range faults {
		if f.File == e.File {
			return f.String()
		}
	}
	return ""
}

func inForce(name string, engagements []policy.Engagement) bool {
	return slices.ContainsFunc(engagements, func(e policy.Engagement) bool { return e.Name == name })
}

// machine replaces what is known of this machine's own addresses.
func (r *rules) machine(m policy.Machine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.policy.Machine = m
}

// relearn has the directory read again by another lookup, at the next look.
func (r *rules) relearn(lookup policy.Lookup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookup, r.print, r.failed = lookup, "to be read again", ""
}

// fingerprint changes whenever a file of the directory does.
func fingerprint(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	var b strings.Builder
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			s := info.Sys().(*syscall.Stat_t)
			fmt.Fprintf(&b, "%s %d %d %d %d\n", e.Name(), s.Ino, s.Size, s.Mtim.Nano(), s.Ctim.Nano())
		}
	}
	return b.String()
}

// judged is the policy in force for a decision now. Faults in the files were logged and
// audited when they were found; they never widen anything.
func (l *Launcher) judged() *policy.Policy {
	p, changed, err := l.rules.look()
	if changed || err != nil {
		l.rulesChanged(p, err)
	}
	return &p
}

// rulesChanged tells the log and the audit log what is in force from now on.
func (l *Launcher) rulesChanged(p policy.Policy, err error) {
	record := observability.Record{Event: observability.Engagements}
	for _, e := range p.Engagements {
		state := e.Name + " " + e.Revision
		if p.Suspended[e.Name] != "" {
			state += " suspended"
		}
		record.Targets = append(record.Targets, state)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Suspended)) {
		if !inForce(name, p.Engagements) {
			record.Targets = append(record.Targets, name+" unreadable")
		}
	}
	record.TargetCount = len(record.Targets)
	if err != nil {
		record.Reason = err.Error()
		l.log.Error("engagements with faults are not in force", journal.Key, journal.EngagementsFaulty, "faults", err.Error())
	}
	l.log.Info("engagements read", journal.Key, journal.EngagementsRead, "count", len(p.Engagements))
	l.note(record)
}

// followRules looks at the engagements while nobody asks, so that narrowing one ends its
// running jobs at once, and at the space that those have for their outputs.
func (l *Launcher) followRules(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			l.judged()
			_, _ = l.switched() // whoever asks for a scan is refused with the error
			l.rejudge()
			l.endWhatCannotWrite()
			l.tokensNow()
			l.tellUnheard(time.Now(), false)
			l.tellFailed(time.Now(), false)
		}
	}
}

func ownerOf(info fs.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }
