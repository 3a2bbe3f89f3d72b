package launcher

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
)

// What each user may ask for in a short time. Scans that are asked for are audited, whether they
// are allowed or not: their rate bounds how fast one user can fill the audit log.
const (
	startsBurst     = 60
	startsPerSecond = 2
	looksBurst      = 60 // previews and questions for capabilities
	looksPerSecond  = 10
	namesBurst      = 256
	namesPerSecond  = 1
)

// maxUsers bounds the users that are remembered.
const maxUsers = 1024

// allowance lets each user have a burst of something, then so much a second. Its table is bounded
// by forgetting everybody when it is full, which only ever gives somebody a fresh burst.
type allowance struct {
	perSecond rate.Limit
	burst     int

	mu     sync.Mutex
	byUser map[uint32]*rate.Limiter
}

func newAllowance(burst int, perSecond rate.Limit) *allowance {
	return &allowance{perSecond: perSecond, burst: burst, byUser: map[uint32]*rate.Limiter{}}
}

// allow takes n of what a user may have, or says how long it is until it could be had.
func (a *allowance) allow(uid uint32, n int, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	of := a.byUser[uid]
	if of == nil {
		if len(a.byUser) >= maxUsers {
			clear(a.byUser)
		}
		of = rate.NewLimiter(a.perSecond, a.burst)
		a.byUser[uid] = of
	}
	r := of.ReserveN(now, n)
	if !r.OK() { // never: it is more than a burst
		return longest
	}
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// longest is how long a user is told to wait at most.
const longest = time.Hour

// tooFast refuses a request of a user who asks for more than is answered. It is before anything
// is written: such a refusal is counted and audited with the others.
func (l *Launcher) tooFast(handle uint64, m wire.Message) *wire.Refusal {
	c, ok := l.caller(handle)
	if !ok {
		return gone()
	}
	of := l.looks
	if m.Start != nil {
		of = l.starts
	}
	wait := of.allow(c.UID, 1, time.Now())
	if wait == 0 {
		return nil
	}
	if m.Start != nil {
		l.unheard.add(c)
	}
	return &wire.Refusal{Code: policy.RateTooHigh, Reason: "too many requests in a short time", Hint: "ask again in a few seconds", Retryable: true, RetryAfterS: wholeSeconds(wait)}
}

// unheardEvery is how often the audit log is told of the scans of one user that were refused for
// coming too fast.
const unheardEvery = time.Minute

// unheard counts, for each user, the scans that were refused for coming too fast.
type unheard struct {
	mu     sync.Mutex
	byUser map[uint32]*hurry
}

type hurry struct {
	caller wire.Client // the last of them
	count  int
	told   time.Time
}

func (u *unheard) add(c wire.Client) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byUser == nil {
		u.byUser = map[uint32]*hurry{}
	}
	h := u.byUser[c.UID]
	if h == nil {
		if len(u.byUser) >= maxUsers {
			return // as many are on the record within this minute
		}
		h = &hurry{}
		u.byUser[c.UID] = h
	}
	h.caller = c
	h.count++
}

// due are those to be told now, all of them or those that were not told within unheardEvery.
func (u *unheard) due(now time.Time, all bool) (told []hurry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for uid, h := range u.byUser {
		switch recent := now.Sub(h.told) < unheardEvery; {
		case h.count > 0 && (all || !recent):
			told = append(told, *h)
			h.count, h.told = 0, now
		case h.count == 0 && !recent:
			delete(u.byUser, uid)
		}
	}
	return told
}

// tellUnheard audits how many scans were refused unheard, in one record for each user.
func (l *Launcher) tellUnheard(now time.Time, all bool) {
	for _, h := range l.unheard.due(now, all) {
		l.note(observability.Record{Event: observability.Denied, Code: policy.RateTooHigh,
			Caller: &observability.Caller{UID: h.caller.UID, GID: h.caller.GID, PID: h.caller.PID},
			Reason: fmt.Sprintf("%d scans refused for coming too fast", h.count)})
	}
}
