package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// statusCommand says how both rooms are.
func statusCommand(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "how the daemon is", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var view struct {
				Launcher *wire.State     `json:"launcher"`
				Front    json.RawMessage `json:"front"`
			}
			a, err := s.launcherAsk(c.Context(), wire.Order{Look: &wire.Look{}})
			if err != nil {
				return err
			}
			view.Launcher = a.State
			if err := s.frontGet(c.Context(), "/v1/status", &view.Front); err != nil {
				return err
			}
			e := json.NewEncoder(s.stdout)
			e.SetIndent("", "  ")
			return e.Encode(view)
		},
	}
}
