package front

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
)

// What a job that waits is told of the queue goes with the time, is old after a while, and is over once
// it runs.
func TestWhereAJobWaits(t *testing.T) {
	f := &front{jobs: map[string]*job{}}
	j := newJob(runners.BuiltIn(), store.Job{ID: "b", State: store.Queued, Tool: nmapTool})
	f.jobs["b"] = j
	said := []wire.Waiting{{Job: "a", AboutS: 5, LatestS: 50}, {Job: "b", AboutS: 20, LatestS: 200}}
	queued := func() string {
		text, err := json.Marshal(j.underWay().Queue)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if got := queued(); got != "null" {
		t.Errorf("at first: %s", got)
	}
	first := j.changed
	f.tellQueue(said, time.Now())
	select {
	case <-first:
	default:
		t.Error("nobody who waits for news was woken")
	}
	if got := queued(); got != `{"position":2,"ahead":1,"expected_start_s":20,"latest_start_s":200}` {
		t.Errorf("%s", got)
	}
	if a := j.underWay(); a.PollAfterS != 20 {
		t.Errorf("to be asked for again after %d s", a.PollAfterS)
	}
	if got := j.message(); got != "queued, 1 to begin before it, in about 20 s" {
		t.Errorf("%s", got)
	}
	for gone, want := range map[time.Duration]string{
		3 * time.Second:  "{2 1 17 197}",
		14 * time.Second: "{2 1 6 186}",
		time.Minute:      "unknown",
	} {
		got := "unknown"
		if q := j.waits.now(time.Now().Add(gone)); q != nil {
			got = fmt.Sprint("{", q.Position, " ", q.Ahead, " ", q.ExpectedStartS, " ", *q.LatestStartS, "}")
		}
		if got != want {
			t.Errorf("after %s: %s, want %s", gone, got, want)
		}
	}
	f.tellQueue([]wire.Waiting{{Job: "b", AboutS: 1, LatestS: -1}}, time.Now())
	if got := queued(); got != `{"position":1,"ahead":0,"expected_start_s":1}` {
		t.Errorf("%s", got)
	}
	f.tellQueue(nil, time.Now())
	if got := queued(); got != "null" {
		t.Errorf("of no queue: %s", got)
	}
	f.tellQueue(said, time.Now())
	j.record.State, j.row.State = wire.Running, store.Running
	f.tellQueue(said, time.Now()) // older than its record
	if got := queued(); got != "null" || j.waits != nil {
		t.Errorf("while it runs: %s", got)
	}
	var none *waits
	if none.now(time.Now()) != nil {
		t.Error("something is known of nothing")
	}
}
