package sandbox

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Spec is one box, as wished. It holds no kernel state but the descriptors it
// was given; those stay the caller's to close, after Run.
type Spec struct {
	Job      string   // names the cgroup leaf: letters, digits, '-', '_', '.'
	Box      string   // one of the profiles: nmap-raw, nmap-connect, masscan, gobuster, declared, declared-raw, resolver, version
	Exe      *os.File `json:"-"` // the scanner, opened for reading; what was hashed is what runs
	Argv     []string
	Env      []string // complete; nothing is inherited
	UID, GID uint32   // of the slot, used by nobody else
	NetNS    *os.File `json:"-"` // the slot's network namespace; nil: an empty one, for boxes without network
	Hostname string
	Hosts    string  // content of /etc/hosts
	Resolv   string  // content of /etc/resolv.conf
	Inputs   []Input `json:"-"` // files the scanner may read, at /in/NAME
	Raw      bool    // CAP_NET_RAW; must agree with the profile
	Limits   Limits
	Without  []string // layers left out; Fit fills it
}

// Input is a file given to the scanner read-only.
type Input struct {
	Name string
	File *os.File
}

// Limits of one box. All but Tmp and CPUPercent must be set: a box without a
// bound is a mistake, not a wish.
type Limits struct {
	Memory     int64         // bytes
	Pids       int           // processes and threads
	CPUPercent int           // of one processor; 0 = no throttle
	CPU        time.Duration // total processor time
	IO         int64         // bytes a second from each disk, and as many to it; 0 = no throttle
	OpenFiles  int
	Output     int64 // bytes of stdout and stderr together; a flood gets at most twice that and 2 MiB before it is ended
	Tmp        int64 // bytes of /tmp; 0 = no writable place at all
	TmpInodes  int
	Wall       time.Duration
}

// Files receive what the scanner prints: regular files, opened for appending.
type Files struct {
	Stdout, Stderr *os.File
}

// Layers of the box. Gap.Layer, Config.Accept and Spec.Without use these words.
const (
	Cgroup       = "cgroup"
	CgroupMemory = "cgroup-memory"
	CgroupPids   = "cgroup-pids"
	CgroupCPU    = "cgroup-cpu"
	CgroupIO     = "cgroup-io"
	Namespaces   = "namespaces"
	Root         = "root"
	UID          = "uid"
	Capabilities = "capabilities"
	NoNewPrivs   = "no-new-privs"
	Landlock     = "landlock"
	Seccomp      = "seccomp"
	Rlimits      = "rlimits"
	Scope        = "scope"
)

// Layers in the order in which a page about a box lists them.
var Layers = []string{Cgroup, CgroupMemory, CgroupPids, CgroupCPU, CgroupIO, Namespaces, Scope, Root, UID, Capabilities, NoNewPrivs, Landlock, Seccomp, Rlimits}

// Has reports whether the box has a layer.
func (s Spec) Has(layer string) bool { return !slices.Contains(s.Without, layer) }

// executable is the path of the scanner as the kernel knows the descriptor.
func (s Spec) executable() string {
	if s.Exe == nil {
		return ""
	}
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(s.Exe.Fd())))
	if err != nil {
		return s.Exe.Name()
	}
	return path
}

// underUsr reports whether the scanner lies in the part of the machine that
// the box shows anyway; any other is bound in by its descriptor, as /exe/scanner.
func underUsr(path string) bool { return strings.HasPrefix(path, "/usr/") }

// Check says what is wrong with a Spec before anything is made for it.
func (s Spec) Check() error {
	profile, ok := profiles[s.Box]
	l := s.Limits
	for _, rule := range []struct {
		broken bool
		says   string
	}{
		{!ok, fmt.Sprintf("box %q is none of %s", s.Box, strings.Join(boxNames(), ", "))},
		{!wellNamed(s.Job), fmt.Sprintf("job %q is not 1 to 64 letters, digits, '-', '_' or '.'", s.Job)},
		{s.Exe == nil, "no scanner"},
		{len(s.Argv) == 0, "no arguments, not even the name of the scanner"},
		{!passable(s.Argv) || !passable(s.Env) || !passable([]string{s.Hostname, s.Hosts, s.Resolv}), "a text holds a NUL or is not UTF-8"},
		{len(s.Hostname) > 64, "the host name is longer than 64 bytes"},
		{len(s.Hosts)+len(s.Resolv) > 64<<10, "hosts and resolv.conf are larger than 64 KiB"},
		{s.Raw != profile.raw, fmt.Sprintf("raw sockets are %v in box %s", profile.raw, s.Box)},
		{l.Memory < 8<<20, "less than 8 MiB of memory"},
		{l.Pids < 1, "no processes"},
		{l.CPU < time.Second, "less than a second of processor time"},
		{l.CPUPercent < 0 || l.IO < 0, "a negative share of the processor or of a disk"},
		{l.OpenFiles < 16 || l.OpenFiles > 65536, "open files not between 16 and 65536"},
		{l.Output < 1, "no output"},
		{l.Tmp < 0 || l.Tmp > 0 && l.TmpInodes < 2, "a /tmp without a bound of its own"},
		{l.Wall <= 0, "no time"},
	} {
		if rule.broken {
			return fmt.Errorf("cannot box %s: %s", s.Job, rule.says)
		}
	}
	for _, in := range s.Inputs {
		if !wellNamed(in.Name) || in.File == nil {
			return fmt.Errorf("cannot box %s: input %q is not a plain name with a file", s.Job, in.Name)
		}
	}
	return nil
}

// wellNamed admits what is safe as one component of a path.
func wellNamed(name string) bool {
	if name == "" || len(name) > 64 || name[0] == '.' {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

func passable(texts []string) bool {
	return !slices.ContainsFunc(texts, func(s string) bool {
		return strings.ContainsRune(s, 0) || !utf8.ValidString(s)
	})
}

// String is the page a security reviewer reads.
func (s Spec) String() string {
	var b strings.Builder
	profile := profiles[s.Box]
	line := func(word, format string, args ...any) {
		fmt.Fprintf(&b, "  %-13s %s\n", word, fmt.Sprintf(format, args...))
	}
	without := func(layer, yes, no string) string {
		if s.Has(layer) {
			return yes
		}
		return no
	}
	fmt.Fprintf(&b, "box %s, job %s\n", s.Box, s.Job)
	line("runs", "%s", s.executable())
	line("arguments", "%s", quoted(s.Argv))
	line("environment", "%s", quoted(s.Env))
	line("user", without(UID, "uid %d, gid %d, no other group", "that of the launcher (uid %d, gid %d not taken)"), s.UID, s.GID)
	line("may", "%s", without(Capabilities, granted(s.Raw), "nothing privileged now; its bounding set is the launcher's"))
	line("network", "%s", s.network(profile))
	line("sees", "%s", without(Root, s.tree(), "the launcher's own files, those that Landlock lets through"))
	line("processes", "%s", without(Namespaces, "its own only; own host name \""+s.Hostname+"\", IPC, cgroup root", "those of the machine"))
	line("memory", "%s%s", size(s.Limits.Memory), without(CgroupMemory, ", no swap, killed as one", ", of private mappings only"))
	line("tasks", "%s", s.tasks())
	line("processor", "%s in all%s", s.Limits.CPU, throttle(s))
	if s.Limits.IO > 0 && s.Has(CgroupIO) {
		line("disks", "%s a second, each way", size(s.Limits.IO))
	}
	line("open files", "%d", s.Limits.OpenFiles)
	line("output", "%s", size(s.Limits.Output))
	line("time", "%s", s.Limits.Wall)
	line("system calls", "%s", without(Seccomp, fmt.Sprintf("%d names, no fork, one exec, %d kinds of socket; the rest ENOSYS, %d names kill", len(profile.names()), len(profile.sockets), len(killed)-len(profile.spared)), "all"))
	line("kill", "%s", without(Cgroup, "cgroup box-"+s.Job+", all at once", "the process and its group"))
	line("left out", "%s", orNone(s.Without))
	return b.String()
}

func (s Spec) network(p profile) string {
	switch {
	case !p.network:
		return "none"
	case !s.Has(Scope):
		return "the machine's own, unfiltered"
	default:
		return "the slot's, behind its filter"
	}
}

func (s Spec) tree() string {
	parts := []string{"/usr and a few files of /etc, read-only"}
	if !underUsr(s.executable()) {
		parts = append(parts, "its executable as /exe/scanner")
	}
	for _, in := range s.Inputs {
		parts = append(parts, "/in/"+in.Name)
	}
	if s.Limits.Tmp > 0 {
		parts = append(parts, fmt.Sprintf("a /tmp of its own, %s, %d files", size(s.Limits.Tmp), s.Limits.TmpInodes))
	}
	return strings.Join(parts, "; ")
}

func (s Spec) tasks() string {
	switch {
	case s.Has(CgroupPids):
		return strconv.Itoa(s.Limits.Pids)
	case s.Has(UID):
		return strconv.Itoa(s.Limits.Pids) + ", counted per user"
	}
	return "not limited"
}

func throttle(s Spec) string {
	if s.Limits.CPUPercent == 0 || !s.Has(CgroupCPU) {
		return ""
	}
	return fmt.Sprintf(", at most %d%% of one", s.Limits.CPUPercent)
}

func granted(raw bool) string {
	if raw {
		return "CAP_NET_RAW and nothing else, for good"
	}
	return "nothing privileged, for good"
}

func size(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

func quoted(words []string) string {
	if len(words) == 0 {
		return "(empty)"
	}
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if w == "" || strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r == '"' || r > '~' }) {
			out[i] = strconv.Quote(w)
		}
	}
	return strings.Join(out, " ")
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", ")
}
