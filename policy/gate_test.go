package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Each test runs in a bubble: synctest.Wait returns when every goroutine waits, and the end of
// the bubble fails if one is left.

// crowd enters a gate, one caller after the other, and notes who got in.
type crowd struct {
	*Gate
	ctx    context.Context
	served []string
	leave  map[string]func()
}

func newCrowd(t *testing.T, slots, queue int) *crowd {
	return &crowd{Gate: NewGate(slots, queue), ctx: t.Context(), leave: map[string]func(){}}
}

func (c *crowd) arrive(uid uint32, who string) { c.arriveWith(c.ctx, uid, who) }

func (c *crowd) arriveWith(ctx context.Context, uid uint32, who string) {
	go func() {
		_, leave, err := c.Enter(ctx, uid)
		if err != nil {
			who += ": " + err.Error()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.served, c.leave[who] = append(c.served, who), leave
	}()
	synctest.Wait()
}

func (c *crowd) goes(who string) {
	c.leave[who]()
	synctest.Wait()
}

func (c *crowd) want(t *testing.T, want string) {
	t.Helper()
	if got := strings.Join(c.served, " "); got != want {
		t.Errorf("served: %s; want: %s", got, want)
	}
}

// A slot whose last job may not be gone is nobody's; with none left nobody waits for ever.
func TestAWithheldSlotIsNotGivenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 2, 100)
		for _, who := range []string{"a1", "b1", "a2", "b2", "a3"} {
			c.arrive(uint32(who[0]), who)
		}
		c.Withhold(0)
		c.Withhold(0)
		c.goes("a1") // slot 0: nobody follows
		c.want(t, "a1 b1")
		c.goes("b1") // slot 1
		c.want(t, "a1 b1 a2")
		if taken, waiting := c.Load(); taken != 2 || waiting != 2 || c.Slots() != 1 {
			t.Errorf("%d taken, %d waiting, %d slots", taken, waiting, c.Slots())
		}
		c.Withhold(1)
		synctest.Wait()
		c.arrive(9, "late")
		got := strings.Join(c.served[3:], " ")
		for _, who := range []string{"b2", "a3", "late"} {
			if !strings.Contains(got, who+": every slot is withheld") {
				t.Errorf("%s still waits: %s", who, got)
			}
		}
		c.goes("a2")
		if taken, waiting := c.Load(); taken != 2 || waiting != 0 || c.Slots() != 0 {
			t.Errorf("%d taken, %d waiting, %d slots", taken, waiting, c.Slots())
		}
	})
}

func TestUidsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 100)
		for _, who := range []string{"a1", "a2", "a3", "a4", "b1", "b2", "c1"} {
			c.arrive(uint32(who[0]), who)
		}
		for i := range 6 {
			c.goes(c.served[i])
		}
		c.want(t, "a1 a2 b1 c1 a3 b2 a4")
		c.goes("a4")
		if taken, waiting := c.Load(); taken != 0 || waiting != 0 {
			t.Errorf("%d taken, %d waiting", taken, waiting)
		}
	})
}

func TestWhoComesBackGoesToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 100)
		c.arrive(1, "a1")
		c.arrive(2, "b1")
		c.arrive(3, "c1")
		c.goes("a1")
		c.arrive(1, "a2")
		c.arrive(2, "b2")
		for _, who := range []string{"b1", "c1", "a2"} {
			c.goes(who)
		}
		c.want(t, "a1 b1 c1 a2 b2")
		c.goes("b2")
	})
}

func TestSlotsRest(t *testing.T) {
	g := NewGate(3, 0)
	var slots []int
	for range 7 {
		slot, leave, err := g.Enter(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, slot)
		leave()
		leave() // does nothing, or a slot would be there twice
	}
	if !slices.Equal(slots, []int{0, 1, 2, 0, 1, 2, 0}) {
		t.Errorf("slots are used in the order %v", slots)
	}
	if taken, _ := g.Load(); taken != 0 {
		t.Errorf("%d taken", taken)
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 8)
		c.arrive(1, "a0")
		for i := range 8 {
			c.arrive(1, fmt.Sprint("a", i+1))
		}
		// Two places of eight are left for those who have none waiting, one each.
		c.want(t, "a0 a7: the queue is full a8: the queue is full")
		c.arrive(2, "b1")
		c.arrive(2, "b2")
		c.arrive(3, "c1")
		c.arrive(4, "d1")
		c.want(t, "a0 a7: the queue is full a8: the queue is full b2: the queue is full d1: the queue is full")
		for _, who := range []string{"a0", "a1", "b1", "c1", "a2", "a3", "a4", "a5", "a6"} {
			c.goes(who)
		}
		if taken, waiting := c.Load(); taken != 0 || waiting != 0 {
			t.Errorf("%d taken, %d waiting", taken, waiting)
		}
	})
}

func TestWithoutAQueueOrASlot(t *testing.T) {
	g := NewGate(1, 0)
	_, leave, err := g.Enter(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	if _, leave, err := g.Enter(t.Context(), 2); !errors.Is(err, ErrQueueFull) || leave != nil {
		t.Errorf("got in: %v", err)
	}
	if _, _, err := NewGate(-1, -1).Enter(t.Context(), 1); !errors.Is(err, ErrQueueFull) {
		t.Errorf("a gate without slots: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := NewGate(1, 1).Enter(ended, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("who had gone before got in: %v", err)
	}
}

func TestWhoGivesUpLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 8)
		c.arrive(1, "a1")
		soon, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c.arriveWith(soon, 2, "b1")
		c.arrive(2, "b2")
		c.arriveWith(soon, 3, "c1")
		time.Sleep(time.Minute) // of the bubble: no time passes
		synctest.Wait()
		if _, waiting := c.Load(); waiting != 1 {
			t.Errorf("%d wait", waiting)
		}
		c.goes("a1")
		if got := c.served[len(c.served)-1]; got != "b2" {
			t.Errorf("%s was served", got)
		}
		c.goes("b2")
	})
}

// A slot that is granted in the moment in which its waiter gives up goes to the next.
func TestASlotGrantedTooLateIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 200 {
			c := newCrowd(t, 1, 8)
			c.arrive(1, "a")
			ctx, cancel := context.WithCancel(t.Context())
			c.arriveWith(ctx, 2, "b")
			c.arrive(3, "c")
			leave := c.leave["a"]
			cancel()
			leave()
			synctest.Wait()
			if leave := c.leave["b"]; leave != nil { // b took it: either may come first
				leave()
				synctest.Wait()
			}
			if c.leave["c"] == nil {
				t.Fatalf("nobody has the slot, and c waits for it: %v", c.served)
			}
			c.goes("c")
			if taken, waiting := c.Load(); taken != 0 || waiting != 0 {
				t.Fatalf("%d taken, %d waiting", taken, waiting)
			}
		}
	})
}

// Whatever comes together, no slot is given twice or lost, and nobody waits beside a free slot.
func TestSlotsAreNeitherLostNorShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots = 3
		g := NewGate(slots, 20)
		var held [slots]chan bool
		for i := range held {
			held[i] = make(chan bool, 1)
		}
		for i := range 500 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.N(30))*time.Millisecond)
			time.Sleep(time.Duration(rand.N(3)) * time.Millisecond)
			go func() {
				defer cancel()
				slot, leave, err := g.Enter(ctx, uint32(i%5))
				if err != nil {
					return
				}
				select {
				case held[slot] <- true:
				default:
					t.Errorf("slot %d is held twice", slot)
				}
				time.Sleep(time.Duration(rand.N(10)) * time.Millisecond)
				<-held[slot]
				leave()
			}()
			synctest.Wait()
			if taken, waiting := g.Load(); waiting > 0 && taken < slots {
				t.Errorf("%d wait, and %d of %d slots are taken", waiting, taken, slots)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if taken, waiting := g.Load(); taken != 0 || waiting != 0 || len(g.free) != slots {
			t.Errorf("at the end %d taken, %d waiting, %v free", taken, waiting, g.free)
		}
	})
}
