package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	landlock "github.com/landlock-lsm/go-landlock/landlock/syscall"
	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// Features is what this kernel and this process can do for a box.
type Features struct {
	Kernel      [2]int
	UID         uint32
	Lacks       []string // capabilities that building a box takes and this process has not
	CloneInto   bool     // clone3, which some unit settings turn off
	Cgroup      string   // the directory delegated to us; empty: none, see NoCgroup
	NoCgroup    string
	Controllers []string // of memory, pids, cpu, io: those the delegated directory has
	LandlockABI int
	Seccomp     bool
	CoreSocket  bool   // the kernel sends cores to a socket, whatever their limit
	NoRings     string // why the memory that packet sockets take cannot be bounded; empty: it can
	Libseccomp  [3]uint
}

// Gap is a layer that could not be had.
type Gap struct {
	Layer   string
	Why     string
	Follows string // what a hostile scanner, or a hostile answer to it, could do then
}

func (g Gap) String() string { return fmt.Sprintf("%s: %s; %s", g.Layer, g.Why, g.Follows) }

// needed to build a box, with the bit of each in the kernel's set.
var needed = []struct {
	name string
	bit  int
}{
	{"CAP_SETGID", unix.CAP_SETGID}, {"CAP_SETUID", unix.CAP_SETUID}, {"CAP_SETPCAP", unix.CAP_SETPCAP},
	{"CAP_NET_RAW", unix.CAP_NET_RAW}, {"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN},
}

// Probe asks the kernel. It changes nothing.
func Probe() Features {
	f := Features{UID: uint32(os.Geteuid()), Kernel: kernelVersion(), Lacks: lackedCapabilities()}
	// An empty request tells "not allowed to be called at all" from "called wrongly".
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	f.CloneInto = errno == unix.EINVAL
	if dir, err := delegated(); err != nil {
		f.NoCgroup = err.Error()
	} else {
		f.Cgroup = dir
		f.Controllers = wanted(controllers(dir, "cgroup.controllers"))
	}
	if abi, err := landlock.LandlockGetABIVersion(); err == nil {
		f.LandlockABI = abi
	}
	// Without a program the kernel answers EFAULT if it has filters at all.
	_, _, errno = unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, 0)
	f.Seccomp = errno == unix.EFAULT
	pattern, _ := os.ReadFile("/proc/sys/kernel/core_pattern") // nothing: a kernel without cores
	f.CoreSocket = strings.HasPrefix(string(pattern), "@") && !f.kernelBefore(6, 16)
	if r, err := newRings(); err != nil {
		f.NoRings = err.Error()
	} else {
		r.close()
	}
	f.Libseccomp[0], f.Libseccomp[1], f.Libseccomp[2] = seccomp.GetLibraryVersion()
	return f
}

func (f Features) String() string {
	return fmt.Sprintf("Linux %d.%d, uid %d, lacks %s; cgroup %s with %s; Landlock ABI %d; seccomp %v, libseccomp %d.%d.%d",
		f.Kernel[0], f.Kernel[1], f.UID, orNone(f.Lacks), f.Cgroup+f.NoCgroup, orNone(f.Controllers),
		f.LandlockABI, f.Seccomp, f.Libseccomp[0], f.Libseccomp[1], f.Libseccomp[2])
}

func kernelVersion() (version [2]int) {
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		fmt.Sscanf(string(bytes.TrimRight(name.Release[:], "\x00")), "%d.%d", &version[0], &version[1])
	}
	return version
}

func (f Features) kernelBefore(major, minor int) bool {
	return f.Kernel[0] < major || f.Kernel[0] == major && f.Kernel[1] < minor
}

func lackedCapabilities() (lacks []string) {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		data = [2]unix.CapUserData{}
	}
	for _, c := range needed {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			lacks = append(lacks, c.name)
		}
	}
	return lacks
}

// Fit takes from a Spec what these Features cannot give, and says what
// follows from each. It decides nothing: Run, or its caller, does.
func Fit(spec Spec, f Features) (Spec, []Gap) {
	var gaps []Gap
	gap := func(layer, why, follows string) { gaps = append(gaps, Gap{layer, why, follows}) }

	unprivileged := ""
	switch {
	case f.UID != 0:
		unprivileged = fmt.Sprintf("secmcpd runs as uid %d, not as root", f.UID)
	case len(f.Lacks) > 0:
		unprivileged = "secmcpd lacks " + strings.Join(f.Lacks, ", ")
	}
	noCgroup := unprivileged
	switch {
	case noCgroup != "":
	case f.Cgroup == "":
		noCgroup = f.NoCgroup
	case f.kernelBefore(5, 14):
		noCgroup = fmt.Sprintf("Linux %d.%d has no cgroup.kill", f.Kernel[0], f.Kernel[1])
	case !f.CloneInto:
		noCgroup = "clone3 is not allowed here"
	}
	if noCgroup != "" {
		gap(Cgroup, noCgroup, "the scanner is stopped by its process group, its use is not measured")
	}
	for _, c := range []struct{ layer, controller, follows string }{
		{CgroupMemory, "memory", "only private mappings are limited"},
		{CgroupPids, "pids", "processes are limited per user, if at all"},
		{CgroupCPU, "cpu", "total processor time is limited, its share is not"},
		{CgroupIO, "io", "the scanner can keep a disk busy"},
	} {
		switch {
		case noCgroup != "":
			gap(c.layer, noCgroup, c.follows)
		case !slices.Contains(f.Controllers, c.controller):
			gap(c.layer, "controller "+c.controller+" is not available in "+f.Cgroup, c.follows)
		}
	}
	if unprivileged != "" {
		gap(Namespaces, unprivileged, "the scanner can see and signal the other processes of its user")
		if profiles[spec.Box].network {
			gap(Scope, unprivileged, "the kernel does not hold the scanner to its targets")
		}
		gap(Root, unprivileged, "the scanner can read the machine's /usr and /etc as its user can")
		gap(UID, unprivileged, "the scanner is the same user as secmcpd")
		gap(Capabilities, unprivileged, "the scanner's bounding set is not emptied")
	}
	if f.LandlockABI < 1 {
		gap(Landlock, "this kernel has no Landlock", "files are kept from the scanner by the other layers only")
	}
	if !f.Seccomp {
		gap(Seccomp, "this kernel has no system call filter", "the scanner may make any system call")
	}
	layers := len(gaps) // what follows is a part of a layer, which holds for the rest
	if f.CoreSocket {
		gap(Rlimits, "cores go to a socket (kernel.core_pattern begins with @), to which no limit holds", "a scanner that crashes reaches the program behind it")
	}
	if spec.Raw && f.NoRings != "" && noCgroup == "" && slices.Contains(f.Controllers, "memory") {
		gap(CgroupMemory, f.NoRings, "the scanner can take memory of the kernel by its packet sockets, without a limit")
	}
	// The wish is copied, not written into: the caller may hold its slice.
	spec.Without = slices.Clone(spec.Without)
	for _, g := range gaps[:layers] {
		if spec.Has(g.Layer) {
			spec.Without = append(spec.Without, g.Layer)
		}
	}
	return spec, gaps
}

// impossible are the wishes that no acceptance of gaps can make run.
func impossible(spec Spec) error {
	switch {
	case spec.Raw && !spec.Has(Capabilities):
		return fmt.Errorf("cannot give raw sockets: that takes root")
	case len(spec.Inputs) > 0 && !spec.Has(Root):
		return fmt.Errorf("cannot show input files in a box without a root of its own")
	case profiles[spec.Box].network && spec.Has(Scope) && spec.NetNS == nil:
		return fmt.Errorf("cannot give box %s a network: no network namespace", spec.Box)
	}
	return nil
}
