package front

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/view"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// What operators ask for wrongly is refused with what is allowed; what is there is shown without what was found.
func TestWhatOperatorsSeeOfJobs(t *testing.T) {
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := newFront(t.Context(), Config{StateDir: t.TempDir(), Live: Live{Tools: runners.BuiltIn(), Keep: store.Limits{Jobs: 100, Bytes: 1 << 30, Age: time.Hour}},
		Version: "test", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Notify: func(string) {}}, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("a", 26)
	row := store.Job{ID: id, UID: 1000, Tool: "nmap_scan", Profile: "quick", Created: time.Now(), Arguments: []byte(`{"targets":["10.0.0.1","10.0.0.2","10.0.0.3","10.0.0.4","10.0.0.5"]}`)}
	if err := s.Create(context.Background(), row); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	record := wire.Job{ID: id, State: wire.Ended, Started: started, Verdict: wire.Verdict{Outcome: "allow", Engagement: "lab"}, Outcome: &wire.Outcome{Reason: wire.Timeout, Ended: time.Now()}}
	r := report.Report{Hosts: []report.Host{{Status: "up", Ports: []report.Port{{Port: 22, Proto: "tcp", State: "open", Untrusted: &report.PortText{Product: "SCANNED TEXT"}}}}}}
	row.State, row.Reason, row.Started, row.Ended = store.Partial, wire.Timeout, started, time.Now()
	row.Record, row.Summary, row.Result = encode(record), encode(summarise(record, r)), encode(r)
	if err := s.Update(context.Background(), row); err != nil {
		t.Fatal(err)
	}
	h := f.adminHandler()
	ask := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if strings.Contains(w.Body.String(), "SCANNED") {
			t.Errorf("%s shows what a host sent: %s", path, w.Body)
		}
		return w.Code, w.Body.String()
	}
	for path, want := range map[string]string{
		"/v1/jobs":                            `200 "job_id":"` + id + `"`,
		"/v1/jobs?uid=1000":                   `200 "target_count":5`,
		"/v1/jobs?uid=1001":                   `200 {"jobs":[]}`,
		"/v1/jobs?state=partial":              `200 "reason":"timeout"`,
		"/v1/jobs?state=under_way":            `200 {"jobs":[]}`,
		"/v1/jobs?tool=masscan_scan":          `200 {"jobs":[]}`,
		"/v1/jobs?before=" + id:               `200 {"jobs":[]}`,
		"/v1/jobs?uid=root":                   `400 "field":"uid"`,
		"/v1/jobs?state=done":                 `400 "field":"state"`,
		"/v1/jobs?limit=101":                  `400 "allowed":["1 to 100"]`,
		"/v1/jobs?state=under_way&limit=2000": `200 {"jobs":[]}`,
		"/v1/jobs?state=under_way&limit=2001": `400 "allowed":["1 to 2000"]`,
		"/v1/jobs?limit=all":                  `400 "field":"limit"`,
		"/v1/jobs?before=x":                   `400 "field":"before"`,
		"/v1/jobs?before=" + id[1:] + "b":     `400 "field":"before"`,
		"/v1/jobs/" + id:                      `200 "verdict":{"outcome":"allow","engagement":"lab"`,
		"/v1/jobs/" + strings.Repeat("b", 26): `404 "code":"no_such_job"`,
		"/v1/jobs/nothing":                    `400 "field":"id"`,
		"/v1/status":                          `200 "ended":[{"job_id":"` + id,
		"/v1/nothing":                         `404 `,
	} {
		code, body := ask(path)
		if got := fmt.Sprint(code, " ", body); !strings.HasPrefix(got, want[:4]) || !strings.Contains(body, want[4:]) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	_, body := ask("/v1/jobs")
	var list view.Jobs
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Jobs[0].Targets) != view.MaxTargets {
		t.Errorf("%v %s", err, body)
	}
	_, body = ask("/v1/status")
	var status view.Status
	if err := json.Unmarshal([]byte(body), &status); err != nil || status.Ready || len(status.NotReady) != 1 || status.Launcher != nil {
		t.Errorf("without a launcher: %v %s", err, body)
	}
}
