package main

import (
	"bytes"
	"testing"
	"time"
	"unicode"
)

func TestWhatIsShownOfOthersTextCannotSteerATerminal(t *testing.T) {
	for text, want := range map[string]string{
		"nmap_scan 10.0.0.5":         "nmap_scan 10.0.0.5",
		"größer 日本":                  "größer 日本",
		"\x1b[31mred\x1b[0m":         `\x1b[31mred\x1b[0m`,
		"\u009b31m":                  `\u009b31m`,
		"a\nb\tc\r":                  `a\nb\tc\r`,
		"admin\u202etxt.exe":         `admin\u202etxt.exe`,
		"\xff\xfe":                   `\xff\xfe`,
		"a \ufffd that was sent":     "a \ufffd that was sent",
		"bell\a, title \x1b]0;x\x07": `bell\a, title \x1b]0;x\a`,
	} {
		if got := clean(text); got != want {
			t.Errorf("clean(%q) = %q, want %q", text, got, want)
		}
	}
}

// Who approves a command has to see which words it has.
func TestOfACommandEachWordIsOne(t *testing.T) {
	for want, words := range map[string][]string{
		`nmap -sS -p 22,80-90 10.0.0.0/24`:        {"nmap", "-sS", "-p", "22,80-90", "10.0.0.0/24"},
		`nmap --script-args "a=b -iL /etc/pw"`:    {"nmap", "--script-args", "a=b -iL /etc/pw"},
		`nmap "" "\"" "a'b" "$(id)"`:              {"nmap", "", `"`, "a'b", "$(id)"},
		`nmap "\x1b[2J" "\u202e" "\u009b" "a\nb"`: {"nmap", "\x1b[2J", "\u202e", "\u009b", "a\nb"},
	} {
		if got := commandLine(words); got != want {
			t.Errorf("%q is shown as %s, want %s", words, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[2J\u202e\xff")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range clean(text) {
			if !unicode.IsPrint(r) {
				t.Fatalf("clean(%q) has %q", text, r)
			}
		}
	})
}

func TestATableIsAsWideAsWhatIsInItAndAsItsTerminal(t *testing.T) {
	s := &surroundings{stdout: &bytes.Buffer{}}
	narrow := func(sc screen) string {
		t := s.newTable("JOB", "STATE", "WHAT")
		t.screen = sc
		t.row("abc", cell{"running", green}, "nmap \x1b[2J of 10.0.0.0/24")
		t.row("defghi", "", 7)
		return t.String()
	}
	for _, c := range []struct {
		name   string
		screen screen
		want   string
	}{
		{"a file", screen{}, "JOB     STATE    WHAT\nabc     running  nmap \\x1b[2J of 10.0.0.0/24\ndefghi           7\n"},
		{"a narrow terminal", screen{terminal: true, width: 24}, "JOB     STATE    WHAT\nabc     running  nmap \\…\ndefghi           7\n"},
		{"one that ends before the last column", screen{terminal: true, width: 15}, "JOB     STATE\nabc     running\ndefghi\n"},
		{"one with colours", screen{terminal: true, colours: true, width: 24},
			"\x1b[1mJOB\x1b[0m     \x1b[1mSTATE\x1b[0m    \x1b[1mWHAT\x1b[0m\nabc     \x1b[32mrunning\x1b[0m  nmap \\…\ndefghi           7\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := narrow(c.screen); got != c.want {
				t.Errorf("got:\n%q\nwant:\n%q", got, c.want)
			}
		})
	}
}

func TestAProgressLineIsForTerminalsOnly(t *testing.T) {
	var b bytes.Buffer
	p := (&surroundings{stderr: &b}).newProgressLine()
	p.show("half")
	p.clear()
	if b.Len() > 0 {
		t.Errorf("a file got %q", b.String())
	}
	p = &progressLine{to: &b, screen: screen{terminal: true, width: 12}}
	p.show("half of it\x1b[2J, all")
	p.clear()
	p.clear()
	if want := "\rhalf of it…\x1b[K\r\x1b[K"; b.String() != want {
		t.Errorf("a terminal got %q, want %q", b.String(), want)
	}
}

func TestNumbersAsAPersonSaysThem(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", -time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 3*time.Hour + 5*time.Minute: "3h05m", 52 * time.Hour: "2d04h"} {
		if got := short(d); got != want {
			t.Errorf("short(%s) = %s, want %s", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 30: "5.0 GiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	if got := when(now.Add(-time.Hour), now) + ", " + when(now.Add(-24*time.Hour), now) + ", " + when(time.Time{}, now); got != "11:00:00, 2026-02-28 12:00, -" {
		t.Error(got)
	}
}
