package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/export"
	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// maxReportParts bounds what one report may have, in answers of the daemon of at most 1 MiB.
const maxReportParts = 1024

// reportCommand writes a job's result to a file. It asks the daemon as any client does, so whose job it is, is the
// kernel's word.
func reportCommand(s *surroundings) *cobra.Command {
	var format, output, socket string
	words := reportForms()
	known := strings.Join(words, ", ")
	c := &cobra.Command{
		Use: "report JOB", Short: "write the result of a job of yours: a page, a table, JSON, SARIF, XML", Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeJobs(""),
		Long: `Write the result of a job that has ended, one of your own, to standard output or to a new file.

html is a page for people, whole in itself; jsonl is an object a line, the job first and the coverage
last; csv is a table; sarif is SARIF 2.1.0; xml is nmap's XML. Each says how the scan ended and what
it covered. What scanned hosts said is in them: data, whatever it says.`,
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case !slices.Contains(words, format):
				return usage(c, fmt.Errorf("--format %s: one of %s is allowed", strict.Quote(format), known))
			case !wire.ValidJobID(args[0]):
				return usage(c, fmt.Errorf("%s is no job: it has 26 letters and digits, as scans and job_list tell it", strict.Quote(args[0])))
			}
			return toFile(output, s.stdout, func(to io.Writer) error {
				return readReport(c.Context(), socket, reportURI(args[0], format), to)
			})
		},
	}
	c.Flags().StringVar(&format, "format", "html", known)
	c.Flags().StringVarP(&output, "output", "o", "", "a file that is not there yet; it is made for you alone")
	socketFlag(c, &socket)
	completeWith(c, "format", words...)
	return c
}

// toFile has a new file written, or standard output where none is named. A file that is not whole is removed.
func toFile(path string, stdout io.Writer, write func(io.Writer) error) error {
	if path == "" {
		return write(stdout)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", strict.Quote(path), errors.Unwrap(err))
	}
	err = errors.Join(write(f), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// readReport reads a report in one of its forms.
func readReport(ctx context.Context, socket, uri string, to io.Writer) error {
	a, err := dialAgent(ctx, socket, "secmcpd-report", nil)
	if err != nil {
		return err
	}
	defer a.close()
	return a.read(ctx, uri, to)
}

// reportForms are the words for the forms of a report.
func reportForms() (words []string) {
	for _, f := range export.All() {
		words = append(words, f.Word)
	}
	return words
}

// reportURI is a job's report in a form.
func reportURI(job, form string) string {
	return "secmcpd://jobs/" + job + "/" + export.All()[slices.Index(reportForms(), form)].Name
}
