package report

import (
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

// Bounds of what a report of gobuster may take.
const (
	maxFound = 16384
)

// Asked is what a scan by words asked for.
type Asked struct {
	Mode     string         // dir, dns, vhost
	At       netip.AddrPort // what was sent to
	Domain   string         // dns, vhost: names end in it
	Requests int64          // as many were to be made; 0: not known
	Variants int64          // of each word
}

// Found is one thing that was found: a path, or a name.
type Found struct {
	Path      string       `json:"path,omitempty"`
	Name      string       `json:"name,omitempty"`
	Status    int          `json:"status,omitempty"`
	Size      int          `json:"size,omitempty"`      // bytes of the answer's body
	Addresses []netip.Addr `json:"addresses,omitempty"` // that the name server gave for the name; nothing was sent there
	Untrusted *FoundText   `json:"untrusted,omitempty"`
}

// FoundText is what the host sent with it.
type FoundText struct {
	Location string `json:"location"` // of a redirect, which was not followed
}

// Requests is how far a scan by words came.
type Requests struct {
	Mode   string `json:"mode"`
	Asked  int64  `json:"asked"`
	Made   int64  `json:"made"`   // at its end all; before, as its line of progress says, and 0 where it has none
	Failed int64  `json:"failed"` // of those made, without an answer: nothing is known of their words
	Found  int64  `json:"found"`  // also of what is not kept
	// Unreadable is lines that are of no form that a result has: dropped.
	Unreadable int64 `json:"unreadable,omitempty"`
}

// clearLine is what gobuster writes before a result.
const clearLine = "\r\x1b[2K"

var (
	rulerForm    = regexp.MustCompile(`^={40,}$`)
	titleForm    = regexp.MustCompile(`^Gobuster v([0-9]{1,3}\.[0-9]{1,4}(?:\.[0-9]{1,4})?)$`)
	answerForm   = regexp.MustCompile(`^ \(Status: ([1-9][0-9]{2})\) \[Size: ([0-9]{1,15})\](?: \[--> (.*)\])?$`)
	vhostForm    = regexp.MustCompile(`^(?:Found: )?([^\s]+) Status: ([1-9][0-9]{2}) \[Size: ([0-9]{1,15})\](?: \[--> (.*)\])?$`)
	nameForm     = regexp.MustCompile(`^(?:Found: ([^\s]+)(?: \[([0-9a-fA-F:.,]*)\])?|([^\s]+)(?: ([0-9a-fA-F:.,]+))?)$`)
	progressForm = regexp.MustCompile(`^\x1b\[2KProgress: ([0-9]{1,15}) / ([0-9]{1,15}) \([0-9.]{1,8}%\)`)
	hostForm     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}$`)
)

// ParseGobuster reads what gobuster writes: results on standard output between rulers, and errors and progress on
// standard error. on, which may be nil, is told of progress. What ends early gives what was complete; the error is only
// about reading. Text of a host is in the location of a redirect alone, and within the errors, which are only counted:
// it can add to what failed and not take from it.
func ParseGobuster(stdout, stderr io.Reader, a Asked, on func(Progress)) (Report, error) {
	p := &gobusterParser{asked: a, report: Report{Scanner: "gobuster", Hosts: []Host{}}}
	told := &gobusterErrors{asked: a, on: on}
	var beside error
	var both sync.WaitGroup
	both.Go(func() { beside = told.read(stderr) })
	cut, err := eachLine(stdout, "\n", p.line)
	both.Wait()
	if cut {
		p.cut("total")
	}
	p.end(told)
	if err := errors.Join(err, beside); err != nil {
		return p.report, fmt.Errorf("cannot read the report: %w", err)
	}
	return p.report, nil
}

// gobusterParser walks standard output: a heading of four rulers, results, and an end of two.
type gobusterParser struct {
	asked    Asked
	report   Report
	rulers   int
	requests Requests
	found    []Found
	texts    int // bytes kept
}

func (p *gobusterParser) cut(what string) {
	if !slices.Contains(p.report.Cut, what) {
		p.report.Cut = append(p.report.Cut, what)
	}
}

const (
	heading = 4 // rulers before the first result
	closing = 6 // rulers at the end
)

func (p *gobusterParser) line(text []byte, end lineEnd) {
	switch end {
	case long: // a host's own words come last and may be cut: what they follow is a result
		p.cut("token")
		text = append(text, ']')
	case unended:
		return
	}
	line := string(text)
	for strings.HasPrefix(line, clearLine) {
		line = line[len(clearLine):]
	}
	switch {
	case rulerForm.MatchString(line):
		p.rulers++
	case p.rulers == 1:
		if m := titleForm.FindStringSubmatch(line); m != nil {
			p.report.Version = m[1]
		}
	case p.rulers == heading && strings.TrimSpace(line) != "":
		p.result(line)
	case p.rulers == closing-1 && strings.HasSuffix(line, "Finished"):
		p.report.Finished = true
	}
}

// result takes a line of a result, strictly in one of its forms.
func (p *gobusterParser) result(line string) {
	f, ok := Found{}, false
	switch p.asked.Mode {
	case "dir":
		f, ok = p.path(line)
	case "vhost":
		f, ok = p.vhost(line)
	case "dns":
		f, ok = p.name(line)
	}
	if !ok {
		p.requests.Unreadable++
		return
	}
	p.requests.Found++
	if len(p.found) == maxFound {
		p.cut("found")
		return
	}
	p.found = append(p.found, f)
}

func (p *gobusterParser) path(line string) (Found, bool) {
	// A word comes first, and a host has its say at the end alone.
	word, rest, found := strings.Cut(line, " (Status: ")
	if !found {
		return Found{}, false
	}
	m := answerForm.FindStringSubmatch(" (Status: " + rest)
	if m == nil {
		return Found{}, false
	}
	f := Found{Path: Sanitise("/" + strings.TrimPrefix(strings.TrimRight(word, " "), "/"))}
	p.answer(&f, m[1], m[2], m[3])
	return f, true
}

func (p *gobusterParser) vhost(line string) (Found, bool) {
	m := vhostForm.FindStringSubmatch(line)
	if m == nil || !p.below(m[1]) {
		return Found{}, false
	}
	f := Found{Name: m[1]}
	p.answer(&f, m[2], m[3], m[4])
	return f, true
}

func (p *gobusterParser) name(line string) (Found, bool) {
	m := nameForm.FindStringSubmatch(line)
	if m == nil || !p.below(m[1]+m[3]) {
		return Found{}, false
	}
	f := Found{Name: m[1] + m[3]}
	for text := range strings.SplitSeq(m[2]+m[4], ",") {
		if text == "" {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return Found{}, false
		}
		if len(f.Addresses) < maxCPE {
			f.Addresses = append(f.Addresses, addr)
		}
	}
	return f, true
}

// below says that a name is one of those that were asked for.
func (p *gobusterParser) below(name string) bool {
	return hostForm.MatchString(name) && strings.HasSuffix(strings.ToLower(name), "."+p.asked.Domain)
}

// answer adds what every answer of HTTP has; the forms saw to it that they are numbers that fit.
func (p *gobusterParser) answer(f *Found, status, size, location string) {
	f.Status, _ = strconv.Atoi(status)
	f.Size, _ = strconv.Atoi(size)
	if location = Sanitise(location); location == "" {
		return
	}
	if p.texts += len(location) + textOverhead; p.texts > maxTextBytes {
		p.cut("texts")
		return
	}
	f.Untrusted = &FoundText{location}
}

// end says how far the scan came.
func (p *gobusterParser) end(told *gobusterErrors) {
	r, q, c := &p.report, &p.requests, &p.report.Coverage
	r.Finished = r.Finished && p.rulers == closing && told.fatal == ""
	r.ExitOK = r.Finished
	q.Mode, q.Asked, q.Made, q.Failed = p.asked.Mode, p.asked.Requests, told.made, told.failed
	if r.Finished {
		q.Made = q.Asked
	}
	r.Progress, c.Requests = told.progress, q
	switch {
	case p.rulers == 0:
		r.ErrorClass = ErrorNotAReport
	case !r.Finished:
		r.ErrorClass = told.fatal
	}
	if told.cut {
		p.cut("token")
	}
	if told.more {
		p.cut("total")
	}
	if !p.asked.At.IsValid() || !r.Finished && len(p.found) == 0 {
		return
	}
	h := Host{Addr: p.asked.At.Addr(), Status: "up", Ports: []Port{}, Found: p.found}
	if p.asked.Mode != "dns" {
		h.Ports = append(h.Ports, Port{Port: int(p.asked.At.Port()), Proto: "tcp", State: "open"})
		c.OpenPorts = 1
	}
	r.Hosts, c.Listed = append(r.Hosts, h), 1
	if r.Finished {
		c.Up, c.Alive = 1, 1
		c.Completed = []netip.Prefix{netip.PrefixFrom(h.Addr, h.Addr.BitLen())}
	}
}

// gobusterErrors reads standard error. Lines there end in a carriage return as often as in a new line.
type gobusterErrors struct {
	asked    Asked
	on       func(Progress)
	progress Progress
	made     int64
	failed   int64
	fatal    string // the class of the error that ended it
	cut      bool   // a line was too long
	more     bool   // there was more than is read
}

func (e *gobusterErrors) read(r io.Reader) error {
	cut, err := eachLine(r, "\r\n", e.line)
	e.more = cut
	return err
}

// line takes one that is not ended, too: progress is told without an end.
func (e *gobusterErrors) line(text []byte, end lineEnd) {
	e.cut = e.cut || end == long
	line := string(text)
	if m := progressForm.FindStringSubmatch(line); m != nil {
		made, _ := strconv.ParseInt(m[1], 10, 64) // digits that fit, says the form
		all, _ := strconv.ParseInt(m[2], 10, 64)
		// An error may quote a host, and a host may write like this; it does not know the number of words.
		if all >= e.asked.Requests && all <= e.asked.Requests+e.asked.Variants && made >= e.made && made <= all {
			e.tell(made)
		}
	}
	switch {
	case strings.Contains(line, "[ERROR] "):
		e.failed++
	case strings.HasPrefix(line, "Error: "), fatalForm.MatchString(line):
		e.fatal = gobusterClass(line)
	}
}

// fatalForm is how 3.7 and later say why they end: now and then without a new line after what they say of their progress.
var fatalForm = regexp.MustCompile(`^(?:(?:\x1b\[2K)?Progress: [0-9]{1,18} / [0-9]{1,18} \([0-9.]{1,8}%\))?[0-9]{4}/[0-9]{2}/[0-9]{2} [0-9:]{8} (the server returns|the DNS Server|unable to connect|error on|timeout occurred|server closed|connection refused|failed to|offset is)`)

func (e *gobusterErrors) tell(made int64) {
	e.made = min(made, e.asked.Requests)
	e.progress.Task = "requests"
	if e.asked.Requests > 0 {
		e.progress.Percent = 100 * float64(e.made) / float64(e.asked.Requests)
	}
	if e.on != nil {
		e.on(e.progress)
	}
}

// gobusterClass sorts gobuster's message into a class. The message itself may hold anything and goes no further.
func gobusterClass(message string) string {
	for _, row := range []struct{ has, class string }{
		{"non existing urls", ErrorWildcard},
		{"same IP for every domain", ErrorWildcard},
		{"x509:", ErrorTLS},
		{"tls:", ErrorTLS},
		{"unable to connect", ErrorUnreachable},
		{"connection refused", ErrorUnreachable},
		{"timeout occurred", ErrorUnreachable},
		{"server closed", ErrorUnreachable},
	} {
		if strings.Contains(message, row.has) {
			return row.class
		}
	}
	return ErrorScanner
}
