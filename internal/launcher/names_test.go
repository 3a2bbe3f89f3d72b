package launcher

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/policy"
)

// What names had for answers is on record, in lists that fit a message.
func TestTheAnswersOfNamesAreOnRecord(t *testing.T) {
	var r policy.Request
	for i := range 256 {
		target := policy.Target{Name: fmt.Sprintf("h%d.lab.internal", i)}
		for n := range maxAnswers {
			target.Answers = append(target.Answers, netip.AddrFrom4([4]byte{10, 77, byte(i), byte(n)}))
		}
		r.Targets = append(r.Targets, target, policy.Target{Prefix: netip.MustParsePrefix("10.77.0.0/24")})
	}
	got := resolvedOnWire(r)
	if len(got) != wire.MaxNames || len(got[0].Addresses) != wire.MaxAnswers || got[0].Count != maxAnswers || got[1].Name != "h1.lab.internal" || got[1].Addresses[2] != "10.77.1.2" {
		t.Errorf("%+v", got)
	}
}
