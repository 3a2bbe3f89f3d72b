package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/test/lab"
)

// services compares a service scan through all of secmcpd, from an agent's call to its answer, with
// the same scan by nmap alone.
func (b *bench) services() (err error) {
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
	agent, err := d.Client(context.Background(), 0, nil)
	if err != nil {
		return err
	}
	defer agent.Close()
	arguments := map[string]any{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 80}, "service_detection": true, "wait_s": 45}
	var bare, through []float64
	for range turns {
		began := time.Now()
		if out, err := exec.Command("nmap", "-n", "-sT", "-sV", "--version-intensity", "7", "-p", "22,80", lab.SSHAndWeb).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		bare = append(bare, float64(time.Since(began).Microseconds())/1000)
		began = time.Now()
		answer, err := agent.CallTool(context.Background(), &mcp.CallToolParams{Name: "nmap_scan", Arguments: arguments})
		if err != nil {
			return err
		}
		through = append(through, float64(time.Since(began).Microseconds())/1000)
		text, err := json.Marshal(answer.StructuredContent)
		if err != nil {
			return err
		}
		var result struct{ Status string }
		if err := json.Unmarshal(text, &result); err != nil || result.Status != "completed" {
			return fmt.Errorf("the scan ended: %s", text)
		}
	}
	report("nmap_services_bare", bare, "ms", "nmap -sV of two ports of a lab host")
	report("nmap_services", through, "ms", "the same by an agent's call")
	fmt.Printf("BENCH nmap_services_overhead %.0f ms the second minus the first, medians\n", median(through)-median(bare))
	ratio("nmap_services_ratio", through, bare, "the second against the first")
	return nil
}
