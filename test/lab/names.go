package lab

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// zone is what the lab's name server knows. A name without addresses is never answered.
var zone = map[string][]string{
	"web.lab.internal.":  {Web},
	"ssh.lab.internal.":  {SSHAndWeb, IPv6Host},
	"evil.lab.internal.": {Outside},
	"half.lab.internal.": {Web, Outside},
	"self.lab.internal.": {"127.0.0.1"},
	"many.lab.internal.": many(),
	"slow.lab.internal.": {},

	"www.lab.internal.":   {Sites, Sites6},
	"shop.lab.internal.":  {Sites, Sites6},
	"staff.lab.internal.": {Sites, Sites6},
	"away.lab.internal.":  {Sites, Sites6},
	"snmp.lab.internal.":  {SNMP, SNMP6},
	"far.lab.internal.":   {Behind, Behind6},
	obeying:               {Talker, Talker6},
}

// obeying is a name whose answers are a hostile name server's.
const obeying = "obey.lab.internal."

func many() (out []string) {
	a := netip.MustParseAddr("10.77.2.1")
	for range 70 {
		out, a = append(out, a.String()), a.Next()
	}
	return out
}

// nameServer serves the zone over UDP and TCP, and counts who was asked for.
type nameServer struct {
	mu    sync.Mutex
	asked map[string]int // by name and type
}

// rebinding ends the names that are in scope when they are first asked for, and off scope ever
// after; each type of address is a question of its own.
const rebinding = "rebind.lab.internal."

// Queries is how often a name was asked for, in both types of address. "a.rebind.lab.internal"
// and all others of that ending change their addresses after the first answer.
func (l *Lab) Queries(name string) int {
	l.names.mu.Lock()
	defer l.names.mu.Unlock()
	name = strings.ToLower(name) + "."
	return l.names.asked[name+"A"] + l.names.asked[name+"AAAA"]
}

// find is the addresses of a name at this question.
func (s *nameServer) find(q dnsmessage.Question) ([]string, bool) {
	name := strings.ToLower(q.Name.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	key := name + strings.TrimPrefix(q.Type.String(), "Type")
	if len(s.asked) < 1<<16 || s.asked[key] > 0 {
		s.asked[key]++
	}
	if strings.HasSuffix("."+name, "."+rebinding) {
		if s.asked[key] == 1 {
			return []string{Web, IPv6Host}, true
		}
		return []string{Outside, Outside6}, true
	}
	known, found := zone[name]
	return known, found
}

func (s *nameServer) streamed(c net.Conn) {
	size := make([]byte, 2)
	for {
		if _, err := io.ReadFull(c, size); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(size))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		answer := s.reply(b, 65535)
		if answer == nil {
			time.Sleep(8 * time.Second)
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// reply answers one query; nil: not at all.
func (s *nameServer) reply(query []byte, most int) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	known, found := s.find(q)
	if found && len(known) == 0 {
		return nil
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q}}
	if !found {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, text := range known {
		a := netip.MustParseAddr(text)
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			r.Body = &dnsmessage.AResource{A: a.As4()}
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, r)
	}
	if strings.ToLower(q.Name.String()) == obeying {
		told(&m, q)
	}
	b, err := m.Pack()
	if err == nil && len(b) > most {
		m.Answers, m.Truncated = nil, true
		b, err = m.Pack()
	}
	if err != nil {
		return nil
	}
	return b
}
