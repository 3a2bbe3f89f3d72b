package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// Approval is what an operator has to approve of a request whose outcome is [Approve], and how.
type Approval struct {
	// Of is what makes it necessary, each as a word of the engagement or in words of this package:
	// "intrusive: scripts", "nmap_scan/thorough", "4096 addresses, more than 1024".
	Of []string
	// Within is how long the request may wait for it; at least minWithin, at most maxWithin.
	Within time.Duration
	// Self says that whoever asked may approve.
	Self bool
}

// The bounds of approval.within, and what it is without the key.
const (
	minWithin     = time.Minute
	maxWithin     = 24 * time.Hour
	defaultWithin = time.Hour
)

// approvalFile is how approvals are given, and which scans need one because of their size.
type approvalFile struct {
	// Addresses and Rate are the most that needs none; without the key, any.
	Addresses int `yaml:"addresses_over"`
	Rate      int `yaml:"packets_per_second_over"`
	// Within is how long a scan waits for its approval.
	Within time.Duration `yaml:"within"`
	// Self lets whoever asked for a scan approve it.
	Self bool `yaml:"self"`
}

func (c *compiler) approval(e *Engagement, words []string, f approvalFile) {
	const section = "approval"
	c.scans(e, "approve", words, nil, "a tool of tools, or TOOL/PROFILE")
	for _, b := range []struct {
		key       string
		got, most int    // which the file may say
		limit     string // of a job: beyond it nothing is left to be approved
		granted   int
		any       string
	}{
		{"addresses_over", f.Addresses, maxAddresses, "limits.addresses_per_job", e.Limits.Addresses, "any number of addresses"},
		{"packets_per_second_over", f.Rate, maxRate, "limits.packets_per_second", e.Limits.Rate, "any rate"},
	} {
		at := section + "." + b.key
		switch {
		case c.Bad(at) || !c.Has(at):
		case b.got < 1 || b.got > b.most:
			c.wrong(at, strconv.Itoa(b.got), fmt.Sprintf("1 to %d", b.most), "without the key "+b.any+" needs no approval")
		case b.got >= b.granted:
			c.wrong(at, strconv.Itoa(b.got), fmt.Sprintf("less than %s, %d", b.limit, b.granted), "more than that is refused, so there would be nothing to approve")
		}
	}
	if at := section + ".within"; !c.Bad(at) && (f.Within < minWithin || f.Within > maxWithin) {
		c.wrong(at, f.Within.String(), minWithin.String()+" to "+maxWithin.String(), "")
	}
	e.approve, e.approval = slices.Clone(words), f
}

func (a Approval) by() string {
	if a.Self {
		return "any operator, also whoever asked"
	}
	return "an operator who is not who asked"
}

// Approve is what an operator has to approve before it starts, as people write it.
func (e Engagement) Approve() []string {
	var out []string
	if e.Intrusive == Approve {
		out = append(out, intrusiveScans)
	}
	out = append(out, e.approve...)
	if n := e.approval.Addresses; n > 0 {
		out = append(out, fmt.Sprintf("more than %d addresses", n))
	}
	if n := e.approval.Rate; n > 0 {
		out = append(out, fmt.Sprintf("more than %d packets a second", n))
	}
	return out
}

// toApprove makes of a permission one that an operator has to approve, where the engagement says so. What it
// grants is what the permission grants.
func (e *Engagement) toApprove(v *Verdict, r Request) {
	var of []string
	if e.Intrusive == Approve && len(r.Intrusive) > 0 {
		of = append(of, clip(intrusiveScans+": "+strings.Join(capped(r.Intrusive), ", ")))
	}
	of = append(of, applying(e.approve, r)...)
	if n, most := sizeOf(v.spans()), e.approval.Addresses; most > 0 && n > uint64(most) {
		of = append(of, fmt.Sprintf("%d addresses, more than %d", n, most))
	}
	if most := e.approval.Rate; most > 0 && v.Limits.Rate > most {
		of = append(of, fmt.Sprintf("%d packets a second, more than %d", v.Limits.Rate, most))
	}
	if len(of) == 0 {
		return
	}
	v.Outcome, v.Approval = Approve, Approval{Of: of, Within: e.approval.Within, Self: e.approval.Self}
	v.Reason = "engagement " + e.Name + " allows it once an operator has approved it"
}

// applying is which of some words of a file (intrusive, a tool, TOOL/PROFILE) a request is meant by.
func applying(words []string, r Request) (out []string) {
	for _, w := range words {
		if w == r.Tool || w == r.Tool+"/"+r.Profile || w == intrusiveScans && len(r.Intrusive) > 0 {
			out = append(out, w)
		}
	}
	return distinct(out)
}

// scans reports words of a list that name none of the engagement's scans.
func (c *compiler) scans(e *Engagement, key string, words, known []string, allowed string) {
	for _, tool := range e.Tools() {
		profiles := e.tools[tool]
		if slices.Contains(profiles, anyProfile) && c.who.Profiles != nil {
			profiles, _ = c.who.Profiles(tool)
		}
		known = append(known, tool)
		for _, p := range profiles {
			known = append(known, tool+"/"+p)
		}
	}
	for i, w := range words {
		at := strict.Index(key, i)
		if c.Bad(at) || slices.Contains(known, w) {
			continue
		}
		hint := ""
		if near := strict.Nearest(w, known); near != "" {
			hint = "did you mean " + strict.Quote(near) + "?"
		}
		if w == intrusiveScans {
			hint = "`intrusive: approve` says that"
		}
		c.wrong(at, strict.Quote(w), allowed, hint)
	}
}
