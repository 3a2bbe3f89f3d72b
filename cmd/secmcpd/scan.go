package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// scanCommand asks the daemon for a scan as an agent does, and waits for its end.
func scanCommand(s *surroundings, of runners.Table) *cobra.Command {
	c := &cobra.Command{
		Use: "scan", Annotations: map[string]string{ofTools: "whole"}, Short: "scan, as an agent would: judged, boxed, kept, on the record",
		Long: `Scan, as an agent would: the daemon judges the call as that of the user who gives it, boxes the
scanner, keeps job and result, and writes the audit log. The arguments of a tool are its flags; words
are targets. The command waits for the end, however long that takes, also over restarts of the front;
interrupted on a terminal it asks what to do, elsewhere it cancels the scan.

With --diff-baseline the scan is compared with the job that is pinned under that name, so that a timer
of systemd can tell when something has changed: see secmcpd-scan@.service.

Exit status: 0 the scan is complete, and nothing has changed; 1 it failed, or was refused; 2 an argument
is wrong; 3 it is not complete; 4 something has changed; 5 it cannot be compared with the baseline, in
whole or in part, and where it can nothing has changed.`,
	}
	for _, t := range of.Listed() {
		c.AddCommand(scanToolCommand(s, t))
	}
	return c
}

// scanOptions is what the command is told beside the tool's arguments.
type scanOptions struct {
	socket, correlation, baseline, pin, format, output string
	detach, confirmed, json                            bool
}

func scanToolCommand(s *surroundings, t runners.Tool) *cobra.Command {
	var o scanOptions
	forms := strings.Join(reportForms(), ", ")
	c := &cobra.Command{
		Use: t.Name + " [flags] [TARGET...]", Short: strings.ToLower(t.Title[:1]) + t.Title[1:], Long: t.Description,
	}
	jsonFlag(c, &o.json)
	socketFlag(c, &o.socket)
	f := c.Flags()
	f.BoolVar(&o.detach, "detach", false, "print the job and do not wait for its end")
	f.BoolVar(&o.confirmed, "confirm", false, "say yes to what the engagement has its callers confirm, instead of being asked")
	f.StringVar(&o.correlation, "correlation", "", "an id of your own, shown with the job and in the audit log")
	f.StringVar(&o.format, "format", "", "the report in this form instead of a table: "+forms)
	f.StringVarP(&o.output, "output", "o", "", "write the report into a file that is not there yet (without --format: html)")
	f.StringVar(&o.baseline, "diff-baseline", "", "compare with the job that is pinned under this name")
	f.StringVar(&o.pin, "pin", "", "pin the job under this name if it is complete, after it was compared")
	arguments := addArguments(c, t)
	c.Args = cobra.ArbitraryArgs
	if !arguments.takes("targets") {
		c.Args = noArgs
		c.Use = t.Name + " [flags]"
	}
	c.ValidArgsFunction = cobra.NoFileCompletions
	completeWith(c, "format", reportForms()...)
	c.RunE = func(c *cobra.Command, words []string) error {
		if err := o.check(); err != nil {
			return usage(c, err)
		}
		object, err := arguments.object(s.stdin, words)
		if err != nil {
			return usage(c, err)
		}
		// Signals ask what becomes of the scan; they do not end the command by themselves.
		r := &scanRun{s: s, tool: t.Name, options: o, line: s.newProgressLine(), signals: make(chan os.Signal, 4)}
		signal.Notify(r.signals, syscall.SIGINT, syscall.SIGTERM)
		defer signal.Stop(r.signals)
		return r.run(context.WithoutCancel(c.Context()), object)
	}
	return c
}

var pinName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)

func (o *scanOptions) check() error {
	for flag, name := range map[string]string{"--diff-baseline": o.baseline, "--pin": o.pin} {
		if name != "" && !pinName.MatchString(name) {
			return fmt.Errorf("%s: got %s; allowed: 1 to 32 of a-z 0-9 . _ -", flag, strict.Quote(name))
		}
	}
	if o.output != "" && o.format == "" {
		o.format = "html"
	}
	if o.format != "" && !slices.Contains(reportForms(), o.format) {
		return fmt.Errorf("--format: got %s; allowed: %s", strict.Quote(o.format), strings.Join(reportForms(), ", "))
	}
	if o.detach && (o.baseline != "" || o.pin != "" || o.format != "") {
		return errors.New("--detach: what waits for the end cannot be asked for with it (--diff-baseline, --pin, --format, --output)")
	}
	if o.json && o.format != "" && o.output == "" {
		return errors.New("--json and --format both are for standard output: give --output")
	}
	return nil
}

// scanRun is one scan of the command's.
type scanRun struct {
	s       *surroundings
	tool    string
	options scanOptions
	line    *progressLine
	signals chan os.Signal
	agent   *agent
	// questioned says that somebody is being asked to confirm the scan.
	questioned atomic.Bool
}

// jobAnswer is what of the daemon's answer about a job the command goes by.
type jobAnswer struct {
	JobID      string    `json:"job_id"`
	Status     string    `json:"status"`
	Tool       string    `json:"tool"`
	Profile    string    `json:"profile"`
	Engagement string    `json:"engagement"`
	Started    time.Time `json:"started"`
	Ended      time.Time `json:"ended"`
	Deadline   time.Time `json:"deadline"`
	Progress   *struct {
		Task       string  `json:"task"`
		Percent    float64 `json:"percent"`
		RemainingS int     `json:"remaining_s"`
		HostsDone  int     `json:"hosts_done"`
	} `json:"progress"`
	End *struct {
		Reason       string `json:"reason"`
		Detail       string `json:"detail"`
		Stage        string `json:"stage"`
		ScannerError string `json:"scanner_error"`
	} `json:"end"`
	Summary *struct {
		HostsUp   int   `json:"hosts_up"`
		OpenPorts int   `json:"open_ports"`
		Silent    int   `json:"silent"`
		TimedOut  int   `json:"timed_out"`
		Found     int64 `json:"found"`
	} `json:"summary"`
	Coverage *struct {
		Asked      uint64 `json:"asked"`
		Excluded   uint64 `json:"excluded"`
		Probed     int    `json:"probed"`
		NotReached uint64 `json:"not_reached"`
		CutBy      string `json:"cut_by"`
		Complete   bool   `json:"complete"`
	} `json:"coverage"`
	NotEnforced []struct {
		Layer string `json:"layer"`
	} `json:"not_enforced"`
	Hosts []report.Host `json:"hosts"`
	Page  *struct {
		Next string `json:"next_cursor"`
	} `json:"page"`
	Error *toolProblem `json:"error"`
	Next  string       `json:"next"`
}

func (j *jobAnswer) over() bool { return j.Status != "queued" && j.Status != "running" }

// diffAnswer is what of scan_diff the command goes by.
type diffAnswer struct {
	Appeared      int `json:"appeared"`
	Vanished      int `json:"vanished"`
	Changed       int `json:"changed"`
	Same          int `json:"same"`
	NotComparable int `json:"not_comparable"`
	Before        struct {
		JobID    string `json:"job_id"`
		Complete bool   `json:"complete"`
		Ended    string `json:"ended"`
	} `json:"before"`
	After struct {
		Complete bool `json:"complete"`
	} `json:"after"`
	Changes []diffChange `json:"changes"`
	Page    struct {
		Next string `json:"next_cursor"`
	} `json:"page"`
	Next string `json:"next"`
}

type diffChange struct {
	Kind   string    `json:"kind"`
	Host   string    `json:"host"`
	Port   int       `json:"port"`
	Proto  string    `json:"proto"`
	Name   string    `json:"name"`
	Before *diffSeen `json:"before"`
	After  *diffSeen `json:"after"`
	Reason string    `json:"reason"`
}

type diffSeen struct {
	State     string `json:"state"`
	Service   string `json:"service"`
	Status    int    `json:"status"`
	Untrusted *struct {
		Product  string `json:"product"`
		Version  string `json:"version"`
		Location string `json:"location"`
	} `json:"untrusted"`
}

// scanned is what --json prints: the answers of the daemon as they are, and what follows.
type scanned struct {
	Outcome  string          `json:"outcome"` // complete, failed, incomplete, changed, not_comparable, detached
	Exit     int             `json:"exit_status"`
	Job      json.RawMessage `json:"job"`
	Baseline string          `json:"baseline,omitempty"` // the job that it was compared with
	Diff     json.RawMessage `json:"diff,omitempty"`
	Pinned   string          `json:"pinned,omitempty"`
}

func (r *scanRun) run(ctx context.Context, arguments json.RawMessage) error {
	defer func() {
		r.line.clear()
		if r.agent != nil {
			r.agent.close()
		}
	}()
	var call map[string]any
	d := json.NewDecoder(strings.NewReader(string(arguments)))
	d.UseNumber()
	if err := d.Decode(&call); err != nil {
		return err
	}
	call["wait_s"] = 0
	if r.options.correlation != "" {
		call["correlation_id"] = r.options.correlation
	}
	var err error
	if r.agent, err = r.dial(ctx); err != nil {
		return err
	}
	var begun jobAnswer
	r.line.show(r.tool + ": asking")
	whole, sig, err := r.begin(ctx, call, &begun)
	r.line.clear()
	if err != nil {
		return r.refusal(err)
	}
	if sig != nil {
		select {
		case r.signals <- sig: // wait sees to it: there is a job now
		default: // to another that has come since
		}
	} else if r.options.detach {
		if r.options.json {
			return r.s.printJSON(scanned{Outcome: "detached", Job: whole})
		}
		_, err := fmt.Fprintln(r.s.stdout, begun.JobID)
		return err
	}
	if !r.options.json {
		fmt.Fprintf(r.s.stderr, "secmcpd: job %s\n", begun.JobID)
	}
	if err := r.wait(ctx, begun); err != nil {
		return err
	}
	return r.conclude(ctx, begun.JobID)
}

func (r *scanRun) dial(ctx context.Context) (*agent, error) {
	return dialAgent(ctx, r.options.socket, "secmcpd-scan", r.confirm)
}

// confirm asks whoever gave the command what the engagement has confirmed.
func (r *scanRun) confirm(question string) bool {
	if r.options.confirmed {
		return true
	}
	if !r.interactive() {
		fmt.Fprintf(r.s.stderr, "secmcpd: %s\nhint: --confirm says yes\n", clean(question))
		return false
	}
	r.questioned.Store(true)
	defer r.questioned.Store(false)
	r.line.clear()
	fmt.Fprintf(r.s.stderr, "%s [y/N] ", clean(question))
	answer, _ := bufio.NewReader(r.s.stdin).ReadString('\n') // no answer is no
	return strings.EqualFold(strings.TrimSpace(answer), "y")
}

// interactive says whether somebody can be asked.
func (r *scanRun) interactive() bool {
	in, is := r.s.stdin.(*os.File)
	return is && term.IsTerminal(int(in.Fd())) && r.line.screen.terminal
}

// answerFor is how long whoever has sent a signal waits for the answer to the call that asks for the scan. The
// daemon gives one within five seconds.
const answerFor = 10 * time.Second

// begin asks for the scan, and gives a signal that came meanwhile. The answer is waited for all the same: a call
// that is given up leaves open whether there is a scan, and only one that is known can be cancelled for sure.
func (r *scanRun) begin(ctx context.Context, arguments any, into *jobAnswer) (whole json.RawMessage, sig os.Signal, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	type answer struct {
		whole json.RawMessage
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		whole, err := r.agent.call(ctx, r.tool, arguments, into)
		answered <- answer{whole, err}
	}()
	for {
		select {
		case a := <-answered:
			if a.err != nil && ctx.Err() != nil {
				return nil, sig, context.Cause(ctx)
			}
			return a.whole, sig, a.err
		case next := <-r.signals:
			if sig != nil || r.questioned.Load() { // a second one; nothing is asked for before a question is answered
				stop(signalled{next})
			} else {
				defer time.AfterFunc(answerFor, func() { stop(signalled{next}) }).Stop()
			}
			sig = next
		}
	}
}

// ask calls a tool once; a signal meanwhile ends the call.
func (r *scanRun) ask(ctx context.Context, tool string, arguments, into any) (json.RawMessage, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case sig := <-r.signals:
			stop(signalled{sig})
		case <-done:
		}
	}()
	whole, err := r.agent.call(ctx, tool, arguments, into)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return whole, err
}

// signalled is a signal that came while something was waited for.
type signalled struct{ os.Signal }

func (s signalled) Error() string { return "ended by the signal " + s.String() }

// refusal is how the command ends when the daemon says no.
func (r *scanRun) refusal(err error) error {
	var no *toolRefusal
	if errors.As(err, &no) && len(no.Faults) > 0 {
		return exitError{exitUsage, fmt.Errorf("%w\nhint: `secmcpd scan %s --help`", err, r.tool)}
	}
	return exitError{exitFailed, err}
}

const (
	pollSilent = 45 // seconds that one question waits for news, as long as the daemon does
	pollShown  = 2  // where somebody watches
	// redialFor is how long a front that restarts is waited for.
	redialFor = time.Minute
)

// wait waits for the end of a job. A connection that is lost is made anew: the job goes on without it.
func (r *scanRun) wait(ctx context.Context, now jobAnswer) error {
	poll := pollSilent
	if r.line.screen.terminal {
		poll = pollShown
	}
	id := now.JobID
	var lost time.Time
	for !now.over() {
		r.line.show(now.far(time.Now()))
		var next jobAnswer
		_, err := r.ask(ctx, "job_status", map[string]any{"job_id": id, "wait_s": poll}, &next)
		var no *toolRefusal
		var sig signalled
		switch {
		case err == nil:
			now, lost = next, time.Time{}
			continue
		case errors.As(err, &sig):
			if goOn, err := r.interrupted(ctx, id, sig.Signal); err != nil || !goOn {
				return err
			}
			continue
		case errors.As(err, &no) && no.JobID == id: // refused when its turn came
			return nil
		case errors.As(err, &no):
			return r.refusal(err)
		}
		if lost.IsZero() {
			lost = time.Now()
		}
		r.line.show(id + ": the daemon does not answer, connecting again")
		if time.Since(lost) > redialFor {
			return fmt.Errorf("%w\nhint: the job goes on: `secmcpd report %s` once it has ended", err, id)
		}
		r.agent.close()
		time.Sleep(time.Second)
		if again, err := r.dial(ctx); err == nil {
			r.agent = again
		}
	}
	r.line.clear()
	return nil
}

// far is how far a job is, in a line.
func (j *jobAnswer) far(now time.Time) string {
	what := j.Tool + " " + j.Status
	if j.Status == "queued" {
		return what
	}
	if p := j.Progress; p != nil {
		what += fmt.Sprintf(" %.0f %%", p.Percent)
		if p.Task != "" {
			what += ", " + p.Task
		}
		if p.HostsDone > 0 {
			what += ", " + plural(p.HostsDone, "host")
		}
		if p.RemainingS > 0 {
			what += ", " + short(time.Duration(p.RemainingS)*time.Second) + " left"
		}
	}
	if !j.Started.IsZero() {
		what += ", for " + short(now.Sub(j.Started))
	}
	return what
}

// interrupted asks what becomes of the scan where somebody can be asked, and cancels it elsewhere.
func (r *scanRun) interrupted(ctx context.Context, id string, sig os.Signal) (goOn bool, err error) {
	r.line.clear()
	word := "c"
	if sig == syscall.SIGINT && r.interactive() {
		fmt.Fprint(r.s.stderr, "\nsecmcpd: [c]ancel the scan, [d]etach from it, or go on (Enter)? ")
		answered := make(chan string, 1)
		go func() {
			text, err := bufio.NewReader(r.s.stdin).ReadString('\n')
			if err != nil {
				text = "d" // nobody is there any more
			}
			answered <- strings.ToLower(strings.TrimSpace(text))
		}()
		select {
		case word = <-answered:
		case <-r.signals: // a second one
		}
	}
	switch word {
	case "c":
		fmt.Fprintf(r.s.stderr, "secmcpd: cancelling job %s\n", id)
		ctx, done := context.WithTimeout(ctx, 30*time.Second)
		defer done()
		var ended jobAnswer
		if _, err := r.agent.call(ctx, "job_cancel", map[string]any{"job_id": id}, &ended); err != nil {
			return false, err
		}
		for !ended.over() {
			if _, err := r.agent.call(ctx, "job_status", map[string]any{"job_id": id, "wait_s": 5}, &ended); err != nil {
				return false, err
			}
		}
		return false, nil
	case "d":
		return false, exitError{exitOK, fmt.Errorf("the job goes on: `secmcpd report %s` once it has ended", id)}
	}
	return true, nil
}

// maxPages bounds what one result is read in.
const maxPages = 1024

// result reads the whole result of a job: its answer as the daemon gave it, with the hosts of all pages.
func (r *scanRun) result(ctx context.Context, id string) (jobAnswer, json.RawMessage, error) {
	var all jobAnswer
	var members map[string]json.RawMessage
	var hosts []json.RawMessage
	arguments := map[string]any{"job_id": id, "limit": 100}
	for n := 0; ; n++ {
		var page jobAnswer
		whole, err := r.agent.call(ctx, "job_result", arguments, &page)
		if err != nil {
			return all, whole, err
		}
		var more struct {
			Hosts []json.RawMessage `json:"hosts"`
		}
		if err := json.Unmarshal(whole, &more); err != nil {
			return all, nil, err
		}
		hosts = append(hosts, more.Hosts...)
		if n == 0 {
			all = page
			if err := json.Unmarshal(whole, &members); err != nil {
				return all, nil, err
			}
		} else {
			all.Hosts = append(all.Hosts, page.Hosts...)
		}
		if page.Page == nil || page.Page.Next == "" {
			break
		}
		if n == maxPages {
			return all, nil, fmt.Errorf("cannot read the result: it has more than %d pages", maxPages)
		}
		arguments["cursor"] = page.Page.Next
	}
	if len(hosts) > 0 {
		text, err := json.Marshal(hosts)
		if err != nil {
			return all, nil, err
		}
		members["hosts"] = text
	}
	delete(members, "page") // all of them are here
	delete(members, "next")
	whole, err := json.Marshal(members)
	return all, whole, err
}

// conclude prints what was found, compares it, pins it, and says with the exit status what that means.
func (r *scanRun) conclude(ctx context.Context, id string) error {
	job, whole, err := r.result(ctx, id)
	var no *toolRefusal
	if errors.As(err, &no) {
		if r.options.json {
			return errors.Join(r.s.printJSON(scanned{Outcome: "failed", Exit: exitFailed, Job: whole}), exitError{exitFailed, nil})
		}
		return r.refusal(err)
	}
	if err != nil {
		return err
	}
	// What is told beside a report is not to be in it.
	beside := r.s.stdout
	switch {
	case r.options.json:
		beside = r.s.stderr
	case r.options.format == "":
		err = r.s.printResult(job)
	case r.options.output == "":
		beside = r.s.stderr
	}
	if err == nil && r.options.format != "" {
		err = toFile(r.options.output, r.s.stdout, func(to io.Writer) error {
			return r.agent.read(ctx, reportURI(id, r.options.format), to)
		})
	}
	if err != nil {
		return err
	}
	out := scanned{Outcome: "complete", Job: whole}
	switch {
	case !slices.Contains([]string{"completed", "partial", "truncated"}, job.Status):
		out.Outcome, out.Exit = "failed", exitFailed
	case job.Status != "completed", job.Coverage == nil, !job.Coverage.Complete:
		out.Outcome, out.Exit = "incomplete", exitWarned
	}
	if r.options.baseline != "" && out.Exit != exitFailed {
		if err := r.compare(ctx, id, beside, &out); err != nil {
			return err
		}
	}
	if r.options.pin != "" && job.Status == "completed" && job.Coverage != nil && job.Coverage.Complete {
		if _, err := r.agent.call(ctx, "job_pin", map[string]any{"name": r.options.pin, "job_id": id}, &struct{}{}); err != nil {
			return err
		}
		out.Pinned = r.options.pin
		fmt.Fprintf(r.s.stderr, "secmcpd: pinned as %s\n", r.options.pin)
	}
	if r.options.json {
		err = r.s.printJSON(out)
	}
	if err == nil && out.Exit != exitOK {
		err = exitError{out.Exit, nil}
	}
	return err
}

// compare says what has changed since the baseline. Where there is none yet, and this job is to become it,
// nothing has.
func (r *scanRun) compare(ctx context.Context, id string, to io.Writer, out *scanned) error {
	diff, whole, err := r.diff(ctx, id)
	var no *toolRefusal
	if errors.As(err, &no) && no.Problem.Code == "no_such_job" && no.Problem.Field == "before" {
		if r.options.pin == r.options.baseline {
			fmt.Fprintf(r.s.stderr, "secmcpd: no job is pinned as %s: this one is the first\n", r.options.baseline)
			return nil
		}
		fmt.Fprintf(r.s.stderr, "secmcpd: no job is pinned as %s\nhint: --pin %s makes this one the baseline\n", r.options.baseline, r.options.baseline)
		out.Outcome, out.Exit = "not_comparable", exitIncomparable
		return nil
	}
	if err != nil {
		return r.refusal(err)
	}
	out.Baseline, out.Diff = diff.Before.JobID, whole
	switch {
	case diff.Appeared+diff.Vanished+diff.Changed > 0:
		out.Outcome, out.Exit = "changed", exitChanged
	case diff.NotComparable > 0, !diff.Before.Complete, diff.Same == 0 && strings.HasPrefix(diff.Next, "Nothing can be compared"):
		out.Outcome, out.Exit = "not_comparable", exitIncomparable
	}
	if r.options.json {
		return nil
	}
	sc := screenOf(to)
	t := &table{screen: sc}
	for _, c := range diff.Changes {
		how := map[string]style{"appeared": green, "vanished": red, "changed": yellow, "not_comparable": faint}[c.Kind]
		t.row(cell{c.Kind, how}, c.Host, c.place(), c.said())
	}
	_, err = fmt.Fprintf(to, "%scompared with %s, the job %s: %d appeared, %d vanished, %d changed, %d the same, %d not comparable\n", t,
		r.options.baseline, clean(diff.Before.JobID), diff.Appeared, diff.Vanished, diff.Changed, diff.Same, diff.NotComparable)
	return err
}

// diff reads all pages of scan_diff.
func (r *scanRun) diff(ctx context.Context, id string) (diffAnswer, json.RawMessage, error) {
	var all diffAnswer
	var members map[string]json.RawMessage
	var changes []json.RawMessage
	arguments := map[string]any{"before": r.options.baseline, "after": id, "limit": 100}
	for n := 0; ; n++ {
		var page diffAnswer
		whole, err := r.agent.call(ctx, "scan_diff", arguments, &page)
		if err != nil {
			return all, whole, err
		}
		var more struct {
			Changes []json.RawMessage `json:"changes"`
		}
		if err := json.Unmarshal(whole, &more); err != nil {
			return all, nil, err
		}
		changes = append(changes, more.Changes...)
		if n == 0 {
			all = page
			if err := json.Unmarshal(whole, &members); err != nil {
				return all, nil, err
			}
		} else {
			all.Changes = append(all.Changes, page.Changes...)
		}
		if page.Page.Next == "" || n == maxPages {
			break
		}
		arguments["cursor"] = page.Page.Next
	}
	text, err := json.Marshal(changes)
	if err != nil {
		return all, nil, err
	}
	members["changes"] = text
	delete(members, "page")
	whole, err := json.Marshal(members)
	return all, whole, err
}

func (c diffChange) place() string {
	switch {
	case c.Name != "":
		return c.Name
	case c.Proto != "":
		return fmt.Sprintf("%d/%s", c.Port, c.Proto)
	}
	return "host"
}

func (c diffChange) said() string {
	if c.Reason != "" {
		return c.Reason
	}
	switch {
	case c.Before == nil:
		return c.After.String()
	case c.After == nil:
		return c.Before.String()
	}
	return c.Before.String() + " → " + c.After.String()
}

func (s *diffSeen) String() string {
	if s == nil {
		return ""
	}
	words := []string{s.State, s.Service}
	if s.Status != 0 {
		words = append(words, fmt.Sprint(s.Status))
	}
	if u := s.Untrusted; u != nil {
		words = append(words, u.Product, u.Version, u.Location)
	}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}

// printResult is a result as a person reads it.
func (s *surroundings) printResult(j jobAnswer) error {
	t := s.newTable("HOST", "WHAT", "STATE", "SERVICE", "DETAIL")
	for _, h := range j.Hosts {
		host := h.Addr.String()
		switch {
		case h.TimedOut:
			t.row(host, "host", cell{"given up", yellow}, "", "of its ports nothing is known")
		case h.Silent:
			t.row(host, "host", cell{"silent", faint})
		case len(h.Ports)+len(h.Found) == 0:
			t.row(host, "host", h.Status, "", others(h))
		}
		for _, p := range h.Ports {
			state, detail := cell{text: p.State}, ""
			if p.State == "open" {
				state.how = green
			}
			if u := p.Untrusted; u != nil {
				detail = strings.TrimSpace(u.Product + " " + u.Version + " " + u.Extra)
			}
			t.row(host, fmt.Sprintf("%d/%s", p.Port, p.Proto), state, p.Service, detail)
		}
		for _, f := range h.Found {
			detail := ""
			if f.Untrusted != nil {
				detail = f.Untrusted.Location
			}
			t.row(host, f.Path+f.Name, cell{fmt.Sprint(f.Status), green}, "", detail)
		}
	}
	if len(t.rows) > 1 {
		if err := s.print(t); err != nil {
			return err
		}
	}
	return s.printEnd(j)
}

// others counts the ports of a host that are not listed.
func others(h report.Host) string {
	var all []string
	for _, o := range h.Others {
		all = append(all, fmt.Sprintf("%d %s", o.Count, o.State))
	}
	return strings.Join(all, ", ")
}

// printEnd is how a scan ended, and what it covered.
func (s *surroundings) printEnd(j jobAnswer) error {
	sc := screenOf(s.stdout)
	how := map[string]style{"completed": green, "partial": yellow, "truncated": yellow}[j.Status]
	if how == normal {
		how = red
	}
	said := []string{sc.paint(how, clean(j.Status))}
	if e := j.End; e != nil && j.Status != "completed" {
		said = append(said, clean(strings.TrimSpace(e.Reason+" "+e.Stage+" "+e.Detail+" "+e.ScannerError)))
	}
	if m := j.Summary; m != nil {
		said = append(said, plural(m.HostsUp, "host")+" up", plural(m.OpenPorts, "open port"))
		if m.Found > 0 {
			said = append(said, fmt.Sprintf("%d found", m.Found))
		}
		if m.Silent > 0 {
			said = append(said, fmt.Sprintf("%d silent", m.Silent))
		}
		if m.TimedOut > 0 {
			said = append(said, fmt.Sprintf("%d given up", m.TimedOut))
		}
	}
	if c := j.Coverage; c != nil {
		said = append(said, fmt.Sprintf("%d of %s looked at", c.Probed, plural(int(c.Asked), "address")))
		if c.Excluded > 0 {
			said = append(said, fmt.Sprintf("%d left out", c.Excluded))
		}
		if !c.Complete {
			said = append(said, sc.paint(yellow, "not complete"))
		}
	}
	if len(j.NotEnforced) > 0 {
		var layers []string
		for _, g := range j.NotEnforced {
			layers = append(layers, clean(g.Layer))
		}
		said = append(said, "not enforced: "+strings.Join(layers, " "))
	}
	if !j.Started.IsZero() && !j.Ended.IsZero() {
		said = append(said, short(j.Ended.Sub(j.Started)))
	}
	if j.Error != nil {
		said = append(said, clean(j.Error.Code), clean(j.Error.Reason))
	}
	_, err := fmt.Fprintln(s.stdout, strings.Join(said, ", "))
	return err
}
