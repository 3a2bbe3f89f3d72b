package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/secmcpd/secmcpd/sandbox"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// inScope is what the scope of the scanners' slots has. Of what answers in the lab it lacks the host
// SSH, the hosts behind the router, and the one outside.
var inScope = []string{SSHAndWeb, Web, Sites, SNMP, DNS, IPv6Host, Sites6, SNMP6, DNS6, Slow}

// words are what gobuster tries, of paths and of names.
const words = "nothing\nadmin\naway\nlogin\nshop\nstaff\nwww\n"

// boxes are made as the launcher makes them, but for the cgroup, which nobody delegates to a test.
func boxes(t *testing.T) *sandbox.Sandbox {
	t.Helper()
	s, err := sandbox.Open(sandbox.Config{Accept: []string{sandbox.Cgroup, sandbox.CgroupMemory, sandbox.CgroupPids, sandbox.CgroupCPU, sandbox.CgroupIO}})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// neighbourOf is the hardware address of the other end of a sender's link.
func neighbourOf(s Sender) (string, error) {
	h, err := handle(s.NS)
	if err != nil {
		return "", err
	}
	defer h.Close()
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return "", err
	}
	all, err := h.NeighList(eth0.Attrs().Index, netlink.FAMILY_V6)
	for _, n := range all {
		if n.IP.Equal(s.Six.Gateway.AsSlice()) {
			return n.HardwareAddr.String(), nil
		}
	}
	return "", errors.Join(errors.New("no neighbour is known"), err)
}

// scanner runs one in its box until it ends or ctx does.
func scanner(ctx context.Context, t *testing.T, boxes *sandbox.Sandbox, in *scope.Slot, uid uint32, profile, command string) (r sandbox.Result, said string) {
	t.Helper()
	argv := strings.Fields(command)
	exe, err := os.Open("/usr/bin/" + argv[0])
	must(t, err)
	defer exe.Close()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "words"), []byte(words), 0o644))
	must(t, os.Chmod(filepath.Join(dir, "words"), 0o644))
	list, err := os.Open(filepath.Join(dir, "words"))
	must(t, err)
	defer list.Close()
	spec := sandbox.Spec{Job: "scan", Box: profile, Exe: exe, Argv: argv, UID: uid, GID: uid, NetNS: in.NetNS(), Hostname: "box",
		Hosts: "127.0.0.1 localhost\n", Raw: profile == "nmap-raw" || profile == "masscan",
		Limits: sandbox.Limits{Memory: 512 << 20, Pids: 64, CPU: time.Minute, OpenFiles: 1024, Output: 8 << 20, Tmp: 1 << 20, TmpInodes: 64, Wall: time.Minute}}
	if profile == "gobuster" {
		spec.Inputs = []sandbox.Input{{Name: "words", File: list}}
		spec.Resolv = "nameserver " + DNS + "\n" // none of ours has one: what follows from an answer is tried here
	}
	var files sandbox.Files
	for name, f := range map[string]**os.File{"out": &files.Stdout, "err": &files.Stderr} {
		*f, err = os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
		must(t, err)
		defer (*f).Close()
	}
	r = boxes.Run(ctx, spec, files)
	for _, f := range []*os.File{files.Stdout, files.Stderr} {
		text, err := os.ReadFile(f.Name())
		must(t, err)
		said += string(text)
	}
	return r, said
}

// The real scanners, each in its box and a slot, find what is there, and whatever they are told and
// whatever they are answered, nothing is seen that is not for their scope.
func TestScannersFindTheirScopeAndStayInIt(t *testing.T) {
	eachFilter(t, scannersStay)
	t.Run("translated", func(t *testing.T) {
		translated(t)
		eachFilter(t, scannersStay)
	})
}

func scannersStay(t *testing.T, noBPF bool) {
	const nmap, connect = "nmap --privileged -n --disable-arp-ping -oX - ", "nmap --unprivileged -n -Pn -oX - "
	b, n := boxes(t), open(t, noBPF)
	sources := Prefixes(SlotsV4, SlotsV6)
	if mode == scope.Translated {
		sources = Prefixes(Uplink, Uplink6)
	}
	o := observed(t, Scope{Sources: sources, Targets: Prefixes(inScope...)})
	strangers := world.Strangers()
	t.Run("all", func(t *testing.T) {
		for i, c := range []struct {
			says, box, argv string
			want            []string // in what it prints
			never           []string
			drops           bool // it is told, or led, to what is off scope, or sends what no slot may: headers beside IPv6's own
		}{
			{"connect", "nmap-connect", connect + "-sT -p 22,80,81 " + SSHAndWeb, []string{`portid="22"><state state="open"`, `portid="81"><state state="closed"`}, nil, false},
			{"connect, IPv6", "nmap-connect", connect + "-6 -sT -p 22,80,81 " + IPv6Host, []string{`portid="22"><state state="open"`, `portid="81"><state state="closed"`}, nil, false},
			{"SYN", "nmap-raw", nmap + "-sS -p 22,80,81 " + SSHAndWeb, []string{`portid="22"><state state="open" reason="syn-ack"`, `portid="81"><state state="closed"`}, nil, false},
			{"SYN, IPv6", "nmap-raw", nmap + "-6 -sS -p 22,80,81 " + IPv6Host, []string{`portid="22"><state state="open" reason="syn-ack"`, `portid="81"><state state="closed"`}, nil, false},
			{"UDP", "nmap-raw", nmap + "-sU -p 161,162 " + SNMP, []string{`portid="161"><state state="open"`, `portid="162"><state state="closed" reason="port-unreach"`}, nil, false},
			{"UDP, IPv6", "nmap-raw", nmap + "-6 -sU -p 161,162 " + SNMP6, []string{`portid="161"><state state="open"`, `portid="162"><state state="closed" reason="port-unreach"`}, nil, false},
			{"ping", "nmap-raw", nmap + "-sn -PE 10.77.0.10-12", []string{`reason="echo-reply"`, `up="2" down="1"`}, nil, true},
			{"ping, IPv6", "nmap-raw", nmap + "-6 -sn -PE " + IPv6Host, []string{`reason="echo-reply"`, `up="1" down="0"`}, nil, false},
			{"operating system", "nmap-raw", nmap + "-O --max-os-tries 1 -p 22,80,81 " + SSHAndWeb, []string{`<osmatch name="Linux`}, nil, false},
			{"operating system, IPv6", "nmap-raw", nmap + "-6 -O --max-os-tries 1 -p 22,80,81 " + IPv6Host, []string{`portid="22"><state state="open"`, `<os>`}, nil, true},
			{"services", "nmap-connect", connect + "-sV -p 22 " + SSHAndWeb, []string{`product="OpenSSH" version="9.2p1 Debian 2+deb12u3"`}, nil, false},
			{"services, IPv6", "nmap-connect", connect + "-6 -sV -p 22 " + IPv6Host, []string{`product="OpenSSH" version="9.2p1 Debian 2+deb12u3"`}, nil, false},
			{"a script", "nmap-connect", connect + "-sT -p 80 --script http-title " + SSHAndWeb, []string{`id="http-title" output="lab"`}, nil, false},
			{"a script, IPv6", "nmap-connect", connect + "-6 -sT -p 80 --script http-title " + IPv6Host, []string{`id="http-title" output="lab"`}, nil, false},
			{"a script that is led off scope", "nmap-connect", connect + "-sT -p 80 --script http-title --script-args http-title.url=/away " + Sites, []string{`id="http-title"`, "10.99.0.5/landed"}, nil, false},
			{"hosts off scope", "nmap-raw", nmap + "-Pn -sS -p 22,80 --max-retries 1 " + SSH + " " + Outside + " " + SSHAndWeb, []string{`portid="22"><state state="open"`, `portid="80"><state state="filtered" reason="no-response"`}, []string{`addr="` + SSH + `" addrtype="ipv4"/><ports><port protocol="tcp" portid="22"><state state="open"`}, true},

			{"ports", "masscan", "masscan -p22,80,81,8080 --rate 200 --wait 1 " + SSHAndWeb + " " + Web, []string{"open port 22/tcp on " + SSHAndWeb, "open port 8080/tcp on " + Web}, []string{"81/tcp"}, false},
			{"ports, IPv6", "masscan", "masscan -p22,80,81 --rate 200 --wait 1 --adapter-ip SOURCE --router-mac-ipv6 ROUTER --range " + IPv6Host, []string{"open port 22/tcp on " + IPv6Host}, []string{"81/tcp"}, false},
			{"ports of hosts off scope", "masscan", "masscan -p22,80 --rate 200 --wait 1 10.77.0.8/29 " + Outside, []string{"open port 22/tcp on " + SSHAndWeb, "open port 80/tcp on " + Web}, []string{SSH, Outside}, true},
			{"ping by masscan", "masscan", "masscan --ping --rate 200 --wait 1 10.77.0.8/29", []string{SSHAndWeb, Web}, []string{SSH}, true},

			{"directories", "gobuster", "gobuster dir -q --no-color -u http://" + Sites + " -w /in/words", []string{"/admin", "(Status: 403)", "/login", "/away"}, []string{"/nothing"}, false},
			{"directories, IPv6", "gobuster", "gobuster dir -q --no-color -u http://[" + Sites6 + "] -w /in/words", []string{"/admin", "(Status: 403)", "/login"}, []string{"/nothing"}, false},
			{"directories that lead off scope", "gobuster", "gobuster dir -q --no-color -r --timeout 2s -u http://" + Sites + " -w /in/words", []string{"/login"}, []string{"/away"}, true},
			{"virtual hosts", "gobuster", "gobuster vhost -q --no-color --append-domain --domain lab.internal -u http://" + Sites + " -w /in/words", []string{"shop.lab.internal", "staff.lab.internal", "away.lab.internal"}, []string{"nothing.lab"}, false},
			{"virtual hosts, IPv6", "gobuster", "gobuster vhost -q --no-color --append-domain --domain lab.internal -u http://[" + Sites6 + "] -w /in/words", []string{"shop.lab.internal", "staff.lab.internal"}, []string{"nothing.lab"}, false},
			{"names", "gobuster", "gobuster dns -q --no-color -d lab.internal -r " + DNS + " -i -w /in/words", []string{"shop.lab.internal", Sites}, []string{"nothing.lab"}, false},
			{"names, asked for over IPv6", "gobuster", "gobuster dns -q --no-color -d lab.internal -r [" + DNS6 + "]:53 -i -w /in/words", []string{"shop.lab.internal", Sites6}, []string{"nothing.lab"}, false},
			{"directories of a name that moves off scope", "gobuster", "gobuster dir -q --no-color --timeout 2s -u http://n" + strings.ReplaceAll(t.Name(), "/", "-") + ".rebind.lab.internal -w /in/words", []string{"Timeout"}, nil, true},
		} {
			t.Run(c.says, func(t *testing.T) {
				t.Parallel()
				s, err := n.Slot(t.Context(), scope.All(Prefixes(inScope...)...), 0)
				must(t, err)
				defer func() { must(t, s.Close()) }()
				ends, err := SenderIn(s.NetNS())
				must(t, err)
				router, err := neighbourOf(ends)
				must(t, err)
				// masscan finds no IPv6 address of its own but a global one, nor such a router.
				argv := strings.NewReplacer("SOURCE", ends.Six.Source.String(), "ROUTER", router).Replace(c.argv)
				ctx, done := context.WithTimeout(t.Context(), 40*time.Second)
				defer done()
				ticks := make(chan error, 1)
				go func() { ticks <- s.Tick(ctx) }()
				r, said := scanner(ctx, t, b, s, 1<<30+uint32(os.Getpid())<<8+uint32(i), c.box, argv)
				done()
				must(t, <-ticks)
				if r.Reason != sandbox.Exited {
					t.Errorf("it ended by %s: %v", r.Reason, r.Err)
				}
				for _, want := range c.want {
					if !strings.Contains(said, want) {
						t.Errorf("it does not say %q", want)
					}
				}
				for _, never := range c.never {
					if strings.Contains(said, never) {
						t.Errorf("it says %q", never)
					}
				}
				counted, err := s.Counters()
				must(t, err)
				if counted.Sent == 0 || counted.Dropped > 0 != c.drops {
					t.Errorf("the kernel counted %+v", counted)
				}
				if t.Failed() || testing.Verbose() {
					t.Logf("%s\nstatus %d, %+v\n%s", argv, r.Code, counted, said)
				}
			})
		}
	})
	o.Check(t, "the scanners")
	if o.Permitted() == 0 {
		t.Error("nothing was seen of them")
	}
	if now := world.Strangers(); now != strangers {
		t.Errorf("%d frames reached the host outside, the last of all: %v", now-strangers, world.strangers.kept[max(0, len(world.strangers.kept)-3):])
	}
}

// A scanner that waits for a packet before it looks whether it is done waits for ever on a link on which
// nobody answers, unless somebody ticks.
func TestAQuietLinkHoldsNoScanner(t *testing.T) {
	b, n := boxes(t), open(t, false)
	for _, ticking := range []bool{false, true} {
		s, err := n.Slot(t.Context(), scope.All(Prefixes(Slow)...), 0)
		must(t, err)
		ctx, done := context.WithTimeout(t.Context(), 10*time.Second)
		if ticking {
			go func() {
				if err := s.Tick(ctx); err != nil {
					t.Error(err)
				}
			}()
		}
		before, err := s.Counters()
		must(t, err)
		r, said := scanner(ctx, t, b, s, 1<<30+uint32(os.Getpid())<<8, "masscan", "masscan -p80 --rate 100 --wait 1 10.77.1.0/29")
		if ended := ctx.Err() == nil; ended != ticking || errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("with ticks is %v, and it ended is %v: %s, %v\n%s", ticking, ended, r.Reason, r.Err, said)
		}
		done()
		after, err := s.Counters()
		must(t, err)
		if after.Sent == before.Sent || after.Received > before.Received+1 || after.Refused != before.Refused { // one is the gateway's address
			t.Errorf("before %+v, after %+v", before, after)
		}
		must(t, s.Close())
	}
}
