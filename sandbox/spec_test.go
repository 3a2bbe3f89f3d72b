package sandbox

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	seccomp "github.com/seccomp/libseccomp-golang"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// The page a reviewer reads about a box.
func TestString(t *testing.T) {
	full := Features{Kernel: [2]int{6, 1}, CloneInto: true, Cgroup: "/sys/fs/cgroup/x", Controllers: []string{"cpu", "io", "memory", "pids"}, LandlockABI: 2, Seccomp: true}
	user := Features{Kernel: [2]int{6, 1}, UID: 1000, NoCgroup: "none", LandlockABI: 2, Seccomp: true}
	l := Limits{Memory: 512 << 20, Pids: 8, CPUPercent: 50, CPU: 10 * time.Minute, OpenFiles: 1024, Output: 64 << 20, Tmp: 1 << 20, TmpInodes: 64, Wall: time.Hour}
	raw := Spec{Job: "7Q3", Box: "nmap-raw", Argv: []string{"nmap", "--privileged", "-sS", "-oX", "-", "--", "10.0.0.7"},
		UID: 61001, GID: 61001, Hostname: "scanner", Raw: true, Limits: l}
	connect := raw
	connect.Box, connect.Raw, connect.Argv, connect.Env = "nmap-connect", false, []string{"nmap", "-sT", "a \"b\"", ""}, []string{"LC_ALL=C"}
	connect.Limits.Tmp = 0
	list := Spec{Job: "7Q4", Box: "gobuster", Argv: []string{"gobuster", "dir", "-w", "/in/words"}, UID: 61002, GID: 61002, Limits: l,
		Inputs: []Input{{Name: "words"}}}
	list.Limits.CPUPercent = 0
	var pages []string
	for _, spec := range []Spec{raw, connect, list} {
		f, err := os.Open("/usr/bin/true")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		spec.Exe = f
		privileged, _ := Fit(spec, full)
		mere, _ := Fit(spec, user)
		pages = append(pages, privileged.String(), mere.String())
	}
	golden(t, "specs.txt", strings.Join(pages, "\n"))
}

// What is missing, and that it is said.
func TestFit(t *testing.T) {
	full := Features{Kernel: [2]int{6, 1}, CloneInto: true, Cgroup: "/c", Controllers: []string{"cpu", "io", "memory", "pids"}, LandlockABI: 2, Seccomp: true}
	limited := []string{CgroupMemory, CgroupPids, CgroupCPU, CgroupIO}
	grouped := append([]string{Cgroup}, limited...)
	for _, row := range []struct {
		says   string
		box    string
		change func(*Features)
		want   []string
		why    string
	}{
		{"a machine with everything", "nmap-raw", func(*Features) {}, nil, ""},
		{"no memory controller", "nmap-raw", func(f *Features) { f.Controllers = []string{"cpu", "io", "pids"} }, []string{CgroupMemory}, "controller memory is not available in /c"},
		{"a hybrid hierarchy", "nmap-raw", func(f *Features) { f.Controllers = nil }, limited, "controller"},
		{"no cgroup of its own", "nmap-raw", func(f *Features) { f.Cgroup, f.NoCgroup = "", "it is in /" }, grouped, "it is in /"},
		{"a kernel without cgroup.kill", "nmap-raw", func(f *Features) { f.Kernel = [2]int{5, 10} }, grouped, "Linux 5.10 has no cgroup.kill"},
		{"a unit that forbids clone3", "nmap-raw", func(f *Features) { f.CloneInto = false }, grouped, "clone3"},
		{"no Landlock", "nmap-raw", func(f *Features) { f.LandlockABI = 0 }, []string{Landlock}, "no Landlock"},
		{"no seccomp", "nmap-raw", func(f *Features) { f.Seccomp = false }, []string{Seccomp}, "no system call filter"},
		{"a user", "nmap-connect", func(f *Features) { f.UID = 1000 }, append(slices.Clone(grouped), Namespaces, Scope, Root, UID, Capabilities), "uid 1000"},
		{"a user who asks for the version", "version", func(f *Features) { f.UID = 1000 }, append(slices.Clone(grouped), Namespaces, Root, UID, Capabilities), "uid 1000"},
		{"root with less than it takes", "nmap-raw", func(f *Features) { f.Lacks = []string{"CAP_SYS_ADMIN"} }, append(slices.Clone(grouped), Namespaces, Scope, Root, UID, Capabilities), "lacks CAP_SYS_ADMIN"},
	} {
		f := full
		row.change(&f)
		wish := Spec{Job: "j", Box: row.box}
		spec, gaps := Fit(wish, f)
		var layers []string
		for _, g := range gaps {
			layers = append(layers, g.Layer)
			if !strings.Contains(g.Why, row.why) || g.Follows == "" || !slices.Contains(Layers, g.Layer) {
				t.Errorf("%s: %s", row.says, g)
			}
		}
		if diff := cmp.Diff(row.want, layers); diff != "" {
			t.Errorf("%s: %s", row.says, diff)
		}
		if diff := cmp.Diff(layers, spec.Without); diff != "" || len(wish.Without) > 0 {
			t.Errorf("%s: left out of the spec: %s", row.says, diff)
		}
	}
}

// Some wishes no acceptance makes possible.
func TestImpossible(t *testing.T) {
	user := Features{UID: 1000, Kernel: [2]int{6, 1}, LandlockABI: 2, Seccomp: true}
	for _, row := range []struct {
		says string
		spec Spec
		want string
	}{
		{"connecting as a user", Spec{Box: "nmap-connect"}, ""},
		{"raw sockets as a user", Spec{Box: "nmap-raw", Raw: true}, "that takes root"},
		{"input files as a user", Spec{Box: "gobuster", Inputs: []Input{{Name: "x"}}}, "root of its own"},
	} {
		spec, _ := Fit(row.spec, user)
		err := impossible(spec)
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v", row.says, err)
		}
	}
}

func TestOwnCgroup(t *testing.T) {
	const unified = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n"
	const hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	const part = "30 23 0:26 /system.slice/x.service /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	for _, row := range []struct{ says, mounts, own, want, fails string }{
		{"a service", unified, "0::/system.slice/secmcpd.service\n", "/sys/fs/cgroup/system.slice/secmcpd.service", ""},
		{"beside the old hierarchies", hybrid, "4:memory:/a\n0::/b\n", "/sys/fs/cgroup/unified/b", ""},
		{"in a container that sees its part", part, "0::/system.slice/x.service/supervisor\n", "/sys/fs/cgroup/supervisor", ""},
		{"in a container that sees another's part", part, "0::/system.slice/y.service\n", "", "not mounted"},
		{"old hierarchies alone", "31 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "4:memory:/a\n0::/\n", "", "not mounted"},
		{"no unified hierarchy", unified, "4:memory:/a\n", "", "names no cgroup"},
		{"above its own namespace", unified, "0::/../x\n", "", "outside what it can see"},
	} {
		got, err := ownCgroup(row.mounts, row.own)
		if got != row.want || (err == nil) != (row.fails == "") || err != nil && !strings.Contains(err.Error(), row.fails) {
			t.Errorf("%s: got %q, %v", row.says, got, err)
		}
	}
}

// The machine of these tests has what a machine must have.
func TestProbe(t *testing.T) {
	f := box.Features()
	t.Log(f)
	if len(f.Lacks) > 0 || !f.CloneInto || f.Cgroup == "" || f.LandlockABI < 1 || !f.Seccomp || f.kernelBefore(5, 14) {
		t.Errorf("these tests need root on Linux 5.14 with cgroup2, Landlock and seccomp: %s", f)
	}
}

// The system call filters, as a reviewer can read them. Their text depends on
// the processor, hence its name in the file's.
func TestFilters(t *testing.T) {
	for _, name := range boxNames() {
		text, err := profiles[name].export(256, (*seccomp.ScmpFilter).ExportPFC)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+"."+runtime.GOARCH+".pfc", string(text))
		program, err := profiles[name].program(256)
		if err != nil || len(program) == 0 || len(program)%8 != 0 {
			t.Errorf("%s: a program of %d bytes, %v", name, len(program), err)
		}
		t.Logf("%s: %d instructions", name, len(program)/8)
	}
}

// No call is both allowed and deadly, and each name is one the library knows
// for some processor: a misspelt name would silently answer ENOSYS.
func TestFilterNames(t *testing.T) {
	newer := []string{"memfd_secret", "process_madvise", "mount_setattr", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self"}
	for _, name := range boxNames() {
		for _, call := range append(profiles[name].names(), killed...) {
			if _, err := seccomp.GetSyscallFromName(call); err != nil && !slices.Contains(newer, call) {
				t.Errorf("%s: %s is no system call", name, call)
			}
		}
		for _, call := range profiles[name].names() {
			if slices.Contains(killed, call) {
				t.Errorf("%s: %s is allowed and deadly", name, call)
			}
		}
	}
}
