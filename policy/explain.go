package policy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// Explained is what one engagement makes of a request: not the first reason against it, which is what a
// caller is told, but all of them.
type Explained struct {
	Engagement, Revision string
	Names                bool   // it names the caller
	Suspended            string // why it is not in force; empty: it is
	// Against is every reason against the request, as denials; none: the engagement would allow it, or have
	// it approved, and Verdict is what it grants.
	Against []Verdict
	Verdict Verdict
}

// Explain judges a request under every engagement, by name, also under those that do not name the caller.
// resolved is as of [Decide]: names have their answers.
func Explain(p *Policy, c Caller, r Request, now time.Time, resolved bool) []Explained {
	var all []Explained
	for i := range p.Engagements {
		e := &p.Engagements[i]
		x := Explained{Engagement: e.Name, Revision: e.Revision, Names: e.Names(c), Suspended: p.Suspended[e.Name]}
		x.Against = e.against(p.Machine, r, now, resolved)
		x.Verdict = e.try(p.Machine, r, now, resolved).Verdict
		all = append(all, x)
	}
	for name, why := range p.Suspended {
		if p.named(name) == nil {
			all = append(all, Explained{Engagement: name, Suspended: why})
		}
	}
	slices.SortStableFunc(all, func(a, b Explained) int { return strings.Compare(a.Engagement, b.Engagement) })
	return all
}

// against is every denial of r under e: of the time, the tool, each target by itself, the ports of all of
// them together, the size, and what it does.
func (e *Engagement) against(m Machine, r Request, now time.Time, resolved bool) (all []Verdict) {
	add := func(v *Verdict) {
		if v != nil {
			v.Engagement, v.Revision = e.Name, e.Revision
			all = append(all, *v)
		}
	}
	add(e.open(now))
	add(e.tool(r.Tool, r.Profile))
	before := len(all)
	for i, t := range r.Targets {
		one := r
		t.Field = cmp.Or(t.Field, strict.Index("targets", i))
		one.Targets = []Target{t}
		_, v := e.judgeTargets(&Verdict{}, m, one, resolved)
		add(v)
	}
	allowed := Verdict{Outcome: Allow, Limits: e.Limits, Until: e.until(now)}
	if _, v := e.judgeTargets(&allowed, m, r, resolved); v != nil {
		if len(all) == before { // each by itself would do
			add(v)
		}
	} else {
		add(e.size(&allowed, r))
	}
	add(e.intrusive(r.Intrusive))
	return all
}
