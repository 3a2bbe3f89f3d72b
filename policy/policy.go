package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Caller is who asks, as the kernel said it.
type Caller struct {
	UID, GID uint32
	Groups   []uint32
	PID      int32
}

// Target is one thing to be scanned: a network (an address is one of full length) or a name.
// Exactly one of Prefix and Name is given.
type Target struct {
	Text   string // as the caller wrote it
	Prefix netip.Prefix
	Name   string
	// Answers are what Name was resolved to, once for the life of the job.
	Answers []netip.Addr
	// Field is the argument that names it; empty for its place among the targets.
	Field string
	// Said says that the name is not asked for: it is said to the first target, and judged as if it
	// had that one's addresses, which are its Answers.
	Said bool
	// Below says that every name below Name is meant, too: no rule for some of them is enough.
	Below bool
}

// Request is what a caller asks for.
type Request struct {
	Tool, Profile string
	// Engagement is the one to be under; empty for the first by name that allows everything.
	Engagement string
	Targets    []Target
	Omit       []netip.Prefix // what the caller leaves out of the targets
	Ports      int            // for each address
	Rate       int            // packets a second; 0 for the engagement's
	Duration   time.Duration  // 0 for the engagement's
	// Asked is the ports themselves, each element judged by itself, and PortsField the argument
	// that asks for them. Of a scanner that chooses its ports itself it is all that it may choose.
	Asked      Ports
	PortsField string
	// Elsewhere is what makes a scan send to other ports than those: it needs all there are.
	Elsewhere []Wish
	// Discovery says that the scan asks no ports, only whether hosts are there: by ICMP, or at any
	// port of TCP.
	Discovery bool
	// Intrusive says why the scan is more than a look; empty when it is not.
	Intrusive []string
	// Resolver is set for a request that only asks for names: it is the one address and port that
	// are sent to, whatever the answers are. It is the operator's and no caller's, so no rule has to
	// allow it; an exclusion holds for it as for any other.
	Resolver netip.AddrPort
}

// Wish is an argument of a request, what it says, what follows from it, and what to give instead.
type Wish struct{ Field, Got, Why, Hint string }

// Limits bound one job. In an engagement they are the most that it grants; in a verdict Rate
// and Duration are those of the job.
type Limits struct {
	Addresses int           // in all targets together, each counted once
	Ports     int           // for each address
	Rate      int           // packets a second
	Duration  time.Duration // from start to end
	Jobs      int           // at once under the engagement; kept by whoever runs them
	Budget    int           // packets a second of all jobs under the engagement together; 0: no bound; kept by a [Gate]
}

// Outcome is what a verdict comes to.
type Outcome string

const (
	Allow Outcome = "allow"
	Deny  Outcome = "deny"
	// Approve is Allow once an operator has approved: a verdict with it has all that one of Allow has.
	Approve Outcome = "approve"
)

// The codes of denials. They are stable: agents and alerts go by them.
const (
	NoEngagement        = "no_engagement"
	EngagementSuspended = "engagement_suspended"
	NotACaller          = "not_a_caller"
	Expired             = "expired"
	OutsideHours        = "outside_hours"
	ToolNotAllowed      = "tool_not_allowed"
	ProfileNotAllowed   = "profile_not_allowed"
	TargetOutOfScope    = "target_out_of_scope"
	TargetExcluded      = "target_excluded"
	TargetNever         = "target_never"
	NameNotAllowed      = "name_not_allowed"
	PortNotAllowed      = "port_not_allowed"
	PortExcluded        = "port_excluded"
	NameUnresolved      = "name_unresolved"
	NameOutsideScope    = "name_outside_scope"
	TooManyAddresses    = "too_many_addresses"
	TooManyPorts        = "too_many_ports"
	RateTooHigh         = "rate_too_high"
	DurationTooLong     = "duration_too_long"
	Intrusive           = "intrusive"
)

// Verdict is the answer to a request. The zero Verdict allows nothing.
type Verdict struct {
	Outcome Outcome
	// Engagement and Revision (sha256 of its file) are those that allow or, where several were
	// tried, those that came nearest.
	Engagement, Revision string
	// Rule is what decided, as the operator finds it in the file: "targets[0] 10.0.0.0/8".
	Rule string
	// Code, Field, Got and Allowed are for denials. Got is what the caller wrote, or the part
	// of it that is refused, cut at a few hundred bytes and otherwise as it came.
	Code, Field, Got string
	Allowed          []string
	Reason, Hint     string
	Targets          []Judged
	// Ports is what may be sent to at every one of the addresses; nil for all ports, and ICMP. A
	// scanner has one list of ports for all its targets, so what not every address allows is not
	// in it.
	Ports *Ports
	// WithoutPorts is the ports that were asked for and are left out everywhere, and PortRules the
	// exclusions that say so.
	WithoutPorts Ports
	PortRules    []string
	Limits       Limits
	// Slowed says which budget has made the rate in Limits lower than what was asked for, or granted;
	// empty: none.
	Slowed string
	// Until is when the hours or the engagement end, whichever is first; zero for neither.
	Until time.Time
	// Confirm is what of an allowed request the user of the agent has to confirm before it starts, as
	// the engagement has it: whoever starts it sees to that.
	Confirm []string
	// Approval is of the outcome Approve alone.
	Approval Approval
	// MoreNames says that names have yet to be asked for: the verdict is [Precheck]'s, and
	// Targets has no address for them.
	MoreNames bool
}

// Judged is what became of one target of an allowed request.
type Judged struct {
	Text      string
	Addresses []netip.Prefix // may be sent to; sorted, and no shorter list says the same
	Excluded  []Exclusion    // asked for and left out; sorted, and no two overlap
}

// Exclusion is a part of a target that is left out, and the rule that says so.
type Exclusion struct {
	Prefix netip.Prefix
	Rule   string
}

// Grants says that v allows the request, at once or when an operator has approved it.
func (v Verdict) Grants() bool { return v.Outcome == Allow || v.Outcome == Approve }

// Addresses is everything that may be sent to under v, as the shortest sorted list of prefixes.
func (v Verdict) Addresses() []netip.Prefix { return prefixesOf(v.spans()) }

// Excluded is everything that was asked for and left out, each address once however often it was
// asked for: sorted, and no two overlap.
func (v Verdict) Excluded() []Exclusion {
	var all []Exclusion
	for _, t := range v.Targets {
		all = append(all, t.Excluded...)
	}
	slices.SortStableFunc(all, func(a, b Exclusion) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), a.Prefix.Bits()-b.Prefix.Bits())
	})
	// Prefixes either nest or are apart, so that one which lies in another lies in the last kept.
	var out []Exclusion
	for _, e := range all {
		if last := len(out) - 1; last < 0 || !out[last].Prefix.Contains(e.Prefix.Addr()) {
			out = append(out, e)
		}
	}
	return out
}

func (v Verdict) spans() []span {
	var all []span
	for _, t := range v.Targets {
		for _, p := range t.Addresses {
			all = append(all, spanOf(p))
		}
	}
	return merge(all)
}

// Policy is everything that decisions rest on.
type Policy struct {
	Engagements []Engagement
	// Suspended is the names of engagements whose file does not parse, with the reason. A name may
	// also be among Engagements, as it last was, for [Rejudge]; otherwise it was never read.
	Suspended map[string]string
	Machine   Machine
}

// Machine is what is known of the machine that sends.
type Machine struct {
	Own       []netip.Prefix // its own addresses: nothing makes them targets
	Slots     []netip.Prefix // the networks of boxes: nothing makes them targets
	Bridges   []netip.Prefix // networks of containers and virtual machines on it
	Broadcast []netip.Prefix // directed broadcast addresses of networks that it is on
	Budget    int            // packets a second of all jobs together; 0: no bound; kept by a [Gate]
}

// hasUnread says that some engagement is suspended that was never read.
func (p *Policy) hasUnread() bool {
	for name := range p.Suspended {
		if p.named(name) == nil {
			return true
		}
	}
	return false
}

// RevisionOf is the revision of the engagement of that name; empty: there is none.
func (p *Policy) RevisionOf(name string) string {
	if e := p.named(name); e != nil {
		return e.Revision
	}
	return ""
}

// named is the engagement of that name, or nil.
func (p *Policy) named(name string) *Engagement {
	i := slices.IndexFunc(p.Engagements, func(e Engagement) bool { return e.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Engagements[i]
}
