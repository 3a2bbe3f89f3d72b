// Command soak runs many scans through the daemon, of several users at once, and looks at both rooms
// meanwhile: what they hold has to stay flat, every scan has to end as what it was, and no user may be
// served before the others. It makes everything that it scans, and takes it away again. It needs root.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/test/lab"
)

func main() {
	binary := flag.String("bin", "bin/secmcpd", "the program")
	jobs := flag.Int("jobs", 5000, "scans, at least")
	long := flag.Duration("for", 10*time.Minute, "and for so long, at least")
	flag.Parse()
	os.Exit(lab.Enter(func() int {
		if err := run(*binary, *jobs, *long); err != nil {
			fmt.Fprintln(os.Stderr, "\nsoak:", err)
			return 1
		}
		return 0
	}))
}

const (
	firstUID = 65410
	users    = 8 // each may start two scans a second for long
	excluded = "10.77.0.13"
	workers  = 12 // of each user: more than its part of the slots
	// giveUp is when a soak that does not come to its number ends, in times of what it should take.
	giveUp = 3
)

// Bounds of what the rooms may hold. Growth is from the second quarter of the samples to the last: the
// first one fills pools and caches.
const (
	frontMost   = 64 << 20 // bytes
	growthShare = 0.10
	growthBytes = 4 << 20
	growthCount = 16 // goroutines, descriptors: a few more or less are under way
	unfair      = 0.10
)

const engagement = `name: soak
description: everything in the lab but one host
callers: {users: [65410, 65411, 65412, 65413, 65414, 65415, 65416, 65417]}
targets: [10.77.0.0/16]
exclude: [10.77.0.13]
tools: {nmap_scan: {profiles: ["*"]}, fping_scan: {profiles: ["*"]}}
limits: {jobs: 1024}
`

const settings = `scans: {at_once: 64, queued: 1024, packets_per_second: 1000000, memory_mib: 8192, processes: 4096, cpu_percent: 800}
jobs: {keep: 100000}
breakers: {enabled: false}
`

// soak is one run.
type soak struct {
	ctx    context.Context
	daemon *lab.Daemon
	jobs   int

	begun atomic.Int64
	mu    sync.Mutex
	ids   map[string]uint32 // every job that was answered, whose
	told  map[string]string // the end that was told of it
	ends  map[string]int
	of    map[uint32]int // scans that were done, by user
}

func run(binary string, jobs int, long time.Duration) (err error) {
	began := time.Now()
	ctx, done := context.WithTimeout(context.Background(), giveUp*(long+time.Minute))
	defer done()
	network, err := lab.New()
	if err != nil {
		return err
	}
	fping, err := os.ReadFile("packaging/runners.d/fping_scan.yaml")
	if err != nil {
		return errors.Join(err, network.Close())
	}
	daemon, err := lab.Start(binary, lab.Options{NoRestart: true, Settings: settings, Engagements: map[string]string{"soak": engagement}, Runners: map[string]string{"fping_scan": string(fping)}})
	if err != nil {
		return errors.Join(err, network.Close())
	}
	defer func() { err = errors.Join(err, daemon.Stop(), network.Close()) }()
	s := &soak{ctx: ctx, daemon: daemon, jobs: jobs, ids: map[string]uint32{}, told: map[string]string{}, ends: map[string]int{}, of: map[uint32]int{}}
	watcher, err := daemon.Client(ctx, firstUID, nil) // the launcher speaks with the front as long as there is one
	if err != nil {
		return err
	}
	defer watcher.Close()
	before, err := s.look()
	for deadline := time.Now().Add(10 * time.Second); err != nil; before, err = s.look() {
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Println("     s   scans  front: MiB goroutines files   launcher: MiB goroutines files   cgroups links")
	until := began.Add(long)
	var agents sync.WaitGroup
	errs := make(chan error, users*workers)
	for u := range users {
		for range workers {
			agents.Go(func() {
				if err := s.work(uint32(firstUID+u), until); err != nil {
					errs <- err
				}
			})
		}
	}
	var samples []sample
	over := make(chan struct{})
	go func() { agents.Wait(); close(over) }()
	for busy := true; busy; {
		select {
		case <-over:
			busy = false
			continue
		case <-time.After(max(min(long/60, 10*time.Second), time.Second)):
		}
		now, err := s.look()
		if err != nil {
			return fmt.Errorf("%w\nlauncher:\n%s\nfront:\n%s", err, complaints(daemon.Log(lab.Launcher)), complaints(daemon.Log(lab.Front)))
		}
		samples = append(samples, now)
		fmt.Printf("%6.0f %7d  %s   %d %d\n", time.Since(began).Seconds(), s.begun.Load(), now.rooms(), now.cgroups, now.links)
	}
	close(errs)
	var wrong []error
	for err := range errs {
		wrong = append(wrong, err)
	}
	fmt.Printf("%d scans in %.0f s: %s\n", s.begun.Load(), time.Since(began).Seconds(), words(s.ends))
	fmt.Printf("by user: %v\n", slices.Sorted(maps.Values(s.of)))
	wrong = append(wrong, s.fair(), s.kept(), s.audited(), flat(samples), s.nothingLeft(before))
	if err := errors.Join(wrong...); err != nil {
		return fmt.Errorf("%w\nlauncher:\n%s\nfront:\n%s", err, complaints(daemon.Log(lab.Launcher)), complaints(daemon.Log(lab.Front)))
	}
	fmt.Println("flat, fair, and nothing is lost")
	return nil
}

// complaints are the lines of a log that say more than that all goes its way.
func complaints(log string) string {
	var out strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, " level=INFO ") {
			out.WriteString(line)
		}
	}
	return out.String()
}

func words(ends map[string]int) string {
	var out []string
	for _, end := range slices.Sorted(maps.Keys(ends)) {
		out = append(out, fmt.Sprintf("%d %s", ends[end], end))
	}
	return strings.Join(out, ", ")
}

// work is one agent: scan after scan, of all kinds, over a new connection now and then.
func (s *soak) work(uid uint32, until time.Time) error {
	for time.Now().Before(until) || s.begun.Load() < int64(s.jobs) {
		if err := s.ctx.Err(); err != nil {
			return fmt.Errorf("too slow: %d of %d scans: %w", s.begun.Load(), s.jobs, err)
		}
		session, err := s.daemon.Client(s.ctx, uid, nil)
		if err != nil {
			return fmt.Errorf("cannot connect: %w", err)
		}
		for range 20 + rand.IntN(40) {
			if err := s.scan(session, uid); err != nil {
				return errors.Join(err, session.Close())
			}
			if time.Now().After(until) && s.begun.Load() >= int64(s.jobs) {
				break
			}
		}
		session.Close() // how the bridge ends is not looked at
	}
	return nil
}

func (s *soak) scan(session *mcp.ClientSession, uid uint32) error {
	type object = map[string]any
	tool, arguments, cancel := "fping_scan", object{"targets": []string{lab.SSH, lab.Web}, "profile": "quick"}, false
	switch n := rand.IntN(100); {
	case n < 30:
		tool, arguments = "nmap_scan", object{"targets": []string{lab.SSH}, "ports": []any{22}, "skip_discovery": true}
	case n < 40: // of hosts that are not there: it takes its time, and is cancelled
		tool, arguments, cancel = "nmap_scan", object{"targets": []string{"10.77.1.0/28"}, "ports": []any{"1-1000"}, "skip_discovery": true}, true
	case n < 45:
		arguments["targets"] = []string{excluded}
	}
	arguments["wait_s"] = 45
	if cancel {
		arguments["wait_s"] = 0
	}
	answer, err := s.call(session, tool, arguments)
	if err != nil {
		return err
	}
	id, _ := answer["job_id"].(string)
	if code := code(answer); code == "busy" || code == "rate_too_high" { // more than two a second: on purpose
		s.end("too fast", uid)
		time.Sleep(time.Second)
		return nil
	}
	s.begun.Add(1)
	if id == "" {
		return fmt.Errorf("%s: no job: %s", tool, show(answer))
	}
	s.mu.Lock()
	s.ids[id] = uid
	s.mu.Unlock()
	if cancel {
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
		if _, err := s.call(session, "job_cancel", object{"job_id": id}); err != nil {
			return err
		}
	}
	for answer["status"] == "running" || answer["status"] == "queued" {
		if answer, err = s.call(session, "job_status", object{"job_id": id, "wait_s": 45}); err != nil {
			return err
		}
	}
	status, _ := answer["status"].(string)
	s.mu.Lock()
	s.told[id] = status
	s.mu.Unlock()
	s.end(status, uid)
	want := []string{"completed"}
	switch {
	case cancel:
		want = []string{"cancelled", "completed"}
	case arguments["targets"].([]string)[0] == excluded:
		want = []string{"refused"}
	}
	if !slices.Contains(want, status) {
		return fmt.Errorf("%s ended as %q: %s", tool, status, show(answer))
	}
	return nil
}

func (s *soak) end(status string, uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[status]++
	if status == "completed" || status == "cancelled" {
		s.of[uid]++
	}
}

func code(answer map[string]any) string {
	e, _ := answer["error"].(map[string]any)
	c, _ := e["code"].(string)
	return c
}

func show(answer map[string]any) string {
	b, _ := json.Marshal(answer) // it was decoded from such
	return string(b[:min(len(b), 1000)])
}

func (s *soak) call(session *mcp.ClientSession, tool string, arguments map[string]any) (map[string]any, error) {
	ctx, done := context.WithTimeout(s.ctx, 90*time.Second)
	defer done()
	r, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tool, err)
	}
	b, err := json.Marshal(r.StructuredContent)
	if err != nil {
		return nil, err
	}
	var answer map[string]any
	return answer, json.Unmarshal(b, &answer)
}

// fair compares what the users got, who all wanted more.
func (s *soak) fair() error {
	counts := slices.Sorted(maps.Values(s.of))
	if len(counts) < users {
		return fmt.Errorf("%d of %d users were served", len(counts), users)
	}
	// Each has so many under way at once, of which some have ended and others not.
	if least, most := counts[0], counts[len(counts)-1]; float64(most-least) > max(unfair*float64(most), workers/2) {
		return fmt.Errorf("not fair: one user had %d scans, another %d", most, least)
	}
	return nil
}

// kept asks for each job again: it is what it was told to be.
func (s *soak) kept() error {
	sessions := map[uint32]*mcp.ClientSession{}
	var wrong []error
	for id, uid := range s.ids {
		session := sessions[uid]
		if session == nil {
			var err error
			if session, err = s.daemon.Client(s.ctx, uid, nil); err != nil {
				return err
			}
			defer session.Close()
			sessions[uid] = session
		}
		answer, err := s.call(session, "job_status", map[string]any{"job_id": id})
		if s.told[id] == "refused" && code(answer) == "no_such_job" {
			continue // of those that were refused a user's last ones are kept
		}
		if err == nil && answer["status"] != s.told[id] {
			err = fmt.Errorf("job %s was told as %q and is %v", id, s.told[id], answer["status"])
		}
		if err != nil && len(wrong) < 10 {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
}

// audited reads the audit log: whatever was launched is done.
func (s *soak) audited() error {
	if _, err := observability.VerifyAudit(s.daemon.AuditDir()); err != nil {
		return err
	}
	launched := map[string]bool{}
	files, err := os.ReadDir(s.daemon.AuditDir())
	if err != nil {
		return err
	}
	for pass := range 2 {
		for _, f := range files {
			if !strings.HasSuffix(f.Name(), ".jsonl") {
				continue
			}
			b, err := os.Open(s.daemon.AuditDir() + "/" + f.Name())
			if err != nil {
				return err
			}
			lines := bufio.NewScanner(b)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				var r observability.Record
				if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
					return errors.Join(err, b.Close())
				}
				switch {
				case pass == 0 && r.Event == observability.Launched:
					launched[r.Job] = true
				case pass == 1 && r.Event == observability.Done:
					delete(launched, r.Job)
				}
			}
			if err := errors.Join(lines.Err(), b.Close()); err != nil {
				return err
			}
		}
	}
	if len(launched) > 0 {
		return fmt.Errorf("%d jobs were launched and are not done in the audit log", len(launched))
	}
	return nil
}

// sample is what both rooms hold at a moment.
type sample struct {
	figures        map[string]float64 // by name and room
	cgroups, links int
}

var held = []string{"secmcpd_process_resident_bytes", "secmcpd_process_goroutines", "secmcpd_process_open_files"}

func (p sample) rooms() string {
	var out []string
	for _, room := range []string{"front", "launcher"} {
		get := func(i int) float64 { return p.figures[held[i]+`{room="`+room+`"}`] }
		out = append(out, fmt.Sprintf("%.1f %.0f %.0f", get(0)/(1<<20), get(1), get(2)))
	}
	return strings.Join(out, "   ")
}

// look asks the daemon's metrics, and the kernel for what scans leave.
func (s *soak) look() (sample, error) {
	p := sample{figures: map[string]float64{}}
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.daemon.AdminSocket())
	}}}
	r, err := client.Get("http://front/metrics")
	if err != nil {
		return p, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if base, _, _ := strings.Cut(name, "{"); slices.Contains(held, base) {
			if p.figures[name], err = strconv.ParseFloat(value, 64); err != nil {
				return p, err
			}
		}
	}
	if len(p.figures) != 2*len(held) {
		return p, fmt.Errorf("the metrics have %d of %d figures", len(p.figures), 2*len(held))
	}
	if p.cgroups, err = s.daemon.Cgroups(); err != nil {
		return p, err
	}
	links, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", s.daemon.Pid(lab.Launcher)))
	p.links = strings.Count(string(links), ":")
	return p, err
}

// flat says what has grown.
func flat(samples []sample) error {
	quarter := len(samples) / 4
	if quarter < 2 {
		return fmt.Errorf("%d samples are too few to tell", len(samples))
	}
	mean := func(of []sample, name string) (m float64) {
		for _, p := range of {
			m += p.figures[name] / float64(len(of))
		}
		return m
	}
	var wrong []error
	for name := range samples[0].figures {
		was, is := mean(samples[quarter:2*quarter], name), mean(samples[len(samples)-quarter:], name)
		slack := growthShare*was + growthCount
		if strings.HasPrefix(name, held[0]) {
			slack = growthShare*was + growthBytes
		}
		fmt.Printf("%s: %.0f, then %.0f\n", name, was, is)
		if is-was > slack {
			wrong = append(wrong, fmt.Errorf("%s grew from %.0f to %.0f", name, was, is))
		}
		for _, p := range samples {
			if name == held[0]+`{room="front"}` && p.figures[name] > frontMost {
				wrong = append(wrong, fmt.Errorf("the front had %.0f MiB", p.figures[name]/(1<<20)))
				break
			}
		}
	}
	return errors.Join(wrong...)
}

// nothingLeft waits until what scans have is gone.
func (s *soak) nothingLeft(before sample) error {
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(time.Second) {
		now, err := s.look()
		if err != nil {
			return err
		}
		if now.cgroups <= before.cgroups && now.links <= before.links {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("left: %d cgroups (%d before), %d links (%d before)", now.cgroups, before.cgroups, now.links, before.links)
		}
	}
}
