package policy

import (
	"net/netip"
	"slices"
)

// omitRule is the rule by which a request leaves out what it does not want of its own targets.
const omitRule = "caller: exclude"

// omit is the spans that a request leaves out.
func (r Request) omit() []span {
	var all []span
	for _, p := range r.Omit {
		if p.IsValid() {
			all = append(all, spanOf(p))
		}
	}
	return merge(all)
}

// omit takes out of a network what the request leaves out of it. What a rule takes as well is the rule's: the operator
// reads his own first. It is no part of what is judged, so that nobody is denied what he does not ask for.
func (p *parts) omit(asked span, holes []span) {
	var own []span
	for _, hole := range holes {
		if hole.overlaps(asked) {
			own = append(own, hole.within(asked))
		}
	}
	if len(own) == 0 {
		return
	}
	var gone []span
	for _, t := range p.taken {
		gone = append(gone, spanOf(t.Prefix))
	}
	gone = merge(gone)
	for _, s := range own {
		for _, prefix := range prefixesOf(s.without(gone)) {
			p.taken = append(p.taken, Exclusion{prefix, omitRule})
		}
	}
	slices.SortFunc(p.taken, func(a, b Exclusion) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	p.left, p.outside = without(p.left, own), without(p.outside, own)
}

func without(all, holes []span) (out []span) {
	for _, s := range all {
		out = append(out, s.without(holes)...)
	}
	return out
}

// omitted are the answers of a name that the request leaves out, and the others.
func omitted(answers []netip.Addr, holes []span) (out []Exclusion, left []netip.Addr) {
	for _, a := range answers {
		if slices.ContainsFunc(holes, func(s span) bool { return (span{a, a}).isIn(s) }) {
			out = append(out, Exclusion{netip.PrefixFrom(a, a.BitLen()), omitRule})
			continue
		}
		left = append(left, a)
	}
	return out, left
}

// allOmitted is the denial of a target of which the request itself leaves nothing.
func allOmitted(t Target) *Verdict {
	v := deny(TargetExcluded, "", t.Text, "the request itself leaves out all that it may scan of it")
	v.Rule, v.Hint = omitRule, "take it out of targets, or out of exclude"
	return &v
}
