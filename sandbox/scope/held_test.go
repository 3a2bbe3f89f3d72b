package scope

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// There is one launcher in a network namespace. Another one takes nothing away from it, and can
// have the slots when it is gone.
func TestTwoLaunchersDoNotMeet(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		must(t, Reclaim())
		first, err := Open(config)
		must(t, err)
		open := true
		defer func() {
			if open {
				must(t, first.Close())
			}
		}()
		s, err := first.Slot(context.Background(), All(host(allowed)), 0)
		must(t, err)
		me := fmt.Sprint("process ", os.Getpid())
		if err := Reclaim(); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), me) {
			t.Errorf("what runs is reclaimed: %v", err)
		}
		if second, err := Open(config); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), me) {
			t.Errorf("a second one was opened: %v", err)
			if err == nil {
				must(t, second.Close())
			}
		}
		must(t, errors.Join(s.Check(), reaches(s.netns, allowed)))
		must(t, s.Close())
		must(t, first.Close())
		open = false
		openNet(t)
	})
}

// The name is free to all, and whoever squats on it is named.
func TestWhoeverHasTheNameAndIsNoLauncherIsNamed(t *testing.T) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: holdName}))
	if err := Reclaim(); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "nobody says which") {
		t.Errorf("got %v", err)
	}
	aside(func() {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			err = errno
			return
		}
		err = unix.Listen(fd, 0)
	})
	must(t, err)
	if err := Reclaim(); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("got %v", err)
	}
}
