package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
)

// breakerCommand shows the breakers, and opens and closes them.
func breakerCommand(s *surroundings) *cobra.Command {
	var asJSON bool
	var lasts time.Duration
	list := func(c *cobra.Command, _ []string) error { return s.listBreakers(c, asJSON) }
	one := func(do string) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, args []string) error {
			o := wire.BreakerOrder{Do: do, Name: args[0]}
			if c.Flags().Changed("for") {
				o.ForS = int64(lasts / time.Second)
				if o.ForS < 1 || o.ForS > wire.MaxForS {
					return usage(c, fmt.Errorf("--for: got %s; allowed: 1s to %s", lasts, wire.MaxForS*time.Second))
				}
			}
			a, err := s.launcherAsk(c.Context(), wire.Order{Breaker: &o})
			if err != nil {
				return err
			}
			switch {
			case a.Breaker == nil:
				return errors.New("the launcher says nothing of the breaker")
			case asJSON:
				return s.printBreakers(a.Breaker)
			case do == wire.BreakerShow:
				return s.showBreaker(a.Breaker)
			}
			_, err = fmt.Fprintf(s.stdout, "%s is %s\n", a.Breaker.Breaker.Name, stateOf(a.Breaker.Breaker))
			return err
		}
	}
	c := &cobra.Command{
		Use: "breaker", RunE: list, Short: "what refuses tools and networks that have failed again and again",
		Long: `What refuses tools and networks that have failed again and again.

Each tool has a breaker, and so has each network of targets (the /24 of an IPv4 address, the /64 of an
IPv6 address) in which scans have failed. A NAME is that of a tool, a network, or an address in one.`,
	}
	c.PersistentFlags().BoolVar(&asJSON, "json", false, jsonUsage)
	open := &cobra.Command{Use: "open NAME", Short: "refuse a tool or a network from now on", Args: cobra.ExactArgs(1), ValidArgs: runners.BuiltIn().Names(), RunE: one(wire.BreakerOpen),
		Long: "Refuse a tool or a network from now on: for a time, after which a scan may try it, or until\n`secmcpd breaker close`. A network is refused with all that lies in it, and around it. Scans that\nrun go on."}
	open.Flags().DurationVar(&lasts, "for", 0, "for so long, 1s to 720h; without it, until it is closed")
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "list all: tools, and networks in which scans have failed", Args: noArgs, RunE: list},
		&cobra.Command{Use: "show NAME", Short: "all that is kept of one: counts, failures, history", Args: cobra.ExactArgs(1), ValidArgs: runners.BuiltIn().Names(), RunE: one(wire.BreakerShow)},
		open,
		&cobra.Command{Use: "close NAME", Short: "let everybody through again; no failure until now counts any more", Args: cobra.ExactArgs(1), ValidArgs: runners.BuiltIn().Names(), RunE: one(wire.BreakerClose)})
	return c
}

func (s *surroundings) printBreakers(v any) error {
	return s.printJSON(v)
}

// stateOf is the state of one as people read it.
func stateOf(b wire.Breaker) string {
	text := strings.ReplaceAll(b.State, "_", " ")
	if b.Forced {
		text += ", by an operator"
	}
	switch {
	case b.RetryAfterS > 0:
		text += fmt.Sprintf(", for %s", time.Duration(b.RetryAfterS)*time.Second)
	case b.Forced:
		text += ", until one closes it"
	}
	return text
}

func (s *surroundings) listBreakers(c *cobra.Command, asJSON bool) error {
	all := wire.BreakerPage{Breakers: []wire.Breaker{}}
	for after := ""; ; {
		a, err := s.launcherAsk(c.Context(), wire.Order{Breaker: &wire.BreakerOrder{Do: wire.BreakerList, After: after}})
		if err != nil {
			return err
		}
		if a.Breakers == nil {
			return errors.New("the launcher says nothing of its breakers")
		}
		all.Enabled, all.Total = a.Breakers.Enabled, a.Breakers.Total
		all.Breakers = append(all.Breakers, a.Breakers.Breakers...)
		// There may be others each time; there are never more than so many.
		if after = a.Breakers.Next; after == "" || len(all.Breakers) > 64*wire.MaxListed {
			break
		}
	}
	if asJSON {
		return s.printBreakers(all)
	}
	if !all.Enabled {
		if _, err := fmt.Fprintln(s.stdout, "breakers are switched off (breakers.enabled)"); err != nil {
			return err
		}
	}
	w := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tIN A ROW\tSUCCESS\tFAILURE\tREJECTED\tLAST FAILURE")
	for _, b := range all.Breakers {
		last := "none"
		if b.Reason != "" {
			last = fmt.Sprintf("%s, %s", b.Reason, b.Failed.Local().Format(time.DateTime))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\n", b.Name, stateOf(b), b.Failures, b.Counts.Success, b.Counts.Failure, b.Counts.Rejected, last)
	}
	return w.Flush()
}

func (s *surroundings) showBreaker(d *wire.BreakerDetail) error {
	b := d.Breaker
	w := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\t%s\n", b.Name, stateOf(b))
	fmt.Fprintf(w, "opens after\t%d failures in a row (%d now)\n", d.Threshold, b.Failures)
	fmt.Fprintf(w, "for\t%s, times %g after each probe that fails, at most %s\n", time.Duration(d.RecoveryS)*time.Second, d.Multiplier, time.Duration(d.MaxRecoveryS)*time.Second)
	fmt.Fprintf(w, "then\t%d at once may try it (%d now), %d in a row have to go well\n", d.Probes, b.Probes, d.SuccessThreshold)
	fmt.Fprintf(w, "scans\t%d went well, %d failed, %d were refused; %.0f%% went well; %s each\n", b.Counts.Success, b.Counts.Failure, b.Counts.Rejected, 100*d.SuccessRate,
		(time.Duration(d.AverageMS) * time.Millisecond).String())
	for _, r := range d.Reasons {
		fmt.Fprintf(w, "failed by\t%s, %d times\n", r.Reason, r.Count)
	}
	for _, f := range d.Recent {
		fmt.Fprintf(w, "failed at\t%s by %s, job %s\n", f.At.Local().Format(time.DateTime), f.Reason, f.Job)
	}
	for _, m := range d.History[max(len(d.History)-shownMoments, 0):] {
		fmt.Fprintf(w, "changed at\t%s from %s to %s: %s\n", m.At.Local().Format(time.DateTime), m.From, m.To, m.Why)
	}
	return w.Flush()
}

// shownMoments is how many changes are shown to people; --json has all that are kept.
const shownMoments = 5
