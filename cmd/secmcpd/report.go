package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/bridge"
	"github.com/secmcpd/secmcpd/internal/export"
	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// maxReportParts bounds what one report may have, in answers of the daemon of at most 1 MiB.
const maxReportParts = 1024

// reportCommand writes a job's result to a file. It asks the daemon as any client does, so whose job it is, is the
// kernel's word.
func reportCommand(s *surroundings) *cobra.Command {
	socket := os.Getenv("SECMCPD_SOCKET")
	if socket == "" {
		socket = bridge.Socket
	}
	var format, output string
	var words []string
	for _, f := range export.All() {
		words = append(words, f.Word)
	}
	known := strings.Join(words, ", ")
	c := &cobra.Command{
		Use: "report JOB", Short: "write the result of a job of yours: a page, a table, JSON, SARIF, XML", Args: cobra.ExactArgs(1),
		Long: `Write the result of a job that has ended, one of your own, to standard output or to a new file.

html is a page for people, whole in itself; jsonl is an object a line, the job first and the coverage
last; csv is a table; sarif is SARIF 2.1.0; xml is nmap's XML. Each says how the scan ended and what
it covered. What scanned hosts said is in them: data, whatever it says.`,
		RunE: func(c *cobra.Command, args []string) error {
			i := slices.Index(words, format)
			switch {
			case i < 0:
				return usage(c, fmt.Errorf("--format %s: one of %s is allowed", strict.Quote(format), known))
			case !wire.ValidJobID(args[0]):
				return usage(c, fmt.Errorf("%s is no job: it has 26 letters and digits, as scans and job_list tell it", strict.Quote(args[0])))
			}
			uri := "secmcpd://jobs/" + args[0] + "/" + export.All()[i].Name
			return toFile(output, s.stdout, func(to io.Writer) error { return readReport(c.Context(), socket, uri, to) })
		},
	}
	c.Flags().StringVar(&format, "format", "html", known)
	c.Flags().StringVarP(&output, "output", "o", "", "a file that is not there yet; it is made for you alone")
	c.Flags().StringVar(&socket, "socket", socket, "the daemon's socket (also SECMCPD_SOCKET)")
	return c
}

// toFile has a new file written, or standard output where none is named. A file that is not whole is removed.
func toFile(path string, stdout io.Writer, write func(io.Writer) error) error {
	if path == "" {
		return write(stdout)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	err = errors.Join(write(f), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// readReport reads a resource of the daemon's, part by part.
func readReport(ctx context.Context, socket, uri string, to io.Writer) error {
	conn, err := bridge.Dial(ctx, socket, bridge.Retry)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := mcp.NewClient(&mcp.Implementation{Name: "secmcpd-report", Version: version}, nil)
	session, err := client.Connect(ctx, &mcp.IOTransport{Reader: conn, Writer: conn}, nil)
	if err != nil {
		return fmt.Errorf("cannot speak with the daemon: %w", err)
	}
	defer session.Close()
	for range maxReportParts {
		got, err := session.ReadResource(ctx, &mcp.ReadResourceParams{URI: uri})
		if err != nil {
			return fmt.Errorf("cannot read the report: %w\nhint: job_list lists the jobs of yours that are kept; another user's are not shown", err)
		}
		if len(got.Contents) == 0 {
			return errors.New("cannot read the report: the daemon answered with nothing")
		}
		if _, err := io.WriteString(to, got.Contents[0].Text); err != nil {
			return fmt.Errorf("cannot write the report: %w", err)
		}
		if len(got.Contents) == 1 {
			return nil
		}
		uri = got.Contents[1].URI
	}
	return fmt.Errorf("cannot read the report: it has more than %d parts", maxReportParts)
}
