package runners

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// Fault is one thing wrong with a call. Code is stable and for programs; the rest is for whoever has to mend the call.
type Fault struct {
	Code    string   `json:"code"`
	Field   string   `json:"field"`
	Got     string   `json:"got,omitempty"`
	Allowed []string `json:"allowed,omitempty"`
	Hint    string   `json:"hint,omitempty"`
	Example string   `json:"example,omitempty"`

	with string // the other field, where two fields contradict each other
}

func (f Fault) Error() string {
	text := f.Field + ": " + f.Code
	if f.Got != "" {
		text += fmt.Sprintf(": got %q", f.Got)
	}
	if f.Hint != "" {
		text += "; " + f.Hint
	}
	return text
}

// perhaps is the hint for a word that is not among the known ones.
func perhaps(word string, known []string) string {
	if near := strict.Nearest(word, known); near != "" {
		return "did you mean " + near + "?"
	}
	return ""
}

// excerpt is what a fault repeats of a caller's text: at most 64 runes, and nothing that acts on a terminal or hides.
func excerpt(text string) string {
	const most = 64
	var out strings.Builder
	n := 0
	for _, r := range text {
		if n == most-1 {
			out.WriteRune('…')
			break
		}
		if !unicode.IsPrint(r) {
			r = '\uFFFD'
		}
		out.WriteRune(r)
		n++
	}
	return out.String()
}

// element names one element of a list argument.
func element(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

// topField is the argument that a fault's field belongs to.
func topField(field string) string {
	name, _, _ := strings.Cut(field, "[")
	return name
}
