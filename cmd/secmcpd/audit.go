package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/observability"
)

func auditCommand(s *surroundings) *cobra.Command {
	audit := &cobra.Command{Use: "audit", Short: "the audit log"}
	// They change nothing, and a log can be long: a signal ends them where they are.
	audit.PersistentPreRun = func(*cobra.Command, []string) { signal.Reset(syscall.SIGINT, syscall.SIGTERM) }
	audit.AddCommand(auditVerify(s), auditShow(s))
	return audit
}

func auditVerify(s *surroundings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "verify", Short: "check the chain of the audit log from its first record", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			summary, err := observability.VerifyAudit(settings.AuditDir)
			if asJSON {
				v := auditVerified{Intact: err == nil, Records: summary.Records, Files: summary.Files, First: summary.First, Last: summary.Last, Hash: summary.Hash}
				if err != nil {
					v.Wrong, err = err.Error(), exitError{exitFailed, nil}
				}
				return errors.Join(s.printJSON(v), err)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.stdout, summary)
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// auditVerified is what `audit verify --json` prints.
type auditVerified struct {
	Intact  bool      `json:"intact"`
	Wrong   string    `json:"wrong,omitempty"` // the first thing that is not as it was written, with file and line
	Records uint64    `json:"records"`
	Files   int       `json:"files"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
	Hash    string    `json:"last_hash,omitempty"`
}

// maxShown bounds --last.
const maxShown = 10000

func auditShow(s *surroundings) *cobra.Command {
	var f auditFilter
	var since string
	var asJSON bool
	c := &cobra.Command{
		Use: "show", Short: "print records of the audit log", Args: noArgs,
		Long: "Print records of the audit log, the oldest first. What is given by several flags has to be so by all of\n" +
			"them. --json prints the lines as they are in the log. The chain is not checked: `secmcpd audit verify` does.",
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			if f.since, err = sinceWhen(since, time.Now()); err != nil {
				return usage(c, fmt.Errorf("--since: %w", err))
			}
			if f.last < 0 || f.last > maxShown {
				return usage(c, fmt.Errorf("--last: got %d; allowed: 0 to %d", f.last, maxShown))
			}
			return f.show(settings.AuditDir, asJSON, s.stdout, s.stderr)
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.job, "job", "", "of this job")
	flags.StringVar(&f.correlation, "correlation", "", "with this correlation_id")
	flags.StringSliceVar(&f.events, "event", nil, "of these kinds: launched,done,denied")
	flags.StringVar(&since, "since", "", "from this time on (RFC 3339), or from so long ago (36h)")
	flags.IntVar(&f.last, "last", 0, "the last of those, so many; 0: all")
	flags.BoolVar(&asJSON, "json", false, "as JSON, a record a line")
	return c
}

// sinceWhen reads a time, or a duration before now. The zero time is any.
func sinceWhen(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("got %s; allowed: a time as 2026-11-24T12:00:00Z, or a duration as 36h", strict.Quote(text))
	}
	return t, nil
}

// auditFilter is which records are shown.
type auditFilter struct {
	job, correlation string
	events           []string
	since            time.Time
	last             int
}

func (f *auditFilter) wants(r observability.Record) bool {
	return (f.job == "" || r.Job == f.job) && (f.correlation == "" || r.Correlation == f.correlation) &&
		(len(f.events) == 0 || slices.Contains(f.events, string(r.Event))) && !r.Time.Before(f.since)
}

// show prints what is wanted as it is read. It holds one record, or as many as --last says.
func (f *auditFilter) show(dir string, asJSON bool, out, notes io.Writer) error {
	var kept []string // the last ones, as a ring
	n := 0
	seen := map[string]bool{} // the kinds that there are: of ours, so few
	err := observability.ReadAudit(dir, func(r observability.Record, line []byte) error {
		if len(seen) < 256 {
			seen[string(r.Event)] = true
		}
		if !f.wants(r) {
			return nil
		}
		text := string(line)
		if !asJSON {
			text = auditLine(r)
		}
		n++
		if f.last == 0 {
			_, err := fmt.Fprintln(out, text)
			return err
		}
		if len(kept) < f.last {
			kept = append(kept, text)
		} else {
			kept[(n-1)%f.last] = text
		}
		return nil
	})
	for i := range kept {
		if len(kept) == f.last {
			i = (n + i) % f.last
		}
		if _, err := fmt.Fprintln(out, kept[i]); err != nil {
			return err
		}
	}
	var fault *observability.AuditFault
	if errors.As(err, &fault) {
		return fmt.Errorf("%w (`secmcpd audit verify` says what is the first)", err)
	}
	for _, event := range f.events {
		if err == nil && !seen[event] {
			var known []string
			for e := range seen {
				known = append(known, e)
			}
			slices.Sort(known)
			note := fmt.Sprintf("secmcpd: the log has no record of the kind %s; it has %s", strict.Quote(event), onOneLine(strings.Join(known, ", ")))
			if meant := strict.Nearest(event, known); meant != "" {
				note += "; did you mean " + strict.Quote(meant) + "?"
			}
			fmt.Fprintln(notes, note)
		}
	}
	return err
}

// auditLine is a record for a person: when, which, what, and then what it has, shortly.
func auditLine(r observability.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %s", r.Time.UTC().Format(time.RFC3339), r.Seq, onOneLine(string(r.Event)))
	say := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %s=%s", key, asWord(value))
		}
	}
	list := func(key string, words []string, count int) {
		const most = 4
		if len(words) == 0 {
			return
		}
		text := strings.Join(words[:min(len(words), most)], ",")
		if more := max(count, len(words)) - min(len(words), most); more > 0 {
			text += fmt.Sprintf(",+%d", more)
		}
		say(key, text)
	}
	say("job", r.Job)
	if r.Correlation != r.Job {
		say("correlation", r.Correlation)
	}
	if r.Caller != nil {
		say("uid", strconv.FormatUint(uint64(r.Caller.UID), 10))
	}
	say("tool", r.Tool)
	say("profile", r.Profile)
	say("engagement", r.Engagement)
	say("rule", r.Rule)
	list("targets", r.Targets, r.TargetCount)
	list("addresses", r.Addresses, r.Prefixes)
	list("ports", r.Ports, 0)
	say("scanner", strings.TrimSpace(r.Scanner+" "+r.Version))
	list("not_enforced", r.NotEnforced, 0)
	if r.Operator != nil {
		say("by_uid", strconv.FormatUint(uint64(r.Operator.UID), 10))
	}
	if r.Approver != nil {
		say("approved_by_uid", strconv.FormatUint(uint64(*r.Approver), 10))
	}
	say("digest", r.Digest)
	if b := r.Breaker; b != nil {
		say("breaker", b.Name)
		say("from", b.From)
		say("to", b.To)
		say("why", b.Why)
	}
	say("outcome", r.Outcome)
	if r.ExitCode != nil {
		say("exit_code", strconv.Itoa(*r.ExitCode))
	}
	if r.Signal != 0 {
		say("signal", strconv.Itoa(r.Signal))
	}
	say("stage", r.Stage)
	say("code", r.Code)
	say("reason", r.Reason)
	if u := r.Usage; u != nil {
		say("wall", (time.Duration(u.WallMS) * time.Millisecond).String())
		say("sent", strconv.FormatUint(u.Sent, 10))
		say("dropped", strconv.FormatUint(u.Dropped, 10))
		say("output", strconv.FormatInt(u.Output, 10))
	}
	if r.Bytes > 0 {
		say("bytes", strconv.FormatInt(r.Bytes, 10))
	}
	if r.Records > 0 {
		say("records", strconv.Itoa(r.Records))
	}
	if len(r.Argv) > 0 {
		argv, _ := json.Marshal(r.Argv) // strings always can be
		fmt.Fprintf(&b, " argv=%s", onOneLine(string(argv)))
	}
	return b.String()
}

// onOneLine is text on one line of a terminal: what is not printed is escaped.
func onOneLine(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// asWord is text as one word of a line, in quotes where it would be taken for more.
func asWord(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return r == ' ' || r == '"' || r == '=' || !unicode.IsPrint(r) || r == unicode.ReplacementChar
	}) {
		return strconv.Quote(s)
	}
	return s
}
