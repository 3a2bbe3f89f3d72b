package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// approveCommand lists the scans that wait for an operator, and approves one.
func approveCommand(s *surroundings) *cobra.Command {
	var digest string
	var yes, asJSON bool
	c := &cobra.Command{
		Use: "approve [JOB]", Short: "show the scans that wait for an approval, and approve one", Args: oneAtMost,
		Long: `Without JOB, list the scans that wait for an operator's approval. With it, show what would be run,
where it may send to and why it has to be approved, and ask.

What is approved is the digest of all that is shown, once, and nothing else: where the engagement, the
scanner, a word list or the rate has changed when the scan is launched, it is refused and the caller is
told. Whoever asked for a scan does not approve it, unless approval.self of the engagement says so.`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				if digest != "" || yes {
					return usage(c, errors.New("a job is needed to approve it"))
				}
				return s.listAwaited(c.Context(), asJSON)
			}
			job := args[0]
			if !wire.ValidJobID(job) {
				return usage(c, fmt.Errorf("%q is no id of a job", fmt.Sprintf("%.40s", job)))
			}
			if digest != "" {
				return s.approve(c.Context(), job, digest, asJSON)
			}
			a, err := s.launcherAsk(c.Context(), wire.Order{Show: &wire.Show{Job: job}})
			if err != nil {
				return err
			}
			if a.Exact == nil {
				return errors.New("the launcher has answered something else")
			}
			if asJSON && yes {
				return s.approve(c.Context(), job, a.Exact.Digest, true)
			}
			if asJSON {
				return s.printJSON(a.Exact)
			}
			if _, err := io.WriteString(s.stdout, page(*a.Exact)); err != nil {
				return err
			}
			switch {
			case yes:
			case !isTerminal(s.stdin):
				return usage(c, errors.New("there is no terminal to ask at: give --digest with the digest that was looked at, or --yes for what is shown now"))
			default:
				fmt.Fprint(s.stdout, "\nApprove this scan? [y/N] ")
				line, err := bufio.NewReader(io.LimitReader(s.stdin, 64)).ReadString('\n')
				if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
					fmt.Fprintln(s.stdout, "It is not approved, and waits on. `secmcpd deny` ends it.")
					return exitError{exitFailed, nil}
				}
			}
			return s.approve(c.Context(), job, a.Exact.Digest, false)
		},
	}
	c.Flags().StringVar(&digest, "digest", "", "approve what has this digest, without asking")
	c.Flags().BoolVar(&yes, "yes", false, "approve what is shown, without asking")
	c.Flags().BoolVar(&asJSON, "json", false, jsonUsage+": what waits, or that it is approved; nothing is asked")
	return c
}

// denyCommand refuses a scan that waits for an approval.
func denyCommand(s *surroundings) *cobra.Command {
	var reason string
	var asJSON bool
	c := &cobra.Command{
		Use: "deny JOB", Short: "refuse a scan that waits for an approval", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !wire.ValidJobID(args[0]) {
				return usage(c, fmt.Errorf("%q is no id of a job", fmt.Sprintf("%.40s", args[0])))
			}
			if len(reason) > wire.MaxReason {
				return usage(c, fmt.Errorf("--reason has %d bytes, at most %d are told", len(reason), wire.MaxReason))
			}
			if _, err := s.launcherAsk(c.Context(), wire.Order{Deny: &wire.Deny{Job: args[0], Reason: reason}}); err != nil {
				return err
			}
			if asJSON {
				return s.printJSON(answeredAwaited{JobID: args[0], Reason: reason})
			}
			_, err := fmt.Fprintf(s.stdout, "%s is refused; its caller is told.\n", args[0])
			return err
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the caller and the audit log")
	jsonFlag(c, &asJSON)
	return c
}

func oneAtMost(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("one job is taken, got %d words", len(args))
	}
	return nil
}

// answeredAwaited is what an operator has decided, for programs.
type answeredAwaited struct {
	JobID    string `json:"job_id"`
	Approved bool   `json:"approved"`
	Digest   string `json:"digest,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

func (s *surroundings) approve(ctx context.Context, job, digest string, asJSON bool) error {
	if len(digest) != 64 {
		return exitError{exitUsage, fmt.Errorf("a digest has 64 digits, got %d", len(digest))}
	}
	if _, err := s.launcherAsk(ctx, wire.Order{Approve: &wire.Approve{Job: job, Digest: digest}}); err != nil {
		return err
	}
	if asJSON {
		return s.printJSON(answeredAwaited{JobID: job, Approved: true, Digest: digest})
	}
	_, err := fmt.Fprintf(s.stdout, "%s is approved.\n", job)
	return err
}

func (s *surroundings) listAwaited(ctx context.Context, asJSON bool) error {
	a, err := s.launcherAsk(ctx, wire.Order{Pending: &wire.Pending{}})
	if err != nil {
		return err
	}
	if asJSON {
		return s.printJSON(append([]wire.Awaited{}, a.Pending...))
	}
	if len(a.Pending) == 0 {
		_, err := fmt.Fprintln(s.stdout, "No scan waits for an approval.")
		return err
	}
	w := tabwriter.NewWriter(s.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "JOB\tCALLER\tSCAN\tENGAGEMENT\tUNTIL\tBECAUSE OF")
	for _, p := range a.Pending {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Job, named(p.UID), harmless(p.Tool+" "+p.Profile), harmless(p.Engagement), p.Expires.Local().Format("15:04:05"), harmless(p.Why))
	}
	return w.Flush()
}

// page is what an operator approves, as it is read in a terminal.
func page(e wire.Exact) string {
	var b strings.Builder
	fact := func(word, text string) { fmt.Fprintf(&b, "  %-12s%s\n", word, text) }
	list := func(word string, words []string, all int) {
		for _, w := range words {
			fact(word, harmless(w))
			word = ""
		}
		if more := all - len(words); more > 0 {
			fact(word, fmt.Sprintf("and %d more, which the digest covers", more))
		}
	}
	fmt.Fprintf(&b, "%s waits for an approval until %s\n", e.Job, e.Expires.Local().Format(time.RFC3339))
	fact("caller", fmt.Sprintf("%s, gid %d, pid %d", named(e.UID), e.GID, e.PID))
	fact("scan", harmless(e.Tool+", profile "+e.Profile))
	fact("engagement", harmless(fmt.Sprintf("%s (revision %.12s), %s", e.Engagement, e.Revision, e.Rule)))
	list("because of", e.Of, len(e.Of))
	list("asked for", e.Targets, e.TargetsCount)
	list("sends to", e.Addresses, e.Prefixes)
	addresses := "addresses"
	if e.AddressCount == 1 {
		addresses = "address"
	}
	fact("", fmt.Sprintf("%d %s in all", e.AddressCount, addresses))
	if e.PortsCount == 0 {
		fact("ports", "all, and ICMP")
	} else {
		fact("ports", harmless(strings.Join(e.Ports, ", "))+more(e.PortsCount-len(e.Ports)))
	}
	fact("runs", commandLine(e.Argv)+more(e.ArgvCount-len(e.Argv)))
	fact("scanner", harmless(fmt.Sprintf("%s %s, sha256 %s", e.Scanner.Path, e.Scanner.Version, e.Scanner.SHA256)))
	if w := e.Wordlist; w != nil {
		fact("word list", harmless(fmt.Sprintf("%s, %d lines, sha256 %s", w.Name, w.Lines, w.SHA256)))
	}
	rate := "at any rate"
	if e.Rate > 0 {
		rate = fmt.Sprintf("%d packets a second", e.Rate)
	}
	fact("limits", fmt.Sprintf("%s, at most %s", rate, time.Duration(e.LimitS)*time.Second))
	fact("expected", fmt.Sprintf("%d packets, %s", e.Packets, time.Duration(e.ExpectedS)*time.Second))
	if e.Self {
		fact("approved by", "any operator, also whoever asked")
	} else {
		fact("approved by", "an operator who is not who asked")
	}
	fact("digest", e.Digest)
	return b.String()
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more, which the digest covers", n)
}

// named is a user for people.
func named(uid uint32) string {
	number := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(number); err == nil {
		return harmless(u.Username) + " (" + number + ")"
	}
	return "uid " + number
}

var harmlessText = regexp.MustCompile(`^[\x20-\x7e]*$`)

// harmless is a text that does nothing to a terminal: what is no printable ASCII is quoted.
func harmless(text string) string {
	if harmlessText.MatchString(text) {
		return text
	}
	return strconv.QuoteToASCII(text)
}

// isTerminal says that somebody can be asked at r.
func isTerminal(r io.Reader) bool {
	f, is := r.(*os.File)
	if !is {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
