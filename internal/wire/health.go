package wire

import (
	"time"

	"github.com/secmcpd/secmcpd/observability/health"
)

// MaxReasons bounds the reasons of a Health.
const MaxReasons = 8

// Health is how a room is, as observability/health sums it up. Its words are ours.
type Health struct {
	Status  string        `cbor:"status" json:"status"` // healthy, degraded, unhealthy
	Live    bool          `cbor:"live" json:"live"`
	Ready   bool          `cbor:"ready" json:"ready"`
	Reasons []string      `cbor:"reasons,omitempty" json:"reasons,omitempty"` // at most MaxReasons, the worst first
	Checks  []HealthCheck `cbor:"checks,omitempty" json:"checks"`
}

// HealthCheck is one thing that was looked at.
type HealthCheck struct {
	Name       string            `cbor:"name" json:"name"`
	Status     string            `cbor:"status" json:"status"`
	Priority   string            `cbor:"priority" json:"priority"` // critical, important, informational
	Message    string            `cbor:"message,omitempty" json:"message,omitempty"`
	At         time.Time         `cbor:"at,omitzero" json:"at,omitzero"` // zero: not looked at yet
	DurationMS int64             `cbor:"duration_ms" json:"duration_ms"`
	Metadata   map[string]string `cbor:"metadata,omitempty" json:"metadata,omitempty"`
}

// maxHealthMetadata bounds the metadata of all checks together, in bytes: a state has other parts, too.
const maxHealthMetadata = 12 << 10

// HealthOf is a report in this form.
func HealthOf(r health.Report) *Health {
	h := &Health{Status: string(r.Status), Live: r.Live, Ready: r.Ready, Reasons: r.Reasons[:min(len(r.Reasons), MaxReasons)]}
	said := 0
	for _, s := range r.Checks {
		for k, v := range s.Metadata {
			said += len(k) + len(v)
		}
		if said > maxHealthMetadata {
			s.Metadata = nil
		}
		h.Checks = append(h.Checks, HealthCheck{Name: s.Name, Status: string(s.Status), Priority: string(s.Priority), Message: s.Message,
			At: s.At, DurationMS: s.Took.Milliseconds(), Metadata: s.Metadata})
	}
	return h
}
