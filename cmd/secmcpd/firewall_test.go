package main

import (
	"encoding/binary"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

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

// The older firewalls, which nf_tables does not show.
func TestAnOlderFirewallThatDropsIsTold(t *testing.T) {
	const drop = "-P FORWARD DROP"
	for _, row := range []struct {
		says  string
		rules []string // of iptables-legacy; 6 before one is for ip6tables-legacy
		drops string
	}{
		{"none", nil, ""},
		{"one that accepts", []string{"-A FORWARD -p tcp --dport 25 -j DROP"}, ""},
		{"one that drops what comes in", []string{"-P INPUT DROP", "-A OUTPUT -j DROP"}, ""},
		{"a policy", []string{drop}, "iptables-legacy"},
		{"a policy behind rules", []string{drop, "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", "-N other", "-A FORWARD -j other"}, "iptables-legacy"},
		{"a policy for IPv6", []string{"6 " + drop, "6 -A FORWARD -s fd00::/8 -j ACCEPT"}, "ip6tables-legacy"},
		{"a last rule that rejects", []string{"-A FORWARD -i eth0 -j ACCEPT", "-A FORWARD -m comment --comment all -j REJECT"}, "iptables-legacy"},
		{"a last rule that drops", []string{"6 -A FORWARD -j DROP"}, "ip6tables-legacy"},
		{"a last rule for some", []string{"-A FORWARD -d 10.0.0.0/8 -j DROP"}, ""},
		{"a last rule for one interface", []string{"-A FORWARD -i eth0 -j DROP"}, ""},
		{"one that accepts one direction", []string{drop, "-A FORWARD -i secv+ -j ACCEPT"}, "iptables-legacy"},
		{"one that accepts a part", []string{drop, "-A FORWARD -i secv+ -p tcp -j ACCEPT", "-A FORWARD -o secv+ -j ACCEPT"}, "iptables-legacy"},
		{"one that accepts what leaves by one interface", []string{drop, "-A FORWARD -i secv+ -o eth0 -j ACCEPT", "-A FORWARD -o secv+ -j ACCEPT"}, "iptables-legacy"},
		{"a last rule for fragments", []string{"-A FORWARD -f -j DROP"}, ""},
		{"one that accepts all but", []string{drop, "-A FORWARD ! -i secv+ -j ACCEPT", "-A FORWARD -o secv+ -j ACCEPT"}, "iptables-legacy"},
		{"one that accepts another interface", []string{drop, "-A FORWARD -i secv -j ACCEPT", "-A FORWARD -o secv+ -j ACCEPT"}, "iptables-legacy"},
		{"one that accepts both", []string{drop, "-A FORWARD -i secv+ -j ACCEPT", "-A FORWARD -o secv+ -j ACCEPT"}, ""},
		{"one that accepts both where its operator's rules are", []string{drop, "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -i secv+ -j ACCEPT", "-A DOCKER-USER -o secv+ -j ACCEPT"}, ""},
	} {
		t.Run(row.says, func(t *testing.T) {
			runtime.LockOSThread() // never unlocked, as above
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Fatal(err)
			}
			for _, rule := range row.rules {
				if six, is := strings.CutPrefix(rule, "6 "); is {
					shell(t, "ip6tables-legacy "+six)
				} else {
					shell(t, "iptables-legacy "+rule)
				}
			}
			f := lookForward()
			if row.drops == "" {
				if f.Status != statusOK {
					t.Errorf("%+v", f)
				}
				return
			}
			if f.Status != statusWarning || f.Found != "the chain FORWARD of "+row.drops+" drops what is forwarded" {
				t.Fatalf("%+v", f)
			}
			line, _, _ := strings.Cut(f.Mend, ",")
			shell(t, line)
			if f := lookForward(); f.Status != statusOK {
				t.Errorf("with %q: %+v", line, f)
			}
		})
	}
}

// Whoever looks makes no table: one that is there is reason enough for other programs to use it.
func TestLookingForOlderFirewallsMakesNone(t *testing.T) {
	runtime.LockOSThread() // never unlocked, as above
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	lookForward()
	for _, o := range olders {
		if names, err := os.ReadFile("/proc/thread-self/net/" + o.names); err == nil && len(names) > 0 {
			t.Errorf("%s: %q", o.names, names)
		}
	}
}

// wellFormed is a rule that drops whatever comes, behind a match without a name.
func (o older) wellFormed() []byte {
	b := make([]byte, o.size+32+40)
	binary.NativeEndian.PutUint16(b[o.target:], uint16(o.size+32))
	binary.NativeEndian.PutUint16(b[o.target+2:], uint16(len(b)))
	binary.NativeEndian.PutUint16(b[o.size:], 32)
	drop := int32(-olderDrop - 1)
	binary.NativeEndian.PutUint32(b[o.size+32+32:], uint32(drop))
	return b
}

// Rules of a form that is not known are said to be so, and read no further.
func TestOlderRulesOfAnotherFormAreNotRead(t *testing.T) {
	for _, o := range olders {
		good := o.wellFormed()
		if r, next, err := o.rule(good); err != nil || next != len(good) || r.verdict != olderDrop || len(r.conditions) != 1 {
			t.Fatalf("%s: %+v, %d, %v", o.command, r, next, err)
		}
		for says, change := range map[string]struct {
			at int
			to uint16
		}{
			"whose target is in its header": {o.target, uint16(o.size - 1)},
			"without room for a target":     {o.target + 2, uint16(o.size + 32 + 35)},
			"longer than there is":          {o.target + 2, uint16(len(good) + 1)},
			"with a match that is short":    {o.size, 31},
			"with a match that is long":     {o.size, 33},
			"with a match that never ends":  {o.size, 0},
		} {
			b := slices.Clone(good)
			binary.NativeEndian.PutUint16(b[change.at:], change.to)
			if r, _, err := o.rule(b); err == nil {
				t.Errorf("%s: a rule %s is %+v", o.command, says, r)
			}
		}
		for i := range good {
			if _, _, err := o.rule(good[:i]); err == nil {
				t.Errorf("%s: %d bytes of a rule of %d are one", o.command, i, len(good))
			}
		}
	}
}

func FuzzOlderRule(f *testing.F) {
	f.Add(make([]byte, 200))
	for _, o := range olders {
		f.Add(o.wellFormed())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, o := range olders {
			if _, next, err := o.rule(b); err == nil && (next <= 0 || next > len(b)) {
				t.Errorf("the next rule is at %d of %d", next, len(b))
			}
		}
	})
}

func shell(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
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
