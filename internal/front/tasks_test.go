package front

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// tasker is a client that takes tasks.
type tasker struct {
	r    *room
	conn net.Conn
	in   *bufio.Reader
	last int
}

func (r *room) tasker(uid uint32) *tasker {
	r.t.Helper()
	conn, _ := r.client(uid)
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	return &tasker{r: r, conn: conn, in: bufio.NewReader(conn)}
}

// ask sends a request; hear is its answer, with progress left out.
func (c *tasker) ask(method, params string) {
	c.r.t.Helper()
	c.last++
	if _, err := fmt.Fprintf(c.conn, `{"jsonrpc":"2.0","id":%d,"method":%q,"params":{%s,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}`+"\n", c.last, method, params); err != nil {
		c.r.t.Fatal(err)
	}
}

func (c *tasker) hear() map[string]any {
	c.r.t.Helper()
	line, err := c.in.ReadString('\n')
	var m map[string]any
	if err == nil {
		err = json.Unmarshal([]byte(line), &m)
	}
	if err != nil {
		c.r.t.Fatal(err)
	}
	if m["id"] != float64(c.last) {
		c.r.t.Fatalf("the answer is %s", line)
	}
	return m
}

func (c *tasker) task(method, id string) map[string]any {
	c.r.t.Helper()
	c.ask(method, fmt.Sprintf(`"taskId":%q`, id))
	return c.hear()
}

// begun is a scan that has become a task, and runs.
func (c *tasker) begun(arguments string) *running {
	c.r.t.Helper()
	c.ask("tools/call", `"name":"nmap_scan","arguments":`+arguments)
	m := c.r.until(func(m wire.Message) bool { return m.Start != nil }).Start
	c.r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq}})
	a := c.hear()
	if at(a, "result", "resultType") != "task" || at(a, "result", "taskId") != m.Job || at(a, "result", "status") != "working" || at(a, "result", "pollIntervalMs") == nil {
		c.r.t.Fatalf("the scan is answered %v", a)
	}
	return c.r.launched(m.Job)
}

// The call is answered before there is anything to tell, and the task comes to what the call would
// have been answered with, for the caller alone, and for tools as well.
func TestAScanIsATaskForWhoeverTakesTasks(t *testing.T) {
	r := newRoom(t)
	c := r.tasker(1000)
	began := time.Now()
	run := c.begun(`{"targets":["10.77.0.10"]}`)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the task was had after %v", took)
	}
	id := run.record.ID
	if a := c.task("tasks/get", id); at(a, "result", "status") != "working" || at(a, "result", "resultType") != "complete" || at(a, "result", "ttlMs") != nil || at(a, "result", "result") != nil {
		t.Errorf("while it runs: %v", a)
	}
	if a := r.call(r.agent(1000, nil), "job_status", map[string]any{"job_id": id}); a["status"] == nil || a["error"] != nil {
		t.Errorf("job_status: %v", a)
	}
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	run.acknowledged()
	a := c.task("tasks/get", id)
	found := at(a, "result", "result", "structuredContent")
	if at(a, "result", "status") != "completed" || at(found, "status") != "completed" || at(found, "job_id") != id || len(at(found, "hosts").([]any)) == 0 {
		t.Errorf("at its end: %v", a)
	}
	if kept, is := at(a, "result", "ttlMs").(float64); !is || kept < time.Hour.Seconds()*1000 {
		t.Errorf("it is kept for %v ms", at(a, "result", "ttlMs"))
	}
	stranger := r.tasker(1001)
	for _, method := range []string{"tasks/get", "tasks/update", "tasks/cancel"} {
		if a := stranger.task(method, id); at(a, "error", "code") != -32602.0 || at(a, "error", "data", "error", "code") != "no_such_task" {
			t.Errorf("%s for another user: %v", method, a)
		}
	}
	for _, method := range []string{"tasks/update", "tasks/cancel"} {
		if a := c.task(method, id); at(a, "result", "resultType") != "complete" || at(a, "result", "taskId") != nil {
			t.Errorf("%s when it is over: %v", method, a)
		}
	}
}

// A call that says how long it waits is answered with the end, if that comes in time.
func TestAScanThatIsWaitedForIsNoTask(t *testing.T) {
	r := newRoom(t)
	c := r.tasker(1000)
	c.ask("tools/call", `"name":"nmap_scan","arguments":`+quick)
	m := r.until(func(m wire.Message) bool { return m.Start != nil }).Start
	r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq}})
	run := r.launched(m.Job)
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	if a := c.hear(); at(a, "result", "resultType") != "complete" || at(a, "result", "structuredContent", "status") != "completed" {
		t.Errorf("%v", a)
	}
}

// A task that is cancelled says so when its scan has ended, and what was found is there for the tools.
func TestACancelledTask(t *testing.T) {
	r := newRoom(t)
	c := r.tasker(1000)
	run := c.begun(`{"targets":["10.77.0.10"]}`)
	id := run.record.ID
	c.ask("tasks/cancel", fmt.Sprintf(`"taskId":%q`, id))
	m := r.until(func(m wire.Message) bool { return m.Cancel != nil }).Cancel
	if m.Job != id {
		t.Errorf("the launcher heard of %s", m.Job)
	}
	r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq}})
	if a := c.hear(); at(a, "result", "resultType") != "complete" || at(a, "result", "status") != nil {
		t.Errorf("%v", a)
	}
	if a := c.task("tasks/get", id); at(a, "result", "status") != "working" {
		t.Errorf("before its scan has ended: %v", a)
	}
	run.write(capture(t, "killed.xml"))
	run.end(wire.Outcome{Reason: wire.Cancelled})
	run.acknowledged()
	if a := c.task("tasks/get", id); at(a, "result", "status") != "cancelled" || at(a, "result", "result") != nil {
		t.Errorf("%v", a)
	}
	if a := r.call(r.agent(1000, nil), "job_result", map[string]any{"job_id": id}); a["status"] != "cancelled" || a["coverage"] == nil {
		t.Errorf("job_result: %v", a)
	}
}

// A cancellation that the launcher does not take is no acknowledgement.
func TestATaskThatCannotBeCancelled(t *testing.T) {
	r := newRoom(t)
	c := r.tasker(1000)
	id := c.begun(`{"targets":["10.77.0.10"]}`).record.ID
	c.ask("tasks/cancel", fmt.Sprintf(`"taskId":%q`, id))
	m := r.until(func(m wire.Message) bool { return m.Cancel != nil }).Cancel
	r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq, Refused: &wire.Refusal{Code: "busy", Reason: "not now", Retryable: true}}})
	if a := c.hear(); at(a, "error", "code") != -32603.0 || at(a, "error", "data", "error", "retryable") != true {
		t.Errorf("%v", a)
	}
}

// What is refused is answered at once, and has no task to ask about that would say otherwise.
func TestARefusedScanIsNoTask(t *testing.T) {
	r := newRoom(t)
	c := r.tasker(1000)
	c.ask("tools/call", `"name":"nmap_scan","arguments":{"targets":["10.77.0.10"]}`)
	m := r.until(func(m wire.Message) bool { return m.Start != nil }).Start
	r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq, Refused: &wire.Refusal{Code: "target_never"}}})
	a := c.hear()
	if at(a, "result", "resultType") != "complete" || at(a, "result", "isError") != true || at(a, "result", "structuredContent", "error", "code") != "target_never" {
		t.Errorf("%v", a)
	}
	a = c.task("tasks/get", m.Job)
	if at(a, "result", "status") != "completed" || at(a, "result", "result", "isError") != true || at(a, "result", "result", "structuredContent", "error", "code") != "target_never" {
		t.Errorf("its job as a task: %v", a)
	}
}

// A result that cannot be read back fails its task, and nothing of what was kept is told.
func TestATaskWithoutAResultHasFailed(t *testing.T) {
	h := newHouse(t)
	h.synced()
	c := h.tasker(1000)
	now := time.Now()
	row := store.Job{ID: someJob, UID: 1000, Tool: "nmap_scan", State: store.Queued, Created: now, Arguments: json.RawMessage(`{}`)}
	if err := h.front.store.Create(context.Background(), row); err != nil {
		t.Fatal(err)
	}
	row.State, row.Ended, row.Result = store.Completed, now, json.RawMessage(`{"hosts":10.0.0.5}`)
	if err := h.front.store.Update(context.Background(), row); err != nil {
		t.Fatal(err)
	}
	a := c.task("tasks/get", someJob)
	if at(a, "result", "status") != "failed" || at(a, "result", "error", "code") != -32603.0 || at(a, "result", "result") != nil || strings.Contains(fmt.Sprint(a), "10.0.0.5") {
		t.Errorf("%v", a)
	}
}

// The user is asked before there is a task, and the task is had with the answer.
func TestATaskThatHasToBeConfirmed(t *testing.T) {
	r := newRoom(t)
	starts := make(chan string, 8)
	go func() {
		for m := range r.inbox {
			reply := wire.Reply{}
			switch {
			case m.Start != nil:
				starts <- m.Start.Consent
				if reply.Seq = m.Start.Seq; m.Start.Consent == "" {
					reply.Refused = &wire.Refusal{Code: wire.ConfirmationNeeded}
				}
			case m.Preview != nil:
				reply.Seq = m.Preview.Seq
				reply.Preview = &wire.Previewed{Verdict: wire.Verdict{Outcome: "allow", Engagement: "lab", Revision: "r1", AddressCount: 1, Rate: 100, LimitS: 60, Confirm: []string{"nmap_scan"}}}
			default:
				continue
			}
			_ = r.conn.Send(wire.Message{Reply: &reply})
		}
	}()
	c := r.tasker(1000)
	say := func(more string) map[string]any {
		c.last++
		fmt.Fprintf(c.conn, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"nmap_scan","arguments":{"targets":["10.77.0.10"]}%s,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}`+"\n", c.last, more)
		return c.hear()
	}
	a := say("")
	state, _ := at(a, "result", "requestState").(string)
	contents, isList := at(a, "result", "content").([]any)
	if at(a, "result", "resultType") != "input_required" || state == "" || at(a, "result", "taskId") != nil || !isList || len(contents) > 0 {
		t.Fatalf("%v", a)
	}
	a = say(`,"requestState":"` + state + `","inputResponses":{"confirm":{"action":"accept","content":{"confirm":true}}}`)
	if at(a, "result", "resultType") != "task" || at(a, "result", "requestState") != nil {
		t.Errorf("%v", a)
	}
	if first, second := <-starts, <-starts; first != "" || second != "lab@r1" {
		t.Errorf("the launcher heard of %q and %q", first, second)
	}
}
