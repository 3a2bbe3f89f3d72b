package journal

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How often one message without an event is written: so many, then so many a second. Who makes it be
// said, by connections that are refused, say, could else fill the journal, or have it drop what others
// look for. Events are of what is bounded itself.
const (
	sameBurst     = 60
	samePerSecond = 1
	maxMessages   = 256 // that are told apart; they are ours
)

// sparing leaves out what is said too often, and says how much that was.
type sparing struct {
	slog.Handler
	said *said
}

type said struct {
	now func() time.Time

	mu   sync.Mutex
	each map[string]*often
}

type often struct {
	limiter *rate.Limiter
	left    int // out since it was last written
}

func newSparing(h slog.Handler) sparing {
	return sparing{h, &said{now: time.Now, each: map[string]*often{}}}
}

func (h sparing) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sparing{h.Handler.WithAttrs(attrs), h.said}
}

func (h sparing) WithGroup(name string) slog.Handler {
	return sparing{h.Handler.WithGroup(name), h.said}
}

func (h sparing) Handle(ctx context.Context, r slog.Record) error {
	event := false
	r.Attrs(func(a slog.Attr) bool {
		_, event = a.Value.Any().(*Event)
		return !event
	})
	if event {
		return h.Handler.Handle(ctx, r)
	}
	left, ok := h.said.again(r.Message)
	if !ok {
		return nil
	}
	if left > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out", left))
	}
	return h.Handler.Handle(ctx, r)
}

// again says whether a message may be written now, and how often it was left out before.
func (s *said) again(message string) (left int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.each[message]
	if o == nil {
		if len(s.each) >= maxMessages {
			clear(s.each)
		}
		o = &often{limiter: rate.NewLimiter(samePerSecond, sameBurst)}
		s.each[message] = o
	}
	if !o.limiter.AllowN(s.now(), 1) {
		o.left++
		return 0, false
	}
	left, o.left = o.left, 0
	return left, true
}
