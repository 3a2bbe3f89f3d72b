package wire

import (
	"fmt"
	"slices"
	"time"
)

// What keeps a breaker: a tool, by its name, or a network of targets, by its prefix.
const (
	BreakerOfTool    = "tool"
	BreakerOfNetwork = "network"
)

const (
	// MaxBreakers bounds the breakers of tools that the launcher's state tells of, MaxBroken those of
	// networks; the counts beside them are exact.
	MaxBreakers = 32
	MaxBroken   = 16
	// MaxListed bounds those that one answer to an operator lists.
	MaxListed = 100
	// MaxMoments bounds the changes of one breaker that are kept and told, MaxFailures the
	// failures.
	MaxMoments  = 100
	MaxFailures = 10
)

// Breakers is what the launcher says of its breakers: those of the tools, and of the networks
// those that are not closed.
type Breakers struct {
	Enabled  bool      `cbor:"enabled" json:"enabled"`
	Tools    []Breaker `cbor:"tools,omitempty" json:"tools"`       // all, by name; the first MaxBreakers
	Networks []Breaker `cbor:"networks,omitempty" json:"networks"` // not closed, by name; the first MaxBroken
	// The networks that have a breaker, by its state.
	Closed   int `cbor:"closed" json:"networks_closed"`
	Open     int `cbor:"open" json:"networks_open"`
	HalfOpen int `cbor:"half_open" json:"networks_half_open"`
	// OfNetworks counts for all networks together, also for those whose breakers are forgotten.
	OfNetworks BreakerCounts `cbor:"of_networks" json:"of_networks"`
}

// Breaker is one breaker. Its counts never fall.
type Breaker struct {
	Name   string    `cbor:"name" json:"name"` // nmap_scan, 192.0.2.0/24
	Kind   string    `cbor:"kind" json:"kind"` // tool, network
	State  string    `cbor:"state" json:"state"`
	Forced bool      `cbor:"forced,omitempty" json:"forced,omitempty"` // opened by an operator
	Since  time.Time `cbor:"since,omitzero" json:"since,omitzero"`     // its last change; zero: it has never changed
	// RetryAfterS is for how many seconds it refuses: 0 where it does not, or where only an operator
	// closes it.
	RetryAfterS int64         `cbor:"retry_after_s,omitempty" json:"retry_after_s,omitempty"`
	Failures    int           `cbor:"failures,omitempty" json:"failures_in_a_row"`
	Successes   int           `cbor:"successes,omitempty" json:"successes_in_a_row"`
	Probes      int           `cbor:"probes,omitempty" json:"probes,omitempty"`           // under way
	Reason      string        `cbor:"reason,omitempty" json:"last_failure,omitempty"`     // of the last failure, one of the reasons for which jobs end
	Failed      time.Time     `cbor:"failed,omitzero" json:"last_failure_at,omitzero"`    // when that was
	Succeeded   time.Time     `cbor:"succeeded,omitzero" json:"last_success_at,omitzero"` // when the last success was
	Counts      BreakerCounts `cbor:"counts" json:"counts"`
}

// BreakerCounts is what has come to a breaker, from its beginning on.
type BreakerCounts struct {
	Success  uint64 `cbor:"success,omitempty" json:"success"`
	Failure  uint64 `cbor:"failure,omitempty" json:"failure"`
	Rejected uint64 `cbor:"rejected,omitempty" json:"rejected"`
	// Changes are its changes of state, by from and to: at most six.
	Changes []BreakerChanges `cbor:"changes,omitempty" json:"transitions,omitempty"`
}

// BreakerChanges is how often a breaker went from one state to another.
type BreakerChanges struct {
	From  string `cbor:"from" json:"from"`
	To    string `cbor:"to" json:"to"`
	Count uint64 `cbor:"count" json:"count"`
}

// BreakerDetail is all that is kept of one breaker.
type BreakerDetail struct {
	Breaker Breaker `cbor:"breaker" json:"breaker"`
	// The settings that hold for it.
	Threshold        int     `cbor:"threshold" json:"failure_threshold"`
	SuccessThreshold int     `cbor:"success_threshold" json:"success_threshold"`
	RecoveryS        int64   `cbor:"recovery_s" json:"initial_timeout_s"`
	CurrentS         int64   `cbor:"current_s" json:"current_timeout_s"`
	MaxRecoveryS     int64   `cbor:"max_recovery_s" json:"max_timeout_s"`
	Multiplier       float64 `cbor:"multiplier" json:"timeout_multiplier"`
	Probes           int     `cbor:"probes" json:"probes_at_once"`
	// SuccessRate is the part of what was counted that went well, 0 to 1; AverageMS is how long one
	// of them took.
	SuccessRate float64         `cbor:"success_rate" json:"success_rate"`
	AverageMS   int64           `cbor:"average_ms" json:"average_ms"`
	Reasons     []BreakerReason `cbor:"reasons,omitempty" json:"failure_reasons"` // by count
	Recent      []BreakerFailed `cbor:"recent,omitempty" json:"recent_failures"`  // newest last, at most MaxFailures
	History     []BreakerMoment `cbor:"history,omitempty" json:"state_history"`   // newest last, at most MaxMoments
}

// BreakerReason is how often something failed for a reason.
type BreakerReason struct {
	Reason string `cbor:"reason" json:"reason"`
	Count  uint64 `cbor:"count" json:"count"`
}

// BreakerFailed is one failure.
type BreakerFailed struct {
	At     time.Time `cbor:"at" json:"at"`
	Reason string    `cbor:"reason" json:"reason"`
	Job    string    `cbor:"job,omitempty" json:"job_id,omitempty"`
}

// BreakerMoment is one change of a breaker.
type BreakerMoment struct {
	At   time.Time `cbor:"at" json:"at"`
	From string    `cbor:"from" json:"from"`
	To   string    `cbor:"to" json:"to"`
	Why  string    `cbor:"why" json:"why"` // one of our words
}

// What an operator can have done with breakers.
const (
	BreakerList  = "list"
	BreakerShow  = "show"
	BreakerOpen  = "open"
	BreakerClose = "close"
)

// MaxForS bounds for how long an operator opens a breaker, in seconds; one that is not to close by
// itself has no bound.
const MaxForS = 30 * 24 * 3600

// BreakerOrder is an operator's order about breakers.
type BreakerOrder struct {
	Do    string `cbor:"do"`              // list, show, open, close
	Name  string `cbor:"name,omitempty"`  // of one, but to list: a tool, a network, an address in it
	ForS  int64  `cbor:"for_s,omitempty"` // to open, for so many seconds; 0: until it is closed
	After string `cbor:"after,omitempty"` // to list those after this one
}

func (o *BreakerOrder) check() error {
	switch {
	case !slices.Contains([]string{BreakerList, BreakerShow, BreakerOpen, BreakerClose}, o.Do):
		return fmt.Errorf("breaker: %.20q is not one of list, show, open, close", o.Do)
	case len(o.Name) > maxBreakerName || len(o.After) > maxBreakerName:
		return fmt.Errorf("breaker: a name is longer than %d bytes", maxBreakerName)
	case o.ForS < 0 || o.ForS > MaxForS || o.ForS > 0 && o.Do != BreakerOpen:
		return fmt.Errorf("breaker: %d seconds to %s", o.ForS, o.Do)
	}
	return nil
}

// maxBreakerName bounds a name in bytes: of a tool 64, of a network 43.
const maxBreakerName = 128

// BreakerPage is a part of the list of all breakers, tools first.
type BreakerPage struct {
	Enabled  bool      `cbor:"enabled" json:"enabled"`
	Breakers []Breaker `cbor:"breakers,omitempty" json:"breakers"`
	Total    int       `cbor:"total" json:"total"`
	Next     string    `cbor:"next,omitempty" json:"-"` // what After is for the next part; empty: there is none
}
