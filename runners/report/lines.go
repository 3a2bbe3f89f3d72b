package report

import (
	"bytes"
	"io"
)

// maxLine is how many bytes of a line are told; the rest of it is passed over.
const maxLine = 64 << 10

// lineEnd is how a line ends.
type lineEnd uint8

const (
	whole   lineEnd = iota
	long            // it was longer than is told
	unended         // the input ended first
)

// eachLine tells of each line of r, without its end, which is any byte of ends. The line is only there until tell
// returns. cut says that there was more than is read.
func eachLine(r io.Reader, ends string, tell func(line []byte, end lineEnd)) (cut bool, err error) {
	window, kept := make([]byte, maxWindow), make([]byte, 0, maxLine)
	end := whole
	for total, empty := int64(0), 0; total < maxTotal && empty < 100; {
		n, err := r.Read(window)
		total += int64(n)
		if empty++; n > 0 {
			empty = 0
		}
		for part := window[:n]; len(part) > 0; {
			i := bytes.IndexAny(part, ends)
			line := part
			if i >= 0 {
				line = part[:i]
			}
			room := maxLine - len(kept)
			if room < len(line) {
				end = long
			}
			kept = append(kept, line[:min(room, len(line))]...)
			if i < 0 {
				break
			}
			tell(kept, end)
			part, kept, end = part[i+1:], kept[:0], whole
		}
		switch {
		case err == io.EOF:
			if len(kept) > 0 {
				tell(kept, unended)
			}
			return false, nil
		case err != nil:
			return false, err
		}
	}
	return true, nil
}
