package policy

import (
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

// Gate lets jobs into a fixed number of slots. While all are taken, callers wait: uids take
// turns, so that one who asks for a hundred jobs delays the others by one each, and among the
// jobs of one uid the first is served first. The last quarter of the waiting places is for uids
// that have none waiting.
//
// A gate has no goroutine; who leaves hands the slot to who is next.
type Gate struct {
	mu       sync.Mutex
	slots    int          // that are not withheld
	withheld map[int]bool // not given to anybody again
	free     []int        // the longest free first, so that each slot rests as long as can be
	taken    int
	maxQueue int
	waiting  int
	turns    []*queue // who is next first; none is empty
}

type queue struct {
	uid     uint32
	waiters []*waiter
}

type waiter struct {
	slot chan int // takes one slot without blocking; closed when there will never be one
}

// NewGate makes a gate with slots numbered from 0, where at most maxQueue may wait.
func NewGate(slots, maxQueue int) *Gate {
	g := &Gate{slots: max(slots, 0), withheld: map[int]bool{}, maxQueue: max(maxQueue, 0)}
	for i := range max(slots, 0) {
		g.free = append(g.free, i)
	}
	return g
}

// Enter waits for a slot, until ctx ends. leave gives the slot back; calling it again does
// nothing. With an error there is no slot and leave is nil.
func (g *Gate) Enter(ctx context.Context, uid uint32) (slot int, leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	w, err := g.join(uid)
	if err != nil {
		return 0, nil, err
	}
	select {
	case slot, is := <-w.slot:
		if !is {
			return 0, nil, ErrNoSlot
		}
		return slot, g.leaver(slot), nil
	case <-ctx.Done():
		g.withdraw(uid, w)
		return 0, nil, ctx.Err()
	}
}

// Load is how many slots are taken and how many callers wait.
func (g *Gate) Load() (taken, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken, g.waiting
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
			close(w.slot)
		}
	}
	g.turns, g.waiting = nil, 0
}

// Slots is how many slots there are that are not withheld.
func (g *Gate) Slots() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slots
}

// join takes a free slot at once or a place at the end of the uid's queue. A slot is free only
// while nobody waits.
func (g *Gate) join(uid uint32) (*waiter, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.slots == 0 && len(g.withheld) > 0 {
		return nil, ErrNoSlot
	}
	w := &waiter{slot: make(chan int, 1)}
	if len(g.free) > 0 {
		g.grantLocked(w)
		return w, nil
	}
	q := g.queueLocked(uid)
	places := g.maxQueue
	if q != nil {
		places -= g.maxQueue / 4
	}
	if g.waiting >= places {
		return nil, ErrQueueFull
	}
	if q == nil {
		q = &queue{uid: uid}
		g.turns = append(g.turns, q)
	}
	q.waiters = append(q.waiters, w)
	g.waiting++
	return w, nil
}

func (g *Gate) queueLocked(uid uint32) *queue {
	i := slices.IndexFunc(g.turns, func(q *queue) bool { return q.uid == uid })
	if i < 0 {
		return nil
	}
	return g.turns[i]
}

func (g *Gate) grantLocked(w *waiter) {
	w.slot <- g.free[0]
	g.free = g.free[1:]
	g.taken++
}

func (g *Gate) leaver(slot int) func() {
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.releaseLocked(slot)
	})
}

// releaseLocked frees a slot and serves the uid whose turn it is, which then goes to the end. One
// that is withheld is taken for good.
func (g *Gate) releaseLocked(slot int) {
	if g.withheld[slot] {
		return
	}
	g.free = append(g.free, slot)
	g.taken--
	if len(g.turns) == 0 {
		return
	}
	q := g.turns[0]
	g.turns = g.turns[1:]
	w := q.waiters[0]
	q.waiters = q.waiters[1:]
	g.waiting--
	if len(q.waiters) > 0 {
		g.turns = append(g.turns, q)
	}
	g.grantLocked(w)
}

// withdraw takes out a waiter whose ctx ended. The slot may have been granted in the same
// moment; it is passed on.
func (g *Gate) withdraw(uid uint32, w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case slot, is := <-w.slot:
		if is {
			g.releaseLocked(slot)
		}
		return
	default:
	}
	q := g.queueLocked(uid)
	q.waiters = slices.DeleteFunc(q.waiters, func(other *waiter) bool { return other == w })
	g.waiting--
	if len(q.waiters) == 0 {
		g.turns = slices.DeleteFunc(g.turns, func(other *queue) bool { return other == q })
	}
}
