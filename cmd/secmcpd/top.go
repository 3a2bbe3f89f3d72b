package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// topCommand is the status again and again, on a terminal.
func topCommand(s *surroundings) *cobra.Command {
	var interval time.Duration
	c := &cobra.Command{
		Use: "top", Short: "the status, again and again", Args: noArgs,
		Long: "The status, again and again, on a terminal; q ends it. Where standard output is no terminal, once.",
		RunE: func(c *cobra.Command, _ []string) error {
			if interval < 500*time.Millisecond || interval > time.Hour {
				return usage(c, fmt.Errorf("--interval: got %s; allowed: 500ms to 1h", interval))
			}
			in, is := s.stdin.(*os.File)
			if !is || !term.IsTerminal(int(in.Fd())) || !screenOf(s.stdout).terminal {
				return s.frame(c.Context())
			}
			return s.watch(c.Context(), in, interval)
		},
	}
	c.Flags().DurationVarP(&interval, "interval", "n", 2*time.Second, "how often, 500ms to 1h")
	return c
}

// frame prints one screen.
func (s *surroundings) frame(ctx context.Context) error {
	r, err := s.look(ctx)
	if err != nil {
		return err
	}
	sc := screenOf(s.stdout)
	now := time.Now()
	text := strings.TrimSuffix(r.page(sc, now, userName), "\n")
	if sc.terminal {
		all := strings.Split(sc.paint(faint, cutTo(now.Format("15:04:05")+"  q ends", sc.width))+"\n"+text, "\n")
		if sc.height > 1 && len(all) >= sc.height { // a line of a terminal's last row would scroll it
			all = all[:sc.height-1]
		}
		// In raw mode a line feed goes down, and not to the left.
		text = "\x1b[H" + strings.Join(all, "\x1b[K\r\n") + "\x1b[K\x1b[J"
	} else {
		text += "\n"
	}
	_, err = io.WriteString(s.stdout, text)
	return err
}

// keyLook is how long a key is waited for before the context is looked at.
const keyLook = 100 * time.Millisecond

// watch prints frames until q, and leaves the terminal as it was.
func (s *surroundings) watch(ctx context.Context, in *os.File, interval time.Duration) (err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP, syscall.SIGQUIT) // beside those that end any command
	defer stop()
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("cannot take the terminal: %w", err)
	}
	// Another screen, without a cursor; the old one is there again afterwards.
	_, err = io.WriteString(s.stdout, "\x1b[?1049h\x1b[?25l\x1b[2J")
	defer func() {
		_, last := io.WriteString(s.stdout, "\x1b[?25h\x1b[?1049l")
		err = errors.Join(err, last, term.Restore(int(in.Fd()), before))
	}()
	for err == nil {
		if err = s.frame(ctx); err != nil {
			return err
		}
		for next := time.Now().Add(interval); time.Now().Before(next); {
			key, err := keyWithin(in, keyLook)
			if err != nil || key == 'q' || key == 'Q' || key == 3 || ctx.Err() != nil { // 3: Ctrl-C
				return err
			}
			if key == ' ' || key == 'r' {
				break
			}
		}
	}
	return err
}

// keyWithin reads a key if one is pressed within a time; 0: none was. The end of input is q.
func keyWithin(in *os.File, d time.Duration) (byte, error) {
	fds := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(d.Milliseconds()))
	if n == 0 || errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read the terminal: %w", err)
	}
	var b [1]byte
	if n, err := in.Read(b[:]); err != nil || n == 0 {
		return 'q', nil
	}
	return b[0], nil
}
