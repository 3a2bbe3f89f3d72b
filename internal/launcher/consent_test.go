package launcher

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// What has to be confirmed starts with the consent to that revision of that engagement, and with no
// other; the consent is on the record.
func TestWhatHasToBeConfirmedNeedsConsent(t *testing.T) {
	h := newHouse(t)
	h.engage("lab", engagement+"confirm: [nmap_scan]\n")
	h.open()
	handle, _ := h.client()
	preview := h.reply(func(seq uint64) wire.Message {
		return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: handle, Value: value(t, quickScan)}}
	}).Preview
	if preview == nil || !slices.Equal(preview.Verdict.Confirm, []string{"nmap_scan"}) {
		t.Fatalf("%+v", preview)
	}
	start := func(job, consent string) *wire.Refusal {
		return h.reply(func(seq uint64) wire.Message {
			return wire.Message{Start: &wire.Start{Seq: seq, Handle: handle, Job: job, Value: value(t, quickScan), Consent: consent}}
		}).Refused
	}
	revision := preview.Verdict.Revision
	for _, consent := range []string{"", "lab", "lab@", "lab@" + strings.Repeat("0", 64), "other@" + revision} {
		if r := start(jobA, consent); r == nil || r.Code != wire.ConfirmationNeeded || r.Hint == "" || r.Rule != "lab: confirm" {
			t.Errorf("with consent %q: %+v", consent, r)
		}
	}
	if r := start(jobA, "lab@"+revision); r != nil {
		t.Fatalf("with the consent: %+v", r)
	}
	if o := h.endOf(jobA).Outcome; o.Reason == wire.Refused {
		t.Errorf("%+v", o)
	}
	log, err := os.ReadFile(filepath.Join(h.cfg.AuditDir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"code":"confirmation_needed"`, `"consent":["nmap_scan"]`} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the audit log has no %s:\n%s", want, log)
		}
	}
}
