package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var world *Lab

func TestMain(m *testing.M) {
	os.Exit(Enter(func() int {
		var err error
		if world, err = New(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		if err := errors.Join(world.Close(), nothingLeft()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}))
}

// nothingLeft looks at the namespace that the lab was made in.
func nothingLeft() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			err = errors.Join(err, fmt.Errorf("%s is still there", l.Attrs().Name))
		}
	}
	conn, err2 := nftables.New()
	if err2 != nil {
		return errors.Join(err, err2)
	}
	tables, err2 := conn.ListTables()
	for _, t := range tables {
		err = errors.Join(err, fmt.Errorf("table %s is still there", t.Name))
	}
	return errors.Join(err, err2)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func routed(t *testing.T) Sender {
	t.Helper()
	s, undo, err := world.Routed()
	must(t, err)
	t.Cleanup(func() { must(t, undo()) })
	return s
}

func observed(t *testing.T, s Scope) *Observer {
	t.Helper()
	o, err := world.Observe(s)
	must(t, err)
	t.Cleanup(func() { must(t, o.Close()) })
	return o
}

// What should answer is given the time of first packets that are lost; what should not is given less.
const (
	patience = 5 * time.Second
	briefly  = 500 * time.Millisecond
)

// dial connects from a namespace to what should answer.
func dial(ns *os.File, network, to string) (net.Conn, error) {
	return dialWithin(ns, patience, network, to)
}

func dialWithin(ns *os.File, wait time.Duration, network, to string) (c net.Conn, err error) {
	err = in(ns, func() (err error) {
		c, err = net.DialTimeout(network, to, wait)
		return err
	})
	return c, err
}

// answered is what a connection says to a question.
func answered(ns *os.File, network, to, question string) (string, error) {
	c, err := dial(ns, network, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, question); err != nil {
		return "", err
	}
	b := make([]byte, 2000)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func TestHosts(t *testing.T) {
	s := routed(t)
	const get, query = "GET / HTTP/1.0\r\n\r\n", "\x30\x26\x02\x01\x01\x04\x06public\xa0\x19\x02\x01\x07\x02\x01\x00\x02\x01\x00\x30\x0e\x30\x0c\x06\x08\x2b\x06\x01\x02\x01\x01\x01\x00\x05\x00"
	for _, c := range []struct{ says, network, to, question, want string }{
		{"an SSH server", "tcp", SSHAndWeb + ":22", "", "SSH-2.0-"},
		{"a web server", "tcp", Web + ":8080", get, "HTTP/1.1 200"},
		{"an IPv6 host", "tcp", "[" + IPv6Host + "]:80", get, "HTTP/1.1 200"},
		{"a closed port", "tcp", SSH + ":80", "", "connection refused"},
		{"a closed IPv6 port", "tcp", "[" + IPv6Host + "]:81", "", "connection refused"},
		{"a closed UDP port", "udp", SSH + ":9", "x", "connection refused"},
		{"a network that refuses all", "tcp", "10.77.130.1:80", "", "connection refused"},
		{"a network that answers nothing", "tcp", "10.77.1.1:80", "", "timeout"},
		{"an IPv6 network that answers nothing", "tcp", "[fd77::1:1]:80", "", "timeout"},
		{"an address that is nobody's", "tcp", "10.77.9.9:80", "", "timeout"},
		{"SNMP", "udp", SNMP + ":161", query, "Linux lab"},
		{"SNMP over IPv6", "udp", "[" + SNMP6 + "]:161", query, "Linux lab"},
		{"a host behind the router", "tcp", Behind + ":22", "", "SSH-2.0-"},
		{"an IPv6 host behind the router", "tcp", "[" + Behind6 + "]:22", "", "SSH-2.0-"},
		{"a host that has no way back", "tcp", NoWayBack + ":80", get, "timeout"},
		{"an IPv6 host that has no way back", "tcp", "[" + NoWayBack6 + "]:80", get, "timeout"},
		{"the host outside, which nothing keeps from this sender", "tcp", Outside + ":80", get, "HTTP/1.1 200"},
	} {
		got, err := answered(s.NS, c.network, c.to, c.question)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s answers %q, want %q", c.says, got, c.want)
		}
	}
}

// A router is a router: what is behind it is one hop further, and a packet can die on the way.
func TestTheRouterIsAHop(t *testing.T) {
	s := routed(t)
	for _, c := range []struct {
		to   string
		ttl  int
		want error
	}{{SSHAndWeb + ":22", 2, nil}, {Behind + ":22", 3, nil}, {Behind + ":22", 2, syscall.EHOSTUNREACH}} {
		d := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) (err error) {
			_ = raw.Control(func(fd uintptr) { // it fails for closed sockets only
				err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, c.ttl), unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1))
			})
			return err
		}}
		err := in(s.NS, func() error {
			conn, err := d.Dial("tcp", c.to)
			if err == nil {
				conn.Close()
			}
			return err
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%s with a TTL of %d: %v, want %v", c.to, c.ttl, err, c.want)
		}
	}
}

func TestAHostWithNoWayBackIsReached(t *testing.T) {
	s := routed(t)
	o := observed(t, Scope{Sources: s.Scope().Sources, Targets: Prefixes(NoWayBack)})
	if c, err := dialWithin(s.NS, briefly, "tcp", NoWayBack+":80"); err == nil {
		c.Close()
		t.Error("it answered")
	}
	if o.Permitted() < 2 { // on the uplink, and behind the router
		t.Error("nothing has reached it")
	}
	o.Check(t, "asking")
}

func TestNamesRebind(t *testing.T) {
	for _, server := range []string{DNS, DNS6} {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(server, "53"))
		}}
		name := fmt.Sprintf("n%d.rebind.lab.internal", len(server))
		for i, c := range []struct{ network, want string }{{"ip4", Web}, {"ip4", Outside}, {"ip6", IPv6Host}, {"ip6", Outside6}, {"ip4", Outside}} {
			got, err := r.LookupNetIP(t.Context(), c.network, name+".")
			if err != nil || fmt.Sprint(got) != "["+c.want+"]" {
				t.Errorf("%s, question %d for %s: %v, %v, want %s", server, i, c.network, got, err, c.want)
			}
		}
		if n := world.Queries(name); n != 5 {
			t.Errorf("%d queries, want 5", n)
		}
		if n := world.Queries("never." + name); n != 0 {
			t.Errorf("%d queries for what nobody asked for", n)
		}
	}
}

func TestSites(t *testing.T) {
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	get := func(address, vhost, path string) (status int, location, body string) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+address+path, nil)
		must(t, err)
		if vhost != "" {
			r.Host = vhost
		}
		a, err := client.Do(r)
		must(t, err)
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		must(t, err)
		return a.StatusCode, a.Header.Get("Location"), string(b)
	}
	for _, address := range []string{Sites, "[" + Sites6 + "]"} {
		for path, want := range Paths {
			if got, _, _ := get(address, "", path); got != want {
				t.Errorf("%s%s is %d, want %d", address, path, got, want)
			}
		}
		if got, _, _ := get(address, "", "/nothing"); got != 404 {
			t.Errorf("a path that is not there is %d", got)
		}
		if _, to, _ := get(address, "", "/away"); to != "http://"+Outside+"/landed" {
			t.Errorf("/away leads to %q", to)
		}
		for _, vhost := range VHosts[:2] {
			if got, _, body := get(address, vhost, "/"); got != 200 || !strings.Contains(body, vhost) {
				t.Errorf("%s is %d %q", vhost, got, body)
			}
		}
		if got, to, _ := get(address, VHosts[2], "/any"); got != 302 || to != "http://"+Outside+"/landed" {
			t.Errorf("%s is %d and leads to %q", VHosts[2], got, to)
		}
	}
}

// The rules of a container engine turn a packet to a host in scope into one to the host outside.
func TestTranslation(t *testing.T) {
	s := routed(t)
	away := netip.AddrPortFrom(one(Outside).Addr(), 80)
	for _, c := range []struct {
		says string
		from netip.AddrPort
		dial string
	}{
		{"a published port", netip.AddrPortFrom(one(SSH).Addr(), 80), SSH + ":80"},
		{"a port of all that is local", netip.AddrPortFrom(netip.Addr{}, 8000), Uplink + ":8000"},
		{"a port of the sender's gateway", netip.AddrPortFrom(netip.Addr{}, 8000), s.Four.Gateway.String() + ":8000"},
	} {
		for _, on := range []bool{false, true, false} {
			undo := func() error { return nil }
			if on {
				var err error
				undo, err = world.Translate(c.from, away)
				must(t, err)
			}
			before := world.Strangers()
			answer, err := answered(s.NS, "tcp", c.dial, "GET / HTTP/1.0\r\n\r\n")
			if got := err == nil && world.Strangers() > before; got != on {
				t.Errorf("%s, translated is %v: it went outside is %v: %q, %v", c.says, on, got, answer, err)
			}
			must(t, undo())
			must(t, undo()) // once more is no harm
		}
	}
}

func TestTheHostileHostIsHeard(t *testing.T) {
	s := routed(t)
	o, err := Watch(s.NS, s.Back())
	must(t, err)
	defer o.Close()
	for _, to := range []netip.Addr{s.Four.Source, s.Six.Source} {
		for _, name := range Intrusions(to) {
			must(t, world.Intrude(name, to))
			if len(awaitForbidden(t, o)) == 0 {
				t.Errorf("%s did not reach %s", name, to)
			}
		}
		stop := world.Persist(to)
		time.Sleep(200 * time.Millisecond)
		sent, err := stop()
		must(t, err)
		arrived := 0
		for until := time.Now().Add(patience); arrived < sent && time.Now().Before(until); {
			frames, err := o.Forbidden()
			must(t, err)
			arrived += len(frames)
		}
		if sent < 10 || arrived < sent {
			t.Errorf("of %d packets %d have reached %s", sent, arrived, to)
		}
	}
	if err := world.Intrude("a neighbour advertisement", s.Four.Source); err == nil {
		t.Error("what is not there was sent")
	}
}

// Whoever asks the hostile host is answered by the host outside before.
func TestTheHostileHostAnswersFromOutside(t *testing.T) {
	s := routed(t)
	o, err := Watch(s.NS, Scope{Sources: Prefixes(Hostile, Hostile6), Targets: s.Scope().Sources})
	must(t, err)
	defer o.Close()
	for _, to := range []string{Hostile, Hostile6} {
		answer, err := answered(s.NS, "udp", net.JoinHostPort(to, "53"), "question")
		if err != nil || answer != "question" {
			t.Errorf("%s answers %q, %v", to, answer, err)
		}
		if frames, err := o.Forbidden(); err != nil || len(frames) != 1 || !strings.Contains(frames[0].Why, "a source of others "+outside(one(to).Addr()).String()) {
			t.Errorf("beside its answer: %v, %v", frames, err)
		}
	}
	if n := o.Permitted(); n < 2 {
		t.Errorf("%d answers", n)
	}
}

func TestAFullRingIsNoSilence(t *testing.T) {
	s := routed(t)
	o := observed(t, Scope{})
	c, err := dial(s.NS, "udp", SSH+":9")
	must(t, err)
	defer c.Close()
	for range ring + 100 {
		_, _ = io.WriteString(c, "x") // nobody listens there
	}
	if frames, err := o.Forbidden(); len(frames) != ring || err == nil || !strings.Contains(err.Error(), "more than are kept") {
		t.Errorf("%d frames, %v", len(frames), err)
	}
	o.Check(t, "the look before")
}

// A kernel may confirm whom it knows where no scanner has a link; nothing else about a stranger is a neighbour's.
func TestWhatNeighboursMayAsk(t *testing.T) {
	known, stranger := one(Sites6).Addr(), one(Outside6).Addr()
	from, to := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1:ff00:20")
	routed, direct := segment{routed: true}, segment{}
	for _, c := range []struct {
		says                 string
		at                   segment
		kind, hops           byte
		source, to, about    netip.Addr
		unicast, neighbourly bool
	}{
		{"whom the kernel knows", routed, 135, 255, from, known, known, true, true},
		{"the same where a scanner has the link", direct, 135, 255, from, known, known, true, false},
		{"passed on by a router", routed, 135, 254, from, known, known, true, false},
		{"in the name of a host", routed, 135, 255, stranger, known, known, true, false},
		{"about another than it is sent to", routed, 135, 255, from, known, stranger, true, false},
		{"whom the kernel does not know", routed, 135, 255, from, to, known, false, false},
		{"an answer about it", routed, 136, 255, from, known, known, true, false},
	} {
		packet := slices.Concat([]byte{0x60, 0, 0, 0, 0, 24, 58, c.hops}, c.source.AsSlice(), c.to.AsSlice(), []byte{c.kind, 0, 0, 0, 0, 0, 0, 0}, c.about.AsSlice())
		if got := (Scope{}).neighbourly(packet, c.unicast, c.at); got != c.neighbourly {
			t.Errorf("%s: %v", c.says, got)
		}
	}
}

// An address of the network outside counts wherever headers have it, but not where the router asks who
// is on the link to it.
func TestWhatMentionsTheNetworkOutside(t *testing.T) {
	four, six := one(Outside).Addr().AsSlice(), one(Outside6).Addr().AsSlice()
	ip := func(protocol byte, to []byte, rest ...[]byte) []byte {
		return slices.Concat(append([][]byte{{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 77, 0, 1}, to}, rest...)...)
	}
	solicitation := func(hops byte) []byte {
		return slices.Concat([]byte{0x60, 0, 0, 0, 0, 32, 58, hops}, make([]byte, 16), six, []byte{135, 0, 0, 0, 0, 0, 0, 0}, six)
	}
	arp := slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, make([]byte, 16), four)
	ipv4, ipv6, ethernet := []byte{8, 0}, []byte{0x86, 0xdd}, make([]byte, 12)
	for _, c := range []struct {
		says, at string
		frame    []byte
		want     bool
	}{
		{"a packet for it", "uplink", slices.Concat(ethernet, ipv4, ip(17, four)), true},
		{"the same where it arrives", outsideLink, slices.Concat(ethernet, ipv4, ip(17, four)), true},
		{"a packet for another", "uplink", slices.Concat(ethernet, ipv4, ip(17, []byte{10, 77, 0, 10})), false},
		{"a tunnel to it", "uplink", slices.Concat(ethernet, ipv4, ip(4, []byte{10, 77, 0, 10}, ip(17, four))), true},
		{"a question of this machine's", "uplink", slices.Concat(ethernet, ipv6, solicitation(255)), true},
		{"a question of this machine's by ARP", "uplink", slices.Concat(ethernet, []byte{8, 6}, arp), true},
		{"a question of the router's", outsideLink, slices.Concat(ethernet, ipv6, solicitation(255)), false},
		{"a question of the router's by ARP", outsideLink, slices.Concat(ethernet, []byte{8, 6}, arp), false},
		{"a question that was passed on", outsideLink, slices.Concat(ethernet, ipv6, solicitation(254)), true},
	} {
		if got := mentions(seen{frame: c.frame, at: segment{name: c.at}}) != ""; got != c.want {
			t.Errorf("%s: %v", c.says, got)
		}
	}
}
