//go:build systest

package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestContainer runs the cases under systemd in a container: minutes, of which most are what cases wait for (graces,
// watchdogs, the idle exit, the start of both rooms again and again), but with the cgroup controllers of the host,
// which may be none. With a load of 10 on two processors forty cases took 5.
func TestContainer(t *testing.T) {
	k := kind{name: "container", perCase: time.Minute, all: 9 * time.Minute, disk: containerDisk, start: startContainer}
	for _, s := range append(slices.Clone(suites), between) {
		im := prepare(t, s.suite, s.systemd)
		t.Run("systemd-"+s.systemd, func(t *testing.T) {
			t.Parallel() // most of a case is waiting
			runCases(t, k, im)
		})
	}
}

// containerDisk is what a guest writes, in memory and over its image; that is shared, and stays as it is.
func containerDisk(t *testing.T, im image) string {
	t.Helper()
	dir := t.TempDir()
	mount := func(source, target, kind, options string) {
		t.Helper()
		if err := unix.Mount(source, target, kind, 0, options); err != nil {
			t.Fatalf("cannot mount %s: %v", target, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(target, 0); err != nil {
				t.Errorf("cannot unmount %s: %v", target, err)
			}
		})
	}
	mount("tmpfs", dir, "tmpfs", "mode=755")
	at := map[string]string{}
	for _, part := range []string{"upper", "work", "root"} {
		at[part] = filepath.Join(dir, part)
		if err := os.Mkdir(at[part], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount("overlay", at["root"], "overlay", fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", filepath.Join(im.dir, "root"), at["upper"], at["work"]))
	return at["root"]
}

func startContainer(ctx context.Context, im image, root, test, console string) (*guest, error) {
	pipe := filepath.Join(test, "results")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// Read and write: there is no end of file before the guest has opened it.
	results, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	out, err := os.Create(console)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	// A box leaves the keyring of the launcher; containers are refused that by default. They are
	// refused BPF, too: one of them stays so, and has the filter of nf_tables alone.
	calls := "@keyring"
	if im.suite != "bookworm" {
		calls += " bpf"
	}
	cmd := exec.CommandContext(ctx, "systemd-nspawn", "--quiet", "--directory="+root,
		fmt.Sprintf("--machine=secmcpd-%s-%d", im.suite, os.Getpid()), "--boot", "--register=no", "--keep-unit",
		"--private-network", "--console=pipe", "--link-journal=no", "--kill-signal=SIGRTMIN+3", "--bind="+test+":/test",
		"--system-call-filter="+calls,
		"systemd.getty_auto=0",
		// systemd 257 refuses the host's cgroup v1 without it; 252 does not know it.
		"SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
	cmd.Stdout, cmd.Stderr = out, out
	bound(cmd, syscall.SIGTERM)
	group, remove, err := ownCgroup("secmcpd-" + filepath.Base(filepath.Dir(test)) + "-" + im.suite)
	if err != nil {
		return nil, err
	}
	defer group.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, remove())
	}
	// A guest that ends without a word ends the reading too.
	context.AfterFunc(ctx, func() { results.Close() })
	return &guest{process: cmd, results: results, after: remove}, nil
}

// ownCgroup makes a cgroup for one container. In that of the test, two of them would have the same
// "payload": the launcher of one would end the boxes of the other. systemd-nspawn makes the same
// cgroup in systemd's own hierarchy where that is another.
func ownCgroup(name string) (group *os.File, remove func() error, err error) {
	out, err := exec.Command("findmnt", "--noheadings", "--first-only", "--output=TARGET", "--types=cgroup2").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot find cgroup v2: %w", err)
	}
	unified := strings.TrimSpace(string(out))
	dirs := []string{filepath.Join(unified, name), filepath.Join(filepath.Dir(unified), "systemd", name)}
	remove = func() (err error) {
		for _, dir := range dirs {
			err = errors.Join(err, empty(dir))
		}
		return err
	}
	if err := errors.Join(remove(), os.Mkdir(dirs[0], 0o755)); err != nil {
		return nil, nil, err
	}
	group, err = os.Open(dirs[0])
	return group, remove, err
}

// empty removes a cgroup with those below it. Whatever still runs there is an error.
func empty(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, d := range slices.Backward(dirs) {
		err = errors.Join(err, os.Remove(d))
	}
	return err
}
