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
	next string    // as it is to be sent
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

// monotonic is the kernel's clock of that name: systemd compares it with its own.
func monotonic() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // fails for an unknown clock only
	return time.Duration(t.Nano())
}

// Extend asks for so much more time from now for a start or a stop that is under way.
func (s *Service) Extend(d time.Duration) {
	s.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()))
}

// Pause between two lines of status.
const linePause = time.Second

// Status says in one line how things are, when that has changed and at most once a second; Run
// sends what had to wait.
func (s *Service) Status(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = strings.ToValidUTF8(strings.ReplaceAll(line, "\n", "; "), "\uFFFD")
	if wait := s.sendLocked(); wait > 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// sendLocked sends the line if it is another one and may be sent; else it says after which time.
func (s *Service) sendLocked() time.Duration {
	if s.next == s.line {
		return 0
	}
	if wait := linePause - time.Since(s.sent); !s.sent.IsZero() && wait > 0 {
		return wait
	}
	s.line, s.sent = s.next, time.Now()
	s.send("STATUS=" + s.line)
	return 0
}

func (s *Service) flush() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendLocked()
}

// Run sends lines that had to wait, and feeds the watchdog while alive says so, until ctx ends.
// watchdog is the time after which systemd acts (0: it does not): it is fed at half of that, and
// where alive says no, again as soon as it says yes.
func (s *Service) Run(ctx context.Context, watchdog time.Duration, alive func() bool) {
	var feed <-chan time.Time
	if watchdog > 0 {
		feed = time.After(0)
	}
	for {
		var later <-chan time.Time
		if wait := s.flush(); wait > 0 {
			later = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-later:
		case <-feed:
			pause := min(watchdog/2, time.Second)
			if alive() {
				s.send("WATCHDOG=1")
				pause = watchdog / 2
			}
			feed = time.After(pause)
		}
	}
}
