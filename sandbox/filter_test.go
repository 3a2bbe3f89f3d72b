package sandbox

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What a filter answers.
const (
	answerAllow  = "allow"
	answerKill   = "kill"
	answerENOSYS = "ENOSYS"
)

// interpreted is a compiled filter in the classic interpreter: the rules as the kernel is given
// them, run without it.
type interpreted struct {
	t  *testing.T
	vm *bpf.VM
}

const execFD = 256

func interpret(t *testing.T, profile string) interpreted {
	t.Helper()
	program, err := profiles[profile].program(execFD)
	if err != nil {
		t.Fatal(err)
	}
	var raw []bpf.RawInstruction
	for b := range slices.Chunk(program, 8) {
		raw = append(raw, bpf.RawInstruction{Op: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:])})
	}
	instructions, whole := bpf.Disassemble(raw)
	if !whole {
		t.Fatalf("%s: an instruction that no classic filter has", profile)
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	return interpreted{t, vm}
}

// audit architectures, of linux/audit.h
var architectures = map[string]uint32{"amd64": 0xc000003e, "arm64": 0xc00000b7, "386": 0x40000003}

// answer of the filter to a call of this processor. The interpreter reads words in the order of
// the network, seccomp in that of the machine: each half of struct seccomp_data is laid out so.
func (i interpreted) answer(number uint32, arguments ...uint64) string {
	return i.answerOn(architectures[runtime.GOARCH], number, arguments...)
}

func (i interpreted) answerOn(architecture, number uint32, arguments ...uint64) string {
	i.t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[0:], number)
	binary.BigEndian.PutUint32(data[4:], architecture)
	for n, a := range arguments {
		low, high := 16+8*n, 20+8*n
		if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
			low, high = high, low
		}
		binary.BigEndian.PutUint32(data[low:], uint32(a))
		binary.BigEndian.PutUint32(data[high:], uint32(a>>32))
	}
	r, err := i.vm.Run(data)
	if err != nil {
		i.t.Fatal(err)
	}
	switch action := uint32(r); action {
	case unix.SECCOMP_RET_ALLOW:
		return answerAllow
	case unix.SECCOMP_RET_KILL_PROCESS:
		return answerKill
	default:
		if action&unix.SECCOMP_RET_ACTION_FULL != unix.SECCOMP_RET_ERRNO {
			return fmt.Sprintf("%#x", action)
		}
		return unix.ErrnoName(unix.Errno(action & unix.SECCOMP_RET_DATA))
	}
}

func number(t *testing.T, name string) uint32 {
	t.Helper()
	n, err := seccomp.GetSyscallFromName(name)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// What the compiled filters answer to calls whose arguments count.
func TestFilterArguments(t *testing.T) {
	const high = 0xdead_beef_0000_0000 // the kernel ignores it in an int
	thread := uint64(threadFlags)
	for _, row := range []struct {
		profiles, call string
		arguments      []uint64
		want           string
	}{
		{"all", "execveat", []uint64{execFD, 1, 1, 1, unix.AT_EMPTY_PATH}, answerAllow},
		{"all", "execveat", []uint64{high | execFD, 1, 1, 1, unix.AT_EMPTY_PATH}, answerAllow},
		{"all", "execveat", []uint64{execFD + 1, 1, 1, 1, unix.AT_EMPTY_PATH}, answerENOSYS},
		{"all", "execveat", []uint64{execFD, 1, 1, 1, 0}, answerENOSYS},
		{"all", "execveat", []uint64{0xffffff9c, 1, 1, 1, 0}, answerENOSYS}, // AT_FDCWD
		{"masscan gobuster declared declared-raw resolver version", "clone", []uint64{thread}, answerAllow},
		{"masscan gobuster declared declared-raw resolver version", "clone", []uint64{thread | unix.CLONE_SETTLS}, answerAllow},
		{"masscan gobuster declared declared-raw resolver version", "clone", []uint64{thread &^ unix.CLONE_THREAD}, answerENOSYS},
		{"masscan gobuster declared declared-raw resolver version", "clone", []uint64{thread | unix.CLONE_NEWUSER}, answerENOSYS},
		{"masscan gobuster declared declared-raw resolver version", "clone", []uint64{thread | unix.CLONE_NEWNET}, answerENOSYS},
		{"masscan gobuster declared declared-raw resolver version", "clone", []uint64{uint64(unix.SIGCHLD)}, answerENOSYS},
		{"nmap-raw nmap-connect", "clone", []uint64{thread}, answerENOSYS},
		{"all", "clone3", []uint64{0, 88}, answerENOSYS},
		{"all", "ioctl", []uint64{0, unix.TCGETS}, answerAllow},
		{"all", "ioctl", []uint64{0, unix.TIOCSTI}, answerENOSYS},
		{"all", "ioctl", []uint64{0, high | unix.TIOCSTI}, answerENOSYS},
		{"all", "ioctl", []uint64{0, unix.TIOCLINUX}, answerENOSYS},
		{"all", "ioctl", []uint64{0, unix.SIOCSIFFLAGS}, answerENOSYS},
		{"nmap-raw nmap-connect masscan declared-raw", "ioctl", []uint64{3, unix.SIOCGIFHWADDR}, answerAllow},
		{"gobuster declared resolver version", "ioctl", []uint64{3, unix.SIOCGIFHWADDR}, answerENOSYS},
		{"all", "prctl", []uint64{unix.PR_SET_NAME}, answerAllow},
		{"all", "prctl", []uint64{unix.PR_SET_SECCOMP, 2}, answerENOSYS},
		{"all", "prctl", []uint64{unix.PR_SET_DUMPABLE, 1}, answerENOSYS},
		{"all", "prctl", []uint64{unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, 21}, answerENOSYS},
		{"all", "fcntl", []uint64{1, unix.F_GETFL}, answerAllow},
		{"all", "fcntl", []uint64{1, unix.F_NOTIFY}, answerENOSYS},
		{"all", "fcntl", []uint64{1, unix.F_DUPFD, 10}, answerENOSYS},
		{"all", "fcntl", []uint64{1, unix.F_SETFL, unix.O_APPEND | unix.O_NONBLOCK}, answerAllow},
		{"all", "fcntl", []uint64{1, unix.F_SETFL, unix.O_NONBLOCK}, answerENOSYS},
		{"all", "fcntl", []uint64{high | 2, unix.F_SETFL, unix.O_NONBLOCK}, answerENOSYS},
		{"all", "fcntl", []uint64{3, unix.F_SETFL, unix.O_NONBLOCK}, answerAllow},
		{"all", "fcntl", []uint64{77, unix.F_SETFL, unix.O_NONBLOCK}, answerAllow},
		{"all", "fcntl", []uint64{high | 4, unix.F_SETFL, unix.O_NONBLOCK}, answerAllow},
		{"all", "fcntl", []uint64{execFD - 1, unix.F_SETFL, unix.O_NONBLOCK}, answerAllow},
		{"all", "fcntl", []uint64{1, unix.F_SETOWN, 1}, answerENOSYS},
		{"all", "fcntl", []uint64{1, unix.F_SETLEASE}, answerENOSYS},
		{"all", "prlimit64", []uint64{0, unix.RLIMIT_NOFILE}, answerAllow},
		{"all", "prlimit64", []uint64{1, unix.RLIMIT_NOFILE}, answerENOSYS},
		{"nmap-raw nmap-connect masscan gobuster declared declared-raw resolver", "getsockopt", []uint64{3, unix.SOL_SOCKET, unix.SO_ERROR}, answerAllow},
		{"all", "getsockopt", []uint64{3, unix.SOL_IP, 64}, answerENOSYS},
		{"all", "getsockopt", []uint64{3, unix.SOL_TCP, unix.TCP_ZEROCOPY_RECEIVE}, answerENOSYS},
		{"nmap-raw masscan declared-raw", "setsockopt", []uint64{3, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, answerAllow},
		{"nmap-connect gobuster declared resolver version", "setsockopt", []uint64{3, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, answerENOSYS},
		{"all", "setsockopt", []uint64{3, unix.SOL_SOCKET, unix.SO_MARK}, answerENOSYS},
		{"all", "setsockopt", []uint64{3, high | unix.SOL_PACKET, unix.PACKET_FANOUT}, answerENOSYS},
		{"all", "setsockopt", []uint64{3, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS}, answerENOSYS},
		{"all", "socket", []uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, "EAFNOSUPPORT"},
		{"all", "execve", nil, answerKill},
		{"all", "mount", nil, answerKill},
		{"nmap-raw nmap-connect masscan gobuster declared declared-raw version", "seccomp", []uint64{1}, answerKill},
		{"resolver", "seccomp", []uint64{1}, answerENOSYS},
	} {
		names := strings.Fields(row.profiles)
		if row.profiles == "all" {
			names = boxNames()
		}
		for _, name := range names {
			if got := interpret(t, name).answer(number(t, row.call), row.arguments...); got != row.want {
				t.Errorf("%s: %s %x: %s, want %s", name, row.call, row.arguments, got, row.want)
			}
		}
	}
}

// Of the sockets there are, exactly the listed ones are allowed, however the rest of an argument looks.
func TestFilterSockets(t *testing.T) {
	socket := number(t, "socket")
	for _, name := range boxNames() {
		filter := interpret(t, name)
		for family := range uint64(48) {
			for kind := range uint64(12) {
				for _, protocol := range []uint64{0, 1, 2, 3, 4, 6, 9, 12, 15, 16, 17, 33, 41, 58, 132, 136, 255, 262, 0x0300, 0x0608} {
					want := answerENOSYS
					if family == unix.AF_UNIX {
						want = "EAFNOSUPPORT"
					}
					if slices.ContainsFunc(profiles[name].sockets, func(s socketKind) bool {
						return s.family == family && s.kind == kind && (s.protocol == protocol || s.protocol == anyProtocol)
					}) {
						want = answerAllow
					}
					for _, more := range []uint64{0, unix.SOCK_CLOEXEC, unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC, 1 << 32} {
						if got := filter.answer(socket, family|1<<40, kind|more, protocol|1<<63); got != want {
							t.Fatalf("%s: socket(%d, %d|%#x, %d): %s, want %s", name, family, kind, more, protocol, got, want)
						}
					}
				}
			}
		}
	}
}

// Every number there is and some that are not, under every profile: what is listed is allowed,
// what is deadly kills, all else is unknown. Then the kernel is asked the same: all that are
// unknown in one box, each deadly one in a box of its own.
func TestFilterAnswers(t *testing.T) {
	const newest = 600
	// uretprobe and uprobe: the kernel itself calls them, past every filter since Linux 6.14, and
	// answers whoever else does with a signal.
	unfiltered := []uint32{335, 336}
	conditional := []string{"clone", "execveat", "getsockopt", "fcntl", "ioctl", "prctl", "setsockopt"}
	zero := []string{"prlimit64"} // of itself
	if number, err := seccomp.GetSyscallFromName("getpgrp"); err != nil || number < 0 {
		zero = append(zero, "getpgid") // as well
	}
	for i, name := range boxNames() {
		filter, p := interpret(t, name), profiles[name]
		var unknown, deadly []string
		for n := range uint32(newest) {
			call, err := seccomp.ScmpSyscall(n).GetName()
			want := answerENOSYS
			switch {
			case err != nil || slices.Contains(conditional, call):
			case slices.Contains(p.calls, call) || slices.Contains(zero, call):
				want = answerAllow
			case slices.Contains(killed, call) && !slices.Contains(p.spared, call):
				want = answerKill
			}
			if got := filter.answer(n, 0, 0, 0, 0, 0, 0); got != want {
				t.Errorf("%s: call %d (%s): %s, want %s", name, n, call, got, want)
			}
			switch {
			case slices.Contains(unfiltered, n):
			case want == answerENOSYS:
				unknown = append(unknown, strconv.Itoa(int(n)))
			case want == answerKill:
				deadly = append(deadly, strconv.Itoa(int(n)))
			}
		}
		if len(unknown) < 200 || len(deadly) < 70 {
			t.Errorf("%s: %d unknown calls, %d deadly ones: the numbers do not come from a table", name, len(unknown), len(deadly))
		}
		if got := succeed(t, box, wish(t, name, probe, append([]string{"probe", "answers"}, unknown...)...)); got != "" {
			t.Errorf("%s: the kernel knows calls %s", name, strings.Fields(got))
		}
		for j, n := range deadly {
			if testing.Short() && j%len(profiles) != i { // each once
				continue
			}
			if got := attempt(t, box, wish(t, name, probe, "probe", "answers", n)); got != "!" {
				t.Errorf("%s: call %s: %s, want it to kill", name, n, got)
			}
		}
	}
}

// A filter is built once for all boxes of a kind, and each kind has its own.
func TestFilterIsBuiltOnce(t *testing.T) {
	built := map[*byte]string{}
	for range 2 {
		for _, name := range boxNames() {
			spec := Spec{Box: name, Limits: limits()}
			first, err := box.program(spec)
			if err != nil {
				t.Fatal(err)
			}
			again, err := box.program(spec)
			if err != nil || &first[0] != &again[0] {
				t.Errorf("%s: built again, error %v", name, err)
			}
			built[&first[0]] = name
			spec.Limits.OpenFiles++
			if other, err := box.program(spec); err != nil || &other[0] == &first[0] {
				t.Errorf("%s: the filter of another limit, error %v", name, err)
			}
		}
	}
	if len(built) != len(profiles) {
		t.Errorf("%d filters of %d profiles", len(built), len(profiles))
	}
}

// The other ways into the kernel have other tables, so the filter knows none of their numbers.
func TestFilterOtherTables(t *testing.T) {
	for _, name := range boxNames() {
		filter := interpret(t, name)
		for architecture, code := range architectures {
			if architecture == runtime.GOARCH {
				continue
			}
			for n := range uint32(600) {
				if got := filter.answerOn(code, n); got != answerKill {
					t.Fatalf("%s: call %d of %s: %s", name, n, architecture, got)
				}
			}
		}
		for n := range uint32(600) { // x32
			if got := filter.answer(0x40000000 | n); runtime.GOARCH == "amd64" && got != answerKill {
				t.Fatalf("%s: call %d of x32: %s", name, n, got)
			}
		}
	}
}
