package report

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ParseNmap reads nmap's XML. on, which may be nil, is told of each step. Output that ends early or breaks off gives
// the report of what was complete; the error is only about reading r.
func ParseNmap(r io.Reader, on func(Progress)) (Report, error) {
	in := newInput(r)
	p := &nmapParser{in: in, xml: xml.NewDecoder(in), on: on, seen: map[netip.Addr]fate{}}
	p.report = Report{Hosts: []Host{}}
	stop := p.document()
	p.end(stop)
	if in.broken != nil {
		return p.report, fmt.Errorf("cannot read the report: %w", in.broken)
	}
	return p.report, nil
}

// nmapParser walks the document once. Elements are a path of names, and each start tag is a case in one table: no
// element is held but the host that is being read.
type nmapParser struct {
	in     *input
	xml    *xml.Decoder
	on     func(Progress)
	path   []string
	report Report

	host  *Host // the one being read
	port  *Port
	text  PortText
	valid bool // the host has an address
	said  bool // the host has answered
	open  int  // its open ports
	over  bool // the port is one more than is kept
	cpe   strings.Builder
	kept  kept

	ports, texts int   // kept so far, over all hosts
	dull         []int // of the hosts that are kept, those without a finding
	seen         map[netip.Addr]fate
	root, closed bool
}

// fate is what became of an address.
type fate uint8

const (
	up fate = 1 + iota
	down
	givenUp
)

var errDepth = errors.New("the report is nested too deeply")

// document reads until the root element ends or something stops it.
func (p *nmapParser) document() error {
	for !p.closed {
		p.in.next()
		token, err := p.xml.Token()
		if err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if len(p.path) == maxDepth {
				return errDepth
			}
			p.path = append(p.path, t.Name.Local)
			if !p.root && (len(p.path) != 1 || t.Name.Local != "nmaprun") {
				return errors.New("not a report of nmap")
			}
			p.root = true
			p.start(strings.Join(p.path[1:], "/"), attributes(t))
		case xml.EndElement:
			p.finish(strings.Join(p.path[1:], "/"))
			p.path = p.path[:len(p.path)-1]
			p.closed = len(p.path) == 0
		case xml.CharData:
			if p.inCPE() && p.cpe.Len() < maxText {
				p.cpe.Write(t[:min(len(t), maxText)])
			}
		}
	}
	return nil
}

// end says how the document ended.
func (p *nmapParser) end(stop error) {
	r := &p.report
	r.Finished = r.Finished && p.closed
	r.ExitOK = r.ExitOK && r.Finished
	r.Coverage.Completed, r.Coverage.DownAt, r.Coverage.GivenUp = p.all(up, down), p.all(down), p.all(givenUp)
	if p.in.cut {
		p.cut("token")
	}
	var syntax *xml.SyntaxError
	switch {
	case errors.Is(stop, errTooMuch):
		p.cut("total")
	case errors.Is(stop, errDepth):
		p.cut("depth")
	case !p.root:
		r.ErrorClass = ErrorNotAReport
	case errors.As(stop, &syntax) && !strings.Contains(syntax.Msg, "unexpected EOF"):
		r.ErrorClass = ErrorMalformed
	}
}

// all is every address of some fates.
func (p *nmapParser) all(fates ...fate) []netip.Prefix {
	var of []netip.Addr
	for a, f := range p.seen {
		if slices.Contains(fates, f) {
			of = append(of, a)
		}
	}
	return covering(of)
}

func (p *nmapParser) cut(what string) {
	if !slices.Contains(p.report.Cut, what) {
		p.report.Cut = append(p.report.Cut, what)
	}
}

func (p *nmapParser) inCPE() bool {
	return p.port != nil && strings.Join(p.path[min(1, len(p.path)):], "/") == "host/ports/port/service/cpe"
}

type attrs map[string]string

func attributes(e xml.StartElement) attrs {
	a := attrs{}
	for _, x := range e.Attr {
		a[x.Name.Local] = x.Value
	}
	if e.Name.Local == "nmaprun" {
		delete(a, "args")
	}
	return a
}

func (a attrs) word(name string) string { return word(a[name]) }

// count is a number that is not negative and that fits; anything else is 0.
func (a attrs) count(name string) int {
	n, err := strconv.ParseUint(a[name], 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}

// start takes a start tag, by its path below the root.
func (p *nmapParser) start(path string, a attrs) {
	switch path {
	case "":
		p.report.Scanner, p.report.Version = a.word("scanner"), a.word("version")
	case "taskbegin", "taskprogress", "taskend":
		p.progress(path, a)
	case "scaninfo":
		p.report.scans(a.word("protocol"), a["services"], a.count("numservices"))
	case "runstats/finished":
		p.report.Finished, p.report.ExitOK = true, a["exit"] == "success"
		if !p.report.ExitOK {
			p.report.ErrorClass = errorClass(a["errormsg"])
		}
	case "runstats/hosts":
		p.report.Coverage.Total = a.count("total")
	case "host":
		p.host, p.port, p.valid = &Host{TimedOut: a["timedout"] == "true", Ports: []Port{}}, nil, false
		p.said, p.open = false, 0
	default:
		if p.host != nil {
			p.inHost(path, a)
		}
	}
}

// inHost takes a start tag within a host.
func (p *nmapParser) inHost(path string, a attrs) {
	h := p.host
	switch path {
	case "host/status":
		h.Status, h.Reason = a.word("state"), a.word("reason")
	case "host/address":
		p.address(a)
	case "host/ports/extraports":
		state := a.word("state")
		p.said = p.said || state != "" && !strings.Contains(state, "filtered")
		if state != "" && len(h.Others) < 16 {
			h.Others = append(h.Others, Others{state, a.count("count")})
		}
	case "host/ports/port":
		p.beginPort(a)
	case "host/os/osmatch":
		if name := phrase(a["name"]); name != "" && len(h.OS) < maxGuesses {
			h.OS = append(h.OS, OS{name, min(a.count("accuracy"), 100)})
		}
	case "host/hostscript/script":
		if h.Untrusted == nil {
			h.Untrusted = &HostText{Scripts: []Script{}}
		}
		h.Untrusted.Scripts = p.script(h.Untrusted.Scripts, a)
	default:
		if p.port != nil {
			p.inPort(path, a)
		}
	}
}

func (p *nmapParser) address(a attrs) {
	if a["addrtype"] == "mac" {
		if mac := a["addr"]; len(mac) == 17 && strings.Trim(mac, "0123456789ABCDEFabcdef:") == "" {
			p.host.MAC, p.host.Vendor = mac, phrase(a["vendor"])
		}
		return
	}
	addr, err := netip.ParseAddr(a["addr"])
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		return
	}
	p.host.Addr, p.valid = addr, true
}

func (p *nmapParser) beginPort(a attrs) {
	p.port, p.text = nil, PortText{}
	n := a.count("portid")
	proto := a.word("protocol")
	if n > 65535 || proto == "" {
		return
	}
	// One that is not kept is counted all the same.
	if p.over = len(p.host.Ports) >= maxPorts || p.ports+len(p.host.Ports) >= maxAll; p.over {
		p.cut("ports")
	}
	p.port = &Port{Port: n, Proto: proto}
}

// inPort takes a start tag within a port.
func (p *nmapParser) inPort(path string, a attrs) {
	if p.over && path != "host/ports/port/state" {
		return // it is only counted
	}
	switch path {
	case "host/ports/port/state":
		p.port.State, p.port.Reason = a.word("state"), a.word("reason")
	case "host/ports/port/service":
		p.port.Service, p.port.Method, p.port.Tunnel = a.word("name"), a.word("method"), a.word("tunnel")
		p.text.Product, p.text.Version, p.text.Extra = p.clean(a["product"]), p.clean(a["version"]), p.clean(a["extrainfo"])
		p.text.Hostname, p.text.OS, p.text.Device = p.clean(a["hostname"]), p.clean(a["ostype"]), p.clean(a["devicetype"])
	case "host/ports/port/service/cpe":
		p.cpe.Reset()
	case "host/ports/port/script":
		p.text.Scripts = p.script(p.text.Scripts, a)
	}
}

func (p *nmapParser) clean(text string) string { return p.take(Sanitise(decoded(text))) }

func (p *nmapParser) script(kept []Script, a attrs) []Script {
	name := a.word("id")
	if name == "" {
		return kept
	}
	if len(kept) == maxScripts || p.texts == maxTexts {
		p.cut("scripts")
		return kept
	}
	p.texts++
	return append(kept, Script{name, p.take(sanitise(decoded(strings.TrimSpace(a["output"])), maxOutput))})
}

// finish takes an end tag.
func (p *nmapParser) finish(path string) {
	switch {
	case path == "host" && p.host != nil:
		p.endHost()
	case path == "host/ports/port" && p.port != nil:
		p.endPort()
	case path == "host/ports/port/service/cpe" && p.port != nil && !p.over:
		if len(p.text.CPE) < maxCPE {
			p.text.CPE = append(p.text.CPE, p.clean(p.cpe.String()))
		}
	}
}

func (p *nmapParser) endPort() {
	port := *p.port
	p.port = nil
	p.said = p.said || port.Reason != "no-response"
	if port.State == "open" {
		p.open++
	}
	if p.over {
		return
	}
	if !p.text.empty() {
		text := p.text
		port.Untrusted = &text
	}
	p.host.Ports = append(p.host.Ports, port)
}

// endHost counts a host that is complete, and keeps it if there is anything to say about it.
func (p *nmapParser) endHost() {
	h, c := *p.host, &p.report.Coverage
	p.host = nil
	c.Listed++
	if !p.valid || p.seen[h.Addr] != 0 {
		c.Invalid++
		return
	}
	p.report.Progress.Hosts++
	p.tell()
	if h.Status == "down" {
		c.Down++
		p.became(h.Addr, down)
		return
	}
	c.Up++
	c.OpenPorts += p.open
	said := p.said || h.Reason != "user-set"
	if said {
		c.Alive++
	}
	switch {
	case h.TimedOut:
		c.TimedOut++
		p.became(h.Addr, givenUp)
	case !said:
		c.Silent++
		h.Silent = true
		fallthrough
	default:
		p.became(h.Addr, up)
	}
	p.keep(h)
}

// keep keeps a host. Beyond the bound one with a finding takes the place of one without: those are counted, and their
// addresses are in the coverage.
func (p *nmapParser) keep(h Host) {
	kept := p.report.Hosts
	finding := p.open > 0 || h.Untrusted != nil || len(h.OS) > 0 || slices.ContainsFunc(h.Ports, func(o Port) bool { return o.Untrusted != nil })
	if len(kept) == maxHosts {
		p.cut("hosts")
		p.report.Coverage.NotKept++
		if !finding || len(p.dull) == 0 {
			return
		}
		last := p.dull[len(p.dull)-1]
		p.dull = p.dull[:len(p.dull)-1]
		p.ports -= len(kept[last].Ports)
		kept = slices.Delete(kept, last, last+1)
	}
	if !finding {
		p.dull = append(p.dull, len(kept))
	}
	p.ports += len(h.Ports)
	p.report.Hosts = append(kept, h)
}

func (p *nmapParser) became(a netip.Addr, f fate) {
	if len(p.seen) == maxCovered {
		p.cut("coverage")
		return
	}
	p.seen[a] = f
}

func (p *nmapParser) progress(kind string, a attrs) {
	g := &p.report.Progress
	g.Task, g.Remaining = phrase(a["task"]), 0
	switch kind {
	case "taskbegin":
		g.Percent = 0
	case "taskend":
		g.Percent = 100
	default:
		percent, err := strconv.ParseFloat(a["percent"], 64)
		if err == nil && percent >= 0 && percent <= 100 {
			g.Percent = percent
		}
		g.Remaining = a.count("remaining")
	}
	p.tell()
}

func (p *nmapParser) tell() {
	if p.on != nil {
		p.on(p.report.Progress)
	}
}

// errorClass sorts nmap's message into a class. The message itself may hold anything and goes no further.
func errorClass(message string) string {
	for _, row := range []struct{ has, class string }{
		{"NSE:", ErrorScript},
		{"script engine", ErrorScript},
		{"root privileges", ErrorPermission},
		{"Operation not permitted", ErrorPermission},
		{"Permission denied", ErrorPermission},
		{"route", ErrorRoute},
		{"unreachable", ErrorRoute},
		{"Cannot allocate", ErrorResources},
		{"Too many open files", ErrorResources},
		{"Resource temporarily", ErrorResources},
	} {
		if strings.Contains(message, row.has) {
			return row.class
		}
	}
	return ErrorScanner
}
