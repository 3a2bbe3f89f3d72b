package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lab is two network namespaces and a cable: the scanner's, and one with a
// host that listens. Nothing of it touches a network of the machine.
type lab struct {
	netns *os.File // the scanner's
	poker net.Conn // from the host to the scanner
}

const (
	hostIP    = "10.77.0.2"
	hostIP6   = "fd77::2"
	scannerIP = "10.77.0.1"
)

func newLab(t *testing.T) lab {
	t.Helper()
	a, b := fmt.Sprintf("secmcpd-%d-a", os.Getpid()), fmt.Sprintf("secmcpd-%d-b", os.Getpid())
	for _, name := range []string{a, b} {
		command(t, "ip", "netns", "add", name)
		t.Cleanup(func() { command(t, "ip", "netns", "del", name) })
	}
	command(t, "ip", "-n", a, "link", "add", "s0", "type", "veth", "peer", "name", "h0", "netns", b)
	for _, end := range []struct{ ns, dev, v4, v6 string }{{a, "s0", scannerIP, "fd77::1"}, {b, "h0", hostIP, hostIP6}} {
		command(t, "ip", "-n", end.ns, "addr", "add", end.v4+"/24", "dev", end.dev)
		command(t, "ip", "-n", end.ns, "addr", "add", end.v6+"/64", "dev", end.dev, "nodad")
		command(t, "ip", "-n", end.ns, "link", "set", end.dev, "up")
		command(t, "ip", "-n", end.ns, "link", "set", "lo", "up")
	}
	command(t, "ip", "-n", a, "route", "add", "default", "via", hostIP) // masscan sends to a router or not at all
	open := func(name string) *os.File {
		f, err := os.Open(filepath.Join("/run/netns", name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	host := open(b)
	l := lab{netns: open(a)}
	inThread(t, func() (err error) {
		if err = unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		if l.poker, err = net.Dial("udp", scannerIP+":9"); err != nil {
			return err
		}
		return serveHost(t)
	})
	t.Cleanup(func() { l.poker.Close() })
	return l
}

// serveHost opens the host's services; sockets stay in the namespace of the
// thread that made them.
func serveHost(t *testing.T) error {
	ssh, err := net.Listen("tcp", ":22")
	if err != nil {
		return err
	}
	web, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	dns, err := net.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	dnsTCP, err := net.Listen("tcp", ":53")
	if err != nil {
		return err
	}
	for _, c := range []io.Closer{ssh, web, dns, dnsTCP} {
		t.Cleanup(func() { c.Close() })
	}
	go accept(ssh, func(c net.Conn) { io.WriteString(c, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"); time.Sleep(time.Second) })
	go http.Serve(web, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" && r.URL.Path != "/admin" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, "<title>lab host</title>")
	}))
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := dns.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := answer(buf[:n], true); reply != nil {
				dns.WriteTo(reply, from)
			}
		}
	}()
	go accept(dnsTCP, func(c net.Conn) {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err == nil {
			reply := answer(query, false)
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
		}
	})
	return nil
}

func accept(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); serve(c) }()
	}
}

// answer knows the IPv4 address of web.lab.internal and long.lab.internal, and
// tells the second only over TCP. It takes the question as it came and adds to it.
func answer(query []byte, udp bool) []byte {
	const header, truncated, noSuchName = 12, 0x02, 3
	end := bytes.IndexByte(query[min(header, len(query)):], 0) + header + 1 // of the name
	if len(query) < end+4 {
		return nil
	}
	known := bytes.HasSuffix(query[:end], []byte("\x03lab\x08internal\x00"))
	reply := append([]byte{}, query[:end+4]...)
	reply[2], reply[3] = 0x84, 0 // an answer, with authority
	copy(reply[6:header], make([]byte, 6))
	switch {
	case udp && bytes.HasPrefix(query[header:], []byte("\x04long")):
		reply[2] |= truncated
	case !known:
		reply[3] = noSuchName
	case query[end+1] == 1: // A
		reply[7] = 1
		reply = append(reply, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 77, 0, 2)
	}
	return reply
}

// The real scanners, in the real box, find what is there.
func TestScans(t *testing.T) {
	l := newLab(t)
	words := filepath.Join(t.TempDir(), "words")
	if err := os.WriteFile(words, []byte("nothing\nadmin\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(words, 0o644); err != nil {
		t.Fatal(err)
	}
	list, err := os.Open(words)
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	nmap := []string{"nmap", "--privileged", "-n", "--disable-arp-ping", "-oX", "-"}
	with := func(base []string, more string) []string {
		return append(base[:len(base):len(base)], strings.Fields(more)...)
	}
	for _, row := range []struct {
		says string
		box  string
		argv []string
		want []string
	}{
		{"nmap: which hosts are there, by ARP", "nmap-raw", strings.Fields("nmap --privileged -n -sn -oX - 10.77.0.2-3"), []string{`reason="arp-response"`, `up="1" down="1"`}},
		{"nmap: which hosts are there, by echo", "nmap-raw", with(nmap, "-sn -PE "+hostIP), []string{`reason="echo-reply"`}},
		{"nmap: SYN", "nmap-raw", with(nmap, "-sS -p 22,80,81 "+hostIP), []string{`portid="22"><state state="open" reason="syn-ack"`, `portid="81"><state state="closed" reason="reset"`}},
		{"nmap: SYN by Ethernet frames", "nmap-raw", with(nmap, "--send-eth -sS -p 22,81 "+hostIP), []string{`portid="22"><state state="open"`, `portid="81"><state state="closed"`}},
		{"nmap: SYN over IPv6", "nmap-raw", with(nmap, "-6 -sS -p 22,81 "+hostIP6), []string{`portid="22"><state state="open" reason="syn-ack"`, `portid="81"><state state="closed"`}},
		{"nmap: UDP", "nmap-raw", with(nmap, "-sU -p 53,54 "+hostIP), []string{`portid="53"><state state="open"`, `portid="54"><state state="closed" reason="port-unreach"`}},
		{"nmap: UDP over IPv6", "nmap-raw", with(nmap, "-6 -sU -p 53,54 "+hostIP6), []string{`portid="53"><state state="open"`, `portid="54"><state state="closed"`}},
		{"nmap: which system", "nmap-raw", with(nmap, "-O --osscan-limit -p 22,80,81 "+hostIP), []string{`<osmatch name="Linux`}},
		{"nmap: everything, with the way there", "nmap-raw", with(nmap, "-A -p 22,80,81 "+hostIP), []string{`product="OpenSSH"`, `<trace`, "lab host"}},
		{"nmap: SCTP", "nmap-raw", with(nmap, "-sY -p 22 "+hostIP), []string{`<port protocol="sctp" portid="22"><state state="`}},
		{"nmap: connect", "nmap-connect", with([]string{"nmap", "--unprivileged", "-n", "-Pn", "-oX", "-"}, "-sT -p 22,80,81 "+hostIP), []string{`portid="22"><state state="open"`, `portid="81"><state state="closed" reason="conn-refused"`}},
		{"nmap: connect over IPv6", "nmap-connect", with([]string{"nmap", "--unprivileged", "-n", "-Pn", "-6", "-oX", "-"}, "-sT -p 22,81 "+hostIP6), []string{`portid="22"><state state="open"`, `portid="81"><state state="closed"`}},
		{"nmap: versions", "nmap-connect", with([]string{"nmap", "--unprivileged", "-n", "-Pn", "-oX", "-"}, "-sV -p 22 "+hostIP), []string{`product="OpenSSH" version="9.2p1 Debian 2"`}},
		{"nmap: a safe script", "nmap-connect", with([]string{"nmap", "--unprivileged", "-n", "-Pn", "-oX", "-"}, "-sT --script http-title -p 80 "+hostIP), []string{`id="http-title" output="lab host"`}},
		{"masscan: ports", "masscan", strings.Fields("masscan -p22,80,81 --rate 500 --wait 1 -oJ - --interface s0 " + hostIP), []string{`"port": 22`, `"port": 80`}},
		{"gobuster: directories", "gobuster", strings.Fields("gobuster dir -u http://" + hostIP + " -w /in/words -q --no-error"), []string{"/admin"}},
		{"resolver: a name", "resolver", []string{"resolver", "web.lab.internal"}, []string{"web.lab.internal [10.77.0.2]"}},
		{"resolver: a name that takes TCP", "resolver", []string{"resolver", "long.lab.internal"}, []string{"long.lab.internal [10.77.0.2]"}},
	} {
		t.Run(row.says, func(t *testing.T) {
			exe := "/usr/bin/" + row.argv[0]
			if row.box == "resolver" {
				exe = "/proc/self/exe"
			}
			spec := wish(t, row.box, exe, row.argv...)
			spec.NetNS = l.netns
			spec.Resolv = "nameserver " + hostIP + "\n"
			spec.Limits.OpenFiles = 1024
			if row.box == "gobuster" {
				spec.Inputs = []Input{{"words", list}}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if row.box == "masscan" { // its receiver waits for a packet, for ever
				go poke(ctx, l)
			}
			got := succeed(t, box, spec)
			for _, want := range row.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %s in\n%s", want, got)
				}
			}
		})
	}
}

// poke sends a packet now and then to the scanner's end of the cable.
func poke(ctx context.Context, l lab) {
	for ctx.Err() == nil {
		l.poker.Write([]byte("."))
		time.Sleep(500 * time.Millisecond)
	}
}

// A name that does not exist is an answer of the resolver, not of the box.
func TestResolverSaysNo(t *testing.T) {
	l := newLab(t)
	spec := wish(t, "resolver", "/proc/self/exe", "resolver", "web.example.com")
	spec.NetNS, spec.Resolv = l.netns, "nameserver "+hostIP+"\n"
	r, _, stderr := run(t, box, spec)
	if r.Reason != Exited || r.Code != 1 || !strings.Contains(stderr, "no such host") {
		t.Errorf("got %s, code %d, %s", r.Reason, r.Code, stderr)
	}
}

// Each scanner tells its version without a network or a privilege.
func TestVersions(t *testing.T) {
	for _, row := range []struct{ argv, want string }{
		{"nmap --version", "Nmap version 7."},
		{"masscan --version", "Masscan version 1."},
		{"gobuster version", "3."},
	} {
		argv := strings.Fields(row.argv)
		r, stdout, stderr := run(t, box, wish(t, "version", "/usr/bin/"+argv[0], argv...))
		// masscan takes the question for a mistake and exits with 1.
		if r.Reason != Exited || !strings.Contains(stdout+stderr, row.want) {
			t.Errorf("%s: got %s, stage %q, signal %d, error %v\n%s%s", row.argv, r.Reason, r.Stage, r.Signal, r.Err, stdout, stderr)
		}
	}
}
