package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/bridge"
	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/health"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/sandbox"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// finding is one thing that doctor looked at.
type finding struct {
	Check   string `json:"check"`
	Status  string `json:"status"` // ok, accepted, untried, warning, fault
	Found   string `json:"found"`
	Follows string `json:"follows,omitempty"` // what it means for scans
	Mend    string `json:"mend,omitempty"`    // a command or a key, where there is one

	layers []string // that are missing for it
}

const (
	statusOK       = "ok"
	statusAccepted = "accepted" // a layer is missing, and accept_unenforced has it
	statusUntried  = "untried"  // nothing is known of it; no fault
	statusWarning  = "warning"
	statusFault    = "fault"
)

func ok(found string, args ...any) finding {
	return finding{Status: statusOK, Found: fmt.Sprintf(found, args...)}
}

func fault(found, follows, mend string) finding {
	return finding{Status: statusFault, Found: found, Follows: follows, Mend: mend}
}

func warning(found, follows, mend string) finding {
	return finding{Status: statusWarning, Found: found, Follows: follows, Mend: mend}
}

// missing says which layers of a box are missing for a fault.
func (f finding) missing(layers ...string) finding {
	f.layers = layers
	return f
}

// accepted is the finding as it is where all that is missing may be missing: scans run without it.
func (f finding) accepted(accept []string) finding {
	if f.Status != statusFault || len(f.layers) == 0 {
		return f
	}
	for _, layer := range f.layers {
		if !slices.Contains(accept, layer) {
			return f
		}
	}
	f.Status, f.Follows, f.Mend = statusAccepted, "scans run without "+strings.Join(f.layers, ", ")+", as accept_unenforced says; each result says so", ""
	return f
}

// checks is everything that doctor looks at, in the order in which an operator mends it.
func checks(config string, settings settings, wrong error, features sandbox.Features) []struct {
	name string
	look func() finding
} {
	return []struct {
		name string
		look func() finding
	}{
		{"root", func() finding { return lookRoot() }},
		{"kernel", func() finding { return lookKernel(features) }},
		{"cgroups", func() finding { return lookCgroups() }},
		{"landlock", func() finding { return lookLandlock(features) }},
		{"seccomp", func() finding { return lookSeccomp(features) }},
		{"rings of packets", func() finding { return lookRings(features) }},
		{"cores", func() finding { return lookCores(features) }},
		{"scope filter", func() finding { return lookScope(settings) }},
		{"network", func() finding { return lookNetwork(settings) }},
		{"other firewalls", func() finding { return lookForward() }},
		{"front user", func() finding { return lookFrontUser(settings) }},
		{"agents' group", func() finding { return lookGroup() }},
		{"slot uids", func() finding { return lookSlotUIDs(settings) }},
		{"sockets", func() finding { return lookSockets(settings) }},
		{"directories", func() finding { return lookDirectories(settings) }},
		{"configuration", func() finding { return lookConfiguration(config, settings, wrong) }},
		{"accepted gaps", func() finding { return lookAccepted(settings) }},
		{"engagements", func() finding { return lookEngagements(settings) }},
		{"resolvers", func() finding { return lookResolvers(settings) }},
		{"scanners", func() finding { return lookScanners(settings) }},
		{"audit log", func() finding { return lookAudit(settings) }},
		{"free space", func() finding { return lookSpace(settings) }},
	}
}

func doctorCommand(s *surroundings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "doctor", Short: "what this machine lacks, what follows, how to mend it", Args: noArgs,
		Long: "Look at the kernel, cgroups, permissions, configuration and scanners; then this program itself tries to\nget out of boxes like those of scans, and each layer that kept it is proved. Nothing is changed and\nnothing is sent. Exit status: 0 all is well or accepted, 1 a fault (scans are refused or fail), 3 a warning.",
		RunE: func(c *cobra.Command, _ []string) error {
			settings, wrong := loadSettings(s.config)
			if wrong != nil {
				settings = defaultSettings()
			}
			findings := examine(c.Context(), s.config.file, settings, wrong)
			if err := s.tell(findings, asJSON); err != nil {
				return err
			}
			return worst(findings)
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// examine looks at everything, and tries to get out of boxes.
func examine(ctx context.Context, config string, settings settings, wrong error) (findings []finding) {
	for _, check := range checks(config, settings, wrong, sandbox.Probe()) {
		f := check.look().accepted(settings.AcceptUnenforced)
		f.Check = check.name
		findings = append(findings, f)
	}
	return append(findings, proveBoxes(ctx, settings)...)
}

func (s *surroundings) tell(findings []finding, asJSON bool) error {
	if asJSON {
		return s.printJSON(findings)
	}
	sc := screenOf(s.stdout)
	styles := map[string]style{statusOK: green, statusAccepted: faint, statusUntried: faint, statusWarning: yellow, statusFault: red}
	for _, f := range findings {
		status, check := f.Status, f.Check
		for line := range strings.Lines(f.Found) {
			fmt.Fprintf(s.stdout, "%s %-17s %s\n", sc.paint(styles[f.Status], fmt.Sprintf("%-8s", status)), check, clean(strings.TrimSuffix(line, "\n")))
			status, check = "", ""
		}
		if f.Follows != "" {
			fmt.Fprintf(s.stdout, "%-8s %-17s follows: %s\n", "", "", clean(f.Follows))
		}
		if f.Mend != "" {
			fmt.Fprintf(s.stdout, "%-8s %-17s mend: %s\n", "", "", clean(f.Mend))
		}
	}
	if worst(findings) != nil {
		fmt.Fprintln(s.stdout, "\nEach message is explained in secmcpd-troubleshooting(7).")
	}
	return nil
}

func worst(findings []finding) error {
	has := func(status string) bool {
		return slices.ContainsFunc(findings, func(f finding) bool { return f.Status == status })
	}
	switch {
	case has(statusFault):
		return exitError{exitFailed, nil}
	case has(statusWarning):
		return exitError{exitWarned, nil}
	}
	return nil
}

func lookRoot() finding {
	if os.Geteuid() == 0 {
		return ok("runs as root, as the launcher does")
	}
	return warning("runs as uid "+strconv.Itoa(os.Geteuid()), "what only root may look at is reported as missing", "sudo secmcpd doctor")
}

func lookKernel(f sandbox.Features) finding {
	found := fmt.Sprintf("Linux %d.%d", f.Kernel[0], f.Kernel[1])
	if f.Kernel[0] < 5 || f.Kernel[0] == 5 && f.Kernel[1] < 14 {
		return fault(found, "boxes need cgroup.kill and clone into a cgroup (5.14)", "run Debian 12 or newer")
	}
	if !f.CloneInto {
		return fault(found+", clone3 refused", "a box cannot be born into its cgroup", "remove RestrictNamespaces= and filters of clone3 from the launcher's unit or container")
	}
	return ok("%s", found)
}

// lookCgroups looks at the top of the tree: doctor's own cgroup is a login session, the
// launcher's is delegated to it by systemd.
func lookCgroups() finding {
	mount, controllers, err := cgroupRoot()
	if err != nil {
		return fault(err.Error(), "nothing limits or reliably kills a scan", "mount cgroup v2 (systemd.unified_cgroup_hierarchy=1 on the kernel's command line)").
			missing(append([]string{sandbox.Cgroup}, slices.Sorted(maps.Values(limiting))...)...)
	}
	return lookControllers(mount, controllers)
}

// limiting are the controllers of cgroup v2 that limit a box, and their layers.
var limiting = map[string]string{"memory": sandbox.CgroupMemory, "pids": sandbox.CgroupPids, "cpu": sandbox.CgroupCPU, "io": sandbox.CgroupIO}

func lookControllers(mount string, controllers []string) finding {
	var missing, layers []string
	for c, layer := range limiting {
		if !slices.Contains(controllers, c) {
			missing, layers = append(missing, c), append(layers, layer)
		}
	}
	slices.Sort(missing)
	slices.Sort(layers)
	if len(missing) > 0 {
		return fault(fmt.Sprintf("%s has no controller %s", mount, strings.Join(missing, ", ")), "these limits cannot be enforced; scans are refused",
			"use the unified hierarchy alone (no cgroup v1), or name "+strings.Join(layers, ", ")+" in accept_unenforced").missing(layers...)
	}
	return ok("%s with %s", mount, strings.Join(controllers, " "))
}

// cgroupRoot finds where cgroup v2 is mounted, and the controllers of its root.
func cgroupRoot() (mount string, controllers []string, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", nil, err
	}
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			list, err := os.ReadFile(filepath.Join(fields[4], "cgroup.controllers"))
			return fields[4], strings.Fields(string(list)), err
		}
	}
	return "", nil, errors.New("cgroup v2 is not mounted")
}

func lookConfiguration(path string, s settings, wrong error) finding {
	if wrong != nil {
		return fault(bare(wrong).Error(), "the daemon does not start; what is said here of the rest is for the default settings", "secmcpd check")
	}
	return ok("%s", path)
}

func lookLandlock(f sandbox.Features) finding {
	if f.LandlockABI < 1 {
		return fault("no Landlock", "files are kept from a scanner by the other layers only; scans are refused", "add landlock to the lsm= list on the kernel's command line").missing(sandbox.Landlock)
	}
	return ok("ABI %d", f.LandlockABI)
}

func lookSeccomp(f sandbox.Features) finding {
	found := fmt.Sprintf("libseccomp %d.%d.%d", f.Libseccomp[0], f.Libseccomp[1], f.Libseccomp[2])
	if !f.Seccomp {
		return fault(found+", kernel without filters", "a scanner may make any system call; scans are refused", "run a kernel with CONFIG_SECCOMP_FILTER").missing(sandbox.Seccomp)
	}
	return ok("%s", found)
}

func lookRings(f sandbox.Features) finding {
	switch {
	case f.UID != 0:
		return warning("not looked at without root", "", "sudo secmcpd doctor")
	case f.NoRings != "":
		return fault(f.NoRings, "a scanner with raw sockets can take memory of the kernel without a limit; such scans are refused", "run a kernel with CONFIG_CGROUP_BPF, and let the launcher use BPF").missing(sandbox.CgroupMemory)
	}
	return ok("bounded by BPF")
}

func lookCores(f sandbox.Features) finding {
	if f.CoreSocket {
		return fault("cores go to a socket: kernel.core_pattern begins with @", "no limit holds a scanner that crashes from the program behind it; scans are refused", "set kernel.core_pattern to a file or a pipe").missing(sandbox.Rlimits)
	}
	return ok("none of a scanner")
}

func lookScope(s settings) finding {
	if os.Geteuid() != 0 {
		return warning("not looked at without root", "", "sudo secmcpd doctor")
	}
	if err := scope.Supported(); err != nil {
		return fault(err.Error(), "nothing in the kernel keeps a scanner within its targets; scans are refused", "run a kernel with nf_tables (modprobe nf_tables)").missing(sandbox.Scope)
	}
	if s.Slots.Filter != bpf {
		return ok("nf_tables alone, as slots.filter says")
	}
	if err := scope.SupportedBPF(); err != nil {
		return warning("nf_tables alone: no BPF: "+err.Error(), "large scopes take longer to set, and what is dropped is counted without its destinations", "run a kernel with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS")
	}
	return ok("BPF, over nf_tables")
}

// lookNetwork says how scans leave this machine, and what they cannot do so.
func lookNetwork(s settings) finding {
	f := ok("%s: the way back to %s and %s leads through this machine", s.Slots.Mode, s.Slots.IPv4, s.Slots.IPv6)
	if s.Slots.Mode == scope.Translated {
		now, most, err := scope.Tracked()
		switch {
		case err != nil: // where nobody tracks connections yet, the launcher begins to
			f = ok("%s", s.Slots.Mode)
		case now > most/2:
			return warning(fmt.Sprintf("%s: this machine tracks %d connections of at most %d", s.Slots.Mode, now, most),
				"scans may take half of them: connections of others would be lost", fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d, or set slots.mode to %s", 2*most, scope.Routed))
		default:
			f = ok("%s: this machine tracks %d connections of at most %d", s.Slots.Mode, now, most)
		}
	}
	if s.Slots.Mode == scope.L2 {
		if err := s.segment().Fits(); err != nil {
			return fault(err.Error(), "scans are refused", "set slots.interface, slots.ipv4 and slots.ipv6").missing(sandbox.Scope)
		}
		if err := scope.SupportedBPF(); os.Geteuid() == 0 && err != nil {
			return fault("l2: "+err.Error(), "scans are refused: this mode needs BPF", "set slots.mode to translated or routed").missing(sandbox.Scope)
		}
		f = ok("%s: scans stand on the segment of %s, under addresses of %s %s", s.Slots.Mode, s.Slots.Interface, s.Slots.IPv4, s.Slots.IPv6)
	}
	f.Follows = strings.Join(s.Slots.Mode.Cannot(), "; ")
	return f
}

func lookFrontUser(s settings) finding {
	uid, _, err := s.frontIDs()
	if err != nil {
		return fault(err.Error(), "the front cannot start", "systemd-sysusers, or set front_user")
	}
	if err := s.apart(uid); err != nil {
		return fault(err.Error(), "the daemon does not start", "set front_user")
	}
	return ok("%s, uid %d", s.FrontUser, uid)
}

// proofCommand is the program that doctor puts into a box.
func proofCommand(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "proof DOOR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return sandbox.Door(args[0], s.stdout) },
	}
}

// proveBoxes has a finding for each layer: proved, not prevented, or not tried and why.
func proveBoxes(ctx context.Context, s settings) (findings []finding) {
	add := func(layer string, f finding) {
		f.Check = "box " + layer
		findings = append(findings, f)
	}
	uid := uint32(s.proofUID())
	proofs, gaps, err := sandbox.Prove(ctx, uid, func(door string) []string { return []string{"secmcpd", "proof", door} })
	if err != nil {
		add("", fault(err.Error(), "nothing proves that boxes hold on this machine", ""))
		return findings
	}
	for _, layer := range sandbox.Layers {
		proof := slices.IndexFunc(proofs, func(p sandbox.Proof) bool { return p.Layer == layer })
		gap := slices.IndexFunc(gaps, func(g sandbox.Gap) bool { return g.Layer == layer })
		switch {
		case proof >= 0 && proofs[proof].Held:
			add(layer, ok("proved: no %s", proofs[proof].Found))
		case proof >= 0 && proofs[proof].Unproved != "":
			add(layer, warning("not proved: what was tried ended otherwise: "+proofs[proof].Unproved, "nothing was let through, and nothing shows that it would not be", "secmcpd doctor, when the machine has less to do"))
		case proof >= 0:
			add(layer, fault("FAILED: not prevented: "+proofs[proof].Found, "a hostile scanner could do it", "report it to the maintainers of secmcpd; until then, stop secmcpd-launcher"))
		case gap >= 0 && strings.HasPrefix(layer, sandbox.Cgroup) && os.Geteuid() == 0:
			add(layer, finding{Status: statusUntried, Found: "not tried: " + gaps[gap].Why, Mend: "systemd-run --pipe --wait --property=Delegate=yes secmcpd doctor"})
		case gap >= 0:
			f := warning("not in force here: "+gaps[gap].Why, gaps[gap].Follows, "")
			if slices.Contains(s.AcceptUnenforced, layer) {
				f.Status = statusAccepted
			}
			add(layer, f)
		}
	}
	return findings
}

const agentsGroup = "secmcpd-agents"

func lookGroup() finding {
	g, err := user.LookupGroup(agentsGroup)
	if err != nil {
		return warning("no group "+agentsGroup, "nobody but root can connect to the packaged socket", "systemd-sysusers")
	}
	return ok("%s, gid %s", agentsGroup, g.Gid)
}

func lookSlotUIDs(s settings) finding {
	first, last := s.Slots.FirstUID, s.proofUID()
	for uid := first; uid <= last; uid++ {
		if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
			return fault(fmt.Sprintf("uid %d is the user %s", uid, u.Username), "a scanner would be that user", "set slots.first_uid to a free range")
		}
	}
	return ok("%d to %d, nobody's", first, last)
}

func lookSockets(s settings) finding {
	for _, want := range []struct {
		path string
		mode fs.FileMode
	}{{bridge.Socket, 0o660}, {s.FrontSocket, 0o660}, // of root's group, or of secmcpd-admin where the front made it
		{s.BellSocket, 0o660}, {s.AdminSocket, 0o660}, {s.LauncherAdmin, 0o660}} {
		info, err := os.Stat(want.path)
		if err != nil {
			return fault(plain(err), "agents or operators cannot connect", "systemctl start secmcpd.socket")
		}
		if info.Mode()&fs.ModeSocket == 0 || info.Mode().Perm()&^want.mode != 0 {
			return fault(fmt.Sprintf("%s is %s", want.path, info.Mode()), "others than its group could connect", "systemctl restart secmcpd.socket")
		}
	}
	return ok("%s, %s", bridge.Socket, s.FrontSocket)
}

func lookDirectories(s settings) finding {
	uid, _, err := s.frontIDs()
	if err != nil {
		return fault("not looked at: no front user", "", "")
	}
	for _, want := range []struct {
		path string
		uid  uint32
		mode fs.FileMode
	}{{s.StateDir, uid, 0o750}, {s.LauncherStateDir, 0, 0o700}, {s.AuditDir, 0, 0o755}, {s.EngagementsDir, 0, 0o755}} {
		info, err := os.Stat(want.path)
		if err != nil {
			return warning(plain(err), "systemd makes it at the first start; without systemd it has to be there", "systemctl start secmcpd.socket")
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != want.uid || info.Mode().Perm()&^want.mode != 0 {
			return fault(fmt.Sprintf("%s belongs to uid %d, mode %04o", want.path, owner, info.Mode().Perm()), "what is in it could be changed by others, or not be written",
				fmt.Sprintf("chown %d %s && chmod %04o %s", want.uid, want.path, want.mode, want.path))
		}
	}
	return ok("%s, %s, %s, %s", s.StateDir, s.LauncherStateDir, s.AuditDir, s.EngagementsDir)
}

func lookAccepted(s settings) finding {
	if len(s.AcceptUnenforced) > 0 {
		f := ok("%s", strings.Join(s.AcceptUnenforced, ", "))
		f.Status, f.Follows = statusAccepted, "scans run where these layers are missing; each result says so"
		return f
	}
	return ok("none: a missing layer refuses scans")
}

func lookEngagements(s settings) finding {
	engagements, faults, err := launcher.Engagements(s.EngagementsDir, launcher.Lookup(s.tools()))
	switch {
	case err != nil:
		return fault(plain(err), "every scan is refused", "secmcpd check")
	case len(faults) > 0:
		return fault(faults.Error(), "the engagements in these files are not in force", "secmcpd check")
	case len(engagements) == 0:
		return warning("none in "+s.EngagementsDir, "every scan is refused", "secmcpd engagements new NAME > "+filepath.Join(s.EngagementsDir, "NAME.yaml"))
	}
	var names []string
	for _, e := range engagements {
		names = append(names, e.Name)
	}
	return ok("%s", strings.Join(names, ", "))
}

func lookResolvers(s settings) finding {
	resolvers, err := s.resolvers()
	if err == nil && len(resolvers) == 0 {
		resolvers, err = launcher.Resolvers()
	}
	return resolversFinding(resolvers, err)
}

func resolversFinding(resolvers []netip.AddrPort, err error) finding {
	if errors.Is(err, launcher.ErrLoopback) {
		return fault(err.Error(), "targets by name are refused; addresses work", "set resolvers in secmcpd.yaml to the servers that the one on loopback asks")
	}
	if err != nil {
		return warning(err.Error(), "targets by name are refused; addresses work", "set resolvers in secmcpd.yaml")
	}
	return ok("%s", fmt.Sprint(resolvers))
}

func lookScanners(s settings) finding {
	var found, missing []string
	tools := s.tools()
	if err := s.declared(); err != nil {
		return fault(err.Error(), "the scanners that these files declare are not offered", "secmcpd check")
	}
	for _, t := range tools.Tools() {
		if t.Off {
			continue
		}
		path := s.program(tools, t.Scanner)
		version, err := scannerVersion(tools, t.Scanner, path)
		if errors.Is(err, fs.ErrNotExist) && path == defaultSettings().Scanners[t.Scanner] {
			missing = append(missing, t.Scanner) // nobody said that it is there
			continue
		}
		if err != nil {
			mend := "apt-get install " + t.Scanner + ", or set scanners." + t.Scanner
			if tools.Declaration(t.Name) != nil {
				mend = "install " + path + ", or mend " + filepath.Join(s.RunnersDir, t.Name+".yaml")
			}
			return fault(err.Error(), t.Name+" is refused", mend)
		}
		found = append(found, fmt.Sprintf("%s %s (%s)", t.Scanner, version, path))
	}
	if len(found) == 0 {
		return fault("none of "+strings.Join(missing, ", ")+" is installed", "every scan is refused", "apt-get install nmap")
	}
	if len(missing) > 0 {
		found = append(found, "not installed: "+strings.Join(missing, ", "))
	}
	return ok("%s", strings.Join(found, ", "))
}

// scannerVersion runs a scanner as nobody, with nothing in its environment. The launcher asks
// it in a box; doctor must get an answer also where there is none.
func scannerVersion(tools runners.Table, name, path string) (string, error) {
	if err := launcher.CheckScanner(path); err != nil {
		return "", err
	}
	ctx, done := context.WithTimeout(context.Background(), 10*time.Second)
	defer done()
	var errs []error
	for _, words := range tools.VersionArguments(name) {
		cmd := exec.CommandContext(ctx, path, words...)
		cmd.Args[0] = name // as the launcher calls it: some say their own name first
		cmd.Env, cmd.Dir, cmd.WaitDelay = []string{}, "/", time.Second
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		out, err := cmd.Output()
		var status *exec.ExitError // masscan's, which tells its version all the same
		if err != nil && !errors.As(err, &status) {
			errs = append(errs, fmt.Errorf("cannot ask %s for its version: %w", path, err))
			continue
		}
		v, err := tools.ParseVersion(name, out[:min(len(out), 4096)])
		if err == nil {
			return v.String(), nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

func lookAudit(s settings) finding {
	summary, err := observability.VerifyAudit(s.AuditDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok("not begun")
	case errors.Is(err, fs.ErrPermission):
		return warning("not looked at without root", "", "sudo secmcpd doctor")
	case err != nil:
		return fault(err.Error(), "the record of past scans was damaged or changed", "keep a copy, find out who, then move the files away: a new chain begins")
	}
	return ok("%s", summary)
}

func lookSpace(s settings) finding {
	needs := append(launcher.Needs(s.LauncherStateDir, s.AuditDir, int64(s.Limits.OutputMiB)<<20), health.Need{Dir: s.StateDir, Bytes: int64(s.Jobs.FreeMiB) << 20})
	needs = slices.DeleteFunc(needs, func(n health.Need) bool {
		_, err := health.DiskOf(n.Dir)
		return err != nil // told by "directories"
	})
	if f := health.Disks(100, needs...); f.Status == health.Unhealthy {
		return fault(f.Message, "scans are refused or fail", "free some space, or lower limits.output_mib, jobs.keep_mib and jobs.free_mib")
	}
	return ok("enough")
}

// plain is an error without the operation that Go puts first.
func plain(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Path + ": " + path.Err.Error()
	}
	return err.Error()
}
