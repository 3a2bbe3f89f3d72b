package launcher

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
)

// What the launcher says of its breakers, and what an operator does to them.

// snapshot is all breakers as they are now, sorted, and the counts of the networks that are forgotten.
// Every tool is among them.
func (b *breakers) snapshot(now time.Time, tools []string) (all []breakerKey, is map[breakerKey]policy.Breaker, forgotten policy.BreakerCounts) {
	b.mu.Lock()
	is, forgotten = maps.Clone(b.is), b.forgotten
	b.mu.Unlock()
	for _, t := range tools {
		k := breakerKey{tool: t}
		if _, kept := is[k]; !kept {
			is[k] = policy.Breaker{}
		}
	}
	for k, one := range is {
		is[k] = one.At(now, b.rules(k))
	}
	return slices.SortedFunc(maps.Keys(is), breakerKey.order), is, forgotten
}

// told is what the launcher's state says of them.
func (b *breakers) told(now time.Time, tools []string) wire.Breakers {
	out := wire.Breakers{Enabled: b.cfg.Load().Enabled}
	all, is, sum := b.snapshot(now, tools)
	for _, k := range all {
		one := is[k]
		if k.tool != "" {
			if len(out.Tools) < wire.MaxBreakers && slices.Contains(tools, k.tool) {
				out.Tools = append(out.Tools, b.onWire(now, k, one))
			}
			continue
		}
		sum = sum.Add(one.Counts)
		switch one.In() {
		case policy.BreakerClosed:
			out.Closed++
			continue
		case policy.BreakerOpen:
			out.Open++
		case policy.BreakerHalfOpen:
			out.HalfOpen++
		}
		if len(out.Networks) < wire.MaxBroken {
			out.Networks = append(out.Networks, b.onWire(now, k, one))
		}
	}
	out.OfNetworks = countsOnWire(sum)
	return out
}

func (b *breakers) onWire(now time.Time, k breakerKey, one policy.Breaker) wire.Breaker {
	last := one.Failed()
	return wire.Breaker{Name: k.String(), Kind: k.kind(), State: string(one.In()), Forced: one.Forced, Since: one.Since,
		RetryAfterS: wholeSeconds(one.RetryAfter(now, b.rules(k), 0)), Failures: one.Failures, Successes: one.Successes, Probes: one.Probes(),
		Reason: last.Reason, Failed: last.At, Succeeded: one.Succeeded, Counts: countsOnWire(one.Counts)}
}

func countsOnWire(c policy.BreakerCounts) wire.BreakerCounts {
	out := wire.BreakerCounts{Success: c.Success, Failure: c.Failure, Rejected: c.Rejected}
	for _, n := range c.Changes {
		out.Changes = append(out.Changes, wire.BreakerChanges{From: string(n.From), To: string(n.To), Count: n.Count})
	}
	slices.SortFunc(out.Changes, func(a, b wire.BreakerChanges) int {
		return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
	})
	return out
}

// detail is all that is kept of one.
func (b *breakers) detail(now time.Time, k breakerKey, one policy.Breaker) wire.BreakerDetail {
	r := b.rules(k)
	d := wire.BreakerDetail{Breaker: b.onWire(now, k, one), Threshold: r.Failures, SuccessThreshold: r.Successes, RecoveryS: wholeSeconds(r.Recovery),
		CurrentS: wholeSeconds(cmp.Or(one.Recovery, r.Recovery)), MaxRecoveryS: wholeSeconds(r.MaxRecovery), Multiplier: r.Multiplier, Probes: r.Probes}
	if n := one.Counts.Success + one.Counts.Failure; n > 0 {
		d.SuccessRate = float64(one.Counts.Success) / float64(n)
		d.AverageMS = one.Took.Milliseconds() / int64(n)
	}
	for _, reason := range one.Reasons {
		d.Reasons = append(d.Reasons, wire.BreakerReason(reason))
	}
	slices.SortStableFunc(d.Reasons, func(a, b wire.BreakerReason) int { return cmp.Compare(b.Count, a.Count) })
	for _, f := range one.Recent {
		d.Recent = append(d.Recent, wire.BreakerFailed(f))
	}
	for _, m := range one.History {
		d.History = append(d.History, wire.BreakerMoment{At: m.At, From: string(m.From), To: string(m.To), Why: m.Why})
	}
	return d
}

// refusing are the breakers that would refuse a scan of this caller now.
func (l *Launcher) refusing(p *policy.Policy, caller policy.Caller, now time.Time) (out []wire.Refusing) {
	if !l.breakers.cfg.Load().Enabled {
		return nil
	}
	touches := func(n netip.Prefix) bool {
		return slices.ContainsFunc(p.Engagements, func(e policy.Engagement) bool { return e.Names(caller) && e.Touches(n) })
	}
	all, is, _ := l.breakers.snapshot(now, nil)
	for _, k := range all {
		one, rules := is[k], l.breakers.rules(k)
		if len(out) == wire.MaxRefusing || one.Admits(rules) || k.tool == "" && !touches(k.network) || k.tool != "" && !slices.Contains(l.now().Tools.Names(), k.tool) {
			continue
		}
		r := (&stops{key: k, is: one, rules: rules, retry: one.RetryAfter(now, rules, 0)}).refusal()
		out = append(out, wire.Refusing{Breaker: k.String(), State: string(one.In()), RetryAfterS: r.RetryAfterS, Reason: r.Reason})
	}
	return out
}

// maxForced bounds the networks that operators hold open at once.
const maxForced = maxNetworks / 2

// orderBreaker carries out an operator's order.
func (l *Launcher) orderBreaker(who wire.Client, o wire.BreakerOrder) wire.Answer {
	now := time.Now()
	if o.Do == wire.BreakerList {
		return wire.Answer{Breakers: l.breakers.list(now, l.now().Tools.Names(), o.After)}
	}
	k, refused := l.breakerNamed(o.Name)
	if refused != nil {
		return wire.Answer{Refused: refused}
	}
	switch o.Do {
	case wire.BreakerShow:
		_, is, _ := l.breakers.snapshot(now, l.now().Tools.Names())
		one, kept := is[k]
		if !kept {
			return wire.Answer{Refused: unknownBreaker(o.Name, "no scan has failed in this network")}
		}
		d := l.breakers.detail(now, k, one)
		return wire.Answer{Breaker: &d}
	case wire.BreakerOpen, wire.BreakerClose:
		if !l.breakers.cfg.Load().Enabled {
			return wire.Answer{Refused: &wire.Refusal{Code: "breakers_disabled", Reason: "breakers are switched off, so that none refuses anything",
				Hint: "set breakers.enabled, or disable a tool with `secmcpd tools disable`"}}
		}
	}
	was, is, refused := l.breakers.force(now, k, o.Do == wire.BreakerOpen, time.Duration(o.ForS)*time.Second)
	if refused != nil {
		return wire.Answer{Refused: refused}
	}
	change := observability.BreakerChange{Name: k.String(), From: string(was.In()), To: string(is.In()), Why: policy.WhyOperator, ForS: o.ForS}
	l.note(observability.Record{Event: observability.Breaker, Breaker: &change, Caller: &observability.Caller{UID: who.UID, GID: who.GID, PID: who.PID}})
	l.breakers.save()
	l.stateChanged()
	d := l.breakers.detail(now, k, is)
	return wire.Answer{Breaker: &d}
}

// breakerNamed is the breaker that an operator names: a tool, an address, a network.
func (l *Launcher) breakerNamed(name string) (breakerKey, *wire.Refusal) {
	if k := (breakerKey{tool: name}); name != "" && (slices.Contains(l.now().Tools.Names(), name) || l.breakers.keeps(k)) {
		return k, nil
	}
	network, err := netip.ParsePrefix(name)
	if a, isAddress := netip.ParseAddr(name); err != nil && isAddress == nil && a.Zone() == "" {
		network, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if err != nil || network.Addr().Is4In6() {
		return breakerKey{}, unknownBreaker(name, "there is no such tool, and it is no network")
	}
	return breakerKey{network: policy.Networks([]netip.Prefix{network})[0]}, nil
}

// keeps says that there is one, also of a tool that is gone.
func (b *breakers) keeps(k breakerKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, is := b.is[k]
	return is
}

func unknownBreaker(name, why string) *wire.Refusal {
	return &wire.Refusal{Code: "no_such_breaker", Field: "name", Got: clipTo(name, maxWord), Reason: why,
		Hint: "`secmcpd breaker` lists them: the name of a tool, or a network (that of an IPv4 address is its /24, of an IPv6 address its /64)"}
}

// force is what an operator does to one.
func (b *breakers) force(now time.Time, k breakerKey, open bool, lasts time.Duration) (was, is policy.Breaker, _ *wire.Refusal) {
	b.mu.Lock()
	was = b.is[k].At(now, b.rules(k))
	if open && k.tool == "" && !was.Forced {
		held := 0
		for other, one := range b.is {
			if other.tool == "" && one.Forced {
				held++
			}
		}
		if held >= maxForced {
			b.mu.Unlock()
			return was, was, &wire.Refusal{Code: "too_many", Reason: "as many networks as may be are held open already", Hint: "close one, or open a wider network"}
		}
	}
	if open {
		is = was.Force(now, lasts)
	} else {
		is = was.Close(now)
	}
	var told []moved
	if _, kept := b.is[k]; kept || open || k.tool != "" {
		told = b.putLocked(k, is)
	}
	b.mu.Unlock()
	b.announce(told)
	return was, is, nil
}

// list is a page of all breakers, tools first: those after a name.
func (b *breakers) list(now time.Time, tools []string, after string) *wire.BreakerPage {
	all, is, _ := b.snapshot(now, tools)
	page := &wire.BreakerPage{Enabled: b.cfg.Load().Enabled, Total: len(all)}
	if after != "" {
		i := slices.IndexFunc(all, func(k breakerKey) bool { return k.String() == after })
		all = all[i+1:] // of one that is gone: from the beginning
	}
	for _, k := range firstOf(all, wire.MaxListed) {
		page.Breakers = append(page.Breakers, b.onWire(now, k, is[k]))
	}
	if len(all) > wire.MaxListed {
		page.Next = page.Breakers[wire.MaxListed-1].Name
	}
	return page
}
