package sandbox

import (
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func proofArgv(door string) []string { return []string{"proof", door} }

// Each layer that is in force is proved, and what this machine has not is said.
func TestProve(t *testing.T) {
	proofs, gaps, err := Prove(t.Context(), slotUID, proofArgv)
	if err != nil {
		t.Fatal(err)
	}
	var proved, missing []string
	for _, p := range proofs {
		t.Log(p)
		if !p.Held {
			t.Errorf("%s did not hold: %s", p.Layer, p.Found)
		}
		proved = append(proved, p.Layer)
	}
	for _, g := range gaps {
		missing = append(missing, g.Layer)
	}
	for _, layer := range []string{Cgroup, Namespaces, Root, UID, Capabilities, NoNewPrivs, Landlock, Seccomp, Rlimits} {
		if !slices.Contains(proved, layer) || slices.Contains(missing, layer) {
			t.Errorf("%s is not proved", layer)
		}
	}
	for _, layer := range []string{CgroupMemory, CgroupPids, CgroupCPU} {
		if slices.Contains(proved, layer) == slices.Contains(missing, layer) {
			t.Errorf("%s is proved and missing, or neither", layer)
		}
	}
}

// A layer that is believed to be there and is not is found out.
func TestProveFindsHoles(t *testing.T) {
	s := opened(t, Config{Accept: Layers})
	for _, row := range []struct{ layer, found string }{
		{Namespaces, "other processes"},
		{Root, "writing outside /tmp"},
		{UID, "another user"},
		{Capabilities, "capabilities"},
		{NoNewPrivs, "set-uid programs"},
		{Landlock, "listing /"},
		{Seccomp, "a user namespace, a mount"},
		{Rlimits, "core dumps"},
		{CgroupMemory, "more memory than its limit"},
		{CgroupPids, "more tasks than its limit"},
		{CgroupCPU, "more of a processor than its share"},
	} {
		t.Run(row.layer, func(t *testing.T) {
			spec := wish(t, "resolver", probe)
			spec.Hostname, spec.Limits.Memory, spec.Limits.Pids, spec.Limits.OpenFiles = proofHost, proofMemory, proofTasks, 256
			spec.Without = []string{row.layer}
			switch row.layer { // what can only be left out together
			case Namespaces:
				spec.Without = append(spec.Without, Root, Landlock, Scope)
			case Root:
				spec.Without = append(spec.Without, Landlock)
			case CgroupPids:
				spec.Without = append(spec.Without, Rlimits)
			case NoNewPrivs:
				spec.Without = append(spec.Without, Landlock, Seccomp)
			}
			proofs, err := s.prove(t.Context(), spec, proofArgv, func(layer string) bool {
				return layer == row.layer
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(proofs) != 1 || proofs[0].Held || !strings.Contains(proofs[0].Found, row.found) {
				t.Errorf("%+v, want it to find %s", proofs, row.found)
			}
		})
	}
}

// A process that is still there when its box has ended is found out, whatever the cgroup says.
func TestProveFindsWhoStays(t *testing.T) {
	s := opened(t, Config{Accept: Layers})
	onlyCgroup := func(layer string) bool { return layer == Cgroup }
	spec := wish(t, "resolver", probe)
	spec.Hostname, spec.Limits.OpenFiles, spec.UID = proofHost, 256, slotUID+100
	proofs, err := s.prove(t.Context(), spec, proofArgv, onlyCgroup)
	if err != nil || len(proofs) != 1 || !proofs[0].Held || !strings.Contains(proofs[0].Found, "staying beyond its time") {
		t.Errorf("nobody stays: %+v, %v", proofs, err)
	}
	stays := exec.Command("sleep", "100")
	stays.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: spec.UID, Gid: spec.UID}}
	if err := stays.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stays.Process.Kill(); stays.Wait() }()
	proofs, err = s.prove(t.Context(), spec, proofArgv, onlyCgroup)
	if err != nil || len(proofs) != 1 || proofs[0].Held || proofs[0].Found != "outliving the box" {
		t.Errorf("one stays: %+v, %v", proofs, err)
	}
}
