package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// stand makes a segment and the kernel's scope for slots that stand on it.
func stand(t *testing.T, stations int) ([]Station, *scope.Net) {
	t.Helper()
	list, undo, err := world.Segment(stations)
	must(t, err)
	t.Cleanup(func() { must(t, undo()) })
	must(t, scope.Reclaim())
	n, err := scope.Open(scope.Config{Mode: scope.L2, Interface: SegmentLink, V4: one(SegmentV4), V6: one(SegmentV6)})
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	return list, n
}

// standing is a slot there, whose scope is a station, and that knows of another one.
func standing(t *testing.T, n *scope.Net, to, other Station) Sender {
	t.Helper()
	s, _ := slot(t, n, to.Four.String(), to.Six.String())
	s.Four.Machine, s.Six.Machine = one(SegmentOwn).Addr(), one(SegmentOwn6).Addr()
	s.Four.Allowed, s.Six.Allowed = to.Four, to.Six
	s.Four.Forbidden, s.Six.Forbidden = other.Four, other.Six
	return s
}

// Of all attacks from a slot on a segment nothing gets onto it that is not for the scope, questions for
// stations included.
func TestNoAttackLeavesASlotOnASegment(t *testing.T) {
	a := attacks(t)
	for _, c := range []struct {
		says    string
		outside bool
	}{{"another station", false}, {"a network behind a router", true}} {
		t.Run(c.says, func(t *testing.T) {
			list, n := stand(t, 2)
			s := standing(t, n, list[0], list[1])
			if c.outside {
				s.Four.Forbidden, s.Six.Forbidden = one(Outside).Addr(), one(Outside6).Addr()
			}
			o := observed(t, s.Scope())
			allow := []string{list[0].Four.String(), list[0].Six.String()}
			speaks(t, s, o, allow)
			for _, what := range a.List {
				said, err := a.Run(s, what)
				if err != nil {
					t.Error(err)
				}
				o.Check(t, what.String()+", "+said+",")
			}
			time.Sleep(time.Second) // kernels ask for neighbours again
			o.Check(t, "all of them")
			speaks(t, s, o, allow)
		})
	}
}

// Without the scope every one of those that a segment carries is seen: the observer there has eyes.
func TestAttacksAreSeenOnASegment(t *testing.T) {
	list, n := stand(t, 2)
	s := standing(t, n, list[0], list[1])
	o := observed(t, Scope{Sources: s.Scope().Sources})
	for _, to := range []netip.Addr{list[0].Four, list[0].Six} {
		c, err := dial(s.NS, "tcp", netip.AddrPortFrom(to, 80).String())
		must(t, err)
		c.Close()
		frames := awaitForbidden(t, o)
		for _, want := range []string{"off scope", map[bool]string{true: "ARP 1", false: "ICMP that steers, type 135"}[to.Is4()]} {
			if !slices.ContainsFunc(frames, func(f Frame) bool { return f.Segment == SegmentLink && strings.Contains(f.Why, want) }) {
				t.Errorf("%s: no %q among %v", to, want, frames)
			}
		}
	}
}

// scanned is what nmap says of hosts.
type scanned struct {
	Hosts []struct {
		Status struct {
			State  string `xml:"state,attr"`
			Reason string `xml:"reason,attr"`
		} `xml:"status"`
		Addresses []struct {
			Addr string `xml:"addr,attr"`
			Type string `xml:"addrtype,attr"`
		} `xml:"address"`
		Ports []struct {
			ID    int `xml:"portid,attr"`
			State struct {
				State  string `xml:"state,attr"`
				Reason string `xml:"reason,attr"`
				TTL    int    `xml:"reason_ttl,attr"`
			} `xml:"state"`
			Service struct {
				Name    string `xml:"name,attr"`
				Product string `xml:"product,attr"`
			} `xml:"service"`
		} `xml:"ports>port"`
	} `xml:"host"`
}

// program runs one in a slot.
func program(t *testing.T, s Sender, argv ...string) string {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := in(s.NS, cmd.Run); err != nil {
		t.Errorf("%v: %v\n%s", argv, err, complaints.String())
	}
	return out.String()
}

func nmap(t *testing.T, s Sender, args ...string) (r scanned) {
	t.Helper()
	out := program(t, s, append([]string{"nmap", "-n", "-T4", "-oX", "-"}, args...)...)
	if err := xml.Unmarshal([]byte(out), &r); err != nil {
		t.Errorf("nmap %v: %v", args, err)
	}
	return r
}

// A scan sees the stations as they are: their hardware addresses, and that nothing is in between.
func TestNmapStandsOnTheSegment(t *testing.T) {
	list, n := stand(t, 3)
	s, _ := slot(t, n, "172.31.0.8/29", "fd31::/122")
	o := observed(t, Scope{Sources: s.Scope().Sources, Targets: Prefixes("172.31.0.8/29", "fd31::/122")})
	for _, c := range []struct {
		says string
		args []string
		six  bool
	}{
		{"IPv4", []string{"-sn", "172.31.0.8/29"}, false},
		{"IPv6", []string{"-6", "-sn", "fd31::8/125", "fd31::10/125"}, true},
	} {
		found := map[string]string{}
		for _, h := range nmap(t, s, c.args...).Hosts {
			if h.Status.State != "up" {
				continue
			}
			var mac string
			for _, a := range h.Addresses {
				if a.Type == "mac" {
					mac = strings.ToLower(a.Addr)
				}
			}
			found[h.Addresses[0].Addr] = mac
			if want := map[bool]string{false: "arp-response", true: "nd-response"}[c.six]; h.Status.Reason != want {
				t.Errorf("%s is up for %s, want %s", h.Addresses[0].Addr, h.Status.Reason, want)
			}
		}
		want := map[string]string{}
		for _, x := range list {
			a := x.Four
			if c.six {
				a = x.Six
			}
			want[a.String()] = x.MAC.String()
		}
		if fmt.Sprint(found) != fmt.Sprint(want) {
			t.Errorf("%s: found %v, want %v", c.says, found, want)
		}
		o.Check(t, "nmap "+c.says)
	}
	for _, how := range [][]string{{"-sS"}, {"-sT"}, {"-sU"}, {"-sV"}} {
		for _, six := range []bool{false, true} {
			args := append(slices.Clone(how), "-p", "22,80,81", list[0].Four.String())
			if six {
				args[len(args)-1] = list[0].Six.String()
				args = append(args, "-6")
			}
			r := nmap(t, s, args...)
			if len(r.Hosts) != 1 || len(r.Hosts[0].Ports) != 3 {
				t.Errorf("nmap %v: %+v", args, r)
				continue
			}
			for _, p := range r.Hosts[0].Ports {
				want := map[bool]string{true: "open", false: "closed"}[p.ID != 81 && how[0] != "-sU"]
				if p.State.State != want {
					t.Errorf("nmap %v: port %d is %s, want %s", args, p.ID, p.State.State, want)
				}
				if how[0] == "-sS" && p.State.TTL != 64 {
					t.Errorf("nmap %v: the answer's hop count is %d: it has crossed a router", args, p.State.TTL)
				}
				if how[0] == "-sV" && p.ID == 22 && p.Service.Name != "ssh" {
					t.Errorf("nmap %v: port 22 is %+v", args, p.Service)
				}
			}
			o.Check(t, fmt.Sprint("nmap ", args))
		}
	}
}

func TestMasscanStandsOnTheSegment(t *testing.T) {
	list, n := stand(t, 3)
	s, _ := slot(t, n, "172.31.0.8/29")
	o := observed(t, Scope{Sources: s.Scope().Sources, Targets: Prefixes("172.31.0.8/29")})
	ticking, stop := context.WithCancel(t.Context()) // masscan waits for ever on a link where nothing is said
	defer stop()
	go func() {
		for ticking.Err() == nil {
			if c, err := dial(s.NS, "udp", list[0].Four.String()+":9"); err == nil {
				_, _ = io.WriteString(c, "x")
				c.Close()
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	out := program(t, s, "masscan", "172.31.0.8/29", "-p", "22,80", "--rate", "200", "--wait", "2", "--retries", "2", "-oL", "-")
	for _, x := range list {
		for _, port := range []string{"22", "80"} {
			if !strings.Contains(out, "open tcp "+port+" "+x.Four.String()) {
				t.Errorf("%s of %s is not found:\n%s", port, x.Four, out)
			}
		}
	}
	o.Check(t, "masscan")
}

// The machine's own connections by the same interface do not notice, and what is said to it is not
// said to a slot.
func TestTheMachinesOwnConnectionsLiveOn(t *testing.T) {
	list, n := stand(t, 2)
	var far net.Listener
	must(t, in(list[0].NS, func() (err error) {
		far, err = net.Listen("tcp", list[0].Four.String()+":7")
		return err
	}))
	defer far.Close()
	go func() {
		c, err := far.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	c, err := net.Dial("tcp", far.Addr().String())
	must(t, err)
	defer c.Close()
	if from := c.LocalAddr().(*net.TCPAddr).IP.String(); from != SegmentOwn {
		t.Errorf("the machine sends from %s", from)
	}
	lines := bufio.NewReader(c)
	echo := func(says string) {
		t.Helper()
		must(t, c.SetDeadline(time.Now().Add(patience)))
		_, err := fmt.Fprintln(c, says)
		must(t, err)
		if got, err := lines.ReadString('\n'); err != nil || got != says+"\n" {
			t.Errorf("%s: %q, %v", says, got, err)
		}
	}
	echo("before")
	s, end := slot(t, n, "172.31.0.8/29", "fd31::/122")
	inside, err := Watch(s.NS, s.Back())
	must(t, err)
	defer inside.Close()
	scans := make(chan scanned)
	go func() { scans <- nmap(t, s, "-sS", "-p-", list[0].Four.String()) }()
	for i, ended := 0, false; !ended; i++ {
		select {
		case r := <-scans:
			if len(r.Hosts) != 1 || len(r.Hosts[0].Ports) < 3 {
				t.Errorf("%+v", r)
			}
			ended = true
		default:
			echo(fmt.Sprint("meanwhile ", i))
			time.Sleep(10 * time.Millisecond)
		}
		if frames, _ := inside.Forbidden(); slices.ContainsFunc(frames, func(f Frame) bool { return bytes.Contains(f.Bytes, []byte("meanwhile")) }) {
			t.Error("a slot has heard it")
		}
	}
	end()
	echo("after")
}

// Two slots do not see each other's answers, nor each other.
func TestSlotsOnASegmentAreApart(t *testing.T) {
	list, n := stand(t, 2)
	a := standing(t, n, list[0], list[1])
	b := standing(t, n, list[0], list[1])
	watched, err := Watch(b.NS, Scope{})
	must(t, err)
	defer watched.Close()
	_ = nmap(t, a, "-sS", "-p", "1-1000", list[0].Four.String())
	_ = nmap(t, a, "-sT", "-6", "-p", "1-1000", list[0].Six.String())
	watched.Check(t, "another slot's scan")
	sender := a
	sender.Four.Forbidden, sender.Six.Forbidden = b.Four.Source, b.Six.Source
	all := attacks(t)
	for _, what := range all.List {
		switch what.Mode {
		case "tcp", "tcp6", "udp", "rawip", "packet", "packet6", "packet-bypass", "xdp", "spoof", "arp-off", "arp-kernel", "garp", "arp-poison", "na-host", "linklocal":
			said, err := all.Run(sender, what)
			if err != nil {
				t.Error(err)
			}
			watched.Check(t, what.String()+", "+said+",")
		}
	}
	if c, err := dial(b.NS, "tcp", netip.AddrPortFrom(list[0].Four, 80).String()); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}
