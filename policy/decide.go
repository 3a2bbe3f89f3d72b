package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
)

const (
	// maxTargets bounds the targets of a request and the answers of its names, together.
	maxTargets = 4096
	// maxGot and maxAllowed bound what a denial repeats.
	maxGot     = 200
	maxAllowed = 16
)

// Precheck judges everything that can be judged while names have no addresses, so that no name
// is asked for which no rule could allow: a query is traffic too, and tells the name's owner.
func Precheck(p *Policy, c Caller, r Request, now time.Time) Verdict {
	return decide(p, c, r, now, false)
}

// Decide judges a request whose names have their answers. It is a function of its arguments:
// the same request is judged again, before it starts and while it runs, on the same answers.
func Decide(p *Policy, c Caller, r Request, now time.Time) Verdict {
	return decide(p, c, r, now, true)
}

// Rejudge decides again on a job that runs under an engagement. It differs from [Decide] in
// one thing: that the engagement's file no longer parses denies new jobs, and leaves the
// running ones to the engagement as it last was, if the policy still has it.
func Rejudge(p *Policy, c Caller, r Request, engagement string, now time.Time) Verdict {
	before := Policy{}
	if p != nil {
		before = *p
	}
	if before.named(engagement) != nil {
		before.Suspended = nil
	}
	r.Engagement = engagement
	return decide(&before, c, r, now, true)
}

// decide tries each engagement that the caller may use and returns the first that allows, or the first
// that does once an operator has approved. If none does it returns the denial that came nearest, for that
// is the one that tells the caller what to change.
func decide(p *Policy, c Caller, r Request, now time.Time, resolved bool) Verdict {
	if p == nil {
		p = &Policy{}
	}
	candidates, denial := choose(p, c, r)
	if denial != nil {
		return *denial
	}
	var best attempt
	var approve *Verdict
	for i, e := range candidates {
		a := e.try(p.Machine, r, now, resolved)
		if a.Outcome == Allow {
			return a.Verdict
		}
		if a.Outcome == Approve && approve == nil {
			approve = &a.Verdict
		}
		if i == 0 || a.beyond(best) {
			best = a
		}
	}
	if approve != nil {
		return *approve
	}
	if len(candidates) > 1 {
		best.Hint = strings.TrimPrefix(best.Hint+fmt.Sprintf("; one job is under one engagement: %d were tried and this came nearest", len(candidates)), "; ")
	}
	return best.Verdict
}

// choose is the engagements to try, by name, or the denial if there are none.
func choose(p *Policy, c Caller, r Request) ([]*Engagement, *Verdict) {
	usable, suspended := byCaller(p, c)
	if r.Engagement == "" {
		return usable, noneFor(p, usable, suspended)
	}
	if why, is := p.Suspended[r.Engagement]; is {
		return nil, suspension(r.Engagement, why, slices.Contains(suspended, r.Engagement))
	}
	e := p.named(r.Engagement)
	if e == nil {
		v := deny(NoEngagement, "engagement", r.Engagement, "there is no engagement of that name")
		v.Allowed = capped(namesOf(usable))
		v.Hint = "leave it out to have one chosen; capabilities lists those that name you"
		if near := strict.Nearest(r.Engagement, v.Allowed); near != "" {
			v.Hint = "did you mean " + strict.Quote(near) + "?"
		}
		return nil, &v
	}
	if !e.Names(c) {
		v := deny(NotACaller, "engagement", r.Engagement, fmt.Sprintf("engagement %s does not name uid %d or any of its groups among its callers", e.Name, c.UID))
		v.Engagement, v.Allowed = e.Name, capped(namesOf(usable))
		v.Hint = "leave it out to have one chosen, or ask the operator to add you to it"
		return nil, &v
	}
	return []*Engagement{e}, nil
}

// byCaller sorts the engagements that name the caller into those that may be used and the
// names of those that are suspended.
func byCaller(p *Policy, c Caller) (usable []*Engagement, suspended []string) {
	for i := range p.Engagements {
		e := &p.Engagements[i]
		if !e.Names(c) {
			continue
		}
		if _, is := p.Suspended[e.Name]; is {
			suspended = append(suspended, e.Name)
		} else {
			usable = append(usable, e)
		}
	}
	slices.SortStableFunc(usable, func(a, b *Engagement) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(suspended)
	return usable, suspended
}

// noneFor is the denial of a caller who has no engagement to use.
func noneFor(p *Policy, usable []*Engagement, suspended []string) *Verdict {
	if len(usable) > 0 {
		return nil
	}
	if len(suspended) > 0 {
		return suspension(suspended[0], p.Suspended[suspended[0]], true)
	}
	if p.hasUnread() {
		// Whom they name is not known, nor is it this caller's business what they are called.
		v := deny(EngagementSuspended, "", "", "no engagement in force names you; some engagement files are faulty, and one of them may")
		v.Hint = "ask the operator to run `secmcpd check`"
		return &v
	}
	if len(p.Engagements) == 0 {
		v := deny(NoEngagement, "", "", "nothing is authorised on this machine: it has no engagement")
		v.Hint = "ask the operator to write one"
		return &v
	}
	v := deny(NotACaller, "", "", "no engagement names you or any of your groups among its callers")
	v.Hint = "ask the operator to add you to an engagement or to one of its groups; a new group counts from the next login"
	return &v
}

// suspension tells the fault only to those whom the engagement named: it quotes the file.
func suspension(name, why string, told bool) *Verdict {
	v := deny(EngagementSuspended, "engagement", name, "engagement "+name+" is suspended: its file can no longer be read")
	v.Engagement, v.Hint = name, "ask the operator to run `secmcpd check`"
	if told && why != "" {
		v.Reason += " (" + clip(why) + ")"
	}
	return &v
}

func namesOf(engagements []*Engagement) []string {
	out := make([]string, len(engagements))
	for i, e := range engagements {
		out[i] = e.Name
	}
	return out
}

// attempt is a verdict with what it is compared by.
type attempt struct {
	Verdict
	fits int // the targets that the engagement allows, up to the first that it does not
}

// judgedInOrder is the codes of denials under one engagement, in the order in which they are
// looked for: each is the first thing to change.
var judgedInOrder = []string{
	Expired, OutsideHours, ToolNotAllowed, ProfileNotAllowed,
	TargetOutOfScope, NameNotAllowed, TargetNever, TargetExcluded, NameUnresolved, NameOutsideScope, PortNotAllowed, PortExcluded,
	TooManyAddresses, TooManyPorts, RateTooHigh, DurationTooLong, Intrusive,
}

// beyond says that a came nearer to be allowed than b. Targets count first: they say which
// engagement the caller has in mind.
func (a attempt) beyond(b attempt) bool {
	if a.fits != b.fits {
		return a.fits > b.fits
	}
	return slices.Index(judgedInOrder, a.Code) > slices.Index(judgedInOrder, b.Code)
}

// try judges r under e.
func (e *Engagement) try(m Machine, r Request, now time.Time, resolved bool) attempt {
	allowed := Verdict{Outcome: Allow, Reason: "engagement " + e.Name + " allows it", Limits: e.Limits, Until: e.until(now), Confirm: applying(e.confirm, r)}
	fits, outside := e.judgeTargets(&allowed, m, r, resolved)
	v := e.open(now)
	if v == nil {
		v = e.tool(r.Tool, r.Profile)
	}
	if v == nil {
		v = outside
	}
	if v == nil {
		v = e.size(&allowed, r)
	}
	if v == nil {
		v = e.intrusive(r.Intrusive)
	}
	if v == nil {
		allowed.slow(e.Name, m)
		e.toApprove(&allowed, r)
		v = &allowed
	}
	v.Engagement, v.Revision = e.Name, e.Revision
	return attempt{*v, fits}
}

// judgeTargets puts what became of the targets into allowed, and returns how many were allowed
// and the denial of the next, if any.
func (e *Engagement) judgeTargets(allowed *Verdict, m Machine, r Request, resolved bool) (int, *Verdict) {
	targets := r.Targets
	if v := countTargets(targets); v != nil {
		return 0, v
	}
	var rules []string
	var all []judged
	want := wishOf(r)
	seen := map[netip.Prefix]bool{}
	for i, t := range targets {
		// A network that is asked for again is judged once: the cost of a decision is bounded
		// by the exclusions, not by how often they are asked about.
		if t.Name == "" && seen[t.Prefix] {
			continue
		}
		seen[t.Prefix] = true
		j, by, v := e.target(m, t, want, resolved)
		if v != nil {
			if v.Field == "" {
				v.Field = cmp.Or(t.Field, strict.Index("targets", i))
			}
			return i, v
		}
		j.index = i
		all = append(all, j)
		allowed.MoreNames = allowed.MoreNames || t.Name != "" && !t.Said && !resolved && !want.resolver.IsValid()
		rules = append(rules, by...)
	}
	if i, v := e.judgePorts(allowed, r, all, want); v != nil {
		return i, v
	}
	allowed.Rule = strings.Join(capped(distinct(rules)), ", ")
	return len(targets), nil
}

func distinct(words []string) []string {
	slices.Sort(words)
	return slices.Compact(words)
}

// open is the denial of any request at that time, or nil.
func (e *Engagement) open(now time.Time) *Verdict {
	if !e.Expires.IsZero() && !now.Before(e.Expires) {
		v := deny(Expired, "engagement", e.Name, "engagement "+e.Name+" expired at "+e.Expires.Format(time.RFC3339))
		v.Rule, v.Hint = "expires", "ask the operator whether the work goes on"
		return &v
	}
	if e.hours == nil {
		return nil
	}
	if _, open := e.hours.until(now); open {
		return nil
	}
	v := deny(OutsideHours, "engagement", e.Name, "engagement "+e.Name+" may be used "+e.hours.text+"; it is "+now.In(e.hours.zone).Format("Mon 15:04 MST"))
	v.Rule, v.Allowed, v.Hint = "hours", []string{e.hours.text}, "ask the operator whether the work goes on"
	if next, ok := e.hours.next(now); ok {
		v.Hint = "it opens at " + next.Format(time.RFC3339)
	}
	return &v
}

// until is the end of hours or of the engagement, whichever is first; zero for neither.
func (e *Engagement) until(now time.Time) time.Time {
	until := e.Expires
	if e.hours == nil {
		return until
	}
	if end, open := e.hours.until(now); open && (until.IsZero() || end.Before(until)) {
		until = end
	}
	return until
}

func (e *Engagement) tool(tool, profile string) *Verdict {
	profiles, ok := e.tools[tool]
	if !ok {
		v := deny(ToolNotAllowed, "tool", tool, "engagement "+e.Name+" does not allow this tool")
		v.Rule, v.Allowed, v.Hint = "tools", capped(e.Tools()), "use a tool that is allowed, or ask the operator"
		return &v
	}
	if slices.Contains(profiles, profile) || slices.Contains(profiles, anyProfile) {
		return nil
	}
	v := deny(ProfileNotAllowed, "profile", profile, "engagement "+e.Name+" does not allow this profile of "+tool)
	v.Rule, v.Allowed, v.Hint = "tools."+tool+".profiles", capped(profiles), "use a profile that is allowed, or ask the operator"
	return &v
}

func countTargets(targets []Target) *Verdict {
	if len(targets) == 0 {
		v := deny(TargetOutOfScope, "targets", "", "there is no target")
		v.Hint = "name at least one"
		return &v
	}
	n := len(targets)
	for _, t := range targets {
		n += len(t.Answers)
	}
	if n <= maxTargets {
		return nil
	}
	v := deny(TooManyAddresses, "targets", strconv.Itoa(n), "too many targets and answers of names for one request")
	v.Allowed, v.Hint = []string{strconv.Itoa(maxTargets)}, "split the job"
	return &v
}

// target judges one target: what may be sent to, by which rules, or the denial.
func (e *Engagement) target(m Machine, t Target, want portWish, resolved bool) (judged, []string, *Verdict) {
	switch {
	case t.Name != "" && t.Prefix.IsValid(), t.Name == "" && !t.Prefix.IsValid():
		v := deny(TargetOutOfScope, "", t.Text, "a target is either a network or a name")
		v.Hint = "give each as a target of its own"
		return judged{}, nil, &v
	case t.Name != "":
		return e.name(m, t, want, resolved)
	case t.Prefix != t.Prefix.Masked():
		v := deny(TargetOutOfScope, "", t.Text, "the network has host bits")
		v.Hint = "write " + t.Prefix.Masked().String()
		return judged{}, nil, &v
	}
	return e.network(m, t, want)
}

// network judges a network. A part outside of every rule denies it; parts that are excluded or
// never targets are left out and listed, unless nothing remains.
func (e *Engagement) network(m Machine, t Target, want portWish) (judged, []string, *Verdict) {
	asked := spanOf(t.Prefix)
	p := e.nets.judge(asked, e.exclude, m)
	p.omit(asked, want.omit)
	if len(p.outside) > 0 {
		return judged{}, nil, e.outOfScope(m, t, p)
	}
	if len(p.left) == 0 {
		return judged{}, nil, nothingLeft(t, p)
	}
	// Before prefixes are made of it: of a wide network with many holes they are many.
	if v := e.addresses(sizeOf(p.left)); v != nil {
		return judged{}, nil, v
	}
	pieces := e.pieces(e.nets.ports, p.left)
	if v := e.portsAllowed(t, want, pieces); v != nil {
		return judged{}, nil, v
	}
	return judged{Target: t, pieces: pieces, excluded: p.taken}, p.by.labels(), nil
}

func (t table) labels() []string {
	out := make([]string, min(len(t), maxAllowed+1))
	for i := range out {
		out[i] = t[i].label
	}
	return out
}

// outOfScope says what of t no rule allows. If no rule could (an engagement would have to name
// it expressly) it says why.
func (e *Engagement) outOfScope(m Machine, t Target, p parts) *Verdict {
	asked := spanOf(t.Prefix)
	if rule, is := m.row(asked); is && len(p.by) == 0 {
		v := deny(TargetNever, "", t.Text, "this is "+strings.TrimPrefix(rule, "machine: "))
		v.Rule, v.Hint = rule, hintNever
		return &v
	}
	if row, is := neverRow(asked); is && len(p.by) == 0 {
		v := deny(TargetNever, "", t.Text, fmt.Sprintf("%s addresses (%s) are no targets", row.what, row.why))
		v.Rule, v.Hint = row.rule(), hintNever
		return &v
	}
	v := deny(TargetOutOfScope, "", t.Text, "engagement "+e.Name+" does not allow it")
	if len(p.by) > 0 {
		v.Got = clip(strings.Join(capped(textsOf(prefixesOf(p.outside))), ", "))
		v.Reason = "engagement " + e.Name + " does not allow this part of it"
	}
	v.Rule, v.Allowed, v.Hint = "targets", capped(e.targets), "give targets that are allowed, or ask the operator for an engagement that allows this one"
	return &v
}

const hintNever = "leave it out; an engagement would have to name it expressly"

func nothingLeft(t Target, p parts) *Verdict {
	if !slices.ContainsFunc(p.taken, func(e Exclusion) bool { return e.Rule != omitRule }) {
		return allOmitted(t)
	}
	p.taken = slices.DeleteFunc(slices.Clone(p.taken), func(e Exclusion) bool { return e.Rule == omitRule })
	code, reason := TargetNever, "all of it is what is never a target"
	if p.excluded {
		code, reason = TargetExcluded, "the engagement excludes all that it would allow of it"
	}
	v := deny(code, "", t.Text, reason+": "+p.taken[0].Rule)
	v.Rule, v.Hint = p.taken[0].Rule, "leave it out, or ask the operator whether the exclusion still holds"
	if code == TargetNever {
		v.Hint = hintNever
	}
	return &v
}

// name judges a name by the rules that cover it. Under one of them each answer has to lie in
// that rule's networks and be a target; one that does not denies the name, for it is evidence
// that the name is not what the operator thought.
func (e *Engagement) name(m Machine, t Target, want portWish, resolved bool) (judged, []string, *Verdict) {
	if !isHostName(t.Name) {
		v := deny(NameNotAllowed, "", t.Text, "this is no name of a host in canonical form")
		v.Hint = "write it in lower case, without a dot at its end"
		return judged{}, nil, &v
	}
	var first *Verdict
	for _, r := range e.names {
		if !r.covers(t) {
			continue
		}
		j, v := judged{Target: t}, (*Verdict)(nil)
		switch {
		case want.resolver.IsValid():
			j, v = e.asking(t, r, want.resolver)
		case resolved:
			j, v = e.answers(m, t, r, want.omit)
		default:
			v = e.portsAllowed(t, want, []piece{{label: r.label, may: r.ports}})
		}
		if v == nil {
			v = e.portsAllowed(t, want, j.pieces)
		}
		if v == nil {
			return j, []string{r.label}, nil
		}
		if first == nil {
			first = v
		}
	}
	if first != nil {
		return judged{}, nil, first
	}
	v := deny(NameNotAllowed, "", t.Text, "no rule of engagement "+e.Name+" allows asking for this name")
	v.Rule, v.Allowed, v.Hint = "targets", capped(e.nameTexts()), "give the address if the engagement allows it"
	if t.Said {
		v.Hint = "leave it out, say another one, or ask the operator for a rule"
	}
	if t.Below {
		v.Reason += " and for all below it"
		v.Hint = "give a name below one of those that begin with a dot, or ask the operator for a rule"
	}
	return judged{}, nil, &v
}

// asking judges a name that is asked for, with all below it, under a rule that permits this: what
// is sent to is the name server.
func (e *Engagement) asking(t Target, r nameRule, server netip.AddrPort) (judged, *Verdict) {
	address := netip.PrefixFrom(server.Addr(), server.Addr().BitLen())
	if by := e.exclude.overlapping(spanOf(address)); len(by) > 0 {
		v := deny(TargetExcluded, "", server.String(), "the engagement excludes the name server that would be asked")
		v.Rule, v.Hint = by[0].label, "ask the operator for another name server, or whether the exclusion still holds"
		return judged{}, &v
	}
	port := [][2]uint16{{server.Port(), server.Port()}}
	may := portTable{{rule{spanOf(address), r.label}, portSet{tcp: port, udp: port}}}
	return judged{Target: t, pieces: e.pieces(may, []span{spanOf(address)})}, nil
}

func (e *Engagement) nameTexts() []string {
	out := make([]string, len(e.names))
	for i, r := range e.names {
		out[i] = r.name
	}
	return out
}

func (e *Engagement) answers(m Machine, t Target, r nameRule, omit []span) (judged, *Verdict) {
	if len(t.Answers) == 0 {
		v := deny(NameUnresolved, "", t.Text, "the name has no address")
		v.Rule, v.Hint = r.label, "give the address if the engagement allows it"
		return judged{}, &v
	}
	out, answers := omitted(t.Answers, omit)
	if len(answers) == 0 {
		return judged{}, allOmitted(t)
	}
	var left []span
	for _, a := range answers {
		if v := e.answer(m, t, r, a); v != nil {
			return judged{}, v
		}
		left = append(left, span{a, a})
	}
	j := judged{Target: t, pieces: e.pieces(r.scope.ports, merge(left)), excluded: out}
	for i := range j.pieces {
		j.pieces[i].label = r.label
	}
	return j, nil
}

func (e *Engagement) answer(m Machine, t Target, r nameRule, a netip.Addr) *Verdict {
	v := deny(NameOutsideScope, "", a.String(), "")
	v.Rule, v.Hint = r.label, "give an address that the engagement allows, or ask the operator what the name is"
	said := t.Name + " has the address " + a.WithZone("").String()
	if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
		v.Reason = said + ", which is no plain address"
		return &v
	}
	p := r.scope.judge(span{a, a}, e.exclude, m)
	switch {
	case len(p.left) > 0 && len(p.outside) == 0:
		return nil
	case len(p.taken) > 0:
		v.Rule = p.taken[0].Rule
		v.Reason = said + ", which is left out: " + v.Rule
	default:
		v.Reason = said + ", outside of what the rule for the name allows"
		v.Allowed = capped(r.scope.texts())
	}
	return &v
}

func (s scope) texts() []string {
	var out []string
	for _, r := range s.rules {
		out = append(out, textsOf(prefixesOf([]span{r.span}))...)
	}
	return out
}

// addresses is the denial of that many, or nil.
func (e *Engagement) addresses(n uint64) *Verdict {
	if n <= uint64(max(e.Limits.Addresses, 0)) {
		return nil
	}
	v := e.over(TooManyAddresses, "addresses_per_job", strconv.FormatUint(n, 10), strconv.Itoa(e.Limits.Addresses))
	v.Field, v.Hint = "targets", "split the job"
	return v
}

// over is the denial of more than a limit.
func (e *Engagement) over(code, limit, got, most string) *Verdict {
	v := deny(code, "", got, fmt.Sprintf("engagement %s allows at most %s %s", e.Name, most, strings.ReplaceAll(limit, "_", " ")))
	v.Rule, v.Allowed, v.Hint = "limits."+limit, []string{most}, "ask for no more than is allowed, or split the job"
	return &v
}

// size judges how much is asked for, and sets what the job gets.
func (e *Engagement) size(allowed *Verdict, r Request) *Verdict {
	if v := e.addresses(sizeOf(allowed.spans())); v != nil {
		return v
	}
	most := e.Limits
	var v *Verdict
	switch {
	case r.Ports < 0 || r.Ports > most.Ports:
		v = e.over(TooManyPorts, "ports_per_address", strconv.Itoa(r.Ports), strconv.Itoa(most.Ports))
		v.Field, v.Hint = "ports", "ask for fewer, by ports or top_ports"
	case r.Rate < 0 || r.Rate > most.Rate:
		v = e.over(RateTooHigh, "packets_per_second", strconv.Itoa(r.Rate), strconv.Itoa(most.Rate))
		v.Field = "rate"
	case r.Duration < 0 || r.Duration > most.Duration:
		v = e.over(DurationTooLong, "duration", seconds(r.Duration), seconds(most.Duration))
		v.Reason = "engagement " + e.Name + " allows a job at most " + most.Duration.String()
		v.Field, v.Hint = "limit", "limit is in seconds"
	}
	if v != nil {
		return v
	}
	if r.Rate > 0 {
		allowed.Limits.Rate = r.Rate
	}
	if r.Duration > 0 {
		allowed.Limits.Duration = r.Duration
	}
	return nil
}

// slow makes the rate of a job no more than there is for all jobs together.
func (v *Verdict) slow(engagement string, m Machine) {
	for _, b := range []struct {
		most     int
		who, key string
	}{{v.Limits.Budget, "under engagement " + engagement, "limits.total_packets_per_second"}, {m.Budget, "of this machine", "scans.packets_per_second"}} {
		if b.most > 0 && v.Limits.Rate > b.most {
			v.Limits.Rate = b.most
			v.Slowed = fmt.Sprintf("to %d packets per second: all scans %s together have no more (%s)", b.most, b.who, b.key)
		}
	}
}

// seconds is a time as a caller gives it: in whole seconds.
func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

func (e *Engagement) intrusive(reasons []string) *Verdict {
	if len(reasons) == 0 || e.Intrusive == Allow || e.Intrusive == Approve {
		return nil
	}
	v := deny(Intrusive, "", strings.Join(capped(reasons), ", "), "engagement "+e.Name+" allows nothing intrusive")
	v.Rule, v.Hint = "intrusive", "leave out what makes it intrusive"
	return &v
}

func deny(code, field, got, reason string) Verdict {
	return Verdict{Outcome: Deny, Code: code, Field: field, Got: clip(got), Reason: reason}
}

// clip bounds a text of a caller's.
func clip(text string) string {
	if len(text) <= maxGot {
		return text
	}
	return strings.ToValidUTF8(text[:maxGot], "") + "…"
}

// capped bounds a list for people. Never longer than maxAllowed, with how many there are more.
func capped(words []string) []string {
	if len(words) <= maxAllowed {
		return slices.Clone(words)
	}
	return append(slices.Clone(words[:maxAllowed]), fmt.Sprintf("and %d more", len(words)-maxAllowed))
}

func textsOf(prefixes []netip.Prefix) []string {
	out := make([]string, len(prefixes))
	for i, p := range prefixes {
		out[i] = textOf(p)
	}
	return out
}
