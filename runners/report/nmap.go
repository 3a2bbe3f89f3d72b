package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The places of a report that are read.
const (
	inRun place = 1 + iota
	inScanInfo
	inTaskBegin
	inTaskProgress
	inTaskEnd
	inStats
	inFinished
	inTotals
	inHost
	inStatus
	inAddress
	inPorts
	inExtraPorts
	inPort
	inState
	inService
	inCPE
	inPortScript
	inOS
	inMatch
	inHostScripts
	inHostScript
)

var nmapSteps = map[step]place{
	{nowhere, "nmaprun"}:      inRun,
	{inRun, "scaninfo"}:       inScanInfo,
	{inRun, "taskbegin"}:      inTaskBegin,
	{inRun, "taskprogress"}:   inTaskProgress,
	{inRun, "taskend"}:        inTaskEnd,
	{inRun, "runstats"}:       inStats,
	{inStats, "finished"}:     inFinished,
	{inStats, "hosts"}:        inTotals,
	{inRun, "host"}:           inHost,
	{inHost, "status"}:        inStatus,
	{inHost, "address"}:       inAddress,
	{inHost, "ports"}:         inPorts,
	{inPorts, "extraports"}:   inExtraPorts,
	{inPorts, "port"}:         inPort,
	{inPort, "state"}:         inState,
	{inPort, "service"}:       inService,
	{inService, "cpe"}:        inCPE,
	{inPort, "script"}:        inPortScript,
	{inHost, "os"}:            inOS,
	{inOS, "osmatch"}:         inMatch,
	{inHost, "hostscript"}:    inHostScripts,
	{inHostScripts, "script"}: inHostScript,
}

// ParseNmap reads nmap's XML. on, which may be nil, is told of each step. Output that ends early or breaks off gives
// the report of what was complete; the error is only about reading r.
func ParseNmap(r io.Reader, on func(Progress)) (Report, error) { return parseNmap(r, on, maxTotal) }

func parseNmap(r io.Reader, on func(Progress), most int64) (Report, error) {
	p := &nmapParser{xml: newXMLReader(r, nmapSteps, most), on: on, seen: map[[16]byte]fate{}, words: map[string]string{}}
	p.report = Report{Hosts: []Host{}}
	stop := p.document()
	p.end(stop)
	if p.xml.broken != nil {
		return p.report, fmt.Errorf("cannot read the report: %w", p.xml.broken)
	}
	return p.report, nil
}

// nmapParser walks the document once. Each tag is a case in one table: no element is held but the host that is being
// read.
type nmapParser struct {
	xml    *xmlReader
	on     func(Progress)
	report Report

	host  *Host // the one being read; its ports are in a list that the next one has, too
	list  []Port
	port  *Port // of it, in one
	one   Port
	text  PortText
	valid bool // the host has an address
	said  bool // the host has answered
	open  int  // its open ports
	over  bool // the port is one more than is kept
	kept  kept

	ports, texts int               // kept so far, over all hosts
	dull         []int             // of the hosts that are kept, those without a finding
	seen         map[[16]byte]fate // by address; none is mapped
	words        map[string]string // the scanner's own, each held once
	root, closed bool
}

// fate is what became of an address.
type fate uint8

const (
	up fate = 1 + iota
	down
	givenUp
)

// document reads until the root element ends or something stops it.
func (p *nmapParser) document() error {
	for !p.closed {
		at, start, err := p.xml.next()
		switch {
		case err != nil:
			return err
		case !p.root && at != inRun:
			return errOther
		case start:
			p.root = true
			p.start(at)
		default:
			p.finish(at)
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
	if p.xml.cut {
		p.cut("token")
	}
	switch {
	case errors.Is(stop, errTooMuch):
		p.cut("total")
	case errors.Is(stop, errDepth):
		p.cut("depth")
	case !p.root:
		r.ErrorClass = ErrorNotAReport
	case errors.Is(stop, errMalformed):
		r.ErrorClass = ErrorMalformed
	}
}

// all is every address of some fates.
func (p *nmapParser) all(fates ...fate) []netip.Prefix {
	var of []netip.Addr
	for a, f := range p.seen {
		if slices.Contains(fates, f) {
			of = append(of, netip.AddrFrom16(a).Unmap())
		}
	}
	return covering(of)
}

func (p *nmapParser) cut(what string) {
	if !slices.Contains(p.report.Cut, what) {
		p.report.Cut = append(p.report.Cut, what)
	}
}

// held is a short text that many elements have, held once.
func (p *nmapParser) held(text []byte) string {
	if known, ok := p.words[string(text)]; ok {
		return known
	}
	s := string(text)
	if len(p.words) < maxWords {
		p.words[s] = s
	}
	return s
}

// word is an attribute in the scanner's own words.
func (p *nmapParser) word(name string) string {
	if raw := p.xml.raw(name); isWord(raw) {
		return p.held(raw)
	}
	return ""
}

func (p *nmapParser) phrase(name string) string {
	if raw := p.xml.raw(name); len(raw) <= 128 && plain(raw) {
		return p.held(raw)
	}
	return ""
}

func (p *nmapParser) is(name, value string) bool { return string(p.xml.raw(name)) == value }

// count is a number that is not negative and that fits; anything else is 0.
func (p *nmapParser) count(name string) int {
	n, err := strconv.ParseUint(string(p.xml.raw(name)), 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}

// start takes a start tag.
func (p *nmapParser) start(at place) {
	switch at {
	case inRun:
		p.report.Scanner, p.report.Version = p.word("scanner"), p.word("version")
	case inTaskBegin, inTaskProgress, inTaskEnd:
		p.progress(at)
	case inScanInfo:
		p.report.scans(p.word("protocol"), string(p.xml.raw("services")), p.count("numservices"))
	case inFinished:
		p.report.Finished, p.report.ExitOK = true, p.is("exit", "success")
		if !p.report.ExitOK {
			p.report.ErrorClass = errorClass(string(p.xml.raw("errormsg")))
		}
	case inTotals:
		p.report.Coverage.Total = p.count("total")
	case inHost:
		p.host, p.port, p.valid = &Host{TimedOut: p.is("timedout", "true"), Ports: p.list[:0]}, nil, false
		p.said, p.open = false, 0
	default:
		if p.host != nil {
			p.inHost(at)
		}
	}
}

// inHost takes a start tag within a host.
func (p *nmapParser) inHost(at place) {
	h := p.host
	switch at {
	case inStatus:
		h.Status, h.Reason = p.word("state"), p.word("reason")
	case inAddress:
		p.address()
	case inExtraPorts:
		state := p.word("state")
		p.said = p.said || state != "" && !strings.Contains(state, "filtered")
		if state != "" && len(h.Others) < 16 {
			h.Others = append(h.Others, Others{state, p.count("count")})
		}
	case inPort:
		p.beginPort()
	case inMatch:
		if name := p.phrase("name"); name != "" && len(h.OS) < maxGuesses {
			h.OS = append(h.OS, OS{name, min(p.count("accuracy"), 100)})
		}
	case inHostScript:
		if h.Untrusted == nil {
			h.Untrusted = &HostText{Scripts: []Script{}}
		}
		h.Untrusted.Scripts = p.script(h.Untrusted.Scripts)
	default:
		if p.port != nil {
			p.inPort(at)
		}
	}
}

func (p *nmapParser) address() {
	if p.is("addrtype", "mac") {
		if mac := string(p.xml.raw("addr")); len(mac) == 17 && strings.Trim(mac, "0123456789ABCDEFabcdef:") == "" {
			p.host.MAC, p.host.Vendor = mac, p.phrase("vendor")
		}
		return
	}
	addr, err := netip.ParseAddr(string(p.xml.raw("addr")))
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		return
	}
	p.host.Addr, p.valid = addr, true
}

func (p *nmapParser) beginPort() {
	p.port, p.text = nil, PortText{}
	n := p.count("portid")
	proto := p.word("protocol")
	if n > 65535 || proto == "" {
		return
	}
	// One that is not kept is counted all the same.
	if p.over = len(p.host.Ports) >= maxPorts || p.ports+len(p.host.Ports) >= maxAll; p.over {
		p.cut("ports")
	}
	p.one = Port{Port: n, Proto: proto}
	p.port = &p.one
}

// inPort takes a start tag within a port.
func (p *nmapParser) inPort(at place) {
	if p.over && at != inState {
		return // it is only counted
	}
	switch at {
	case inState:
		p.port.State, p.port.Reason = p.word("state"), p.word("reason")
	case inService:
		p.port.Service, p.port.Method, p.port.Tunnel = p.word("name"), p.word("method"), p.word("tunnel")
		p.text.Product, p.text.Version, p.text.Extra = p.clean(p.xml.raw("product")), p.clean(p.xml.raw("version")), p.clean(p.xml.raw("extrainfo"))
		p.text.Hostname, p.text.OS, p.text.Device = p.clean(p.xml.raw("hostname")), p.clean(p.xml.raw("ostype")), p.clean(p.xml.raw("devicetype"))
	case inCPE:
		p.xml.keepText()
	case inPortScript:
		p.text.Scripts = p.script(p.text.Scripts)
	}
}

func (p *nmapParser) clean(raw []byte) string {
	if len(raw) <= maxText && plain(raw) {
		return p.take(p.held(raw))
	}
	return p.take(Sanitise(decoded(string(raw))))
}

func (p *nmapParser) script(kept []Script) []Script {
	name := p.word("id")
	if name == "" {
		return kept
	}
	output := bytes.TrimSpace(p.xml.raw("output"))
	if bytes.HasPrefix(output, []byte(scriptError)) {
		p.failed(name)
	}
	if len(kept) == maxScripts || p.texts == maxTexts {
		p.cut("scripts")
		return kept
	}
	p.texts++
	return append(kept, Script{name, p.take(sanitise(decoded(string(output)), maxOutput))})
}

// scriptError is what nmap has a script say that ended in an error. A host that says so makes the scan look worse, not
// better.
const scriptError = "ERROR: Script execution failed"

func (p *nmapParser) failed(name string) {
	c := &p.report.Coverage
	if c.ScriptErrors++; len(c.ScriptsFailed) < maxFailed && !slices.Contains(c.ScriptsFailed, name) {
		c.ScriptsFailed = append(c.ScriptsFailed, name)
	}
}

// finish takes an end tag.
func (p *nmapParser) finish(at place) {
	switch {
	case at == inRun:
		p.closed = true
	case at == inHost && p.host != nil:
		p.endHost()
	case at == inPort && p.port != nil:
		p.endPort()
	case at == inCPE && p.port != nil && !p.over:
		p.xml.cut = p.xml.cut || p.xml.textCut
		if len(p.text.CPE) < maxCPE {
			p.text.CPE = append(p.text.CPE, p.clean(p.xml.text))
		}
	}
}

func (p *nmapParser) endPort() {
	port := *p.port
	p.port = nil
	// Of a port that is filtered the host has said nothing: an error that says so is a router's, or this machine's own.
	p.said = p.said || !strings.Contains(port.State, "filtered")
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
	p.list = append(p.host.Ports, port)
	p.host.Ports = p.list
}

// endHost counts a host that is complete, and keeps it if there is anything to say about it.
func (p *nmapParser) endHost() {
	h, c := *p.host, &p.report.Coverage
	p.host = nil
	c.Listed++
	if !p.valid || p.seen[h.Addr.As16()] != 0 {
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
	h.Ports = append(make([]Port, 0, len(h.Ports)), h.Ports...)
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
	p.seen[a.As16()] = f
}

func (p *nmapParser) progress(at place) {
	g := &p.report.Progress
	g.Task, g.Remaining = p.phrase("task"), 0
	switch at {
	case inTaskBegin:
		g.Percent = 0
	case inTaskEnd:
		g.Percent = 100
	default:
		percent, err := strconv.ParseFloat(string(p.xml.raw("percent")), 64)
		if err == nil && percent >= 0 && percent <= 100 {
			g.Percent = percent
		}
		g.Remaining = p.count("remaining")
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
