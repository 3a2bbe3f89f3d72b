package report

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"unicode/utf8"
)

// Bounds of what is held of the XML, whatever it says.
const (
	maxWindow = 64 << 10
	maxName   = 128      // bytes of a name; nmap has none of 32
	maxAttrs  = 32       // of an element; more are passed over
	maxValue  = 65 << 10 // bytes of an attribute's value, or of a text, and more than Sanitise looks at; the rest is passed over
)

var (
	errTooMuch   = errors.New("the report is too long")
	errDepth     = errors.New("the report is nested too deeply")
	errMalformed = errors.New("the report is no XML")
	errOther     = errors.New("not a report of nmap")
)

// place is where in a report an element is. Elements that nobody reads are nowhere, with all that is in them.
type place uint8

const nowhere place = 0

// step is from one place to an element in it.
type step struct {
	from place
	name string
}

// xmlReader reads the tags of XML in the form that nmap writes: no entities but the five, no namespaces. It holds one
// tag of bounded size, and nothing of elements that are nowhere, so that their bytes cost little more than looking for
// the next tag. encoding/xml takes ten times as long, holds a token of any size, and gives a whole report up at a
// control character that a host sent; here it is text like any other, and Sanitise takes it out with what belongs to it.
type xmlReader struct {
	from    io.Reader
	left    int64 // bytes that may still be read
	window  []byte
	at, end int
	broken  error // a read error other than the end

	steps map[step]place
	open  []place // the elements that are open, and their names
	names []byte
	ends  []int
	empty bool // the last tag ends its element, too

	attrs  []attr
	values []byte
	cut    bool // a value that somebody asked for was longer than is kept

	keep    bool // the text that follows
	text    []byte
	textCut bool
}

// attr is an attribute of the last start tag, by its place in values.
type attr struct {
	name, value, end int
	cut              bool
}

func newXMLReader(r io.Reader, steps map[step]place, most int64) *xmlReader {
	return &xmlReader{from: r, left: most, window: make([]byte, maxWindow), steps: steps, open: []place{nowhere}}
}

// next goes to the next tag, and says where its element is and whether it begins it. Where the input ends is io.EOF.
func (x *xmlReader) next() (at place, start bool, err error) {
	if x.empty {
		x.empty = false
		return x.leave(), false, nil
	}
	for {
		if err := x.toTag(); err != nil {
			return nowhere, false, err
		}
		b, err := x.byte()
		switch {
		case err != nil:
			return nowhere, false, err
		case b == '?':
			err = x.pass("?>")
		case b == '!':
			err = x.declaration()
		case b == '/':
			at, err := x.endTag()
			return at, false, err
		default:
			at, err := x.startTag(b)
			return at, true, err
		}
		if err != nil {
			return nowhere, false, err
		}
	}
}

// keepText has the text from here to the next tag kept.
func (x *xmlReader) keepText() { x.keep, x.text, x.textCut = true, x.text[:0], false }

// toTag goes behind the next '<'.
func (x *xmlReader) toTag() (err error) {
	if !x.keep {
		return x.passByte('<')
	}
	x.keep = false
	x.text, x.textCut, err = x.until(x.text, '<')
	return err
}

// fill reads on. It needs a window that is used up.
func (x *xmlReader) fill() error {
	if x.left <= 0 {
		return errTooMuch
	}
	for range 100 {
		n, err := x.from.Read(x.window[:min(int64(len(x.window)), x.left)])
		x.at, x.end = 0, n
		x.left -= int64(n)
		switch {
		case n > 0:
			return nil // an error will be there again
		case err == io.EOF:
			return err
		case err != nil:
			x.broken = err
			return err
		}
	}
	x.broken = io.ErrNoProgress
	return x.broken
}

func (x *xmlReader) byte() (byte, error) {
	if x.at == x.end {
		if err := x.fill(); err != nil {
			return 0, err
		}
	}
	x.at++
	return x.window[x.at-1], nil
}

// passByte goes behind the next c.
func (x *xmlReader) passByte(c byte) error {
	for {
		if i := bytes.IndexByte(x.window[x.at:x.end], c); i >= 0 {
			x.at += i + 1
			return nil
		}
		x.at = x.end
		if err := x.fill(); err != nil {
			return err
		}
	}
}

// pass goes behind the next text that is end, of at most three bytes.
func (x *xmlReader) pass(end string) error {
	var last [3]byte
	for {
		b, err := x.byte()
		if err != nil {
			return err
		}
		last = [3]byte{last[1], last[2], b}
		if string(last[len(last)-len(end):]) == end {
			return nil
		}
	}
}

// declaration goes behind a comment, a CDATA section or a declaration, of which "<!" has been read. What a declaration
// declares is unknown all the same.
func (x *xmlReader) declaration() error {
	b, err := x.byte()
	if err != nil {
		return err
	}
	if b == '-' {
		if b, err = x.byte(); err == nil && b == '-' {
			return x.pass("-->")
		}
		return or(err, errMalformed)
	}
	if b == '[' {
		return x.pass("]]>")
	}
	for depth, quote := 1, byte(0); ; {
		switch {
		case quote != 0 && b == quote:
			quote = 0
		case quote != 0:
		case b == '"' || b == '\'':
			quote = b
		case b == '<':
			depth++
		case b == '>':
			depth--
		}
		if depth == 0 {
			return nil
		}
		if b, err = x.byte(); err != nil {
			return err
		}
	}
}

func or(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// startTag reads a tag whose name begins with b.
func (x *xmlReader) startTag(b byte) (place, error) {
	if len(x.ends) == maxDepth {
		return nowhere, errDepth
	}
	from := len(x.names)
	b, err := x.name(b, &x.names)
	if err != nil {
		return nowhere, err
	}
	at := nowhere
	if parent := x.open[len(x.open)-1]; parent != nowhere || len(x.ends) == 0 {
		at = x.steps[step{parent, string(x.names[from:])}]
	}
	x.ends, x.open = append(x.ends, from), append(x.open, at)
	x.attrs, x.values = x.attrs[:0], x.values[:0]
	for {
		if b, err = x.space(b); err != nil {
			return nowhere, err
		}
		switch b {
		case '>':
			return at, nil
		case '/':
			if b, err = x.byte(); err != nil || b != '>' {
				return nowhere, or(err, errMalformed)
			}
			x.empty = true
			return at, nil
		}
		if err := x.attribute(b, at != nowhere && len(x.attrs) < maxAttrs); err != nil {
			return nowhere, err
		}
		if b, err = x.byte(); err != nil {
			return nowhere, err
		}
	}
}

// attribute reads one whose name begins with b.
func (x *xmlReader) attribute(b byte, keep bool) error {
	a := attr{name: len(x.values)}
	b, err := x.name(b, &x.values)
	if err != nil {
		return err
	}
	a.value = len(x.values)
	if b, err = x.space(b); err != nil || b != '=' {
		return or(err, errMalformed)
	}
	if b, err = x.space(' '); err != nil || b != '"' && b != '\'' {
		return or(err, errMalformed)
	}
	if !keep {
		x.values = x.values[:a.name]
		return x.passByte(b)
	}
	if x.values, a.cut, err = x.until(x.values, b); err != nil {
		return err
	}
	a.end = len(x.values)
	x.attrs = append(x.attrs, a)
	return nil
}

// endTag reads a tag, of which "</" has been read.
func (x *xmlReader) endTag() (place, error) {
	if len(x.ends) == 0 {
		return nowhere, errMalformed
	}
	for _, want := range x.names[x.ends[len(x.ends)-1]:] {
		if b, err := x.byte(); err != nil || b != want {
			return nowhere, or(err, errMalformed)
		}
	}
	b, err := x.space(' ')
	if err != nil || b != '>' {
		return nowhere, or(err, errMalformed)
	}
	return x.leave(), nil
}

// leave ends the element that was opened last.
func (x *xmlReader) leave() (at place) {
	last := len(x.ends) - 1
	at = x.open[last+1]
	x.names, x.ends, x.open = x.names[:x.ends[last]], x.ends[:last], x.open[:last+1]
	return at
}

// name adds a name that begins with b to a list, and gives the byte behind it.
func (x *xmlReader) name(b byte, to *[]byte) (byte, error) {
	for n := 0; n <= maxName; n++ {
		if !inName(b) {
			if n == 0 {
				break
			}
			return b, nil
		}
		*to = append(*to, b)
		var err error
		if b, err = x.byte(); err != nil {
			return 0, err
		}
	}
	return 0, errMalformed
}

func inName(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '_' || b == '-' || b == '.' || b == ':' || b >= utf8.RuneSelf
}

// space is the first byte from b on that is no white space.
func (x *xmlReader) space(b byte) (byte, error) {
	for b == ' ' || b == '\n' || b == '\t' || b == '\r' {
		var err error
		if b, err = x.byte(); err != nil {
			return 0, err
		}
	}
	return b, nil
}

// until adds what comes before the next end to a text, with its references replaced, and at most maxValue bytes of it.
func (x *xmlReader) until(to []byte, end byte) (text []byte, cut bool, err error) {
	room := len(to) + maxValue
	add := func(b []byte) {
		fits := min(len(b), room-len(to))
		to, cut = append(to, b[:fits]...), cut || fits < len(b)
	}
	for {
		part := x.window[x.at:x.end]
		i := bytes.IndexByte(part, end)
		if i >= 0 {
			part = part[:i]
		}
		if r := bytes.IndexByte(part, '&'); r >= 0 {
			part, i = part[:r], -1
		}
		if end != '<' && bytes.IndexByte(part, '<') >= 0 {
			return to, cut, errMalformed
		}
		add(part)
		x.at += len(part)
		switch {
		case i >= 0:
			x.at++
			return to, cut, nil
		case x.at < x.end:
			x.at++
			var into [utf8.UTFMax]byte
			b, err := x.reference(into[:0])
			if err != nil {
				return to, cut, err
			}
			add(b)
		default:
			if err := x.fill(); err != nil {
				return to, cut, err
			}
		}
	}
}

var entities = map[string]string{"lt": "<", "gt": ">", "amp": "&", "quot": `"`, "apos": "'"}

// reference adds what one stands for to a text. Its '&' has been read.
func (x *xmlReader) reference(to []byte) ([]byte, error) {
	var name [len("#x0010ffff")]byte
	for n := 0; ; n++ {
		b, err := x.byte()
		if err != nil {
			return nil, err
		}
		if b == ';' {
			return referenced(to, string(name[:n]))
		}
		if n == len(name) {
			return nil, errMalformed
		}
		name[n] = b
	}
}

func referenced(to []byte, name string) ([]byte, error) {
	if text, known := entities[name]; known {
		return append(to, text...), nil
	}
	base, digits := 10, name
	switch {
	case len(name) > 2 && name[:2] == "#x":
		base, digits = 16, name[2:]
	case len(name) > 1 && name[0] == '#':
		digits = name[1:]
	default:
		return nil, errMalformed
	}
	code, err := strconv.ParseUint(digits, base, 32)
	if err != nil {
		return nil, errMalformed
	}
	return utf8.AppendRune(to, rune(min(code, utf8.MaxRune+1))), nil // U+FFFD, where there is no such character
}

// raw is an attribute's value in the last start tag, until the next one; nil where there is none.
func (x *xmlReader) raw(name string) []byte {
	for _, a := range x.attrs {
		if string(x.values[a.name:a.value]) == name {
			x.cut = x.cut || a.cut
			return x.values[a.value:a.end:a.end]
		}
	}
	return nil
}
