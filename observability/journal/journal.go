// Package journal writes the structured log of both rooms: to systemd's journal in its own protocol,
// with a MESSAGE_ID and a field for each attribute, or as text or JSON where there is no journal.
package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"
)

// The forms of a log.
const (
	Auto = "auto" // the journal's where standard error is the journal's, else text
	Text = "text"
	JSON = "json"
)

// Formats are all forms, and Levels all levels, from the most to the least that is written.
var (
	Formats = []string{Auto, Text, JSON}
	Levels  = []string{"debug", "info", "warn", "error"}
)

// Level is that of a word of Levels.
func Level(word string) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(word)); err != nil {
		return slog.LevelInfo
	}
	return l
}

// socket is where journald takes datagrams.
const socket = "/run/systemd/journal/socket"

// New is a log at standard error, or in the journal behind it. What is said too often is left out.
func New(stderr io.Writer, level slog.Leveler, format string) *slog.Logger {
	return slog.New(newSparing(handlerOf(stderr, level, format)))
}

func handlerOf(stderr io.Writer, level slog.Leveler, format string) slog.Handler {
	behind, err := journal.StderrIsJournalStream()
	behind = behind && err == nil && stderr == io.Writer(os.Stderr)
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: bounded}
	switch {
	case format == JSON:
		return slog.NewJSONHandler(stderr, options)
	case !behind:
		return slog.NewTextHandler(stderr, options)
	case format == Text:
		return &handler{level: level, write: lines(stderr)}
	}
	native := &datagrams{path: socket}
	fallback := lines(stderr)
	return &handler{level: level, write: func(e entry) error {
		if err := native.send(e); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil // that it was lost is told by the next
		}
		return fallback(e)
	}}
}

// bounded is an attribute of text or JSON, no longer than one of the journal.
func bounded(_ []string, a slog.Attr) slog.Attr {
	value := a.Value.Resolve()
	err, isError := value.Any().(error)
	switch {
	case isError:
		return slog.String(a.Key, clip(err.Error(), maxValue))
	case value.Kind() == slog.KindString:
		return slog.String(a.Key, clip(value.String(), maxValue))
	}
	return a
}

// What an entry is bounded by, in bytes but for the number of fields. The whole fits a datagram.
const (
	maxFields  = 48
	maxValue   = 1024
	maxName    = 64 // journald's own
	maxMessage = 4096
)

// entry is one line of the log on its way.
type entry struct {
	priority int
	event    *Event
	message  string // with the attributes, for whoever reads lines
	fields   []field
}

type field struct{ name, value string }

// handler makes entries of records.
type handler struct {
	level  slog.Leveler
	write  func(entry) error
	before []slog.Attr // of With, their keys whole
	prefix string      // of WithGroup
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.before = append([]slog.Attr(nil), h.before...)
	for _, a := range attrs {
		a.Key = h.prefix + a.Key
		next.before = append(next.before, a)
	}
	return &next
}

func (h *handler) WithGroup(name string) slog.Handler {
	next := *h
	next.prefix += name + "_"
	return &next
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	e := entry{priority: priority(r.Level)}
	text := strings.Builder{}
	text.WriteString(r.Message)
	for _, a := range h.before {
		e.add(&text, "", a)
	}
	r.Attrs(func(a slog.Attr) bool {
		e.add(&text, h.prefix, a)
		return true
	})
	e.message = clip(text.String(), maxMessage)
	return h.write(e)
}

// add takes an attribute into an entry.
func (e *entry) add(text *strings.Builder, prefix string, a slog.Attr) {
	if event, is := a.Value.Any().(*Event); is {
		e.event = event
		return
	}
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		for _, member := range value.Group() {
			e.add(text, prefix+a.Key+"_", member)
		}
		return
	}
	if a.Equal(slog.Attr{}) || len(e.fields) == maxFields {
		return
	}
	said := clip(value.String(), maxValue)
	fmt.Fprintf(text, " %s=%s", quoted(clip(prefix+a.Key, maxName)), quoted(said))
	e.fields = append(e.fields, field{fieldName(prefix + a.Key), said})
}

// quoted is a value as it stands in a line: where it could be taken for something else, as Go writes
// a string.
func quoted(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r == '"' || r == '=' || r == ' ' || r == unicode.ReplacementChar || !unicode.IsPrint(r)
	})
	if plain {
		return s
	}
	return strconv.Quote(s)
}

// fieldName is the name of a field of ours: capitals, digits and underscores.
func fieldName(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	return "SECMCPD_" + name[:min(len(name), maxName-len("SECMCPD_"))]
}

// clip cuts at a number of bytes, and makes what is no UTF-8 visible.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most-len("…")] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// priority is that of syslog(3).
func priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}

// lines writes entries as lines with the priority before them, which journald reads from a service's
// standard error (sd-daemon(3)). The time is the journal's own.
func lines(out io.Writer) func(entry) error {
	var mu sync.Mutex
	return func(e entry) error {
		mu.Lock()
		defer mu.Unlock()
		event := ""
		if e.event != nil {
			event = " event=" + e.event.Name
		}
		_, err := fmt.Fprintf(out, "<%d>%s%s\n", e.priority, oneLine(e.message), event)
		return err
	}
}

// oneLine keeps a message from being two.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }

// How long a journal is waited for that takes nothing, and, once it has been in vain, with each further
// entry until it takes one: the daemon does not stand still for it, however much there is to say.
const (
	sendTimeout = time.Second
	sendAgain   = time.Millisecond
)

// datagrams sends entries to journald.
type datagrams struct {
	path string

	mu   sync.Mutex
	conn net.Conn
	lost int // entries that the journal did not take
}

func (d *datagrams) send(e entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	packet := e.packet(d.lost)
	err := d.try(packet)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = d.try(packet) // the socket may have been made anew
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		d.lost++
	} else if err == nil {
		d.lost = 0
	}
	return err
}

func (d *datagrams) try(packet []byte) (err error) {
	if d.conn == nil {
		if d.conn, err = net.Dial("unixgram", d.path); err != nil {
			d.conn = nil
			return err
		}
	}
	wait := sendTimeout
	if d.lost > 0 {
		wait = sendAgain
	}
	err = d.conn.SetWriteDeadline(time.Now().Add(wait))
	if err == nil {
		_, err = d.conn.Write(packet)
	}
	if err != nil {
		err = errors.Join(err, d.conn.Close())
		d.conn = nil
	}
	return err
}

// packet is an entry in the journal's native protocol. Every value goes with its length, so that
// nothing in it is taken for another field.
func (e entry) packet(lost int) []byte {
	var b bytes.Buffer
	put := func(name, value string) {
		b.WriteString(name + "\n")
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(value))))
		b.WriteString(value + "\n")
	}
	put("MESSAGE", e.message)
	put("PRIORITY", strconv.Itoa(e.priority))
	put("SYSLOG_IDENTIFIER", "secmcpd")
	if e.event != nil {
		put("MESSAGE_ID", e.event.ID)
		put("SECMCPD_EVENT", e.event.Name)
	}
	if lost > 0 {
		put("SECMCPD_LOST", strconv.Itoa(lost))
	}
	for _, f := range e.fields {
		put(f.name, f.value)
	}
	return b.Bytes()
}
