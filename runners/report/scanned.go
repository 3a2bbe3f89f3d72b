package report

import (
	"strconv"
	"strings"
)

// Scanned is the ports of one protocol that the scanner set out to scan at each host: ranges with both ends, sorted
// and apart.
type Scanned struct {
	Proto string      `json:"proto"`
	Ports [][2]uint16 `json:"ports"`
}

// maxScanned is how many protocols of a report are kept: TCP, UDP, SCTP and, by number, IP itself.
const maxScanned = 4

// scanned reads a list such as "21-23,80". One that is not as a scanner writes it, or has not as many ports as are
// said to be in it, is none: what was scanned is not known then.
func scanned(list string, count int) [][2]uint16 {
	var out [][2]uint16
	next, total := 0, 0
	for text := range strings.SplitSeq(list, ",") {
		first, last, is := strings.Cut(text, "-")
		if !is {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || int(from) < next || from > to {
			return nil
		}
		next, total = int(to)+1, total+int(to-from)+1
		out = append(out, [2]uint16{uint16(from), uint16(to)})
	}
	if total != count {
		return nil
	}
	return out
}

// scans takes what the scanner says that it scans.
func (r *Report) scans(proto, list string, count int) {
	if ports := scanned(list, count); proto != "" && ports != nil && len(r.Coverage.Scanned) < maxScanned {
		r.Coverage.Scanned = append(r.Coverage.Scanned, Scanned{proto, ports})
	}
}
