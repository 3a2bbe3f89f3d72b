package wire

import "fmt"

// Reload asks the launcher to read the configuration again, for both rooms: all of it is taken, or
// nothing. Wait waits for one that is under way; without it there is a refusal then.
type Reload struct {
	Wait bool `cbor:"wait,omitempty"`
}

// Reloaded says what came of a Reload. Without Faults, Restart and Front all of it is in force.
type Reloaded struct {
	Faults      []string `cbor:"faults,omitempty" json:"faults,omitempty"` // of files and settings: the first MaxFaults
	FaultsCount int      `cbor:"faults_count,omitempty" json:"faults_count,omitempty"`
	Restart     []string `cbor:"restart,omitempty" json:"restart,omitempty"` // keys that have changed, for which it takes a restart; the first MaxList
	Front       string   `cbor:"front,omitempty" json:"front,omitempty"`     // why the front takes none of it, in our words
	FrontSays   []string `cbor:"front_says,omitempty" json:"front_says,omitempty"`
	// What is in force now.
	Changed  []string `cbor:"changed,omitempty" json:"changed,omitempty"` // keys, the first MaxList
	Warnings []string `cbor:"warnings,omitempty" json:"warnings,omitempty"`
}

// Well says that all of it is in force.
func (r Reloaded) Well() bool {
	return r.FaultsCount == 0 && len(r.Restart) == 0 && r.Front == ""
}

// Bounds of what is told of a reload.
const (
	MaxFaults    = 32
	MaxFaultText = 512 // bytes
	maxDigest    = 64
)

// Reread has the front read the configuration again. First it only reads, and answers HasRead; what
// it has read then it takes up when Apply says so, and answers again.
type Reread struct {
	Seq    uint64 `cbor:"seq"`
	Digest string `cbor:"digest"` // of the files that the launcher has read
	Apply  bool   `cbor:"apply,omitempty"`
}

// HasRead answers Reread. With faults the front has taken nothing, and will not.
type HasRead struct {
	Seq    uint64   `cbor:"seq"`
	Other  bool     `cbor:"other,omitempty"` // what it read were not the same files: they are being changed
	Faults []string `cbor:"faults,omitempty"`
}

// Signal says that the front was sent SIGHUP: it asks for a reload.
type Signal struct{}

func (r *Reread) check() error {
	if len(r.Digest) > maxDigest {
		return fmt.Errorf("digest: %d bytes, at most %d", len(r.Digest), maxDigest)
	}
	return nil
}

func (r *HasRead) check() error {
	if len(r.Faults) > MaxFaults {
		return fmt.Errorf("faults: %d, at most %d", len(r.Faults), MaxFaults)
	}
	for _, f := range r.Faults {
		if len(f) > MaxFaultText {
			return fmt.Errorf("faults: one has %d bytes, at most %d", len(f), MaxFaultText)
		}
	}
	return nil
}
