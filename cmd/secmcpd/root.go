package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// The exit statuses, which the manual lists: scripts and units go by them.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitWarned = 3 // nothing is at fault, something is worth a look
	// What `scan --diff-baseline` tells.
	exitChanged      = 4
	exitIncomparable = 5
	exitConfig       = 78
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
	config         sources
	printed        bool // a JSON value has been printed: there is no other
}

const defaultConfig = "/etc/secmcpd/secmcpd.yaml"

// run is the whole program as a function of its surroundings.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s := &surroundings{stdin: stdin, stdout: stdout, stderr: stderr, config: sources{environ: os.Environ()}}
	c, err := rootCommand(s, args).ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	status := exitFailed
	var exit exitError
	if errors.As(err, &exit) {
		if status, err = exit.code, exit.err; err == nil {
			return status
		}
	}
	fmt.Fprintf(stderr, "secmcpd: %v\n", err)
	if wantsJSON(c, args) && !s.printed {
		_ = s.printJSON(failed{failedWith{firstLine(err.Error()), err.Error(), status}}) // the status says it, too
	}
	return status
}

// failed is what a command prints with --json where it has nothing else to print.
type failed struct {
	Error failedWith `json:"error"`
}

type failedWith struct {
	Message    string `json:"message"` // the first line
	Text       string `json:"text"`    // all of it, as it is on standard error
	ExitStatus int    `json:"exit_status"`
}

// wantsJSON says whether one JSON value is to be printed: also where other words were wrong, so that the flag
// was not come to.
func wantsJSON(c *cobra.Command, args []string) bool {
	f := c.Flag("json")
	return f != nil && strings.HasPrefix(f.Usage, jsonUsage) && (f.Value.String() == "true" || slices.Contains(args, "--json"))
}

// rootCommand is the whole program, for these words.
func rootCommand(s *surroundings, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "secmcpd",
		Short:         "network scanners for AI agents, within engagements",
		Long:          "secmcpd lets AI agents use network scanners from this machine, within engagements that\nits operator wrote. Agents connect with `secmcpd connect`; operators begin with `secmcpd doctor`.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetIn(s.stdin)
	root.SetOut(s.stdout)
	root.SetErr(s.stderr)
	root.SetFlagErrorFunc(usage)
	root.PersistentFlags().StringVar(&s.config.file, "config", defaultConfig, "the configuration file; conf.d/ beside it is read too")
	root.PersistentFlags().StringArrayVar(&s.config.set, "set", nil, "a setting, KEY=VALUE, over files and environment; may be given again")
	root.SetHelpCommand(helpCommand())
	tools := toolsFor(args)
	root.AddCommand(
		// Of agents and their users.
		connectCommand(s), scanCommand(s, tools), reportCommand(s),
		// Of operators.
		statusCommand(s), jobsCommand(s), jobCommand(s), cancelCommand(s), topCommand(s), logsCommand(s), supportCommand(s),
		checkCommand(s), configCommand(s), reloadCommand(s), engagementsCommand(s, tools), toolsCommand(s), breakerCommand(s), approveCommand(s), denyCommand(s), drainCommand(s), httpCommand(s), doctorCommand(s), auditCommand(s),
		// Of systemd, and of this program itself.
		serveCommand(s), launcherCommand(s), stdioCommand(s), resolveCommand(s), proofCommand(s),
		manualCommand(s), versionCommand(s),
	)

	root.InitDefaultCompletionCmd(args...)
	strictWords(root)
	return root
}

// usage makes what cobra says of wrong words exit as such, with where to look.
func usage(c *cobra.Command, err error) error {
	return exitError{exitUsage, fmt.Errorf("%w\nhint: `%s --help`", err, c.CommandPath())}
}

// strictWords makes wrong words exit as wrong usage, at every command: cobra itself lets some of
// them pass, as the help of the command before them.
func strictWords(c *cobra.Command) {
	switch wanted := c.Args; {
	case c.HasSubCommands():
		c.Args = cobra.ArbitraryArgs
		alone := c.RunE
		c.RunE = func(c *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return unknownCommand(c, args[0])
			case alone != nil:
				return alone(c, args)
			}
			return c.Help()
		}
	case wanted != nil:
		c.Args = func(c *cobra.Command, args []string) error {
			if err := wanted(c, args); err != nil {
				return usage(c, err)
			}
			return nil
		}
	}
	if c.ValidArgsFunction == nil && len(c.ValidArgs) == 0 {
		c.ValidArgsFunction = cobra.NoFileCompletions // no word of ours is a file
	}
	for _, sub := range c.Commands() {
		strictWords(sub)
	}
}

func unknownCommand(c *cobra.Command, word string) error {
	err := fmt.Errorf("unknown command %s for %q", strict.Quote(word), c.CommandPath())
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(word); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	return usage(c, err)
}

// noArgs is noArgs, which calls any word an unknown command.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("no argument is taken, got %s", strict.Quote(args[0]))
	}
	return nil
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND...]", Short: "help for a command",
		RunE: func(c *cobra.Command, args []string) error {
			at := c.Root()
			for _, word := range args {
				i := slices.IndexFunc(at.Commands(), func(sub *cobra.Command) bool { return sub.Name() == word })
				if i < 0 {
					return unknownCommand(at, word)
				}
				at = at.Commands()[i]
			}
			return at.Help()
		},
	}
}

// notify tells systemd, if it asked to be told.
func notify(state string) {
	// Nobody to tell is normal; a socket that cannot be written to shows as a start timeout.
	_, _ = daemon.SdNotify(false, state)
}

// watchdog is the time after which systemd restarts this process if it does not hear from it; 0: never.
func watchdog() time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0 // it is not ours
	}
	return d
}

// version is set by the build.
var version = "devel"

func versionCommand(s *surroundings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "print the version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionNow()
			if asJSON {
				return s.printJSON(v)
			}
			_, err := fmt.Fprintf(s.stdout, "secmcpd %s (%s)\n", v.Version, v.Go)
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// versions is what this build is.
type versions struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Protocol int    `json:"protocol"` // between the two rooms
}

func versionNow() versions {
	v := versions{Version: version, Go: "unknown", Protocol: wire.Version}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Go = info.GoVersion
	}
	return v
}
