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
	kept  map[statusKey]json.RawMessage
}

type statusKey struct {
	uid uint32
	id  string
}

const (
	maxStatuses = 256
	maxStatus   = 16 << 10 // bytes of one that is kept
)

// get returns an answer, or nil and what put wants of whoever makes it.
func (s *statuses) get(uid uint32, id string) (json.RawMessage, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[statusKey{uid, id}], s.round
}

// put keeps an answer, unless jobs have been removed since get.
func (s *statuses) put(uid uint32, id string, text json.RawMessage, round int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(text) > maxStatus || round != s.round {
		return
	}
	if s.kept == nil || len(s.kept) >= maxStatuses {
		s.kept = map[statusKey]json.RawMessage{}
	}
	s.kept[statusKey{uid, id}] = text
}

// forget drops all: jobs have been removed.
func (s *statuses) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = nil
	s.round++
}
