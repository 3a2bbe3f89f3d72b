package launcher

import (
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
)

// A scan that cannot end in time is refused before it is launched, with what would fit and the engagement allows; one
// that may is not.
func TestAScanThatCannotEndInTimeIsRefused(t *testing.T) {
	const few = "limits: {packets_per_second: 300, duration: 2m, ports_per_address: 65535}\n"
	for _, c := range []struct {
		says, arguments string
		allowed         string
	}{
		{"by no other rate, and no longer limit", `{"targets":["10.77.0.10"],"ports":["1-60000"]}`, "ports for each address: at most 36000"},
		{"by a higher rate", `{"targets":["10.77.0.10"],"ports":["1-6000"],"rate":40}`, "rate: at least 50, ports for each address: at most 4800"},
		{"by a longer limit", `{"targets":["10.77.0.10"],"ports":["1-6000"],"limit":10}`, "limit: at least 20, ports for each address: at most 3000"},
		{"by either", `{"targets":["10.77.0.10"],"ports":["1-6000"],"limit":50,"rate":100}`, "limit: at least 60, rate: at least 120, ports for each address: at most 5000"},
		{"one that may be cut", `{"targets":["10.77.0.0/29"],"ports":["1-30000"]}`, ""},
	} {
		t.Run(c.says, func(t *testing.T) {
			h := newHouse(t)
			h.engage("lab", engagement+few)
			h.open()
			handle, _ := h.client()
			p := h.reply(func(seq uint64) wire.Message {
				return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: handle, Value: value(t, c.arguments)}}
			}).Preview
			if p == nil || (c.allowed == "") != (p.Refused == nil) {
				t.Fatalf("%s: previewed as %+v", c.says, p)
			}
			if c.allowed == "" {
				if p.ExpectedS <= p.Verdict.LimitS || p.ArgvCount == 0 {
					t.Errorf("%s: %d s of %d", c.says, p.ExpectedS, p.Verdict.LimitS)
				}
				return
			}
			h.accepted(handle, jobA, c.arguments)
			o := h.endOf(jobA).Outcome
			if o.Reason != wire.Refused || o.Refused == nil {
				t.Fatalf("%s: %+v", c.says, o)
			}
			for _, r := range []*wire.Refusal{p.Refused, o.Refused} {
				if r.Code != "cannot_finish" || r.Field != "limit" && r.Field != "host_timeout" || strings.Join(r.Allowed, ", ") != c.allowed || !strings.Contains(r.Reason, "at least") || r.Hint == "" {
					t.Errorf("%s: %+v", c.says, r)
				}
			}
			for _, r := range auditRecords(t, h) {
				if r.Event == observability.Launched {
					t.Errorf("%s: it was launched", c.says)
				}
			}
		})
	}
}
