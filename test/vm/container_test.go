//go:build systest

package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestContainer runs the cases under systemd in a container: seconds, but with the cgroup
// controllers of the host, which may be none. A minute of all is what cases wait for: graces, watchdogs, the
// idle exit.
func TestContainer(t *testing.T) {
	k := kind{name: "container", perCase: time.Minute, all: 5 * time.Minute, start: startContainer}
	for _, s := range suites {
		t.Run("systemd-"+s.systemd, func(t *testing.T) { runCases(t, k, prepare(t, s.suite, s.systemd)) })
	}
}

func startContainer(ctx context.Context, im image, test string) (*guest, error) {
	pipe := filepath.Join(test, "results")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		return nil, err
	}
	// Read and write: there is no end of file before the guest has opened it.
	results, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	console, err := consoleFile(test, "container-"+im.suite)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	// A box leaves the keyring of the launcher; containers are refused that by default. They are
	// refused BPF, too: one of them stays so, and has the filter of nf_tables alone.
	calls := "@keyring"
	if im.suite != "bookworm" {
		calls += " bpf"
	}
	cmd := exec.CommandContext(ctx, "systemd-nspawn", "--quiet", "--directory="+filepath.Join(im.dir, "root"), "--volatile=overlay",
		fmt.Sprintf("--machine=secmcpd-%s-%d", im.suite, os.Getpid()), "--boot", "--register=no", "--keep-unit",
		"--private-network", "--console=pipe", "--link-journal=no", "--kill-signal=SIGRTMIN+3", "--bind="+test+":/test",
		"--system-call-filter="+calls,
		"systemd.getty_auto=0",
		// systemd 257 refuses the host's cgroup v1 without it; 252 does not know it.
		"SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
	cmd.Stdout, cmd.Stderr = console, console
	bound(cmd, syscall.SIGTERM)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// A guest that ends without a word ends the reading too.
	context.AfterFunc(ctx, func() { results.Close() })
	return &guest{process: cmd, results: results, console: console.Name()}, nil
}
