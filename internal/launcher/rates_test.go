package launcher

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
)

// One user cannot fill the audit log: beyond a burst, scans are refused unheard, and one record
// says how many. Another user is heard meanwhile.
func TestScansThatComeTooFastAreCountedNotAudited(t *testing.T) {
	h := newHouse(t)
	h.open()
	handle, _ := h.client()
	const asked = 20 * startsBurst
	outside := value(t, `{"targets":["10.99.0.5"],"ports":[22]}`)
	began := time.Now()
	unheard := 0
	for range asked {
		r := h.start(handle, jobA, outside)
		if r == nil {
			t.Fatal("accepted")
		}
		if r.Code == policy.RateTooHigh {
			unheard++
			if !r.Retryable || r.Hint == "" || r.RetryAfterS != 1 {
				t.Fatalf("%+v", r)
			}
		}
	}
	heard := startsBurst + int(time.Since(began).Seconds()*startsPerSecond) + 1
	if asked-unheard > heard {
		t.Errorf("%d of %d were heard, at most %d should be", asked-unheard, asked, heard)
	}
	other, _ := h.clientAs(1000)
	if r := h.start(other, jobB, outside); r == nil || r.Code == policy.RateTooHigh {
		t.Errorf("of another user: %+v", r)
	}
	time.Sleep(2 * lookEvery) // the first record is written while it lives, the rest when it ends
	h.start(handle, jobA, outside)
	h.close()

	records, told := 0, 0
	for _, r := range auditRecords(t, h) {
		if r.Event != observability.Denied {
			continue
		}
		if len(r.Targets) > 0 {
			t.Errorf("a denial repeats what was asked: %v", r.Targets)
		}
		var n int
		if _, err := fmt.Sscanf(r.Reason, "%d scans refused for coming too fast", &n); err == nil {
			records, told = records+1, told+n
			if r.Caller == nil || r.Caller.UID != uint32(os.Getuid()) || r.Code != policy.RateTooHigh {
				t.Errorf("%+v", r)
			}
		}
	}
	// At most one each minute while it lives, and the rest at its end.
	if told != unheard || records < 1 || records > 2+int(time.Since(began)/unheardEvery) {
		t.Errorf("%d told in %d records, %d were refused", told, records, unheard)
	}
	b, err := os.ReadFile(filepath.Join(h.cfg.AuditDir, "audit.jsonl"))
	if err != nil || len(b) > (2*heard+16)*1024 {
		t.Errorf("the audit log has %d bytes, %v", len(b), err)
	}
}

func TestPreviewsAndQuestionsAreLimitedToo(t *testing.T) {
	h := newHouse(t)
	h.open()
	handle, _ := h.client()
	for says, request := range map[string]func(seq uint64) wire.Message{
		"questions": func(seq uint64) wire.Message { return wire.Message{Ask: &wire.Ask{Seq: seq, Handle: handle}} },
		"previews": func(seq uint64) wire.Message {
			return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: handle, Value: value(t, quickScan)}}
		},
	} {
		limited := false
		for range 10 * looksBurst {
			if r := h.reply(request); r.Refused != nil && r.Refused.Code == policy.RateTooHigh {
				limited = true
				break
			}
		}
		if !limited {
			t.Errorf("%s are not limited", says)
		}
	}
	h.close()
	for _, r := range auditRecords(t, h) {
		if strings.Contains(r.Reason, "too fast") {
			t.Errorf("audited: %+v", r)
		}
	}
}

func TestAnAllowance(t *testing.T) {
	now := time.Now()
	a := newAllowance(3, 1)
	for _, c := range []struct {
		says  string
		uid   uint32
		n     int
		after time.Duration
		want  bool
	}{
		{"a burst", 1, 3, 0, true},
		{"beyond the burst", 1, 1, 0, false},
		{"another user", 2, 1, 0, true},
		{"more than a burst at once", 3, 4, 0, false},
		{"a second later", 1, 1, time.Second, true},
		{"twice in that second", 1, 1, time.Second, false},
	} {
		if got := a.allow(c.uid, c.n, now.Add(c.after)) == 0; got != c.want {
			t.Errorf("%s: %v", c.says, got)
		}
	}
	for uid := range uint32(3 * maxUsers) {
		a.allow(uid, 1, now)
	}
	if len(a.byUser) > maxUsers {
		t.Errorf("%d users are remembered", len(a.byUser))
	}
	// A full table limits those that are in it.
	uid := uint32(3*maxUsers - 1)
	for range 3 {
		a.allow(uid, 1, now)
	}
	if a.allow(uid, 1, now) == 0 {
		t.Error("a full table limits nobody")
	}
}

func TestTheUnheardAreToldOnceAMinute(t *testing.T) {
	var u unheard
	now := time.Now()
	tell := func(after time.Duration, all bool) (n int) {
		for _, h := range u.due(now.Add(after), all) {
			n += h.count
		}
		return n
	}
	u.add(wire.Client{UID: 1})
	u.add(wire.Client{UID: 1})
	for _, c := range []struct {
		says  string
		after time.Duration
		all   bool
		want  int
	}{
		{"at once", 0, false, 2},
		{"nothing new", time.Second, false, 0},
	} {
		if got := tell(c.after, c.all); got != c.want {
			t.Errorf("%s: %d", c.says, got)
		}
	}
	u.add(wire.Client{UID: 1})
	if got := tell(2*time.Second, false); got != 0 {
		t.Errorf("within the minute: %d", got)
	}
	if got := tell(unheardEvery, false); got != 1 {
		t.Errorf("after a minute: %d", got)
	}
	u.add(wire.Client{UID: 1})
	if got := tell(unheardEvery+time.Second, true); got != 1 {
		t.Errorf("at the end: %d", got)
	}
	tell(3*unheardEvery, false)
	if len(u.byUser) != 0 {
		t.Errorf("%d users are remembered", len(u.byUser))
	}
	for uid := range uint32(2 * maxUsers) {
		u.add(wire.Client{UID: uid})
	}
	if len(u.byUser) > maxUsers {
		t.Errorf("%d users are remembered", len(u.byUser))
	}
}
