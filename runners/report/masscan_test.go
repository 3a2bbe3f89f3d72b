package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

type printed struct{ out, err []byte }

// masscanCaptures is what masscan 1.3.2 printed of hosts without latency, of a path without a route, and without
// privilege.
func masscanCaptures(t testing.TB) map[string]printed {
	t.Helper()
	names, err := filepath.Glob("testdata/masscan/*.out")
	if err != nil || len(names) < 6 {
		t.Fatal(names, err)
	}
	all := map[string]printed{}
	for _, name := range names {
		out, err1 := os.ReadFile(name)
		told, err2 := os.ReadFile(strings.TrimSuffix(name, "out") + "err")
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(name), ".out")] = printed{out, told}
	}
	return all
}

func parseMasscan(t testing.TB, p printed) Report {
	t.Helper()
	r, err := ParseMasscan(bytes.NewReader(p.out), bytes.NewReader(p.err), nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatMasscanPrints(t *testing.T) {
	for name, p := range masscanCaptures(t) {
		got, err := json.MarshalIndent(parseMasscan(t, p), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		path := "testdata/masscan/" + name + ".json"
		if *update {
			if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The facts that matter, said outright.
func TestWhatMasscanSays(t *testing.T) {
	all := masscanCaptures(t)
	for name, want := range map[string]string{
		"network":    "finished true, ok true, whole true, , 16 up of 16, 33 open, at 100% with 0 s left",
		"single":     "finished true, ok true, whole true, , 1 up of 1, 2 open, at 100% with 0 s left",
		"nothing":    "finished true, ok true, whole true, , 0 up of 4, 0 open, at 100% with 0 s left",
		"killed":     "finished false, ok false, whole false, , 29 up of 64, 31 open, at 15.49% with 33 s left",
		"noroute":    "finished false, ok false, whole false, route, 0 up of 0, 0 open, at 0% with 0 s left",
		"permission": "finished false, ok false, whole false, permission, 0 up of 0, 0 open, at 0% with 0 s left",
	} {
		r := parseMasscan(t, all[name])
		c := r.Coverage
		got := fmt.Sprintf("finished %v, ok %v, whole %v, %s, %d up of %d, %d open, at %v%% with %d s left", r.Finished, r.ExitOK, c.Whole, r.ErrorClass, c.Up, c.Total, c.OpenPorts, r.Progress.Percent, r.Progress.Remaining)
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Wherever either output ends, what was whole by then is kept, nothing else is, and the scan is not said to have ended.
func TestMasscanAtEveryByte(t *testing.T) {
	for name, p := range masscanCaptures(t) {
		whole := parseMasscan(t, p)
		open := map[string]bool{}
		for _, h := range whole.Hosts {
			for _, port := range h.Ports {
				open[fmt.Sprint(h.Addr, port.Proto, port.Port)] = true
			}
		}
		part := func(what string, p printed) {
			r := parseMasscan(t, p)
			for _, h := range r.Hosts {
				for _, port := range h.Ports {
					if !open[fmt.Sprint(h.Addr, port.Proto, port.Port)] {
						t.Errorf("%s: %s %d/%s was not found", what, h.Addr, port.Port, port.Proto)
					}
				}
			}
			if r.Coverage.Whole && r.Coverage.OpenPorts < whole.Coverage.OpenPorts {
				t.Errorf("%s: whole with %d of %d open ports", what, r.Coverage.OpenPorts, whole.Coverage.OpenPorts)
			}
			if r.Finished && !whole.Finished {
				t.Errorf("%s: finished", what)
			}
		}
		for n := range p.err {
			part(fmt.Sprintf("%s.err[:%d]", name, n), printed{p.out, p.err[:n]})
		}
		if len(p.out) > 4000 { // lines repeat
			continue
		}
		for n := range p.out {
			part(fmt.Sprintf("%s.out[:%d]", name, n), printed{p.out[:n], p.err})
		}
	}
}

func TestMasscanArrivingSlowly(t *testing.T) {
	for name, p := range masscanCaptures(t) {
		steps := 0
		slow, err := ParseMasscan(iotest.OneByteReader(bytes.NewReader(p.out)), iotest.OneByteReader(bytes.NewReader(p.err)), func(p Progress) {
			if steps++; p.Percent < 0 || p.Percent > 100 {
				t.Errorf("%v percent", p.Percent)
			}
		})
		if err != nil || !cmp.Equal(slow, parseMasscan(t, p), compare, comparePrefix) {
			t.Errorf("%s: %v", name, err)
		}
		if steps == 0 && slow.ErrorClass == "" {
			t.Errorf("%s: no progress was told", name)
		}
	}
}

const (
	masscanHead = "Starting masscan 1.3.2 (http://bit.ly/14GZzcT) at 2026-11-25 14:46:19 GMT\nInitiating SYN Stealth Scan\nScanning 4 hosts [3 ports/host]\n"
	masscanEnd  = "rate:  0.00-kpps, 100.00%% done, waiting 0-secs, found=%d       \r"
)

// What a scanner that a host has taken over could print, or that lost what it had found.
func TestMasscanHostileOutput(t *testing.T) {
	for _, row := range []struct {
		why, out, told string
		want           string // hosts, open ports, lines that are none, class, whole
	}{
		{"a port", "Discovered open port 80/tcp on 10.0.0.1\n", fmt.Sprintf(masscanEnd, 1), "1 1 0  true"},
		{"repeated", strings.Repeat("Discovered open port 80/tcp on 10.0.0.1   \n", 3), fmt.Sprintf(masscanEnd, 3), "1 1 0  true"},
		{"counted and not printed", "Discovered open port 80/tcp on 10.0.0.1\n", fmt.Sprintf(masscanEnd, 2), "1 1 0 lines_lost false"},
		{"UDP is not counted by masscan", "Discovered open port 53/udp on 10.0.0.1\n", fmt.Sprintf(masscanEnd, 0), "1 1 0  true"},
		{"printed after the last count", "Discovered open port 80/tcp on 10.0.0.1\n", fmt.Sprintf(masscanEnd, 0), "1 1 0  true"},
		{"not ended", "Discovered open port 80/tcp on 10.0.0.1", fmt.Sprintf(masscanEnd, 0), "0 0 0  true"},
		{"no address", "Discovered open port 80/tcp on 999.0.0.1\nDiscovered open port 80/tcp on 10.0.0.01\n", fmt.Sprintf(masscanEnd, 0), "0 0 2  true"},
		{"no port", "Discovered open port 80000/tcp on 10.0.0.1\nDiscovered open port 80/sctp on 10.0.0.1\n", fmt.Sprintf(masscanEnd, 0), "0 0 2  true"},
		{"a banner", "Banner on port 80/tcp on 10.0.0.1: [http] \x1b[31mIgnore\n", fmt.Sprintf(masscanEnd, 0), "0 0 1  true"},
		{"more behind it", "Discovered open port 80/tcp on 10.0.0.1 and 10.0.0.2\n", fmt.Sprintf(masscanEnd, 0), "0 0 1  true"},
		{"a line without end", strings.Repeat("x", 1<<20) + "\nDiscovered open port 80/tcp on 10.0.0.1\n", fmt.Sprintf(masscanEnd, 1), "1 1 1  true"},
		{"IPv6", "Discovered open port 80/tcp on fd77::10                                \nDiscovered open port 80/tcp on ::ffff:10.0.0.1\nDiscovered open port 80/tcp on fd77:::1\n", fmt.Sprintf(masscanEnd, 1), "1 1 2  true"},
		{"still listening", "", "rate:  0.00-kpps, 100.00% done, waiting 2-secs, found=0       \r", "0 0 0  false"},
		{"beyond its wait", "", "rate:  0.00-kpps, 100.00% done, waiting -16-secs, found=0       \r", "0 0 0  true"},
		{"not all sent", "", "rate:  0.00-kpps, 99.99% done, waiting 0-secs, found=0       \r", "0 0 0  false"},
		{"too many percent", "", "rate:  0.00-kpps, 1000.0% done, waiting 0-secs, found=0       \r", "0 0 0  false"},
		{"nothing", "", "-", "0 0 0 not_a_report false"},
	} {
		told := masscanHead + row.told
		if row.told == "-" {
			told = ""
		}
		r := parseMasscan(t, printed{[]byte(row.out), []byte(told)})
		if got := fmt.Sprint(len(r.Hosts), " ", r.Coverage.OpenPorts, " ", r.Coverage.Invalid, " ", r.ErrorClass, " ", r.Coverage.Whole); got != row.want {
			t.Errorf("%s: %s, want %s", row.why, got, row.want)
		}
	}
}

// A million lines, and hosts and ports beyond their bounds, take bounded memory and are said to be cut.
func TestMasscanBounds(t *testing.T) {
	var out bytes.Buffer
	for i := range 1 << 20 {
		fmt.Fprintf(&out, "Discovered open port %d/tcp on 10.%d.%d.%d\n", 1+i%7, i>>16&255, i>>8&255, i&255)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r, err := ParseMasscan(bytes.NewReader(out.Bytes()), strings.NewReader(masscanHead+fmt.Sprintf(masscanEnd, 1<<20)), nil)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	c := r.Coverage
	if len(r.Hosts) != maxHosts || c.Up != maxCovered || c.NotKept != maxCovered-maxHosts || strings.Join(r.Cut, " ") != "hosts ports" {
		t.Errorf("%d hosts, %d up, %d not kept, cut %v", len(r.Hosts), c.Up, c.NotKept, r.Cut)
	}
	if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 64<<20 {
		t.Errorf("%d MiB are kept", kept>>20)
	}
	runtime.KeepAlive(r)
	r, err = ParseMasscan(zeros{}, strings.NewReader(masscanHead), nil)
	if err != nil || strings.Join(r.Cut, " ") != "total" {
		t.Errorf("%v, cut %v", err, r.Cut)
	}
	lost := errors.New("lost")
	r, err = ParseMasscan(io.MultiReader(strings.NewReader("Discovered open port 80/tcp on 10.0.0.1\n"), iotest.ErrReader(lost)), strings.NewReader(masscanHead), nil)
	if !errors.Is(err, lost) || len(r.Hosts) != 1 {
		t.Errorf("%v, %d hosts", err, len(r.Hosts))
	}
}

func FuzzParseMasscan(f *testing.F) {
	for _, p := range masscanCaptures(f) {
		f.Add(p.out[:min(len(p.out), 2000)], p.err)
	}
	f.Add([]byte("Discovered open port 65535/udp on 255.255.255.255 \r\n"), []byte(masscanHead+"rate:999.99-kpps, 50.00% done,   1:00:00 remaining, found=7\r[-] FAIL: x\n"))
	f.Fuzz(func(t *testing.T, out, told []byte) {
		r := parseMasscan(t, printed{out, told})
		checkClean(t, r)
		c := r.Coverage
		if len(r.Hosts) > maxHosts || c.NotKept != c.Up-len(r.Hosts) || c.Whole && !r.Finished || r.Progress.Percent < 0 || r.Progress.Percent > 100 {
			t.Errorf("%+v", c)
		}
		for _, h := range r.Hosts {
			if h.Addr.Is4In6() || h.Addr.Zone() != "" || len(h.Ports) == 0 {
				t.Errorf("%+v", h)
			}
		}
	})
}
