package launcher

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/sandbox"
)

// preview says what start would do. Nothing is run, no name is asked for.
func (l *Launcher) preview(ctx context.Context, m wire.Preview) (*wire.Previewed, *wire.Refusal) {
	caller, ok := l.caller(m.Handle)
	if !ok {
		return nil, gone()
	}
	set := l.now()
	call, refused := l.decodeCall(set, m.Value)
	if refused != nil {
		return nil, refused
	}
	plan := call.Plan()
	words, refused := l.wordlist(set, plan)
	if refused != nil {
		return nil, refused
	}
	defer words.close()
	call = call.WithWords(words.words())
	request := asked(plan, call.Tool)
	if refused := l.aim(plan, &request); refused != nil {
		return nil, refused
	}
	judge := policy.Precheck
	if len(names(request)) == 0 { // what is said of no name has to be held back
		judge = policy.Decide
	}
	v := judge(l.judged(), onPolicy(caller), request, time.Now())
	p := &wire.Previewed{Verdict: onWire(v), Network: l.network(), NotEnforced: l.gaps(), Wordlist: words.onRecord()}
	p.Verdict.Unresolved = firstOf(names(request), wire.MaxList)
	if off := l.off(set, call.Tool); off != nil {
		p.Refused = off
	} else if !v.Grants() {
		p.Refused = refusal(v)
	} else if missing := l.missing(set); len(missing) > 0 {
		p.Refused = unenforced(missing)
	} else if broken := l.broken(call.Tool, v.Addresses(), false); broken != nil {
		p.Refused = broken
	} else if refused := l.unapprovable(v); refused != nil {
		p.Refused = refused
	} else if v.MoreNames {
		_, p.Refused = l.resolvers(set)
	}
	tool, err := l.scanners.get(ctx, set, set.Tools.ScannerOf(call.Tool))
	if err != nil {
		p.Scanner = wire.Scanner{Tool: call.Tool, Problem: clip(err.Error())}
		if p.Refused == nil {
			p.Refused = noScanner(call.Tool, err)
		}
		return p, nil
	}
	p.Scanner = tool.onWire(call.Tool)
	if v.Grants() && len(v.Addresses()) > 0 {
		wall, _ := deadline(v, plan.Limit, time.Now())
		command, way, err := l.commandFor(call, tool, v, wall)
		if refused := l.tooLong(err, v); refused != nil {
			p.Refused = refused
			return p, nil
		}
		if err != nil {
			return nil, notLaunched(commandStage(err), clip(err.Error()))
		}
		p.Network = way
		p.Argv, p.ArgvCount = firstOf(command.Argv, wire.MaxList), len(command.Argv)
		p.Packets, p.ExpectedS = command.Packets, int64((command.Time+time.Second-1)/time.Second)
	}
	return p, nil
}

// capabilities says what a caller may do here. It sees the engagements that name it, no others.
func (l *Launcher) capabilities(ctx context.Context, m wire.Ask) (*wire.Capabilities, *wire.Refusal) {
	caller, ok := l.caller(m.Handle)
	if !ok {
		return nil, gone()
	}
	set, p, now := l.now(), l.judged(), time.Now()
	c := &wire.Capabilities{Slots: l.gate.Slots(), Network: l.networkNow(), NotEnforced: l.gaps()}
	for _, t := range set.Tools.Tools() {
		said := wire.Scanner{Tool: t.Name}
		if found, err := l.scanners.get(ctx, set, t.Scanner); err != nil {
			said.Problem = clip(err.Error())
		} else {
			said = found.onWire(t.Name)
		}
		if off := l.off(set, t.Name); off != nil {
			said.Disabled = off.Reason
		}
		c.Scanners = append(c.Scanners, said)
	}
	c.Wordlists, c.WordlistsCount = l.wordlists.list(ctx, set.Wordlists)
	c.Refusing = l.refusing(p, onPolicy(caller), now)
	for _, j := range l.all() {
		switch j.snapshot().State {
		case wire.Running:
			c.Running++
		case wire.Queued:
			c.Queued++
		}
	}
	showEngagements(c, p, onPolicy(caller), now)
	return c, nil
}

// showEngagements puts those that name the caller into c, and no more of them than a message holds:
// first their lists are made shorter, then there are fewer of them. The counts are exact.
func showEngagements(c *wire.Capabilities, p *policy.Policy, caller policy.Caller, now time.Time) {
	var his []policy.Engagement
	for _, e := range p.Engagements {
		if e.Names(caller) {
			his = append(his, e)
		}
	}
	c.EngagementsCount = len(his)
	his = firstOf(his, wire.MaxList)
	for entries := wire.MaxList; ; entries /= 2 {
		c.Engagements = nil
		for _, e := range his {
			why, suspended := p.Suspended[e.Name]
			if suspended {
				why = "its file can no longer be read (" + clip(why) + "): ask the operator to run `secmcpd check`"
			}
			c.Engagements = append(c.Engagements, view(e, now, why, entries))
		}
		if len(his) == 0 || fits(wire.Reply{Capabilities: c}) {
			return
		}
		if entries <= 1 {
			his, entries = firstOf(his, len(his)/2), 2
		}
	}
}

// fits says that a reply is no larger than a message.
func fits(r wire.Reply) bool {
	r.Seq = math.MaxUint64 // whichever it gets
	_, err := wire.Encode(&wire.Message{Reply: &r}, wire.MaxMessage)
	return err == nil
}

// gaps is everything that is not enforced here: by the front, by the machine, by the network.
func (l *Launcher) gaps() []wire.Gap {
	l.link.mu.Lock()
	front := slices.Clone(l.link.gaps)
	l.link.mu.Unlock()
	return mergeGaps(l.machineGaps(), front)
}

func (l *Launcher) machineGaps() []wire.Gap {
	// Of all boxes a raw one wishes for every layer.
	_, gaps := sandbox.Fit(sandbox.Spec{Box: "nmap-raw", Raw: true}, l.boxes.Features())
	out := onWireGaps(gaps)
	if _, gap := l.slots.get(); gap != nil {
		out = append(out, *gap)
	}
	return mergeGaps(out, l.cfg.Gaps)
}

// missing is what is not enforced and not accepted either.
func (l *Launcher) missing(set *Live) []wire.Gap {
	var out []wire.Gap
	for _, g := range l.gaps() {
		if !slices.Contains(set.Accept, g.Layer) {
			out = append(out, g)
		}
	}
	return out
}

// unenforced refuses a scan for lack of protection.
func unenforced(missing []wire.Gap) *wire.Refusal {
	r := &wire.Refusal{Code: "not_enforced", Reason: "this machine cannot enforce what a scan needs",
		Hint: "the operator mends it (`secmcpd doctor` says how) or accepts it by name in accept_unenforced"}
	var layers []string
	for _, g := range missing {
		layers = append(layers, g.Layer)
		r.Allowed = append(r.Allowed, g.Layer+": "+g.Why)
	}
	r.Got = strings.Join(layers, ", ")
	return r
}

// entry is what the audit log says of a job at one moment.
func (j *job) entry(event observability.Event) observability.Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.record
	e := observability.Record{Event: event, Job: r.ID, Correlation: r.Correlation, Tool: r.Tool, Profile: j.plan.Profile,
		Caller: &observability.Caller{UID: j.caller.UID, GID: j.caller.GID, PID: j.caller.PID}}
	switch event {
	case observability.Asked:
		for _, t := range j.plan.Targets {
			e.Targets = append(e.Targets, t.Text)
		}
		e.TargetCount, e.Engagement = len(e.Targets), j.plan.Engagement
		return e
	case observability.Decided, observability.Launched:
		e.Consent = r.Verdict.Confirm // without it there was no decision to be recorded
		e.Approve = r.Verdict.Approve
		e.Addresses, e.Prefixes, e.Ports = r.Verdict.Addresses, len(j.verdict.Addresses()), r.Verdict.Ports
	}
	if event == observability.Launched {
		var addresses []string
		for _, p := range j.verdict.Addresses() {
			addresses = append(addresses, p.String())
		}
		if r.Network != nil {
			e.Network, e.Filter = r.Network.Mode, r.Network.Filter
		}
		e.ArgvSHA256, e.AddressesSHA256 = digest(j.argv), digest(addresses)
		if a := r.Approval; a != nil && a.By != nil {
			e.Digest, e.Approver = a.Digest, a.By
		}
	}
	e.Engagement, e.Revision, e.Rule = r.Verdict.Engagement, r.Verdict.Revision, r.Verdict.Rule
	switch event {
	case observability.Decided, observability.ApprovalAsked, observability.Approved, observability.ApprovalDenied, observability.ApprovalPassed:
		return e
	}
	if event == observability.Launched { // the records that follow have to fit in the audit log's reserve
		e.Argv, e.Words = j.argv, len(j.argv)
	}
	if j.call.Declared != nil {
		e.Declaration = j.call.Declared.Revision
	}
	e.Scanner, e.Version, e.SHA256 = r.Scanner.Path, r.Scanner.Version, r.Scanner.SHA256
	e.Limits = j.limits
	if w := r.Wordlist; w != nil {
		e.Wordlist = &observability.Wordlist{Name: w.Name, Lines: w.Lines, SHA256: w.SHA256}
	}
	for _, g := range r.NotEnforced {
		e.NotEnforced = append(e.NotEnforced, g.Layer)
	}
	if o := r.Outcome; o != nil {
		e.Outcome, e.Signal, e.Stage, e.Reason = o.Reason, o.Signal, o.Stage, o.Detail
		if o.Reason == wire.Exited {
			e.ExitCode = &o.Code
		}
		if o.Refused != nil {
			e.Code = o.Refused.Code
			e.Reason = cmp.Or(o.Detail, o.Refused.Reason)
		}
		e.Usage = &observability.Usage{WallMS: o.Usage.WallMS, CPUMS: o.Usage.CPUMS, Memory: o.Usage.MemoryPeak, Output: o.Usage.Output,
			Sent: o.Usage.SentPackets, Received: o.Usage.Received, Dropped: o.Usage.Dropped, OffScope: o.Usage.OffScope, OverRate: o.Usage.OverRate, Refused: o.Usage.Refused}
	}
	return e
}

// digest is the sha256 of a whole list, with a NUL between its words: the list itself is cut.
func digest(words []string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:])
}

// denied is the audit record of a denial by policy, refusedBy of any other refusal. What was asked
// for is in the record of its asking and is not repeated.
func (j *job) denied(v policy.Verdict) observability.Record {
	e := j.refusedBy(refusal(v))
	e.Engagement, e.Revision, e.Rule = v.Engagement, v.Revision, v.Rule
	return e
}

func (j *job) refusedBy(r *wire.Refusal) observability.Record {
	e := j.entry(observability.Asked)
	e.Targets = nil
	e.Event, e.Code, e.Reason = observability.Denied, r.Code, r.Reason
	return e
}

// noted audits a refusal and passes it on.
func (l *Launcher) noted(j *job, r *wire.Refusal) *wire.Refusal {
	l.note(j.refusedBy(r))
	return r
}

// view shows an engagement with lists of at most that many entries. closed says why it may not be
// used whatever the time is.
func view(e policy.Engagement, now time.Time, closed string, entries int) wire.EngagementView {
	if closed == "" {
		_, closed = e.Open(now)
	}
	profiles := map[string][]string{}
	for _, tool := range e.Tools() {
		profiles[tool] = e.Profiles(tool)
	}
	targets, excluded := e.Targets(), e.Excluded()
	return wire.EngagementView{Name: e.Name, Description: e.Description, Targets: clipped(targets, entries), TargetsCount: len(targets),
		Excluded: clipped(excluded, entries), ExcludedCount: len(excluded), Tools: e.Tools(), Profiles: profiles, Intrusive: string(e.Intrusive), Confirm: clipped(e.Confirm(), entries), Approve: clipped(e.Approve(), entries),
		Addresses: e.Limits.Addresses, Ports: e.Limits.Ports, Rate: e.Limits.Rate, Budget: e.Limits.Budget, LimitS: int64(e.Limits.Duration / time.Second), Jobs: e.Limits.Jobs,
		Hours: e.Hours(), Expires: e.Expires, Open: closed == "", Closed: closed}
}

// clipped is the first of a list, each cut: the networks of one name can be thousands.
func clipped(words []string, most int) []string {
	out := []string{}
	for _, w := range firstOf(words, most) {
		out = append(out, clip(w))
	}
	return out
}

// note writes an audit record that nothing can be refused for any more: what it tells has
// happened. One that cannot be written is shouted and waits; it is written before any other
// record, so nothing is launched until then.
func (l *Launcher) note(r observability.Record) {
	if r.Event == observability.Denied {
		l.sayDenied(r)
	}
	if err := l.audit.Note(r); err != nil {
		l.log.Error("an audit record waits to be written", journal.Key, journal.AuditUnwritable, "record", r.Event, "job", r.Job, "why", err)
	}
}
