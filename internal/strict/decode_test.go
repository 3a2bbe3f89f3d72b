package strict

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// colour is a Scalar.
type colour string

func (c *colour) ReadScalar(text string) *Fault {
	if text != "red" && text != "blue" {
		return &Fault{Allowed: "red, blue"}
	}
	*c = colour(text)
	return nil
}

// place may be written as its name alone.
type place struct {
	Name   string         `yaml:"name"`
	Within []netip.Prefix `yaml:"within"`
}

func (p *place) ReadScalar(text string) *Fault { p.Name = text; return nil }

type house struct {
	Name    string           `yaml:"name"`
	Open    bool             `yaml:"open"`
	Rooms   int              `yaml:"rooms"`
	Small   uint8            `yaml:"small"`
	Wait    time.Duration    `yaml:"wait"`
	Net     netip.Prefix     `yaml:"net"`
	Addr    netip.Addr       `yaml:"addr"`
	Colours []colour         `yaml:"colours"`
	Garden  *garden          `yaml:"garden"`
	Places  []place          `yaml:"places"`
	Doors   map[string]place `yaml:"doors"`
	Maybe   *int             `yaml:"maybe"`
	Private string
}

type garden struct {
	Trees int32 `yaml:"trees"`
}

func TestDecode(t *testing.T) {
	var got house
	lines, faults := Decode("house.yaml", []byte(`name: 2026-12-31
open: true
rooms: -4
small: 255
wait: 1h30m
net: 10.0.0.0/8
addr: fd00::1
colours: [red, "blue"]
garden:
  trees: 3
places:
  - here
  - name: there
    within:
      - 192.168.0.0/16
doors:
  front: {name: big}
  "back door": small
maybe: 0
`), &got)
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	want := house{
		Name: "2026-12-31", Open: true, Rooms: -4, Small: 255, Wait: 90 * time.Minute,
		Net: netip.MustParsePrefix("10.0.0.0/8"), Addr: netip.MustParseAddr("fd00::1"),
		Colours: []colour{"red", "blue"}, Garden: &garden{3},
		Places: []place{{Name: "here"}, {"there", []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}}},
		Doors:  map[string]place{"front": {Name: "big"}, "back door": {Name: "small"}},
		Maybe:  new(int),
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	for path, line := range map[string]int{
		"": 1, "name": 1, "places": 11, "places[1].within[0]": 15, "places[1].colour": 13,
		"places[7]": 11, `doors["back door"]`: 18, "no.such[3].thing": 1,
	} {
		if lines.Of(path) != line {
			t.Errorf("%q is said to be in line %d, not %d", path, lines.Of(path), line)
		}
	}
	if !lines.Has("rooms") || lines.Has("private") || lines.Has("Private") {
		t.Error("Has does not know what the file has")
	}
}

func TestEveryFaultAtOnce(t *testing.T) {
	var into house
	_, faults := Decode("house.yaml", []byte(`nmae: x
open: yes
open: true
rooms: 010
small: 256
wait: 30
net: 10.0.0.1/8
addr: ::ffff:10.0.0.1
colours: [red, green]
garden: {trees: "3"}
places:
  - {name: 5}
  - [x]
  - within: 10.0.0.0/8
doors: &d
  front: x
maybe:
`), &into)
	want := []string{
		`house.yaml:1: nmae: got an unknown key "nmae"; allowed: name, open, rooms, small, wait, net, addr, colours, garden, places, doors, maybe; did you mean "name"?`,
		`house.yaml:2: open: got "yes"; allowed: true, false`,
		`house.yaml:3: open: got the key again; allowed: each key once; the first is in line 2`,
		`house.yaml:4: rooms: got "010"; allowed: a whole number`,
		`house.yaml:5: small: got "256"; allowed: a whole number from 0 to 255`,
		`house.yaml:6: wait: got "30"; allowed: a duration such as 90s, 30m, 1h30m; add the unit`,
		`house.yaml:7: net: got "10.0.0.1/8"; allowed: a network without host bits; write 10.0.0.0/8`,
		`house.yaml:8: addr: got "::ffff:10.0.0.1"; allowed: an IPv4 address in its own form; write 10.0.0.1`,
		`house.yaml:9: colours[1]: got "green"; allowed: red, blue`,
		`house.yaml:10: garden.trees: got "3"; allowed: a whole number from -2147483648 to 2147483647; remove the quotes`,
		`house.yaml:12: places[0].name: got "5"; allowed: text; put it in quotes`,
		`house.yaml:13: places[1]: got a list; allowed: text or a mapping`,
		`house.yaml:14: places[2].within: got "10.0.0.0/8"; allowed: a list; write [10.0.0.0/8]`,
		`house.yaml:15: doors: got an anchor "&d"; allowed: a mapping; remove the anchor`,
		`house.yaml:17: maybe: got nothing; allowed: a whole number; give a value or remove the key`,
	}
	if diff := cmp.Diff(want, strings.Split(faults.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
}

// Each text is refused, with words that say why and the line.
func TestRefused(t *testing.T) {
	for _, row := range []struct{ why, text, want string }{
		{"an alias could expand without end", "name: *x", "unknown anchor"},
		{"an alias says elsewhere what stands here", "colours: &a [red]\nplaces: *a", `2: places: got an alias "*a"`},
		{"a merge key adds keys that cannot be seen", "<<: {name: x}", "a key that is"},
		{"a tag changes the type", "rooms: !!int \"3\"", `1: rooms: got a tag "!!int"`},
		{"a tag of one's own", "name: !secret x", `got a tag "!secret"`},
		{"a second document would be ignored", "name: x\n---\nname: y\n", "a second document"},
		{"a second document that is broken", "name: x\n---\n{", "cannot parse"},
		{"a null is neither set nor absent", "name: ~", "got nothing"},
		{"a list where the file is a mapping", "- a", "1: got a list; allowed: a mapping"},
		{"a number as a key", "5: a", "a key that is \"5\""},
		{"a list as a key", "[a]: b", "a key that is a list"},
		{"an anchored key", "&k name: x", "an anchor"},
		{"YAML that does not parse has its line", "name: x\nopen: [\n", "house.yaml:2:"},
		{"UTF-16 is YAML to the parser, and not text to grep", "\xff\xfen\x00a\x00", "not UTF-8"},
		{"bad bytes have their line", "name: x\n# \xc3\x28\n", "house.yaml:2: got bytes that are not UTF-8"},
		{"a byte order mark", "\xef\xbb\xbfname: x", "byte order mark"},
		{"too large", "#" + strings.Repeat("x", MaxSize), "got 1048577 bytes"},
		{"too deep", "places: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), "more than 32 levels"},
		{"too many values", "colours: [" + strings.Repeat("a,", MaxNodes) + "]", "more than 100000"},
		{"a number with underscores", "rooms: 1_0", `got "1_0"`},
		{"a hexadecimal number", "rooms: 0x10", `got "0x10"`},
		{"a number too large for any integer", "rooms: 99999999999999999999", "whole number"},
		{"a negative where none can be", "small: -1", "from 0 to 255"},
		{"a boolean in capitals", "open: True", "true, false"},
		{"a negative duration", "wait: -3s", "a duration such as"},
		{"an octal address", "addr: 010.0.0.1", "an address such as"},
		{"a short address", "addr: \"127.1\"", "an address such as"},
		{"a zone", "addr: fe80::1%eth0", "write fe80::1"},
		{"capitals in an address", "addr: FD00::1", "write fd00::1"},
		{"zeros in an address", "addr: fd00:0::1", "write fd00::1"},
		{"an address that is a key to YAML", "places:\n - fd00::", `2: places[0]: got "fd00::"; allowed: text or a mapping; put it in quotes`},
		{"another one", "addr:\n  fd00::", `addr: got "fd00::"; allowed: an address; put it in quotes`},
		{"a network without its length", "net: 10.0.0.0", "a network such as"},
		{"a mapped network", "net: ::ffff:10.0.0.0/104", "IPv4 network in its own form"},
		{"a long value is cut", "open: " + strings.Repeat("x", 500), strings.Repeat("x", 80) + `"…`},
		{"escapes do not reach a terminal", `open: "\e[2J"`, `"\x1b[2J"`},
	} {
		var into house
		_, faults := Decode("house.yaml", []byte(row.text), &into)
		if got := faults.Error(); !strings.Contains(got, row.want) {
			t.Errorf("%s: %q, want %q", row.why, got, row.want)
		}
	}
}

func TestTellsABoundedNumberOfFaults(t *testing.T) {
	var text strings.Builder
	for i := range 500 {
		fmt.Fprintf(&text, "key%d: x\n", i)
	}
	var into house
	_, faults := Decode("house.yaml", []byte(text.String()), &into)
	if len(faults) != MaxFaults+1 || !strings.Contains(faults[MaxFaults].Hint, "and 400 more") {
		t.Errorf("%d faults, the last: %s", len(faults), faults[len(faults)-1])
	}
}

func TestAnEmptyFileSetsNothing(t *testing.T) {
	into := house{Name: "as before"}
	for _, text := range []string{"", "# only words\n"} {
		if _, faults := Decode("f", []byte(text), &into); faults != nil || into.Name != "as before" {
			t.Errorf("%q: %v, %v", text, faults, into)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"targets", "exclude", "expires", "name"}
	for word, want := range map[string]string{
		"target": "targets", "exlcude": "exclude", "expire": "expires", "nmae": "name",
		"zebra": "", "Name": "name", strings.Repeat("x", 1000): "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("nearest to %q is %q, want %q", word, got, want)
		}
	}
}

// Whatever the bytes, Decode does not panic, every fault has a line of the file, and the same
// bytes have the same faults.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"name: x\nplaces: [here, {name: there, within: [10.0.0.0/8]}]\n",
		"a: &a [*a]\n", "? [x]\n: y\n", "--- !t\n...\n---\n", "doors:\n  \"a\\nb\": x\n", "%YAML 1.1\n---\nname: |\n x\n",
		"name: 'x\n", "\t", "{", "a:\r\n  b\u2028c: \x85", "maybe: 5\nnet: ::/0\n", "<<: *x", "&a a: &b b\n*a : *b",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var into, again house
		lines, faults := Decode("f", data, &into)
		if lines == nil {
			t.Fatal("no lines")
		}
		if !slices.IsSortedFunc(faults, func(a, b Fault) int { return a.Line - b.Line }) {
			t.Error("faults are not in order")
		}
		for _, fault := range faults {
			if fault.Line < 1 || fault.Line > len(data)+1 {
				t.Errorf("line %d: %s", fault.Line, fault)
			}
			if len(fault.Got) > 4*maxQuoted+64 {
				t.Errorf("repeats %d bytes of the file", len(fault.Got))
			}
			if lines.Of(fault.Field) < 1 {
				t.Errorf("%q has no line", fault.Field)
			}
		}
		if _, second := Decode("f", data, &again); !slices.Equal(faults, second) {
			t.Error("two readings of the same bytes differ")
		}
	})
}
