package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// page is a heading with facts below it, each under its word. What callers wrote is quoted:
// pages are read in terminals.
type page struct{ strings.Builder }

func (p *page) fact(word, format string, args ...any) {
	fmt.Fprintf(p, "\n  %-12s%s", word, fmt.Sprintf(format, args...))
}

func (p *page) facts(word string, lines []string) {
	for _, line := range capped(lines) {
		p.fact(word, "%s", line)
		word = ""
	}
}

func (p *page) limits(l Limits) {
	p.fact("limits", "%s, %s each, %d packets a second, %s a job", plural(l.Addresses, "address", "addresses"), plural(l.Ports, "port", "ports"), l.Rate, l.Duration)
	if l.Budget > 0 {
		p.fact("", "all jobs together %d packets a second", l.Budget)
	}
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + more
}

func short(revision string) string { return revision[:min(len(revision), 12)] }

// String is a page about the engagement, for operators.
func (e Engagement) String() string {
	var p page
	fmt.Fprintf(&p, "%s (revision %s)", e.Name, short(e.Revision))
	if e.Description != "" {
		p.facts("about", strings.Split(strings.TrimSpace(e.Description), "\n"))
	}
	p.facts("callers", e.callers)
	p.facts("targets", e.targets)
	p.facts("exclude", e.Excluded())
	if e.hours != nil {
		p.fact("hours", "%s", e.hours.text)
	}
	if !e.Expires.IsZero() {
		p.fact("expires", "%s", e.Expires.Format(time.RFC3339))
	}
	var tools []string
	for _, tool := range e.Tools() {
		profiles := strings.Join(e.tools[tool], ", ")
		if profiles == anyProfile {
			profiles = "all profiles"
		}
		tools = append(tools, tool+": "+profiles)
	}
	p.facts("tools", tools)
	p.limits(e.Limits)
	p.fact("", "%s at once", plural(e.Limits.Jobs, "job", "jobs"))
	p.fact("intrusive", "%s", e.Intrusive)
	p.facts("confirm", e.confirm)
	if of := e.Approve(); len(of) > 0 {
		p.facts("approve", of)
		p.fact("", "within %s, by %s", e.approval.Within, Approval{Self: e.approval.Self}.by())
	}
	return p.String()
}

// String is a page about the verdict, for operators.
func (v Verdict) String() string {
	var p page
	p.WriteString(string(v.Outcome))
	if v.Outcome == "" {
		p.WriteString(string(Deny))
	}
	if v.Code != "" {
		p.WriteString(" " + v.Code)
	}
	if v.Engagement != "" {
		p.WriteString(", engagement " + v.Engagement)
	}
	if v.Revision != "" {
		p.WriteString(" (revision " + short(v.Revision) + ")")
	}
	if v.Reason != "" {
		p.fact("because", "%s", v.Reason)
	}
	if v.Rule != "" {
		p.fact("rule", "%s", v.Rule)
	}
	if v.Grants() {
		v.grant(&p)
	} else {
		v.denial(&p)
	}
	return p.String()
}

func (v Verdict) denial(p *page) {
	if v.Field != "" {
		p.fact("field", "%s", v.Field)
	}
	if v.Got != "" {
		p.fact("got", "%s", strict.Quote(v.Got))
	}
	p.facts("allowed", v.Allowed)
	if v.Hint != "" {
		p.fact("hint", "%s", v.Hint)
	}
}

func (v Verdict) grant(p *page) {
	spans := v.spans()
	p.facts("may send to", textsOf(prefixesOf(spans)))
	p.fact("", "%s in all", plural(int(sizeOf(spans)), "address", "addresses"))
	if v.Ports != nil {
		p.facts("ports", v.Ports.Strings())
	}
	var out []string
	for _, e := range v.Excluded() {
		out = append(out, textOf(e.Prefix)+" by "+e.Rule)
	}
	for _, port := range v.WithoutPorts.Strings() {
		out = append(out, "port "+port+" by "+strings.Join(v.PortRules, ", "))
	}
	p.facts("leaves out", out)
	if v.MoreNames {
		p.fact("names", "are yet to be asked for, and each answer to be judged")
	}
	p.limits(v.Limits)
	if v.Slowed != "" {
		p.fact("slowed", "%s", v.Slowed)
	}
	p.facts("confirm", v.Confirm)
	p.facts("approve", v.Approval.Of)
	if v.Outcome == Approve {
		p.fact("", "within %s, by %s", v.Approval.Within, v.Approval.by())
	}
	if !v.Until.IsZero() {
		p.fact("until", "%s", v.Until.Format(time.RFC3339))
	}
}
