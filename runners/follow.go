package runners

import (
	"encoding/json"
	"net/netip"
	"slices"
)

// Open is a port that a scan found open.
type Open struct {
	Addr netip.Addr
	UDP  bool
	Port uint16
}

// SecondPass is the call by which a call wants to be repeated; false: it does not. A scanner with an order of its own
// takes another one each time.
func (c Call) SecondPass() (Call, bool) {
	if c.Masscan == nil || !c.Masscan.SecondPass {
		return Call{}, false
	}
	again := *c.Masscan
	again.SecondPass, again.Verify = false, ""
	return Call{Tool: c.Tool, Masscan: &again}, true
}

// Then says in words what follows a call, each as a scan of its own.
func (c Call) Then() (words []string) {
	if c.Masscan == nil {
		return nil
	}
	if c.Masscan.SecondPass {
		words = append(words, "the same a second time")
	}
	if c.Masscan.Verify != "" {
		words = append(words, "nmap_scan of the "+c.Masscan.Verify+" that are found")
	}
	return words
}

// Verification is a call that looks at ports that were found open, and which these are.
type Verification struct {
	Call Call
	Of   []Open
}

// Verifications are the calls that look at what a call has found open, one for each protocol, and what there is no room
// for in them. engagement is the one to be under. Each address is asked for the ports that were found at any: all of
// them were asked for before. None: the call does not want it, or nothing was found.
func (c Call) Verifications(engagement string, open []Open) (all []Verification, left []Open, err error) {
	if c.Masscan == nil || c.Masscan.Verify == "" {
		return nil, nil, nil
	}
	for _, udp := range []bool{false, true} {
		of := slices.DeleteFunc(slices.Clone(open), func(o Open) bool { return o.UDP != udp })
		if len(of) == 0 {
			continue
		}
		v, beyond, err := c.Masscan.verification(engagement, udp, of)
		if err != nil {
			return nil, nil, err
		}
		all, left = append(all, v), append(left, beyond...)
	}
	return all, left, nil
}

// verification is the one call for ports of one protocol: as many addresses and ranges as a call has, the lowest first.
func (m *Masscan) verification(engagement string, udp bool, open []Open) (v Verification, left []Open, err error) {
	slices.SortFunc(open, func(a, b Open) int { return a.Addr.Compare(b.Addr) })
	var targets []string
	var ports []Ports
	fits := map[netip.Addr]bool{}
	for _, o := range open {
		if !fits[o.Addr] && len(targets) < MaxTargets {
			fits[o.Addr], targets = true, append(targets, o.Addr.String())
		}
		if fits[o.Addr] {
			ports = append(ports, Ports{o.Port, o.Port})
		}
	}
	ports = joinPorts(ports)
	ports = ports[:min(len(ports), maxPortRanges)]
	for _, o := range open {
		if fits[o.Addr] && slices.ContainsFunc(ports, func(p Ports) bool { return p.First <= o.Port && o.Port <= p.Last }) {
			v.Of = append(v.Of, o)
		} else {
			left = append(left, o)
		}
	}
	arguments := map[string]any{"targets": targets, "ports": ports, "scan_type": "connect", "skip_discovery": true, "engagement": engagement}
	if udp {
		arguments["scan_type"] = "udp"
	}
	if m.Verify == "services" {
		arguments["profile"] = "version"
	}
	if m.Rate > 0 {
		arguments["rate"] = m.Rate
	}
	if m.Limit > 0 {
		arguments["limit"] = m.Limit
	}
	text, err := json.Marshal(arguments)
	if err != nil {
		return v, nil, err
	}
	call, faults := BuiltIn().Read(nmapName, text)
	if len(faults) > 0 {
		return v, nil, faults[0]
	}
	v.Call = call
	return v, left, nil
}

// Under is the call under an engagement.
func (c Call) Under(engagement string) Call {
	if c.Masscan != nil {
		under := *c.Masscan
		under.Engagement = engagement
		c.Masscan = &under
	}
	return c
}
