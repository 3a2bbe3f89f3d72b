package sandbox

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// What a scanner sees of itself and of the machine, with every layer on.
func TestInside(t *testing.T) {
	if err := unix.Setgroups([]int{4}); err != nil { // as a launcher has that makes its own sockets
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setgroups(nil); err != nil {
			t.Error(err)
		}
	})
	stray, err := os.Open("/etc") // a descriptor that somebody forgot to protect
	if err != nil {
		t.Fatal(err)
	}
	defer stray.Close()
	if err := unix.Dup2(int(stray.Fd()), 251); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(251)

	spec := wish(t, "nmap-raw", probe, "nmap", "report", "two words")
	spec.Env = []string{"NMAP_PRIVILEGED=1"}
	got := succeed(t, box, spec)
	if own, err := os.ReadFile("/proc/self/oom_score_adj"); err != nil || string(own) == "1000\n" {
		t.Errorf("the launcher goes first, too: %q, %v", own, err)
	}

	for _, row := range []struct{ what, prefix, want string }{
		{"it gets its arguments", "argv: ", "nmap|report|two words"},
		{"and its environment, which is complete", "env: ", "NMAP_PRIVILEGED=1"},
		{"it is the first process", "pid: ", "1"},
		{"of nobody it could name", "ppid: ", "0"},
		{"it is the slot's user", "/proc/self/status: Uid:", fmt.Sprintf("%[1]d\t%[1]d\t%[1]d\t%[1]d", slotUID)},
		{"and group", "/proc/self/status: Gid:", fmt.Sprintf("%[1]d\t%[1]d\t%[1]d\t%[1]d", slotGID)},
		{"in no other group", "/proc/self/status: Groups:", ""},
		{"it goes first when memory is short", "/proc/self/oom_score_adj: ", "1000"},
		{"one capability, inheritable", "/proc/self/status: CapInh:", "0000000000002000"},
		{"permitted", "/proc/self/status: CapPrm:", "0000000000002000"},
		{"effective", "/proc/self/status: CapEff:", "0000000000002000"},
		{"ambient", "/proc/self/status: CapAmb:", "0000000000002000"},
		{"and no way to another", "/proc/self/status: CapBnd:", "0000000000000000"},
		{"no new privileges", "/proc/self/status: NoNewPrivs:", "1"},
		{"a system call filter", "/proc/self/status: Seccomp:", "2"},
		{"no signal blocked", "/proc/self/status: SigBlk:", "0000000000000000"},
		{"nor ignored", "/proc/self/status: SigIgn:", "0000000000000000"},
		{"it is in an empty place", "cwd: ", "/empty"},
		{"its files are its own", "umask: ", "077"},
		{"its host name says nothing", "host: ", "scanner"},
		{"its cgroup is a root", "/proc/self/cgroup: 0::", "/"},
		{"three descriptors", "fd: ", "0 /dev/null|1 " + "|2 "},
		{"an interface of its network at most", "/proc/net/dev:     ", "lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0"},
		{"hosts as the job says", "/etc/hosts: ", "127.0.0.1 localhost"},
		{"resolver as the job says", "/etc/resolv.conf: ", "nameserver 192.0.2.1"},
		{"no user but itself", "/etc/passwd: ", fmt.Sprintf("scanner:x:%d:%d::/:/nonexistent", slotUID, slotGID)},
		{"in /proc four names", "ls /proc: ", ".p|mounts|net|self|thread-self"},
		{"and behind them one process", "ls /proc/.p: ", "1|self|thread-self"},
		{"nothing in /tmp", "ls /tmp: ", ""},
		{"nothing in its directory", "ls .: ", ""},
		{"the root cannot be listed", "ls /: ", "errno 13"},
		{"core", "limit core: ", "1 1"},
		{"open files", "limit nofile: ", "256 256"},
		{"output", "limit fsize: ", "9437184 9437184"},
		{"processes", "limit nproc: ", "64 64"},
		{"locked memory", "limit memlock: ", "65536 65536"},
		{"message queues", "limit msgqueue: ", "0 0"},
		{"processor time", "limit cpu: ", "61 61"},
		{"real time", "limit rtprio: ", "0 0"},
		{"priority", "limit nice: ", "0 0"},
		{"signals", "limit sigpending: ", "256 256"},
		{"memory, as no cgroup does it here", "limit data: ", "536870912 536870912"},
	} {
		found := lines(got, row.prefix)
		if strings.HasPrefix(row.prefix, "ls ") {
			slices.Sort(found)
		}
		if strings.HasPrefix(row.prefix, "fd: ") {
			for i := 1; i < len(found); i++ {
				found[i] = found[i][:2] // the names of the test's own files
			}
		}
		if text := strings.Join(found, "|"); text != strings.TrimSpace(row.want) && text != row.want {
			t.Errorf("%s: %s%q, want %q", row.what, row.prefix, text, row.want)
		}
	}
	checkNamespaces(t, got)
	checkMounts(t, got)
}

// checkNamespaces: none but the user namespace is the machine's.
func checkNamespaces(t *testing.T, got string) {
	for _, ns := range lines(got, "ns: ") {
		name, _, _ := strings.Cut(ns, ":")
		ours, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if shared := ns == ours; shared != (name == "user") {
			t.Errorf("namespace %s: box has %s, the machine %s", name, ns, ours)
		}
	}
}

// checkMounts: every mount is read-only and nosuid, but /tmp, which is noexec.
func checkMounts(t *testing.T, got string) {
	var targets []string
	for _, line := range lines(got, "/proc/self/mountinfo: ") {
		fields := strings.Fields(line)
		target, flags := fields[4], strings.Split(fields[5], ",")
		targets = append(targets, target)
		has := func(f string) bool { return slices.Contains(flags, f) }
		device := strings.HasPrefix(target, "/dev/")
		if options := fields[len(fields)-1]; target == "/proc/.p" && !(strings.Contains(options, "hidepid=invisible") && strings.Contains(options, "subset=pid")) {
			t.Errorf("/proc has the options %s", options)
		}
		executable := target == "/usr" || target == "/exe/scanner"
		if !has("nosuid") || has("nodev") == device || has("noexec") == executable || has("ro") == (target == "/own/tmp") {
			t.Errorf("mount %s is %s", target, fields[5])
		}
	}
	want := map[string]bool{"/": true, "/usr": true, "/exe/scanner": true, "/own/tmp": true, "/given/files": true, "/proc/.p": true,
		"/dev/null": true, "/dev/zero": true, "/dev/random": true, "/dev/urandom": true}
	for _, target := range targets {
		if !want[target] && !strings.HasPrefix(target, "/etc/") && !slices.Contains(trees, target[1:]) {
			t.Errorf("mount %s is not one of a box", target)
		}
		delete(want, target)
	}
	if len(want) > 0 {
		t.Errorf("mounts missing: %v", want)
	}
}

// A box without raw sockets holds no capability at all.
func TestInsideWithoutRaw(t *testing.T) {
	got := succeed(t, box, wish(t, "nmap-connect", probe, "nmap", "report"))
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"} {
		if caps := one(t, got, "/proc/self/status: "+set+":"); strings.Trim(caps, "0") != "" {
			t.Errorf("%s is %s", set, caps)
		}
	}
	if env := lines(got, "env: "); len(env) != 0 {
		t.Errorf("environment %q, want none", env)
	}
}

// A scanner reads the files it was given, and writes none of them.
func TestInputs(t *testing.T) {
	name := t.TempDir() + "/words"
	if err := os.WriteFile(name, []byte("admin\nlogin\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec := wish(t, "gobuster", probe, "gobuster", "input", "/in/words")
	spec.Inputs = []Input{{"words", f}}
	want := []string{"/in/words: admin", "/in/words: login", "EACCES"}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(succeed(t, box, spec)), "\n")); diff != "" {
		t.Error(diff)
	}
}

// Two boxes at the same time do not meet, not even under one uid and without the layers that keep
// them from trying. One leaves in its box what it can, for the other to find.
func TestBoxesApart(t *testing.T) {
	weaker := opened(t, Config{Accept: append([]string{Seccomp, Landlock}, accepted...)})
	for _, boxes := range []struct {
		says    string
		without []string
		leaves  string
		finds   map[string]string
	}{
		{"with all layers", nil, "file 0, memory ENOSYS, port ENOSYS, socket EAFNOSUPPORT, file-socket EAFNOSUPPORT", map[string]string{
			"signal": "ENOSYS", "shm": "ENOSYS", "unix-connect": "EAFNOSUPPORT", "connect": "ENETUNREACH"}},
		{"without seccomp and Landlock", []string{Seccomp, Landlock}, "file 0, memory 0, port 0, socket 0, file-socket 0", map[string]string{
			"signal": "ESRCH", "shm": "ENOENT", "unix-connect": "ECONNREFUSED", "connect": "ENETUNREACH"}},
	} {
		t.Run(boxes.says, func(t *testing.T) {
			first, files := wish(t, "nmap-raw", probe, "probe", "neighbour"), outputFiles(t)
			first.Without = boxes.without
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan Result, 1)
			go func() { ended <- weaker.Run(ctx, first, files.Files) }()
			said := func() string { text, _ := files.text(); return text }
			if !within(5*time.Second, func() bool { return strings.HasSuffix(said(), "ready\n") }) {
				t.Fatalf("it is not ready: %s", said())
			}
			if left := strings.ReplaceAll(strings.TrimSuffix(said(), "\nready\n"), "\n", ", "); left != boxes.leaves {
				t.Errorf("one could leave %s, want %s", left, boxes.leaves)
			}
			pid := scannerOf(t, slotUID)
			for _, row := range []struct{ probe, want string }{
				{"read /tmp/neighbour", "ENOENT"},
				{"unix-connect /tmp/neighbour-socket", strings.Replace(boxes.finds["unix-connect"], "ECONNREFUSED", "ENOENT", 1)},
				{"unix-connect @secmcpd-neighbour", boxes.finds["unix-connect"]},
				{"connect 127.0.0.1 4747", boxes.finds["connect"]},
				{"shm", boxes.finds["shm"]},
				{fmt.Sprintf("signal %d", pid), boxes.finds["signal"]},
				{fmt.Sprintf("read /proc/.p/%d/environ", pid), "ENOENT"},
			} {
				second := wish(t, "nmap-raw", probe, append([]string{"probe"}, strings.Fields(row.probe)...)...)
				second.Without = boxes.without
				if got := attempt(t, weaker, second); got != row.want {
					t.Errorf("the other: %s: got %s, want %s", row.probe, got, row.want)
				}
			}
			// Not one namespace of the two is the same, but the one that all share.
			ours := map[string]bool{}
			for _, name := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup", "user"} {
				ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
				if err != nil {
					t.Fatal(err)
				}
				ours[ns] = true
			}
			report := wish(t, "nmap-raw", probe, "probe", "report")
			report.Without = boxes.without
			namespaces := lines(succeed(t, weaker, report), "ns: ")
			for _, ns := range namespaces {
				if ours[ns] != strings.HasPrefix(ns, "user:") {
					t.Errorf("boxes share or split %s", ns)
				}
			}
			if len(namespaces) != 7 {
				t.Errorf("namespaces %q", namespaces)
			}
			select {
			case r := <-ended:
				t.Errorf("the first ended: %+v", r)
			default:
				cancel()
				if r := <-ended; r.Reason != Cancelled || r.Err != nil {
					t.Errorf("got %+v", r)
				}
			}
		})
	}
}
