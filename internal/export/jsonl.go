package export

import (
	"bufio"
	"encoding/json"
	"errors"

	"github.com/secmcpd/secmcpd/runners/report"
)

// writeJSONL writes an object a line: record "job" first, with the verdict on it, then "host" for each host as
// results have it, and "coverage" last. A file without its last line is not whole.
func writeJSONL(w *bufio.Writer, s *Scan) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	err := e.Encode(line{Record: "job", Complete: s.Complete(), Verdict: s.Verdict(), Remarks: s.Remarks(), Job: s.head})
	for _, h := range s.Hosts {
		if err != nil {
			return err
		}
		err = e.Encode(struct {
			Record string `json:"record"`
			report.Host
		}{"host", h})
	}
	coverage := s.coverage
	if s.Coverage == nil {
		coverage = json.RawMessage("null") // no scanner was started
	}
	return errors.Join(err, e.Encode(struct {
		Record   string          `json:"record"`
		Complete bool            `json:"complete"`
		Hosts    int             `json:"hosts"` // lines
		Coverage json.RawMessage `json:"coverage"`
	}{"coverage", s.Complete(), len(s.Hosts), coverage}))
}

type line struct {
	Record   string          `json:"record"`
	Complete bool            `json:"complete"`
	Verdict  string          `json:"verdict"`
	Remarks  []string        `json:"remarks,omitempty"`
	Job      json.RawMessage `json:"job"`
}
