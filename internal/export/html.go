package export

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/runners/report"
)

//go:embed style.css
var style string

//go:embed page.html
var page string

// pages escapes by the place where something stands: html/template knows it. The one value that it takes as it is, is
// the style sheet, which is ours.
var pages = template.Must(template.New("page").Funcs(template.FuncMap{"part": hostOnPage}).Parse(page))

const (
	openUpTo  = 12 // hosts that are shown unfolded
	chipsMost = 16 // ports that the line of a host names
	barsMost  = 20
)

// labelled is a value with its name.
type labelled struct {
	Label, Text string
	Count       uint64
}

// writeHTML writes a page that is whole in itself: no script, nothing loaded, and a policy that allows neither.
func writeHTML(w *bufio.Writer, s *Scan) error {
	program, _ := s.program()
	return pages.Execute(w, map[string]any{
		"Job": s.Job, "Hosts": s.Hosts, "Open": len(s.Hosts) <= openUpTo,
		"Title":     program + ", " + s.Profile + ": " + strings.ReplaceAll(s.Status, "_", " "),
		"When":      s.when(),
		"Tone":      s.tone(),
		"Verdict":   s.Verdict(),
		"Remarks":   s.Remarks(),
		"Figures":   s.figures(),
		"Chart":     s.chart(),
		"Segments":  s.segments(),
		"Parts":     s.parts(),
		"Nothing":   s.nothing(),
		"About":     s.about(),
		"Style":     template.CSS(style),
		"StyleHash": hashOf(style),
	})
}

// hashOf is how a content security policy names a style sheet.
func hashOf(style string) string {
	sum := sha256.Sum256([]byte(style))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

func (s *Scan) when() string {
	const form = "2 January 2006, 15:04:05 UTC"
	switch {
	case s.Started.IsZero() || s.Ended.IsZero():
		return "Asked for on " + s.Created.UTC().Format(form)
	case s.Ended.Sub(s.Started) < time.Second:
		return s.Started.UTC().Format(form) + ", for less than a second"
	}
	return s.Started.UTC().Format(form) + ", for " + s.Ended.Sub(s.Started).Round(time.Second).String()
}

func (s *Scan) tone() string {
	switch {
	case s.Complete():
		return "good"
	case s.Coverage == nil, s.Status == "failed":
		return "bad"
	}
	return "warn"
}

// nothing says why there is no host, which is seldom that there is none.
func (s *Scan) nothing() string {
	switch {
	case s.Coverage == nil:
		return "Nothing was looked at."
	case s.Complete():
		return "No host answered. Everything that was asked for was looked at."
	}
	return "No host is known to have answered. The scan is not complete: that says nothing about what it did not reach."
}

func (s *Scan) figures() []labelled {
	if s.Coverage == nil {
		return nil
	}
	found := func(label string, n int64) labelled {
		if n <= 0 && !s.Complete() {
			return labelled{Label: label, Text: "none known"} // which is no number
		}
		return labelled{Label: label, Text: strconv.FormatInt(n, 10)}
	}
	all := []labelled{{Label: "addresses asked for", Text: strconv.FormatUint(s.Coverage.Asked, 10)}, found("hosts that answered", int64(s.Summary.HostsUp))}
	if q := s.Coverage.Requests; q != nil {
		return append(all, labelled{Label: "requests", Text: strconv.FormatInt(q.Asked, 10)}, found("found", q.Found))
	}
	all = append(all, found("open ports", int64(s.Summary.OpenPorts)))
	if n := uint64(max(s.Coverage.TimedOut, 0)) + s.Coverage.NotReached; n > 0 {
		all = append(all, labelled{Label: "addresses of which nothing is known", Text: strconv.FormatUint(n, 10)})
	}
	return all
}

// segment is a part of the bar of coverage, of 1000 units.
type segment struct {
	labelled
	Class    string
	X, Width float64
}

func (s *Scan) segments() (all []segment) {
	c := s.Coverage
	if c == nil {
		return nil
	}
	total := 0.0
	for _, part := range []segment{
		{labelled{Label: "answered", Count: uint64(max(s.Summary.HostsUp, 0))}, "up", 0, 0},
		{labelled{Label: "silent", Count: uint64(max(c.Silent, 0))}, "silent", 0, 0},
		{labelled{Label: "down", Count: uint64(max(c.Down, 0))}, "down", 0, 0},
		{labelled{Label: "given up", Count: uint64(max(c.TimedOut, 0))}, "timed_out", 0, 0},
		{labelled{Label: "not reached", Count: c.NotReached}, "not_reached", 0, 0},
	} {
		if part.Count > 0 {
			all = append(all, part)
			total += float64(part.Count)
		}
	}
	// What is very little is seen all the same.
	sum := 0.0
	for i := range all {
		all[i].Width = max(1000*float64(all[i].Count)/total, 5)
		sum += all[i].Width
	}
	x := 0.0
	for i := range all {
		width := 1000 * all[i].Width / sum
		all[i].X, all[i].Width = tenth(x), tenth(width)
		x += width
	}
	return all
}

// tenth rounds, so that a page is the same wherever it is made.
func tenth(x float64) float64 { return float64(int64(x*10+0.5)) / 10 }

func (s *Scan) parts() (all []labelled) {
	if s.Coverage == nil {
		return nil
	}
	a := s.Coverage.Addresses
	for _, p := range []struct {
		label string
		Part
	}{{"looked at", a.Completed}, {"given up", a.TimedOut}, {"not reached", a.NotReached}} {
		if p.Count == 0 {
			continue
		}
		text := strings.Join(p.Prefixes, ", ")
		if p.More {
			text = strings.Join(nonempty(text, "and others"), ", ")
		}
		all = append(all, labelled{Label: p.label, Count: p.Count, Text: text})
	}
	for _, e := range s.Coverage.Exclusions {
		all = append(all, labelled{Label: "excluded", Count: s.Coverage.Excluded, Text: e.Prefix + " by " + e.Rule})
		if len(all) > 12 {
			break
		}
	}
	return all
}

// bars is a chart: how often something was found.
type bars struct {
	Caption, More string
	Width, Height int
	Bars          []bar
}

type bar struct {
	Label                                             string
	Count, LabelX, X, Y, Width, Height, TextY, CountX int
}

// chart shows which ports are open on how many hosts; of a scan by words, which answers there were.
func (s *Scan) chart() *bars {
	counts := map[string]int{}
	caption := "Open ports, by the number of hosts on which they are open"
	for _, h := range s.Hosts {
		for _, f := range h.Found {
			caption = "What was found, by the status of its answer"
			if f.Status > 0 {
				counts["status "+strconv.Itoa(f.Status)]++
			}
		}
	}
	services := map[string]string{} // of a port, what it was first called
	for _, h := range s.Hosts {
		for _, p := range h.Ports {
			if at := strconv.Itoa(p.Port) + "/" + p.Proto; p.State == "open" && len(h.Found) == 0 {
				counts[at]++
				services[at] = cmp.Or(services[at], p.Service)
			}
		}
	}
	return draw(caption, counts, services)
}

func draw(caption string, counts map[string]int, besides map[string]string) *bars {
	if len(counts) == 0 {
		return nil
	}
	const left, room, step = 165, 215, 22
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(number(a), number(b)), cmp.Compare(a, b))
	})
	c := &bars{Caption: caption, Width: left + room + 60, Height: step * min(len(names), barsMost)}
	if more := len(names) - barsMost; more > 0 {
		c.More = fmt.Sprintf("and %d more", more)
	}
	for i, name := range names[:min(len(names), barsMost)] {
		width := max(room*counts[name]/counts[names[0]], 2)
		c.Bars = append(c.Bars, bar{Label: short(strings.TrimSpace(name + " " + besides[name])), Count: counts[name], LabelX: left - 10, X: left, Y: i*step + 3, Width: width, Height: step - 6, TextY: i*step + 16, CountX: left + width + 7})
	}
	return c
}

// number is the number that a name begins with, so that ports are in their order.
func number(name string) int {
	digits, _, _ := strings.Cut(strings.TrimPrefix(name, "status "), "/")
	n, _ := strconv.Atoi(digits) // no number is 0
	return n
}

func short(name string) string {
	if runes := []rune(name); len(runes) > 26 {
		return string(runes[:25]) + "…"
	}
	return name
}

func (s *Scan) about() (all []labelled) {
	add := func(label, text string) {
		if text != "" {
			all = append(all, labelled{Label: label, Text: text})
		}
	}
	program, version := s.program()
	add("job", s.ID)
	add("state", s.Status)
	add("ended by", strings.Join(nonempty(s.End.Reason, s.End.Stage, s.End.ScannerError), ", "))
	add("tool", s.Tool)
	add("profile", s.Profile)
	add("scanner", strings.Join(nonempty(program, version), " "))
	add("sha256 of the scanner", s.Scanner.SHA256)
	add("engagement", s.Engagement)
	add("rule", s.Rule)
	add("correlation id", s.Correlation)
	add("asked for", stamp(s.Created))
	add("started", stamp(s.Started))
	add("ended", stamp(s.Ended))
	add("network", strings.Join(nonempty(s.Network.Mode, s.Network.Filter, s.Network.Slowed), ", "))
	if s.Coverage != nil {
		add("packets", fmt.Sprintf("%d sent, %d received", s.Usage.SentPackets, s.Usage.Received))
	}
	var arguments bytes.Buffer
	if json.Compact(&arguments, s.Arguments) == nil {
		add("arguments", arguments.String())
	}
	return all
}

// onPage is a host with what its line shows.
type onPage struct {
	Host          report.Host
	Open, Unknown bool
	State, Rest   string
	Chips         []chip
	About         []labelled
}

type chip struct {
	Text string
	Open bool
}

func hostOnPage(h report.Host, open bool) onPage {
	p := onPage{Host: h, Open: open, State: strings.ReplaceAll(state(h), "_", " "), Unknown: h.TimedOut || h.Silent}
	add := func(text string, open bool) {
		if len(p.Chips) < chipsMost {
			p.Chips = append(p.Chips, chip{text, open})
		}
	}
	for _, f := range h.Found {
		add(strings.TrimSpace(short(cmp.Or(f.Path, f.Name))), f.Status == 200)
	}
	listed := 0
	for _, port := range h.Ports {
		if len(h.Found) == 0 {
			listed++
			add(strings.TrimSpace(strconv.Itoa(port.Port)+"/"+port.Proto+" "+port.Service), port.State == "open")
		}
	}
	var rest []string
	if n := listed + len(h.Found) - len(p.Chips); n > 0 {
		rest = append(rest, fmt.Sprintf("and %d more", n))
	}
	for _, o := range h.Others {
		rest = append(rest, fmt.Sprintf("%d %s", o.Count, o.State))
	}
	p.Rest = strings.Join(rest, ", ")
	p.About = aboutHost(h)
	return p
}

func aboutHost(h report.Host) (all []labelled) {
	for _, l := range []labelled{{Label: "state", Text: strings.Join(nonempty(strings.ReplaceAll(state(h), "_", " "), h.Reason), ", ")}, {Label: "hardware address", Text: strings.Join(nonempty(h.MAC, h.Vendor), ", ")}} {
		if l.Text != "" {
			all = append(all, l)
		}
	}
	var systems []string
	for _, os := range h.OS {
		systems = append(systems, fmt.Sprintf("%s (%d %%)", os.Name, os.Accuracy))
	}
	if len(systems) > 0 {
		all = append(all, labelled{Label: "system, as the scanner guesses", Text: strings.Join(systems, "; ")})
	}
	return all
}
