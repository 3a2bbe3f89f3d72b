package strict

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Fault is one thing wrong with a file, told so that the reader can mend it without a manual.
type Fault struct {
	File string // or what else said it, see [Set]
	Line int    // from 1; a key that is missing has the line of what should hold it; 0: there are no lines
	// Field is the path of the value, as in targets[2].within[0]; empty for the whole file.
	Field string
	// Got says what was found: a quoted and capped text (see [Quote]), or a kind ("a list").
	Got string
	// Allowed says what may stand there.
	Allowed string
	Hint    string
}

// String is one line: FILE:LINE: field: got "x"; allowed: y; hint.
func (f Fault) String() string {
	var parts []string
	if f.Got != "" {
		parts = append(parts, "got "+f.Got)
	}
	if f.Allowed != "" {
		parts = append(parts, "allowed: "+f.Allowed)
	}
	if f.Hint != "" {
		parts = append(parts, f.Hint)
	}
	where := f.File + ": "
	if f.Line > 0 {
		where = fmt.Sprintf("%s:%d: ", f.File, f.Line)
	}
	if f.Field != "" {
		where += f.Field + ": "
	}
	return where + strings.Join(parts, "; ")
}

// Faults is everything wrong with a file, in the order of its lines.
type Faults []Fault

// Error is one line for each fault.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Err is nil when there is no fault. Use it where an error is wanted: an empty Faults stored
// in an error is not nil.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	return fs
}

// maxQuoted bounds what a fault repeats of a file, in bytes.
const maxQuoted = 80

// Quote is text in quotes, with control characters escaped, cut at 80 bytes.
func Quote(text string) string {
	if len(text) <= maxQuoted {
		return strconv.Quote(text)
	}
	cut := maxQuoted
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return strconv.Quote(text[:cut]) + "…"
}

// Nearest is the known word that word was probably meant to be, or empty.
func Nearest(word string, known []string) string {
	word = strings.ToLower(word)
	if len(word) > 64 {
		return ""
	}
	best, least := "", len(word)/3+2
	for _, k := range known {
		if d := distance(word, strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of single-character edits between two words, where two neighbouring
// characters in the wrong order are one edit: that is the commonest slip of all.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}

// meant is the hint for a word that is not known.
func meant(word string, known []string) string {
	if near := Nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}
