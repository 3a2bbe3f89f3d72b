package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
)

// resolveCommand is what runs in the resolver's box: it asks one name server for names and
// writes one line for each answer, "INDEX ADDRESS" or "INDEX ! CODE", which is all that the
// launcher reads. Its arguments were built by the launcher.
func resolveCommand(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "resolve 4|6 SERVER NAME...", Hidden: true, Args: cobra.MinimumNArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			server, err := netip.ParseAddrPort(args[1])
			if err != nil {
				return fmt.Errorf("cannot read the server: %w", err)
			}
			r := &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, network, server.String())
			}}
			for i, name := range args[2:] {
				if err := answer(c.Context(), s, r, args[0], i, name); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func answer(ctx context.Context, s *surroundings, r *net.Resolver, family string, i int, name string) error {
	ctx, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	// The trailing dot keeps a search list out of it.
	addresses, err := r.LookupNetIP(ctx, "ip"+family, name+".")
	if err != nil {
		_, err = fmt.Fprintf(s.stdout, "%d ! %s\n", i, failure(err))
		return err
	}
	for _, a := range addresses {
		if _, err := fmt.Fprintf(s.stdout, "%d %s\n", i, a.Unmap().WithZone("")); err != nil {
			return err
		}
	}
	return nil
}

// failure is the code for an error: no text of a name server travels further.
func failure(err error) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "not_found"
	case errors.As(err, &dns) && dns.IsTimeout, errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "failed"
}
