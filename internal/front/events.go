package front

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/runners/report"
)

// Events tell whoever listens what becomes of jobs, as they happen. The last of them are kept, so that
// a listener that was away for a moment hears what it has missed, or that there was something.

const (
	eventsKept = 2048 // of all users
	// Streams at once: of all, and of one user.
	maxStreams       = 64
	maxStreamsOfUser = 8

	eventPause     = time.Second      // between two reports of a job's progress
	eventHeartbeat = 15 * time.Second // of a stream without an event
	eventWrite     = 5 * time.Second  // until a listener has taken what it is told
	eventRetry     = 3 * time.Second  // until a listener whose stream has ended comes back
)

// The kinds of events.
const (
	jobQueued   = "job.queued"
	jobRunning  = "job.running"
	jobProgress = "job.progress"
	jobEnded    = "job.ended"
	eventGap    = "gap" // what was between is not known here any more
)

// jobEvent is what is told of a job. Nothing of it is a scanner's or an agent's text.
type jobEvent struct {
	Job        string    `json:"job_id"`
	UID        uint32    `json:"uid"`
	Tool       string    `json:"tool"`
	State      string    `json:"state"`
	Reason     string    `json:"reason,omitempty"` // for which it ended
	Engagement string    `json:"engagement,omitempty"`
	Percent    *float64  `json:"percent,omitempty"`       // of what the scanner is at, for the hosts at hand
	Remaining  int       `json:"remaining_s,omitempty"`   // seconds, of that, as the scanner guesses
	Hosts      int       `json:"hosts_through,omitempty"` // hosts that are through
	At         time.Time `json:"at"`
}

// event is one as it is kept.
type event struct {
	id   uint64
	uid  uint32
	kind string
	data []byte
}

// events is what has happened lately, and who listens.
type events struct {
	mu      sync.Mutex
	last    uint64  // the id of the newest; those of a later life of the front are larger
	kept    []event // the oldest first
	changed chan struct{}
	over    chan struct{} // closed when the streams are to end
	streams int
	ofUser  map[uint32]int
}

// newEvents begins the ids where no earlier life has been: none has had a million events a second.
func newEvents(now time.Time) *events {
	return &events{last: uint64(now.UnixMicro()), changed: make(chan struct{}), over: make(chan struct{}), ofUser: map[uint32]int{}}
}

// tell adds an event, and wakes who listens.
func (e *events) tell(kind string, about jobEvent) {
	about.At = time.Now().UTC()
	data := encode(about)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	if len(e.kept) >= eventsKept {
		e.kept = append(e.kept[:0], e.kept[eventsKept/4:]...)
	}
	e.kept = append(e.kept, event{id: e.last, uid: about.UID, kind: kind, data: data})
	close(e.changed)
	e.changed = make(chan struct{})
}

// since are the events after an id that a listener may hear (all, where everybody is true), the id that
// they go up to, and whether there were others between that are not kept. changed is closed by the next.
func (e *events) since(id uint64, uid uint32, everybody bool) (news []event, upTo uint64, gap bool, changed chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	oldest := e.last + 1
	if len(e.kept) > 0 {
		oldest = e.kept[0].id
	}
	gap = id+1 < oldest || id > e.last
	for _, one := range e.kept {
		if (id > e.last || one.id > id) && (everybody || one.uid == uid) {
			news = append(news, one)
		}
	}
	return news, e.last, gap, e.changed
}

// open counts a stream, or says that there is no room for it.
func (e *events) open(uid uint32, everybody bool) (over chan struct{}, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.streams >= maxStreams || !everybody && e.ofUser[uid] >= maxStreamsOfUser {
		return nil, false
	}
	e.streams++
	if !everybody {
		e.ofUser[uid]++
	}
	return e.over, true
}

func (e *events) close(uid uint32, everybody bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.streams--
	if everybody {
		return
	}
	if e.ofUser[uid]--; e.ofUser[uid] == 0 {
		delete(e.ofUser, uid)
	}
}

// endStreams ends the streams that there are.
func (e *events) endStreams() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.over)
	e.over = make(chan struct{})
}

func (e *events) listening() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.streams
}

// stream tells events of one user, or everybody's, until the listener goes away, does not take them, or
// ctx ends.
func (e *events) stream(ctx context.Context, w http.ResponseWriter, r *http.Request, uid uint32, everybody bool) {
	from, resumed, ok := lastEvent(r)
	if !ok {
		refuseHTTP(w, http.StatusBadRequest, refusalOf("bad_event_id", "Last-Event-ID is no id of an event", "leave it out to hear what happens from now on"))
		return
	}
	if r.Method == http.MethodHead { // it would be held open for nothing to be heard
		w.Header().Set("Content-Type", "text/event-stream")
		return
	}
	over, ok := e.open(uid, everybody)
	if !ok {
		w.Header().Set("Retry-After", "10")
		refuseHTTP(w, http.StatusTooManyRequests, refusalOf("too_many_streams", fmt.Sprintf("%d streams of one user, %d in all", maxStreamsOfUser, maxStreams), "close one"))
		return
	}
	defer e.close(uid, everybody)
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // the request is here; that its client goes away is still seen
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("Connection", "close")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	say := func(text string) bool {
		_ = out.SetWriteDeadline(time.Now().Add(eventWrite))
		_, err := w.Write([]byte(text))
		return err == nil && out.Flush() == nil
	}
	if !resumed {
		_, from, _, _ = e.since(0, uid, everybody)
	}
	if !say(fmt.Sprintf("retry: %d\n\n", eventRetry.Milliseconds())) {
		return
	}
	beat := time.NewTicker(eventHeartbeat)
	defer beat.Stop()
	for {
		news, upTo, gap, changed := e.since(from, uid, everybody)
		text := ""
		if gap {
			text = fmt.Sprintf("event: %s\ndata: {\"after\":%d}\n\n", eventGap, from)
			if len(news) == 0 { // it has heard all that there is; else it says so when it has
				text = fmt.Sprintf("id: %d\n", upTo) + text
			}
		}
		for _, one := range news {
			text += fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", one.id, one.kind, one.data)
		}
		if text != "" && !say(text) {
			return
		}
		from = upTo
		select {
		case <-changed:
		case <-beat.C:
			if !say(":\n\n") {
				return
			}
		case <-over:
			return
		case <-r.Context().Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// lastEvent is where a listener was; not ok: it says so in no form of ours.
func lastEvent(r *http.Request) (id uint64, resumed, ok bool) {
	said := r.Header.Get("Last-Event-ID")
	if said == "" {
		return 0, false, true
	}
	id, err := strconv.ParseUint(said, 10, 63)
	return id, true, err == nil
}

// tellJob tells what has become of a job. It needs j.mu.
func (f *front) tellJob(kind string, j *job, state string) {
	about := jobEvent{Job: j.row.ID, UID: j.row.UID, Tool: j.row.Tool, State: state, Engagement: j.row.Engagement}
	if kind == jobEnded && j.record.Outcome != nil {
		about.Reason = j.record.Outcome.Reason
	}
	f.events.tell(kind, about)
}

// tellProgress tells how far a job is, now and then. It needs j.mu.
func (f *front) tellProgress(j *job, p report.Progress) {
	now := time.Now()
	if now.Sub(j.told) < eventPause {
		return
	}
	j.told = now
	f.events.tell(jobProgress, jobEvent{Job: j.row.ID, UID: j.row.UID, Tool: j.row.Tool, State: string(store.Running), Engagement: j.row.Engagement,
		Percent: &p.Percent, Remaining: p.Remaining, Hosts: p.Hosts})
}
