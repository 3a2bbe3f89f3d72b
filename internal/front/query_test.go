package front

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// keepScan puts a job into the store as commit does.
func (h *house) keepScan(uid uint32, c scanOfTest) string {
	h.t.Helper()
	row := c.job(h.t)
	ended := row
	row.UID, row.Created = uid, time.Now()
	if err := h.front.store.Create(context.Background(), row); err != nil {
		h.t.Fatal(err)
	}
	record, r, err := unpack(ended)
	if err != nil {
		h.t.Fatal(err)
	}
	ended.UID, ended.Summary = uid, encode(summarise(record, r))
	ended.Rows, ended.Looked = rowsOf(ended, record, r), lookedOf(runners.BuiltIn(), ended, record, r).kept()
	if err := h.front.store.Update(context.Background(), ended); err != nil {
		h.t.Fatal(err)
	}
	return ended.ID
}

func TestQuestionsAboutResults(t *testing.T) {
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	first := h.keepScan(1000, scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "22 open ssh", "80 open http nginx 1.18") + up("10.0.0.2", "", "80 closed http") + up("10.0.0.3", "closed"), verdict: allowed(3, "10.0.0.1/32", "10.0.0.2/31")})
	cut := h.keepScan(1000, scanOfTest{scans: "22,80", hosts: up("10.0.0.4", "", "80 open http"), outcome: wire.Outcome{Reason: wire.Timeout, Usage: wire.Usage{SentPackets: 9}}})
	failed := h.keepScan(1000, scanOfTest{report: &report.Report{Hosts: []report.Host{}}, outcome: wire.Outcome{Reason: wire.Launch}})
	h.keepScan(1001, scanOfTest{scans: "22,80,443", hosts: up("10.0.0.1", "", "443 open https", "80 open http")})
	words := report.Report{Scanner: "gobuster", Finished: true, ExitOK: true, Hosts: []report.Host{{Addr: netip.MustParseAddr("10.0.0.1"), Status: "up", Ports: []report.Port{},
		Found: []report.Found{{Path: "/admin", Status: 301, Untrusted: &report.FoundText{Location: "/admin/"}}, {Path: "/index.html", Status: 200}}}},
		Coverage: report.Coverage{Up: 1, Whole: true, Requests: &report.Requests{Mode: "dir", Asked: 4, Made: 4, Found: 2}}}
	paths := h.keepScan(1000, scanOfTest{tool: "gobuster_scan", arguments: `{"url":"http://10.0.0.1:8080/"}`, report: &words, verdict: allowed(1, "10.0.0.1/32")})
	for _, c := range []struct {
		says, arguments string
		want            map[string]any // by path
		next            string
	}{
		{"all rows of all jobs of the caller", `{}`, map[string]any{"count": 6.0, "over.jobs": 4.0, "over.states": map[string]any{"completed": 2.0, "partial": 1.0, "failed": 1.0}, "over.complete": 2.0}, "2 of 4 jobs were not complete"},
		{"open ports", `{"state":"open"}`, map[string]any{"count": 3.0, "over.did_not_look": map[string]any{"nothing_sent": 1.0, "no_ports": 1.0}}, "counts once for each"},
		{"of one job", `{"state":"open","job_id":"` + first + `"}`, map[string]any{"count": 2.0, "over.complete": 1.0, "over.states": map[string]any{"completed": 1.0}}, "This is all."},
		{"of one host", `{"host":"10.0.0.4"}`, map[string]any{"count": 1.0, "rows.0.port": 80.0, "rows.0.job_id": cut}, "not complete"},
		{"of a network", `{"host":"10.0.0.0/30","port":80}`, map[string]any{"count": 2.0}, "not complete"},
		{"top values", `{"by":"port"}`, map[string]any{"values.0.value": "80", "values.0.count": 3.0, "distinct": 3.0}, ""},
		{"what hosts say is marked", `{"by":"product"}`, map[string]any{"values.0.untrusted.value": "nginx", "values.0.value": nil, "notice": notice}, ""},
		{"in rows, too", `{"service":"http","state":"open","job_id":"` + first + `"}`, map[string]any{"rows.0.untrusted.product": "nginx", "rows.0.job_id": nil, "notice": notice}, "This is all."},
		{"paths by code", `{"status":301}`, map[string]any{"count": 1.0, "rows.0.name": "/admin", "rows.0.port": 8080.0, "rows.0.untrusted.location": "/admin/", "over.did_not_look.no_words": 2.0}, ""},
		{"paths by a part of them", `{"name":"index"}`, map[string]any{"count": 1.0, "rows.0.name": "/index.html", "rows.0.job_id": paths}, ""},
		{"a port that nobody asked for is not closed", `{"port":443}`, map[string]any{"count": 0.0, "over.looked": 1.0, "over.did_not_look.port_not_asked": 2.0}, ""},
		{"a failed scan has found nothing, which is no finding", `{"job_id":"` + failed + `"}`, map[string]any{"count": 0.0, "over.looked": 0.0, "over.states": map[string]any{"failed": 1.0}}, "this is not a finding of none"},
		{"nor has a cut one of what it did not come to", `{"job_id":"` + cut + `","host":"10.0.0.6"}`, map[string]any{"count": 0.0, "over.did_not_look.not_reached": 1.0, "over.incomplete.0.cut_by": "timeout", "over.incomplete.0.not_reached": 7.0}, "this is not a finding of none"},
		{"none, and somebody looked", `{"job_id":"` + first + `","host":"10.0.0.3"}`, map[string]any{"count": 0.0, "over.looked": 1.0}, "Jobs that looked there: 1 of 1. They list none."},
		{"one job of another user's is none", `{"job_id":"` + someJob + `"}`, map[string]any{"error.code": "no_such_job"}, ""},
		{"all faults at once", `{"port":0,"host":"x","by":"nothing","stat":1}`, map[string]any{"faults_total": 4.0}, ""},
		{"a cursor belongs to rows", `{"by":"port","cursor":"` + someJob + `.1.1.abcdefgh"}`, map[string]any{"error.field": "cursor", "error.code": "conflict"}, ""},
		{"a cursor of nobody's", `{"cursor":"` + someJob + `.1.1.` + markOf(store.Question{}) + `"}`, map[string]any{"error.field": "cursor", "error.code": "bad_value"}, ""},
	} {
		answer := h.call(s, "result_query", json.RawMessage(c.arguments))
		for path, want := range c.want {
			if got := atPath(answer, path); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %s is %v, not %v\n%s", c.says, path, got, want, encode(answer))
			}
		}
		if next := fmt.Sprint(answer["next"]); c.next != "" && !strings.Contains(next, c.next) {
			t.Errorf("%s: next is %q", c.says, next)
		}
	}
	// Pages are all rows, once.
	seen, cursor := []string{}, ""
	for range 10 {
		arguments := map[string]any{"limit": 1}
		if cursor != "" {
			arguments["cursor"] = cursor
		}
		answer := h.call(s, "result_query", arguments)
		for _, row := range answer["rows"].([]any) {
			seen = append(seen, fmt.Sprint(at(row, "host"), at(row, "port"), at(row, "name")))
		}
		if cursor, _ = answer["next_cursor"].(string); cursor == "" {
			break
		}
		other := h.call(s, "result_query", map[string]any{"proto": "tcp", "cursor": cursor})
		if at(other, "error", "code") != "bad_value" || at(other, "error", "field") != "cursor" {
			t.Errorf("a cursor of another question: %s", encode(other))
		}
		if wider := h.call(s, "result_query", map[string]any{"limit": 50, "cursor": cursor}); wider["error"] != nil {
			t.Errorf("a cursor with a longer page: %s", encode(wider))
		}
	}
	if slices.Sort(seen); len(seen) != 6 || len(slices.Compact(seen)) != 6 {
		t.Error(seen)
	}
}

// Where nobody looked nothing is said to be none, whatever is found elsewhere.
func TestQuestionsAboutWhatNobodyAskedFor(t *testing.T) {
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	hosts := up("10.0.0.1", "", "22 open ssh") + down("10.0.0.2") + down("10.0.0.3")
	ports := h.keepScan(1000, scanOfTest{scans: "22,80", hosts: hosts, verdict: allowed(3, "10.0.0.1/32", "10.0.0.2/31")})
	detected := h.keepScan(1000, scanOfTest{arguments: `{"targets":["10.0.0.0/29"],"ports":[22,80],"service_detection":true}`, scans: "22,80", hosts: hosts, verdict: allowed(3, "10.0.0.1/32", "10.0.0.2/31")})
	nobody := h.keepScan(1000, scanOfTest{scans: "22,80", hosts: down("10.0.0.1"), verdict: allowed(1, "10.0.0.1/32")})
	ping := h.keepScan(1000, scanOfTest{arguments: `{"targets":["10.0.0.0/29"],"scan_type":"ping"}`, hosts: up("10.0.0.1", "")})
	for _, c := range []struct {
		says, arguments string
		count, looked   float64
		why             string // "": it looked
		next            string
	}{
		{"a host that is down", `{"host":"10.0.0.2","job_id":"` + ports + `"}`, 0, 0, "down", "not a finding of none"},
		{"a network of which all is down", `{"host":"10.0.0.2/31","port":22,"job_id":"` + ports + `"}`, 0, 0, "down", "not a finding of none"},
		{"one of which somebody is up", `{"host":"10.0.0.0/30","port":80,"job_id":"` + ports + `"}`, 0, 1, "", "Jobs that looked there: 1 of 1."},
		{"a scan that found nobody", `{"state":"open","job_id":"` + nobody + `"}`, 0, 0, "down", "not a finding of none"},
		{"a scan of no ports", `{"state":"open","job_id":"` + ping + `"}`, 0, 0, "port_not_asked", "not a finding of none"},
		{"products that were not asked for, of ports that were found", `{"by":"product","job_id":"` + ports + `"}`, 1, 0, "service_not_asked", "1 of 1 jobs did not ask which service it is"},
		{"products that were asked for, and there are none", `{"by":"product","job_id":"` + detected + `"}`, 1, 1, "", "This is all."},
	} {
		answer := h.call(s, "result_query", json.RawMessage(c.arguments))
		if answer["count"] != c.count || atPath(answer, "over.looked") != c.looked || !strings.Contains(fmt.Sprint(answer["next"]), c.next) ||
			c.why != "" && atPath(answer, "over.did_not_look."+c.why) != 1.0 || c.why == "" && atPath(answer, "over.did_not_look") != nil {
			t.Errorf("%s: %s", c.says, encode(answer))
		}
	}
}

// A question that gets no turn within its time says so.
func TestAQuestionThatGetsNoTurn(t *testing.T) {
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	h.front.searching <- struct{}{}
	if answer := h.call(s, "result_query", map[string]any{}); atPath(answer, "error.code") != "busy" || atPath(answer, "error.retryable") != true {
		t.Errorf("%s", encode(answer))
	}
	<-h.front.searching
	if answer := h.call(s, "result_query", map[string]any{}); answer["count"] != 0.0 {
		t.Errorf("%s", encode(answer))
	}
}

// A job that ends ahead of the cursor is on no page that follows, and that is said.
func TestAJobEndsWhileItsUserReads(t *testing.T) {
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	scan := scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "22 open ssh", "80 open http"), verdict: allowed(1, "10.0.0.1/32")}
	h.keepScan(1000, scan)
	page := func(cursor string) (next, says string, rows int) {
		arguments := map[string]any{"limit": 1}
		if cursor != "" {
			arguments["cursor"] = cursor
		}
		answer := h.call(s, "result_query", arguments)
		next, _ = answer["next_cursor"].(string)
		return next, fmt.Sprint(answer["next"]), len(answer["rows"].([]any))
	}
	cursor, _, _ := page("")
	if next, says, rows := page(cursor); next != "" || rows != 1 || says != "This is all." {
		t.Errorf("%d rows, %q, %q", rows, next, says)
	}
	h.keepScan(1000, scan)
	if next, says, rows := page(cursor); next != "" || rows != 1 || !strings.Contains(says, "2 rows are on no page") {
		t.Errorf("%d rows, %q, %q", rows, next, says)
	}
}

// atPath walks an answer by names and indices with dots between.
func atPath(v any, path string) any {
	for _, step := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[step]
		case []any:
			var i int
			if _, err := fmt.Sscan(step, &i); err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

// A job that is under way is neither searched nor compared nor pinned, and one that is pinned is found by its name.
func TestScansAreComparedByIDOrName(t *testing.T) {
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	old := h.keepScan(1000, scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "22 open ssh")})
	now := h.keepScan(1000, scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "22 open ssh", "80 open http")})
	theirs := h.keepScan(1001, scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "22 open ssh")})
	out, run := h.begin(s, `{"targets":["10.77.0.10"],"wait_s":0}`)
	underWay := h.object(<-out)["job_id"]
	code := func(tool string, arguments map[string]any) any {
		return at(h.call(s, tool, arguments), "error", "code")
	}
	for says, got := range map[string]struct{ is, want any }{
		"a job under way is not searched":   {code("result_query", map[string]any{"job_id": underWay}), "under_way"},
		"nor compared":                      {code("scan_diff", map[string]any{"before": old, "after": underWay}), "under_way"},
		"nor pinned":                        {code("job_pin", map[string]any{"job_id": underWay, "name": "x"}), "under_way"},
		"another user's job is none":        {code("scan_diff", map[string]any{"before": old, "after": theirs}), "no_such_job"},
		"nor can it be pinned":              {code("job_pin", map[string]any{"job_id": theirs, "name": "x"}), "no_such_job"},
		"a name that nothing has":           {code("scan_diff", map[string]any{"before": "base", "after": now}), "no_such_job"},
		"nor is it unpinned":                {code("job_pin", map[string]any{"name": "base"}), "no_such_pin"},
		"a job_id is no name":               {code("job_pin", map[string]any{"name": someJob, "job_id": old}), "bad_value"},
		"a job is pinned":                   {at(h.call(s, "job_pin", map[string]any{"name": "base", "job_id": old}), "job_id"), old},
		"all that is under way is told":     {at(h.call(s, "result_query", map[string]any{}), "over", "under_way"), 1.0},
		"a cursor of other jobs is refused": {code("scan_diff", map[string]any{"before": old, "after": now, "cursor": "aaaaaaaa.bbbbbbbb.1"}), "bad_value"},
	} {
		if got.is != got.want {
			t.Errorf("%s: %v", says, got.is)
		}
	}
	answer := h.call(s, "scan_diff", map[string]any{"before": "base", "after": now})
	if answer["appeared"] != 1.0 || at(answer, "before", "name") != "base" || atPath(answer, "changes.0.port") != 80.0 || atPath(answer, "changes.0.after.state") != "open" {
		t.Errorf("%v", answer)
	}
	for _, row := range h.call(s, "job_list", map[string]any{})["jobs"].([]any) {
		if pinned := at(row, "pinned"); at(row, "job_id") == old && pinned != "base" || at(row, "job_id") != old && pinned != nil {
			t.Errorf("%v", row)
		}
	}
	if next := fmt.Sprint(h.call(s, "job_pin", map[string]any{"name": "base", "job_id": old})["next"]); strings.Contains(next, "before") || strings.Contains(next, "had") {
		t.Errorf("nothing was unpinned: %q", next)
	}
	h.call(s, "job_pin", map[string]any{"name": "newer", "job_id": now})
	if next := fmt.Sprint(h.call(s, "job_pin", map[string]any{"name": "base", "job_id": now})["next"]); !strings.Contains(next, "Job "+old+" had this name") || !strings.Contains(next, `pinned as "newer" before`) {
		t.Errorf("what was unpinned is not told: %q", next)
	}
	h.call(s, "job_pin", map[string]any{"name": "base"})
	if got := code("scan_diff", map[string]any{"before": "base", "after": now}); got != "no_such_job" {
		t.Error(got)
	}
	run.end(exited)
	run.acknowledged()
}

// What an earlier version kept is searched once its rows have been made, which the next start does; a job of which none can
// be made does not keep an older one from it.
func TestResultsOfAnEarlierVersionAreSearched(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	r.scanned(s, quick, allowed(1, "10.77.0.10/32"), capture(t, "connect.xml"), exited)
	ask := func(s *mcp.ClientSession) string {
		answer := r.call(s, "result_query", map[string]any{"state": "open", "by": "port"})
		delete(answer["over"].(map[string]any), "under_way")
		delete(answer["over"].(map[string]any), "not_searched")
		delete(answer, "next")
		return string(encode(answer))
	}
	kept := ask(s)
	r.scanned(s, quick, allowed(1, "10.77.0.10/32"), capture(t, "connect.xml"), exited)
	newest := r.call(s, "job_list", map[string]any{})["jobs"].([]any)[0].(map[string]any)["job_id"].(string)
	if !strings.Contains(kept, `"count":11,`) {
		t.Error(kept)
	}
	r.close()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(r.dir, "jobs.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("DELETE FROM columns; DELETE FROM searched; CREATE TRIGGER damaged BEFORE INSERT ON searched WHEN NEW.job = '" + newest + "' BEGIN SELECT RAISE(ABORT, 'damaged'); END"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	r.open()
	s = r.agent(1000, nil)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if ask(s) == kept {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it was\n%s\nand is\n%s", kept, ask(s))
		}
	}
}

// The answer that a caller has by default fits a model, however much was found.
func TestTheDefaultAnswerIsShort(t *testing.T) {
	const most = 2000 // tokens, of 4 bytes each
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	var hosts strings.Builder
	for i := range 1024 {
		var ports []string
		for p := range 100 {
			ports = append(ports, fmt.Sprintf("%d open http", 1000+p))
		}
		hosts.WriteString(up(fmt.Sprintf("10.0.%d.%d", i/256, i%256), "closed", ports...))
	}
	id := h.keepScan(1000, scanOfTest{scans: "22", arguments: `{"targets":["10.0.0.0/22"],"ports":["1000-1099"]}`, hosts: hosts.String(), verdict: allowed(1024, "10.0.0.0/22")})
	nothing := h.keepScan(1000, scanOfTest{report: &report.Report{Hosts: []report.Host{}}, outcome: wire.Outcome{Reason: wire.Launch}})
	for _, c := range []struct{ tool, arguments string }{
		{"job_result", `{"job_id":"` + id + `"}`},
		{"job_status", `{"job_id":"` + id + `"}`},
		{"job_list", `{}`},
		{"result_query", `{}`},
		{"result_query", `{"by":"port"}`},
		{"scan_diff", `{"before":"` + id + `","after":"` + id + `"}`},
		{"scan_diff", `{"before":"` + id + `","after":"` + nothing + `"}`},
	} {
		answer := h.call(s, c.tool, json.RawMessage(c.arguments))
		n := len(encode(answer)) / 4
		t.Logf("%s %s: %d tokens", c.tool, c.arguments, n)
		if answer["error"] != nil || n > most {
			t.Errorf("%s: %d tokens", c.tool, n)
		}
	}
}
