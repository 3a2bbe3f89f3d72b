package report

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

var errTooMuch = errors.New("the report is too long")

// input stands between the scanner's output and the XML decoder. It bounds what one token and the whole may take,
// since the decoder itself holds a token of any size, and it replaces characters that XML forbids: nmap writes control
// characters that a host sent as references such as &#x1b;, and at one of those the decoder would give up the report.
//
// It is an io.ByteReader, so that the decoder reads no further than it needs and the token count is exact.
type input struct {
	from    *bufio.Reader
	pending string // what is still to be read of a character
	token   int    // bytes left for this token
	grants  int    // times that it was given a few more
	total   int64  // bytes left for all
	cut     bool   // a token was too long
	broken  error  // a read error other than the end
}

func newInput(r io.Reader) *input {
	return &input{from: bufio.NewReaderSize(r, 32<<10), token: maxToken, total: maxTotal}
}

// next begins a token.
func (in *input) next() { in.token, in.grants = maxToken, 0 }

func (in *input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := in.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = b
	return 1, nil
}

func (in *input) ReadByte() (byte, error) {
	if in.pending != "" {
		b := in.pending[0]
		in.pending = in.pending[1:]
		return b, nil
	}
	b, err := in.byte()
	switch {
	case err != nil:
		return 0, err
	case b == '&':
		return in.reference(), nil
	case b < ' ' && b != '\t' && b != '\n' && b != '\r':
		return '?', nil
	case b >= utf8.RuneSelf:
		return in.multibyte(b), nil
	}
	return b, nil
}

// byte reads the next byte of a token. In a token that is too long it reads on to the next sign that ends a value or a
// text, so that one host that sends too much costs its own text and not the hosts after it.
func (in *input) byte() (byte, error) {
	for {
		if in.total--; in.total < 0 {
			return 0, errTooMuch
		}
		b, err := in.from.ReadByte()
		if err != nil {
			if err != io.EOF {
				in.broken = err
			}
			return 0, err
		}
		if in.token--; in.token >= 0 {
			return b, nil
		}
		in.cut = true
		if b == '<' || b == '>' || b == '"' {
			in.grant()
			return b, nil
		}
	}
}

// grant lets a token whose value was cut come to its end.
func (in *input) grant() {
	if in.grants < maxGrants {
		in.grants++
		in.token = maxGrant
	}
}

// reference looks at what follows an ampersand and replaces a reference to a character that XML does not have.
func (in *input) reference() byte {
	const longest = len("#x10ffff;")
	for n := 1; n <= longest; n++ {
		ahead, err := in.from.Peek(n)
		if err != nil {
			return '&'
		}
		if ahead[0] != '#' {
			return '&'
		}
		if ahead[n-1] != ';' {
			continue
		}
		if code, ok := referenced(string(ahead[1 : n-1])); ok && !allowed(code) {
			in.from.Discard(n)
			return '?'
		}
		return '&'
	}
	return '&'
}

func referenced(text string) (rune, bool) {
	digits, base := text, 10
	if rest, hex := strings.CutPrefix(text, "x"); hex {
		digits, base = rest, 16
	}
	code, err := strconv.ParseUint(digits, base, 32)
	return rune(min(code, utf8.MaxRune+1)), err == nil
}

// allowed says whether XML 1.0 has the character.
func allowed(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= ' ' && r <= 0xd7ff || r >= 0xe000 && r <= 0xfffd || r >= 0x10000 && r <= utf8.MaxRune
}

// multibyte reads the rest of a character that began with b, if it is one that XML has.
func (in *input) multibyte(b byte) byte {
	char := []byte{b}
	for n := 1; n < utf8.UTFMax && !utf8.FullRune(char); n++ {
		ahead, err := in.from.Peek(n)
		if err != nil {
			break
		}
		char = append(char[:1], ahead...)
	}
	r, size := utf8.DecodeRune(char)
	if size < 2 || !allowed(r) {
		return '?'
	}
	in.from.Discard(size - 1)
	in.token, in.total = in.token-size+1, in.total-int64(size)+1
	in.pending = string(char[1:size])
	return b
}
