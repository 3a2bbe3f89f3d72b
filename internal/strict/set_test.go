package strict

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

type shed struct {
	Name  string            `yaml:"name"`
	Rooms int               `yaml:"rooms"`
	Open  bool              `yaml:"open"`
	For   time.Duration     `yaml:"for"`
	Net   netip.Prefix      `yaml:"net"`
	Tools []string          `yaml:"tools"`
	Keys  map[string]string `yaml:"keys"`
	Door  struct {
		Width int   `yaml:"width"`
		Codes []int `yaml:"codes"`
	} `yaml:"door"`
}

// A value of the environment or of a flag is read as a file's, without the quotes that a file needs.
func TestSet(t *testing.T) {
	for _, c := range []struct{ path, text, want, fault string }{
		{"name", "1000", `{Name:1000`, ""},
		{"name", "", `{Name: `, ""},
		{"name", "a: b # c", `{Name:a: b # c`, ""},
		{"rooms", "3", `Rooms:3`, ""},
		{"rooms", "three", "", `here: rooms: got "three"; allowed: a whole number`},
		{"rooms", "", "", `here: rooms: got nothing; allowed: a whole number; give a value or remove the key`},
		{"rooms", "03", "", `here: rooms: got "03"; allowed: a whole number`},
		{"open", "true", `Open:true`, ""},
		{"open", "yes", "", `here: open: got "yes"; allowed: true, false`},
		{"for", "1h", `For:1h0m0s`, ""},
		{"net", "10.0.0.0/8", `Net:10.0.0.0/8`, ""},
		{"tools", "saw, drill", `Tools:[saw drill]`, ""},
		{"tools", "1, true", `Tools:[1 true]`, ""},
		{"tools", "[saw, drill]", `Tools:[saw drill]`, ""},
		{"tools", "", `Tools:[]`, ""},
		{"tools", "[1]", "", `here: tools[0]: got "1"; allowed: text; put it in quotes`},
		{"tools", "[", "", `here: allowed: YAML; cannot parse: did not find expected node content`},
		{"tools", "[a] # b", `Tools:[a]`, ""},
		{"tools", "[*a]", "", `here: allowed: YAML; cannot parse: unknown anchor 'a' referenced`},
		{"keys", "{front: iron}", `Keys:map[front:iron]`, ""},
		{"keys", "", "", `here: keys: got nothing; allowed: a mapping; write {} for none`},
		{"keys.back", "brass", `Keys:map[back:brass first:gold]`, ""},
		{"keys.back.left", "brass", "", `here: keys.back: got an unknown key "back"; allowed: a mapping; it has no keys below it`},
		{"door.width", "2", `Width:2`, ""},
		{"door.codes", "1,2", `Codes:[1 2]`, ""},
		{"door.codes", "1,,2", "", `here: door.codes[1]: got nothing; allowed: a whole number; give a value or remove the key`},
		{"door", "2", "", `here: door: got "2"; allowed: one of its keys: width, codes`},
		{"door.widht", "2", "", `here: door.widht: got an unknown key "widht"; allowed: width, codes; did you mean "width"?`},
		{"rooms.first", "2", "", `here: rooms.first: got an unknown key "first"; allowed: a whole number; it has no keys below it`},
		{"", "2", "", `here: [""]: got an unknown key ""; allowed: name, rooms, open, for, net, tools, keys, door`},
	} {
		s := shed{Keys: map[string]string{"first": "gold"}}
		shared := s.Keys
		lines, faults := Set("here", c.path, c.text, &s)
		if got := faults.Err(); fmt.Sprint(got) != c.fault && (got != nil || c.fault != "") {
			t.Errorf("%s=%s: fault %v, want %s", c.path, c.text, got, c.fault)
			continue
		}
		if got := fmt.Sprintf("%+v", s); c.fault == "" && !strings.Contains(got, c.want) {
			t.Errorf("%s=%s: %s, want %s", c.path, c.text, got, c.want)
		}
		if c.fault == "" && (lines.Where(c.path) != "here" || lines.Where("other") != "") {
			t.Errorf("%s=%s was said at %q", c.path, c.text, lines.Where(c.path))
		}
		if len(shared) != 1 {
			t.Errorf("%s=%s changed a map that others have", c.path, c.text)
		}
	}
}

// Whatever a variable holds: it is read or refused, and what was read once is read again.
func FuzzSet(f *testing.F) {
	for _, path := range []string{"name", "rooms", "tools", "keys", "keys.back", "door.codes", "door", "no.such"} {
		for _, text := range []string{"", "3", "a,b", "[a, b]", "{a: b}", "!!x y", "&a b", "\x00", "--- a\n--- b", "[[[[[["} {
			f.Add(path, text)
		}
	}
	f.Fuzz(func(t *testing.T, path, text string) {
		var once, again shed
		_, faults := Set("here", path, text, &once)
		_, more := Set("here", path, text, &again)
		if fmt.Sprint(faults, once) != fmt.Sprint(more, again) {
			t.Errorf("%q=%q: %v %v, then %v %v", path, text, faults, once, more, again)
		}
	})
}
