package report

import (
	"fmt"
	"net/netip"
	"slices"
)

// maxTold bounds the ports that a comparison names; the counts beside them are exact.
const maxTold = 64

// SecondPass says whether a scan that was made twice found the same.
type SecondPass struct {
	JobID      string  `json:"job_id,omitempty"`
	Status     string  `json:"status"`        // of that job; none: there is none
	Why        string  `json:"why,omitempty"` // there is nothing, or not all, to compare
	Agreed     bool    `json:"agreed"`
	OnlyFirst  OnePass `json:"only_first"` // open ports that the other pass did not find
	OnlySecond OnePass `json:"only_second"`
}

// OnePass is open ports that one pass alone has found.
type OnePass struct {
	Count int      `json:"count"`
	Ports []string `json:"ports"` // the first of them
}

// Verification says what another scanner found of the ports that were found open.
type Verification struct {
	JobID   string  `json:"job_id,omitempty"`
	Status  string  `json:"status"`        // of that job; none: there is none
	Why     string  `json:"why,omitempty"` // it has not looked at all of them
	Asked   int     `json:"asked"`
	Open    int     `json:"open"`     // that it found open, too
	NotOpen OnePass `json:"not_open"` // that it did not, with the state in which it found them
	Unknown int     `json:"unknown"`  // of which nothing is known
}

// Confirmed says that what was to follow a scan came to its end, and that no pass found what another did not.
func (c *Coverage) Confirmed() bool {
	if s := c.SecondPass; s != nil && !s.Agreed {
		return false
	}
	return !slices.ContainsFunc(c.Verification, func(v Verification) bool { return v.Why != "" || v.Unknown > 0 })
}

// Followers are the jobs that followed the scan.
func (c *Coverage) Followers() (ids []string) {
	if s := c.SecondPass; s != nil && s.JobID != "" {
		ids = append(ids, s.JobID)
	}
	for _, v := range c.Verification {
		if v.JobID != "" {
			ids = append(ids, v.JobID)
		}
	}
	return ids
}

func (o *OnePass) add(text string) {
	if o.Count++; len(o.Ports) < maxTold {
		o.Ports = append(o.Ports, text)
	}
}

func portText(a netip.Addr, p Port) string { return fmt.Sprintf("%s %d/%s", a, p.Port, p.Proto) }

// portKey is a port of a host.
type portKey struct {
	addr  netip.Addr
	proto string
	port  int
}

// Found says what a scan has found open; f is told of each port that is kept, by address.
func (r *Report) Found(f func(addr netip.Addr, udp bool, port uint16)) {
	for _, h := range r.Hosts {
		for _, p := range h.Ports {
			if p.State == "open" {
				f(h.Addr, p.Proto == "udp", uint16(p.Port))
			}
		}
	}
}

func (r *Report) open() map[portKey]Port {
	all := map[portKey]Port{}
	for _, h := range r.Hosts {
		for _, p := range h.Ports {
			if p.State == "open" {
				all[portKey{h.Addr, p.Proto, p.Port}] = p
			}
		}
	}
	return all
}

// Again compares a scan with a second pass of it, and takes over what only that one has found: a port that answered
// once is open.
func (r *Report) Again(second Report) SecondPass {
	s := SecondPass{OnlyFirst: OnePass{Ports: []string{}}, OnlySecond: OnePass{Ports: []string{}}}
	one, two := r.open(), second.open()
	for _, h := range r.Hosts {
		for _, p := range h.Ports {
			if _, both := two[portKey{h.Addr, p.Proto, p.Port}]; !both {
				s.OnlyFirst.add(portText(h.Addr, p))
			}
		}
	}
	for _, h := range second.Hosts {
		for _, p := range h.Ports {
			if _, both := one[portKey{h.Addr, p.Proto, p.Port}]; !both {
				s.OnlySecond.add(portText(h.Addr, p))
				r.take(h, p)
			}
		}
	}
	if len(r.Cut)+len(second.Cut) > 0 {
		s.Why = "a report was larger than is kept: the rest of it was not compared"
	}
	s.Agreed = s.Why == "" && second.ExitOK && s.OnlyFirst.Count+s.OnlySecond.Count == 0
	return s
}

// take adds a port of a host, and the host if need be, as far as there is room.
func (r *Report) take(h Host, p Port) {
	i, known := slices.BinarySearchFunc(r.Hosts, h.Addr, func(h Host, a netip.Addr) int { return h.Addr.Compare(a) })
	c := &r.Coverage
	if !known {
		c.Up, c.Alive, c.Listed = c.Up+1, c.Alive+1, c.Listed+1
		c.Completed = append(c.Completed, netip.PrefixFrom(h.Addr, h.Addr.BitLen()))
		if len(r.Hosts) >= maxHosts {
			c.NotKept++
			r.leaveOut("hosts")
			return
		}
		h.Ports = []Port{}
		r.Hosts = slices.Insert(r.Hosts, i, h)
	}
	c.OpenPorts++
	if len(r.Hosts[i].Ports) >= maxPorts {
		r.leaveOut("ports")
		return
	}
	at, _ := slices.BinarySearchFunc(r.Hosts[i].Ports, p, byProtocol)
	r.Hosts[i].Ports = slices.Insert(r.Hosts[i].Ports, at, p)
}

func (r *Report) leaveOut(what string) {
	if !slices.Contains(r.Cut, what) {
		r.Cut = append(r.Cut, what)
	}
}

// Verified compares open ports, a part of those of the report, with what another scanner found of them, and takes over
// what that one knows of their services.
func (r *Report) Verified(by Report, of func(addr netip.Addr, udp bool, port uint16) bool) Verification {
	v := Verification{NotOpen: OnePass{Ports: []string{}}}
	for i, h := range r.Hosts {
		at := slices.IndexFunc(by.Hosts, func(o Host) bool { return o.Addr == h.Addr })
		for k, p := range h.Ports {
			if p.State != "open" || !of(h.Addr, p.Proto == "udp", uint16(p.Port)) {
				continue
			}
			v.Asked++
			if at < 0 || by.Hosts[at].TimedOut {
				v.Unknown++
				continue
			}
			n := slices.IndexFunc(by.Hosts[at].Ports, func(o Port) bool { return o.Port == p.Port && o.Proto == p.Proto })
			switch {
			case n < 0:
				v.NotOpen.add(portText(h.Addr, p) + " not listed")
			case by.Hosts[at].Ports[n].State != "open":
				v.NotOpen.add(portText(h.Addr, p) + " " + by.Hosts[at].Ports[n].State)
			default:
				v.Open++
				known := by.Hosts[at].Ports[n]
				known.Reason = p.Reason
				r.Hosts[i].Ports[k] = known
			}
		}
	}
	return v
}
