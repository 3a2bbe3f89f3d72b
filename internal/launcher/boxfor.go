package launcher

import (
	"os"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/sandbox"
)

// cell is where a box is put: the slot's index gives its uid, its network namespace comes from
// the scope.
type cell struct {
	job   string
	uid   uint32
	netns *os.File
	wall  time.Duration
	// without is the scope, where this machine cannot filter and that is accepted.
	without []string
}

// boxFor is the one table from a command to its box: whoever reviews what a scanner may do
// reads this function and its golden file. Nothing here comes from a caller but the words of
// argv that the runner built from typed values.
func boxFor(c runners.Command, exe *os.File, in cell, limits Limits, inputs ...sandbox.Input) sandbox.Spec {
	return sandbox.Spec{
		Without:  in.without,
		Job:      in.job,
		Box:      c.Box,
		Exe:      exe,
		Argv:     c.Argv,
		Env:      nil, // NMAP_ARGS, NMAPDIR, HTTP_PROXY and their like change what a scanner does
		UID:      in.uid,
		GID:      in.uid,
		NetNS:    in.netns,
		Hostname: "box",
		Hosts:    "127.0.0.1 localhost\n::1 localhost\n" + c.Hosts, // judged addresses of judged names
		Resolv:   "",                                               // names were resolved before: no DNS from a scanner's box
		Inputs:   inputs,
		Raw:      c.Raw,
		Limits:   within(limits, in.wall),
	}
}

// boxForResolver is the box in which names are asked for: this program as its own scanner, a
// network whose only target is the name server.
func boxForResolver(exe *os.File, argv []string, hosts string, in cell, limits Limits) sandbox.Spec {
	limits.Output = maxAnswerBytes
	limits.CPUTime = min(limits.CPUTime, 10*time.Second)
	return sandbox.Spec{
		Without:  in.without,
		Job:      in.job,
		Box:      "resolver",
		Exe:      exe,
		Argv:     argv,
		UID:      in.uid,
		GID:      in.uid,
		NetNS:    in.netns,
		Hostname: "box",
		Hosts:    hosts,
		Limits:   within(limits, in.wall),
	}
}

// boxForVersion asks a scanner for its version or its options, without a network.
func boxForVersion(exe *os.File, argv []string, in cell, limits Limits) sandbox.Spec {
	limits.Output = 16 << 10
	limits.CPUTime = min(limits.CPUTime, 10*time.Second)
	return sandbox.Spec{
		Job:      in.job,
		Box:      "version",
		Exe:      exe,
		Argv:     argv,
		UID:      in.uid,
		GID:      in.uid,
		Hostname: "box",
		Limits:   within(limits, in.wall),
	}
}

func within(l Limits, wall time.Duration) sandbox.Limits {
	return sandbox.Limits{
		Memory:     l.Memory,
		Pids:       l.Pids,
		CPUPercent: l.CPUPercent,
		CPU:        l.CPUTime,
		IO:         l.IO,
		OpenFiles:  l.OpenFiles,
		Output:     l.Output,
		Tmp:        l.Tmp,
		TmpInodes:  1024,
		Wall:       wall,
	}
}

// hostsFile is what the machine's own hosts file says, for the resolver's box; it counts before
// DNS, as it does everywhere else on this machine. Too large a file is left out.
func hostsFile() string {
	b, err := os.ReadFile("/etc/hosts")
	if err != nil || len(b) > 32<<10 || strings.ContainsRune(string(b), 0) {
		return ""
	}
	return string(b)
}
