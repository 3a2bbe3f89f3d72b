package wire

import (
	"fmt"
	"time"
)

const (
	// MaxPending bounds the scans that wait for an operator's approval, MaxPendingPerUID those of one user.
	MaxPending       = 64
	MaxPendingPerUID = 8
	// MaxPendingShown bounds those that a [State] shows.
	MaxPendingShown = 8
	// MaxReason bounds an operator's reason, in bytes.
	MaxReason = 200
)

// Pending asks for the scans that wait for an approval.
type Pending struct{}

// Show asks for all that an operator would approve of one job.
type Show struct {
	Job string `cbor:"job"`
}

// Approve approves one job, once. Digest is that of what the operator was shown, whole.
type Approve struct {
	Job    string `cbor:"job"`
	Digest string `cbor:"digest"`
}

// Deny refuses a job that waits for an approval.
type Deny struct {
	Job    string `cbor:"job"`
	Reason string `cbor:"reason,omitempty"` // the operator's words; agents are told them
}

// Awaited is a scan that waits for an approval, as lists show it.
type Awaited struct {
	Job        string    `cbor:"job" json:"job_id"`
	UID        uint32    `cbor:"uid" json:"uid"`
	Tool       string    `cbor:"tool" json:"tool"`
	Profile    string    `cbor:"profile" json:"profile"`
	Engagement string    `cbor:"engagement" json:"engagement"`
	Why        string    `cbor:"why" json:"why"` // what makes the approval necessary, cut
	Asked      time.Time `cbor:"asked" json:"asked"`
	Expires    time.Time `cbor:"expires" json:"expires"`
	Digest     string    `cbor:"digest" json:"digest"`
}

// Exact is what an operator approves: the exact command, where it may send to, and within which limits. Its
// lists hold as many entries as a message does; the counts are exact, and the digest is of all of them.
type Exact struct {
	Awaited
	GID          uint32    `cbor:"gid" json:"gid"`
	PID          int32     `cbor:"pid" json:"pid"`
	Revision     string    `cbor:"revision" json:"revision"`
	Rule         string    `cbor:"rule" json:"rule"`
	Of           []string  `cbor:"of" json:"of"` // what makes the approval necessary
	Self         bool      `cbor:"self" json:"self"`
	Targets      []string  `cbor:"targets" json:"targets"` // as asked
	TargetsCount int       `cbor:"targets_count" json:"targets_count"`
	Addresses    []string  `cbor:"addresses" json:"addresses"` // prefixes that may be sent to
	Prefixes     int       `cbor:"prefixes" json:"prefixes"`
	AddressCount uint64    `cbor:"address_count" json:"address_count"`
	Ports        []string  `cbor:"ports,omitempty" json:"ports,omitempty"` // that may be sent to at each; none: all, and ICMP
	PortsCount   int       `cbor:"ports_count" json:"ports_count"`
	Argv         []string  `cbor:"argv" json:"argv"`
	ArgvCount    int       `cbor:"argv_count" json:"argv_count"`
	Scanner      Scanner   `cbor:"scanner" json:"scanner"`
	Wordlist     *Wordlist `cbor:"wordlist,omitempty" json:"wordlist,omitempty"`
	Rate         int       `cbor:"rate" json:"rate"`       // packets a second
	LimitS       int64     `cbor:"limit_s" json:"limit_s"` // seconds it may take
	Packets      int64     `cbor:"packets" json:"packets"` // expected
	ExpectedS    int64     `cbor:"expected_s" json:"expected_s"`
}

// Approval is what a job waits for that an operator has to approve, and what became of it.
type Approval struct {
	Of      []string  `cbor:"of" json:"of"`         // what makes it necessary, at most MaxList
	Digest  string    `cbor:"digest" json:"digest"` // of the exact command
	Expires time.Time `cbor:"expires" json:"expires"`
	// Given is when it was approved, and By the uid of who did.
	Given time.Time `cbor:"given,omitzero" json:"approved,omitzero"`
	By    *uint32   `cbor:"by,omitempty" json:"by_uid,omitempty"`
}

// Waits says that nobody has approved yet.
func (a *Approval) Waits() bool { return a != nil && a.Given.IsZero() }

func (o *Order) checkApproval() error {
	switch {
	case o.Show != nil:
		return checkJobID(o.Show.Job)
	case o.Approve != nil:
		if len(o.Approve.Digest) != 64 {
			return fmt.Errorf("digest: %d bytes, 64 are one", len(o.Approve.Digest))
		}
		return checkJobID(o.Approve.Job)
	case o.Deny != nil:
		if len(o.Deny.Reason) > MaxReason {
			return fmt.Errorf("reason: %d bytes, at most %d", len(o.Deny.Reason), MaxReason)
		}
		return checkJobID(o.Deny.Job)
	}
	return nil
}
