package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
)

// The exit statuses. Units name exitConfig in RestartPreventExitStatus: a wrong configuration
// is not mended by starting again.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78
)

// exitError carries an exit status; its text, if any, is printed.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e exitError) Unwrap() error { return e.err }

// surroundings is what a command may touch of the process it runs in.
type surroundings struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	config         string // path of secmcpd.yaml
}

// run is the whole program as a function of its surroundings.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s := &surroundings{stdin: stdin, stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:           "secmcpd",
		Short:         "network scanners for AI agents, within engagements",
		Long:          "secmcpd lets AI agents use network scanners from this machine, within engagements that\nits operator wrote. Agents connect with `secmcpd connect`; operators begin with `secmcpd doctor`.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(usage)
	root.PersistentFlags().StringVar(&s.config, "config", "/etc/secmcpd/secmcpd.yaml", "the configuration file; conf.d/ beside it is read too")
	root.AddCommand(connectCommand(s), checkCommand(s), engagementsCommand(s), doctorCommand(s), auditCommand(s),
		serveCommand(s), launcherCommand(s), stdioCommand(s), resolveCommand(s), proofCommand(s), versionCommand(s))

	err := root.ExecuteContext(ctx)
	var exit exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		if exit.err != nil {
			fmt.Fprintf(stderr, "secmcpd: %v\n", exit.err)
		}
		return exit.code
	default:
		fmt.Fprintf(stderr, "secmcpd: %v\n", err)
		return exitFailed
	}
}

// usage makes what cobra says of wrong words exit as such, with where to look.
func usage(c *cobra.Command, err error) error {
	return exitError{exitUsage, fmt.Errorf("%w\nhint: `%s --help`", err, c.CommandPath())}
}

// logger writes to standard error: with systemd's priority prefix where the journal reads it.
func (s *surroundings) logger() *slog.Logger {
	if os.Getenv("JOURNAL_STREAM") != "" {
		return slog.New(newJournalHandler(s.stderr))
	}
	return slog.New(slog.NewTextHandler(s.stderr, nil))
}

// notify tells systemd, if it asked to be told.
func notify(state string) {
	// Nobody to tell is normal; a socket that cannot be written to shows as a start timeout.
	_, _ = daemon.SdNotify(false, state)
}

// version is set by the build.
var version = "devel"

func versionCommand(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			goVersion := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				goVersion = info.GoVersion
			}
			_, err := fmt.Fprintf(s.stdout, "secmcpd %s (%s)\n", version, goVersion)
			return err
		},
	}
}
