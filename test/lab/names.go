package lab

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
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
}

func many() (out []string) {
	a := netip.MustParseAddr("10.77.2.1")
	for range 70 {
		out, a = append(out, a.String()), a.Next()
	}
	return out
}

// names serves the zone over UDP and TCP. It needs to be called inside the lab.
func (l *Lab) names() error {
	udp, err := net.ListenPacket("udp", DNS+":53")
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", DNS+":53")
	if err != nil {
		udp.Close()
		return err
	}
	l.close = append(l.close, udp.Close, tcp.Close)
	l.watching.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			if answer := reply(b[:n], 512); answer != nil {
				_, _ = udp.WriteTo(answer, from) // the client asks again
			}
		}
	})
	l.watching.Go(func() { serve(tcp, streamed) })
	return nil
}

func streamed(c net.Conn) {
	size := make([]byte, 2)
	for {
		if _, err := io.ReadFull(c, size); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(size))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		answer := reply(b, 65535)
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
func reply(query []byte, most int) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	known, found := zone[strings.ToLower(q.Name.String())]
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
