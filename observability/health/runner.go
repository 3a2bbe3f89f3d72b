package health

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Check looks at one thing, every so often and for so long at most.
type Check struct {
	Name     string
	Priority Priority
	Every    time.Duration
	Timeout  time.Duration
	Run      func(ctx context.Context) Finding // ctx ends with its time
}

// Change is how a room was from a time on.
type Change struct {
	At          time.Time
	Status      Status
	Live, Ready bool
	Reasons     []string
}

// maxHistory bounds the changes that are kept.
const maxHistory = 100

// Runner runs a room's checks. Each has one goroutine at most, however long it hangs.
type Runner struct {
	changed func()

	mu      sync.Mutex
	checks  []*kept
	history []Change
}

type kept struct {
	Check
	seen    Seen
	due     time.Time
	running bool      // also while it hangs: it is not begun again before it has ended
	since   time.Time // when it was begun
}

// New makes a runner. No check takes longer than total, nor than the time between two looks, whatever
// its own time-out is. changed is called, if it is there, after what is known of a check has changed.
func New(total time.Duration, changed func(), checks ...Check) *Runner {
	r := &Runner{changed: changed}
	for _, c := range checks[:min(len(checks), MaxChecks)] {
		if c.Timeout = min(c.Timeout, c.Every); total > 0 {
			c.Timeout = min(c.Timeout, total)
		}
		r.checks = append(r.checks, &kept{Check: c, seen: Seen{Name: c.Name, Priority: c.Priority, Every: c.Every}})
	}
	return r
}

// Run looks whenever something is due, until ctx ends. A check that hangs is not waited for.
func (r *Runner) Run(ctx context.Context) {
	for {
		next := r.begin(ctx, nil)
		r.note()
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(time.Until(next), 10*time.Millisecond)):
		}
	}
}

// Round runs what is due and waits for it: not longer than the longest time that one of it has.
func (r *Runner) Round(ctx context.Context) {
	var round sync.WaitGroup
	r.begin(ctx, &round)
	round.Wait()
	r.note()
}

// begin starts what is due and says when something is again.
func (r *Runner) begin(ctx context.Context, round *sync.WaitGroup) (next time.Time) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	next = now.Add(Beat) // by then a look may have brought another one forward
	for _, c := range r.checks {
		if !c.due.After(now) {
			c.due = now.Add(c.Every)
			if hangs := now.Sub(c.since); c.running && hangs >= c.Timeout+grace {
				c.found(now, Ill("no answer for %s", hangs.Round(time.Second)), hangs)
			} else if c.running {
				c.due = c.since.Add(c.Timeout + grace) // it is in its time
			} else {
				c.running, c.since = true, now
				if round != nil {
					round.Add(1)
				}
				go r.run(ctx, c, round)
			}
		}
		if c.due.Before(next) {
			next = c.due
		}
	}
	return next
}

// run runs one check. What it finds after its time counts for nothing: a check that is always too
// late is one that fails, not one that comes and goes.
func (r *Runner) run(ctx context.Context, c *kept, round *sync.WaitGroup) {
	begun := time.Now()
	ctx, done := context.WithTimeout(ctx, c.Timeout)
	defer done()
	found := make(chan Finding, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		found <- c.Run(ctx)
	}()
	var f Finding
	select {
	case f = <-found:
	case <-ctx.Done():
		select {
		case f = <-found: // it ended with its time: what it says is better than what is said for it
		case <-time.After(grace):
			f = Ill("no answer within %s", c.Timeout)
		}
	}
	now := time.Now()
	r.mu.Lock()
	c.found(now, f, now.Sub(begun))
	r.mu.Unlock()
	if r.note(); r.changed != nil {
		r.changed()
	}
	if round != nil {
		round.Done()
	}
	<-ended
	r.mu.Lock()
	c.running = false
	r.mu.Unlock()
}

// grace is what a check has to notice that its time is over.
const grace = time.Second

// found keeps what was found. What is critical and not well is looked at again at the next beat: the watchdog
// hangs on it, and does not wait for a check that comes round later.
func (c *kept) found(now time.Time, f Finding, took time.Duration) {
	c.seen.Finding, c.seen.At, c.seen.Took = f.bounded(), now, took
	if again := now.Add(Beat); c.Priority == Critical && f.Status == Unhealthy && again.Before(c.due) {
		c.due = again
	}
}

// Report is how the room is now, by what was last found. It waits for no check.
func (r *Runner) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sum()
}

func (r *Runner) sum() Report {
	seen := make([]Seen, 0, len(r.checks))
	for _, c := range r.checks {
		seen = append(seen, c.seen)
	}
	return Sum(time.Now(), seen)
}

// note keeps a change of the whole.
func (r *Runner) note() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.sum()
	if slices.ContainsFunc(now.Checks, func(s Seen) bool { return s.At.IsZero() }) {
		return // the first round is under way
	}
	if n := len(r.history); n > 0 {
		last := r.history[n-1]
		if last.Status == now.Status && last.Live == now.Live && last.Ready == now.Ready && sameChecks(last.Reasons, now.Reasons) {
			return
		}
	}
	if len(r.history) == maxHistory {
		r.history = slices.Delete(r.history, 0, 1)
	}
	r.history = append(r.history, Change{now.At, now.Status, now.Live, now.Ready, now.Reasons})
}

// sameChecks compares which checks have reasons: a number in one of them that moves is no change
// of the room.
func sameChecks(a, b []string) bool {
	return slices.EqualFunc(a, b, func(a, b string) bool { return nameOf(a) == nameOf(b) })
}

func nameOf(reason string) string {
	for i := range len(reason) {
		if reason[i] == ':' {
			return reason[:i]
		}
	}
	return reason
}

// History is the last changes, the newest last.
func (r *Runner) History() []Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.history)
}
