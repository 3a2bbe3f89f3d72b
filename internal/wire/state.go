package wire

import "time"

// State is what the launcher says of itself: to the front when their connection opens, within a
// second of a change and every few seconds, and to operators who ask. All of it is bounded, and in
// words of ours.
type State struct {
	Version  string    `cbor:"version" json:"version"`
	Since    time.Time `cbor:"since" json:"since"`       // when this launcher started
	At       time.Time `cbor:"at" json:"at"`             // when this was so
	Front    bool      `cbor:"front" json:"front"`       // it is connected; it need not be while nothing is under way
	Clients  int       `cbor:"clients" json:"clients"`   // connections of agents, and tokens of HTTP that are in use
	Tokens   int       `cbor:"tokens" json:"tokens"`     // of HTTP, in force
	Slots    int       `cbor:"slots" json:"slots"`       // scans at once
	Running  int       `cbor:"running" json:"running"`   // slots that are taken
	Waiting  int       `cbor:"waiting" json:"waiting"`   // scans that wait for one, or for their part of a budget
	Budget   int       `cbor:"budget" json:"budget"`     // packets a second of all scans together; 0: no bound
	Reserved int       `cbor:"reserved" json:"reserved"` // of it, by scans that run
	Filter   string    `cbor:"filter,omitempty" json:"filter,omitempty"`
	Gaps     []Gap     `cbor:"gaps,omitempty" json:"gaps,omitempty"` // layers that are not in force, at most MaxList
	Counters Counters  `cbor:"counters" json:"counters"`
	Breakers Breakers  `cbor:"breakers" json:"breakers"`
	Health   *Health   `cbor:"health,omitempty" json:"health,omitempty"`
	// Queue is who waits, in the order in which they would enter if nobody else came; the first
	// MaxQueue.
	Queue []Waiting `cbor:"queue,omitempty" json:"queue,omitempty"`
	// Pending is scans that wait for an operator's approval: the first MaxPendingShown, and how many there are.
	Pending      []Awaited `cbor:"pending,omitempty" json:"pending,omitempty"`
	PendingCount int       `cbor:"pending_count,omitempty" json:"pending_count,omitempty"`
	// Draining is set while no new scan is taken, Unfinished how many were accepted and have not ended, and Replaced
	// says that another version of the program is there and waits for them.
	Draining   *Draining `cbor:"draining,omitempty" json:"draining,omitempty"`
	Unfinished int       `cbor:"unfinished" json:"unfinished"`
	Replaced   bool      `cbor:"replaced,omitempty" json:"replaced,omitempty"`
}

// MaxQueue bounds the waiting scans that a state lists. Waiting beside them is exact.
const MaxQueue = 256

// Waiting is a scan that waits at the gate. When it begins is what follows from what is known of those
// before it; who comes later can be served before it, since users take turns.
type Waiting struct {
	Job string `cbor:"job" json:"job_id"`
	// AboutS is in how many seconds it begins if each takes as long as is expected of it, LatestS if
	// each takes all its time. -1: not known.
	AboutS  int64 `cbor:"about_s" json:"about_s"`
	LatestS int64 `cbor:"latest_s" json:"latest_s"`
}

// Counters are what the launcher counts of itself; scans are counted where their results are kept.
type Counters struct {
	Audit   AuditFigures `cbor:"audit" json:"audit"`
	Process Process      `cbor:"process" json:"process"`
}

// AuditFigures are those of the audit log.
type AuditFigures struct {
	Records    uint64 `cbor:"records" json:"records"`                           // since it was begun
	Bytes      int64  `cbor:"bytes" json:"bytes"`                               // of all its files
	Files      int    `cbor:"files" json:"files"`                               //
	Pending    int    `cbor:"pending,omitempty" json:"pending,omitempty"`       // records that wait until it can be written
	Unwritable bool   `cbor:"unwritable,omitempty" json:"unwritable,omitempty"` // the last attempt to write it failed, or the last probe
}
