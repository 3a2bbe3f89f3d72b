package policy

import (
	"net/netip"
	"slices"
	"time"
)

// BreakerState is what a breaker does with who asks.
type BreakerState string

const (
	BreakerClosed   BreakerState = "closed"    // lets everybody through and counts failures in a row
	BreakerOpen     BreakerState = "open"      // refuses everybody, for a time or until an operator closes it
	BreakerHalfOpen BreakerState = "half_open" // lets a few probes through, by which it closes or opens again
)

// Why a breaker has changed, in its history.
const (
	WhyFailures = "failures"         // too many in a row
	WhyProbe    = "probe_failed"     // one of those that tried it
	WhyProbes   = "probes_succeeded" // as many as it takes
	WhyTime     = "time"             // its time was over
	WhyOperator = "operator"
)

// BreakerRules are the settings of a breaker.
type BreakerRules struct {
	Failures    int           // in a row that open it; at least 1
	Successes   int           // of probes in a row that close it; at least 1
	Recovery    time.Duration // for which it is opened the first time
	MaxRecovery time.Duration // for which it is opened at most, but for the jitter
	Multiplier  float64       // of the last time, when a probe has failed; at least 1
	Probes      int           // at once; at least 1
}

// Jitter is the part of its time by which a breaker is open longer or shorter, so that what failed
// together is not tried together.
const Jitter = 0.1

// probeAgain is when to ask again where every probe is under way: how long one takes is not known.
const probeAgain = 5 * time.Second

// The bounds of what a breaker remembers beside its counts.
const (
	maxMoments  = 100
	maxFailed   = 10
	maxReasons  = 16
	otherReason = "other"
)

// Breaker is a breaker at one moment: a value. Each method returns what it is after that; nothing
// is kept, read or told here, and the time and the jitter are handed in. The zero Breaker is closed.
//
// What is exported is what is to be kept over a restart. Probes do not live longer than their
// process, so that they are not in it.
type Breaker struct {
	State  BreakerState `cbor:"state"`
	Age    uint64       `cbor:"age"`    // how often it has changed: a permit of another age changes nothing
	Forced bool         `cbor:"forced"` // an operator has opened it
	Since  time.Time    `cbor:"since,omitzero"`
	// Until is the end of its time where it is open, and Wait how long that was. The zero Until: only
	// an operator closes it.
	Until     time.Time       `cbor:"until,omitzero"`
	Wait      time.Duration   `cbor:"wait"`
	Recovery  time.Duration   `cbor:"recovery"`  // for which it was last opened, without the jitter; 0: by no failure since it closed
	Failures  int             `cbor:"failures"`  // in a row
	Successes int             `cbor:"successes"` // in a row
	Succeeded time.Time       `cbor:"succeeded,omitzero"`
	Counts    BreakerCounts   `cbor:"counts"`
	Took      time.Duration   `cbor:"took"` // all that was counted together
	Reasons   []BreakerReason `cbor:"reasons,omitempty"`
	Recent    []BreakerFailed `cbor:"recent,omitempty"`  // newest last
	History   []BreakerMoment `cbor:"history,omitempty"` // newest last

	probes int
}

// BreakerCounts is what has come to a breaker. None of it ever falls.
type BreakerCounts struct {
	Success  uint64           `cbor:"success"`
	Failure  uint64           `cbor:"failure"`
	Rejected uint64           `cbor:"rejected"`
	Changes  []BreakerChanges `cbor:"changes,omitempty"` // at most one for each pair of states
}

// BreakerChanges is how often a breaker went from one state to another.
type BreakerChanges struct {
	From  BreakerState `cbor:"from"`
	To    BreakerState `cbor:"to"`
	Count uint64       `cbor:"count"`
}

// BreakerReason is how often something failed for a reason.
type BreakerReason struct {
	Reason string `cbor:"reason"`
	Count  uint64 `cbor:"count"`
}

// BreakerFailed is one failure.
type BreakerFailed struct {
	At     time.Time `cbor:"at"`
	Reason string    `cbor:"reason"`
	Job    string    `cbor:"job"`
}

// BreakerMoment is one change.
type BreakerMoment struct {
	At   time.Time    `cbor:"at"`
	From BreakerState `cbor:"from"`
	To   BreakerState `cbor:"to"`
	Why  string       `cbor:"why"`
}

// Permit is what a breaker has let through. It is given back once, by [Breaker.Record] or
// [Breaker.Release].
type Permit struct {
	age   uint64
	probe bool
}

// BreakerResult is how what was let through ended.
type BreakerResult struct {
	Failed string // why, in one of a few words; empty: it went well
	Job    string
	Took   time.Duration
}

// In is the state, of the zero Breaker, too.
func (b Breaker) In() BreakerState {
	if b.State == "" {
		return BreakerClosed
	}
	return b.State
}

// Known says that a breaker which was kept is one of these states.
func (b Breaker) Known() bool {
	return slices.Contains([]BreakerState{"", BreakerClosed, BreakerOpen, BreakerHalfOpen}, b.State)
}

// Probes is how many probes are under way.
func (b Breaker) Probes() int { return b.probes }

// At is the breaker at a time: open ones whose time is over are half open. A clock that was set
// back leaves none of them open for longer than it was opened for, from now on.
func (b Breaker) At(now time.Time, r BreakerRules) Breaker {
	if b.State != BreakerOpen || b.Until.IsZero() {
		return b
	}
	most := b.Wait
	if !b.Forced {
		most = min(most, scaled(r.MaxRecovery, 1+Jitter))
	}
	if b.Until.Sub(now) > most {
		b.Until = now.Add(most)
	}
	if now.Before(b.Until) {
		return b
	}
	return b.change(now, BreakerHalfOpen, WhyTime)
}

// Admits says whether the next one would be let through. b is as [Breaker.At] has it.
func (b Breaker) Admits(r BreakerRules) bool {
	return b.In() == BreakerClosed || b.State == BreakerHalfOpen && b.probes < r.Probes
}

// Permit lets one through, or counts that it was refused.
func (b Breaker) Permit(now time.Time, r BreakerRules) (Breaker, Permit, bool) {
	b = b.At(now, r)
	if !b.Admits(r) {
		return b.Reject(), Permit{}, false
	}
	p := Permit{age: b.Age, probe: b.State == BreakerHalfOpen}
	if p.probe {
		b.probes++
	}
	return b, p, true
}

// Reject counts one that was refused.
func (b Breaker) Reject() Breaker {
	b.Counts.Rejected++
	return b
}

// Release takes a permit back of which nothing is learned.
func (b Breaker) Release(p Permit) Breaker {
	if p.probe && p.age == b.Age {
		b.probes--
	}
	return b
}

// Record takes a permit back with what became of it. What was let through before the last change is
// counted and changes nothing: of many that fail together the first ones open the breaker, and the
// others do not make it worse. jitter is anything from -1 to 1.
func (b Breaker) Record(now time.Time, r BreakerRules, p Permit, result BreakerResult, jitter float64) Breaker {
	b = b.At(now, r)
	b = b.Release(p).count(now, result)
	if p.age != b.Age {
		return b
	}
	if result.Failed == "" {
		b.Failures = 0
		b.Successes++
		if b.State == BreakerHalfOpen && b.Successes >= r.Successes {
			b = b.change(now, BreakerClosed, WhyProbes)
			b.Recovery = 0
		}
		return b
	}
	b.Successes = 0
	b.Failures++
	switch {
	case b.State == BreakerHalfOpen:
		b = b.open(now, min(scaled(max(b.Recovery, r.Recovery), r.Multiplier), r.MaxRecovery), WhyProbe, jitter)
	case b.Failures >= r.Failures:
		b = b.open(now, min(r.Recovery, r.MaxRecovery), WhyFailures, jitter)
	}
	return b
}

func (b Breaker) open(now time.Time, recovery time.Duration, why string, jitter float64) Breaker {
	b = b.change(now, BreakerOpen, why)
	b.Recovery = recovery
	b.Wait = scaled(recovery, 1+Jitter*min(max(jitter, -1), 1))
	b.Until = now.Add(b.Wait)
	return b
}

// Force opens a breaker for an operator: for a time, after which it is half open, or until one
// closes it (0).
func (b Breaker) Force(now time.Time, lasts time.Duration) Breaker {
	if b.State != BreakerOpen {
		b = b.change(now, BreakerOpen, WhyOperator)
	}
	b.Forced, b.Wait, b.Until = true, lasts, time.Time{}
	if lasts > 0 {
		b.Until = now.Add(lasts)
	}
	return b
}

// Close closes a breaker for an operator: no failure until now counts any more.
func (b Breaker) Close(now time.Time) Breaker {
	if b.In() != BreakerClosed {
		b = b.change(now, BreakerClosed, WhyOperator)
	}
	b.Failures, b.Recovery = 0, 0
	return b
}

// RetryAfter is when to ask again; 0: at once, or it is not known, since only an operator closes
// it. jitter is anything from 0 to 1: those who are refused do not come back together.
func (b Breaker) RetryAfter(now time.Time, r BreakerRules, jitter float64) time.Duration {
	b = b.At(now, r)
	switch {
	case b.Admits(r) || b.State == BreakerOpen && b.Until.IsZero():
		return 0
	case b.State == BreakerHalfOpen:
		return probeAgain
	}
	left := b.Until.Sub(now)
	return left + scaled(min(5*time.Second, left/10), min(max(jitter, 0), 1))
}

// change is one of state. What was counted in a row begins anew.
func (b Breaker) change(now time.Time, to BreakerState, why string) Breaker {
	from := b.In()
	b.State, b.Since, b.Age, b.Forced = to, now, b.Age+1, false
	b.Successes, b.probes = 0, 0
	b.Until, b.Wait = time.Time{}, 0
	if to == BreakerClosed {
		b.Failures = 0
	}
	b.Counts.Changes = counted(b.Counts.Changes, BreakerChanges{from, to, 1})
	b.History = lately(b.History, BreakerMoment{now, from, to, why}, maxMoments)
	return b
}

func (b Breaker) count(now time.Time, result BreakerResult) Breaker {
	b.Took += max(result.Took, 0)
	if result.Failed == "" {
		b.Counts.Success++
		b.Succeeded = now
		return b
	}
	b.Counts.Failure++
	b.Recent = lately(b.Recent, BreakerFailed{now, result.Failed, result.Job}, maxFailed)
	b.Reasons = slices.Clone(b.Reasons)
	at := func(reason string) int {
		return slices.IndexFunc(b.Reasons, func(o BreakerReason) bool { return o.Reason == reason })
	}
	i := at(result.Failed)
	if i < 0 && len(b.Reasons) >= maxReasons-1 {
		result.Failed = otherReason
		i = at(otherReason)
	}
	if i < 0 {
		i = len(b.Reasons)
		b.Reasons = append(b.Reasons, BreakerReason{Reason: result.Failed})
	}
	b.Reasons[i].Count++
	return b
}

// Failed is the last failure; the zero one: there was none.
func (b Breaker) Failed() BreakerFailed {
	if len(b.Recent) == 0 {
		return BreakerFailed{}
	}
	return b.Recent[len(b.Recent)-1]
}

// Add is both together.
func (c BreakerCounts) Add(o BreakerCounts) BreakerCounts {
	c.Success, c.Failure, c.Rejected = c.Success+o.Success, c.Failure+o.Failure, c.Rejected+o.Rejected
	for _, n := range o.Changes {
		c.Changes = counted(c.Changes, n)
	}
	return c
}

func counted(changes []BreakerChanges, more BreakerChanges) []BreakerChanges {
	out := slices.Clone(changes)
	i := slices.IndexFunc(out, func(o BreakerChanges) bool { return o.From == more.From && o.To == more.To })
	if i < 0 {
		return append(out, more)
	}
	out[i].Count += more.Count
	return out
}

// lately is a list with one more at its end, of which the last ones are kept. The list itself is
// some other value's, too.
func lately[T any](list []T, one T, most int) []T {
	out := append(slices.Clone(list), one)
	return out[max(len(out)-most, 0):]
}

// scaled is a duration times a factor; one that is too long for a duration is the longest.
func scaled(d time.Duration, by float64) time.Duration {
	const longest = time.Duration(1<<63 - 1)
	if f := float64(d) * by; f < float64(longest) {
		return time.Duration(f)
	}
	return longest
}

// Networks are the networks that have breakers for these addresses: the /24 of IPv4 and the /64 of
// IPv6 in which a prefix lies; one that is wider stands for itself. They are sorted, each once.
func Networks(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		most := 64
		if p.Addr().Is4() {
			most = 24
		}
		out = append(out, netip.PrefixFrom(p.Addr(), min(p.Bits(), most)).Masked())
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}
