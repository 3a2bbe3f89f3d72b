package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// units are those whose log is the daemon's.
var units = []string{"secmcpd.service", "secmcpd-launcher.service"}

// logsCommand shows what both rooms have logged.
func logsCommand(s *surroundings) *cobra.Command {
	var follow, asJSON bool
	var job, since string
	var lines int
	c := &cobra.Command{
		Use: "logs", Short: "what both rooms have logged, of one job or of all", Args: noArgs,
		Long: "What both rooms have logged, as the journal has it. What was asked, decided and run is in the audit log:\n`secmcpd audit show`.",
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case job != "" && !wire.ValidJobID(job):
				return usage(c, fmt.Errorf("--job: %s is no job: it has %d letters and digits", strict.Quote(job), wire.JobIDLength))
			case lines < 0 || lines > 1000000:
				return usage(c, fmt.Errorf("--lines: got %d; allowed: 0 to 1000000", lines))
			}
			words := journalWords(since, lines, job)
			if follow {
				words = append(words, "--follow")
			}
			if asJSON {
				words = append(words, "--output=json")
			}
			return s.journal(c.Context(), s.stdout, words)
		},
	}
	f := c.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on until it is interrupted")
	f.StringVar(&job, "job", "", "of this job alone")
	f.StringVar(&since, "since", "", "from this time on, as journalctl takes it: 2026-03-01 12:00, yesterday, -1h")
	f.IntVarP(&lines, "lines", "n", 100, "the last so many; 0: all")
	f.BoolVar(&asJSON, "json", false, "an object a line, as journalctl writes it")
	_ = c.RegisterFlagCompletionFunc("job", s.completeJobs("")) // it fails for a flag that is not there
	return c
}

// journalWords are the words of journalctl for what the rooms have logged.
func journalWords(since string, lines int, job string) []string {
	words := []string{"--quiet", "--no-pager"}
	for _, u := range units {
		words = append(words, "--unit="+u)
	}
	if since != "" {
		words = append(words, "--since="+since)
	}
	if lines > 0 {
		words = append(words, "--lines="+strconv.Itoa(lines))
	}
	if job != "" {
		words = append(words, "SECMCPD_JOB="+job)
	}
	return words
}

// journal runs journalctl.
func (s *surroundings) journal(ctx context.Context, to io.Writer, words []string) error {
	path, err := exec.LookPath("journalctl")
	if err != nil {
		return errors.New("there is no journal here (journalctl): both rooms log to standard error, and whoever starts them has it")
	}
	cmd := exec.CommandContext(ctx, path, words...)
	cmd.Stdout, cmd.Stderr = to, s.stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil, ctx.Err() != nil: // interrupted, as --follow is meant to be
		return nil
	case errors.As(err, &exit): // it has said why
		return exitError{exitFailed, nil}
	}
	return fmt.Errorf("cannot run journalctl: %w", err)
}
