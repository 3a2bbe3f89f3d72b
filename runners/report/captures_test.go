package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// debian is what a scanner of a Debian printed of the lab (test/captures makes these).
type debian struct {
	path    string // without what tells the outputs apart
	scanner string
	version string
	says    string
	printed
}

func debians(t testing.TB) (all []debian) {
	t.Helper()
	names, err := filepath.Glob("testdata/debian1[23]/*.out")
	if err != nil || len(names) != 62 {
		t.Fatal(len(names), err)
	}
	for _, name := range names {
		d := debian{path: strings.TrimSuffix(name, ".out")}
		parts := strings.SplitN(filepath.Base(d.path), "-", 3)
		d.scanner, d.version, d.says = parts[0], parts[1], parts[2]
		var err1, err2 error
		d.out, err1 = os.ReadFile(name)
		d.err, err2 = os.ReadFile(d.path + ".err")
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		all = append(all, d)
	}
	return all
}

// asked is what a capture of gobuster was asked for.
func (d debian) asked() Asked {
	a := Asked{Mode: "dir", At: netip.MustParseAddrPort("10.77.0.20:80"), Requests: 10, Variants: 1}
	switch {
	case strings.HasSuffix(d.says, "vhost"):
		a.Mode, a.Domain = "vhost", "lab.internal"
	case d.says == "dns":
		a.Mode, a.Domain, a.At = "dns", "lab.internal", netip.MustParseAddrPort("10.77.0.53:53")
	}
	return a
}

func (d debian) parse(t testing.TB, p printed) Report {
	t.Helper()
	var r Report
	var err error
	switch d.scanner {
	case "nmap":
		r, err = ParseNmap(bytes.NewReader(p.out), nil)
	case "masscan":
		r, err = ParseMasscan(bytes.NewReader(p.out), bytes.NewReader(p.err), nil)
	default:
		r, err = ParseGobuster(bytes.NewReader(p.out), bytes.NewReader(p.err), d.asked(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatTheScannersOfDebianPrint(t *testing.T) {
	for _, d := range debians(t) {
		r := d.parse(t, d.printed)
		checkClean(t, r)
		got, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(d.path+".json", append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(d.path + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
			t.Errorf("%s (-want +got):\n%s", d.path, diff)
		}
	}
}

// The facts that matter, said outright, and alike of both Debians.
func TestWhatTheScannersOfDebianSay(t *testing.T) {
	want := map[string]string{
		"gobuster-badanswer":    "finished false, ok false, wildcard, 0 up, 0 down, 0 silent, 0 timed out, 0 open, 0 of 10 made, 0 failed, 0 found, 0 unreadable",
		"13 gobuster-badanswer": "finished false, ok false, unreachable, 0 up, 0 down, 0 silent, 0 timed out, 0 open, 0 of 10 made, 0 failed, 0 found, 0 unreadable",
		"gobuster-dir":          "finished true, ok true, , 1 up, 0 down, 0 silent, 0 timed out, 1 open, 10 of 10 made, 0 failed, 4 found, 0 unreadable",
		"gobuster-dir6":         "finished true, ok true, , 1 up, 0 down, 0 silent, 0 timed out, 1 open, 10 of 10 made, 0 failed, 4 found, 0 unreadable",
		"gobuster-dns":          "finished true, ok true, , 1 up, 0 down, 0 silent, 0 timed out, 0 open, 10 of 10 made, 0 failed, 5 found, 0 unreadable",
		"gobuster-killed":       "finished false, ok false, , 0 up, 0 down, 0 silent, 0 timed out, 1 open, 5 of 10 made, 0 failed, 2 found, 0 unreadable",
		"gobuster-refused":      "finished false, ok false, unreachable, 0 up, 0 down, 0 silent, 0 timed out, 0 open, 0 of 10 made, 0 failed, 0 found, 0 unreadable",
		"gobuster-talker":       "finished true, ok true, , 1 up, 0 down, 0 silent, 0 timed out, 1 open, 10 of 10 made, 0 failed, 3 found, 0 unreadable",
		"gobuster-talkingvhost": "finished true, ok true, , 1 up, 0 down, 0 silent, 0 timed out, 1 open, 10 of 10 made, 0 failed, 1 found, 0 unreadable",
		"gobuster-tls":          "finished false, ok false, tls, 0 up, 0 down, 0 silent, 0 timed out, 0 open, 0 of 10 made, 0 failed, 0 found, 0 unreadable",
		"gobuster-vhost":        "finished true, ok true, , 1 up, 0 down, 0 silent, 0 timed out, 1 open, 10 of 10 made, 0 failed, 3 found, 0 unreadable",
		"gobuster-wildcard":     "finished false, ok false, wildcard, 0 up, 0 down, 0 silent, 0 timed out, 0 open, 0 of 10 made, 0 failed, 0 found, 0 unreadable",
		"masscan-ipv6":          "finished true, ok true, , 2 up, 0 down, 0 silent, 0 timed out, 4 open",
		"masscan-killed":        "finished false, ok false, , 1 up, 0 down, 0 silent, 0 timed out, 1 open",
		"masscan-network":       "finished true, ok true, , 4 up, 0 down, 0 silent, 0 timed out, 6 open",
		"masscan-noroute":       "finished false, ok false, route, 0 up, 0 down, 0 silent, 0 timed out, 0 open",
		"masscan-nothing":       "finished true, ok true, , 0 up, 0 down, 0 silent, 0 timed out, 0 open",
		"masscan-talker":        "finished true, ok true, , 1 up, 0 down, 0 silent, 0 timed out, 8 open",
		"nmap-badscript":        "finished true, ok false, script, 0 up, 0 down, 0 silent, 0 timed out, 0 open",
		"nmap-connect":          "finished true, ok true, , 3 up, 5 down, 0 silent, 0 timed out, 4 open",
		"nmap-discovery":        "finished true, ok true, , 3 up, 13 down, 0 silent, 0 timed out, 0 open",
		"nmap-discovery6":       "finished true, ok true, , 1 up, 1 down, 0 silent, 0 timed out, 0 open",
		"nmap-ipv6":             "finished true, ok true, , 2 up, 0 down, 0 silent, 0 timed out, 3 open",
		"nmap-killed":           "finished false, ok false, , 8 up, 0 down, 5 silent, 0 timed out, 4 open",
		"nmap-os":               "finished true, ok true, , 1 up, 0 down, 0 silent, 0 timed out, 2 open",
		"nmap-scripts-late":     "finished true, ok true, , 2 up, 0 down, 0 silent, 0 timed out, 4 open",
		"nmap-syn":              "finished true, ok true, , 2 up, 0 down, 0 silent, 0 timed out, 3 open",
		"nmap-talker":           "finished true, ok true, , 1 up, 0 down, 0 silent, 0 timed out, 5 open",
		"nmap-talker6":          "finished true, ok true, , 1 up, 0 down, 0 silent, 0 timed out, 3 open",
		"nmap-timeout":          "finished true, ok true, , 5 up, 0 down, 0 silent, 4 timed out, 2 open",
		"nmap-udp":              "finished true, ok true, , 2 up, 0 down, 0 silent, 0 timed out, 3 open, failed 2 [snmp-sysdescr]",
		"nmap-unprivileged":     "finished false, ok false, not_a_report, 0 up, 0 down, 0 silent, 0 timed out, 0 open",
	}
	for _, d := range debians(t) {
		r := d.parse(t, d.printed)
		c := r.Coverage
		got := fmt.Sprintf("finished %v, ok %v, %s, %d up, %d down, %d silent, %d timed out, %d open", r.Finished, r.ExitOK, r.ErrorClass, c.Up, c.Down, c.Silent, c.TimedOut, c.OpenPorts)
		if c.ScriptErrors > 0 {
			got += fmt.Sprintf(", failed %d %v", c.ScriptErrors, c.ScriptsFailed)
		}
		if q := c.Requests; q != nil {
			got += fmt.Sprintf(", %d of %d made, %d failed, %d found, %d unreadable", q.Made, q.Asked, q.Failed, q.Found, q.Unreadable)
		}
		w, differs := want["13 "+d.scanner+"-"+d.says]
		if !differs || !strings.Contains(d.path, "debian13") {
			w = want[d.scanner+"-"+d.says]
		}
		if got != w {
			t.Errorf("%s: %s, want %s", d.path, got, w)
		}
		if v := strings.TrimSuffix(d.version, ".0"); r.Version != v && len(d.out) > 0 {
			t.Errorf("%s: version %q", d.path, r.Version)
		}
	}
}

// findings are all that a report says was found, each as a text.
func findings(r Report) map[string]bool {
	all := map[string]bool{}
	for _, h := range r.Hosts {
		all[h.Addr.String()] = true
		for _, p := range h.Ports {
			text, _ := json.Marshal(p) // of our own types
			all[fmt.Sprint(h.Addr, " ", string(text))] = true
		}
		for _, f := range h.Found {
			text, _ := json.Marshal(f)
			all[fmt.Sprint(h.Addr, " ", string(text))] = true
		}
	}
	return all
}

// Wherever an output of either Debian's scanners ends, nothing is found that the whole does not have, what was found
// stays found as it grows, and the scan has not come to its end before all of its output is there.
func TestTheScannersOfDebianAtEveryByte(t *testing.T) {
	for _, d := range debians(t) {
		t.Run(d.path, func(t *testing.T) {
			t.Parallel()
			d.atEveryByte(t)
		})
	}
}

func (d debian) atEveryByte(t *testing.T) {
	whole := d.parse(t, d.printed)
	all := findings(whole)
	var last Report
	var had map[string]bool
	step := func(what string, n int, p printed, first bool) {
		r := d.parse(t, p)
		found := findings(r)
		for f := range found {
			if !all[f] {
				t.Fatalf("%s.%s[:%d]: %s was not found", d.path, what, n, f)
			}
		}
		for f := range had {
			if !first && !found[f] {
				t.Fatalf("%s.%s[:%d]: %s is no longer found", d.path, what, n, f)
			}
		}
		if c, l := r.Coverage, last.Coverage; !first && (c.Up < l.Up || c.Down < l.Down || c.OpenPorts < l.OpenPorts || c.TimedOut < l.TimedOut || c.Listed < l.Listed) {
			t.Fatalf("%s.%s[:%d]: %+v after %+v", d.path, what, n, c, l)
		}
		if d.says != "noroute" && r.ErrorClass == ErrorMalformed {
			t.Fatalf("%s.%s[:%d]: an early end is taken for a malformed report", d.path, what, n)
		}
		// masscan says how far it is beside; its last count tells of lines of TCP that are not there.
		ended := what == "err" && d.scanner != "masscan" || what == "out" && d.scanner == "masscan"
		if !ended && (r.Finished || r.ExitOK || r.Coverage.Whole) && n < d.endsAt(what) {
			t.Fatalf("%s.%s[:%d]: it is said to have ended", d.path, what, n)
		}
		if r.Coverage.Whole && r.Coverage.OpenPorts < whole.Coverage.OpenPorts && what == "out" && !bytes.Contains(d.out, []byte("/udp")) {
			t.Fatalf("%s.%s[:%d]: whole with %d open ports of %d", d.path, what, n, r.Coverage.OpenPorts, whole.Coverage.OpenPorts)
		}
		last, had = r, found
	}
	for n := range d.out {
		step("out", n, printed{d.out[:n], d.err}, n == 0)
	}
	if d.scanner == "nmap" {
		return // its report is all on standard output
	}
	for n := range d.err {
		step("err", n, printed{d.out, d.err[:n]}, n == 0)
	}
}

// endsAt is how many bytes of an output there are when it says that the scan has ended.
func (d debian) endsAt(what string) int {
	switch d.scanner {
	case "nmap":
		return bytes.Index(d.out, []byte("</nmaprun>")) + len("</nmaprun>")
	case "masscan":
		last := bytes.LastIndex(d.err, []byte("waiting 0-secs"))
		if first := bytes.Index(d.err, []byte("waiting 0-secs")); first >= 0 {
			last = first
		}
		return last
	}
	return bytes.LastIndex(d.out, []byte("=\n"))
}
