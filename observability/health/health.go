// Package health says how a room is, and tells systemd. Three answers are told apart:
//
//   - live: its loops turn. A restart is what mends a room that is not.
//   - ready: it may take work now. What keeps it from that (a full disk, say) is no business of a
//     restart, and what runs goes on.
//   - the status: healthy, degraded or unhealthy, for whoever wants one word.
//
// A check is a function of a room's own. Here it is run in time and never twice at once, and what
// it found is kept, aged and summed up.
package health

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"
	"unicode"
)

// Status is how one thing is, or all of them.
type Status string

const (
	Healthy   Status = "healthy"
	Degraded  Status = "degraded"  // work goes on; somebody should look
	Unhealthy Status = "unhealthy" // what the check is about does not work
)

// Priority is what follows from a check that is unhealthy.
type Priority string

const (
	// Critical is for what a restart of the room mends, and for nothing else: the watchdog is fed
	// only while these pass.
	Critical Priority = "critical"
	// Important is for what scans need: without it the room is not ready.
	Important Priority = "important"
	// Informational is for what an operator may want to know.
	Informational Priority = "informational"
)

// Finding is what a check found. Its words are ours: nothing of a scanner, a scanned host or an
// agent is in it.
type Finding struct {
	Status   Status
	Message  string            // at most MaxMessage bytes are kept
	Metadata map[string]string // at most MaxMetadata are kept
}

// The bounds: what all checks of a room say fits in one message between the rooms, beside the rest.
const (
	MaxMessage  = 256 // bytes
	MaxMetadata = 8
	maxKey      = 96 // bytes
	maxValue    = 160
	MaxChecks   = 24 // of one room
)

func Well(format string, args ...any) Finding {
	return Finding{Status: Healthy, Message: fmt.Sprintf(format, args...)}
}

func Poor(format string, args ...any) Finding {
	return Finding{Status: Degraded, Message: fmt.Sprintf(format, args...)}
}

func Ill(format string, args ...any) Finding {
	return Finding{Status: Unhealthy, Message: fmt.Sprintf(format, args...)}
}

// With is the finding with one more piece of metadata.
func (f Finding) With(key, value string) Finding {
	f.Metadata = maps.Clone(f.Metadata)
	if f.Metadata == nil {
		f.Metadata = map[string]string{}
	}
	f.Metadata[key] = value
	return f
}

func (f Finding) bounded() Finding {
	f.Message = clip(f.Message, MaxMessage)
	if len(f.Metadata) == 0 {
		f.Metadata = nil
		return f
	}
	kept := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(f.Metadata)) {
		if len(kept) == MaxMetadata {
			break
		}
		kept[clip(k, maxKey)] = clip(f.Metadata[k], maxValue)
	}
	f.Metadata = kept
	return f
}

// Seen is what is known of a check now.
type Seen struct {
	Name     string
	Priority Priority
	Finding
	At    time.Time     // when it was found; zero: not yet
	Took  time.Duration // to find it
	Every time.Duration // between two looks
}

// Turn is when a loop last came round, by the clock that nobody sets: a wall clock that is set forward makes
// no loop stand still. The zero Turn is that of one that has never come round.
type Turn struct{ at atomic.Int64 }

// Came says that the loop comes round now.
func (t *Turn) Came() { t.at.Store(int64(monotonic())) }

// Still is how long ago that was.
func (t *Turn) Still() time.Duration { return monotonic() - time.Duration(t.at.Load()) }

// staleAfter is how many of its intervals a finding is good for.
const staleAfter = 3

// Stale reports whether a finding is too old to say how things are now.
func (s Seen) Stale(now time.Time) bool {
	return !s.At.IsZero() && now.Sub(s.At) > staleAfter*s.Every
}

// Now is the finding as it counts at a time: one that is stale is none, and one that has not been
// looked for is no reason to say that all is well.
func (s Seen) Now(now time.Time) Finding {
	f := s.Finding
	switch {
	case s.At.IsZero():
		return Poor("not looked at yet")
	case !s.Stale(now):
		return f
	case s.Priority == Critical:
		f.Status = Unhealthy
	case f.Status == Healthy:
		f.Status = Degraded
	}
	f.Message = clip(fmt.Sprintf("stale: last looked at %s ago: %s", now.Sub(s.At).Round(time.Second), f.Message), MaxMessage)
	return f
}

// Report is how a room is.
type Report struct {
	At     time.Time
	Status Status
	Live   bool
	Ready  bool
	// Reasons say what is not well, the worst first: of a room that is not ready, why not.
	Reasons []string
	Checks  []Seen // as they were seen; their words are those of Seen.Now at At
}

// Sum sums up what was seen. One critical check that is unhealthy makes a room unhealthy; an
// important one degrades it; so does any that is degraded, and so do informational ones if all of
// them are unhealthy.
func Sum(now time.Time, seen []Seen) Report {
	r := Report{At: now, Status: Healthy, Live: true, Ready: true}
	var critical, important, degraded, informational, informed int
	var unready, others []string
	for _, s := range seen {
		f := s.Now(now)
		reason := s.Name + ": " + f.Message
		if s.Priority == Informational {
			informational++
		}
		switch {
		case f.Status == Unhealthy && s.Priority == Critical:
			critical++
			r.Live = false
			unready = slices.Insert(unready, 0, reason)
		case f.Status == Unhealthy && s.Priority == Important:
			important++
			unready = append(unready, reason)
		case s.At.IsZero() && s.Priority != Informational:
			degraded++
			unready = append(unready, reason)
		case f.Status == Unhealthy:
			informed++
			others = append(others, reason)
		case f.Status == Degraded:
			degraded++
			others = append(others, reason)
		}
		s.Finding = f
		r.Checks = append(r.Checks, s)
	}
	switch {
	case critical > 0:
		r.Status = Unhealthy
	case important > 0, degraded > 0, informational > 0 && informed == informational:
		r.Status = Degraded
	}
	r.Ready = len(unready) == 0
	r.Reasons = append(unready, others...)
	return r
}

// Line is the report in one line for people: what the room does, and before it why it takes no
// work, or after it what else is not well.
func (r Report) Line(does string) string {
	if len(r.Reasons) == 0 {
		return does
	}
	first := r.Reasons[0]
	if more := len(r.Reasons) - 1; more > 0 {
		first += fmt.Sprintf(" (and %d more)", more)
	}
	if r.Ready {
		return does + "; degraded: " + first
	}
	return "not ready: " + first + "; " + does
}

// clip cuts a text at a number of bytes, at a rune, and leaves it one line.
func clip(s string, most int) string {
	out := make([]rune, 0, min(len(s), most))
	n := 0
	for _, c := range s {
		if c == '\n' || c == '\r' || c == '\t' {
			c = ' '
		}
		if !unicode.IsPrint(c) { // also what a terminal obeys beyond ASCII, and what turns text round
			c = '\uFFFD'
		}
		if n += len(string(c)); n > most-len("…") {
			return string(out) + "…"
		}
		out = append(out, c)
	}
	return string(out)
}
