package wire

import "time"

// Why no new scan is taken; also the codes of the refusals.
const (
	Stopping = "stopping" // the launcher is being stopped
	Drained  = "draining" // an operator said so
)

// Drain has the launcher take no new scan, or take them again.
type Drain struct {
	Off    bool `cbor:"off,omitempty"`
	Cancel bool `cbor:"cancel,omitempty"` // end all that there are, too
}

// Draining says that no new scan is taken.
type Draining struct {
	Why   string    `cbor:"why" json:"why"` // Stopping, Drained
	Since time.Time `cbor:"since" json:"since"`
	Until time.Time `cbor:"until,omitzero" json:"until,omitzero"` // when what runs is ended; zero: it is not
	By    *uint32   `cbor:"by,omitempty" json:"by_uid,omitempty"` // the operator's uid
}
