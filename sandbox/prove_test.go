package sandbox

import (
	"errors"
	"fmt"
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

// What ended of something else than its layer is no proof, and no hole either.
func TestWhatEndsOtherwiseProvesNothing(t *testing.T) {
	all := func(string) bool { return true }
	bare := func(layer string) bool { return !strings.HasPrefix(layer, Cgroup) }
	for _, row := range []struct {
		door, ended string
		r           Result
		said        string
		inForce     func(string) bool
		want        string
	}{
		{"a mount", "is killed for it", Result{Reason: Violation}, "", all, attemptHeld},
		{"a mount", "comes back", Result{Reason: Exited}, "open\n", all, attemptOpen},
		{"a mount", "is out of time", Result{Reason: Timeout}, "", all, attemptUnproved},
		{"a mount", "gets no thread", Result{Reason: Exited, Code: 2}, "", all, attemptUnproved},
		{"a mount", "gets no thread, from C", Result{Reason: Signalled, Signal: 6}, "", all, attemptUnproved},
		{doorMemory, "is killed for it", Result{Reason: Memory}, "", all, attemptHeld},
		{doorMemory, "gets it", Result{Reason: Exited}, "open\n", all, attemptOpen},
		{doorMemory, "is refused by something else", Result{Reason: Exited}, "", all, attemptOpen},
		{doorMemory, "is out of time", Result{Reason: Timeout}, "", all, attemptUnproved},
		{doorMemory, "gets no thread", Result{Reason: Exited, Code: 2}, "", all, attemptUnproved},
		{doorMemory, "is refused", Result{Reason: Exited}, "", bare, attemptHeld},
		{doorMemory, "is out of time", Result{Reason: CPU}, "", bare, attemptUnproved},
		{doorTasks, "is refused", Result{Reason: Pids, Code: 2}, "", all, attemptHeld},
		{doorTasks, "is refused, and says much of it", Result{Reason: Output, Code: 2}, "", bare, attemptHeld},
		{doorTasks, "gets them", Result{Reason: Exited}, "open\n", all, attemptOpen},
		{doorTasks, "is out of time", Result{Reason: Timeout}, "", all, attemptUnproved},
		{doorShare, "is throttled", Result{Reason: Exited, Usage: Usage{Throttled: 1}}, "open\n", all, attemptHeld},
		{doorShare, "is not throttled", Result{Reason: Exited}, "open\n", all, attemptOpen},
		{doorShare, "gets no thread", Result{Reason: Exited, Code: 2}, "", all, attemptUnproved},
		{doorStay, "is ended", Result{Reason: Timeout}, "", all, attemptHeld},
		{doorStay, "ends before", Result{Reason: Exited, Code: 2}, "", all, attemptUnproved},
	} {
		if got := judge(row.door, row.r, row.said, row.inForce); got.outcome != row.want {
			t.Errorf("%s: the program %s: %s, want %s", row.door, row.ended, got.outcome, row.want)
		}
	}
	c := claims{[]claim{{Seccomp, "a mount", attemptHeld}, {Seccomp, "bpf", attemptUnproved}}}
	if p := c.proofs(all); len(p) != 1 || p[0] != (Proof{Seccomp, false, "a mount", "bpf"}) {
		t.Errorf("one held, one proved nothing: %+v", p)
	}
	c.add(Seccomp, "keys", attemptOpen)
	if p := c.proofs(all); len(p) != 1 || p[0] != (Proof{Layer: Seccomp, Found: "keys"}) {
		t.Errorf("one was let through: %+v", p)
	}
}

// Doctors that are asked at once would take each other's tasks, which the kernel counts by uid: one waits for another.
func TestProofsAtOnce(t *testing.T) {
	ends := make(chan error)
	for range 3 {
		go func() {
			proofs, _, err := Prove(t.Context(), slotUID, proofArgv)
			for _, p := range proofs {
				if !p.Held {
					err = errors.Join(err, fmt.Errorf("%+v", p))
				}
			}
			ends <- err
		}()
	}
	for range 3 {
		if err := <-ends; err != nil {
			t.Error(err)
		}
	}
}
