package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// checkCommand reads everything that the daemon would read and tells every fault.
func checkCommand(s *surroundings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "check", Short: "check the configuration and every engagement", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			engagements, warnings, err := s.wrongs()
			if asJSON {
				said := checked{OK: err == nil, Engagements: len(engagements), Faults: []string{}, Warnings: []string{}}
				for _, w := range warnings {
					said.Warnings = append(said.Warnings, w.String())
				}
				if err != nil {
					said.Faults, err = strings.Split(err.Error(), "\n"), exitError{exitConfig, nil}
				}
				return errors.Join(s.printJSON(said), err)
			}
			for _, w := range warnings {
				fmt.Fprintf(s.stderr, "secmcpd: warning: %s\n", w)
			}
			if err != nil {
				return exitError{exitConfig, err}
			}
			_, err = fmt.Fprintf(s.stdout, "configuration ok, %s\n", plural(len(engagements), "engagement"))
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// checked is what `check --json` prints.
type checked struct {
	OK          bool     `json:"ok"`
	Engagements int      `json:"engagements"` // in force
	Faults      []string `json:"faults"`      // each with its file and line
	Warnings    []string `json:"warnings"`    // of settings that are in force otherwise than they were said
}

// wrongs is every fault of the settings and of the engagements together. Where the settings have
// faults the engagements are looked for where they say, or else where the default is. Warnings are of
// settings that are in force otherwise than they were said.
func (s *surroundings) wrongs() ([]policy.Engagement, strict.Faults, error) {
	settings, at, wrong := readSettings(s.config)
	var faults strict.Faults
	if wrong != nil && !errors.As(wrong, &faults) {
		return nil, nil, bare(wrong) // nothing was read: where the engagements are is not known
	}
	faults = append(faults, settings.checkMachine(at)...)
	errs := []error{faults.Err()}
	if filepath.IsAbs(settings.RunnersDir) {
		errs = append(errs, settings.declared())
	}
	errs = append(errs, settings.checkTokens())
	var engagements []policy.Engagement
	if dir := settings.EngagementsDir; filepath.IsAbs(dir) {
		var faults strict.Faults
		var err error
		engagements, faults, err = launcher.Engagements(dir, launcher.Lookup(settings.tools()))
		errs = append(errs, faults.Err(), err)
	}
	return engagements, settings.from.warnings, errors.Join(errs...)
}

// checkTokens says what is wrong with the tokens of HTTP; who may not read them is told nothing.
func (s *settings) checkTokens() error {
	cfg, err := s.launcher()
	if err != nil {
		return nil // it is told as a fault of the settings
	}
	f, err := os.Open(s.HTTP.Tokens)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	f.Close()
	_, err = launcher.Tokens([]string{s.HTTP.Tokens}, cfg.Never)
	return err
}

// bare is an error without its exit status.
func bare(err error) error {
	var exit exitError
	if errors.As(err, &exit) {
		return exit.err
	}
	return err
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "s") {
		what += "e"
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func engagementsCommand(s *surroundings, of runners.Table) *cobra.Command {
	c := &cobra.Command{Use: "engagements", Short: "who may scan what, and when"}
	c.AddCommand(engagementsNew(s), engagementsList(s), engagementsExplain(s, of), engagementsTest(s))
	return c
}

func engagementsNew(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "new NAME", Short: "print an engagement to fill in", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := policy.Template(args[0], time.Now())
			if err != nil {
				return exitError{exitUsage, err}
			}
			_, err = fmt.Fprint(s.stdout, text)
			return err
		},
	}
}

// engagementListed is one engagement as `engagements list --json` tells it.
type engagementListed struct {
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	File        string         `json:"file"`
	Revision    string         `json:"revision"` // sha256 of the file
	Callers     []string       `json:"callers"`
	Targets     []string       `json:"targets"`
	Excluded    []string       `json:"excluded"`
	Tools       []string       `json:"tools"`
	Intrusive   string         `json:"intrusive"`
	Expires     time.Time      `json:"expires,omitzero"`
	Limits      map[string]any `json:"limits"`
}

func engagementsList(s *surroundings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "list the engagements in force", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			engagements, faults, err := launcher.Engagements(settings.EngagementsDir, launcher.Lookup(settings.tools()))
			if err != nil {
				return exitError{exitConfig, err}
			}
			list := []engagementListed{}
			for _, e := range engagements {
				if !asJSON {
					fmt.Fprintln(s.stdout, e)
				}
				l := e.Limits
				list = append(list, engagementListed{Name: e.Name, Description: e.Description, File: e.File, Revision: e.Revision, Callers: orEmpty(e.Callers()),
					Targets: orEmpty(e.Targets()), Excluded: orEmpty(e.Excluded()), Tools: orEmpty(e.Tools()), Intrusive: string(e.Intrusive), Expires: e.Expires,
					Limits: map[string]any{"addresses_per_job": l.Addresses, "ports_per_address": l.Ports, "packets_per_second": l.Rate, "total_packets_per_second": l.Budget,
						"duration_s": int64(l.Duration / time.Second), "jobs_at_once": l.Jobs}})
			}
			if asJSON {
				err = s.printJSON(list)
			}
			if len(faults) > 0 {
				return exitError{exitConfig, faults}
			}
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// orEmpty is a list that JSON shows as one, also without an entry.
func orEmpty(list []string) []string { return append([]string{}, list...) }

// engagementsTest answers "may this caller do that", with the rule, as the launcher would.
func engagementsTest(s *surroundings) *cobra.Command {
	var who callerFlags
	var asJSON bool
	var ports []string
	var tool, profile, engagement string
	var intrusive bool
	c := &cobra.Command{
		Use: "test [flags] TARGET...", Short: "would this be allowed, and by which rule", Args: cobra.MinimumNArgs(1),
		Long: "Would this be allowed, and by which rule. The caller is whoever runs the command, or the user --uid\n" +
			"with the groups that this machine's files give it. Names are not resolved. Exit status: 0 it would be\n" +
			"allowed, 1 it would not. `explain` takes the real arguments of a tool, and tells every reason.",
		RunE: func(c *cobra.Command, args []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			if err := knownProfile(settings.tools(), tool, profile); err != nil {
				return usage(c, err)
			}
			caller, now, note, err := who.asked(c)
			if err != nil {
				return usage(c, err)
			}
			p, faults, err := policyNow(settings)
			if err != nil {
				return err
			}
			for _, f := range faults {
				fmt.Fprintf(s.stderr, "secmcpd: not in force: %s\n", f)
			}
			if note != "" {
				fmt.Fprintln(s.stderr, "secmcpd: "+note)
			}
			request := policy.Request{Tool: tool, Profile: profile, Engagement: engagement, Ports: 1}
			if request.Asked, err = policy.ParsePorts(ports); err != nil {
				return usage(c, fmt.Errorf("--ports: %w", err))
			}
			if intrusive {
				request.Intrusive = []string{"--intrusive"}
			}
			for _, text := range args {
				request.Targets = append(request.Targets, target(text))
			}
			v := policy.Precheck(p, caller, request, now)
			if asJSON {
				err = s.printJSON(explain(p, caller, request, now, false))
			} else {
				_, err = fmt.Fprintln(s.stdout, v)
			}
			if err != nil {
				return err
			}
			if !v.Grants() {
				return exitError{exitFailed, nil}
			}
			return nil
		},
	}
	who.add(c)
	jsonFlag(c, &asJSON)
	f := c.Flags()
	f.StringVar(&tool, "tool", "nmap_scan", "the tool")
	f.StringVar(&profile, "profile", "standard", "the profile")
	f.StringSliceVar(&ports, "ports", nil, "of these ports: 22,8000-8100,udp/53")
	f.StringVar(&engagement, "engagement", "", "under this engagement only")
	f.BoolVar(&intrusive, "intrusive", false, "as an intrusive scan")
	return c
}

// knownProfile refuses words that a call would be refused for before any engagement is asked.
func knownProfile(tools runners.Table, tool, profile string) error {
	known, is := tools.Profiles(tool)
	field, got := "--profile", profile
	if !is {
		field, got, known = "--tool", tool, tools.Names()
	}
	if is && slices.Contains(known, profile) {
		return nil
	}
	err := fmt.Errorf("%s: got %s; allowed: %s", field, strict.Quote(got), strings.Join(known, ", "))
	if near := strict.Nearest(got, known); near != "" {
		err = fmt.Errorf("%w; did you mean %s?", err, near)
	}
	return err
}

// noGroup is a gid that no engagement can name.
const noGroup = ^uint32(0)

// testCaller is who is asked about: this process, or another user with its groups. The note says
// what is not known of it.
func testCaller(given func(flag string) bool, uid, gid uint32, groups []uint) (c policy.Caller, note string, err error) {
	c = policy.Caller{UID: uid, GID: noGroup}
	if !given("uid") {
		own, err := stdioCaller()
		if err != nil {
			return c, "", err
		}
		c.GID, c.Groups = own.Caller.GID, own.Caller.Groups
	} else if c.GID, c.Groups, err = groupsOf(uid); err != nil {
		c.GID, c.Groups = noGroup, nil
		if !given("gid") && !given("groups") {
			note = fmt.Sprintf("uid %d is no user of this machine's files: judged as in no group (--gid and --groups name some)", uid)
		}
	}
	if given("gid") {
		c.GID = gid
	}
	if given("groups") {
		c.Groups = nil
		for _, g := range groups {
			if uint64(g) >= uint64(noGroup) {
				return c, "", fmt.Errorf("--groups: %d is no gid", g)
			}
			c.Groups = append(c.Groups, uint32(g))
		}
	}
	return c, note, nil
}

// groupsOf are the groups that a user gets when it logs in.
func groupsOf(uid uint32) (gid uint32, groups []uint32, err error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return 0, nil, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return 0, nil, err
	}
	for _, id := range append(ids, u.Gid) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return 0, nil, fmt.Errorf("cannot tell the groups of uid %d: %w", uid, err)
		}
		groups = append(groups, uint32(n))
	}
	return groups[len(groups)-1], groups, nil
}

func target(text string) policy.Target {
	if p, err := netip.ParsePrefix(text); err == nil {
		return policy.Target{Text: text, Prefix: p}
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return policy.Target{Text: text, Prefix: netip.PrefixFrom(a, a.BitLen())}
	}
	return policy.Target{Text: text, Name: strings.ToLower(text)}
}

// policyNow is the policy as a launcher that starts now on this machine would have it, and the
// faults of the files that are not in force.
func policyNow(settings settings) (*policy.Policy, strict.Faults, error) {
	engagements, faults, err := launcher.Engagements(settings.EngagementsDir, launcher.Lookup(settings.tools()))
	if err != nil {
		return nil, nil, exitError{exitConfig, err}
	}
	own, broadcast, bridges, err := scope.Machine()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot tell this machine's own addresses: %w", err)
	}
	suspended := map[string]string{}
	launcher.Suspend(suspended, engagements, faults)
	return &policy.Policy{Engagements: engagements, Suspended: suspended, Machine: policy.Machine{Own: own, Broadcast: broadcast, Bridges: bridges,
		Slots: []netip.Prefix{settings.Slots.IPv4, settings.Slots.IPv6}}}, faults, nil
}
