package runners

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// gobusters are those whose version and help were captured: of Debian 12, of Debian 13, and a later one.
var gobusters = []Version{{3, 5}, {3, 6}, {3, 8}}

// said is what a gobuster of that version answers to a question.
func said(t *testing.T, v Version, words []string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/gobuster", v.String(), strings.TrimSuffix(words[0], " --help")+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func helpOf(t *testing.T, v Version) (help [][]byte) {
	for _, words := range HelpArguments("gobuster") {
		help = append(help, said(t, v, words))
	}
	return help
}

// Each is known by what it says, and without any one of the options that it is to have it is not.
func TestDialectsAreProbed(t *testing.T) {
	for _, v := range gobusters {
		if got, err := ParseVersion("gobuster", said(t, v, VersionArguments("gobuster")[0])); err != nil || got != v {
			t.Errorf("%v says %v, %v", v, got, err)
		}
		help := helpOf(t, v)
		if err := Known("gobuster", v, help); err != nil {
			t.Errorf("%v: %v", v, err)
		}
		d, _ := dialectOf(v)
		for i, mode := range gobusterModes {
			for _, option := range d.options[mode] {
				without := slices.Clone(help)
				without[i] = regexp.MustCompile(`--`+option+`([\s,])`).ReplaceAll(help[i], []byte("--none$1"))
				if err := Known("gobuster", v, without); err == nil || !strings.Contains(err.Error(), "--"+option) || !strings.Contains(err.Error(), mode) {
					t.Errorf("%v without --%s in mode %s: %v", v, option, mode, err)
				}
			}
		}
	}
	// One line's options are not the other's.
	if err := Known("gobuster", Version{3, 6}, helpOf(t, Version{3, 8})); err == nil {
		t.Error("3.6 with the help of 3.8 is known")
	}
}

// The command lines of each dialect, whole; every option in them is one that the program of that version lists in the
// help of that mode.
func TestGobusterCommands(t *testing.T) {
	var out bytes.Buffer
	for _, arguments := range []string{
		`{"url":"http://10.0.0.5"}`,
		`{"url":"http://10.0.0.5","profile":"standard","threads":15,"delay_ms":10}`,
		`{"url":"http://10.0.0.5","profile":"thorough","status_codes":[301,200],"timeout_s":5}`,
		`{"url":"https://www.lab.internal:8443/app","host":"staff.lab.internal","tls_verify":false}`,
		`{"profile":"dns","domain":"lab.internal"}`,
		`{"profile":"vhost","url":"http://www.lab.internal","domain":"lab.internal"}`,
	} {
		fmt.Fprintf(&out, "# %s\n", arguments)
		call := readGobusterCall(t, arguments).WithWords(100)
		var reach *Reach
		if call.Plan().Asks {
			reach = toNames
		}
		for _, v := range gobusters {
			c, err := call.Command(v, atSite, nil, reach)
			if err != nil {
				t.Fatalf("%s: %v", arguments, err)
			}
			fmt.Fprintf(&out, "%v %s\n", v, strings.Join(c.Argv, " "))
			help := said(t, v, []string{c.Argv[1]})
			for _, word := range c.Argv[2:] {
				if name, _, _ := strings.Cut(word, "="); strings.HasPrefix(word, "--") && !regexp.MustCompile(`(^|[\s,])`+name+`($|[\s,])`).Match(help) {
					t.Errorf("%s: %v has no %s in mode %s", arguments, v, name, c.Argv[1])
				}
			}
		}
		out.WriteString("\n")
	}
	golden(t, "gobuster_commands.txt", out.Bytes())
}

// Every dangerous option of gobuster, tried as every argument: refused, or (a word that happens to be allowed) inert.
func TestGobustersDangerousOptionsAreRefusedEverywhere(t *testing.T) {
	rows := tryTable(t, BuiltIn(), "testdata/gobuster_dangerous.txt", gobusterName, fieldNames(gobusterFields()),
		[]map[string]any{{"url": "http://10.0.0.5"}, {"mode": "dns", "domain": "lab.internal"}, {"mode": "vhost", "url": "http://10.0.0.5", "domain": "lab.internal"}},
		func(call Call) {
			reach := (*Reach)(nil)
			if call.Plan().Asks {
				reach = toNames
			}
			for _, v := range gobusters {
				c, err := call.WithWords(100).Command(v, atSite, nil, reach)
				if err != nil {
					t.Errorf("no command for %+v: %v", call.Gobuster, err)
					continue
				}
				checkGobusterWords(t, c)
			}
		})
	if rows < 60 {
		t.Errorf("the table has %d options", rows)
	}
}

// checkGobusterWords holds every word of a command line to what this package writes.
func checkGobusterWords(t *testing.T, c Command) {
	t.Helper()
	known := map[string]bool{"--show-ips": true}
	for _, d := range dialects {
		for _, names := range d.options {
			for _, name := range names {
				known["--"+name] = true
			}
		}
	}
	for i, word := range c.Argv[2:] {
		if name, _, _ := strings.Cut(word, "="); strings.HasPrefix(word, "-") && !known[name] {
			t.Errorf("word %d is %q in %q", i, word, c.Argv)
		}
	}
}
