package front

import (
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// queue is where a job waits, as agents see it.
type queue struct {
	Position       int    `json:"position" jsonschema:"1 begins next"`
	Ahead          int    `json:"ahead" jsonschema:"scans that wait and begin before it"`
	ExpectedStartS int64  `json:"expected_start_s" jsonschema:"in how many seconds it begins, about; scans of other users that come meanwhile can be before it, since users take turns"`
	LatestStartS   *int64 `json:"latest_start_s,omitempty" jsonschema:"likewise, if all that run and wait before it take all the time that they may"`
}

// waits is the same as the launcher said it, at a moment.
type waits struct {
	place int // from 0
	wire.Waiting
	at time.Time
}

// now is what of it is true now; nil: nothing is known, or it is too old.
func (w *waits) now(now time.Time) *queue {
	if w == nil || now.Sub(w.at) > queueKnown {
		return nil
	}
	gone := int64(now.Sub(w.at) / time.Second)
	q := &queue{Position: w.place + 1, Ahead: w.place, ExpectedStartS: max(w.AboutS-gone, 0)}
	if w.LatestS >= 0 {
		latest := max(w.LatestS-gone, 0)
		q.LatestStartS = &latest
	}
	return q
}

// queueKnown is how long what the launcher said of the queue holds. It says it every few seconds.
const queueKnown = 15 * time.Second

// tellQueue tells the jobs that wait where they do.
func (f *front) tellQueue(said []wire.Waiting, at time.Time) {
	places := map[string]int{}
	for i, w := range said {
		places[w.Job] = i
	}
	for _, j := range f.underWayAll() {
		var w *waits
		if place, is := places[j.row.ID]; is {
			w = &waits{place, said[place], at}
		}
		j.mu.Lock()
		if j.record.State == wire.Running || j.record.State == wire.Ended {
			w = nil // what was said of the queue is older
		}
		if (w != nil || j.waits != nil) && !j.isOver() {
			j.waits = w
			j.change()
		}
		j.mu.Unlock()
	}
}
