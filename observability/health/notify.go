package health

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Service is what the service manager knows of this process (sd_notify(3)).
type Service struct {
	send func(state string)

	mu   sync.Mutex
	line string    // as it was last sent
	sent time.Time // when it was
	wake chan struct{}
}

// NewService tells by send. Nobody to tell is normal.
func NewService(send func(state string)) *Service {
	return &Service{send: send, wake: make(chan struct{}, 1)}
}

// Ready says that the start, or a reload, is complete.
func (s *Service) Ready() { s.send("READY=1") }

// Stopping says that this process ends. There is no way back from it: whoever may still go on does
// not say it.
func (s *Service) Stopping() { s.send("STOPPING=1") }

// Reloading says that settings are read again, until done is called.
func (s *Service) Reloading() (done func()) {
	s.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic().Microseconds()))
	return s.Ready
}

// monotonic is the kernel's clock of that name, which nobody sets: systemd compares it with its own.
func monotonic() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // fails for an unknown clock only
	return time.Duration(t.Nano())
}

// Extend asks for so much more time from now for a start or a stop that is under way.
func (s *Service) Extend(d time.Duration) {
	s.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()))
}

// linePause is between two lines of status.
const linePause = time.Second

// Status says in one line how things are, if that is another line than the last and the last is a
// second old; what it does not send is forgotten. Whoever has Run uses Changed.
func (s *Service) Status(line string) {
	line = strings.ToValidUTF8(strings.ReplaceAll(line, "\n", "; "), "\uFFFD")
	s.mu.Lock()
	defer s.mu.Unlock()
	if line == s.line || s.waitLocked() > 0 {
		return
	}
	s.line, s.sent = line, time.Now()
	s.send("STATUS=" + s.line)
}

func (s *Service) waitLocked() time.Duration {
	if s.sent.IsZero() {
		return 0
	}
	return linePause - time.Since(s.sent)
}

// Changed has Run make the line of status anew. It waits for nothing and may be called under any lock.
func (s *Service) Changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run sends line when it changes, at most once a second, until ctx ends.
func (s *Service) Run(ctx context.Context, line func() string) {
	for changed := true; ; {
		var later <-chan time.Time
		if changed {
			s.mu.Lock()
			wait := s.waitLocked()
			s.mu.Unlock()
			if wait > 0 {
				later = time.After(wait)
			} else {
				s.Status(line())
				changed = false
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			changed = true
		case <-later:
		}
	}
}

// Feed feeds the watchdog while alive says so, until ctx ends. watchdog is the time after which systemd
// acts (0: it does not): it is fed at a quarter of that, so that what is not well for a moment has the other
// three to be well again, and where alive says no, again as soon as it says yes. It hangs on nothing but alive.
func (s *Service) Feed(ctx context.Context, watchdog time.Duration, alive func() bool) {
	if watchdog <= 0 {
		return
	}
	for {
		pause := min(watchdog/4, time.Second)
		if alive() {
			s.send("WATCHDOG=1")
			pause = watchdog / 4
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
