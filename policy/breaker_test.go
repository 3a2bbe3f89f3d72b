package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var breakerRules = BreakerRules{Failures: 3, Successes: 2, Recovery: time.Minute, MaxRecovery: 5 * time.Minute, Multiplier: 1.5, Probes: 1}

// played is a breaker with the time and what it has let through: what a line of a story does to it.
type played struct {
	b       Breaker
	r       BreakerRules
	now     time.Time
	jitter  float64
	permits []Permit
}

// plays a story, of which each word is a step: ask, ok, fail (the oldest that was let through ends
// so), drop (it is given back), +DURATION, -DURATION (the clock), open, open:DURATION, close (an
// operator). The answer of each ask is `yes` or `no`.
func (p *played) plays(t *testing.T, story string) (answers []string) {
	t.Helper()
	for _, word := range strings.Fields(story) {
		step, arg, _ := strings.Cut(word, ":")
		switch {
		case step == "ask":
			b, permit, ok := p.b.Permit(p.now, p.r)
			p.b = b
			answers = append(answers, map[bool]string{true: "yes", false: "no"}[ok])
			if ok {
				p.permits = append(p.permits, permit)
			}
		case step == "ok" || step == "fail":
			result := BreakerResult{Took: time.Second, Job: "j"}
			if step == "fail" {
				result.Failed = "timeout"
			}
			p.b = p.b.Record(p.now, p.r, p.permits[0], result, p.jitter)
			p.permits = p.permits[1:]
		case step == "drop":
			p.b = p.b.Release(p.permits[0])
			p.permits = p.permits[1:]
		case step == "open":
			var lasts time.Duration
			if arg != "" {
				lasts, _ = time.ParseDuration(arg)
			}
			p.b = p.b.Force(p.now, lasts)
		case step == "close":
			p.b = p.b.Close(p.now)
		case step[0] == '+' || step[0] == '-':
			d, err := time.ParseDuration(step)
			if err != nil {
				t.Fatal(err)
			}
			p.now = p.now.Add(d)
		default:
			t.Fatalf("no step %q", word)
		}
	}
	return answers
}

const thriceFailed = "ask ask ask fail fail fail "

func TestABreaker(t *testing.T) {
	for _, c := range []struct {
		name, story, answers string
		state                BreakerState
		retry                time.Duration
	}{
		{"is closed at first", "ask", "yes", BreakerClosed, 0},
		{"stays closed below the threshold", "ask ask fail fail ask", "yes yes yes", BreakerClosed, 0},
		{"opens at the threshold", thriceFailed + "ask", "yes yes yes no", BreakerOpen, time.Minute},
		{"counts failures in a row alone", "ask fail ask fail ask ok ask fail ask fail ask", "yes yes yes yes yes yes", BreakerClosed, 0},
		{"does not count what is given back", "ask fail ask fail ask drop ask", "yes yes yes yes", BreakerClosed, 0},
		{"says how long it still refuses", thriceFailed + "+45s ask", "yes yes yes no", BreakerOpen, 15 * time.Second},
		{"lets one probe through after its time", thriceFailed + "+60s ask ask", "yes yes yes yes no", BreakerHalfOpen, 5 * time.Second},
		{"lets another through when a probe is given back", thriceFailed + "+60s ask drop ask", "yes yes yes yes yes", BreakerHalfOpen, 5 * time.Second},
		{"is half open until enough probes went well", thriceFailed + "+60s ask ok ask", "yes yes yes yes yes", BreakerHalfOpen, 5 * time.Second},
		{"closes when enough probes went well", thriceFailed + "+60s ask ok ask ok ask ask ask", "yes yes yes yes yes yes yes yes", BreakerClosed, 0},
		{"opens for longer when a probe fails", thriceFailed + "+60s ask fail ask", "yes yes yes yes no", BreakerOpen, 90 * time.Second},
		{"opens for longer each time, to its cap", thriceFailed + "+60s ask fail +90s ask fail +135s ask fail +202500ms ask fail", "yes yes yes yes yes yes yes", BreakerOpen, 5 * time.Minute},
		{"is as at first once it has closed", thriceFailed + "+60s ask fail +90s ask ok ask ok " + thriceFailed + "ask", "yes yes yes yes yes yes yes yes yes no", BreakerOpen, time.Minute},
		{"is not made worse by what failed together", "ask ask ask ask ask fail fail fail fail fail", "yes yes yes yes yes", BreakerOpen, time.Minute},
		{"is not closed by what began before it opened", "ask ask ask ask ask fail fail fail +60s ask ok ok ask", "yes yes yes yes yes yes no", BreakerHalfOpen, 5 * time.Second},
		{"is opened by an operator until one closes it", "open +1000h ask", "no", BreakerOpen, 0},
		{"is opened by an operator for a time, then tried", "open:1h +59m ask +1m ask ask", "no yes no", BreakerHalfOpen, 5 * time.Second},
		{"is closed by an operator", thriceFailed + "close ask ask ask fail fail", "yes yes yes yes yes yes", BreakerClosed, 0},
		{"is not opened by one that ran when an operator closed it", "ask " + thriceFailed + "close fail ask", "yes yes yes yes yes", BreakerClosed, 0},
		{"is closed by an operator who opened it", "open close ask", "yes", BreakerClosed, 0},
		{"is open no longer when the clock goes back", thriceFailed + "-1000h ask +60s ask", "yes yes yes no yes", BreakerHalfOpen, 5 * time.Second},
		{"is held by an operator no longer when the clock goes back", "open:10m -1000h ask +9m ask +1m ask", "no no yes", BreakerHalfOpen, 5 * time.Second},
	} {
		p := &played{r: breakerRules, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
		if got := strings.Join(p.plays(t, c.story), " "); got != c.answers {
			t.Errorf("a breaker %s: it answered %q, not %q", c.name, got, c.answers)
		}
		p.b = p.b.At(p.now, p.r)
		if got := p.b.In(); got != c.state {
			t.Errorf("a breaker %s: it is %s, not %s", c.name, got, c.state)
		}
		if got := p.b.RetryAfter(p.now, p.r, 0); got != c.retry {
			t.Errorf("a breaker %s: asked again after %s, not %s", c.name, got, c.retry)
		}
	}
}

func TestABreakersMemoryIsBoundedAndItsCountsAreExact(t *testing.T) {
	p := &played{r: BreakerRules{Failures: 1, Successes: 1, Recovery: time.Second, MaxRecovery: time.Second, Multiplier: 1, Probes: 1}, now: time.Unix(0, 0)}
	const rounds = 80
	for i := range rounds {
		p.plays(t, "ask")
		p.b = p.b.Record(p.now, p.r, p.permits[0], BreakerResult{Failed: fmt.Sprint("reason", i), Job: "j", Took: time.Second}, 0)
		p.permits = nil
		p.plays(t, "ask +1s ask ok") // refused, then a probe that closes it
	}
	b := p.b
	if b.Counts.Success != rounds || b.Counts.Failure != rounds || b.Counts.Rejected != rounds || b.Took != 2*rounds*time.Second {
		t.Errorf("%+v, %s", b.Counts, b.Took)
	}
	want := []BreakerChanges{{BreakerClosed, BreakerOpen, rounds}, {BreakerOpen, BreakerHalfOpen, rounds}, {BreakerHalfOpen, BreakerClosed, rounds}}
	if !slices.Equal(b.Counts.Changes, want) {
		t.Errorf("changes: %v", b.Counts.Changes)
	}
	if len(b.History) != maxMoments || len(b.Recent) != maxFailed || len(b.Reasons) != maxReasons {
		t.Errorf("%d moments, %d failures, %d reasons", len(b.History), len(b.Recent), len(b.Reasons))
	}
	if last := b.History[maxMoments-1]; last.Why != WhyProbes || !last.At.Equal(p.now) {
		t.Errorf("the last moment is %+v", last)
	}
	if b.Failed().Reason != fmt.Sprint("reason", rounds-1) || b.Reasons[maxReasons-1] != (BreakerReason{otherReason, rounds - maxReasons + 1}) {
		t.Errorf("the last failure is %+v, the reasons %v", b.Failed(), b.Reasons)
	}
	var sum BreakerCounts
	for range 3 {
		sum = sum.Add(b.Counts)
	}
	if sum.Failure != 3*rounds || len(sum.Changes) != 3 || sum.Changes[0].Count != 3*rounds {
		t.Errorf("three of them together: %+v", sum)
	}
}

// A value that somebody holds is not changed by what becomes of the breaker.
func TestABreakerIsAValue(t *testing.T) {
	p := &played{r: breakerRules, now: time.Unix(0, 0)}
	p.plays(t, thriceFailed+"+60s ask")
	held, before := p.b, fmt.Sprintf("%+v", p.b)
	p.plays(t, "fail +90s ask ok ask ok ask fail open close")
	if after := fmt.Sprintf("%+v", held); after != before {
		t.Errorf("it was\n%s and is\n%s", before, after)
	}
}

func TestJitterIsWithinATenth(t *testing.T) {
	for _, jitter := range []float64{-7, -1, -0.3, 0, 0.5, 1, 7} {
		p := &played{r: breakerRules, now: time.Unix(0, 0), jitter: jitter}
		p.plays(t, thriceFailed)
		want := time.Duration(float64(time.Minute) * (1 + 0.1*min(max(jitter, -1), 1)))
		if got := p.b.Until.Sub(p.now); got != want {
			t.Errorf("jitter %v: open for %s, not %s", jitter, got, want)
		}
		if got := p.b.RetryAfter(p.now, p.r, 1); got < want || got > want+5*time.Second {
			t.Errorf("jitter %v: asked again after %s", jitter, got)
		}
	}
}

func TestTheNetworksThatHaveBreakers(t *testing.T) {
	for _, c := range []struct{ prefixes, want string }{
		{"192.0.2.7/32", "192.0.2.0/24"},
		{"192.0.2.7/32 192.0.2.9/32 192.0.2.128/25", "192.0.2.0/24"},
		{"192.0.2.0/24 198.51.100.1/32", "192.0.2.0/24 198.51.100.0/24"},
		{"10.0.0.0/8", "10.0.0.0/8"},
		{"2001:db8::1/128 2001:db8::2/128 2001:db8:0:1::/65", "2001:db8::/64 2001:db8:0:1::/64"},
		{"2001:db8::/32", "2001:db8::/32"},
		{"", ""},
	} {
		var in []netip.Prefix
		for _, p := range strings.Fields(c.prefixes) {
			in = append(in, netip.MustParsePrefix(p))
		}
		var got []string
		for _, p := range Networks(in) {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, not %s", c.prefixes, got, c.want)
		}
	}
}

// Whatever comes to it in whatever order: it is never open below its threshold, never for longer
// than its cap and the jitter, never has more probes under way than it may, and enough probes that
// go well close it.
func FuzzBreaker(f *testing.F) {
	f.Add([]byte("aaafffTaoao"), uint64(1))
	f.Add([]byte("afafafTafTaafo"), uint64(2))
	f.Add([]byte("aaaaaaffffffBaTao"), uint64(3))
	f.Add([]byte("OaTCaaafff"), uint64(4))
	f.Fuzz(func(t *testing.T, story []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, seed))
		r := BreakerRules{Failures: 1 + random.IntN(6), Successes: 1 + random.IntN(4), Recovery: time.Duration(1+random.IntN(600)) * time.Second,
			MaxRecovery: time.Duration(1+random.IntN(600)) * time.Second, Multiplier: 1 + 3*random.Float64(), Probes: 1 + random.IntN(4)}
		type under struct {
			permit Permit
			age    uint64
		}
		var b Breaker
		now := time.Unix(1<<30, 0)
		var out []under
		inARow := 0 // of those that count, as the test counts them
		for _, step := range story[:min(len(story), 512)] {
			before := b
			switch step {
			case 'a':
				next, permit, ok := b.Permit(now, r)
				b = next
				if at := before.At(now, r); ok != (at.In() == BreakerClosed || at.In() == BreakerHalfOpen && at.Probes() < r.Probes) {
					t.Fatalf("%s with %d probes of %d: asked, %v", at.In(), at.Probes(), r.Probes, ok)
				}
				if ok {
					out = append(out, under{permit, b.Age})
				}
			case 'f', 'o':
				if len(out) == 0 {
					continue
				}
				i := random.IntN(len(out))
				one := out[i]
				out = slices.Delete(out, i, i+1)
				result := BreakerResult{Took: time.Second}
				if step == 'f' {
					result.Failed = "timeout"
				}
				if at := b.At(now, r); one.age == at.Age {
					if inARow++; step == 'o' {
						inARow = 0
					}
				}
				b = b.Record(now, r, one.permit, result, 2*random.Float64()-1)
			case 'd':
				if len(out) > 0 {
					b, out = b.Release(out[0].permit), out[1:]
				}
			case 'T':
				now = now.Add(time.Duration(random.IntN(1200)) * time.Second)
			case 'B':
				now = now.Add(-time.Duration(random.IntN(100000)) * time.Second)
			case 'O':
				b = b.Force(now, time.Duration(random.IntN(3))*time.Minute)
			case 'C':
				b = b.Close(now)
				inARow = 0
			default:
				continue
			}
			b = b.At(now, r)
			probes := 0
			for _, one := range out {
				if one.age == b.Age && b.State == BreakerHalfOpen {
					probes++
				}
			}
			if probes != b.Probes() || probes > r.Probes {
				t.Fatalf("%d probes are under way, it says %d, of %d", probes, b.Probes(), r.Probes)
			}
			if b.In() == BreakerOpen && !b.Forced {
				if left, most := b.Until.Sub(now), scaled(r.MaxRecovery, 1+Jitter); left > most || left <= 0 {
					t.Fatalf("open for %s, at most %s", left, most)
				}
				if before.In() == BreakerClosed && inARow < r.Failures {
					t.Fatalf("opened after %d failures of %d", inARow, r.Failures)
				}
			}
			if b.In() != BreakerOpen && before.In() == BreakerClosed && b.Failures >= r.Failures {
				t.Fatalf("closed after %d failures of %d", b.Failures, r.Failures)
			}
			if b.Age != before.Age {
				inARow = 0
			}
			if len(b.History) > maxMoments || len(b.Recent) > maxFailed || len(b.Reasons) > maxReasons || len(b.Counts.Changes) > 6 {
				t.Fatalf("%+v", b)
			}
		}
		// From wherever it is: time and probes that go well close it, unless an operator holds it.
		if b.Forced && b.Until.IsZero() {
			return
		}
		for _, one := range out {
			b = b.Release(one.permit)
		}
		now = now.Add(max(scaled(r.MaxRecovery, 1+Jitter), b.Wait))
		for range r.Successes {
			next, permit, ok := b.Permit(now, r)
			if !ok {
				t.Fatalf("after its time it is %s and lets nobody through", next.In())
			}
			b = next.Record(now, r, permit, BreakerResult{}, 0)
		}
		if b.In() != BreakerClosed {
			t.Fatalf("after %d that went well it is %s", r.Successes, b.In())
		}
	})
}
