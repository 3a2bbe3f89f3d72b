package policy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
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
	return &crowd{Gate: NewGate(slots, queue, 0), ctx: t.Context(), leave: map[string]func(){}}
}

func (c *crowd) arrive(uid uint32, who string) { c.arriveWith(c.ctx, uid, who) }

func (c *crowd) arriveWith(ctx context.Context, uid uint32, who string) {
	go func() {
		_, leave, err := c.Enter(ctx, uid, Share{})
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
	g := NewGate(3, 0, 0)
	var slots []int
	for range 7 {
		place, leave, err := g.Enter(t.Context(), 1, Share{})
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, place.Slot)
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
	g := NewGate(1, 0, 0)
	_, leave, err := g.Enter(t.Context(), 1, Share{})
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	if _, leave, err := g.Enter(t.Context(), 2, Share{}); !errors.Is(err, ErrQueueFull) || leave != nil {
		t.Errorf("got in: %v", err)
	}
	if _, _, err := NewGate(-1, -1, -1).Enter(t.Context(), 1, Share{}); !errors.Is(err, ErrQueueFull) {
		t.Errorf("a gate without slots: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := NewGate(1, 1, 0).Enter(ended, 1, Share{}); !errors.Is(err, context.Canceled) {
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
		g := NewGate(slots, 20, 0)
		var held [slots]chan bool
		for i := range held {
			held[i] = make(chan bool, 1)
		}
		for i := range 500 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.N(30))*time.Millisecond)
			time.Sleep(time.Duration(rand.N(3)) * time.Millisecond)
			go func() {
				defer cancel()
				place, leave, err := g.Enter(ctx, uint32(i%5), Share{})
				if err != nil {
					return
				}
				select {
				case held[place.Slot] <- true:
				default:
					t.Errorf("slot %d is held twice", place.Slot)
				}
				time.Sleep(time.Duration(rand.N(10)) * time.Millisecond)
				<-held[place.Slot]
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

// share arrives for a part of a budget. Its first letter is its uid, its engagement e.
func (c *crowd) share(who string, rate int, engagement string, budget int) {
	go func() {
		place, leave, err := c.Enter(c.ctx, uint32(who[0]), Share{Rate: rate, Engagement: engagement, Budget: budget})
		if err == nil && place.Rate != rate {
			who += fmt.Sprint(":", place.Rate)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.served, c.leave[who] = append(c.served, who), leave
	}()
	synctest.Wait()
}

func TestRatesTogetherStayWithinBudgets(t *testing.T) {
	for _, row := range []struct {
		says string
		do   func(*crowd)
		want string
	}{
		{"of all", func(c *crowd) {
			c.share("a1", 600, "x", 0)
			c.share("b1", 400, "y", 0)
			c.share("c1", 1, "z", 0)
			c.goes("b1")
		}, "a1 b1 c1"},
		{"of an engagement; others do not wait for it", func(c *crowd) {
			c.share("a1", 60, "x", 100)
			c.share("b1", 60, "x", 100)
			c.share("c1", 60, "y", 100)
			c.share("d1", 60, "z", 0)
			c.share("a2", 40, "x", 100)
		}, "a1 c1 d1 a2"},
		{"more than a budget gets the whole of it, alone", func(c *crowd) {
			c.share("a1", 5000, "x", 100)
			c.share("b1", 1, "x", 100)
			c.share("c1", 5000, "y", 0)
			c.goes("a1:100")
		}, "a1:100 b1"},
		{"a budget that is lowered: who waits asks for less, who is inside keeps what he has", func(c *crowd) {
			c.share("a1", 80, "x", 100)
			c.share("b1", 80, "x", 100)
			c.Bound("x", 50)
			synctest.Wait()
			c.goes("a1")
		}, "a1 b1:50"},
		{"a budget that is raised lets in who waits", func(c *crowd) {
			c.share("a1", 80, "x", 100)
			c.share("b1", 80, "x", 100)
			c.Bound("x", 160)
			synctest.Wait()
		}, "a1 b1"},
		{"a budget that is no more", func(c *crowd) {
			c.share("a1", 80, "x", 100)
			c.share("b1", 80, "x", 100)
			c.Bound("x", 0)
			synctest.Wait()
		}, "a1 b1"},
		{"of another engagement; the same uid does not wait for it", func(c *crowd) {
			c.share("a1", 80, "x", 100)
			c.share("a2", 80, "x", 100)
			c.share("a3", 10, "x", 100)
			c.share("a4", 80, "y", 100)
		}, "a1 a4"},
		{"without a rate nothing is needed", func(c *crowd) {
			c.share("a1", 1000, "x", 1000)
			c.share("b1", 0, "x", 1000)
		}, "a1 b1"},
	} {
		t.Run(row.says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, end := context.WithCancel(t.Context())
				c := &crowd{Gate: NewGate(64, 100, 1000), ctx: ctx, leave: map[string]func(){}}
				row.do(c)
				c.want(t, row.want)
				end()
				synctest.Wait()
				for _, leave := range c.leave {
					if leave != nil {
						leave()
					}
				}
				if reserved, most := c.Reserved(); reserved != 0 || most != 1000 || len(c.of) != 0 {
					t.Errorf("at the end %d of %d are reserved, budgets %v", reserved, most, c.of)
				}
			})
		})
	}
}

// A large part of a budget is overtaken by some small ones and not by all; who takes nothing from
// that budget is never held up by it.
func TestALargePartIsNotOvertakenForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{Gate: NewGate(64, 100, 10000), ctx: t.Context(), leave: map[string]func(){}}
		c.share("a1", 10, "x", 100)
		c.share("L1", 100, "x", 100)
		for i := range overtakes + 2 {
			c.share(fmt.Sprint("b", i), 1, "x", 100)
		}
		c.share("c1", 1, "x", 100)
		c.share("d1", 100, "y", 0)
		c.want(t, "a1 b0 b1 b2 b3 b4 b5 b6 b7 d1")
		for _, who := range []string{"a1", "b0", "b1", "b2", "b3", "b4", "b5", "b6"} {
			c.goes(who)
		}
		c.want(t, "a1 b0 b1 b2 b3 b4 b5 b6 b7 d1")
		c.goes("b7")
		c.want(t, "a1 b0 b1 b2 b3 b4 b5 b6 b7 d1 L1")
		c.goes("L1")
		slices.Sort(c.served[len(c.served)-3:]) // they enter together
		c.want(t, "a1 b0 b1 b2 b3 b4 b5 b6 b7 d1 L1 b8 b9 c1")
		for _, who := range []string{"d1", "b8", "b9", "c1"} {
			c.goes(who)
		}
	})
}

// tool arrives for a slot of a tool, of which one may run.
func (c *crowd) tool(who, tool string) {
	go func() {
		_, leave, err := c.Enter(c.ctx, uint32(who[0]), Share{Tool: tool, Engagement: "x", Job: who})
		if err != nil {
			who += ": " + err.Error()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.served, c.leave[who] = append(c.served, who), leave
	}()
	synctest.Wait()
}

// Those who wait for a slot of their tool are in nobody's way, and take turns among themselves.
func TestSlotsOfATool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 3, 100)
		c.PerTool(map[string]int{"masscan": 1})
		for _, who := range []string{"a1", "a2", "a3", "b1"} {
			c.tool(who, "masscan")
		}
		c.tool("a4", "nmap")
		c.tool("b2", "nmap")
		c.want(t, "a1 a4 b2")
		c.tool("c1", "nmap")
		c.goes("a1")
		c.want(t, "a1 a4 b2 a2")
		c.goes("b2")
		c.goes("a2")
		c.want(t, "a1 a4 b2 a2 c1 b1")
		c.goes("b1")
		c.want(t, "a1 a4 b2 a2 c1 b1 a3")
		c.tool("b3", "masscan")
		c.goes("c1")
		c.PerTool(nil)
		synctest.Wait()
		c.want(t, "a1 a4 b2 a2 c1 b1 a3 b3")
		for _, who := range []string{"a3", "a4", "b3"} {
			c.goes(who)
		}
	})
}

// Whoever waits for a tool gets it, though others of his jobs enter meanwhile and take his turns.
func TestWhoWaitsForAToolGetsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 2, 100)
		c.PerTool(map[string]int{"masscan": 1})
		c.tool("b-0", "masscan")
		c.tool("a-0", "nmap")
		c.tool("a waits", "masscan")
		passed := 0
		for c.leave["a waits"] == nil && passed < 100 {
			passed++
			c.tool(fmt.Sprint("b-", passed), "masscan")
			c.tool(fmt.Sprint("a-", passed), "nmap")
			c.goes(fmt.Sprint("a-", passed-1))
			c.goes(fmt.Sprint("b-", passed-1))
		}
		if passed != overtakes+1 {
			t.Errorf("%d passed by: %v", passed-1, c.served)
		}
		c.goes("a waits")
		c.goes(fmt.Sprint("a-", passed))
		c.goes(fmt.Sprint("b-", passed))
	})
}

// Two callers, or eight, who have 64 jobs at once and always want more, get the same of the gate to
// within a tenth, whoever came first and however long their jobs are.
func TestCallersGetTheSame(t *testing.T) {
	for _, row := range []struct {
		says           string
		callers, slots int
		first          bool // the first caller has filled the gate before the others come
		longer         bool // each one's jobs are of other lengths
	}{
		{"two on few slots", 2, 4, false, false},
		{"eight on few slots", 8, 4, false, false},
		{"eight on 64 slots", 8, 64, false, false},
		{"two on 64 slots", 2, 64, false, true},
		{"five on seven slots, lengths mixed", 5, 7, false, true},
		{"two, of whom one was there first", 2, 8, true, false},
	} {
		t.Run(row.says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const atOnce = 64 // of all callers together, running or waiting, and as many of one who was there first
				g := NewGate(row.slots, 1024, 0)
				ctx, end := context.WithCancel(t.Context())
				served := make([]int, row.callers)
				var mu sync.Mutex
				want := func(uid, worker int) {
					random := rand.New(rand.NewPCG(uint64(uid), uint64(worker)))
					for ctx.Err() == nil {
						_, leave, err := g.Enter(ctx, uint32(uid), Share{})
						if err != nil {
							return
						}
						mu.Lock()
						served[uid]++
						mu.Unlock()
						lasts := time.Second
						if row.longer {
							lasts = time.Duration(500+random.IntN(1000)) * time.Millisecond
						}
						time.Sleep(lasts)
						leave()
					}
				}
				for uid := range row.callers {
					for worker := range max(atOnce/row.callers, row.slots) {
						go want(uid, worker)
					}
					if row.first && uid == 0 {
						time.Sleep(10 * time.Second)
						mu.Lock()
						served[0] = 0
						mu.Unlock()
					}
				}
				time.Sleep(10 * time.Minute) // of the bubble
				end()
				synctest.Wait()
				time.Sleep(time.Minute)
				least, most := slices.Min(served), slices.Max(served)
				if float64(most) > 1.1*float64(least) || least < 100 {
					t.Errorf("they were served %v", served)
				}
			})
		})
	}
}

func TestAForecast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 2, 100)
		c.PerTool(map[string]int{"masscan": 1})
		for _, who := range []string{"a1", "a2", "b1"} {
			c.tool(who, "masscan")
		}
		c.tool("c1", "nmap")
		c.tool("c2", "nmap")
		c.want(t, "a1 c1")
		length := map[string]time.Duration{"a1": 10 * time.Second, "a2": 5 * time.Second, "b1": time.Second, "c1": 2 * time.Second, "c2": 20 * time.Second}
		said := func(most int) string {
			var out []string
			for _, turn := range c.Forecast(most, func(job string, inside bool) time.Duration {
				if inside != (job == "a1" || job == "c1") {
					t.Errorf("%s is said to be inside: %v", job, inside)
				}
				return length[job]
			}) {
				out = append(out, fmt.Sprint(turn.Job, " ", turn.After))
			}
			return strings.Join(out, ", ")
		}
		// b1 has its turn after a2; c2 needs no slot of that tool.
		if got, want := said(100), "c2 2s, a2 10s, b1 15s"; got != want {
			t.Errorf("%s; want %s", got, want)
		}
		if got, want := said(1), "c2 2s"; got != want {
			t.Errorf("%s; want %s", got, want)
		}
		if taken, waiting := c.Load(); taken != 2 || waiting != 3 {
			t.Errorf("to ask has changed it: %d taken, %d wait", taken, waiting)
		}
		for _, who := range []string{"c1", "a1", "a2", "b1", "c2"} {
			c.goes(who)
		}
	})
}

func BenchmarkForecast(b *testing.B) {
	g := NewGate(64, 1024, 10000)
	for i := range 64 + 1024 {
		_, _ = g.join(uint32(i%40), Share{Rate: 1 + i%100, Engagement: fmt.Sprint("e", i%10), Budget: 2000, Tool: fmt.Sprint("t", i%3), Job: fmt.Sprint(i)})
	}
	for b.Loop() {
		g.Forecast(256, func(string, bool) time.Duration { return time.Second })
	}
}

// Those who were there before a large part came do not overtake it when they enter.
func TestWhoCameBeforeDoesNotOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{Gate: NewGate(2, 100, 0), ctx: t.Context(), leave: map[string]func(){}}
		c.share("a1", 50, "x", 100)
		c.share("b1", 0, "y", 0) // now there is no slot
		earlier := strings.Fields("c1 d1 e1 f1 g1 h1 i1 j1")
		if len(earlier) != overtakes {
			t.Fatalf("%d may overtake", overtakes)
		}
		for _, who := range earlier {
			c.share(who, 1, "x", 100)
		}
		c.share("L1", 100, "x", 100)
		c.share("k1", 1, "x", 100)
		for _, who := range append([]string{"b1"}, earlier...) {
			c.goes(who)
		}
		c.want(t, "a1 b1 c1 d1 e1 f1 g1 h1 i1 j1 k1")
		for _, who := range []string{"a1", "k1", "L1"} {
			c.goes(who)
		}
	})
}

// The turns that a uid takes under another engagement do not count against what it waits for.
func TestOnesOwnJobsOfAnotherEngagementDoNotDelayALargePart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{Gate: NewGate(2, 100, 0), ctx: t.Context(), leave: map[string]func(){}}
		c.share("b0", 50, "x", 100)
		c.share("a0", 1, "y", 0)
		c.share("aL", 100, "x", 100)
		for i := range 20 {
			c.share(fmt.Sprint("b", i+1), 50, "x", 100)
			c.share(fmt.Sprint("a", i+1), 1, "y", 0)
		}
		for len(c.served) < 30 && c.leave["aL"] == nil {
			for _, who := range c.served {
				if leave := c.leave[who]; leave != nil {
					c.goes(who)
					c.leave[who] = nil
				}
			}
		}
		if c.leave["aL"] == nil {
			t.Errorf("it still waits after %v", c.served)
		}
		for range 100 {
			for _, leave := range c.leave {
				if leave != nil {
					leave()
				}
			}
			synctest.Wait()
		}
	})
}

// Who gives up lets those in for whom he kept a budget closed.
func TestABudgetIsNotKeptForWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{Gate: NewGate(64, 100, 100), ctx: t.Context(), leave: map[string]func(){}}
		c.share("a1", 10, "x", 0)
		all, soon := c.ctx, context.CancelFunc(nil)
		c.ctx, soon = context.WithCancel(t.Context())
		c.share("L1", 100, "x", 0)
		c.ctx = all
		for i := range overtakes + 1 {
			c.share(fmt.Sprint("b", i), 1, "y", 0)
		}
		c.want(t, "a1 b0 b1 b2 b3 b4 b5 b6 b7")
		soon()
		synctest.Wait()
		slices.Sort(c.served)
		c.want(t, "L1 a1 b0 b1 b2 b3 b4 b5 b6 b7 b8")
		if c.leave["L1"] != nil {
			t.Error("who gave up has a place")
		}
	})
}

// Whoever comes, goes and gives up, whatever budgets become: nobody is let in beyond one, nobody
// of a uid before an earlier one, nobody is overtaken more often than may be, nobody waits without
// a cause, no more jobs of a tool run than may, and all get in, in the order that was foretold.
func FuzzGate(f *testing.F) {
	f.Add([]byte{0, 1, 90, 0, 2, 200, 0, 3, 5, 0, 4, 5, 1, 0, 0, 2, 0, 0, 3, 7, 9})
	f.Add([]byte{0, 17, 255, 0, 18, 1, 0, 19, 1, 0, 20, 1, 0, 33, 1, 0, 34, 1, 0, 17, 1, 0, 17, 1, 0, 17, 1, 0, 17, 1, 3, 1, 4, 1, 1, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		const all = 200
		g := NewGate(6, 20, all)
		type one struct {
			uid   uint32
			w     *waiter
			place Place
		}
		budgets := [4]int{0, 50, 100, 300}
		tools := map[string]int{"t1": 1, "t2": 2}
		g.PerTool(tools)
		lineOf := func(o one) string {
			line := fmt.Sprint(o.uid, o.w.share.Engagement)
			if tools[o.w.share.Tool] > 0 {
				line += o.w.share.Tool
			}
			return line
		}
		name := func(i byte) string { return fmt.Sprint("e", i%4) }
		var waiting, inside []one
		settle := func() {
			var still []one
			before, fresh := map[string]bool{}, map[string]bool{}
			behind := map[string]bool{}
			for _, o := range waiting {
				select {
				case o.place = <-o.w.place:
					if behind[lineOf(o)] {
						t.Fatal("a later job of a uid was let in before an earlier one")
					}
					fresh[o.w.share.Tool] = true
					before[o.w.share.Engagement] = before[o.w.share.Engagement] || o.place.Rate > 0
					inside = append(inside, o)
				default:
					behind[lineOf(o)] = true
					still = append(still, o)
				}
			}
			waiting = still
			sum, of := 0, map[string]int{}
			held, run := map[int]bool{}, map[string]int{}
			for _, o := range inside {
				run[o.w.share.Tool]++
				sum += o.place.Rate
				of[o.w.share.Engagement] += o.place.Rate
				if held[o.place.Slot] {
					t.Fatal("a slot is held twice")
				}
				held[o.place.Slot] = true
			}
			if sum != g.all.reserved || sum > all || len(inside) != g.taken || len(waiting) != g.waiting || len(g.free)+g.taken != 6 {
				t.Fatalf("%d reserved and said to be %d; %d inside, %d taken; %d wait, %d said to", sum, g.all.reserved, len(inside), g.taken, len(waiting), g.waiting)
			}
			for tool, b := range g.tools {
				if run[tool] != b.reserved || b.most != tools[tool] || fresh[tool] && b.most > 0 && run[tool] > b.most {
					t.Fatalf("%d of %s run, said to be %d, of %d", run[tool], tool, b.reserved, b.most)
				}
			}
			for e, b := range g.of {
				if of[e] != b.reserved || before[e] && b.most > 0 && of[e] > b.most {
					t.Fatalf("%s has %d, said to be %d, of %d", e, of[e], b.reserved, b.most)
				}
			}
			if len(g.free) == 0 {
				return
			}
			due, room := 0, 0
			for _, w := range g.firstLocked() {
				if w.overtaken > overtakes {
					t.Fatalf("one was overtaken %d times", w.overtaken)
				}
				if w.overtaken == overtakes {
					due++
				}
				if len(g.lackingLocked(w)) == 0 {
					room++
				}
			}
			if room > 0 && due == 0 {
				t.Fatal("one waits who has room, and nothing is kept for anybody")
			}
		}
		leave := func(i int) {
			o := inside[i]
			inside = slices.Delete(inside, i, i+1)
			g.leaver(o.place, o.w)()
		}
		for len(data) >= 3 {
			op, a, b := data[0], data[1], data[2]
			data = data[3:]
			switch {
			case op%5 == 0:
				o := one{uid: uint32(a / 16 % 5)}
				var err error
				if o.w, err = g.join(o.uid, Share{Rate: int(b), Engagement: name(a), Budget: budgets[a%4], Tool: fmt.Sprint("t", b%4), Job: fmt.Sprint("job", g.arrived)}); err == nil {
					waiting = append(waiting, o)
				}
			case op%5 == 1 && len(inside) > 0:
				leave(int(a) % len(inside))
			case op%5 == 2 && len(waiting) > 0:
				i := int(a) % len(waiting)
				o := waiting[i]
				waiting = slices.Delete(waiting, i, i+1)
				g.withdraw(o.w)
			case op%5 == 3:
				budgets[a%4] = int(b)
				g.Bound(name(a), int(b))
			case op%5 == 4:
				tools = map[string]int{"t1": int(a % 3), "t2": int(b % 4)}
				g.PerTool(tools)
			}
			settle()
		}
		// Each stays for as long as its name says, so that they leave one by one.
		lasts := func(job string, _ bool) time.Duration {
			sum := sha256.Sum256([]byte(job))
			return time.Duration(binary.BigEndian.Uint64(sum[:]) >> 8)
		}
		foretold := g.Forecast(1000, lasts)
		ends := map[uint64]time.Duration{}
		for _, o := range inside {
			ends[o.w.number] = lasts(o.w.share.Job, true)
		}
		var came []Turn
		for len(inside) > 0 {
			next := 0
			for i, o := range inside {
				if ends[o.w.number] < ends[inside[next].w.number] {
					next = i
				}
			}
			now, already := ends[inside[next].w.number], len(inside)-1
			leave(next)
			settle()
			entered := slices.Clone(inside[already:])
			slices.SortFunc(entered, func(a, b one) int { return int(a.w.granted) - int(b.w.granted) })
			for _, o := range entered {
				ends[o.w.number] = now + lasts(o.w.share.Job, false)
				came = append(came, Turn{o.w.share.Job, o.uid, now})
			}
		}
		if !slices.Equal(came, foretold) {
			t.Fatalf("foretold was %v, and it was %v", foretold, came)
		}
		if len(waiting) > 0 || g.taken != 0 || g.all.reserved != 0 || len(g.of) != 0 {
			t.Fatalf("at the end %d wait, %d are taken, %d are reserved, of %v", len(waiting), g.taken, g.all.reserved, g.of)
		}
	})
}
