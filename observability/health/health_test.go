package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func TestWhatIsSeenIsSummedUp(t *testing.T) {
	now := time.Now()
	see := func(name string, p Priority, f Finding) Seen {
		return Seen{Name: name, Priority: p, Finding: f, At: now.Add(-time.Second), Every: 30 * time.Second}
	}
	old := func(s Seen) Seen { s.At = now.Add(-91 * time.Second); return s }
	never := func(s Seen) Seen { s.At, s.Finding = time.Time{}, Finding{}; return s }
	well, poor, ill := Well("all is well"), Poor("so so"), Ill("it is broken")
	for _, test := range []struct {
		says        string
		seen        []Seen
		status      Status
		live, ready bool
		reasons     string
	}{
		{"nothing is looked at", nil, Healthy, true, true, ""},
		{"all is well", []Seen{see("loop", Critical, well), see("disk", Important, well), see("clock", Informational, well)}, Healthy, true, true, ""},
		{"a loop does not turn", []Seen{see("disk", Important, ill), see("loop", Critical, ill)}, Unhealthy, false, false, "loop: it is broken|disk: it is broken"},
		{"a loop turns slowly", []Seen{see("loop", Critical, poor)}, Degraded, true, true, "loop: so so"},
		{"a disk is full", []Seen{see("loop", Critical, well), see("clock", Informational, poor), see("disk", Important, ill)}, Degraded, true, false, "disk: it is broken|clock: so so"},
		{"a disk is nearly full", []Seen{see("disk", Important, poor)}, Degraded, true, true, "disk: so so"},
		{"one of two that inform is broken", []Seen{see("clock", Informational, ill), see("memory", Informational, well)}, Healthy, true, true, "clock: it is broken"},
		{"all that inform are broken", []Seen{see("loop", Critical, well), see("clock", Informational, ill), see("memory", Informational, ill)}, Degraded, true, true, "clock: it is broken|memory: it is broken"},
		{"one that informs is so so", []Seen{see("loop", Critical, well), see("clock", Informational, poor), see("memory", Informational, well)}, Degraded, true, true, "clock: so so"},
		{"a loop was not looked at for long", []Seen{old(see("loop", Critical, well))}, Unhealthy, false, false, "loop: stale: last looked at 1m31s ago: all is well"},
		{"a disk was not looked at for long", []Seen{old(see("disk", Important, well))}, Degraded, true, true, "disk: stale: last looked at 1m31s ago: all is well"},
		{"a full disk was not looked at for long", []Seen{old(see("disk", Important, ill))}, Degraded, true, false, "disk: stale: last looked at 1m31s ago: it is broken"},
		{"a loop was never looked at", []Seen{never(see("loop", Critical, well))}, Degraded, true, false, "loop: not looked at yet"},
		{"what informs was never looked at", []Seen{never(see("clock", Informational, well))}, Degraded, true, true, "clock: not looked at yet"},
	} {
		r := Sum(now, test.seen)
		if r.Status != test.status || r.Live != test.live || r.Ready != test.ready || strings.Join(r.Reasons, "|") != test.reasons {
			t.Errorf("%s: %s, live %v, ready %v, %q", test.says, r.Status, r.Live, r.Ready, r.Reasons)
		}
		if len(r.Checks) != len(test.seen) {
			t.Errorf("%s: %d checks", test.says, len(r.Checks))
		}
	}
}

func TestALineForPeople(t *testing.T) {
	for _, test := range []struct {
		r    Report
		want string
	}{
		{Report{Ready: true}, "1 scan running"},
		{Report{Ready: true, Reasons: []string{"clock: not set"}}, "1 scan running; degraded: clock: not set"},
		{Report{Reasons: []string{"audit: disk full"}}, "not ready: audit: disk full; 1 scan running"},
		{Report{Reasons: []string{"audit: disk full", "clock: not set", "memory: full"}}, "not ready: audit: disk full (and 2 more); 1 scan running"},
	} {
		if got := test.r.Line("1 scan running"); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

// Whatever a check says, what is kept of it is one short line of text.
func TestAFindingIsBounded(t *testing.T) {
	f := Ill("%s", "a\nb\x1b[31m\u009b\u202e"+strings.Repeat("ä", 1000))
	for i := range 100 {
		f = f.With(fmt.Sprintf("key %02d%s", i, strings.Repeat("k", 300)), strings.Repeat("v", 300))
	}
	f = f.bounded()
	if len(f.Message) > MaxMessage || !utf8.ValidString(f.Message) || !strings.HasPrefix(f.Message, "a b\uFFFD[31m\uFFFD\uFFFDä") || len(f.Metadata) != MaxMetadata {
		t.Errorf("%d bytes: %q, %d", len(f.Message), f.Message, len(f.Metadata))
	}
	for k, v := range f.Metadata {
		if len(k) > maxKey || len(v) > maxValue {
			t.Errorf("%d, %d", len(k), len(v))
		}
	}
}

func seen(r *Runner, name string) Seen {
	checks := r.Report().Checks
	return checks[slices.IndexFunc(checks, func(s Seen) bool { return s.Name == name })]
}

// A check that hangs is told, is not begun again while it does, and keeps no other from being run.
func TestACheckThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		release := make(chan struct{})
		var hung, others atomic.Int32
		r := New(10*time.Second, nil,
			Check{"hangs", Important, 5 * time.Second, 2 * time.Second, func(context.Context) Finding {
				hung.Add(1)
				<-release
				return Well("at last")
			}},
			Check{"turns", Critical, 5 * time.Second, 2 * time.Second, func(context.Context) Finding {
				others.Add(1)
				return Well("")
			}})
		done := make(chan struct{})
		go func() { r.Run(ctx); close(done) }()
		time.Sleep(3500 * time.Millisecond)
		if s := seen(r, "hangs"); s.Status != Unhealthy || s.Message != "no answer within 2s" {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Minute)
		if s := seen(r, "hangs"); s.Status != Unhealthy || s.Message != "no answer for 1m0s" || s.Stale(time.Now()) {
			t.Errorf("%+v", s)
		}
		if hung.Load() != 1 || others.Load() != 13 {
			t.Errorf("begun %d times, the other %d times", hung.Load(), others.Load())
		}
		if report := r.Report(); !report.Live || report.Ready {
			t.Errorf("%+v", report)
		}
		close(release)
		time.Sleep(6 * time.Second)
		if s := seen(r, "hangs"); s.Status != Healthy || s.Message != "at last" || hung.Load() < 2 {
			t.Errorf("%+v, begun %d times", s, hung.Load())
		}
		stop()
		<-done
	})
}

// What comes after its time counts for nothing: it would make a check that is always too late one
// that comes and goes.
func TestACheckThatIsAlwaysTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var healthy atomic.Int32
		var r *Runner
		r = New(10*time.Second, func() {
			if seen(r, "slow").Status == Healthy {
				healthy.Add(1)
			}
		}, Check{"slow", Important, 5 * time.Second, time.Second, func(context.Context) Finding {
			time.Sleep(3 * time.Second)
			return Well("")
		}})
		done := make(chan struct{})
		go func() { r.Run(ctx); close(done) }()
		time.Sleep(time.Minute)
		if s := seen(r, "slow"); s.Status != Unhealthy || healthy.Load() != 0 {
			t.Errorf("%+v, %d times healthy", s, healthy.Load())
		}
		stop()
		<-done
		time.Sleep(4 * time.Second)
	})
}

// A critical check that was too late, or that found what passes, is made again at once: the watchdog would
// not wait for its next turn.
func TestACriticalCheckThatFailsIsMadeAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := map[string]int{}
		poor := func(name string) func(context.Context) Finding {
			return func(context.Context) Finding {
				if looks[name]++; looks[name] == 1 {
					return Ill("not as it should be")
				}
				return Well("as it should be")
			}
		}
		r := New(0, nil,
			Check{Name: "filter", Priority: Critical, Every: 30 * time.Second, Timeout: 10 * time.Second, Run: poor("filter")},
			Check{Name: "disk", Priority: Important, Every: 30 * time.Second, Timeout: 10 * time.Second, Run: poor("disk")})
		ctx, stop := context.WithCancel(t.Context())
		go r.Run(ctx)
		time.Sleep(time.Second)
		if r.Report().Live {
			t.Error("nothing was found")
		}
		time.Sleep(Beat)
		if !r.Report().Live {
			t.Error("not looked at again")
		}
		time.Sleep(20 * time.Second)
		stop()
		synctest.Wait()
		if looks["filter"] != 2 || looks["disk"] != 1 {
			t.Error(looks)
		}
	})
}

func TestARoundEndsInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var checks []Check
		for i := range 5 {
			checks = append(checks, Check{fmt.Sprint(i), Important, time.Minute, time.Hour, func(ctx context.Context) Finding {
				if i == 0 {
					<-release
				}
				<-ctx.Done()
				return Poor("was told to end")
			}})
		}
		r := New(3*time.Second, nil, checks...)
		begun := time.Now()
		r.Round(t.Context())
		if took := time.Since(begun); took != 3*time.Second+grace {
			t.Errorf("it took %s", took)
		}
		if s := seen(r, "0"); s.Message != "no answer within 3s" {
			t.Errorf("%+v", s)
		}
		if s := seen(r, "1"); s.Message != "was told to end" || s.Took != 3*time.Second {
			t.Errorf("%+v", s)
		}
		close(release)
	})
}

func TestAFindingThatNobodyRenewsIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(time.Second, nil, Check{"loop", Critical, 5 * time.Second, time.Second, func(context.Context) Finding { return Well("turns") }})
		if r.Report().Ready {
			t.Error("ready before anything was looked at")
		}
		r.Round(t.Context())
		if now := r.Report(); !now.Live || !now.Ready {
			t.Errorf("%+v", now)
		}
		time.Sleep(16 * time.Second)
		if now := r.Report(); now.Live || now.Ready || now.Status != Unhealthy {
			t.Errorf("%+v", now)
		}
	})
}

// The history has a line for each change of the whole, and the last hundred of them.
func TestTheHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := false
		n := 0
		r := New(time.Second, nil, Check{"disk", Important, time.Second, time.Second, func(context.Context) Finding {
			if n++; full {
				return Ill("%d bytes are missing", n)
			}
			return Well("enough")
		}})
		look := func() { r.Round(t.Context()); time.Sleep(time.Second) }
		look()
		look()
		full = true
		look()
		look() // another number is no change
		full = false
		look()
		var said []string
		for _, c := range r.History() {
			said = append(said, fmt.Sprint(c.Status, c.Live, c.Ready, c.Reasons))
		}
		if got := strings.Join(said, "; "); got != "healthytrue true []; degradedtrue false [disk: 3 bytes are missing]; healthytrue true []" {
			t.Error(got)
		}
		for range 2 * maxHistory {
			full = !full
			look()
		}
		if got := len(r.History()); got != maxHistory {
			t.Errorf("%d changes are kept", got)
		}
	})
}

type told struct {
	at    time.Time
	state string
}

// listen is a service whose messages are kept.
func listen(messages *[]told) *Service {
	return NewService(func(state string) { *messages = append(*messages, told{time.Now(), state}) })
}

func TestTheLineOfStatusIsToldWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []told
		s := listen(&got)
		ctx, stop := context.WithCancel(t.Context())
		begun := time.Now()
		s.Status("starting")
		var scans atomic.Int32
		go s.Run(ctx, func() string { return fmt.Sprintf("%d scans\nrunning", scans.Load()) })
		time.Sleep(50 * time.Millisecond)
		for range 24 {
			scans.Add(1)
			s.Changed()
			s.Changed()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		s.Changed() // it is the same line
		synctest.Wait()
		stop()
		synctest.Wait()
		var lines []string
		for _, m := range got {
			lines = append(lines, fmt.Sprintf("%s %s", m.at.Sub(begun), m.state))
		}
		if got := strings.Join(lines, ", "); got != "0s STATUS=starting, 1s STATUS=10 scans; running, 2s STATUS=20 scans; running, 3s STATUS=24 scans; running" {
			t.Error(got)
		}
	})
}

// The watchdog is fed at a quarter of its time while all is well, not at all while it is not, and again
// as soon as it is.
func TestTheWatchdogIsFedWhileTheRoomIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []told
		s := listen(&got)
		ctx, stop := context.WithCancel(t.Context())
		var alive atomic.Bool
		alive.Store(true)
		begun := time.Now()
		go s.Feed(ctx, 30*time.Second, alive.Load)
		time.Sleep(40 * time.Second)
		alive.Store(false)
		time.Sleep(20*time.Second + 500*time.Millisecond)
		alive.Store(true)
		time.Sleep(20 * time.Second)
		stop()
		synctest.Wait()
		var at []string
		for _, m := range got {
			if m.state != "WATCHDOG=1" {
				t.Errorf("%q", m.state)
			}
			at = append(at, m.at.Sub(begun).String())
		}
		if got := strings.Join(at, " "); got != "0s 7.5s 15s 22.5s 30s 37.5s 1m1s 1m8.5s 1m16s" {
			t.Error(got)
		}
	})
}

func TestAReloadIsTold(t *testing.T) {
	var got []told
	s := listen(&got)
	before := monotonic()
	done := s.Reloading()
	done()
	s.Extend(90 * time.Second)
	s.Stopping()
	var usec int64
	if n, err := fmt.Sscanf(got[0].state, "RELOADING=1\nMONOTONIC_USEC=%d", &usec); n != 1 || err != nil || usec < before.Microseconds() || usec > monotonic().Microseconds() {
		t.Errorf("%q", got[0].state)
	}
	if len(got) != 4 || got[1].state != "READY=1" || got[2].state != "EXTEND_TIMEOUT_USEC=90000000" || got[3].state != "STOPPING=1" {
		t.Errorf("%v", got)
	}
}

func TestTheWallClockIsComparedWithTime(t *testing.T) {
	for _, test := range []struct {
		wall, ran time.Duration
		says      string // "": nothing
	}{
		{30 * time.Second, 30 * time.Second, ""},
		{31 * time.Second, 30 * time.Second, ""}, // it is kept in time
		{29 * time.Second, 30 * time.Second, ""},
		{time.Hour + 30*time.Second, 30 * time.Second, "went forward by 1h0m0s"},
		{-90 * time.Second, 30 * time.Second, "went back by 2m0s"},
	} {
		f, jumped := compared(test.wall, test.ran)
		if jumped != (test.says != "") || jumped && (f.Status != Degraded || !strings.Contains(f.Message, test.says)) {
			t.Errorf("%s in %s: %+v", test.wall, test.ran, f)
		}
	}
	var c Clock
	for range 2 {
		if f := c.Look(); f.Status != Healthy || f.Message == "" {
			t.Errorf("%+v", f)
		}
	}
}

func TestDisksAreMeasured(t *testing.T) {
	dir := t.TempDir()
	d, err := DiskOf(dir)
	if err != nil || d.Free <= 0 || d.Used < 0 || d.Used > 100 {
		t.Fatalf("%+v, %v", d, err)
	}
	for _, test := range []struct {
		says    string
		percent int
		needs   []Need
		status  Status
		message string
	}{
		{"there is enough", 100, []Need{{dir, 1}}, Healthy, "enough is free"},
		{"it is fuller than it should be", -1, []Need{{dir, 1}}, Degraded, "the disk of " + dir + " is used to"},
		{"there is not enough", -1, []Need{{dir, 1}, {dir, 1 << 60}}, Unhealthy, "MiB have to be"},
		{"it is not there", 100, []Need{{dir + "/none", 1}}, Unhealthy, "no such file"},
	} {
		if f := Disks(test.percent, test.needs...); f.Status != test.status || !strings.Contains(f.Message, test.message) {
			t.Errorf("%s: %+v", test.says, f)
		}
	}
}

// What the machine tells is read, and what it does not tell is no fault.
func TestTheMachineIsMeasured(t *testing.T) {
	if f := Memory(100); f.Status != Healthy || f.Metadata["machine"] == "" {
		t.Errorf("%+v", f)
	}
	if f := Memory(-1); f.Status != Degraded {
		t.Errorf("%+v", f)
	}
	if f := Pressure(); f.Status != Healthy || f.Message == "" {
		t.Errorf("%+v", f)
	}
	if f := Descriptors(); f.Status != Healthy || !strings.Contains(f.Message, " are open") {
		t.Errorf("%+v", f)
	}
	var p Processors
	if _, known := p.Look(); known {
		t.Error("something is known of the time before the first look")
	}
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
	}
	if percent, known := p.Look(); !known || percent < 1 || percent > 100 {
		t.Errorf("%d%%, %v", percent, known)
	}
}

// A check that takes all its time is not told as one that hangs, neither while it does nor between two
// looks: a database that is busy would have its room restarted.
func TestACheckThatTakesAllItsTime(t *testing.T) {
	for _, timeout := range []time.Duration{4500 * time.Millisecond, 5 * time.Second, 10 * time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			var begun atomic.Int32
			r := New(timeout, nil, Check{"busy", Critical, 5 * time.Second, timeout, func(ctx context.Context) Finding {
				begun.Add(1)
				<-ctx.Done()
				time.Sleep(grace / 2)
				return Well("busy")
			}})
			done := make(chan struct{})
			go func() { r.Run(ctx); close(done) }()
			time.Sleep(7 * time.Second)
			for range 10 * 60 {
				if now := r.Report(); !now.Live || !now.Ready {
					t.Fatalf("with %s: %q", timeout, now.Reasons)
				}
				time.Sleep(100 * time.Millisecond)
			}
			if n := begun.Load(); n < 8 {
				t.Errorf("with %s: looked %d times in 67 s", timeout, n)
			}
			stop()
			<-done
			time.Sleep(timeout)
		})
	}
}

// A jump is told for minutes, and no longer: whoever looks comes later.
func TestAJumpOfTheClockIsToldForAWhile(t *testing.T) {
	var c Clock
	began := time.Now()
	for _, look := range []struct {
		after, wall, ran time.Duration
		told             bool
	}{
		{0, 0, 0, false},
		{5 * time.Second, 24 * time.Hour, 5 * time.Second, true},
		{10 * time.Second, 5 * time.Second, 5 * time.Second, true},
		{4 * time.Minute, 230 * time.Second, 230 * time.Second, true},
		{6 * time.Minute, 2 * time.Minute, 2 * time.Minute, false},
		{7 * time.Minute, -24 * time.Hour, time.Minute, true},
	} {
		f := c.look(look.wall, look.ran, began.Add(look.after))
		if (f.Status == Degraded) != look.told {
			t.Errorf("after %s: %+v", look.after, f)
		}
	}
}
