package runners

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Unfit is the error of a call that cannot end within its time, whatever its targets answer. What may or may not end in
// time, as it depends on them, is none: it runs, and what it has when its time is up is kept.
type Unfit struct {
	Field        string        // the argument whose time is too short: limit, host_timeout
	Needs, Limit time.Duration // at least; and what there is
	Would        []Fit         // each by itself would make it fit
}

// Fit is one change after which a call could end in its time: an argument, and the number that it would have to be.
type Fit struct {
	What   string // rate, limit, host_timeout, or in words what there may be less of
	Most   bool   // no more than Number, or else no less
	Number int64
}

// BothTimes is a change of the whole time and of that of each host, to the same number.
const BothTimes = "limit and host_timeout"

func (f Fit) String() string {
	if f.Most {
		return fmt.Sprintf("%s: at most %d", f.What, f.Number)
	}
	return fmt.Sprintf("%s: at least %d", f.What, f.Number)
}

func (u *Unfit) Error() string {
	var would []string
	for _, f := range u.Would {
		would = append(would, f.String())
	}
	return fmt.Sprintf("it takes at least %d seconds and has %d (%s); one of these would do: %s", up(u.Needs), up(u.Limit), u.Field, strings.Join(would, ", "))
}

// atLeast and atMost add a change, if it is one that can be made.
func (u *Unfit) atLeast(what string, n, most int64) {
	if n > 0 && n <= most {
		u.Would = append(u.Would, Fit{What: what, Number: n})
	}
}

func (u *Unfit) atMost(what string, n int64) {
	if n > 0 {
		u.Would = append(u.Would, Fit{What: what, Most: true, Number: n})
	}
}

// up is a time in whole seconds, none too few.
func up(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// upBy is n/by, none too few; of nothing or less to divide by, more than any bound.
func upBy(n, by int64) int64 {
	if by <= 0 {
		return 1 << 62
	}
	return (n + by - 1) / by
}

// unfit is why a scan of masscan cannot end in time: it sends every probe, and listens afterwards.
func (m *Masscan) unfit(rate int, probes int64) *Unfit {
	repeats, limit, rest := int64(m.Retries), int64(m.Limit), int64(m.Limit)-masscanStart-int64(m.Wait)
	sending := func(rate int64) int64 {
		pace := int64(masscanPace(int(rate), m.Retries, probes))
		return upBy(masscanSent(int(pace), m.Retries, probes), pace)
	}
	if limit == 0 || sending(int64(rate)) <= rest {
		return nil
	}
	u := &Unfit{Field: "limit", Limit: time.Duration(limit) * time.Second, Needs: time.Duration(masscanStart+sending(int64(rate))+int64(m.Wait)) * time.Second}
	u.atLeast("limit", up(u.Needs), maxLimit)
	// (probes + repeats × rate) × (1 + repeats) packets at the rate, in the time that is left.
	faster := upBy(probes*(repeats+1), rest-repeats*(repeats+1))
	if faster <= maxRate && sending(faster) <= rest {
		u.atLeast("rate", faster, maxRate)
	}
	if repeats > 0 && upBy(probes, int64(rate)) <= rest {
		u.Would = append(u.Would, Fit{What: "retries", Most: true})
	}
	u.atMost("addresses times ports", (rest/(repeats+1)-repeats)*int64(rate))
	return u
}

// least is what a scan of nmap takes whatever its targets answer: the probes that it sends, and the time of the pauses
// between those to one host. Each port of a host that is up is asked once; where hosts are looked for first, one of them
// is up, or nothing is asked of ports at all.
func (n *Nmap) least(addresses int64) (probes int64, pauses time.Duration) {
	probes = addresses * int64(n.portCount())
	if !n.SkipDiscovery {
		probes = addresses + int64(n.portCount())
	}
	if n.Timing == "polite" {
		pauses = time.Duration(n.turns(addresses)*int64(n.portCount())*politeDelay) * time.Millisecond
	}
	return probes, pauses
}

// turns is how many groups of hosts are asked for ports, one after the other, at least.
func (n *Nmap) turns(addresses int64) int64 {
	if !n.SkipDiscovery {
		return 1
	}
	return upBy(addresses, hostGroup(addresses))
}

// unfit is why a scan of nmap cannot end in time, or any one host of it.
func (n *Nmap) unfit(addresses int64) *Unfit {
	u := n.lacking(addresses)
	if u != nil {
		n.fit(u, addresses)
	}
	return u
}

// lacking is unfit without what would do.
func (n *Nmap) lacking(addresses int64) *Unfit {
	alone := *n
	alone.SkipDiscovery = true
	for _, c := range []struct {
		field string
		scan  *Nmap
		of    int64
		have  int
	}{{"limit", n, addresses, n.Limit}, {"host_timeout", &alone, 1, n.HostTimeout}} {
		probes, pauses := c.scan.least(c.of)
		needs := max(time.Duration(upBy(probes, int64(n.rate())))*time.Second, pauses)
		if have := time.Duration(c.have) * time.Second; c.have > 0 && needs > have {
			return &Unfit{Field: c.field, Needs: needs, Limit: have}
		}
	}
	return nil
}

// fit says what would do, for all hosts and for each.
func (n *Nmap) fit(u *Unfit, addresses int64) {
	longest, longer := int64(maxLimit), *n
	longer.Limit = int(min(up(u.Needs), maxLimit))
	if p, known := profileNamed(n.Profile); known && n.HostTimeout == n.Limit { // where it is not given it is the profile's, within the limit
		longer.HostTimeout = max(n.HostTimeout, min(p.hostTimeout, longer.Limit))
	}
	if u.Field == "host_timeout" {
		longest = min(maxHostTime, cmp.Or(int64(n.Limit), maxHostTime))
		longer.Limit, longer.HostTimeout = n.Limit, int(min(up(u.Needs), maxHostTime))
	}
	switch {
	case longer.lacking(addresses) == nil:
		u.atLeast(u.Field, up(u.Needs), longest)
	case u.Field == "limit": // one host takes longer than it has, too
		u.atLeast(BothTimes, up(u.Needs), maxHostTime)
	}
	rate, each := int64(n.rate()), int64(n.HostTimeout)
	all := cmp.Or(int64(n.Limit), maxLimit)
	if n.Timing == "polite" {
		u.atMost("ports for each address, with timing polite", min(each, all/n.turns(addresses))*1000/politeDelay)
		return
	}
	probes, _ := n.least(addresses)
	u.atLeast("rate", max(upBy(probes, all), upBy(int64(n.portCount()), each)), maxRate)
	switch {
	case n.ScanType == "ping":
		u.atMost("addresses", all*rate)
	case n.SkipDiscovery && addresses > 1 && u.Field == "limit":
		u.atMost("addresses times ports", all*rate)
	case n.SkipDiscovery:
		u.atMost("ports for each address", min(all/addresses, each)*rate)
	default:
		u.atMost("ports for each address", min(all*rate-addresses, each*rate))
	}
}

// unfit is why a scan of gobuster cannot end in time: each request is one packet at least, and each thread pauses after
// each of its own.
func (g *Gobuster) unfit() *Unfit {
	rate, threads, limit := int64(g.rate()), int64(g.Threads), int64(g.Limit)
	pause := time.Duration(g.Delay) * time.Millisecond
	pauses := time.Duration(g.requests()/threads) * pause
	needs := max(time.Duration(upBy(g.requests(), rate))*time.Second, pauses)
	have := time.Duration(limit) * time.Second
	if limit == 0 || needs <= have {
		return nil
	}
	u := &Unfit{Field: "limit", Needs: needs, Limit: have}
	u.atLeast("limit", up(needs), maxLimit)
	requests := limit * rate
	if pauses > have {
		requests = min(requests, int64(have/pause)*threads)
		if least := upBy(g.requests()*int64(g.Delay), limit*1000); upBy(g.requests(), rate) <= limit {
			u.atLeast("threads", least, maxThreads)
			u.Would = append(u.Would, Fit{What: "delay_ms", Most: true, Number: limit * 1000 * threads / g.requests()})
		}
	} else {
		u.atLeast("rate", upBy(g.requests(), limit), maxRate)
	}
	if len(g.Extensions) > 0 && g.Lines <= requests {
		u.Would = append(u.Would, Fit{What: "extensions", Most: true, Number: requests/g.Lines - 1})
	}
	u.atMost("words of the wordlist", requests/g.variants())
	return u
}
