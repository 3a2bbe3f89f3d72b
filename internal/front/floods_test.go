package front

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// floods are scans of a size that no agent can read, each with what its scanner prints.
var floods = map[string]struct {
	tool, arguments string
	asked           uint64
	out, told       func(io.Writer) error
	want            string // status, hosts up, open ports, found, cut from
}{
	"nmap of 65536 hosts": {"nmap_scan", `{"targets":["10.0.0.0/16"],"wait_s":0}`, 65536, func(w io.Writer) (err error) {
		fmt.Fprint(w, `<nmaprun scanner="nmap" version="7.95">`)
		for i := range 65536 {
			fmt.Fprintf(w, `<host><status state="up" reason="syn-ack"/><address addr="10.0.%d.%d" addrtype="ipv4"/><ports>`, i>>8, i&255)
			for port := range 4 {
				fmt.Fprintf(w, `<port protocol="tcp" portid="%d"><state state="open" reason="syn-ack" reason_ttl="64"/><service name="ssh" product="OpenSSH" version="9.2p1 %d" method="probed" conf="10"/></port>`, 20+port, i)
			}
			fmt.Fprintln(w, `</ports></host>`)
		}
		_, err = fmt.Fprint(w, `<runstats><finished exit="success"/><hosts up="65536" down="0" total="65536"/></runstats></nmaprun>`)
		return err
	}, nil, "completed 65536 262144 0 [hosts texts]"},
	"masscan of a million lines": {"masscan_scan", `{"targets":["10.0.0.0/16"],"ports":["1-16"],"wait_s":0}`, 65536, func(w io.Writer) (err error) {
		for i := range 1000000 {
			_, err = fmt.Fprintf(w, "Discovered open port %d/tcp on 10.0.%d.%d                                \n", 1+i%16, i>>12&255, i>>4&255)
		}
		return err
	}, func(w io.Writer) error {
		_, err := fmt.Fprint(w, "Starting masscan 1.3.2 (http://bit.ly/14GZzcT) at 2026-11-25 14:46:19 GMT\nScanning 65536 hosts [16 ports/host]\nrate:  0.00-kpps, 100.00% done, waiting 0-secs, found=1000000       \r")
		return err
	}, "completed 16384 262144 0 [hosts ports]"},
	"gobuster of a million lines": {"gobuster_scan", `{"url":"http://10.0.0.1/","wait_s":0}`, 1, func(w io.Writer) (err error) {
		const ruler = "===============================================================\n"
		fmt.Fprint(w, ruler, "Gobuster v3.6\nby\n", ruler, ruler, "Starting\n", ruler)
		for i := range 1000000 {
			fmt.Fprintf(w, "\r\x1b[2K/path%d (Status: 301) [Size: %d] [--> /elsewhere/%d]\n", i, i, i)
		}
		_, err = fmt.Fprint(w, "\n", ruler, "Finished\n", ruler)
		return err
	}, func(w io.Writer) (err error) {
		for range 1000000 {
			_, err = fmt.Fprint(w, "[ERROR] x\n")
		}
		return err
	}, "partial 1 1 1000000 [found texts]"},
}

// A scan of 65536 hosts and outputs of a million lines are read, kept and answered from in bounded memory, and what is
// left out is said. Each in a process of its own, whose memory is nobody else's.
func TestFloodsAreKeptInBoundedMemory(t *testing.T) {
	const most = 200 << 20 // of the 512 MiB that its unit may use
	name := os.Getenv("FRONT_FLOOD")
	if name == "" {
		for name := range floods {
			cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
			cmd.Env = append(os.Environ(), "FRONT_FLOOD="+name)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
			t.Logf("%s: %s", name, out)
		}
		return
	}
	c := floods[name]
	h := newHouse(t)
	h.synced()
	agent := h.agent(1000, nil)
	began := time.Now()
	start(t.Context(), agent, c.tool, json.RawMessage(c.arguments))
	m := h.until(func(m wire.Message) bool { return m.Start != nil }).Start
	h.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq}})
	record := wire.Job{ID: m.Job, UID: 1000, Tool: c.tool, State: wire.Running, Files: []string{"stdout", "stderr"}, Started: time.Now(), Requests: 1000000,
		Verdict: wire.Verdict{Outcome: "allow", Engagement: "lab", Rule: "targets[0]", Addresses: []string{"10.0.0.0/16"}, AddressCount: c.asked}}
	if c.asked == 1 {
		record.Verdict.Addresses = []string{"10.0.0.1/32"}
	}
	files := h.printed(c.out, c.told)
	h.tell(wire.Message{Job: &record}, files...)
	outcome := exited
	outcome.Ended = time.Now()
	record.State, record.Outcome, record.Files = wire.Ended, &outcome, nil
	h.tell(wire.Message{Job: &record})
	for deadline := time.After(2 * time.Minute); ; {
		select {
		case m := <-h.inbox:
			if m.Ack == nil {
				continue
			}
		case <-deadline:
			t.Fatal("the result is not kept")
		}
		break
	}
	answer := h.call(agent, "job_result", map[string]any{"job_id": m.Job})
	took := time.Since(began)
	found := at(answer, "coverage", "requests", "found")
	if found == nil {
		found = 0.0
	}
	got := fmt.Sprintf("%v %v %v %.0f %v", answer["status"], at(answer, "summary", "hosts_up"), at(answer, "summary", "open_ports"), found, at(answer, "coverage", "cut_from"))
	if got != c.want || at(answer, "coverage", "complete") != false {
		t.Errorf("%s, want %s", got, c.want)
	}
	if size := len(encode(answer)); size > 64<<10 {
		t.Errorf("an answer of %d bytes", size)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var peak int64
	if _, err := fmt.Sscan(rest, &peak); err != nil || peak<<10 > most {
		t.Errorf("%d MiB, at most %d: %v", peak>>10, most>>20, err)
	}
	t.Logf("at most %d MiB in memory, %v, a result of %d bytes", peak>>10, took.Round(time.Millisecond), len(h.kept(m.Job).Result))
}

// printed is a scan's outputs, open to be read.
func (h *house) printed(writes ...func(io.Writer) error) (files []*os.File) {
	h.t.Helper()
	dir := h.t.TempDir()
	for i, write := range writes {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(func() { f.Close() })
		out := bufio.NewWriter(f)
		if write != nil {
			if err := write(out); err != nil {
				h.t.Fatal(err)
			}
		}
		if err := out.Flush(); err != nil {
			h.t.Fatal(err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			h.t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}
