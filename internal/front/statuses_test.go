package front

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// What job_status answers twice is the same, is its caller's alone, and is gone with the job.
func TestAStatusThatIsKeptGoesWithItsJob(t *testing.T) {
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	out, run := h.begin(s, quick)
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	id := h.object(<-out)["job_id"].(string)
	run.acknowledged()
	first := h.call(s, "job_status", map[string]any{"job_id": id})
	if first["status"] != "completed" {
		t.Fatalf("%v", first)
	}
	if kept, _ := h.front.statuses.get(1000, id); kept.text == nil {
		t.Error("it is not kept")
	}
	if diff := cmp.Diff(first, h.call(s, "job_status", map[string]any{"job_id": id})); diff != "" {
		t.Errorf("the second time:\n%s", diff)
	}
	if a := h.call(h.agent(1001, nil), "job_status", map[string]any{"job_id": id}); at(a, "error", "code") != "no_such_job" {
		t.Errorf("for another user: %v", a)
	}
	h.front.keeps(func(l *store.Limits) { *l = store.Limits{Jobs: 100, Bytes: 1 << 30, Age: time.Nanosecond} })
	h.front.prune(context.Background())
	if a := h.call(s, "job_status", map[string]any{"job_id": id}); at(a, "error", "code") != "no_such_job" {
		t.Errorf("after it was removed: %v", a)
	}
}

// A status that is kept is answered byte for byte as the SDK answers the same call, which a request
// state makes it do, and what is asked otherwise is answered by the SDK alone.
func TestAKeptStatusIsWhatTheSDKSays(t *testing.T) {
	h := newHouse(t)
	h.synced()
	out, run := h.begin(h.agent(1000, nil), quick)
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	id := h.object(<-out)["job_id"].(string)
	run.acknowledged()
	job := `"name":"job_status","arguments":{"job_id":"` + id + `"`
	var first string
	for _, params := range []string{job + `}`, job + `}`, job + `},"_meta":{"progressToken":"p"}`, job + `,"wait_s":5}`, job + `,"wait_s":99}`, job + `,"x":"<&>"}`,
		`"name":"job_status","arguments":{"job_id":"` + newJobID() + `"}`, `"name":"job_status","arguments":{"job_id":7}`, `"name":"job_status"`,
		`"name":"job_result","arguments":{"job_id":"` + id + `"}`} {
		for _, uid := range []uint32{1000, 1001} {
			conn, _ := h.client(uid)
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			in, lines := bufio.NewReader(conn), []string(nil)
			for _, said := range []string{`"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}`,
				`"method":"tools/call","params":{` + params + `}`, `"method":"tools/call","params":{` + params + `,"requestState":""}`} {
				if _, err := fmt.Fprintf(conn, `{"jsonrpc":"2.0","id":"<1>",%s}`+"\n", said); err != nil {
					t.Fatal(err)
				}
				line, err := in.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, line)
			}
			if lines[1] != lines[2] {
				t.Errorf("uid %d, %s\nis answered %s\nby the SDK %s", uid, params, lines[1], lines[2])
			}
			if first == "" {
				first = lines[1] // the SDK's, too: nothing was kept
			}
			if params == job+`}` && uid == 1000 && lines[1] != first {
				t.Errorf("is answered %s\nat first %s", lines[1], first)
			}
			ctx := context.WithValue(context.Background(), sessionKey{}, &session{client: wire.Client{UID: uid}})
			kept := h.front.ready(ctx, "job_status", json.RawMessage(`{"job_id":"`+id+`"}`))
			if mine := uid == 1000; mine != (kept != nil) || mine && first != `{"jsonrpc":"2.0","id":"<1>","result":`+string(kept)+"}\n" {
				t.Errorf("kept for uid %d: %s", uid, kept)
			}
		}
	}
}

// The log says what the store could not do, and the client that it was no fault of its own.
func TestAFailureOfTheStoreIsLoggedByItsStage(t *testing.T) {
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	if err := h.front.store.Close(); err != nil {
		t.Fatal(err)
	}
	if a := <-start(context.Background(), s, "job_list", nil); a.err == nil || !strings.Contains(a.err.Error(), "internal error") {
		t.Errorf("%+v", a)
	}
	if _, err := s.ReadResource(context.Background(), &mcp.ReadResourceParams{URI: "secmcpd://jobs/" + someJob + "/result"}); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a resource that may be there: %v", err)
	}
	if log := h.log.String(); !strings.Contains(log, `why="cannot list jobs: `) {
		t.Errorf("the log: %s", log)
	}
	damaged := store.Job{ID: "a", Record: json.RawMessage(`{"id":10.0.0.5}`)}
	_, err := h.front.finished(damaged, query{Limit: 1})
	var at interface{ Stage() string }
	if !errors.As(err, &at) || at.Stage() != "cannot read job a back: *json.SyntaxError" {
		t.Errorf("%v says %v", err, at)
	}
}

func TestStatusesAreBounded(t *testing.T) {
	var s statuses
	_, round := s.get(1, "a")
	s.forget()
	s.put(1, "a", status{text: json.RawMessage(`{}`)}, round) // made before the removal
	s.put(1, "b", status{make(json.RawMessage, 1), make(json.RawMessage, maxStatus)}, round+1)
	if len(s.kept) != 0 {
		t.Errorf("%d are kept", len(s.kept))
	}
	for i := range uint32(3 * maxStatuses) {
		if s.put(i, "a", status{text: json.RawMessage(`{}`)}, round+1); len(s.kept) > maxStatuses {
			t.Fatalf("%d are kept", len(s.kept))
		}
	}
}

// What is said of a job that runs is what the SDK says, byte for byte, and nobody's whose it is not;
// what has to be waited for is not ready.
func TestTheStatusOfARunningJobIsReady(t *testing.T) {
	h := newHouse(t)
	h.synced()
	out, run := h.begin(h.agent(1000, nil), quick)
	id := run.record.ID
	for deadline := time.Now().Add(10 * time.Second); h.kept(id).State != store.Running; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not run")
		}
	}
	ready := func(uid uint32, arguments string) string {
		ctx := context.WithValue(context.Background(), sessionKey{}, &session{client: wire.Client{UID: uid}})
		return string(h.front.ready(ctx, "job_status", json.RawMessage(arguments)))
	}
	job := `{"job_id":"` + id + `"}`
	conn, _ := h.client(1000)
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	in, lines := bufio.NewReader(conn), []string(nil)
	for _, said := range []string{`"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}`,
		`"method":"tools/call","params":{"name":"job_status","arguments":` + job + `}`, `"method":"tools/call","params":{"name":"job_status","arguments":` + job + `,"requestState":""}`} {
		if _, err := fmt.Fprintf(conn, `{"jsonrpc":"2.0","id":1,%s}`+"\n", said); err != nil {
			t.Fatal(err)
		}
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	if want := `{"jsonrpc":"2.0","id":1,"result":` + ready(1000, job) + "}\n"; lines[1] != want || lines[2] != want || !strings.Contains(want, `"status":"running"`) {
		t.Errorf("ready is   %sanswered is %sby the SDK  %s", want, lines[1], lines[2])
	}
	for _, c := range []struct {
		uid       uint32
		arguments string
	}{{1001, job}, {1000, `{"job_id":"` + id + `","wait_s":1}`}, {1000, `{"job_id":"` + someJob + `"}`}, {1000, `{}`}} {
		if got := ready(c.uid, c.arguments); got != "" {
			t.Errorf("for %d, %s, ready is %s", c.uid, c.arguments, got)
		}
	}
	run.record.Deadline = time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC)
	run.show()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(ready(1000, job), `"deadline":"2031-01-02T03:04:05Z"`); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("what has changed is not told: %s", ready(1000, job))
		}
	}
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	<-out
	run.acknowledged()
	if got := ready(1000, job); got != "" {
		t.Errorf("when it is over, ready is %s", got)
	}
}

// So it is without a session, for a scan that is over and one that runs.
func TestAKeptStatusWithoutASessionIsWhatTheSDKSays(t *testing.T) {
	h := newHouse(t)
	h.synced()
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}`
	out, run := h.begin(h.agent(1000, nil), quick)
	job := `"name":"job_status","arguments":{"job_id":"` + run.record.ID + `"},` + meta
	conn, _ := h.client(1000)
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	ask := func(said string) string {
		t.Helper()
		if _, err := fmt.Fprintf(conn, `{"jsonrpc":"2.0","id":1,%s}`+"\n", said); err != nil {
			t.Fatal(err)
		}
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	ask(`"method":"tools/list","params":{` + meta + `}`)
	same := func(status string) {
		t.Helper()
		ours, theirs := ask(`"method":"tools/call","params":{`+job+`}`), ask(`"method":"tools/call","params":{`+job+`,"requestState":""}`)
		if ours != theirs || !strings.Contains(ours, `"status":"`+status+`"`) || !strings.Contains(ours, `"resultType":"complete"`) {
			t.Errorf("%s: is answered %sby the SDK %s", status, ours, theirs)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); h.kept(run.record.ID).State != store.Running && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	same("running")
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	<-out
	run.acknowledged()
	same("completed")
	same("completed") // it is kept by now
}
