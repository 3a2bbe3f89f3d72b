package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
)

// callerFlags say who would ask, and when.
type callerFlags struct {
	uid, gid uint32
	groups   []uint
	at       string
}

func (w *callerFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.Uint32Var(&w.uid, "uid", uint32(os.Getuid()), "the caller's uid")
	f.Uint32Var(&w.gid, "gid", 0, "the caller's gid, instead of its user's")
	f.UintSliceVar(&w.groups, "groups", nil, "the caller's supplementary gids, instead of its user's")
	f.StringVar(&w.at, "at", "", "at this time (RFC 3339) instead of now")
	f.Lookup("uid").DefValue, f.Lookup("gid").DefValue = "", "" // they are not the same for everybody
}

// asked is the caller and the time, and what is not known of the caller.
func (w *callerFlags) asked(c *cobra.Command) (caller policy.Caller, now time.Time, note string, err error) {
	now = time.Now()
	if w.at != "" {
		if now, err = time.Parse(time.RFC3339, w.at); err != nil {
			return caller, now, "", fmt.Errorf("--at: %w", err)
		}
	}
	caller, note, err = testCaller(c.Flags().Changed, w.uid, w.gid, w.groups)
	return caller, now, note, err
}

// engagementsExplain judges any request with the real arguments of a tool, under every engagement.
func engagementsExplain(s *surroundings, of runners.Table) *cobra.Command {
	c := &cobra.Command{
		Use: "explain", Annotations: map[string]string{ofTools: "briefly"}, Short: "what each engagement makes of a request, with every reason against it",
		Long: `What each engagement makes of a request: what it would allow, or every reason against it, rule by
rule, and not only the first. The request is a call of a tool with its real arguments; the caller is
whoever runs the command, or the user --uid with the groups that this machine's files give it. It is
judged by the files as they are; nothing is asked of the daemon, and nothing is sent.

Names are not resolved: --answer gives one the addresses that a name server would.

Exit status: 0 it would be allowed; 1 it would not; 2 an argument is wrong; 3 it would need an approval.`,
	}
	for _, t := range of.Listed() {
		c.AddCommand(explainTool(s, t))
	}
	return c
}

func explainTool(s *surroundings, t runners.Tool) *cobra.Command {
	var who callerFlags
	var asJSON bool
	var answers []string
	c := &cobra.Command{Use: t.Name + " [flags] [TARGET...]", Short: "a call of " + t.Name, Long: t.Description, ValidArgsFunction: cobra.NoFileCompletions}
	jsonFlag(c, &asJSON)
	who.add(c)
	c.Flags().StringArrayVar(&answers, "answer", nil, "the addresses of a name, as NAME=ADDRESS[,ADDRESS]")
	arguments := addArguments(c, t)
	c.Args = cobra.ArbitraryArgs
	if !arguments.takes("targets") {
		c.Args, c.Use = noArgs, t.Name+" [flags]"
	}
	c.RunE = func(c *cobra.Command, words []string) error {
		settings, err := loadSettings(s.config)
		if err != nil {
			return err
		}
		caller, now, note, err := who.asked(c)
		if err != nil {
			return usage(c, err)
		}
		object, err := arguments.object(s.stdin, words)
		if err != nil {
			return usage(c, err)
		}
		tools := settings.tools()
		call, faults := tools.Read(t.Name, object)
		if len(faults) > 0 {
			return usage(c, faultsOf(faults))
		}
		request := launcher.Asks(call)
		resolved, err := withAnswers(&request, answers)
		if err != nil {
			return usage(c, fmt.Errorf("--answer: %w", err))
		}
		p, wrong, err := policyNow(settings)
		if err != nil {
			return err
		}
		p.Machine.Budget = settings.Scans.Packets
		x := explain(p, caller, request, now, resolved)
		x.Notes, x.Off = notesOf(settings, tools, t, wrong, note)
		if asJSON {
			err = s.printJSON(x)
		} else {
			_, err = io.WriteString(s.stdout, x.page(screenOf(s.stdout)))
		}
		if err != nil {
			return err
		}
		if x.Off {
			return exitError{exitFailed, nil}
		}
		switch policy.Outcome(x.Verdict.Outcome) {
		case policy.Allow:
			return nil
		case policy.Approve:
			return exitError{exitWarned, nil}
		}
		return exitError{exitFailed, nil}
	}
	return c
}

// faultsOf are the faults of a call's arguments, all at once.
func faultsOf(faults []runners.Fault) error {
	no := &toolRefusal{}
	for _, f := range faults[:min(len(faults), 32)] {
		no.Faults = append(no.Faults, toolProblem{Code: f.Code, Field: f.Field, Got: f.Got, Allowed: f.Allowed, Hint: f.Hint})
	}
	return no
}

// withAnswers gives names their addresses. resolved says that all of them have some.
func withAnswers(r *policy.Request, answers []string) (resolved bool, err error) {
	given := map[string][]netip.Addr{}
	for _, text := range answers {
		name, list, is := strings.Cut(text, "=")
		if !is || name == "" {
			return false, fmt.Errorf("got %s; allowed: NAME=ADDRESS[,ADDRESS]", strict.Quote(text))
		}
		for one := range strings.SplitSeq(list, ",") {
			a, err := netip.ParseAddr(one)
			if err != nil || a.Zone() != "" {
				return false, fmt.Errorf("got %s; allowed: NAME=ADDRESS[,ADDRESS]", strict.Quote(text))
			}
			given[strings.ToLower(name)] = append(given[strings.ToLower(name)], a)
		}
	}
	resolved = true
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Name == "" || t.Said {
			continue
		}
		t.Answers = given[t.Name]
		resolved = resolved && len(t.Answers) > 0
		delete(given, t.Name)
	}
	for name := range given {
		return false, fmt.Errorf("%s is no target", strict.Quote(name))
	}
	return resolved, nil
}

// notesOf is what would refuse the call beside policy, and what is not known. off says that the tool is off.
func notesOf(settings settings, tools runners.Table, t runners.Tool, wrong strict.Faults, note string) (notes []string, off bool) {
	notes = []string{}
	for _, f := range wrong {
		notes = append(notes, "not in force: "+f.String())
	}
	if note != "" {
		notes = append(notes, note)
	}
	if off = tools.Off(t.Name); off {
		notes = append(notes, t.Name+" is left out by tools.include or tools.exclude: it is refused, whatever engagements say")
	}
	switch disabled, err := launcher.Disabled(settings.LauncherStateDir); {
	case err != nil:
		notes = append(notes, "whether the tool is disabled is root's to see")
	case slices.Contains(disabled, t.Name):
		off = true
		notes = append(notes, t.Name+" is disabled: it is refused, whatever engagements say, until `secmcpd tools enable`")
	}
	return notes, off
}

// explained is what is printed: the verdict as the launcher would tell it, and what each engagement says.
type explained struct {
	Verdict     wire.Verdict          `json:"verdict"`
	Denial      *wire.Refusal         `json:"denial,omitempty"`
	Engagements []explainedEngagement `json:"engagements"`
	Off         bool                  `json:"tool_off"` // it is refused, whatever engagements say
	Notes       []string              `json:"notes"`
	text        string
}

type explainedEngagement struct {
	Name      string         `json:"name"`
	Names     bool           `json:"names_caller"`
	Suspended string         `json:"suspended,omitempty"`
	Outcome   string         `json:"outcome"`
	Verdict   *wire.Verdict  `json:"verdict,omitempty"` // what it grants
	Against   []wire.Refusal `json:"against"`           // the first maxAgainst
	Count     int            `json:"against_count"`
}

// maxAgainst bounds the reasons that are told of one engagement.
const maxAgainst = 64

func explain(p *policy.Policy, caller policy.Caller, r policy.Request, now time.Time, resolved bool) explained {
	judge := policy.Precheck
	if resolved {
		judge = policy.Decide
	}
	v := judge(p, caller, r, now)
	x := explained{Verdict: launcher.Shown(v), Engagements: []explainedEngagement{}, text: v.String()}
	if v.Outcome != policy.Allow && v.Outcome != policy.Approve {
		no := refusalOf(v)
		x.Denial = &no
	}
	for _, e := range policy.Explain(p, caller, r, now, resolved) {
		one := explainedEngagement{Name: e.Engagement, Names: e.Names, Suspended: e.Suspended, Outcome: string(policy.Deny), Against: []wire.Refusal{}, Count: len(e.Against)}
		for _, v := range e.Against[:min(len(e.Against), maxAgainst)] {
			one.Against = append(one.Against, refusalOf(v))
		}
		if len(e.Against) == 0 && e.Suspended == "" {
			shown := launcher.Shown(e.Verdict)
			one.Verdict, one.Outcome = &shown, string(e.Verdict.Outcome)
		}
		x.Engagements = append(x.Engagements, one)
	}
	return x
}

func refusalOf(v policy.Verdict) wire.Refusal {
	return wire.Refusal{Code: v.Code, Field: v.Field, Got: v.Got, Allowed: v.Allowed, Reason: v.Reason, Hint: v.Hint, Rule: v.Rule}
}

// page is the same for people.
func (x explained) page(sc screen) string {
	var b strings.Builder
	how := map[string]style{string(policy.Allow): green, string(policy.Approve): yellow}[x.Verdict.Outcome]
	if how == normal {
		how = red
	}
	for i, line := range strings.Split(strings.TrimSuffix(x.text, "\n"), "\n") {
		if i == 0 {
			line = sc.paint(how, clean(line))
		} else {
			line = clean(line)
		}
		b.WriteString(line + "\n")
	}
	for _, e := range x.Engagements {
		fmt.Fprintf(&b, "\n%s: ", sc.paint(strong, clean(e.Name)))
		switch {
		case e.Suspended != "":
			fmt.Fprintf(&b, "not in force: %s\n", clean(e.Suspended))
			continue
		case e.Verdict != nil && e.Names:
			fmt.Fprintf(&b, "%s, by %s\n", clean(e.Outcome), clean(e.Verdict.Rule))
		case e.Verdict != nil:
			fmt.Fprintf(&b, "does not name the caller; it would %s, by %s\n", clean(e.Outcome), clean(e.Verdict.Rule))
		case e.Names:
			b.WriteString("deny\n")
		default:
			b.WriteString("deny; it does not name the caller\n")
		}
		for _, v := range e.Against {
			fmt.Fprintf(&b, "  %s %s", clean(v.Code), clean(v.Field))
			if v.Got != "" {
				fmt.Fprintf(&b, " %s", strict.Quote(v.Got))
			}
			fmt.Fprintf(&b, ": %s", clean(v.Reason))
			if v.Rule != "" {
				fmt.Fprintf(&b, " (%s)", clean(v.Rule))
			}
			if len(v.Allowed) > 0 {
				fmt.Fprintf(&b, "; allowed: %s", clean(strings.Join(v.Allowed, ", ")))
			}
			b.WriteByte('\n')
		}
		if more := e.Count - len(e.Against); more > 0 {
			fmt.Fprintf(&b, "  and %d more\n", more)
		}
	}
	for _, note := range x.Notes {
		fmt.Fprintf(&b, "\nnote: %s\n", clean(note))
	}
	return b.String()
}
