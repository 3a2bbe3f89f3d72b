package report

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxText   = 256  // runes of a field, the cut mark included
	maxOutput = 1024 // runes of a script's output
	cutMark   = "…[cut]"
)

// Sanitise makes a scanned host's text fit to be shown: one line, at most 256 runes, and of characters that stand for
// themselves. What acts on a terminal, is invisible, or changes the order of what is shown is taken out; white space of
// any kind is a space; what is not UTF-8 is U+FFFD. Sanitising twice changes nothing more.
func Sanitise(text string) string { return sanitise(text, maxText) }

func sanitise(text string, most int) string {
	// A text that goes on far beyond the cut is not looked at to its end.
	window := min(len(text), 64*most)
	for range utf8.UTFMax - 1 {
		if window < len(text) && !utf8.RuneStart(text[window]) {
			window--
		}
	}
	cut := window < len(text)
	text = strings.ToValidUTF8(text[:window], "\uFFFD")
	var out strings.Builder
	room := most - utf8.RuneCountInString(cutMark) // for text, where a mark has to follow
	count, marked := 0, 0
	for text != "" && count <= most {
		if n := escapeLength(text); n > 0 {
			text = text[n:]
			continue
		}
		r, size := utf8.DecodeRuneInString(text)
		text = text[size:]
		r, keep := shown(r)
		if !keep {
			continue
		}
		if count < room {
			marked = out.Len() + utf8.RuneLen(r)
		}
		out.WriteRune(r)
		count++
	}
	if cut || count > most {
		return out.String()[:marked] + cutMark
	}
	return out.String()
}

// shown is the rune that stands for r, and whether any does.
func shown(r rune) (rune, bool) {
	switch {
	case unicode.IsSpace(r), r == '\u2028', r == '\u2029':
		return ' ', true
	case unicode.Is(unicode.Variation_Selector, r), unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r):
		return 0, false // invisible, though not of a category that says so
	case r == '\u2800':
		return ' ', true // the Braille pattern without dots
	case unicode.Is(unicode.C, r) || !unicode.IsGraphic(r):
		return 0, false // control, format (zero width, bidi, tags), surrogate, private, unassigned
	}
	return r, true
}

// escapeLength is the length of the terminal escape sequence that text begins with, or 0. An unfinished sequence is
// as long as what there is of it; a lone introducer is left to shown.
func escapeLength(text string) int {
	var kind byte
	body := 0
	switch {
	case strings.HasPrefix(text, "\x1b") && len(text) > 1:
		kind, body = text[1], 2
	case strings.HasPrefix(text, "\u009b"):
		kind, body = '[', 2
	case strings.HasPrefix(text, "\u0090"), strings.HasPrefix(text, "\u0098"), strings.HasPrefix(text, "\u009d"),
		strings.HasPrefix(text, "\u009e"), strings.HasPrefix(text, "\u009f"):
		kind, body = ']', 2
	default:
		return 0
	}
	switch kind {
	case '[': // CSI: parameters and intermediates, then one final byte
		return body + csiLength(text[body:])
	case ']', 'P', 'X', '^', '_': // OSC, DCS, SOS, PM, APC: to the bell or the string terminator
		return body + stringLength(text[body:])
	}
	for i := 1; i < len(text) && i < maxIntermediates; i++ {
		switch c := text[i]; {
		case c >= 0x30 && c <= 0x7e:
			return i + 1 // a sequence of two characters, or more where intermediate ones come between
		case c < ' ' || c > 0x2f:
			return i
		}
	}
	return 1
}

// maxIntermediates bounds a sequence without parameters: known ones have three characters.
const maxIntermediates = 8

func csiLength(text string) int {
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 0x40 && c <= 0x7e:
			return i + 1
		case c < 0x20 || c > 0x3f:
			return i // not a sequence after all; what it had so far is gone
		}
	}
	return len(text)
}

// maxControlString is how far the end of an operating system command is looked for. Without a bound a host could make
// the rest of its own text vanish; past it only the introducer is taken out.
const maxControlString = 256

func stringLength(text string) int {
	window := text[:min(len(text), maxControlString)]
	end, size := len(window), 0
	for _, terminator := range []string{"\a", "\x1b\\", "\u009c"} {
		if i := strings.Index(window, terminator); i >= 0 && i < end {
			end, size = i, len(terminator)
		}
	}
	if size == 0 {
		return 0
	}
	return end + size
}

// isWord says that a text is what the scanner says in its own words: letters, digits and a few signs. Anything else was
// not the scanner's, and is dropped whole.
func isWord(text []byte) bool {
	if len(text) > 64 {
		return false
	}
	for _, c := range text {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("-_.|+/", c) < 0 {
			return false
		}
	}
	return true
}

// plain says that a text is printable ASCII: nothing in it is to be cleaned.
func plain(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// decoded undoes what nmap does to text: it writes each byte that is not ASCII as a character of its own, so that UTF-8
// comes out as Latin-1. Where the characters are the bytes of valid UTF-8, that is what was meant.
func decoded(text string) string {
	raw := make([]byte, 0, len(text))
	for _, r := range text {
		if r > 0xff {
			return text
		}
		raw = append(raw, byte(r))
	}
	if !utf8.Valid(raw) {
		return text
	}
	return string(raw)
}
