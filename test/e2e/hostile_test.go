package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// probeRow is a line of what a hostile scanner tries, and the answer in each profile.
type probeRow struct {
	probe, answer string
	but           map[string]string
}

// in is the answer in a profile, in a box whose network is a slot.
func (r probeRow) in(profile string) string {
	for _, name := range []string{"slot:" + profile, "slot", profile} {
		if answer, ok := r.but[name]; ok {
			return answer
		}
	}
	return r.answer
}

func probeRows(t *testing.T) (rows []probeRow) {
	t.Helper()
	text, err := os.ReadFile("../../sandbox/testdata/probes.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line == "\n" || line[0] == '#' {
			continue
		}
		columns := strings.Split(line, "|")
		row := probeRow{probe: strings.TrimSpace(columns[1]), but: map[string]string{}}
		for _, word := range strings.Fields(columns[2]) {
			if profile, answer, ok := strings.Cut(word, "="); ok {
				row.but[profile] = answer
			} else {
				row.answer = word
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// hostileScanner is the program of sandbox/testdata/probe in nmap's place.
func hostileScanner(t *testing.T) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "nmap")
	const source = "../../sandbox/testdata"
	if out, err := exec.Command("gcc", "-O1", "-static", "-w", "-Wa,-I,"+source, "-o", path, source+"/probe/probe.c", "-pthread").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// A scanner that is an attacker's, started as every scanner is: each thing that it tries gets the
// answer that the table says, and what is deadly is told and recorded as a violation.
func TestAHostileScannerThroughTheHouse(t *testing.T) {
	settings := "scanners: {nmap: " + hostileScanner(t) + "}\nbreakers: {enabled: false}\n"
	t.Run("daemon", func(t *testing.T) {
		h := newHouse(t, lab.Options{Settings: settings})
		h.hostile(0)
	})
	t.Run("stdio", func(t *testing.T) {
		h := newHouse(t, lab.Options{Settings: settings, NoRoles: true})
		ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
		defer done()
		s, _, err := h.daemon.Stdio(ctx)
		if err != nil {
			t.Fatal(err)
		}
		h.agent = s
		h.hostile(1)
	})
}

// hostile tries what is deadly in one of the boxes only, the other one in the other house: so many
// scans may be asked for in a short time.
func (h *house) hostile(turn int) {
	h.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:47") // what the scanner looks for, and must not find
	if err != nil {
		h.t.Fatal(err)
	}
	defer listener.Close()
	violations := 0
	for _, scan := range []string{"connect", "syn"} {
		profile := map[string]string{"connect": "nmap-connect", "syn": "nmap-raw"}[scan]
		turn++
		// Which of them, the port says: 1 all that a process survives, 1000+N the Nth alone.
		try := func(port int) (answer object, said map[string]string) {
			for range 100 { // a caller may ask for two scans a second in the long run
				answer = h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{port}, "scan_type": scan, "skip_discovery": true, "wait_s": 45})
				if at(answer, "error", "code") != "rate_too_high" {
					break
				}
				time.Sleep(200 * time.Millisecond)
			}
			text, err := os.ReadFile(filepath.Join(h.daemon.Dir, "state", "jobs", show(answer["job_id"])[1:len(show(answer["job_id"]))-1], "nmap.xml"))
			if err != nil {
				h.t.Errorf("%v: %s", err, show(answer))
			}
			said = map[string]string{}
			for line := range strings.Lines(string(text)) {
				got, probe, _ := strings.Cut(strings.TrimSpace(line), " ")
				said[probe] = got
			}
			return answer, said
		}
		answer, survived := try(1)
		if dropped, _ := at(answer, "coverage", "dropped_packets").(float64); dropped == 0 {
			h.t.Errorf("%s: nothing was dropped off scope: %s", profile, show(answer))
		}
		for i, row := range probeRows(h.t) {
			want := row.in(profile)
			got, tried := survived[row.probe]
			if !tried && want == "!" && (i+turn)%2 == 0 {
				continue
			}
			if !tried {
				answer, alone := try(1000 + i + 1)
				reason := at(answer, "end", "reason")
				got = alone[row.probe]
				switch {
				case reason == "violation":
					got = "!"
					violations++
				case row.probe == "memory" && reason == "memory":
					got = want
				}
			}
			if got != want {
				h.t.Errorf("%s: %s: got %q, want %s", profile, row.probe, got, want)
			}
		}
	}
	if n := network.Strangers(); n != 0 {
		h.t.Errorf("%d packets reached the host outside", n)
	}
	if told := strings.Count(h.auditLog(), `"event":"violation"`); told != violations || told < 50 {
		h.t.Errorf("%d violations, %d in the audit log", violations, told)
	}
}
