package launcher

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/policy"
)

// Breakers is what the launcher is told of its breakers. The zero value: there are none.
type Breakers struct {
	Enabled bool
	Rules   policy.BreakerRules            // of networks, and of tools without rules of their own
	Tools   map[string]policy.BreakerRules // by tool
}

const (
	breakersName = "breakers"
	breakersHead = "secmcpd breakers 1\n" // before them in CBOR; its number changes with what is kept
	maxBreakers  = 8 << 20                // bytes of the file

	// maxNetworks bounds the networks that have a breaker, maxCounted those of one scan for which its
	// failure counts.
	maxNetworks = 1024
	maxCounted  = 16
	// maxNetworkMoments is how many of its changes a network's breaker remembers.
	maxNetworkMoments = 20
	// forgetAfter is how long the breaker of a network is kept that is closed and does not fail.
	forgetAfter = 24 * time.Hour

	// breakersEvery is how often the time moves breakers that nobody asks, and their counts are kept.
	breakersEvery = time.Second
)

// breakers has one breaker for each tool, and one for each network of targets in which scans have
// failed. What they are is kept in a file, so that a restart forgives nothing.
type breakers struct {
	cfg    atomic.Pointer[Breakers]
	path   string
	log    *slog.Logger
	tell   func(key breakerKey, change policy.BreakerMoment) // of each change, in order; no lock is held
	random func() float64                                    // 0 to 1

	mu        sync.Mutex
	is        map[breakerKey]policy.Breaker
	forgotten policy.BreakerCounts // of networks whose breakers are not kept any more
	changed   bool                 // since the file was written
	saving    sync.Mutex           // before mu: one file at a time
	unsaved   string               // why the file could not be written, as it was last told
}

// breakerKey is what has a breaker: a tool, or a network.
type breakerKey struct {
	tool    string
	network netip.Prefix // where tool is empty
}

func (k breakerKey) String() string {
	if k.tool != "" {
		return k.tool
	}
	return k.network.String()
}

func (k breakerKey) kind() string {
	if k.tool != "" {
		return wire.BreakerOfTool
	}
	return wire.BreakerOfNetwork
}

// order has tools before networks, and each by name.
func (k breakerKey) order(o breakerKey) int {
	return cmp.Or(cmp.Compare(k.kind(), o.kind())*-1, strings.Compare(k.tool, o.tool), k.network.Compare(o.network))
}

func newBreakers(cfg Breakers, stateDir string, log *slog.Logger) *breakers {
	b := &breakers{path: filepath.Join(stateDir, breakersName), log: log, random: rand.Float64, is: map[breakerKey]policy.Breaker{},
		tell: func(breakerKey, policy.BreakerMoment) {}}
	b.change(cfg)
	return b
}

// change has other rules from now on. What is open stays so for as long as it was said.
func (b *breakers) change(cfg Breakers) { b.cfg.Store(&cfg) }

func (b *breakers) rules(k breakerKey) policy.BreakerRules {
	cfg := b.cfg.Load()
	if r, own := cfg.Tools[k.tool]; own && k.tool != "" {
		return r
	}
	return cfg.Rules
}

// keys are the breakers that a scan passes.
func keys(tool string, addresses []netip.Prefix) (all []breakerKey) {
	all = append(all, breakerKey{tool: tool})
	for _, n := range policy.Networks(addresses) {
		all = append(all, breakerKey{network: n})
	}
	return all
}

// moved is a breaker that has changed, for tell.
type moved struct {
	key   breakerKey
	since []policy.BreakerMoment
}

// putLocked keeps a breaker as it is now. What has changed is returned, to be told without the lock.
func (b *breakers) putLocked(k breakerKey, now policy.Breaker) (out []moved) {
	was := b.is[k]
	if n := int(min(now.Age-was.Age, uint64(len(now.History)))); n > 0 {
		out = []moved{{k, now.History[len(now.History)-n:]}}
	}
	if k.tool == "" {
		now.History = now.History[max(len(now.History)-maxNetworkMoments, 0):]
	}
	if _, kept := b.is[k]; !kept && k.tool == "" {
		b.makeRoomLocked()
	}
	b.is[k], b.changed = now, true
	return out
}

// makeRoomLocked forgets a network where as many are kept as may be: of those that are closed the one
// that failed longest ago, else one that is open for the shortest time. What an operator holds open is
// kept: there can be only half as many.
func (b *breakers) makeRoomLocked() {
	var worst breakerKey
	networks := 0
	rank := func(k breakerKey) (int, time.Time) {
		switch one := b.is[k]; {
		case one.Forced:
			return 3, time.Time{}
		case one.In() == policy.BreakerClosed:
			return 0, one.Failed().At
		case one.In() == policy.BreakerHalfOpen:
			return 1, one.Since
		default:
			return 2, one.Until
		}
	}
	for k := range b.is {
		if k.tool != "" {
			continue
		}
		networks++
		if worst == (breakerKey{}) {
			worst = k
			continue
		}
		kind, at := rank(k)
		worstKind, worstAt := rank(worst)
		if cmp.Or(kind-worstKind, at.Compare(worstAt), k.order(worst)) < 0 {
			worst = k
		}
	}
	if networks >= maxNetworks {
		b.forgetLocked(worst)
	}
}

func (b *breakers) forgetLocked(k breakerKey) {
	b.forgotten = b.forgotten.Add(b.is[k].Counts)
	delete(b.is, k)
}

func (b *breakers) announce(all []moved) {
	for _, m := range all {
		for _, change := range m.since {
			b.tell(m.key, change)
		}
	}
}

// permits are what a scan has been let through by. They are given back once.
type permits struct {
	of  *breakers
	all map[breakerKey]policy.Permit
}

// stops is the breaker that refuses a scan, and how it refuses.
type stops struct {
	key   breakerKey
	is    policy.Breaker
	rules policy.BreakerRules
	retry time.Duration
}

// refusingLocked is the first breaker that refuses whoever passes these. Of networks an operator's
// counts for all that lies in it, and around it.
func (b *breakers) refusingLocked(now time.Time, passes []breakerKey) (breakerKey, bool) {
	for _, k := range passes {
		if one, kept := b.is[k]; kept && !one.At(now, b.rules(k)).Admits(b.rules(k)) {
			return k, true
		}
	}
	var held []breakerKey
	for k, one := range b.is {
		if k.tool == "" && one.Forced && one.At(now, b.rules(k)).In() == policy.BreakerOpen {
			held = append(held, k)
		}
	}
	slices.SortFunc(held, breakerKey.order)
	for _, h := range held {
		if slices.ContainsFunc(passes, func(k breakerKey) bool { return k.tool == "" && k.network.Overlaps(h.network) }) {
			return h, true
		}
	}
	return breakerKey{}, false
}

// stopsLocked is what refuses whoever passes these; counts: it does, and that is counted.
func (b *breakers) stopsLocked(now time.Time, passes []breakerKey, counts bool) (*stops, []moved) {
	k, is := b.refusingLocked(now, passes)
	if !is {
		return nil, nil
	}
	var told []moved
	rules := b.rules(k)
	one := b.is[k].At(now, rules)
	if counts {
		one = one.Reject()
		told = b.putLocked(k, one)
	}
	return &stops{key: k, is: one, rules: rules, retry: one.RetryAfter(now, rules, b.random())}, told
}

// stopped says which breaker would refuse a scan now. counts: it is refused, and that is counted.
func (b *breakers) stopped(now time.Time, passes []breakerKey, counts bool) *stops {
	if !b.cfg.Load().Enabled {
		return nil
	}
	b.mu.Lock()
	by, told := b.stopsLocked(now, passes, counts)
	b.mu.Unlock()
	b.announce(told)
	return by
}

// permit lets a scan through all of these, or through none.
func (b *breakers) permit(now time.Time, passes []breakerKey) (permits, *stops) {
	p := permits{of: b, all: map[breakerKey]policy.Permit{}}
	if !b.cfg.Load().Enabled {
		return p, nil
	}
	b.mu.Lock()
	by, told := b.stopsLocked(now, passes, true)
	for i, k := range passes {
		one, kept := b.is[k]
		if by != nil || !kept && k.tool == "" && i > maxCounted { // its breaker would begin with this scan's failure
			continue
		}
		next, permit, _ := one.Permit(now, b.rules(k))
		if kept || k.tool != "" {
			told = append(told, b.putLocked(k, next)...)
		}
		p.all[k] = permit
	}
	b.mu.Unlock()
	b.announce(told)
	return p, by
}

// back gives the permits back, with how the scan ended. failed is why each kind of breaker counts a
// failure, empty where it went well; the kinds that are not in it have learned nothing.
func (p permits) back(now time.Time, failed map[string]string, job string, took time.Duration) {
	b := p.of
	if len(p.all) == 0 {
		return
	}
	b.mu.Lock()
	var told []moved
	keep := false
	for _, k := range slices.SortedFunc(maps.Keys(p.all), breakerKey.order) {
		one, kept := b.is[k]
		why, learned := failed[k.kind()]
		switch {
		case !kept && k.tool == "" && why == "": // a network that never failed has none
		case !learned:
			told = append(told, b.putLocked(k, one.Release(p.all[k]))...)
		default:
			keep = keep || why != ""
			told = append(told, b.putLocked(k, one.Record(now, b.rules(k), p.all[k], policy.BreakerResult{Failed: why, Job: job, Took: took}, 2*b.random()-1))...)
		}
	}
	b.mu.Unlock()
	b.announce(told)
	if keep || len(told) > 0 {
		b.save()
	}
}

// look moves what the time moves, and forgets networks that have been well for long.
func (b *breakers) look(now time.Time) {
	b.mu.Lock()
	var told []moved
	for k, one := range b.is {
		if next := one.At(now, b.rules(k)); next.Age != one.Age || !next.Until.Equal(one.Until) { // its time is over, or the clock was set back
			told = append(told, b.putLocked(k, next)...)
		}
		if k.tool == "" && one.In() == policy.BreakerClosed && now.Sub(later(one.Failed().At, one.Since)) > forgetAfter {
			b.forgetLocked(k)
			b.changed = true
		}
	}
	b.mu.Unlock()
	b.announce(told)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// keptBreakers is the file.
type keptBreakers struct {
	Breakers  []keptBreaker        `cbor:"breakers,omitempty"`
	Forgotten policy.BreakerCounts `cbor:"forgotten"`
}

type keptBreaker struct {
	Tool    string         `cbor:"tool,omitempty"`
	Network string         `cbor:"network,omitempty"`
	Breaker policy.Breaker `cbor:"breaker"`
}

// load restores what was kept. With an error there is a file that cannot be read, and all are closed.
func (b *breakers) load() error {
	data, err := readTrusted(b.path, maxBreakers)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	body, is := bytes.CutPrefix(data, []byte(breakersHead))
	if !is {
		return fmt.Errorf("it does not begin with %q", strings.TrimSpace(breakersHead))
	}
	var kept keptBreakers
	if err := wire.Decode(body, maxBreakers, &kept); err != nil {
		return err
	}
	is_ := map[breakerKey]policy.Breaker{}
	for _, k := range kept.Breakers {
		key := breakerKey{tool: k.Tool}
		if k.Tool == "" {
			if key.network, err = netip.ParsePrefix(k.Network); err != nil {
				return fmt.Errorf("a network: %w", err)
			}
		}
		if !k.Breaker.Known() || len(is_) >= 2*maxNetworks {
			return fmt.Errorf("the breaker of %.40q is of no form that is known", key)
		}
		is_[key] = k.Breaker
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.is, b.forgotten = is_, kept.Forgotten
	return nil
}

// setAside takes a file that cannot be read out of the way, and says where it is: in place of one that was
// put there before.
func (b *breakers) setAside() (string, error) {
	to := b.path + ".broken"
	if err := os.RemoveAll(to); err != nil {
		return "", fmt.Errorf("cannot put the breakers' file aside: %w", err)
	}
	if err := os.Rename(b.path, to); err != nil {
		return "", fmt.Errorf("cannot put the breakers' file aside: %w", err)
	}
	return to, syncDir(filepath.Dir(b.path))
}

// save writes the file whole, if anything has changed since it was. What cannot be written is told
// once, and tried again by whoever saves next.
func (b *breakers) save() {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	if !b.changed {
		b.mu.Unlock()
		return
	}
	kept := keptBreakers{Forgotten: b.forgotten}
	for _, k := range slices.SortedFunc(maps.Keys(b.is), breakerKey.order) {
		one := keptBreaker{Tool: k.tool, Breaker: b.is[k]}
		if k.tool == "" {
			one.Network = k.network.String()
		}
		kept.Breakers = append(kept.Breakers, one)
	}
	b.changed = false
	b.mu.Unlock()
	err := b.write(kept)
	switch {
	case err != nil:
		b.mu.Lock()
		b.changed = true
		b.mu.Unlock()
		if err.Error() != b.unsaved {
			b.log.Error("cannot keep the breakers: after a restart they are as they were last kept", "why", err)
		}
		b.unsaved = err.Error()
	case b.unsaved != "":
		b.log.Info("the breakers are kept again")
		b.unsaved = ""
	}
}

func (b *breakers) write(kept keptBreakers) error {
	body, err := wire.Encode(&kept, maxBreakers)
	if err != nil {
		return err
	}
	temp := b.path + ".new"
	if err := writeSynced(temp, append([]byte(breakersHead), body...)); err != nil {
		return err
	}
	if err := os.Rename(temp, b.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(b.path))
}

// openBreakers restores the breakers of the life before.
func (l *Launcher) openBreakers() error {
	l.breakers.tell = l.breakerChanged
	err := l.breakers.load()
	if err == nil {
		return nil
	}
	to, aside := l.breakers.setAside()
	if aside != nil {
		l.log.Error("the breakers' file stays where it is, and is written over", "why", aside)
	}
	l.log.Error("the breakers' file cannot be read; it is put aside and all begin closed", journal.Key, journal.StateSetAside, "why", err, "to", to)
	return l.audit.Note(observability.Record{Event: observability.Unreadable, Reason: clip("breakers: " + err.Error())})
}

// followBreakers keeps them and moves them with the time, until ctx ends.
func (l *Launcher) followBreakers(ctx context.Context) error {
	tick := time.NewTicker(breakersEvery)
	defer tick.Stop()
	defer l.breakers.save()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			l.breakers.look(now)
			l.breakers.save()
		}
	}
}

// breakerChanged puts a change on the record. An operator's is there with who gave the order.
func (l *Launcher) breakerChanged(k breakerKey, m policy.BreakerMoment) {
	l.stateChanged()
	args := []any{"breaker", k.String(), "from", m.From, "to", m.To, "why", m.Why}
	switch m.To {
	case policy.BreakerOpen:
		l.log.Warn("a breaker has opened", append(args, journal.Key, journal.BreakerOpened)...)
	case policy.BreakerClosed:
		l.log.Info("a breaker has closed", append(args, journal.Key, journal.BreakerClosed)...)
	default:
		l.log.Info("a breaker has changed", args...)
	}
	if m.Why != policy.WhyOperator {
		l.note(observability.Record{Event: observability.Breaker, Breaker: &observability.BreakerChange{Name: k.String(), From: string(m.From), To: string(m.To), Why: m.Why}})
	}
}

// broken refuses a scan whose tool's breaker is open, or, once it is known where it goes, one of its
// networks'. counts is as in stopped.
func (l *Launcher) broken(tool string, addresses []netip.Prefix, counts bool) *wire.Refusal {
	return l.breakers.stopped(time.Now(), keys(tool, addresses), counts).refusal()
}

// refusal says which breaker refuses, why, and when to ask again.
func (s *stops) refusal() *wire.Refusal {
	if s == nil {
		return nil
	}
	name := s.key.String()
	r := &wire.Refusal{Code: "breaker_open", Field: "targets", Got: name, Rule: "breaker " + name, Retryable: true, RetryAfterS: wholeSeconds(s.retry),
		Reason: "the breaker of " + name + " is open", Hint: "ask again in " + seconds(s.retry) + " seconds"}
	if s.key.tool != "" {
		r.Field = "tool"
	}
	failed := s.is.Failed()
	switch {
	case s.is.Forced:
		r.Reason = "an operator holds the breaker of " + name + " open"
		if s.retry == 0 {
			r.RetryAfterS = wholeSeconds(s.rules.MaxRecovery)
			r.Hint = "wait until the operator has closed it (`secmcpd breaker close " + name + "`)"
		}
	case s.is.In() == policy.BreakerHalfOpen:
		r.Reason = fmt.Sprintf("the breaker of %s is half open, and as many scans as may (%d) are trying it", name, s.rules.Probes)
	case s.is.Failures > 0:
		r.Reason += fmt.Sprintf(": %d scans in a row failed, the last one by %s", s.is.Failures, failed.Reason)
	}
	return r
}

// tried launches a scan through its breakers and tells them what became of it. Whatever happens, its
// permits are given back.
func (l *Launcher) tried(j *job, launch func() wire.Outcome) (o wire.Outcome) {
	through, by := l.breakers.permit(time.Now(), keys(j.call.Tool, j.decided().Addresses()))
	if by != nil {
		return denied(l.noted(j, by.refusal()))
	}
	began := time.Now()
	defer func() {
		took := time.Since(began)
		through.back(time.Now(), failures(o, l.statuses(j)), j.record.ID, took)
		if o.Reason == wire.Exited {
			l.tempo.learn(j.call.Tool, took, j.hoped())
		}
	}()
	return launch()
}

// badExit is why a scanner's own end counts as a failure.
const badExit = "bad_exit"

// failures is how a scan's end counts for the breakers of each kind: why it failed, empty where it
// went well. A kind that is not in it learns nothing: the scan was cancelled or refused, or ended with
// the launcher, for want of disk or for what was asked. What was never launched says nothing of a
// network.
func failures(o wire.Outcome, statuses []int) map[string]string {
	both := func(why string) map[string]string {
		return map[string]string{wire.BreakerOfTool: why, wire.BreakerOfNetwork: why}
	}
	switch o.Reason {
	case wire.Exited:
		if !slices.Contains(statuses, o.Code) {
			return both(badExit)
		}
		return both("")
	case wire.Timeout, wire.Output, wire.Memory, wire.Pids, wire.CPU, wire.Signalled, wire.Violation:
		return both(o.Reason)
	case wire.Launch:
		if !slices.Contains([]string{"command", "connections", "segment", "outputs", "audit", "gate"}, o.Stage) {
			return map[string]string{wire.BreakerOfTool: o.Reason}
		}
	}
	return nil
}

// statuses are the exit statuses of a scan that went well.
func (l *Launcher) statuses(j *job) []int {
	if d := l.now().Tools.Declaration(j.call.Tool); d != nil {
		return d.Output.Statuses
	}
	return []int{0}
}
