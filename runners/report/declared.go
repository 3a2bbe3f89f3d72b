package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Form is how the output of a declared scanner is read, and what it was asked for.
type Form struct {
	Scanner  string
	Stderr   bool
	Lines    []Line            // the first that fits a line reads it; or else
	JSON     map[string]string // what a value is, to its key, with dots where it is in an object of its own
	States   map[string]string // the scanner's words for states
	Whole    bool              // it lists what it found, and is through with all at its end
	End      *regexp.Regexp    // a line that says that it came to its end; nil: its exit status does
	Failed   *regexp.Regexp    // a line that says that it failed
	Statuses []int             // exit statuses of a scan that went well
	Asked    []netip.Prefix    // a host outside of these is not the scanner's to tell; nil: they are not known
	Ports    *AskedPorts       // likewise, of ports
	Only     netip.AddrPort    // the only address and the only port that were asked, each where there is one
	UDP      bool              // the ports are of UDP
}

// AskedPorts are ranges of ports, with both ends.
type AskedPorts struct{ TCP, UDP [][2]uint16 }

func (p *AskedPorts) has(protocol string, port uint16) bool {
	var ranges [][2]uint16
	switch protocol {
	case "tcp":
		ranges = p.TCP
	case "udp":
		ranges = p.UDP
	}
	return slices.ContainsFunc(ranges, func(r [2]uint16) bool { return r[0] <= port && port <= r[1] })
}

// Line is a form of a line: its named groups are values, Set is others that are the same in each.
type Line struct {
	Pattern *regexp.Regexp
	Set     map[string]string
}

// What a value may be beside a scanned host's text.
const (
	valueHost     = "host"
	valuePort     = "port"
	valueProtocol = "protocol"
	valueState    = "state"
	valueService  = "service"
)

var (
	portStates = []string{"open", "closed", "filtered", "open|filtered", "unfiltered"}
	protocols  = []string{"tcp", "udp", "sctp"}
)

// ParseDeclared reads what a declared scanner printed, by the operator's declaration. Lines that it says nothing of are
// passed over. That the scan is whole is said as if it ended well: whether it did, its exit status tells. The error is
// only about reading.
func ParseDeclared(stdout, stderr io.Reader, form Form, on func(Progress)) (Report, error) {
	d := &declared{form: form, on: on, at: map[netip.Addr]int{}, ports: map[declaredPort]int32{}, silent: map[netip.Addr]bool{}}
	beside := &declared{form: form}
	out, others := stdout, stderr
	if form.Stderr {
		out, others = stderr, stdout
	}
	var outErr, otherErr error
	var both sync.WaitGroup
	both.Go(func() { _, otherErr = eachLine(others, "\r\n", beside.signs) })
	cut, outErr := eachLine(out, "\r\n", d.line)
	both.Wait()
	if cut {
		d.leaveOut("total")
	}
	r := d.report(d.ended || beside.ended || form.End == nil, d.failed || beside.failed)
	if err := errors.Join(outErr, otherErr); err != nil {
		return r, fmt.Errorf("cannot read the report: %w", err)
	}
	return r, nil
}

// unescaped is a line without what colours it or moves about on a terminal: forms are of what is to be read.
func unescaped(line []byte) []byte {
	if bytes.IndexByte(line, '\x1b') < 0 {
		return line
	}
	var out strings.Builder
	for text := string(line); text != ""; {
		if n := escapeLength(text); n > 0 {
			text = text[n:]
			continue
		}
		out.WriteByte(text[0])
		text = text[1:]
	}
	return []byte(out.String())
}

// declaredPort is a port of a host that is kept, by their places.
type declaredPort struct {
	host     int32
	protocol int8
	port     uint16
}

// declared is what was read so far.
type declared struct {
	form          Form
	on            func(Progress)
	at            map[netip.Addr]int     // hosts that are up, to their place; -1: not kept
	ports         map[declaredPort]int32 // to their place among those of their host
	silent        map[netip.Addr]bool
	hosts         []Host
	kept          int // ports
	texts, bytes  int // of them
	open          int
	invalid       int
	read          bool // something fitted
	ended, failed bool
	cut           []string
}

// signs looks for what the scanner says of its own end: of a good one in a whole line, of a bad one in what there is.
func (d *declared) signs(line []byte, end lineEnd) {
	line = unescaped(line)
	d.ended = d.ended || end == whole && d.form.End != nil && d.form.End.Match(line)
	d.failed = d.failed || d.form.Failed != nil && d.form.Failed.Match(line)
}

// line takes one that is whole: of another, nobody knows what it would have said.
func (d *declared) line(line []byte, end lineEnd) {
	d.signs(line, end)
	switch end {
	case long:
		d.leaveOut("token")
		return
	case unended:
		d.leaveOut("line")
		return
	}
	line = unescaped(line)
	values, is := d.valuesOf(line)
	if !is {
		return
	}
	d.read = true
	if !d.take(values) {
		d.invalid++
	}
	if d.on != nil {
		d.on(Progress{Task: "scanning", Hosts: len(d.at) + len(d.silent)})
	}
}

// valuesOf is what a line says, by names.
func (d *declared) valuesOf(line []byte) (map[string]string, bool) {
	if len(d.form.JSON) > 0 {
		return d.objectOf(line)
	}
	for _, l := range d.form.Lines {
		m := l.Pattern.FindSubmatch(line)
		if m == nil {
			continue
		}
		values := maps.Clone(l.Set)
		if values == nil {
			values = map[string]string{}
		}
		for i, name := range l.Pattern.SubexpNames() {
			if name != "" && m[i] != nil {
				values[name] = string(m[i])
			}
		}
		return values, true
	}
	return nil, false
}

// objectOf reads a line that is a JSON object. A value that is neither a text, a number nor a truth has no text.
func (d *declared) objectOf(line []byte) (map[string]string, bool) {
	if line = bytes.TrimSpace(line); len(line) == 0 || line[0] != '{' {
		return nil, false
	}
	var object map[string]any
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	if decoder.Decode(&object) != nil {
		return nil, false
	}
	values := map[string]string{}
	for name, key := range d.form.JSON {
		if text, has := textAt(object, key); has {
			values[name] = text
		}
	}
	return values, len(values) > 0
}

func textAt(object map[string]any, key string) (string, bool) {
	first, rest, deeper := strings.Cut(key, ".")
	switch v := object[first].(type) {
	case map[string]any:
		if deeper {
			return textAt(v, rest)
		}
	case string:
		return v, !deeper
	case json.Number:
		return v.String(), !deeper
	case bool:
		return strconv.FormatBool(v), !deeper
	}
	return "", false
}

// take keeps what a line says of a host or of a port; false: it is of none that was asked.
func (d *declared) take(values map[string]string) bool {
	addr := d.form.Only.Addr()
	if text, given := values[valueHost]; given {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return false
		}
		addr = a.Unmap()
	}
	if !addr.IsValid() || d.form.Asked != nil && !slices.ContainsFunc(d.form.Asked, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return false
	}
	state := values[valueState]
	if own, has := d.form.States[state]; has {
		state = own
	}
	_, numbered := values[valuePort]
	if numbered || slices.Contains(portStates, state) {
		return d.takePort(addr, state, values)
	}
	if state == "down" {
		if _, up := d.at[addr]; !up && len(d.silent) < maxCovered {
			d.silent[addr] = true
		}
		return true
	}
	if state != "" && state != "up" {
		return false
	}
	if h := d.host(addr); h != nil {
		if texts := d.textsOf(values); h.Untrusted != nil {
			h.Untrusted.Scripts = d.with(h.Untrusted.Scripts, texts)
		} else if texts = d.with(nil, texts); len(texts) > 0 {
			h.Untrusted = &HostText{Scripts: texts}
		}
	}
	return true
}

func (d *declared) takePort(addr netip.Addr, state string, values map[string]string) bool {
	number := d.form.Only.Port()
	if text, given := values[valuePort]; given {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return false
		}
		number = uint16(n)
	}
	if number == 0 {
		return false
	}
	if state == "" {
		state = "open"
	}
	protocol := values[valueProtocol]
	if protocol = strings.ToLower(protocol); protocol == "" {
		if protocol = "tcp"; d.form.UDP || d.form.Ports != nil && !d.form.Ports.has("tcp", number) && d.form.Ports.has("udp", number) {
			protocol = "udp"
		}
	}
	if !slices.Contains(portStates, state) || !slices.Contains(protocols, protocol) || d.form.Ports != nil && !d.form.Ports.has(protocol, number) {
		return false
	}
	h := d.host(addr)
	if h == nil {
		return true
	}
	key := declaredPort{int32(d.at[addr]), int8(slices.Index(protocols, protocol)), number}
	i, known := d.ports[key]
	if !known {
		if d.kept == maxAll || len(h.Ports) == maxPorts {
			d.leaveOut("ports")
			return true
		}
		d.kept++
		i = int32(len(h.Ports))
		d.ports[key] = i
		h.Ports = append(h.Ports, Port{Port: int(number), Proto: protocol, State: state})
		if state == "open" {
			d.open++
		}
	}
	p := &h.Ports[i]
	if s := values[valueService]; isWord([]byte(s)) && s != "" {
		p.Service = s
	}
	if texts := d.textsOf(values); p.Untrusted != nil {
		p.Untrusted.Scripts = d.with(p.Untrusted.Scripts, texts)
	} else if texts = d.with(nil, texts); len(texts) > 0 {
		p.Untrusted = &PortText{Scripts: texts}
	}
	return true
}

// host is the place of a host that is up; nil: there is no room for it.
func (d *declared) host(addr netip.Addr) *Host {
	delete(d.silent, addr)
	i, known := d.at[addr]
	if !known {
		if len(d.at) == maxCovered {
			d.leaveOut("coverage")
			return nil
		}
		if i = len(d.hosts); i == maxHosts {
			i = -1
		}
		d.at[addr] = i
		if i >= 0 {
			d.hosts = append(d.hosts, Host{Addr: addr, Status: "up", Ports: []Port{}})
		}
	}
	if i < 0 {
		d.leaveOut("hosts")
		return nil
	}
	return &d.hosts[i]
}

// textsOf is what a line has beside the values that this package knows: text of the scanned host.
func (d *declared) textsOf(values map[string]string) (out []Script) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch name {
		case valueHost, valuePort, valueProtocol, valueState, valueService:
			continue
		}
		if text := sanitise(values[name], maxOutput); strings.TrimSpace(text) != "" {
			out = append(out, Script{Name: name, Output: text})
		}
	}
	return out
}

func (d *declared) with(have, more []Script) []Script {
	for _, s := range more {
		n := len(s.Output) + len(s.Name) + textOverhead
		if len(have) == maxScripts || d.texts == maxTexts || d.bytes+n > maxTextBytes {
			d.leaveOut("texts")
			return have
		}
		d.texts++
		d.bytes += n
		have = append(have, s)
	}
	return have
}

func (d *declared) leaveOut(what string) {
	if !slices.Contains(d.cut, what) {
		d.cut = append(d.cut, what)
	}
}

func (d *declared) report(ended, failed bool) Report {
	hosts := append([]Host{}, d.hosts...)
	slices.SortFunc(hosts, func(a, b Host) int { return a.Addr.Compare(b.Addr) })
	for _, h := range hosts {
		slices.SortFunc(h.Ports, func(a, b Port) int {
			return cmp.Or(strings.Compare(a.Proto, b.Proto), a.Port-b.Port)
		})
	}
	r := Report{Scanner: d.form.Scanner, Finished: ended && !failed, Hosts: hosts, Cut: d.cut, Statuses: d.form.Statuses}
	if failed {
		r.ErrorClass = ErrorScanner
	}
	r.ExitOK = r.Finished
	c := &r.Coverage
	c.Up, c.Alive, c.Down, c.OpenPorts, c.Invalid = len(d.at), len(d.at), len(d.silent), d.open, d.invalid
	c.Listed, c.NotKept, c.Whole = len(d.at), len(d.at)-len(hosts), d.form.Whole && r.ExitOK
	up, down := slices.Collect(maps.Keys(d.at)), slices.Collect(maps.Keys(d.silent))
	c.DownAt, c.GivenUp = covering(down), []netip.Prefix{}
	c.Completed = covering(append(up, down...))
	if !c.Whole && d.form.Whole {
		c.Completed = []netip.Prefix{} // it was at all of them at once, and through with none
	}
	r.Progress = Progress{Task: "scanning", Hosts: c.Up + c.Down}
	return r
}
