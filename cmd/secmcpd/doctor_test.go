package main

import (
	"errors"
	"testing"

	"github.com/secmcpd/secmcpd/sandbox"
)

func TestWhatIsAcceptedIsNoFault(t *testing.T) {
	lacks := fault("no controller cpu", "scans are refused", "").missing(sandbox.CgroupCPU, sandbox.CgroupPids)
	for _, row := range []struct {
		why    string
		found  finding
		accept []string
		status string
		exit   int
	}{
		{"nothing is accepted", lacks, nil, statusFault, exitFailed},
		{"one of two layers is accepted", lacks, []string{sandbox.CgroupCPU}, statusFault, exitFailed},
		{"both layers are accepted", lacks, []string{sandbox.CgroupPids, sandbox.CgroupCPU}, statusAccepted, exitOK},
		{"a fault that is no layer's", fault("no scanner", "", ""), sandbox.Layers, statusFault, exitFailed},
		{"a warning", warning("no group", "", ""), sandbox.Layers, statusWarning, exitWarned},
		{"all is well", ok("nf_tables"), sandbox.Layers, statusOK, exitOK},
	} {
		got := row.found.accepted(row.accept)
		var exit exitError
		errors.As(worst([]finding{got}), &exit)
		if got.Status != row.status || exit.code != row.exit {
			t.Errorf("%s: %s, exit status %d, want %s, %d", row.why, got.Status, exit.code, row.status, row.exit)
		}
	}
}
