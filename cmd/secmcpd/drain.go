package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// drainCommand has the daemon take no new scan, before an upgrade most often.
func drainCommand(s *surroundings) *cobra.Command {
	var off, cancel, asJSON bool
	var wait time.Duration
	c := &cobra.Command{
		Use: "drain", Short: "take no new scan, before an upgrade say, and show what is left", Args: noArgs,
		Long: `Have the launcher refuse new scans (draining, to be asked again) until --off or its next start. Those
that it has accepted go on, also those that wait; --cancel ends them, with what they have.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if off && (cancel || wait > 0) {
				return usage(c, errors.New("--off goes with nothing else"))
			}
			a, err := s.launcherAsk(c.Context(), wire.Order{Drain: &wire.Drain{Off: off, Cancel: cancel}})
			if err != nil {
				return err
			}
			if off && !asJSON {
				_, err := fmt.Fprintln(s.stdout, "New scans are taken again.")
				return err
			}
			for until := time.Now().Add(wait); a.State != nil && a.State.Unfinished > 0 && time.Now().Before(until); {
				select {
				case <-c.Context().Done():
					return context.Cause(c.Context())
				case <-time.After(time.Second):
				}
				if a, err = s.launcherAsk(c.Context(), wire.Order{Look: &wire.Look{}}); err != nil {
					return err
				}
			}
			if a.State == nil {
				return errors.New("the launcher has answered something else")
			}
			n := a.State.Unfinished
			if asJSON {
				left := drainedState{Draining: a.State.Draining, Unfinished: n, Running: a.State.Running}
				if err := s.printJSON(left); err != nil || n == 0 || wait == 0 {
					return err
				}
				return exitError{exitFailed, nil}
			}
			if n > 0 {
				fmt.Fprintf(s.stdout, "No new scan is taken. Scans that have not ended: %d, of which %d run.\n", n, a.State.Running)
				if wait > 0 {
					return exitError{exitFailed, nil}
				}
				return nil
			}
			_, err = fmt.Fprintln(s.stdout, "No new scan is taken, and none is left.")
			return err
		},
	}
	jsonFlag(c, &asJSON)
	c.Flags().BoolVar(&off, "off", false, "take new scans again")
	c.Flags().BoolVar(&cancel, "cancel", false, "end all scans, too")
	c.Flags().DurationVar(&wait, "wait", 0, "wait for so long until none is left; exit with 1 if some are")
	return c
}

// drainedState is what is left, for programs. Draining is null where new scans are taken.
type drainedState struct {
	Draining   *wire.Draining `json:"draining"`
	Unfinished int            `json:"unfinished"`
	Running    int            `json:"running"`
}

// secondSignal is closed by the second signal that ends this program: whoever sends it does not want to wait for
// scans.
func secondSignal() <-chan struct{} {
	signals, second := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		<-signals
		close(second)
	}()
	return second
}

// replaced tells whether another file is now where this program was started from.
func replaced() func() bool {
	path, err := os.Executable()
	mine, err2 := os.Stat("/proc/self/exe")
	if errors.Join(err, err2) != nil {
		return nil
	}
	return func() bool {
		now, err := os.Stat(path)
		return err == nil && !os.SameFile(mine, now)
	}
}
