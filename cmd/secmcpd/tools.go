package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/runners"
)

// toolsCommand lists the tools and switches them.
func toolsCommand(s *surroundings) *cobra.Command {
	c := &cobra.Command{Use: "tools", Short: "the scanners that agents may use, and switching them off and on"}
	var asJSON bool
	list := &cobra.Command{
		Use: "list", Short: "list the tools, built in and declared, and which are disabled", Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return s.listTools(asJSON) },
	}
	jsonFlag(list, &asJSON)
	c.AddCommand(list, s.switchCommand("disable", true, "refuse a tool from now on",
		"Refuse a tool from now on, until `secmcpd tools enable`. It holds from the next decision, and after a restart:\nscans of it that wait are refused, those that run go on."),
		s.switchCommand("enable", false, "take back `secmcpd tools disable`", "Take back `secmcpd tools disable`. What tools.exclude of the configuration leaves out stays so."))
	return c
}

func (s *surroundings) switchCommand(use string, off bool, short, long string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: use + " TOOL...", Short: short, Long: long, Args: cobra.MinimumNArgs(1), ValidArgs: runners.BuiltIn().Names(),
		RunE: func(c *cobra.Command, args []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			already, err := launcher.Disabled(settings.LauncherStateDir)
			if err != nil {
				return rootOnly(err)
			}
			known := settings.toolNames()
			for _, name := range args {
				// One that is disabled can be enabled when its declaration is gone.
				if !slices.Contains(known, name) && !slices.Contains(already, name) {
					hint := ""
					if near := strict.Nearest(name, known); near != "" {
						hint = "; did you mean " + near + "?"
					}
					return usage(c, fmt.Errorf("got %s; allowed: %s%s", strict.Quote(name), strings.Join(known, ", "), hint))
				}
			}
			for _, name := range args {
				if err := launcher.SetDisabled(settings.LauncherStateDir, name, off); err != nil {
					return rootOnly(err)
				}
				if asJSON {
					continue
				}
				if _, err := fmt.Fprintf(s.stdout, "%s is %sd\n", name, use); err != nil {
					return err
				}
			}
			if asJSON {
				return s.listTools(true)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "all tools afterwards, as tools list prints them")
	return c
}

// rootOnly says what to do where the launcher's files are not this user's.
func rootOnly(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (as root: sudo secmcpd tools …)", err)
	}
	return err
}

// toolListed is one scanner as `tools list` tells it.
type toolListed struct {
	Tool    string `json:"tool"`
	From    string `json:"from"`    // built in, declared
	Program string `json:"program"` // path
	State   string `json:"state"`   // enabled, disabled, left_out
}

func (s *surroundings) listTools(asJSON bool) error {
	settings, err := loadSettings(s.config)
	if err != nil {
		return err
	}
	disabled, err := launcher.Disabled(settings.LauncherStateDir)
	if err != nil {
		return rootOnly(err)
	}
	tools := settings.tools()
	list := []toolListed{}
	for _, t := range tools.Tools() {
		one := toolListed{Tool: t.Name, From: "built in", Program: settings.program(tools, t.Scanner), State: "enabled"}
		if tools.Declaration(t.Name) != nil {
			one.From = "declared"
		}
		switch {
		case t.Off:
			one.State = "left_out"
		case slices.Contains(disabled, t.Name):
			one.State = "disabled"
		}
		list = append(list, one)
	}
	if asJSON {
		return errors.Join(s.printJSON(list), settings.declared())
	}
	w := s.newTable()
	for _, one := range list {
		state := cell{one.State, green}
		switch one.State {
		case "left_out":
			state = cell{"left out by tools.include or tools.exclude", faint}
		case "disabled":
			state.how = yellow
		}
		w.row(one.Tool, one.From, one.Program, state)
	}
	return errors.Join(s.print(w), settings.declared())
}
