package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/internal/strict"
)

// toolsCommand lists the tools and switches them.
func toolsCommand(s *surroundings) *cobra.Command {
	c := &cobra.Command{Use: "tools", Short: "the scanners that agents may use, and switching them off and on"}
	c.AddCommand(&cobra.Command{
		Use: "list", Short: "list the tools, built in and declared, and which are disabled", Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return s.listTools() },
	}, s.switchCommand("disable", true, "refuse a tool from now on",
		"Refuse a tool from now on, until `secmcpd tools enable`. It holds from the next decision, and after a restart:\nscans of it that wait are refused, those that run go on."),
		s.switchCommand("enable", false, "take back `secmcpd tools disable`", "Take back `secmcpd tools disable`. What tools.exclude of the configuration leaves out stays so."))
	return c
}

func (s *surroundings) switchCommand(use string, off bool, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: use + " TOOL...", Short: short, Long: long, Args: cobra.MinimumNArgs(1),
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
				if _, err := fmt.Fprintf(s.stdout, "%s is %sd\n", name, use); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// rootOnly says what to do where the launcher's files are not this user's.
func rootOnly(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (as root: sudo secmcpd tools …)", err)
	}
	return err
}

func (s *surroundings) listTools() error {
	settings, err := loadSettings(s.config)
	if err != nil {
		return err
	}
	disabled, err := launcher.Disabled(settings.LauncherStateDir)
	if err != nil {
		return rootOnly(err)
	}
	tools := settings.tools()
	w := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
	for _, t := range tools.Tools() {
		state, from := "enabled", "built in"
		if tools.Declaration(t.Name) != nil {
			from = "declared"
		}
		switch {
		case t.Off:
			state = "left out by tools.include or tools.exclude"
		case slices.Contains(disabled, t.Name):
			state = "disabled"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Name, from, settings.program(tools, t.Scanner), state)
	}
	return errors.Join(w.Flush(), settings.declared())
}
