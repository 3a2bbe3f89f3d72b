package main

import (
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Other firewalls, in a network namespace of the test's own. Where one drops, the line that doctor
// names is all that is needed.
func TestAFirewallThatDropsWhatIsForwardedIsTold(t *testing.T) {
	for _, row := range []struct{ says, rules, drops string }{
		{"no firewall", "", ""},
		{"one that accepts", `table inet f { chain forward { type filter hook forward priority 0; policy accept; tcp dport 25 drop; }; }`, ""},
		{"one that drops what comes in", `table inet f { chain in { type filter hook input priority 0; policy drop; }; }`, ""},
		{"our own", `table inet secmcpd { chain forward { type filter hook forward priority -310; policy accept; oifname "secv*" drop; }; }`, ""},
		{"a policy", `table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; ct state established,related accept; }; }`, "ip filter FORWARD"},
		{"a policy for IPv6", `table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }`, "ip6 filter FORWARD"},
		{"a last rule that rejects", `table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy accept; ct state established accept; counter reject with icmpx admin-prohibited; }; }`, "inet firewalld filter_FORWARD"},
		{"a last rule that drops", `table inet f { chain forward { type filter hook forward priority 0; iifname "eth0" accept; counter log drop; }; }`, "inet f forward"},
		{"one that accepts one direction", `table inet f { chain forward { type filter hook forward priority 0; policy drop; iifname "secv*" accept; }; }`, "inet f forward"},
		{"one that accepts a part", `table inet f { chain forward { type filter hook forward priority 0; policy drop; iifname "secv*" tcp dport 80 accept; oifname "secv*" accept; }; }`, "inet f forward"},
		{"one that accepts both", `table inet f { chain forward { type filter hook forward priority 0; policy drop; iifname "secv*" counter accept; oifname "secv*" accept; }; }`, ""},
		{"one that accepts both where its operator's rules are", `table ip filter { chain DOCKER-USER { iifname "secv*" accept; oifname "secv*" accept; }
			chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }`, ""},
	} {
		t.Run(row.says, func(t *testing.T) {
			runtime.LockOSThread() // never unlocked: the thread ends with the test, and its network with it
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Fatal(err)
			}
			nft(t, row.rules)
			f := lookForward()
			if row.drops == "" {
				if f.Status != statusOK {
					t.Errorf("%+v", f)
				}
				return
			}
			if f.Status != statusWarning || !strings.Contains(f.Found, "the chain "+row.drops+" drops") {
				t.Fatalf("%+v", f)
			}
			line := regexp.MustCompile(`^nft '([^']+)'`).FindStringSubmatch(f.Mend)
			if line == nil {
				t.Fatalf("no line to add in %q", f.Mend)
			}
			nft(t, line[1])
			if f := lookForward(); f.Status != statusOK {
				t.Errorf("with that line: %+v", f)
			}
		})
	}
}

// The older filter is not looked at, and that is said.
func TestAnOlderFilterIsSaid(t *testing.T) {
	runtime.LockOSThread() // never unlocked, as above
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if f := lookForward(); strings.Contains(f.Found, "iptables-legacy") {
		t.Errorf("where there is none: %+v", f)
	}
	// Whoever asks for the table makes it.
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	const info = 64 // IPT_SO_GET_INFO, of 84 bytes that begin with the table's name
	table := [84]byte{'f', 'i', 'l', 't', 'e', 'r'}
	size := uint32(len(table))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(s), unix.SOL_IP, info, uintptr(unsafe.Pointer(&table)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		t.Fatal(errno)
	}
	if f := lookForward(); f.Status != statusOK || !strings.Contains(f.Found, "iptables-legacy -S FORWARD") {
		t.Errorf("%+v", f)
	}
}

func nft(t *testing.T, rules string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}
