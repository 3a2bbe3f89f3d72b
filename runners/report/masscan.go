package report

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// What masscan prints: each open port at once on standard output, and how far it is on standard error, where each
// status overwrites the one before.
var (
	discovered = regexp.MustCompile(`^Discovered open port ([0-9]{1,5})/(tcp|udp) on ([0-9a-f.:]{2,39}) *$`)
	starting   = regexp.MustCompile(`^Starting (masscan) ([0-9][0-9.]{0,15}) `)
	scanning   = regexp.MustCompile(`^Scanning ([0-9]{1,9}) hosts \[`)
	status     = regexp.MustCompile(`^rate: *[0-9.]{1,12}-kpps, *([0-9.]{1,8})% done,(?: *([0-9]{1,9}):([0-9]{2}):([0-9]{2}) remaining| waiting (-?[0-9]{1,9})-secs), found=([0-9]{1,18}) *$`)
	failed     = regexp.MustCompile(`^(?:\[-\] )?(?:FAIL: (.*)|(if:.*: failed))$`)
)

const maxDistinct = 4 * maxAll

// ParseMasscan reads what masscan printed. on, which may be nil, is told of each status. A scan that was ended gives the
// ports that it had found: masscan goes through addresses and ports in an order of its own, so that no address is
// through before all are. The error is only about reading.
func ParseMasscan(stdout, stderr io.Reader, on func(Progress)) (Report, error) {
	found, told := masscanFound{at: map[netip.Addr]int32{}, seen4: map[uint64]struct{}{}, seen6: map[openPort]struct{}{}}, masscanTold{on: on}
	var outErr, errErr error
	var errCut bool
	var both sync.WaitGroup
	both.Go(func() { errCut, errErr = eachLine(stderr, "\r\n", told.line) })
	cut, outErr := eachLine(stdout, "\n", found.line)
	both.Wait()

	r := Report{Scanner: told.scanner, Version: told.version, Progress: told.progress, ErrorClass: told.errorClass, Hosts: found.sorted(), Cut: found.cut}
	r.Finished = told.ended
	switch {
	case told.scanner == "" && found.distinct() == 0:
		r.ErrorClass = ErrorNotAReport
	case r.ErrorClass == "" && r.Finished && found.tcp < told.found:
		r.ErrorClass = ErrorLost
	}
	r.ExitOK = r.Finished && r.ErrorClass == ""
	c := &r.Coverage
	c.Total, c.Up, c.Alive, c.OpenPorts, c.Invalid = told.total, len(found.at), len(found.at), found.distinct(), found.invalid
	c.Listed, c.NotKept, c.Whole = len(found.at), len(found.at)-len(r.Hosts), r.ExitOK
	c.Completed, c.DownAt, c.GivenUp = []netip.Prefix{}, []netip.Prefix{}, []netip.Prefix{}
	if c.Whole {
		var up []netip.Addr
		for a := range found.at {
			up = append(up, a)
		}
		c.Completed = covering(up)
		r.Progress.Hosts = len(up)
	}
	if cut || errCut {
		r.Cut = append(r.Cut, "total")
	}
	if err := errors.Join(outErr, errErr); err != nil {
		return r, fmt.Errorf("cannot read the report: %w", err)
	}
	return r, nil
}

type openPort struct {
	addr netip.Addr
	udp  bool
	port uint16
}

// four is an open port of IPv4 in one number: there may be many.
func (p openPort) four() uint64 {
	b := p.addr.As4()
	n := uint64(binary.BigEndian.Uint32(b[:]))<<16 | uint64(p.port)
	if p.udp {
		n |= 1 << 48
	}
	return n
}

// masscanFound is what standard output said.
type masscanFound struct {
	tcp     int64                // lines, repeated ones too: masscan counts them so
	at      map[netip.Addr]int32 // in hosts; -1: not kept
	seen4   map[uint64]struct{}  // distinct; past the bound they are not counted
	seen6   map[openPort]struct{}
	hosts   []Host
	kept    int // ports
	invalid int
	cut     []string
}

func (f *masscanFound) line(line []byte, end lineEnd) {
	if end == unended || len(bytes.TrimSpace(line)) == 0 {
		return
	}
	m := discovered.FindSubmatch(line)
	if m == nil || end == long {
		f.invalid++
		return
	}
	port, err := strconv.ParseUint(string(m[1]), 10, 16)
	addr, err2 := netip.ParseAddr(string(m[3]))
	if err != nil || err2 != nil || addr.Is4In6() {
		f.invalid++
		return
	}
	p := openPort{addr, m[2][0] == 'u', uint16(port)}
	if !p.udp {
		f.tcp++
	}
	if f.saw(p) {
		return
	}
	if _, known := f.at[addr]; f.distinct() == maxDistinct || !known && len(f.at) == maxCovered {
		f.leaveOut("ports")
		return
	}
	if addr.Is4() {
		f.seen4[p.four()] = struct{}{}
	} else {
		f.seen6[p] = struct{}{}
	}
	f.keep(p)
}

func (f *masscanFound) saw(p openPort) (known bool) {
	if p.addr.Is4() {
		_, known = f.seen4[p.four()]
	} else {
		_, known = f.seen6[p]
	}
	return known
}

func (f *masscanFound) distinct() int { return len(f.seen4) + len(f.seen6) }

// keep keeps an open port of a host, as long as there is room for both.
func (f *masscanFound) keep(p openPort) {
	i, known := f.at[p.addr]
	if !known {
		i = int32(len(f.hosts))
		if i == maxHosts {
			i = -1
		}
		f.at[p.addr] = i
		if i >= 0 {
			f.hosts = append(f.hosts, Host{Addr: p.addr, Status: "up", Ports: []Port{}})
		}
	}
	if i < 0 {
		f.leaveOut("hosts")
		return
	}
	if f.kept == maxAll || len(f.hosts[i].Ports) == maxPorts {
		f.leaveOut("ports")
		return
	}
	f.kept++
	proto, reason := "tcp", "syn-ack"
	if p.udp {
		proto, reason = "udp", "udp-response"
	}
	f.hosts[i].Ports = append(f.hosts[i].Ports, Port{Port: int(p.port), Proto: proto, State: "open", Reason: reason})
}

func (f *masscanFound) leaveOut(what string) {
	if !slices.Contains(f.cut, what) {
		f.cut = append(f.cut, what)
	}
}

// sorted is the hosts by address, and of each its ports by protocol and number: masscan's own order is none.
func (f *masscanFound) sorted() []Host {
	out := append([]Host{}, f.hosts...)
	slices.SortFunc(out, func(a, b Host) int { return a.Addr.Compare(b.Addr) })
	for _, h := range out {
		slices.SortFunc(h.Ports, byProtocol)
	}
	return out
}

func byProtocol(a, b Port) int {
	if a.Proto != b.Proto {
		return strings.Compare(a.Proto, b.Proto)
	}
	return a.Port - b.Port
}

// masscanTold is what standard error said.
type masscanTold struct {
	on               func(Progress)
	scanner, version string
	total            int
	progress         Progress
	found            int64
	ended            bool // all was sent, and listened for as long as it was told
	errorClass       string
}

func (t *masscanTold) line(line []byte, end lineEnd) {
	if end != whole {
		return
	}
	if m := status.FindSubmatch(line); m != nil {
		t.status(m)
		return
	}
	text := string(line)
	if m := starting.FindStringSubmatch(text); m != nil {
		t.scanner, t.version = m[1], m[2]
	} else if m := scanning.FindStringSubmatch(text); m != nil {
		t.total, _ = strconv.Atoi(m[1]) // at most nine digits: the pattern says so
	} else if m := failed.FindStringSubmatch(text); m != nil && t.errorClass == "" {
		t.scanner, t.errorClass = "masscan", masscanError(m[1]+m[2])
	}
}

func (t *masscanTold) status(m [][]byte) {
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(string(m[i]), 10, 64) // bounded by the pattern
		return n
	}
	percent, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil || percent < 0 || percent > 100 {
		return
	}
	t.progress.Task, t.progress.Percent = "sending", percent
	if len(m[5]) > 0 {
		left := number(5)
		t.progress.Task, t.progress.Remaining = "listening", int(max(left, 0))
		t.ended = percent == 100 && left <= 0
	} else if t.progress.Remaining = 0; number(2) < 100 { // what it says before it knows a rate is years
		t.progress.Remaining = int(number(2)*3600 + number(3)*60 + number(4))
	}
	t.found = max(t.found, number(6))
	if t.on != nil {
		t.on(t.progress)
	}
}

// masscanError sorts masscan's message into a class. The message itself goes no further.
func masscanError(message string) string {
	for _, row := range []struct{ has, class string }{
		{"permission", ErrorPermission},
		{"default interface", ErrorRoute},
		{"router", ErrorRoute},
		{"if:", ErrorRoute}, // that it was told to send by
		{"IP address of interface", ErrorRoute},
		{"memory", ErrorResources},
	} {
		if strings.Contains(message, row.has) {
			return row.class
		}
	}
	return ErrorScanner
}
