package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal, and what was written to it.
type terminal struct {
	t          *testing.T
	far, near  *os.File // what a terminal emulator has, and what a program has
	mu         sync.Mutex
	said       bytes.Buffer
	read       sync.WaitGroup
	restorable *unix.Termios
}

func newTerminal(t *testing.T, columns, lines uint16) *terminal {
	t.Helper()
	far, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(far.Fd()), unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(int(far.Fd()), unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	near, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, far: far, near: near}
	term.size(columns, lines)
	if term.restorable, err = unix.IoctlGetTermios(int(near.Fd()), unix.TCGETS); err != nil {
		t.Fatal(err)
	}
	term.read.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := far.Read(b)
			term.mu.Lock()
			term.said.Write(b[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		near.Close()
		term.read.Wait() // the last program is gone: reading fails
		far.Close()
	})
	return term
}

func (term *terminal) size(columns, lines uint16) {
	term.t.Helper()
	if err := unix.IoctlSetWinsize(int(term.near.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: lines}); err != nil {
		term.t.Fatal(err)
	}
}

func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.said.String()
}

// until waits for words on the terminal.
func (term *terminal) until(words string) {
	term.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(term.text(), words); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			term.t.Fatalf("no %q on the terminal: %q", words, term.text())
		}
	}
}

// nobodyHome is a configuration of a daemon that does not run.
func nobodyHome(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "secmcpd.yaml")
	text := fmt.Sprintf("front_user: \"65401\"\nadmin_socket: %[1]s/a.sock\nlauncher_admin_socket: %[1]s/l.sock\n", dir)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// On a terminal top shows frame after frame that fit it, until q; the terminal is then as it was.
func TestTopOnATerminal(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	for says, key := range map[string]string{"q": "q", "Ctrl-C": "\x03", "a terminal that hangs up": ""} {
		t.Run(says, func(t *testing.T) {
			term := newTerminal(t, 40, 4)
			ended := make(chan int, 1)
			go func() {
				ended <- run([]string{"top", "--interval", "500ms", "--config", nobodyHome(t)}, term.near, term.near, term.near)
			}()
			term.until("\x1b[?1049h\x1b[?25l")
			term.until("secmcpd")
			term.until("\x1b[31mdown\x1b[0m")
			frame := term.text()
			frame = frame[strings.LastIndex(frame, "\x1b[H"):]
			if lines := strings.Split(frame, "\r\n"); len(lines) > 3 {
				t.Errorf("%d lines on a terminal of 4, of which the last stays free: %q", len(lines), frame)
			}
			first := strings.Count(term.text(), "\x1b[H")
			term.size(80, 24)
			for deadline := time.Now().Add(10 * time.Second); strings.Count(term.text(), "\x1b[H") < first+2; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("no further frame")
				}
			}
			term.until("front")
			if _, err := term.far.WriteString(key); err != nil {
				t.Fatal(err)
			}
			if key == "" {
				if err := unix.Kill(os.Getpid(), unix.SIGHUP); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case status := <-ended:
				if status != 0 {
					t.Errorf("status %d", status)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it does not end")
			}
			term.until("\x1b[?25h\x1b[?1049l")
			after, err := unix.IoctlGetTermios(int(term.near.Fd()), unix.TCGETS)
			if err != nil || *after != *term.restorable {
				t.Errorf("the terminal is not as it was: %v\n%+v\n%+v", err, after, term.restorable)
			}
		})
	}
}

// Colours are for terminals that have them and for people who want them; elsewhere top is one frame.
func TestColoursAreForTerminals(t *testing.T) {
	config := nobodyHome(t)
	for says, c := range map[string]struct {
		noColor, term string
		want          bool
	}{"a terminal": {"", "xterm", true}, "NO_COLOR": {"1", "xterm", false}, "a dumb terminal": {"", "dumb", false}} {
		t.Run(says, func(t *testing.T) {
			t.Setenv("NO_COLOR", c.noColor)
			t.Setenv("TERM", c.term)
			term := newTerminal(t, 80, 24)
			if status := run([]string{"status", "--config", config}, strings.NewReader(""), term.near, term.near); status != exitFailed {
				t.Errorf("status %d", status)
			}
			term.until("front")
			if got := strings.Contains(term.text(), "\x1b["); got != c.want {
				t.Errorf("colours: %v, want %v: %q", got, c.want, term.text())
			}
		})
	}
	var out bytes.Buffer
	if status := run([]string{"top", "--config", config}, strings.NewReader(""), &out, &out); status != exitOK || strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "secmcpd   down") != 1 {
		t.Errorf("no terminal: status %d, %q", status, out.String())
	}
	if status := run([]string{"top", "--interval", "1ms"}, strings.NewReader(""), &out, &out); status != exitUsage {
		t.Errorf("an interval of 1ms: status %d", status)
	}
}
