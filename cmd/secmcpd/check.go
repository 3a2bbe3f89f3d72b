package main

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// checkCommand reads everything that the daemon would read and tells every fault.
func checkCommand(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "check the configuration and every engagement", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			engagements, faults, err := launcher.Engagements(settings.EngagementsDir, launcher.Lookup())
			if err != nil {
				return exitError{exitConfig, err}
			}
			if len(faults) > 0 {
				return exitError{exitConfig, faults}
			}
			_, err = fmt.Fprintf(s.stdout, "configuration ok, %s\n", plural(len(engagements), "engagement"))
			return err
		},
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func auditCommand(s *surroundings) *cobra.Command {
	audit := &cobra.Command{Use: "audit", Short: "the audit log"}
	audit.AddCommand(&cobra.Command{
		Use: "verify", Short: "check the chain of the audit log from its first record", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			summary, err := observability.VerifyAudit(settings.AuditDir)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.stdout, summary)
			return err
		},
	})
	return audit
}

func engagementsCommand(s *surroundings) *cobra.Command {
	c := &cobra.Command{Use: "engagements", Short: "who may scan what, and when"}
	c.AddCommand(engagementsNew(s), engagementsList(s), engagementsTest(s))
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

func engagementsList(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the engagements in force", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			engagements, faults, err := launcher.Engagements(settings.EngagementsDir, launcher.Lookup())
			if err != nil {
				return err
			}
			for _, e := range engagements {
				fmt.Fprintln(s.stdout, e)
			}
			if len(faults) > 0 {
				return exitError{exitConfig, faults}
			}
			return nil
		},
	}
}

// engagementsTest answers "may this caller do that", with the rule, as the launcher would.
func engagementsTest(s *surroundings) *cobra.Command {
	var uid, gid uint32
	var groups []uint
	var tool, profile, at, engagement string
	var intrusive bool
	c := &cobra.Command{
		Use: "test [flags] TARGET...", Short: "would this be allowed, and by which rule", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			now := time.Now()
			if at != "" {
				if now, err = time.Parse(time.RFC3339, at); err != nil {
					return exitError{exitUsage, fmt.Errorf("--at: %w", err)}
				}
			}
			p, err := policyNow(settings)
			if err != nil {
				return err
			}
			request := policy.Request{Tool: tool, Profile: profile, Engagement: engagement, Ports: 1}
			if intrusive {
				request.Intrusive = []string{"--intrusive"}
			}
			for _, text := range args {
				request.Targets = append(request.Targets, target(text))
			}
			caller := policy.Caller{UID: uid, GID: gid}
			for _, g := range groups {
				caller.Groups = append(caller.Groups, uint32(g))
			}
			v := policy.Precheck(p, caller, request, now)
			fmt.Fprintln(s.stdout, v)
			if v.Outcome != policy.Allow {
				return exitError{exitFailed, nil}
			}
			return nil
		},
	}
	f := c.Flags()
	f.Uint32Var(&uid, "uid", uint32(os.Getuid()), "the caller's uid")
	f.Uint32Var(&gid, "gid", uint32(os.Getgid()), "the caller's gid")
	f.UintSliceVar(&groups, "groups", nil, "the caller's supplementary gids")
	f.StringVar(&tool, "tool", "nmap_scan", "the tool")
	f.StringVar(&profile, "profile", "standard", "the profile")
	f.StringVar(&engagement, "engagement", "", "under this engagement only")
	f.StringVar(&at, "at", "", "at this time (RFC 3339) instead of now")
	f.BoolVar(&intrusive, "intrusive", false, "as an intrusive scan")
	return c
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

// policyNow is the policy as the launcher would have it on this machine now.
func policyNow(settings settings) (*policy.Policy, error) {
	engagements, faults, err := launcher.Engagements(settings.EngagementsDir, launcher.Lookup())
	if err != nil {
		return nil, err
	}
	if len(faults) > 0 {
		return nil, exitError{exitConfig, faults}
	}
	own, broadcast, bridges, err := scope.Machine()
	if err != nil {
		return nil, fmt.Errorf("cannot tell this machine's own addresses: %w", err)
	}
	return &policy.Policy{Engagements: engagements, Machine: policy.Machine{Own: own, Broadcast: broadcast, Bridges: bridges,
		Slots: []netip.Prefix{settings.Slots.IPv4, settings.Slots.IPv6}}}, nil
}
