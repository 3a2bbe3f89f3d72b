package report

// Bounds of the texts that a report keeps, in bytes. They are what makes it large: a host may send much on each of its
// ports, and what is kept is written out, stored, and read again for each page.
const (
	maxTextBytes     = 8 << 20   // over all hosts
	maxHostTextBytes = 512 << 10 // of one, so that it costs its own texts and not those of the hosts after it
	textOverhead     = 16        // what surrounds a text, however short
)

// kept counts texts against their bounds.
type kept struct {
	host *Host
	left int // for that host
	all  int
}

// take counts a text that is to be kept, and leaves it out where there is no room for it.
func (p *nmapParser) take(text string) string {
	k := &p.kept
	if k.host != p.host {
		k.host, k.left = p.host, maxHostTextBytes
	}
	n := len(text) + textOverhead
	switch {
	case text == "":
		return ""
	case n > k.left, k.all+n > maxTextBytes:
		p.cut("texts")
		return ""
	}
	k.left -= n
	k.all += n
	return text
}
