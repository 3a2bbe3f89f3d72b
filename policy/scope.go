package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// rule is one prefix of an engagement with its place in the file.
type rule struct {
	span
	label string
}

func newRule(label string, p netip.Prefix) rule { return rule{spanOf(p), label + " " + textOf(p)} }

// textOf is how people write p: an address without its length.
func textOf(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// table is rules of which none lies in another, sorted. Prefixes either nest or are apart, so
// leaving out the inner ones loses no address, and a search is by halving.
type table []rule

func newTable(rules []rule) table {
	sorted := slices.Clone(rules)
	slices.SortStableFunc(sorted, func(a, b rule) int {
		return cmp.Or(a.from.Compare(b.from), b.to.Compare(a.to))
	})
	var t table
	for _, r := range sorted {
		if last := len(t) - 1; last < 0 || !r.isIn(t[last].span) {
			t = append(t, r)
		}
	}
	return t
}

// overlapping is the rules that have an address in common with s.
func (t table) overlapping(s span) table {
	first, _ := slices.BinarySearchFunc(t, s.from, func(r rule, from netip.Addr) int {
		if r.to.Less(from) {
			return -1
		}
		return 1
	})
	last := first
	for last < len(t) && !s.to.Less(t[last].from) {
		last++
	}
	return t[first:last]
}

func (t table) spans() []span {
	out := make([]span, len(t))
	for i, r := range t {
		out[i] = r.span
	}
	return merge(out)
}

// scope is what one list of prefixes allows: the targets of an engagement, or what a name's
// answers must lie within.
type scope struct {
	rules  []portRule // all, in the order of the file
	inside table
	ports  portTable // of inside, all of it
	never  []rule    // what the table of reserved ranges takes out of inside
}

func newScope(rules []portRule) scope {
	s := scope{rules: rules, ports: newPortTable(rules)}
	var plain []rule
	for _, r := range rules {
		plain = append(plain, r.rule)
	}
	s.inside = newTable(plain)
	for _, row := range never {
		holes := []span{row.span}
		if row.lifts {
			holes = s.notLifted(row.span)
		}
		for _, hole := range holes {
			for _, r := range s.inside.overlapping(hole) {
				s.never = append(s.never, rule{hole.within(r.span), row.rule()})
			}
		}
	}
	return s
}

// notLifted is what is left of a reserved range when each rule that lies wholly in it has
// lifted its own addresses. A wider rule lifts nothing: whoever allows 0.0.0.0/0 did not mean
// the reserved ranges in it.
func (s scope) notLifted(row span) []span {
	var lifted []span
	for _, r := range s.rules {
		if r.isIn(row) {
			lifted = append(lifted, r.span)
		}
	}
	return row.without(merge(lifted))
}

// parts is what becomes of a span that was asked for.
type parts struct {
	outside []span // of no rule
	by      table  // the rules that it is under
	left    []span // may be sent to
	taken   []Exclusion
	// excluded says that an exclusion of the engagement took something, and not only what is
	// never a target.
	excluded bool
}

// judge divides what was asked for. taken is found in the order of what the operator wants to
// read first: the engagement's own exclusions, the machine, the reserved ranges.
func (s scope) judge(asked span, exclude table, m Machine) parts {
	p := parts{by: s.inside.overlapping(asked)}
	p.outside = asked.without(p.by.spans())
	var gone []span
	take := func(hole span, label string) {
		if !hole.overlaps(asked) {
			return
		}
		fresh := hole.within(asked).without(gone)
		if len(fresh) == 0 {
			return
		}
		for _, prefix := range prefixesOf(fresh) {
			p.taken = append(p.taken, Exclusion{prefix, label})
		}
		gone = merge(append(gone, fresh...))
	}
	own := exclude.overlapping(asked)
	for _, r := range own {
		for _, prefix := range prefixesOf([]span{r.within(asked)}) {
			p.taken = append(p.taken, Exclusion{prefix, r.label})
		}
	}
	gone, p.excluded = own.clipped(asked), len(own) > 0
	s.machineHoles(asked, m, take)
	for _, hole := range s.never {
		take(hole.span, hole.label)
	}
	slices.SortFunc(p.taken, func(a, b Exclusion) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	p.left = asked.without(gone)
	return p
}

func (t table) clipped(to span) []span {
	out := make([]span, len(t))
	for i, r := range t {
		out[i] = r.within(to)
	}
	return merge(out)
}

// machineHoles takes out what this machine is. Its own addresses and those of boxes stay out
// whatever a rule says; networks of containers on it and broadcast addresses are lifted like
// reserved ranges.
func (s scope) machineHoles(asked span, m Machine, take func(span, string)) {
	for _, kind := range m.kinds() {
		for _, prefix := range kind.prefixes {
			if !prefix.IsValid() || !spanOf(prefix).overlaps(asked) {
				continue
			}
			holes := []span{spanOf(prefix)}
			if kind.lifts {
				holes = s.notLifted(spanOf(prefix))
			}
			for _, hole := range holes {
				take(hole, kind.rule)
			}
		}
	}
}

type machineKind struct {
	prefixes []netip.Prefix
	rule     string
	lifts    bool
}

func (m Machine) kinds() []machineKind {
	return []machineKind{
		{m.Own, "machine: its own address", false},
		{m.Slots, "machine: the network of its boxes", false},
		{m.Bridges, "machine: a network of its containers", true},
		{m.Broadcast, "machine: a broadcast address of its networks", true},
	}
}

// row is the kind of thing on this machine that all of s is, if any.
func (m Machine) row(s span) (string, bool) {
	for _, kind := range m.kinds() {
		for _, prefix := range kind.prefixes {
			if prefix.IsValid() && s.isIn(spanOf(prefix)) {
				return kind.rule, true
			}
		}
	}
	return "", false
}
