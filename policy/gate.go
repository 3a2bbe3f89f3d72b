package policy

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
)

// ErrQueueFull says that as many wait at a [Gate] as may, or that the free places are kept for
// others.
var ErrQueueFull = errors.New("the queue is full")

// ErrNoSlot says that every slot of a [Gate] is withheld.
var ErrNoSlot = errors.New("every slot is withheld")

// overtakes is how many jobs may enter before one that waits for its part of a budget, taking from
// that budget. Then what the budget has left is kept for the one that waits.
const overtakes = 8

// Gate lets jobs into a fixed number of slots, as long as their rates together stay within the
// budget of all and that of their engagement, and of a tool as many run as may. While there is no
// room, callers wait: uids take turns, so that one who asks for a hundred jobs delays the others by one
// each, and among the jobs of one uid under one engagement the first is served first; those of a tool that
// has slots of its own wait beside them, and are in the way of no other tool. The last quarter of
// the waiting places is for uids that have none waiting.
//
// While one waits for its part of a budget, others enter that came later and have room, at most
// [overtakes] of them out of that budget: neither does a large part wait for ever on many small
// ones, nor do small ones wait on a large one from the start. Then what the budget has left is kept
// for it: those wait who need some of it, until jobs that run have left enough; who needs none of
// it enters.
//
// A gate has no goroutine; who leaves lets in who is next.
type Gate struct {
	mu       sync.Mutex
	slots    int          // that are not withheld
	withheld map[int]bool // not given to anybody again
	free     []int        // the longest free first, so that each slot rests as long as can be
	taken    int
	maxQueue int
	waiting  int
	arrived  uint64
	grants   uint64
	turns    []*queue // who is next first; none is empty
	all      budget
	of       map[string]*budget // engagements that have a job inside or waiting
	tools    map[string]*budget // in slots: tools that have had a job
	inside   map[int]*waiter    // by slot
	changed  func()
}

// budget is in packets a second, or in slots.
type budget struct {
	most     int // 0: no bound
	reserved int
	jobs     int // inside or waiting
}

// least is a rate, or as much of it as the budget has when nobody has any.
func (b *budget) least(rate int) int {
	if b.most > 0 {
		return min(rate, b.most)
	}
	return rate
}

func (b *budget) lacks(n int) bool { return b.most > 0 && n > 0 && n > b.most-b.reserved }

// Share is what a job needs besides a slot, in packets a second: a rate, which counts against the
// budget of its engagement, too (0: it has none); and one of its tool's slots, if those are bounded. Job
// is how [Gate.Forecast] names it. The zero Share needs nothing.
type Share struct {
	Rate       int
	Engagement string
	Budget     int
	Tool       string
	Job        string
}

// Place is what a job has inside: a slot, and the rate that is reserved for it: the one it asked
// for, or a whole budget where that is less.
type Place struct{ Slot, Rate int }

type queue struct {
	uid     uint32
	waiters []*waiter
}

type waiter struct {
	uid       uint32
	number    uint64 // in the order of arrival
	share     Share
	overtaken int
	granted   uint64     // in the order of entering; 0: it waits
	has       int        // of the budgets, once it has entered
	place     chan Place // takes one place without blocking; closed when there will never be one
}

// NewGate makes a gate with slots numbered from 0, where at most maxQueue may wait. rate is the
// budget of all jobs, in packets a second; 0: there is none.
func NewGate(slots, maxQueue, rate int) *Gate {
	g := &Gate{slots: max(slots, 0), withheld: map[int]bool{}, maxQueue: max(maxQueue, 0), all: budget{most: max(rate, 0)}, of: map[string]*budget{},
		tools: map[string]*budget{}, inside: map[int]*waiter{}, changed: func() {}}
	for i := range max(slots, 0) {
		g.free = append(g.free, i)
	}
	return g
}

// Enter waits for a place, until ctx ends. leave gives it back; calling it again does nothing.
// With an error there is no place and leave is nil.
func (g *Gate) Enter(ctx context.Context, uid uint32, share Share) (_ Place, leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return Place{}, nil, err
	}
	w, err := g.join(uid, share)
	if err != nil {
		return Place{}, nil, err
	}
	select {
	case place, is := <-w.place:
		if !is {
			return Place{}, nil, ErrNoSlot
		}
		return place, g.leaver(place, w), nil
	case <-ctx.Done():
		g.withdraw(w)
		return Place{}, nil, ctx.Err()
	}
}

// PerTool bounds how many jobs of a tool are inside at once; one that is not named has no bound of its
// own. Those inside stay, even if together they are more.
func (g *Gate) PerTool(most map[string]int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, b := range g.tools {
		b.most = 0
	}
	for tool, n := range most {
		g.toolLocked(tool).most = max(n, 0)
	}
	g.serveLocked()
}

// OnChange has f called whenever somebody enters, leaves, or begins or ends to wait. It must not block,
// nor ask the gate.
func (g *Gate) OnChange(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changed = f
}

func (g *Gate) toolLocked(tool string) *budget {
	b := g.tools[tool]
	if b == nil {
		b = &budget{}
		g.tools[tool] = b
	}
	return b
}

// Load is how many slots are taken and how many callers wait.
func (g *Gate) Load() (taken, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken, g.waiting
}

// Reserved is how much of the budget of all is reserved, and how much it is (0: no bound), in
// packets a second.
func (g *Gate) Reserved() (reserved, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all.reserved, g.all.most
}

// Bound changes the budget of an engagement (0: it has none) for those that wait and those that
// come. Those inside keep what they have, even if together it is more.
func (g *Gate) Bound(engagement string, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.of[engagement]; b != nil {
		b.most = max(most, 0)
		g.serveLocked()
	}
}

// Change changes how many may wait, and the budget of all jobs in packets a second (0: there is none),
// for those that wait and those that come. Those inside keep what they have; nobody who waits is sent away.
func (g *Gate) Change(maxQueue, rate int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.maxQueue, g.all.most = max(maxQueue, 0), max(rate, 0)
	g.serveLocked()
}

// Withhold keeps a slot that was entered from being given to anybody else when it is left: what
// was in it may not be gone. Once no slot is left whoever waits, and whoever comes, gets [ErrNoSlot].
func (g *Gate) Withhold(slot int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.withheld[slot] {
		return
	}
	g.withheld[slot] = true
	g.slots--
	if g.slots > 0 {
		return
	}
	for _, q := range g.turns {
		for _, w := range q.waiters {
			g.forgetLocked(w.share.Engagement)
			close(w.place)
		}
	}
	g.turns, g.waiting = nil, 0
	g.changed()
}

// Slots is how many slots there are that are not withheld.
func (g *Gate) Slots() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slots
}

// join takes a place at once, if there is one that nobody waits for, or one at the end of the
// uid's queue.
func (g *Gate) join(uid uint32, share Share) (*waiter, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.slots == 0 && len(g.withheld) > 0 {
		return nil, ErrNoSlot
	}
	share.Rate = max(share.Rate, 0)
	g.arrived++
	w := &waiter{uid: uid, number: g.arrived, share: share, place: make(chan Place, 1)}
	g.rememberLocked(share)
	q := g.queueLocked(uid)
	places := g.maxQueue
	if q != nil {
		places -= g.maxQueue / 4
	} else {
		q = &queue{uid: uid}
		g.turns = append(g.turns, q)
	}
	q.waiters = append(q.waiters, w)
	g.waiting++
	g.serveLocked()
	if len(w.place) == 0 && g.waiting > places {
		g.removeLocked(w)
		return nil, ErrQueueFull
	}
	g.changed()
	return w, nil
}

func (g *Gate) rememberLocked(s Share) {
	b := g.of[s.Engagement]
	if b == nil {
		b = &budget{}
		g.of[s.Engagement] = b
	}
	b.most = max(s.Budget, 0)
	b.jobs++
}

func (g *Gate) forgetLocked(engagement string) {
	b := g.of[engagement]
	if b.jobs--; b.jobs == 0 {
		delete(g.of, engagement)
	}
}

func (g *Gate) queueLocked(uid uint32) *queue {
	i := slices.IndexFunc(g.turns, func(q *queue) bool { return q.uid == uid })
	if i < 0 {
		return nil
	}
	return g.turns[i]
}

// serveLocked lets in whoever has room. Whose turn it was goes to the end; who has no room stays.
func (g *Gate) serveLocked() {
	for len(g.free) > 0 {
		w := g.nextLocked()
		if w == nil {
			return
		}
		i := slices.IndexFunc(g.turns, func(q *queue) bool { return q.uid == w.uid })
		q := g.turns[i]
		g.turns = slices.Delete(g.turns, i, i+1)
		q.waiters = slices.DeleteFunc(q.waiters, func(other *waiter) bool { return other == w })
		g.waiting--
		if len(q.waiters) > 0 {
			g.turns = append(g.turns, q)
		}
		g.grantLocked(w)
	}
}

// nextLocked is who enters next; nil: nobody has room.
func (g *Gate) nextLocked() *waiter {
	first := g.firstLocked()
	kept := map[*budget]bool{}
	may := func(w *waiter) bool {
		return len(g.lackingLocked(w)) == 0 && !slices.ContainsFunc(g.usesLocked(w), func(u use) bool { return kept[u.of] })
	}
	// Those who were overtaken come before all others, whosever turn it is.
	byArrival := slices.SortedFunc(slices.Values(first), func(a, b *waiter) int { return cmp.Compare(a.number, b.number) })
	for _, w := range byArrival {
		if w.overtaken < overtakes {
			continue
		}
		if may(w) {
			return w
		}
		for _, b := range g.lackingLocked(w) {
			kept[b] = true
		}
	}
	i := slices.IndexFunc(first, may)
	if i < 0 {
		return nil
	}
	for _, p := range first {
		if p.number < first[i].number && g.takesFromLocked(first[i], p) {
			p.overtaken++
		}
	}
	return first[i]
}

// takesFromLocked says that one who enters takes what another waits for: a part of a budget that has too
// little left, or the last slot of their tool, which the other might have had now.
func (g *Gate) takesFromLocked(enters, waits *waiter) bool {
	tool := g.toolLocked(waits.share.Tool)
	if enters.share.Tool == waits.share.Tool && tool.most > 0 && tool.reserved+1 >= tool.most {
		return true
	}
	uses := g.usesLocked(enters)
	return slices.ContainsFunc(g.lackingLocked(waits), func(b *budget) bool { return slices.ContainsFunc(uses, func(u use) bool { return u.of == b }) })
}

// firstLocked are those who wait longest of their uid under their engagement, in the order of turns. The
// jobs of a tool that has slots of its own are a line of their own.
func (g *Gate) firstLocked() (out []*waiter) {
	type line struct{ engagement, tool string }
	for _, q := range g.turns {
		seen := map[line]bool{}
		for _, w := range q.waiters {
			in := line{engagement: w.share.Engagement}
			if g.toolLocked(w.share.Tool).most > 0 {
				in.tool = w.share.Tool
			}
			if !seen[in] {
				seen[in] = true
				out = append(out, w)
			}
		}
	}
	return out
}

// use is what a job takes from a budget.
type use struct {
	of *budget
	n  int
}

// usesLocked are the budgets that a job takes from: its tool's first.
func (g *Gate) usesLocked(w *waiter) []use {
	uses := []use{{g.toolLocked(w.share.Tool), 1}}
	if rate := g.rateLocked(w); rate > 0 {
		uses = append(uses, use{&g.all, rate}, use{g.of[w.share.Engagement], rate})
	}
	return uses
}

// lackingLocked are those of them that have too little left. Who waits for a slot of his tool has no need
// of a rate yet, and keeps none from others.
func (g *Gate) lackingLocked(w *waiter) (out []*budget) {
	for i, u := range g.usesLocked(w) {
		if u.of.lacks(u.n) {
			out = append(out, u.of)
			if i == 0 {
				return out
			}
		}
	}
	return out
}

// rateLocked is what is reserved for a job: no budget is too small for it when nobody else is inside.
func (g *Gate) rateLocked(w *waiter) int {
	return g.all.least(g.of[w.share.Engagement].least(w.share.Rate))
}

func (g *Gate) grantLocked(w *waiter) {
	place := Place{Slot: g.free[0], Rate: g.rateLocked(w)}
	g.free = g.free[1:]
	g.taken++
	g.all.reserved += place.Rate
	g.of[w.share.Engagement].reserved += place.Rate
	g.toolLocked(w.share.Tool).reserved++
	g.grants++
	g.inside[place.Slot], w.granted, w.has = w, g.grants, place.Rate
	w.place <- place
}

func (g *Gate) leaver(place Place, w *waiter) func() {
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.releaseLocked(place, w)
	})
}

// releaseLocked gives a place back and lets in whoever has room then. A slot that is withheld is
// taken for good; its link is gone, so that its rate is not.
func (g *Gate) releaseLocked(place Place, w *waiter) {
	g.all.reserved -= place.Rate
	g.of[w.share.Engagement].reserved -= place.Rate
	g.forgetLocked(w.share.Engagement)
	g.toolLocked(w.share.Tool).reserved--
	delete(g.inside, place.Slot)
	if !g.withheld[place.Slot] {
		g.free = append(g.free, place.Slot)
		g.taken--
	}
	g.serveLocked()
	g.changed()
}

// withdraw takes out a waiter whose ctx ended. The place may have been granted in the same
// moment; it is passed on.
func (g *Gate) withdraw(w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case place, is := <-w.place:
		if is {
			g.releaseLocked(place, w)
		}
		return
	default:
	}
	g.removeLocked(w)
	g.serveLocked() // something may have been kept for it
	g.changed()
}

func (g *Gate) removeLocked(w *waiter) {
	q := g.queueLocked(w.uid)
	q.waiters = slices.DeleteFunc(q.waiters, func(other *waiter) bool { return other == w })
	g.waiting--
	if len(q.waiters) == 0 {
		g.turns = slices.DeleteFunc(g.turns, func(other *queue) bool { return other == q })
	}
	g.forgetLocked(w.share.Engagement)
}
