package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/internal/view"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/sandbox"
)

const (
	maxPart   = 4 << 20 // bytes of one file of a dump
	partTime  = 20 * time.Second
	dumpLines = 2000 // of the log
)

// part is one file of a support dump.
type part struct {
	name, about string
	make        func(ctx context.Context, to io.Writer) error
}

func supportCommand(s *surroundings) *cobra.Command {
	c := &cobra.Command{Use: "support", Short: "what somebody needs who is to help"}
	c.AddCommand(supportDump(s))
	return c
}

func supportDump(s *surroundings) *cobra.Command {
	var output string
	var whole bool
	var lines int
	c := &cobra.Command{
		Use: "dump", Short: "write what somebody needs who is to help into one file", Args: noArgs,
		Long: `Write what somebody needs who is to help into one file, a tar archive, for its owner alone: versions,
settings, what doctor and status say, the units, the last lines of the log, the kernel's features, metrics,
a summary of the audit log.

Nothing that scanners found is in it, no record of the audit log, no token; of engagements their names, how
many callers and targets they have, and the words that are wrong, and of jobs no target, unless
--with-engagements is given. The list of what is in it is printed, and is in it.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if lines < 0 || lines > 100000 {
				return usage(c, fmt.Errorf("--lines: got %d; allowed: 0 to 100000", lines))
			}
			if output == "" {
				output = "secmcpd-support-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"
			}
			if output == "-" {
				output = ""
			}
			var list string
			err := toFile(output, s.stdout, func(to io.Writer) (err error) {
				list, err = s.dump(c.Context(), to, whole, lines)
				return err
			})
			if err != nil {
				return err
			}
			fmt.Fprint(s.stderr, list)
			if output != "" {
				_, err = fmt.Fprintln(s.stdout, output)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVarP(&output, "output", "o", "", "a file that is not there yet; - is standard output (default secmcpd-support-TIME.tar.gz)")
	f.BoolVar(&whole, "with-engagements", false, "engagements as they are, and the targets of jobs")
	f.IntVar(&lines, "lines", dumpLines, "so many of the last lines of the log; 0: none")
	return c
}

// dump writes the archive, and returns the list of what is in it. A part that cannot be had says why in its
// place.
func (s *surroundings) dump(ctx context.Context, to io.Writer, whole bool, lines int) (string, error) {
	settings, wrong := loadSettings(s.config)
	if wrong != nil {
		settings = defaultSettings()
	}
	zip := gzip.NewWriter(to)
	archive := tar.NewWriter(zip)
	now := time.Now()
	add := func(name string, text []byte) error {
		if err := archive.WriteHeader(&tar.Header{Name: "secmcpd-support/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: now}); err != nil {
			return err
		}
		_, err := archive.Write(text)
		return err
	}
	var list strings.Builder
	fmt.Fprintf(&list, "secmcpd support dump of %s\n", now.UTC().Format(time.RFC3339))
	for _, p := range s.parts(settings, wrong, whole, lines) {
		b := &bounded{most: maxPart}
		one, done := context.WithTimeout(ctx, partTime)
		err := p.make(one, b)
		done()
		said := fmt.Sprintf("%d bytes", b.Len())
		if b.cut {
			said += ", cut"
		}
		if err != nil {
			fmt.Fprintf(b, "\n(not to be had, or not whole: %s)\n", err)
			said += ", not whole"
		}
		fmt.Fprintf(&list, "  %-18s %s (%s)\n", p.name, p.about, said)
		if err := add(p.name, b.Bytes()); err != nil {
			return "", fmt.Errorf("cannot write the dump: %w", err)
		}
	}
	list.WriteString("not in it: what scanners found and wrote, records of the audit log, tokens")
	if !whole {
		list.WriteString(", engagements and the targets of jobs (--with-engagements)")
	}
	list.WriteString("\n")
	err := errors.Join(add("CONTENTS", []byte(list.String())), archive.Close(), zip.Close())
	if err != nil {
		err = fmt.Errorf("cannot write the dump: %w", err)
	}
	return list.String(), err
}

// bounded takes so many bytes and forgets the rest.
type bounded struct {
	bytes.Buffer
	most int
	cut  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.most - b.Len(); len(p) > room {
		b.cut = true
		b.Buffer.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

func (s *surroundings) parts(settings settings, wrong error, whole bool, lines int) []part {
	parts := []part{
		{"versions.json", "what this program is", func(_ context.Context, to io.Writer) error { return indented(to, versionNow()) }},
		{"settings.yaml", "the settings in force", func(_ context.Context, to io.Writer) error {
			if wrong != nil {
				fmt.Fprintf(to, "# not these, which are the defaults: %s\n", strings.ReplaceAll(bare(wrong).Error(), "\n", "\n# "))
			}
			shown, err := settings.show("")
			for _, one := range shown { // without secrets
				fmt.Fprintln(to, one.line(true))
			}
			return err
		}},
		{"check.txt", "every fault of settings, engagements and declarations", func(_ context.Context, to io.Writer) error {
			_, warnings, err := s.wrongs()
			for _, w := range warnings {
				fmt.Fprintln(to, "warning:", w)
			}
			if err != nil {
				fmt.Fprintln(to, err)
			}
			return nil
		}},
		{"doctor.json", "what this machine lacks, and which layers are proved", func(ctx context.Context, to io.Writer) error {
			return indented(to, examine(ctx, s.config.file, settings, wrong))
		}},
		{"status.json", "how both rooms are", func(ctx context.Context, to io.Writer) error {
			r, err := s.look(ctx)
			if !whole {
				r.withoutTargets()
			}
			return errors.Join(indented(to, r), err)
		}},
		{"kernel.json", "the kernel's features", func(_ context.Context, to io.Writer) error {
			var u unix.Utsname
			if err := unix.Uname(&u); err != nil {
				return err
			}
			return indented(to, map[string]any{"release": unix.ByteSliceToString(u.Release[:]), "version": unix.ByteSliceToString(u.Version[:]), "machine": unix.ByteSliceToString(u.Machine[:]),
				"features": sandbox.Probe()})
		}},
		{"engagements.txt", "the engagements, in numbers", func(_ context.Context, to io.Writer) error { return engagementNumbers(to, settings) }},
		{"units.txt", "the units, with what was changed in them", func(ctx context.Context, to io.Writer) error {
			all := append([]string{"cat", "--no-pager", "--"}, units...)
			return runInto(ctx, to, withoutSecrets, "systemctl", append(all, "secmcpd.socket", "secmcpd-front.socket", "secmcpd-bell.socket", "secmcpd-admin.socket", "secmcpd-launcher-admin.socket", "secmcpd-http.socket", "secmcpd.slice", "secmcpd-scans.slice")...)
		}},
		{"metrics.prom", "the metrics, as they were written last", func(_ context.Context, to io.Writer) error {
			f, err := os.Open(settings.Metrics.Textfile)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(to, io.LimitReader(f, maxPart))
			return err
		}},
		{"audit.txt", "whether the audit log is what was written, and its size", func(_ context.Context, to io.Writer) error {
			summary, err := observability.VerifyAudit(settings.AuditDir)
			if err == nil {
				fmt.Fprintln(to, summary)
			}
			return err
		}},
	}
	if lines > 0 {
		parts = append(parts, part{"log.txt", "the last lines of the log of both rooms", func(ctx context.Context, to io.Writer) error {
			change := withoutWords
			if whole {
				change = nil
			}
			return runInto(ctx, to, change, "journalctl", journalWords("", lines, "")...)
		}})
	}
	if whole {
		parts = append(parts, part{"engagements.yaml", "the engagements as they are", func(_ context.Context, to io.Writer) error {
			files, err := filepath.Glob(filepath.Join(settings.EngagementsDir, "*.yaml"))
			for _, path := range files {
				text, readErr := readBounded(path, 1<<20)
				fmt.Fprintf(to, "# %s\n%s\n---\n", path, text)
				err = errors.Join(err, readErr)
			}
			return err
		}})
	}
	return parts
}

func indented(to io.Writer, v any) error {
	e := json.NewEncoder(to)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// leftOut is in the place of what is not given away.
const leftOut = "(left out)"

// withoutTargets leaves out of a status what was scanned: also the networks that have a breaker, and the reasons
// that name them.
func (r *statusReport) withoutTargets() {
	states := []*wire.State{r.Launcher}
	if r.Front != nil {
		withoutTargets(r.Front.Jobs)
		withoutTargets(r.Front.Ended)
		states = append(states, r.Front.Launcher)
	}
	for _, l := range states {
		if l == nil {
			continue
		}
		for i := range l.Breakers.Networks {
			l.Breakers.Networks[i].Name = leftOut
		}
	}
	for i, why := range r.Reasons {
		r.Reasons[i] = address.ReplaceAllString(why, leftOut)
	}
}

// address is what is written as an IP address or a network, and correlation what a caller calls a job, in a line
// of the log.
var (
	address     = regexp.MustCompile(`\b(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{0,4}){2,7})(?:/\d{1,3})?`)
	correlation = regexp.MustCompile(`correlation=(?:"(?:[^"\\]|\\.)*"|\S+)`)
	clock       = regexp.MustCompile(`^\d{1,2}:\d{2}:\d{2}$`)
)

// withoutWords leaves out of lines of the log what callers wrote.
func withoutWords(text []byte) []byte {
	text = address.ReplaceAllFunc(text, func(found []byte) []byte {
		if clock.Match(found) {
			return found
		}
		return []byte(leftOut)
	})
	return correlation.ReplaceAll(text, []byte("correlation="+leftOut))
}

// withoutTargets leaves out of jobs what their callers wrote.
func withoutTargets(jobs []view.Job) {
	for i := range jobs {
		jobs[i].Targets, jobs[i].Correlation, jobs[i].Pinned = []string{}, "", ""
	}
}

// engagementNumbers tells of each engagement how large it is.
func engagementNumbers(to io.Writer, settings settings) error {
	engagements, _, err := launcher.Engagements(settings.EngagementsDir, launcher.Lookup(settings.tools()))
	for _, e := range engagements {
		fmt.Fprintf(to, "%s: revision %s, %s, %s, %d excluded, tools %s, intrusive %s, expires %s\n", e.Name, e.Revision[:min(12, len(e.Revision))],
			plural(len(e.Callers()), "caller"), plural(len(e.Targets()), "target"), len(e.Excluded()), strings.Join(e.Tools(), " "), e.Intrusive, e.Expires.Format(time.RFC3339))
	}
	return err
}

// secretLine is a line of a unit that may have a secret in it.
var secretLine = regexp.MustCompile(`(?m)^([ \t]*(?:Environment|SetCredential|SetCredentialEncrypted)[ \t]*=)(?:.*\\\n(?:[ \t]*[#;].*\n)*)*.*$`)

func withoutSecrets(text []byte) []byte { return secretLine.ReplaceAll(text, []byte("${1}"+leftOut)) }

// runInto has a program's output, changed on its way.
func runInto(ctx context.Context, to io.Writer, change func([]byte) []byte, name string, words ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%s is not here", name)
	}
	b := &bounded{most: maxPart}
	cmd := exec.CommandContext(ctx, path, words...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = b, b, time.Second
	err = cmd.Run()
	text := b.Bytes()
	if change != nil {
		text = change(text)
	}
	_, writeErr := to.Write(text)
	return errors.Join(err, writeErr)
}
