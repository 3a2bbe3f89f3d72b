package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/view"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
)

// maxListed bounds a list of jobs.
const maxListed = 10000

// jobsCommand lists jobs of all users.
func jobsCommand(s *surroundings) *cobra.Command {
	var all, asJSON bool
	var who, state, tool string
	var limit int
	c := &cobra.Command{
		Use: "jobs", Short: "list the jobs of all users", Args: noArgs,
		Long: "List the jobs of all users that are under way, with --all also those that have ended, the newest first.\nAn agent's user sees the own ones by job_list.",
		RunE: func(c *cobra.Command, _ []string) error {
			q := url.Values{}
			switch {
			case !knownState(state):
				return usage(c, fmt.Errorf("--state: got %s; allowed: %s", strict.Quote(state), strings.Join(states, ", ")))
			case limit < 1 || limit > maxListed:
				return usage(c, fmt.Errorf("--limit: got %d; allowed: 1 to %d", limit, maxListed))
			case state != "":
				q.Set("state", state)
			case !all:
				q.Set("state", "under_way")
			}
			if who != "" {
				uid, err := anyUser(who)
				if err != nil {
					return usage(c, fmt.Errorf("--user: got %s: %w", strict.Quote(who), err))
				}
				q.Set("uid", strconv.FormatUint(uint64(uid), 10))
			}
			if tool != "" {
				q.Set("tool", tool)
			}
			jobs, more, err := s.jobs(c.Context(), q, limit)
			if err != nil {
				return err
			}
			if asJSON {
				return s.printJSON(jobs)
			}
			if len(jobs) == 0 {
				_, err := fmt.Fprintln(s.stderr, "secmcpd: none"+map[bool]string{false: " under way; --all lists those that have ended, too"}[all || state != ""])
				return err
			}
			if _, err := io.WriteString(s.stdout, jobsTable(screenOf(s.stdout), "", jobs, time.Now(), userName)); err != nil {
				return fmt.Errorf("cannot print: %w", err)
			}
			if more {
				_, err = fmt.Fprintf(s.stderr, "secmcpd: there are more; --limit %d shows some of them\n", min(10*limit, maxListed))
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVarP(&all, "all", "a", false, "also those that have ended")
	f.StringVar(&who, "user", "", "of this user alone, by name or number")
	f.StringVar(&state, "state", "", "in this state alone: "+strings.Join(states, ", "))
	f.StringVar(&tool, "tool", "", "of this tool alone")
	f.IntVarP(&limit, "limit", "n", 20, "at most so many")
	jsonFlag(c, &asJSON)
	completeWith(c, "state", states...)
	completeWith(c, "tool", runners.BuiltIn().Names()...)
	return c
}

// jobs reads so many jobs, page by page.
func (s *surroundings) jobs(ctx context.Context, q url.Values, limit int) (jobs []view.Job, more bool, err error) {
	jobs = []view.Job{}
	most := view.MaxJobs // of one page
	if q.Get("state") == "under_way" {
		most = view.MaxUnderWay
	}
	for {
		q.Set("limit", strconv.Itoa(min(limit-len(jobs), most)))
		var page view.Jobs
		if err := s.frontGet(ctx, "/v1/jobs?"+q.Encode(), &page); err != nil {
			return nil, false, err
		}
		jobs = append(jobs, page.Jobs...)
		if page.Next == "" || len(jobs) >= limit || len(page.Jobs) == 0 {
			return jobs, page.Next != "" || page.More > 0, nil
		}
		q.Set("before", page.Next)
	}
}

// completeJobs has a shell complete the ids of jobs, where the front may be asked.
func (s *surroundings) completeJobs(state string) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, done := context.WithTimeout(context.Background(), 2*time.Second)
		defer done()
		q := url.Values{}
		if state != "" {
			q.Set("state", state)
		}
		jobs, _, err := s.jobs(ctx, q, 50)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, j := range jobs {
			out = append(out, cobra.CompletionWithDesc(j.JobID, clean(j.Tool+" "+j.State+" "+targetsOf(j))))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// jobID takes a job's id from the command line: a whole one.
func jobID(c *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(c, args); err != nil {
		return err
	}
	if !wire.ValidJobID(args[0]) {
		return fmt.Errorf("%s is no job: it has %d letters and digits, as `secmcpd jobs` lists them", strict.Quote(args[0]), wire.JobIDLength)
	}
	return nil
}

// jobCommand tells everything about one job but what it found.
func jobCommand(s *surroundings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "job JOB", Short: "everything about one job, of any user, but what it found", Args: jobID, ValidArgsFunction: s.completeJobs(""),
		Long: `Everything about one job, of any user: who asked for what, under which engagement and rule, what was
run with which limits, how it ended, what it used and covered. What it found is its user's:
secmcpd report writes it.`,
		RunE: func(c *cobra.Command, args []string) error {
			var d view.JobDetail
			if err := s.frontGet(c.Context(), "/v1/jobs/"+args[0], &d); err != nil {
				return err
			}
			if asJSON {
				return s.printJSON(d)
			}
			_, err := io.WriteString(s.stdout, jobPage(screenOf(s.stdout), d, time.Now(), userName))
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// jobPage is a job for people.
func jobPage(sc screen, d view.JobDetail, now time.Time, name func(uid uint32) string) string {
	t := &table{screen: screen{colours: sc.colours}} // a page to be read whole: nothing is cut
	t.row("job", cell{d.JobID, strong})
	t.row("state", cell{d.State, stateStyles[d.State]})
	t.row("", d.Reason)
	t.row("asked by", fmt.Sprintf("%s (uid %d)", name(d.UID), d.UID))
	for _, one := range []struct{ word, text string }{{"correlation", d.Correlation}, {"follows", d.Follows}, {"pinned as", d.Pinned}} {
		if one.text != "" {
			t.row(one.word, one.text)
		}
	}
	t.row("tool", d.Tool+", profile "+d.Profile)
	var arguments bytes.Buffer
	if json.Compact(&arguments, d.Arguments) == nil {
		t.row("arguments", arguments.String())
	}
	t.row("created", when(d.Created, now)+", "+short(now.Sub(d.Created))+" ago")
	if !d.Started.IsZero() {
		t.row("started", when(d.Started, now)+", waited "+short(d.Started.Sub(d.Created)))
	}
	switch {
	case !d.Ended.IsZero() && !d.Started.IsZero():
		t.row("ended", when(d.Ended, now)+", took "+short(d.Ended.Sub(d.Started)))
	case !d.Ended.IsZero():
		t.row("ended", when(d.Ended, now))
	case !d.Deadline.IsZero():
		t.row("deadline", when(d.Deadline, now)+", in "+short(d.Deadline.Sub(now)))
	}
	if p := d.Progress; p != nil {
		t.row("progress", howFar(d.Job, now))
		t.row("", p.Task)
	}
	v := d.Verdict
	if v.Outcome != "" {
		t.row("verdict", v.Outcome+" by engagement "+v.Engagement+" (revision "+v.Revision[:min(len(v.Revision), 12)]+"), rule "+v.Rule)
		t.row("", v.Reason)
		t.row("addresses", some(v.Addresses, int(v.AddressCount)))
		var out []string
		for _, e := range v.Excluded {
			out = append(out, e.Prefix+" by "+e.Rule)
		}
		t.row("left out", strings.Join(out, ", "))
		t.row("ports", strings.Join(v.Ports, " "))
		t.row("limits", fmt.Sprintf("%d packets/s, %s", v.Rate, short(time.Duration(v.LimitS)*time.Second)))
	}
	if len(d.Argv) > 0 {
		line := commandLine(d.Argv)
		if more := d.ArgvCount - len(d.Argv); more > 0 {
			line += fmt.Sprintf(" and %d more words", more)
		}
		t.row("command", line)
	}
	answered(t, d.Answer)
	t.row("audit", "secmcpd audit show --job "+d.JobID)
	// A word without anything behind it says nothing.
	t.rows = slices.DeleteFunc(t.rows, func(row []cell) bool { return len(row) < 2 || row[1].text == "" })
	return t.String()
}

func some(list []string, count int) string {
	text := strings.Join(list[:min(len(list), 8)], " ")
	return fmt.Sprintf("%d: %s%s", count, text, map[bool]string{true: " …"}[len(list) > 8])
}

// answered adds what the job's user is answered, member by member: end, coverage, use, scanner, artefacts.
func answered(t *table, answer json.RawMessage) {
	var members map[string]json.RawMessage
	if json.Unmarshal(answer, &members) != nil {
		return
	}
	for _, word := range []string{"end", "error", "summary", "coverage", "usage", "scanner", "wordlist", "network", "resolved", "not_enforced", "artifacts"} {
		if raw := members[word]; len(raw) > 2 { // {} and [] say nothing
			t.row(strings.ReplaceAll(word, "_", " "), inWords(raw))
		}
	}
}

// inWords is JSON as a person reads it in a line: names and values in their order, lists within brackets.
func inWords(raw json.RawMessage) string {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var b strings.Builder
	var open []json.Delim
	first, name := true, true
	for {
		token, err := d.Token()
		if err != nil {
			return b.String()
		}
		if delim, is := token.(json.Delim); is && (delim == '}' || delim == ']') {
			open = open[:len(open)-1]
			if len(open) > 0 {
				b.WriteString(string(delim))
			}
			first, name = false, true
			continue
		}
		inObject := len(open) > 0 && open[len(open)-1] == '{'
		switch {
		case inObject && !name:
			b.WriteByte(' ') // between a name and its value
		case !first:
			b.WriteString(", ")
		}
		first = false
		if delim, is := token.(json.Delim); is {
			if len(open) > 0 {
				b.WriteString(string(delim))
			}
			open = append(open, delim)
			first, name = true, true
			continue
		}
		if inObject && name {
			token = strings.ReplaceAll(fmt.Sprint(token), "_", " ")
		}
		fmt.Fprint(&b, token)
		name = !inObject || !name
	}
}

// cancelCommand ends a job of any user.
func cancelCommand(s *surroundings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "cancel JOB", Short: "end a job of any user", Args: jobID, ValidArgsFunction: s.completeJobs("under_way"),
		Long: `End a job that waits or runs, whoever's it is. What it has found is kept; its user is told that an
operator has ended it, and the audit log who. An agent's user ends own jobs by job_cancel.`,
		RunE: func(c *cobra.Command, args []string) error {
			a, err := s.launcherAsk(c.Context(), wire.Order{Stop: &wire.Stop{Job: args[0]}})
			if err != nil {
				return err
			}
			if a.Stopped == nil {
				return fmt.Errorf("the launcher does not say what it did: is it of version %s?", version)
			}
			if asJSON {
				return s.printJSON(a.Stopped)
			}
			_, err = fmt.Fprintf(s.stdout, "job %s of %s is being ended; it was %s\n", clean(a.Stopped.Job), userName(a.Stopped.UID), clean(a.Stopped.State))
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}
