package export

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/secmcpd/secmcpd/runners/report"
)

// columns of the table. Every row has all of them; record says what a row is about.
var columns = []string{"record", "address", "protocol", "port", "state", "reason", "service", "product", "version", "extra", "hostname", "os", "path", "name", "status", "size", "location", "count", "text"}

// row is one row by its columns.
type row map[string]string

// writeCSV writes a table by RFC 4180, in UTF-8: a row "job" first, then a row for each host, port, script and
// finding, and rows of coverage at the end. A file whose last row is not "coverage" is not whole.
func writeCSV(b *bufio.Writer, s *Scan) error {
	w := csv.NewWriter(b)
	if err := w.Write(columns); err != nil {
		return err
	}
	put := func(r row) {
		cells := make([]string, len(columns))
		for i, name := range columns {
			cells[i] = cell(r[name])
		}
		_ = w.Write(cells) // kept, and told by Error
	}
	program, version := s.program()
	put(row{"record": "job", "state": s.Status, "reason": s.End.Reason, "name": s.ID, "service": s.Tool, "product": program, "version": version, "extra": s.Profile,
		"text": strings.Join(append([]string{s.Verdict()}, s.Remarks()...), " ")})
	for _, h := range s.Hosts {
		putHost(put, h)
		if err := w.Error(); err != nil {
			return err
		}
	}
	putCoverage(put, s)
	w.Flush()
	return w.Error()
}

func putHost(put func(row), h report.Host) {
	of := func(record string) row { return row{"record": record, "address": h.Addr.String()} }
	r := of("host")
	r["state"], r["reason"] = state(h), h.Reason
	r["text"] = strings.Join(nonempty(h.MAC, h.Vendor), " ")
	for _, os := range h.OS[:min(len(h.OS), 1)] {
		r["os"] = os.Name
	}
	put(r)
	if h.Untrusted != nil {
		for _, script := range h.Untrusted.Scripts {
			r := of("script")
			r["name"], r["text"] = script.Name, script.Output
			put(r)
		}
	}
	for _, p := range h.Ports {
		putPort(put, of, p)
	}
	for _, o := range h.Others {
		r := of("other_ports")
		r["state"], r["count"] = o.State, strconv.Itoa(o.Count)
		put(r)
	}
	for _, f := range h.Found {
		r := of("found")
		r["path"], r["name"] = f.Path, f.Name
		if f.Status > 0 {
			r["status"], r["size"] = strconv.Itoa(f.Status), strconv.Itoa(f.Size)
		}
		if f.Untrusted != nil {
			r["location"] = f.Untrusted.Location
		}
		var to []string
		for _, a := range f.Addresses {
			to = append(to, a.String())
		}
		r["text"] = strings.Join(to, " ")
		put(r)
	}
}

func putPort(put func(row), of func(string) row, p report.Port) {
	at := func(record string) row {
		r := of(record)
		r["protocol"], r["port"] = p.Proto, strconv.Itoa(p.Port)
		return r
	}
	r := at("port")
	r["state"], r["reason"], r["service"] = p.State, p.Reason, p.Service
	if p.Tunnel != "" {
		r["service"] = p.Tunnel + "/" + p.Service
	}
	if p.Untrusted == nil {
		put(r)
		return
	}
	u := p.Untrusted
	r["product"], r["version"], r["extra"], r["hostname"], r["os"] = u.Product, u.Version, u.Extra, u.Hostname, u.OS
	put(r)
	for _, script := range u.Scripts {
		r := at("script")
		r["name"], r["text"] = script.Name, script.Output
		put(r)
	}
}

// putCoverage says what became of the addresses, and at last whether that is all of them.
func putCoverage(put func(row), s *Scan) {
	last := row{"record": "coverage", "state": "incomplete", "text": s.Verdict()}
	if s.Complete() {
		last["state"] = "complete"
	}
	if c := s.Coverage; c != nil {
		for _, part := range []struct {
			state string
			Part
		}{{"completed", c.Addresses.Completed}, {"timed_out", c.Addresses.TimedOut}, {"not_reached", c.Addresses.NotReached}} {
			text := strings.Join(part.Prefixes, " ")
			if part.More {
				text += " and others"
			}
			put(row{"record": "coverage", "state": part.state, "count": fmt.Sprint(part.Count), "text": text})
		}
		for _, count := range []struct {
			state string
			n     uint64
		}{{"excluded", c.Excluded}, {"up", uint64(c.Up)}, {"down", uint64(c.Down)}, {"silent", uint64(c.Silent)}, {"not_listed", uint64(c.NotListed)}} {
			put(row{"record": "coverage", "state": count.state, "count": fmt.Sprint(count.n)})
		}
		last["reason"], last["count"] = c.CutBy, fmt.Sprint(c.Asked)
	}
	put(last)
}

// cell makes a text one that no spreadsheet takes for a formula: an apostrophe before it makes it a text there.
func cell(text string) string {
	begin := strings.TrimLeftFunc(text, func(r rune) bool { return unicode.IsSpace(r) || r == '\'' || r == '"' })
	if begin != "" && strings.ContainsRune("=+-@|%＝＋－＠", []rune(begin)[0]) || strings.HasPrefix(text, "\t") || strings.HasPrefix(text, "\r") || strings.HasPrefix(text, "\n") {
		return "'" + text
	}
	return text
}
