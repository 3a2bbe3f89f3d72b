package launcher

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
)

var quickBreakers = Breakers{Enabled: true, Rules: policy.BreakerRules{Failures: 2, Successes: 1, Recovery: time.Minute, MaxRecovery: 5 * time.Minute, Multiplier: 1.5, Probes: 1}}

// someBreakers are breakers in a directory of their own, with a clock that the test has.
func someBreakers(t *testing.T, dir string) *breakers {
	t.Helper()
	b := newBreakers(quickBreakers, dir, slog.New(slog.NewTextHandler(io.Discard, nil)))
	b.random = func() float64 { return 0.5 }
	return b
}

func networks(texts ...string) (out []netip.Prefix) {
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// fails has scans fail that pass these, n of them.
func (b *breakers) fails(t *testing.T, now time.Time, n int, passes []breakerKey) {
	t.Helper()
	for range n {
		p, by := b.permit(now, passes)
		if by != nil {
			t.Fatalf("refused by %s", by.key)
		}
		p.back(now, failures(wire.Outcome{Reason: wire.Timeout}, nil), "", time.Second)
	}
}

func TestHowAScansEndCounts(t *testing.T) {
	both := func(why string) map[string]string { return map[string]string{"tool": why, "network": why} }
	for _, c := range []struct {
		o    wire.Outcome
		want map[string]string
	}{
		{wire.Outcome{Reason: wire.Exited}, both("")},
		{wire.Outcome{Reason: wire.Exited, Code: 3}, both("")},
		{wire.Outcome{Reason: wire.Exited, Code: 1}, both("bad_exit")},
		{wire.Outcome{Reason: wire.Signalled, Signal: 11}, both("signalled")},
		{wire.Outcome{Reason: wire.Timeout}, both("timeout")},
		{wire.Outcome{Reason: wire.Output}, both("output")},
		{wire.Outcome{Reason: wire.Memory}, both("memory")},
		{wire.Outcome{Reason: wire.Pids}, both("pids")},
		{wire.Outcome{Reason: wire.CPU}, both("cpu")},
		{wire.Outcome{Reason: wire.Violation}, both("violation")},
		{wire.Outcome{Reason: wire.Launch, Stage: "exec"}, map[string]string{"tool": "launch"}},
		{wire.Outcome{Reason: wire.Launch, Stage: "scanner"}, map[string]string{"tool": "launch"}},
		{wire.Outcome{Reason: wire.Launch, Stage: "scope"}, map[string]string{"tool": "launch"}},
		{wire.Outcome{Reason: wire.Launch, Stage: "command"}, nil},
		{wire.Outcome{Reason: wire.Launch, Stage: "outputs"}, nil},
		{wire.Outcome{Reason: wire.Launch, Stage: "audit"}, nil},
		{wire.Outcome{Reason: wire.Cancelled}, nil},
		{wire.Outcome{Reason: wire.Withdrawn}, nil},
		{wire.Outcome{Reason: wire.Shutdown}, nil},
		{wire.Outcome{Reason: wire.Refused}, nil},
		{wire.Outcome{Reason: wire.Interrupted}, nil},
		{wire.Outcome{Reason: wire.DiskFull}, nil},
		{wire.Outcome{Reason: wire.ScopeLost}, nil},
		{wire.Outcome{}, nil}, // the launch panicked
	} {
		if got := failures(c.o, []int{0, 3}); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s, status %d, stage %q: %v, want %v", c.o.Reason, c.o.Code, c.o.Stage, got, c.want)
		}
	}
}

func TestWhichBreakersRefuse(t *testing.T) {
	now := time.Unix(1<<30, 0)
	lab := keys("nmap_scan", networks("192.0.2.7/32", "198.51.100.0/25"))
	for _, c := range []struct {
		name   string
		passes []breakerKey
		by     string
	}{
		{"the tool that failed, elsewhere", keys("nmap_scan", networks("203.0.113.1/32")), "nmap_scan"},
		{"another tool in the network", keys("masscan_scan", networks("192.0.2.99/32")), "192.0.2.0/24"},
		{"another tool in another network of the scan", keys("masscan_scan", networks("203.0.113.1/32", "198.51.100.200/32")), "198.51.100.0/24"},
		{"another tool elsewhere", keys("masscan_scan", networks("203.0.113.1/32")), ""},
		{"another tool in a wider network", keys("masscan_scan", networks("192.0.0.0/16")), ""},
	} {
		b := someBreakers(t, t.TempDir())
		b.fails(t, now, 2, lab)
		by := b.stopped(now, c.passes, true)
		if got := by.refusal(); (got == nil) != (c.by == "") || got != nil && (got.Got != c.by || !got.Retryable || got.RetryAfterS < 60 || got.RetryAfterS > 70) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// A network that an operator holds open is closed to whatever lies in it or around it.
func TestANetworkThatIsHeldOpen(t *testing.T) {
	now := time.Unix(1<<30, 0)
	b := someBreakers(t, t.TempDir())
	if _, _, refused := b.force(now, breakerKey{network: netip.MustParsePrefix("10.0.0.0/16")}, true, 0); refused != nil {
		t.Fatal(refused)
	}
	for text, refused := range map[string]bool{"10.0.7.1/32": true, "10.0.0.0/8": true, "10.0.0.0/16": true, "10.1.0.0/24": false, "2001:db8::/64": false} {
		by := b.stopped(now, keys("nmap_scan", networks(text)), false)
		if (by != nil) != refused {
			t.Errorf("%s: refused by %+v", text, by)
		}
		if r := by.refusal(); r != nil && (r.RetryAfterS != 300 || !strings.Contains(r.Hint, "secmcpd breaker close 10.0.0.0/16")) {
			t.Errorf("%s: %+v", text, r)
		}
	}
	for i := range maxForced - 1 {
		if _, _, refused := b.force(now, breakerKey{network: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 0}), 24)}, true, 0); refused != nil {
			t.Fatal(i, refused)
		}
	}
	if _, _, refused := b.force(now, breakerKey{network: netip.MustParsePrefix("12.0.0.0/24")}, true, 0); refused == nil {
		t.Error("more are held open than may be")
	}
}

// Probes that end in any way, also those of a launch that panics, make room for others.
func TestPermitsAreGivenBack(t *testing.T) {
	now := time.Unix(1<<30, 0)
	for _, end := range []wire.Outcome{{Reason: wire.Cancelled}, {Reason: wire.Refused}, {Reason: wire.Launch, Stage: "audit"}, {Reason: wire.Shutdown}, {}} {
		b := someBreakers(t, t.TempDir())
		passes := keys("nmap_scan", networks("192.0.2.0/24"))
		b.fails(t, now, 2, passes)
		later := now.Add(2 * time.Minute)
		probe, by := b.permit(later, passes)
		if by != nil {
			t.Fatalf("refused by %s", by.key)
		}
		if _, by := b.permit(later, passes); by == nil || by.refusal().RetryAfterS != 5 {
			t.Errorf("a second probe: %+v", by.refusal())
		}
		if _, by := b.permit(later, keys("masscan_scan", networks("192.0.2.0/24"))); by == nil || by.key.String() != "192.0.2.0/24" {
			t.Errorf("a second probe of the network: %+v", by)
		}
		probe.back(later, failures(end, nil), "", time.Second)
		again, by := b.permit(later, passes)
		if by != nil {
			t.Errorf("after %q: refused by %s", end.Reason, by.key)
			continue
		}
		again.back(later, failures(wire.Outcome{Reason: wire.Exited}, []int{0}), "", time.Second)
		for _, k := range passes {
			if one := b.is[k]; one.In() != policy.BreakerClosed || one.Probes() != 0 {
				t.Errorf("after a probe that went well %s is %s with %d probes", k, one.In(), one.Probes())
			}
		}
	}
}

func TestBreakersOutliveTheirLauncher(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	b := someBreakers(t, dir)
	b.fails(t, now, 2, keys("nmap_scan", networks("192.0.2.0/24", "2001:db8::1/128")))
	b.fails(t, now, 1, keys("masscan_scan", networks("192.0.2.0/24")[:0]))
	b.stopped(now, keys("nmap_scan", nil), true)
	b.save()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != breakersName {
		t.Fatalf("%v, %v", left, err)
	}

	next := someBreakers(t, dir)
	if err := next.load(); err != nil {
		t.Fatal(err)
	}
	tools := []string{"masscan_scan", "nmap_scan"}
	told := next.told(now, tools)
	before, err := wire.Encode(new(b.told(now, tools)), wire.MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := wire.Encode(&told, wire.MaxMessage); err != nil || !bytes.Equal(before, after) {
		t.Errorf("they were %q and are %q, %v", before, after, err)
	}
	if told.Tools[1].State != "open" || told.Tools[1].Counts.Rejected != 1 || told.Tools[1].Counts.Failure != 2 || told.Tools[0].Failures != 1 || told.Open != 2 || told.OfNetworks.Failure != 4 {
		t.Errorf("%+v", told)
	}
	// A launcher that starts with a clock of years ago, or of years to come, leaves none open for ever.
	back := now.AddDate(-10, 0, 0)
	if by := next.stopped(back, keys("nmap_scan", nil), false); by == nil || by.refusal().RetryAfterS > 70 {
		t.Errorf("ten years ago: %+v", by.refusal())
	}
	next.look(back)
	if by := next.stopped(back.Add(70*time.Second), keys("nmap_scan", nil), false); by != nil {
		t.Errorf("ten years ago, after its time: %+v", by.refusal())
	}
	last := someBreakers(t, dir)
	if err := last.load(); err != nil {
		t.Fatal(err)
	}
	if by := last.stopped(now.AddDate(10, 0, 0), keys("nmap_scan", nil), false); by != nil {
		t.Errorf("in ten years: %+v", by.refusal())
	}
}

// Whatever the file is, the launcher starts: with what was kept, or with all of them closed and the file
// put aside.
func TestBreakersThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	b := someBreakers(t, dir)
	b.fails(t, time.Now(), 2, keys("nmap_scan", networks("192.0.2.0/24")))
	good, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"empty":            {},
		"another version":  bytes.Replace(good, []byte("breakers 1"), []byte("breakers 2"), 1),
		"cut off":          good[:len(good)-3],
		"longer":           append(slices.Clone(good), 0),
		"another state":    bytes.Replace(good, []byte("dopen"), []byte("dopem"), 1),
		"no network":       bytes.Replace(good, []byte("192.0.2.0/24"), []byte("192.0.2.0/99"), 1),
		"nothing of it":    bytes.Repeat([]byte{0xff}, 1000),
		"without its head": good[len(breakersHead):],
	} {
		if bytes.Equal(text, good) {
			t.Fatalf("%s: it is the good one", name)
		}
		if err := os.WriteFile(b.path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		next := someBreakers(t, dir)
		if err := next.load(); err == nil {
			t.Errorf("%s: it was read", name)
		}
		to, err := next.setAside()
		if kept, _ := os.ReadFile(to); err != nil || !bytes.Equal(kept, text) {
			t.Errorf("%s: put aside as %d bytes, %v", name, len(kept), err)
		}
		if by := next.stopped(time.Now(), keys("nmap_scan", nil), false); by != nil {
			t.Errorf("%s: refused by %s", name, by.key)
		}
		next.save()
	}
}

// A disk that takes nothing is told once, and the breakers go on; when it does again they are kept.
func TestBreakersThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	var log bytes.Buffer
	b := newBreakers(quickBreakers, dir, slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Now()
	b.fails(t, now, 2, keys("nmap_scan", networks("192.0.2.0/24")))
	b.save()
	b.stopped(now, keys("nmap_scan", nil), true)
	b.save()
	if n := strings.Count(log.String(), "cannot keep the breakers"); n != 1 {
		t.Errorf("told %d times: %s", n, &log)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.save()
	next := someBreakers(t, dir)
	if err := next.load(); err != nil || next.stopped(now, keys("nmap_scan", nil), false) == nil || !strings.Contains(log.String(), "kept again") {
		t.Errorf("%v: %s", err, &log)
	}
}

// What is no file is put aside, too, twice; and a launcher that is killed while a probe runs has room for
// another one when it is back.
func TestWhatIsNoFileIsPutAside(t *testing.T) {
	b := someBreakers(t, t.TempDir())
	for range 2 {
		if err := os.MkdirAll(filepath.Join(b.path, "something"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := b.load(); err == nil {
			t.Error("a directory was read")
		}
		if _, err := b.setAside(); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	b.fails(t, now, 2, keys("nmap_scan", nil))
	if _, by := b.permit(now.Add(2*time.Minute), keys("nmap_scan", nil)); by != nil {
		t.Fatalf("%+v", by.refusal())
	}
	b.save()
	next := someBreakers(t, filepath.Dir(b.path))
	if err := next.load(); err != nil {
		t.Fatal(err)
	}
	if one := next.is[breakerKey{tool: "nmap_scan"}]; one.In() != policy.BreakerHalfOpen {
		t.Errorf("it is %s", one.In())
	}
	if _, by := next.permit(now.Add(2*time.Minute), keys("nmap_scan", nil)); by != nil {
		t.Errorf("%+v", by.refusal())
	}
}

// However many networks fail, as many are kept as may be, and what was forgotten stays counted.
func TestNetworksAreBounded(t *testing.T) {
	b := someBreakers(t, t.TempDir())
	now := time.Unix(1<<30, 0)
	network := func(i int) breakerKey {
		return breakerKey{network: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}
	}
	b.force(now, network(0), true, 0)
	b.mu.Lock()
	for i := 1; i <= 3*maxNetworks; i++ {
		at := now.Add(time.Duration(i) * time.Second)
		one, p, _ := policy.Breaker{}.Permit(at, quickBreakers.Rules)
		for range 200 { // with all that one remembers
			one = one.Record(at, quickBreakers.Rules, p, policy.BreakerResult{Failed: fmt.Sprint("a reason ", i%20), Job: jobA}, 0).Close(at)
			one, p, _ = one.Permit(at, quickBreakers.Rules)
		}
		if i%2 == 0 { // half of them fail twice
			one = one.Record(at, quickBreakers.Rules, p, policy.BreakerResult{Failed: "timeout", Job: jobA}, 0).Record(at, quickBreakers.Rules, p, policy.BreakerResult{Failed: "timeout", Job: jobA}, 0)
		}
		b.putLocked(network(i), one)
	}
	b.mu.Unlock()
	if len(b.is) != maxNetworks {
		t.Errorf("%d are kept", len(b.is))
	}
	if !b.is[network(0)].Forced {
		t.Error("what an operator holds open was forgotten")
	}
	open := 0
	for _, one := range b.is {
		if one.In() == policy.BreakerOpen {
			open++
		}
	}
	if open < maxNetworks-2 {
		t.Errorf("%d of them are open: others were forgotten first", open)
	}
	if told := b.told(now, nil); told.OfNetworks.Failure != 3*maxNetworks*200+3*maxNetworks {
		t.Errorf("%d failures are counted", told.OfNetworks.Failure)
	}
	b.save()
	info, err := os.Stat(b.path)
	if err != nil || info.Size() > maxBreakers {
		t.Fatalf("%v, %v", info, err)
	}
	next := someBreakers(t, filepath.Dir(b.path))
	if err := next.load(); err != nil || len(next.is) != maxNetworks {
		t.Errorf("%d are restored: %v", len(next.is), err)
	}
	t.Logf("the file has %d bytes", info.Size())
	// What the state says of them, with as many tools, takes a part of its packet.
	var tools []string
	for i := range 2 * wire.MaxBreakers {
		tools = append(tools, fmt.Sprintf("%s_%02d_scan", strings.Repeat("x", 40), i))
		b.is[breakerKey{tool: tools[i]}] = b.is[network(3*maxNetworks)]
	}
	told := b.told(now, tools)
	text, err := wire.Encode(&told, wire.MaxMessage)
	if err != nil || len(text) > 40<<10 || len(told.Tools) != wire.MaxBreakers || len(told.Networks) != wire.MaxBroken {
		t.Errorf("%d bytes for %d tools and %d networks: %v", len(text), len(told.Tools), len(told.Networks), err)
	}
	t.Logf("the state has %d bytes of them", len(text))
	seen := 0
	for after := ""; ; {
		page := b.list(now, tools, after)
		if text, err := wire.Encode(page, wire.MaxMessage); err != nil || page.Total != len(b.is) {
			t.Fatalf("%d bytes, %d in all: %v", len(text), page.Total, err)
		}
		seen += len(page.Breakers)
		if after = page.Next; after == "" {
			break
		}
	}
	if seen != len(b.is) {
		t.Errorf("%d of %d are listed", seen, len(b.is))
	}
	b.look(now.Add(forgetAfter + 10*time.Hour))
	for k, one := range b.is {
		if k.tool == "" && one.In() == policy.BreakerClosed {
			t.Errorf("%s is kept", k)
		}
	}
}

// Whatever comes together, no more probes are under way than may, and every permit comes back.
func TestBreakersWithManyAtOnce(t *testing.T) {
	b := someBreakers(t, t.TempDir())
	b.cfg.Load().Rules.Recovery, b.cfg.Load().Rules.MaxRecovery, b.cfg.Load().Rules.Probes = time.Millisecond, 2*time.Millisecond, 2
	passes := keys("nmap_scan", networks("192.0.2.0/24", "2001:db8::/64"))
	var all sync.WaitGroup
	for worker := range 16 {
		all.Go(func() {
			for i := range 60 {
				p, by := b.permit(time.Now(), passes)
				b.mu.Lock()
				for k, one := range b.is {
					if one.Probes() > 2 || one.Probes() < 0 {
						t.Errorf("%s has %d probes", k, one.Probes())
					}
				}
				b.mu.Unlock()
				if by != nil {
					time.Sleep(200 * time.Microsecond)
					continue
				}
				time.Sleep(time.Duration(i%5) * 100 * time.Microsecond)
				end := []wire.Outcome{{Reason: wire.Timeout}, {Reason: wire.Exited}, {Reason: wire.Cancelled}, {}}[(worker+i)%4]
				p.back(time.Now(), failures(end, []int{0}), jobA, time.Millisecond)
				if i%20 == worker {
					b.force(time.Now(), passes[i%3], i%2 == 0, time.Millisecond)
				}
				b.look(time.Now())
			}
		})
	}
	all.Wait()
	for k, one := range b.is {
		if one.Probes() != 0 {
			t.Errorf("%s: %d permits did not come back", k, one.Probes())
		}
	}
}

// Of a scan of many networks the failure counts for some.
func TestOneScanDoesNotFillTheBreakers(t *testing.T) {
	b := someBreakers(t, t.TempDir())
	var wide []netip.Prefix
	for i := range 300 {
		wide = append(wide, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 9}), 32))
	}
	b.fails(t, time.Unix(1<<30, 0), 1, keys("nmap_scan", wide))
	if len(b.is) != 1+maxCounted {
		t.Errorf("%d breakers", len(b.is))
	}
}

// The whole way: scans that fail open the breakers of their tool and of their network, a restart
// forgives nothing, previews and capabilities say so, an operator closes them, and all is on the record.
func TestScansThatFailAreRefused(t *testing.T) {
	h := newHouse(t)
	h.cfg.Live.Breakers, h.cfg.Live.Limits.Output = quickBreakers, 64 // bytes: whatever is scanned ends by that limit
	admin := filepath.Join(filepath.Dir(h.cfg.FrontSocket), "admin.sock")
	listen := func() {
		t.Helper()
		var err error
		os.Remove(admin)
		if h.cfg.Operators, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: admin, Net: "unixpacket"}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.cfg.Operators.Close() })
	}
	listen()
	h.open()
	handle, _ := h.client()
	const jobD = "dddddddddddddddddddddddddd"
	const wide = `{"targets":["10.77.1.0/24"],"ports":[22,23,24],"host_timeout":5,"limit":10}`
	for _, id := range []string{jobA, jobB} {
		h.accepted(handle, id, wide)
		if end := h.endOf(id); end.Outcome.Reason != wire.Output {
			t.Fatalf("%+v", end.Outcome)
		}
	}
	refusedBy := func(r *wire.Refusal, name string) {
		t.Helper()
		if r == nil || r.Code != "breaker_open" || r.Got != name || !r.Retryable || r.RetryAfterS < 40 || r.RetryAfterS > 72 || !strings.Contains(r.Reason, "2 scans in a row failed, the last one by output") {
			t.Fatalf("%+v", r)
		}
	}
	refusedBy(h.start(handle, jobC, value(t, wide)), "nmap_scan")

	h.close()
	h.conn, h.cfg.Live.Limits.Output = nil, 8<<20
	listen()
	h.open()
	handle, _ = h.client()
	refusedBy(h.start(handle, jobC, value(t, wide)), "nmap_scan")
	shown := h.reply(func(seq uint64) wire.Message {
		return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: handle, Value: value(t, wide)}}
	}).Preview
	refusedBy(shown.Refused, "nmap_scan")
	if c := h.ask(handle).Capabilities; len(c.Refusing) != 2 || c.Refusing[0].Breaker != "nmap_scan" || c.Refusing[1].Breaker != "10.77.1.0/24" || c.Refusing[1].RetryAfterS < 40 {
		t.Errorf("%+v", c.Refusing)
	}

	order := func(o wire.BreakerOrder) wire.Answer {
		t.Helper()
		a, err := wire.Give(t.Context(), admin, wire.Order{Breaker: &o})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := order(wire.BreakerOrder{Do: wire.BreakerClose, Name: "nmap_scan"}); a.Breaker == nil || a.Breaker.Breaker.State != "closed" || len(a.Breaker.History) != 2 {
		t.Errorf("%+v", a)
	}
	// The tool may; the network is known once it is decided where the scan goes.
	h.accepted(handle, jobC, wide)
	end := h.endOf(jobC)
	refusedBy(end.Outcome.Refused, "10.77.1.0/24")
	if !end.Started.IsZero() {
		t.Error("it was launched")
	}
	h.conn.Send(wire.Message{Ack: &wire.Ack{Job: jobC}})
	if a := order(wire.BreakerOrder{Do: wire.BreakerClose, Name: "10.77.1.77"}); a.Breaker == nil || a.Breaker.Breaker.Name != "10.77.1.0/24" {
		t.Errorf("%+v", a)
	}
	h.accepted(handle, jobD, `{"targets":["10.77.1.10"],"ports":[22],"host_timeout":5,"limit":10}`)
	if end := h.endOf(jobD); end.Outcome.Reason != wire.Exited {
		t.Errorf("%+v", end.Outcome)
	}
	a := order(wire.BreakerOrder{Do: wire.BreakerShow, Name: "nmap_scan"})
	if b := a.Breaker; b == nil || b.Breaker.Counts.Success != 1 || b.Breaker.Counts.Failure != 2 || b.Breaker.Counts.Rejected != 2 || b.SuccessRate < 0.3 || b.SuccessRate > 0.4 ||
		len(b.Recent) != 2 || b.Recent[1].Job != jobB || b.Recent[1].Reason != wire.Output || b.AverageMS < 1 {
		t.Errorf("%+v", b)
	}
	if a := order(wire.BreakerOrder{Do: wire.BreakerOpen, Name: "masscan_scan", ForS: 60}); a.Breaker == nil || !a.Breaker.Breaker.Forced || a.Breaker.Breaker.RetryAfterS != 60 {
		t.Errorf("%+v", a)
	}
	for _, name := range []string{"nobody", "", "10.77.1.0/33", "::ffff:10.77.1.1", "fe80::1%lo"} {
		if a := order(wire.BreakerOrder{Do: wire.BreakerOpen, Name: name}); a.Refused == nil || a.Refused.Code != "no_such_breaker" {
			t.Errorf("%q: %+v", name, a)
		}
	}
	h.close()

	var changes []string
	for _, r := range auditRecords(t, h) {
		if r.Event != observability.Breaker {
			continue
		}
		by := ""
		if r.Caller != nil {
			by = fmt.Sprint(" by ", r.Caller.UID)
		}
		changes = append(changes, fmt.Sprintf("%s %s-%s %s%s", r.Breaker.Name, r.Breaker.From, r.Breaker.To, r.Breaker.Why, by))
	}
	want := []string{"nmap_scan closed-open failures", "10.77.1.0/24 closed-open failures", "nmap_scan open-closed operator by 0", "10.77.1.0/24 open-closed operator by 0", "masscan_scan closed-open operator by 0"}
	if !slices.Equal(changes, want) {
		t.Errorf("on the record: %q", changes)
	}
}
