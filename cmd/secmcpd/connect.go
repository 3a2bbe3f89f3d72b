package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/bridge"
)

// connectCommand is a byte bridge between an agent's standard input and output and the
// daemon's socket.
func connectCommand(s *surroundings) *cobra.Command {
	var socket string
	var retry, drain time.Duration
	c := &cobra.Command{
		Use: "connect", Short: "connect an agent (standard input and output) to the daemon", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return bridge.Connect(c.Context(), socket, retry, drain, s.stdin, s.stdout)
		},
	}
	socketFlag(c, &socket)
	c.Flags().DurationVar(&retry, "retry", bridge.Retry, "how long to try while the daemon is being restarted")
	c.Flags().DurationVar(&drain, "drain", bridge.Drain, "how long to wait for answers after the end of input")
	return c
}
