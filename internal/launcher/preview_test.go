package launcher

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/policy"
)

// What a preview shows is what is launched, the engagement's limits among it.
func TestAPreviewShowsTheCommandThatIsLaunched(t *testing.T) {
	h := newHouse(t)
	h.engage("lab", engagement+"limits: {packets_per_second: 77, duration: 20s}\n")
	h.open()
	handle, _ := h.client()
	v := value(t, `{"targets":["10.77.0.10"],"ports":[22],"host_timeout":60}`)
	shown := h.reply(func(seq uint64) wire.Message {
		return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: handle, Value: v}}
	}).Preview
	if r := h.start(handle, jobA, v); r != nil {
		t.Fatalf("refused: %+v", r)
	}
	running := h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.State == wire.Running })
	var launched []string
	for i, f := range running.files {
		if running.m.Job.Files[i] == fileArgv {
			b, err := io.ReadAll(f)
			if err == nil {
				err = json.Unmarshal(b, &launched)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
	if shown == nil || len(launched) == 0 || !slices.Equal(shown.Argv, launched) {
		t.Errorf("shown    %v\nlaunched %v", shown, launched)
	}
	h.endOf(jobA)
}

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
