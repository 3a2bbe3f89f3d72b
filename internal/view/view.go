// Package view is what the front shows operators: the JSON of its own socket (admin.sock), as the front
// writes it and the commands read it. What agents and hosts said is in it; who prints it for people cleans it.
package view

import (
	"encoding/json"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// MaxJobs bounds the jobs under way, the last that have ended and the users of a [Status], and a page of [Jobs].
const (
	MaxJobs     = 100
	MaxUnderWay = 2000 // of a list of those under way: more than the launcher has places for
	MaxEnded    = 5
	MaxUsers    = 32
)

// Status is the answer of /v1/status.
type Status struct {
	Version  string       `json:"version"`
	Since    time.Time    `json:"since"`
	At       time.Time    `json:"at"`
	Ready    bool         `json:"ready"`               // it knows of nothing that keeps scans from being asked for; NotReady and Health say what does
	NotReady []string     `json:"not_ready,omitempty"` // why
	Sessions int          `json:"sessions"`
	Users    []User       `json:"users"` // who has sessions: the first MaxUsers, by uid
	Queued   int          `json:"queued"`
	Running  int          `json:"running"`
	Jobs     []Job        `json:"jobs"`  // under way, the oldest first; at most MaxJobs
	Ended    []Job        `json:"ended"` // the last MaxEnded, the newest first
	Space    Space        `json:"space"`
	Gaps     []wire.Gap   `json:"gaps"`             // the front's own
	Launcher *wire.State  `json:"launcher"`         // null: it is not connected
	Health   *wire.Health `json:"health,omitempty"` // the front's; the launcher's is in its state
	HTTP     []HTTP       `json:"http,omitempty"`
}

// HTTP is a listener for HTTP.
type HTTP struct {
	Address string `json:"address"`
	Refused string `json:"refused,omitempty"` // why nobody is served there
}

// User is who has sessions.
type User struct {
	UID      uint32 `json:"uid"`
	Sessions int    `json:"sessions"`
}

// Space is the disk of results, in bytes.
type Space struct {
	Kept     int64 `json:"kept_bytes"`     // results and artefacts
	Allowed  int64 `json:"allowed_bytes"`  // of them: jobs.keep_mib
	Free     int64 `json:"free_bytes"`     // on the disk
	Reserved int64 `json:"reserved_bytes"` // of it: jobs.free_mib
}

// Job is one job in a list, of any user.
type Job struct {
	JobID       string    `json:"job_id"`
	UID         uint32    `json:"uid"`
	Tool        string    `json:"tool"`
	Profile     string    `json:"profile"`
	Engagement  string    `json:"engagement,omitempty"`
	Correlation string    `json:"correlation_id,omitempty"`
	Follows     string    `json:"follows,omitempty"`
	Pinned      string    `json:"pinned,omitempty"`
	State       string    `json:"state"`
	Reason      string    `json:"reason,omitempty"` // what ended it, where that is not that it came to its end
	Targets     []string  `json:"targets"`          // as asked; the first MaxTargets
	TargetCount int       `json:"target_count"`
	Created     time.Time `json:"created"`
	Started     time.Time `json:"started,omitzero"`
	Ended       time.Time `json:"ended,omitzero"`
	Deadline    time.Time `json:"deadline,omitzero"`
	Progress    *Progress `json:"progress,omitempty"`
	Found       *Found    `json:"found,omitempty"` // of one that has ended
}

// MaxTargets bounds those that a list shows of a job.
const MaxTargets = 4

// Progress is how far a job is that runs.
type Progress struct {
	Percent    float64 `json:"percent"`
	Task       string  `json:"task,omitempty"` // the scanner's word for it
	RemainingS int     `json:"remaining_s,omitempty"`
	HostsDone  int     `json:"hosts_done"`
}

// Found is what a job found, in numbers.
type Found struct {
	HostsUp   int   `json:"hosts_up"`
	OpenPorts int   `json:"open_ports"`
	Words     int64 `json:"words,omitempty"` // of a scan by words
	Complete  bool  `json:"complete"`
}

// Jobs is the answer of /v1/jobs.
type Jobs struct {
	Jobs []Job  `json:"jobs"`           // the newest first
	Next string `json:"next,omitempty"` // the cursor of the following page
	// More says how many there are beside these; of those under way alone, which have no pages.
	More int `json:"more,omitempty"`
}

// JobDetail is the answer of /v1/jobs/ID: everything but what was found.
type JobDetail struct {
	Job
	Answer    json.RawMessage `json:"answer"` // as job_status answers its user
	Verdict   wire.Verdict    `json:"verdict"`
	Argv      []string        `json:"argv,omitempty"` // at most MaxArgv words
	ArgvCount int             `json:"argv_count,omitempty"`
	Arguments json.RawMessage `json:"arguments,omitempty"` // none: they were lost with a damaged database
}

// MaxArgv bounds the words of a command line that are shown.
const MaxArgv = 256
