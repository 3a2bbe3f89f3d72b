package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/front"
	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/runners"
)

// again reads the configuration again for a role that has begun with some settings.
type again struct {
	from    sources
	begun   settings                 // what no reload changes is compared with
	inForce atomic.Pointer[settings] // what it changes is compared with
}

func rereading(from sources, begun settings) *again {
	a := &again{from: from, begun: begun}
	a.inForce.Store(&begun)
	return a
}

// reread is what both rooms read: settings and declarations, all without a fault, and no key changed
// for which it takes a restart.
func (a *again) reread() (s settings, tools runners.Table, digest string, err error) {
	s, at, wrong := readSettings(a.from)
	var faults strict.Faults
	if wrong != nil && !errors.As(wrong, &faults) {
		return s, runners.BuiltIn(), "", bare(wrong) // nothing was read
	}
	errs := []error{append(faults, s.checkSegment(at)...).Err()}
	declared, wrongs, err := launcher.Declarations(s.RunnersDir)
	tools = runners.BuiltIn().With(declared...).Only(s.Tools.Include, s.Tools.Exclude)
	if err = errors.Join(append(errs, wrongs.Err(), err)...); err != nil {
		return s, tools, "", err
	}
	if keys := a.needRestart(&s); len(keys) > 0 {
		return s, tools, "", keys
	}
	read := s.from.read
	for _, d := range declared {
		read = append(read, d.Name, d.Revision)
	}
	return s, tools, fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(read, "\x00")))), nil
}

// took is called when settings are in force. The log is main's, and has its level by them.
func (a *again) took(s *settings) {
	a.inForce.Store(s)
	a.begun.from.level.Set(journal.Level(s.Log.Level))
}

// needRestart are the keys that are other than at the start, and that no reload takes up.
func (a *again) needRestart(s *settings) (keys launcher.NeedsRestart) {
	for _, k := range differing(&a.begun, s) {
		if !k.reload {
			keys = append(keys, k.path)
		}
	}
	return keys
}

// launcher is what the launcher reads at a reload: the engagements, too.
func (a *again) launcher() (launcher.Next, error) {
	s, tools, digest, err := a.reread()
	var restart launcher.NeedsRestart
	if errors.As(err, &restart) {
		return launcher.Next{}, err
	}
	_, faults, unread := launcher.Engagements(s.EngagementsDir, launcher.Lookup(tools))
	if err = errors.Join(err, faults.Err(), unread); err != nil { // as many as can be found at once
		return launcher.Next{}, err
	}
	live, err := s.launcherLive(tools)
	if err != nil {
		return launcher.Next{}, err
	}
	next := launcher.Next{Live: live, Digest: digest, Took: func() { a.took(&s) }}
	for _, k := range differing(a.inForce.Load(), &s) {
		next.Changed = append(next.Changed, k.path)
	}
	for _, w := range s.from.warnings {
		next.Warnings = append(next.Warnings, w.String())
	}
	return next, nil
}

// front is what the front reads.
func (a *again) front(stdio bool) (front.Next, error) {
	s, tools, digest, err := a.reread()
	if err != nil {
		return front.Next{}, err
	}
	return front.Next{Live: s.frontLive(tools, stdio), Digest: digest, Took: func() { a.took(&s) }}, nil
}

// hangups are the SIGHUPs of this process from now on. Some at once are one.
func hangups() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c
}

// reloadCommand has both rooms read the configuration again.
func reloadCommand(s *surroundings) *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use: "reload", Short: "have the daemon read its configuration again", Args: noArgs,
		Long: "Have both rooms read settings, engagements and declarations again, and wait until they have. All of it\n" +
			"is taken, or nothing: with any fault, or a changed key for which it takes a restart, everything stays as\n" +
			"it was. Scans that run go on, but for those that an engagement as it now is would not allow. Exit status:\n" +
			"0 all of it is in force, 78 it has faults or needs a restart, 1 it could not be asked for.",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := s.launcherAsk(c.Context(), wire.Order{Reload: &wire.Reload{Wait: wait}})
			if err != nil {
				return err
			}
			if a.Reloaded == nil {
				return errors.New("the launcher has not said what came of it")
			}
			return s.tellReloaded(*a.Reloaded)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "if the configuration is being read again already, wait for that, and read it once more")
	return c
}

func (s *surroundings) tellReloaded(r wire.Reloaded) error {
	for _, w := range r.Warnings {
		fmt.Fprintf(s.stderr, "secmcpd: warning: %s\n", w)
	}
	var why []string
	switch {
	case r.FaultsCount > 0:
		why = append(why, "not reloaded, all stays as it was:")
		why = append(why, r.Faults...)
		if more := r.FaultsCount - len(r.Faults); more > 0 {
			why = append(why, fmt.Sprintf("and %s; `secmcpd check` tells all", plural(more, "more fault")))
		}
	case len(r.Restart) > 0:
		why = append(why, "not reloaded, all stays as it was: it takes a restart for "+strings.Join(r.Restart, ", "))
	case r.Front != "":
		why = append(why, "not reloaded, all stays as it was: "+r.Front)
		for _, line := range r.FrontSays {
			why = append(why, "the front says: "+line)
		}
	default:
		changed := "nothing has changed but, if at all, engagements and declarations"
		if len(r.Changed) > 0 {
			changed = strings.Join(r.Changed, ", ")
		}
		_, err := fmt.Fprintf(s.stdout, "reloaded: %s\n", changed)
		return err
	}
	return exitError{exitConfig, errors.New(strings.Join(why, "\n"))}
}
