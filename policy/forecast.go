package policy

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Turn is when a job that waits at a [Gate] would enter.
type Turn struct {
	Job   string
	UID   uint32
	After time.Duration
}

// Forecast says when those who wait would enter, in the order in which they would, if nobody else came:
// the first most of them. lasts is for how long a job that is inside stays yet, and how long one that waits
// would stay; what is less than nothing is nothing. It is asked after the gate was looked at, and
// may ask it. Who waits and is not in the answer has no end before him that is known.
func (g *Gate) Forecast(most int, lasts func(job string, inside bool) time.Duration) (turns []Turn) {
	play := g.copied()
	type end struct {
		slot  int
		after time.Duration
	}
	var ends []end
	for _, slot := range slices.Sorted(maps.Keys(play.inside)) {
		ends = append(ends, end{slot, max(lasts(play.inside[slot].share.Job, true), 0)})
	}
	for play.waiting > 0 && len(ends) > 0 {
		next := slices.MinFunc(ends, func(a, b end) int { return cmp.Or(cmp.Compare(a.after, b.after), a.slot-b.slot) })
		ends = slices.DeleteFunc(ends, func(e end) bool { return e == next })
		who := play.inside[next.slot]
		play.releaseLocked(Place{Slot: next.slot, Rate: who.has}, who)
		var entered []*waiter
		for slot, w := range play.inside {
			if !slices.ContainsFunc(ends, func(e end) bool { return e.slot == slot }) {
				entered = append(entered, w)
				ends = append(ends, end{slot, next.after + max(lasts(w.share.Job, false), 0)})
			}
		}
		slices.SortFunc(entered, func(a, b *waiter) int { return cmp.Compare(a.granted, b.granted) })
		for _, w := range entered {
			if turns = append(turns, Turn{w.share.Job, w.uid, next.after}); len(turns) == most {
				return turns
			}
		}
	}
	return turns
}

// copied is a gate in the same state, at which nobody stands.
func (g *Gate) copied() *Gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	own := &Gate{slots: g.slots, withheld: maps.Clone(g.withheld), free: slices.Clone(g.free), taken: g.taken, maxQueue: g.maxQueue, waiting: g.waiting,
		arrived: g.arrived, grants: g.grants, all: g.all, of: map[string]*budget{}, tools: map[string]*budget{}, inside: map[int]*waiter{}, changed: func() {}}
	for name, b := range g.of {
		own.of[name] = new(*b)
	}
	for name, b := range g.tools {
		own.tools[name] = new(*b)
	}
	for slot, w := range g.inside {
		own.inside[slot] = w.copied()
	}
	for _, q := range g.turns {
		like := &queue{uid: q.uid}
		for _, w := range q.waiters {
			like.waiters = append(like.waiters, w.copied())
		}
		own.turns = append(own.turns, like)
	}
	return own
}

func (w *waiter) copied() *waiter {
	own := *w
	own.place = make(chan Place, 1)
	return &own
}
