package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	found "github.com/secmcpd/secmcpd/runners/report"
	"github.com/secmcpd/secmcpd/test/lab"
)

// What is searched: as many jobs as it takes for a million open ports, each with as many as a report keeps.
const (
	searchedJobs  = 16
	searchedHosts = 1024
	searchedPorts = 64
	callsEach     = 20 // of a question in a round
)

// questions are what is asked of them, by the name of the figure.
var questions = []struct{ name, arguments string }{
	{"count", `{"state":"open","limit":1}`},
	{"top_ports", `{"state":"open","by":"port"}`},
	{"top_hosts", `{"by":"host"}`},
	{"top_products", `{"service":"http","by":"product"}`},
	{"one_port", `{"port":443,"state":"open"}`},
	{"one_network", `{"host":"10.0.2.0/24","by":"service"}`},
	{"rows", `{"service":"ssh","limit":100}`},
}

// query asks the daemon about a million open ports, in turns with reading through the results as they are kept.
func (b *bench) query() (err error) {
	network, err := lab.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	d, err := lab.Start("bin/secmcpd", lab.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	s, err := store.Open(filepath.Join(d.Dir, "state"))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := fillStore(s); err != nil {
		return err
	}
	pid := d.Pid(lab.Front)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return err
	}
	var all, plain []float64
	each, used := make([][]float64, len(questions)), make([][]float64, len(questions))
	for range turns {
		for i, q := range questions {
			speaker, err := dial(d.Socket(), "result_query", q.arguments)
			if err != nil {
				return err
			}
			began, err := processorOf(pid)
			for range callsEach {
				_, took, failed := speaker.keep(1, 0) // one call
				err = errors.Join(err, failed)
				each[i], all = append(each[i], took...), append(all, took...)
			}
			ended, failed := processorOf(pid)
			if err := errors.Join(err, failed, speaker.conn.Close()); err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
			used[i] = append(used[i], (ended-began)/callsEach)
		}
		began := time.Now()
		if err := readThrough(s); err != nil {
			return err
		}
		plain = append(plain, float64(time.Since(began).Microseconds())/1000)
	}
	for i, q := range questions {
		fmt.Printf("BENCH query_%s %.2f ms median of %d calls of result_query %s; p99 %.2f; %.2f of processor time in the front\n", q.name, median(each[i]), len(each[i]), q.arguments, quantile(each[i], 0.99), median(used[i]))
	}
	fmt.Printf("BENCH query_p50 %.2f ms of all %d calls, over %d open ports of %d jobs\n", median(all), len(all), searchedJobs*searchedHosts*searchedPorts, searchedJobs)
	fmt.Printf("BENCH query_p99 %.2f ms slowest hundredth of them\n", quantile(all, 0.99))
	report("query_plain", plain, "ms", "ports counted by decoding the kept results, in turns with the calls")
	fmt.Printf("BENCH query_over_plain %.4f ratio top_ports against that, medians\n", median(each[1])/median(plain))
	kib, err := field(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:")
	fmt.Printf("BENCH query_peak %.1f MiB resident at most in the front meanwhile\n", float64(kib)/1024)
	return err
}

// processorOf is the processor time of a process until now, in milliseconds.
func processorOf(pid int) (float64, error) {
	total := 0.0
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
		if err != nil {
			return 0, err
		}
		total += ns / 1e6
	}
	return total, err
}

// fillStore keeps the jobs, and says what that costs.
func fillStore(s *store.Store) error {
	var with, without []float64
	for n := range searchedJobs {
		r := searchedReport(n)
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		for _, rows := range []bool{false, true} {
			j := store.Job{ID: jobID(n, rows), Tool: "nmap_scan", Profile: "quick", Engagement: "lab", Created: time.Now(), Arguments: []byte(`{}`)}
			if !rows {
				j.UID = 65533 // whose are not searched
			}
			if err := s.Create(context.Background(), j); err != nil {
				return err
			}
			j.State, j.Ended, j.Result, j.Summary, j.Looked = store.Completed, time.Now(), text, []byte(`{"complete":true}`), []byte(`{"tcp":"1-65535","through":["10.0.0.0/22"]}`)
			if rows {
				j.Rows = rowsOf(r)
			}
			began := time.Now()
			if err := s.Update(context.Background(), j); err != nil {
				return err
			}
			took := float64(time.Since(began).Microseconds()) / 1000
			if rows {
				with = append(with, took)
			} else {
				without = append(without, took)
			}
		}
	}
	report("query_commit", with, "ms", fmt.Sprintf("a result of %d ports kept and indexed, to the disk", searchedHosts*searchedPorts))
	report("query_commit_plain", without, "ms", "the same without the index")
	return nil
}

// jobID is that of a job that is searched, or of one that is not.
func jobID(n int, searched bool) string {
	kind := "n"
	if searched {
		kind = "s"
	}
	return strings.Repeat(kind, 25) + string(rune('a'+n))
}

// searchedReport is what a scan finds that looks at a network again and again: mostly the same.
func searchedReport(n int) found.Report {
	random := rand.New(rand.NewPCG(uint64(n), 7))
	r := found.Report{Scanner: "nmap", Finished: true, ExitOK: true}
	services := []string{"http", "https", "ssh", "domain", "smtp", "microsoft-ds", "mysql", "unknown"}
	for i := range searchedHosts {
		h := found.Host{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Status: "up"}
		for k := range searchedPorts {
			port := found.Port{Port: []int{22, 80, 443}[min(k, 2)], Proto: "tcp", State: "open", Reason: "syn-ack", Service: services[random.IntN(len(services))], Method: "probed"}
			if k > 2 {
				port.Port = 1024*k + random.IntN(1024)
			}
			if k%2 == 0 {
				port.Untrusted = &found.PortText{Product: fmt.Sprintf("server %d", random.IntN(300)), Version: fmt.Sprintf("%d.%d", random.IntN(4), random.IntN(40))}
			}
			h.Ports = append(h.Ports, port)
		}
		r.Hosts = append(r.Hosts, h)
	}
	return r
}

func rowsOf(r found.Report) func(func(store.Row) bool) {
	return func(yield func(store.Row) bool) {
		for _, h := range r.Hosts {
			for _, p := range h.Ports {
				row := store.Row{Host: h.Addr, Port: p.Port, Proto: p.Proto, State: p.State, Service: p.Service}
				if p.Untrusted != nil {
					row.Product, row.Version = p.Untrusted.Product, p.Untrusted.Version
				}
				if !yield(row) {
					return
				}
			}
		}
	}
}

// readThrough counts the open ports in what is kept of each job.
func readThrough(s *store.Store) error {
	counts := map[int]int{}
	for n := range searchedJobs {
		job, err := s.Get(context.Background(), 0, jobID(n, true))
		if err != nil {
			return err
		}
		var r found.Report
		if err := json.Unmarshal(job.Result, &r); err != nil {
			return err
		}
		for _, h := range r.Hosts {
			for _, p := range h.Ports {
				if p.State == "open" {
					counts[p.Port]++
				}
			}
		}
	}
	if counts[443] < searchedJobs*searchedHosts {
		return fmt.Errorf("port 443 was counted %d times", counts[443])
	}
	return nil
}
