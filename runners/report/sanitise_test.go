package report

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// acting are the characters that act on a terminal or a line, or that nobody sees, as the standards list them: not as
// the package that takes them out finds them.
var acting = []struct {
	first, last rune
	what        string
}{
	{0x00, 0x1f, "C0"}, {0x7f, 0x9f, "DEL and C1"},
	{0xad, 0xad, "soft hyphen"}, {0x34f, 0x34f, "grapheme joiner"}, {0x61c, 0x61c, "Arabic letter mark"},
	{0x115f, 0x1160, "Hangul fillers"}, {0x17b4, 0x17b5, "inherent vowels"}, {0x180b, 0x180f, "Mongolian selectors"},
	{0x200b, 0x200f, "zero width, marks of direction"}, {0x2028, 0x2029, "separators"}, {0x202a, 0x202e, "embeddings and overrides"},
	{0x2060, 0x2064, "joiner, invisible operators"}, {0x2065, 0x2065, "reserved among them"}, {0x2066, 0x2069, "isolates"}, {0x206a, 0x206f, "deprecated controls"},
	{0x2800, 0x2800, "blank pattern"}, {0x3164, 0x3164, "Hangul filler"}, {0xd800, 0xdfff, "surrogates"}, {0xe000, 0xf8ff, "private"},
	{0xfdd0, 0xfdef, "no characters"}, {0xfe00, 0xfe0f, "variation selectors"}, {0xfeff, 0xfeff, "byte order mark"}, {0xffa0, 0xffa0, "halfwidth filler"},
	{0xfff0, 0xfff8, "reserved"}, {0xfff9, 0xfffb, "annotations"}, {0xfffe, 0xffff, "no characters"},
	{0x110bd, 0x110bd, "Kaithi number sign"}, {0x13430, 0x1343f, "joiners of hieroglyphs"}, {0x1bca0, 0x1bca3, "shorthand"}, {0x1d173, 0x1d17a, "musical beams"},
	{0xe0000, 0xe007f, "tags"}, {0xe0080, 0xe00ff, "reserved"}, {0xe0100, 0xe01ef, "more variation selectors"}, {0xe01f0, 0xe0fff, "reserved"},
	{0xf0000, 0x10ffff, "private"},
}

func acts(r rune) string {
	for _, a := range acting {
		if r >= a.first && r <= a.last {
			return a.what
		}
	}
	return ""
}

// Of all characters that there are, those that act are taken out or become a space.
func TestNoCharacterThatActsIsLeft(t *testing.T) {
	for _, a := range acting {
		for r := a.first; r <= a.last; r++ {
			text := "a" + string(r) + "é" // which no sequence has
			if got := Sanitise(text); got != "aé" && got != "a é" && (utf8.ValidRune(r) || got != "a\ufffdé") {
				t.Fatalf("%U, %s: %q", r, a.what, got)
			}
		}
	}
	kept := 0
	for r := rune(0); r <= utf8.MaxRune; r++ {
		got := Sanitise(string(r))
		for _, left := range got {
			if what := acts(left); what != "" {
				t.Fatalf("%U leaves %U, %s", r, left, what)
			}
		}
		if got == string(r) {
			kept++
		}
	}
	if kept < 140000 {
		t.Errorf("only %d characters stand for themselves", kept)
	}
}

// A sequence for a terminal goes as a whole, in each of its forms, wherever it stands.
func TestSequencesGoAsAWhole(t *testing.T) {
	for _, sequence := range []string{
		"\x1b[31m", "\x1b[0m", "\x1b[38;2;255;0;0m", "\x1b[2J", "\x1b[H", "\x1b[?25l", "\x1b[?1049h", "\x1b[6n", "\x1b[!p", "\x1b[1 q", "\x1b[>c",
		"\u009b31m", "\u009b2J",
		"\x1b]0;title\a", "\x1b]0;title\x1b\\", "\x1b]8;;http://10.99.0.5\a", "\x1b]52;c;aGVsbG8=\a", "\x1b]1337;File=x\a", "\u009d0;title\u009c", "\u009d0;title\a",
		"\x1bPq#0\x1b\\", "\x1bP+q544e\x1b\\", "\u0090q\u009c", "\x1bXsos\x1b\\", "\u0098sos\u009c", "\x1b^pm\x1b\\", "\u009epm\u009c", "\x1b_apc\x1b\\", "\u009fapc\u009c",
		"\x1bc", "\x1b7", "\x1b8", "\x1b=", "\x1b>", "\x1bD", "\x1bE", "\x1bM", "\x1bN", "\x1bO", "\x1b#8", "\x1b(0", "\x1b)B", "\x1b%G", "\x1b F",
	} {
		for _, c := range []struct{ in, want string }{
			{sequence, ""}, {"a" + sequence + "b", "ab"}, {sequence + sequence + "b", "b"}, {"é" + sequence + "日", "é日"},
		} {
			if got := Sanitise(c.in); got != c.want {
				t.Errorf("%q: %q, want %q", c.in, got, c.want)
			}
		}
		for n := range sequence {
			for _, left := range Sanitise("a" + sequence[:n]) {
				if what := acts(left); what != "" {
					t.Errorf("%q leaves %U, %s", sequence[:n], left, what)
				}
			}
		}
	}
}

// A text that is longer than is kept says so, and one that only was longer before it was cleaned does not.
func TestWhatIsCutIsMarked(t *testing.T) {
	for _, c := range []struct {
		in     string
		most   int
		marked bool
	}{
		{strings.Repeat("x", maxText), maxText, false},
		{strings.Repeat("x", maxText+1), maxText, true},
		{strings.Repeat("日", maxText+1), maxText, true},
		{strings.Repeat("x", maxOutput), maxOutput, false},
		{strings.Repeat("x", maxOutput+1), maxOutput, true},
		{strings.Repeat("x", maxText) + strings.Repeat("\u200b\x1b[31m", 100), maxText, false},
		{strings.Repeat("\x1b[31mx", maxText), maxText, false},
		{strings.Repeat("x", 1<<20), maxText, true},
		{strings.Repeat("\xff", 1<<20), maxText, true},
		{strings.Repeat("\u202e", 1<<20), maxText, true},
	} {
		got := sanitise(c.in, c.most)
		if strings.HasSuffix(got, cutMark) != c.marked || utf8.RuneCountInString(got) > c.most {
			t.Errorf("%.20q, %d bytes: %d runes, %.20q", c.in, len(c.in), utf8.RuneCountInString(got), got)
		}
		if again := sanitise(got, c.most); again != got {
			t.Errorf("%.20q: again %q", c.in, again)
		}
	}
}

// FuzzSanitise: cleaning again changes nothing, what is left is UTF-8, has no more than its bound, and of all that acts
// nothing; a text of plain characters is what it was.
func FuzzSanitise(f *testing.F) {
	for _, seed := range []string{"plain", "\x1b[31m\x1b]0;x\a\u202e\u200b\U000e0041\ufe0f\xff", strings.Repeat("é", 300), "\x1b\x1b[[mm", "\u009d\u009c", "\x1b(\x1b(0", "\x1b]\x1b]0;\a", "\xc2\x9b31m"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		for _, most := range []int{maxText, maxOutput} {
			once := sanitise(in, most)
			if again := sanitise(once, most); again != once {
				t.Errorf("twice is not once: %q, %q", once, again)
			}
			if !utf8.ValidString(once) || utf8.RuneCountInString(once) > most {
				t.Errorf("%d runes, valid %v", utf8.RuneCountInString(once), utf8.ValidString(once))
			}
			for _, r := range once {
				if what := acts(r); what != "" {
					t.Errorf("%U is left, %s", r, what)
				}
			}
			if plain([]byte(in)) && len(in) <= most && once != in {
				t.Errorf("%q became %q", in, once)
			}
		}
	})
}
