package front

import (
	"encoding/json"
	"sync"
)

// statuses keeps what job_status answers about jobs that are over. Agents ask again and again; such
// an answer is made of the whole report, and changes no more until the job is removed.
type statuses struct {
	mu    sync.Mutex
	round int // counts removals
	kept  map[statusKey]status
}

type statusKey struct {
	uid uint32
	id  string
}

// status is an answer, and the result of a call as it goes over the wire, which has it twice.
type status struct{ text, whole json.RawMessage }

const (
	maxStatuses = 64
	maxStatus   = 64 << 10 // bytes of one that is kept
)

// get returns an answer, or an empty one and what put wants of whoever makes it.
func (s *statuses) get(uid uint32, id string) (status, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[statusKey{uid, id}], s.round
}

// put keeps an answer, unless jobs have been removed since get.
func (s *statuses) put(uid uint32, id string, answer status, round int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(answer.text)+len(answer.whole) > maxStatus || round != s.round {
		return
	}
	if s.kept == nil || len(s.kept) >= maxStatuses {
		s.kept = map[statusKey]status{}
	}
	s.kept[statusKey{uid, id}] = answer
}

// forget drops all: jobs have been removed.
func (s *statuses) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = nil
	s.round++
}

// readyStatus is what job_status answers about a job that runs, as it goes over the wire. It is made
// once for each change of the job, of which agents ask many times.
func (j *job) readyStatus() json.RawMessage {
	j.mu.Lock()
	kept, changed := j.status, j.changed
	j.mu.Unlock()
	if kept != nil {
		return kept
	}
	whole, err := result(j.now().brief(), nil)
	if err != nil {
		return nil
	}
	text := encode(whole)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.changed == changed && len(text) <= maxStatus {
		j.status = text
	}
	return text
}
