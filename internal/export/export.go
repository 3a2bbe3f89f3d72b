// Package export writes what a job found in the forms that people and other programs read: a page for a browser, lines
// of JSON, a table, SARIF, and nmap's XML.
//
// Each form says how the job ended and what it covered, so that a scan that failed or was cut is never taken for one
// that found nothing. Texts of scanned hosts are quoted by the rules of each form, and no form makes anything of them
// that acts: no link, no formula, no markup. The writers take what they are given host by host and keep none of it.
package export

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/runners/report"
)

// Format is one form. Word is how a command names it, Name how a resource does.
type Format struct {
	Word, Name, MIME, About string
	write                   func(*bufio.Writer, *Scan) error
}

const words = "gobuster_scan" // the tool that scans by words

var formats = []Format{
	{"html", "report.html", "text/html", "The result as a page for people. It loads nothing and runs nothing.", writeHTML},
	{"jsonl", "result.jsonl", "application/jsonl", "The result as lines of JSON: the job, each host, the coverage.", writeJSONL},
	{"csv", "result.csv", "text/csv", "The result as a table: the job, each port and finding, the coverage.", writeCSV},
	{"sarif", "result.sarif", "application/sarif+json", "The result as SARIF 2.1.0.", writeSARIF},
	{"xml", "nmap.xml", "application/xml", "The result in the form of nmap's XML.", writeXML},
}

// All lists the forms.
func All() []Format { return slices.Clone(formats) }

// Of lists the forms that there are of a tool's results: nmap's XML has no place for what was found by words.
func Of(tool string) []Format {
	return slices.DeleteFunc(All(), func(f Format) bool { return f.Word == "xml" && tool == words })
}

// Job is what the answer about a job says beside its hosts. Its fields are those of the answer.
type Job struct {
	ID          string          `json:"job_id"`
	Status      string          `json:"status"`
	Tool        string          `json:"tool"`
	Profile     string          `json:"profile"`
	Correlation string          `json:"correlation_id"`
	Engagement  string          `json:"engagement"`
	Rule        string          `json:"rule"`
	Created     time.Time       `json:"created"`
	Started     time.Time       `json:"started"`
	Ended       time.Time       `json:"ended"`
	End         End             `json:"end"`
	Summary     Summary         `json:"summary"`
	Coverage    *Coverage       `json:"coverage"` // nil: no scanner was started
	Scanner     Scanner         `json:"scanner"`
	Network     Network         `json:"network"`
	Usage       Usage           `json:"usage"`
	NotEnforced []Gap           `json:"not_enforced"`
	Error       *Refusal        `json:"error"`
	Arguments   json.RawMessage `json:"arguments,omitempty"`
}

// End is how a job ended.
type End struct {
	Reason       string `json:"reason"`
	ExitCode     *int   `json:"exit_code"`
	Signal       int    `json:"signal"`
	Stage        string `json:"stage"`
	ScannerError string `json:"scanner_error"`
}

// Summary counts what was found.
type Summary struct {
	HostsUp   int   `json:"hosts_up"`
	OpenPorts int   `json:"open_ports"`
	Found     int64 `json:"found"`
}

// Scanner is the program that scanned.
type Scanner struct {
	Tool    string `json:"tool"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// Network is how what was sent left the machine.
type Network struct {
	Mode   string   `json:"mode"`
	Filter string   `json:"filter"`
	Cannot []string `json:"cannot"`
	Slowed string   `json:"slowed"`
}

// Usage is what the scan took.
type Usage struct {
	SentPackets uint64 `json:"sent_packets"`
	Received    uint64 `json:"received_packets"`
}

// Gap is a protection that was missing.
type Gap struct {
	Layer   string `json:"layer"`
	Why     string `json:"why"`
	Follows string `json:"follows"`
}

// Refusal is why nothing was scanned.
type Refusal struct {
	Code   string `json:"code"`
	Field  string `json:"field"`
	Reason string `json:"reason"`
	Hint   string `json:"hint"`
	Rule   string `json:"rule"`
}

// Coverage is what became of the addresses that were asked for.
type Coverage struct {
	Asked      uint64      `json:"asked"`
	Excluded   uint64      `json:"excluded"`
	Exclusions []Exclusion `json:"exclusions"`
	// ExcludedPorts were asked for and left out at every address.
	ExcludedPorts []string `json:"excluded_ports"`

	Up         int       `json:"up"`
	Down       int       `json:"down"`
	Silent     int       `json:"silent"`
	TimedOut   int       `json:"timed_out"`
	NotReached uint64    `json:"not_reached"`
	Addresses  Addresses `json:"addresses"`
	Dropped    uint64    `json:"dropped_packets"`
	OverRate   uint64    `json:"over_rate_packets"`
	CutBy      string    `json:"cut_by"`
	CutFrom    []string  `json:"cut_from"`
	NotListed  int       `json:"hosts_not_listed"`
	Requests   *Requests `json:"requests"`
	Complete   bool      `json:"complete"`

	AskedUnknown bool `json:"asked_unknown"`

	SecondPass   *report.SecondPass    `json:"second_pass"`
	Verification []report.Verification `json:"verification"`
}

// Exclusion is what was asked for and left out.
type Exclusion struct {
	Prefix string `json:"prefix"`
	Rule   string `json:"rule"`
}

// Addresses says which they are.
type Addresses struct {
	Completed  Part `json:"completed"`
	TimedOut   Part `json:"timed_out"`
	NotReached Part `json:"not_reached"`
}

// Part is a part of the addresses: how many, and the first of their prefixes.
type Part struct {
	Count    uint64   `json:"count"`
	Prefixes []string `json:"prefixes"`
	More     bool     `json:"more"` // not all are listed
}

// Requests is how far a scan by words came.
type Requests struct {
	Asked      int64 `json:"asked"`
	Made       int64 `json:"made"`
	Unanswered int64 `json:"unanswered"`
	Found      int64 `json:"found"`
}

// Scan is a job that has ended, with what it found.
type Scan struct {
	Job
	Hosts []report.Host
	// The answer as it was, without its hosts and without what is about the answer itself, and its coverage: both
	// have more than what is read of them here.
	head, coverage json.RawMessage
}

// aside is what an answer says of itself and not of its job.
var aside = []string{"hosts", "page", "coverage", "artifacts", "notice", "next", "poll_after_s", "progress", "host", "pinned"}

// Read takes the answer about a job that has ended, and its hosts, which are not looked for in the answer.
func Read(answer json.RawMessage, hosts []report.Host) (*Scan, error) {
	s := &Scan{Hosts: hosts}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(answer, &members); err != nil {
		return nil, fmt.Errorf("cannot read the answer: %w", err)
	}
	if err := json.Unmarshal(answer, &s.Job); err != nil {
		return nil, fmt.Errorf("cannot read the answer: %w", err)
	}
	s.coverage = members["coverage"]
	for _, name := range aside {
		delete(members, name)
	}
	var err error
	s.head, err = json.Marshal(members)
	return s, err
}

// Write writes a scan in a form. Equal scans are written alike, byte by byte.
func (f Format) Write(w io.Writer, s *Scan) error {
	b := bufio.NewWriterSize(w, 32<<10)
	if err := f.write(b, s); err != nil {
		return err
	}
	return b.Flush()
}

// Complete says that everything that was asked for was looked at.
func (s *Scan) Complete() bool { return s.Coverage != nil && s.Coverage.Complete }

// Verdict says in a sentence what the result is worth.
func (s *Scan) Verdict() string {
	c := s.Coverage
	switch {
	case s.Status == "refused" && c == nil:
		return "The scan was refused, and nothing was sent: this is no result about the targets."
	case c == nil && s.Status == "failed":
		return "The scan failed before its scanner was started. Nothing was looked at: this is no result about the targets."
	case c == nil:
		return "The scan ended before its scanner was known to have been started. Nothing was looked at: this is no result about the targets."
	case c.Complete && c.Requests != nil:
		return "The scan is complete: every request had its answer."
	case c.Complete:
		return "The scan is complete: everything that was asked for was looked at."
	case s.Status == "failed":
		return "The scan failed. Nothing is known but what is listed as completed."
	case c.CutBy != "":
		return "The scan did not come to its end (" + c.CutBy + "). What it did not reach is unknown, not closed."
	}
	return "The scan came to its end and is not complete. What it has no answer for is unknown, not closed."
}

// Remarks are what a reader has to know beside the verdict, a sentence each.
func (s *Scan) Remarks() (all []string) {
	say := func(n uint64, format string) {
		if n > 0 {
			all = append(all, fmt.Sprintf(format, n))
		}
	}
	if e := s.Error; e != nil {
		all = append(all, strings.TrimSuffix(strings.Join(nonempty("Refused: "+e.Code, e.Reason, e.Hint), "; "), ".")+".")
	}
	if s.End.ScannerError != "" {
		all = append(all, "The scanner reported a fault: "+s.End.ScannerError+".")
	}
	if c := s.Coverage; c != nil {
		say(c.NotReached, "Addresses that were not reached, of which nothing is known: %d.")
		say(uint64(c.TimedOut), "Hosts that were given up, of whose ports nothing is known: %d.")
		if q := c.Requests; q != nil {
			say(uint64(max(q.Unanswered, 0)), "Requests without an answer, of whose words nothing is known: %d.")
		}
		say(c.OverRate, "Packets beyond the allowed rate, which the kernel dropped: %d. What they asked looks like silence.")
		say(c.Dropped, "Packets that were off scope or of a form that does not pass, which the kernel dropped: %d.")
		if c.AskedUnknown {
			all = append(all, "What the scan was asked for, but for the addresses, was lost with a damaged database: it may have been more than is here.")
		}
		all = append(all, c.followed()...)
		if len(c.CutFrom) > 0 {
			all = append(all, "The result was larger than is kept, and was cut: "+strings.Join(c.CutFrom, ", ")+".")
		}
		say(uint64(max(c.NotListed, 0)), "Hosts that are counted and not listed: %d.")
		if len(c.ExcludedPorts) > 0 {
			all = append(all, "Ports that were asked for and are excluded by the engagement: "+strings.Join(c.ExcludedPorts, ", ")+".")
		}
		say(c.Excluded, "Addresses that were asked for and are excluded by the engagement: %d.")
	}
	for _, g := range s.NotEnforced {
		all = append(all, "A protection was missing: "+g.Layer+".")
	}
	return all
}

// followed says what the scans have shown that followed this one.
func (c *Coverage) followed() (all []string) {
	switch s := c.SecondPass; {
	case s == nil:
	case s.Agreed:
		all = append(all, "A second pass found the same open ports.")
	case s.OnlyFirst.Count+s.OnlySecond.Count > 0:
		all = append(all, fmt.Sprintf("Open ports that one of two passes alone has found: %d. Others may have answered to none.", s.OnlyFirst.Count+s.OnlySecond.Count))
	default:
		all = append(all, "There was no second pass to compare with: "+s.Why+".")
	}
	for _, v := range c.Verification {
		all = append(all, fmt.Sprintf("Open ports that another scanner was to verify: %d; open there, too: %d; not open: %d; of which nothing is known: %d.", v.Asked, v.Open, v.NotOpen.Count, v.Unknown))
	}
	return all
}

func nonempty(texts ...string) []string {
	return slices.DeleteFunc(texts, func(t string) bool { return t == "" })
}

// program is the scanner's name and version.
func (s *Scan) program() (name, version string) {
	name = strings.TrimSuffix(s.Tool, "_scan")
	if s.Scanner.Tool != "" {
		name = s.Scanner.Tool
	}
	return name, s.Scanner.Version
}

// state is what a host is called.
func state(h report.Host) string {
	switch {
	case h.TimedOut:
		return "timed_out"
	case h.Silent:
		return "silent"
	}
	return h.Status
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
