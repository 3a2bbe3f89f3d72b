package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// What commands print. Whatever came from an agent, a scanner or a host goes through clean on its way
// to a person; JSON is escaped by its own rules.

// jsonFlag gives a command --json: one object or array with snake_case keys, the same in every version
// but for keys that are added.
func jsonFlag(c *cobra.Command, into *bool) {
	c.Flags().BoolVar(into, "json", false, jsonUsage)
}

const jsonUsage = "one JSON value, for programs"

// completeWith has a shell complete the value of a flag with these words.
func completeWith(c *cobra.Command, flag string, words ...string) {
	// It fails for a flag that is not there, or has a completion already: both are for the transcripts to see.
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// printJSON prints one value, indented, with a line feed behind it.
func (s *surroundings) printJSON(v any) error {
	s.printed = true
	e := json.NewEncoder(s.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}

// clean is text of others' as it may be shown on a terminal, in one line: what is no printable character
// (control characters, also of C1, marks of direction, bytes that are no text) is written out, as \x1b or \u202e.
func clean(text string) string {
	plain := true
	for _, r := range text {
		if plain = unicode.IsPrint(r) && r != utf8.RuneError; !plain {
			break
		}
	}
	if plain {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if unicode.IsPrint(r) && (r != utf8.RuneError || size > 1) {
			b.WriteString(text[i : i+size])
		} else {
			quoted := strconv.Quote(text[i : i+size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		i += size
	}
	return b.String()
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// commandLine is the words of a command in one line, of which each is one for whoever reads it: what has a blank, a
// quote or anything else in it that could end a word is quoted, and does nothing to a terminal.
func commandLine(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if !plainWord.MatchString(w) {
			w = strconv.QuoteToASCII(w)
		}
		b.WriteString(w)
	}
	return b.String()
}

// A style is how a cell or a word stands out, where there are colours.
type style string

const (
	normal style = ""
	strong style = "1"
	faint  style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// screen is what is known of where something is printed.
type screen struct {
	terminal bool
	colours  bool
	width    int // columns; 0: not bounded
	height   int // lines; 0: not bounded
}

// screenOf looks at where w leads. There are colours on a terminal only, and none where NO_COLOR is set
// to anything or the terminal is dumb.
func screenOf(w io.Writer) screen {
	f, is := w.(*os.File)
	if !is || !term.IsTerminal(int(f.Fd())) {
		return screen{}
	}
	s := screen{terminal: true, colours: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	if width, height, err := term.GetSize(int(f.Fd())); err == nil {
		s.width, s.height = width, height
	}
	if s.width <= 0 || s.height <= 0 { // it does not say
		s.width, s.height = 80, 24
	}
	return s
}

// paint gives text a style, where there are colours. The text is clean already.
func (sc screen) paint(how style, text string) string {
	if !sc.colours || how == normal || text == "" {
		return text
	}
	return "\x1b[" + string(how) + "m" + text + "\x1b[0m"
}

// cutTo cuts a line that is clean at a width; 0: there is none.
func cutTo(text string, width int) string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return text
	}
	runes := []rune(text)
	return string(runes[:width-1]) + "…"
}

// cell is text in a table, which is cleaned when it is printed.
type cell struct {
	text string
	how  style
}

// table is columns of text, as wide as what is in them. On a terminal the last column is cut at its edge;
// elsewhere nothing is cut.
type table struct {
	screen screen
	rows   [][]cell
}

// newTable begins a table for standard output with its head; none: it has no head.
func (s *surroundings) newTable(head ...string) *table {
	t := &table{screen: screenOf(s.stdout)}
	if len(head) > 0 {
		var row []cell
		for _, text := range head {
			row = append(row, cell{text, strong})
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// row adds a line: of strings, cells, or anything else as fmt prints it.
func (t *table) row(values ...any) {
	var row []cell
	for _, v := range values {
		switch v := v.(type) {
		case cell:
			row = append(row, v)
		case string:
			row = append(row, cell{text: v})
		default:
			row = append(row, cell{text: fmt.Sprint(v)})
		}
	}
	t.rows = append(t.rows, row)
}

func (t *table) String() string {
	var widths []int
	for _, row := range t.rows {
		for i := range row {
			row[i].text = clean(row[i].text)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		at, pad := 0, 0
		for i, c := range row {
			if c.text == "" {
				pad += widths[i] + 2
				continue
			}
			at += pad
			text := c.text
			if t.screen.width > 0 {
				if at >= t.screen.width {
					break
				}
				text = cutTo(text, t.screen.width-at)
			}
			b.WriteString(strings.Repeat(" ", pad))
			b.WriteString(t.screen.paint(c.how, text))
			n := utf8.RuneCountInString(text)
			at += n
			pad = widths[i] - n + 2
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// print prints a table on standard output.
func (s *surroundings) print(t *table) error {
	if _, err := io.WriteString(s.stdout, t.String()); err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}

// progressLine is one line of standard error that says how far something is: on a terminal only.
type progressLine struct {
	to     io.Writer
	screen screen
	shown  bool
}

func (s *surroundings) newProgressLine() *progressLine {
	return &progressLine{to: s.stderr, screen: screenOf(s.stderr)}
}

// show replaces what the line says. The text is cleaned.
func (p *progressLine) show(text string) {
	if !p.screen.terminal {
		return
	}
	p.shown = true
	// A line that cannot be shown is no reason to end what it is about.
	_, _ = fmt.Fprintf(p.to, "\r%s\x1b[K", cutTo(clean(text), max(p.screen.width-1, 1)))
}

// clear removes the line.
func (p *progressLine) clear() {
	if p.shown {
		_, _ = io.WriteString(p.to, "\r\x1b[K")
		p.shown = false
	}
}

// short is a duration as a person says it: 45s, 12m, 3h05m, 2d04h.
func short(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// size is a number of bytes as a person says it.
func size(n int64) string {
	for _, unit := range []struct {
		of   int64
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= unit.of {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(unit.of), unit.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// when is a time as lists show it: of today without the day.
func when(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	t, now = t.Local(), now.Local()
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04")
}
