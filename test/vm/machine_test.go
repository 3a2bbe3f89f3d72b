//go:build systest

package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestMachine runs the cases in a virtual machine without hardware virtualisation: a real
// kernel with cgroup v2 and all its controllers, an order of magnitude slower than the host.
func TestMachine(t *testing.T) {
	k := kind{name: "machine", perCase: 3 * time.Minute, all: 25 * time.Minute, disk: machineDisk, start: startMachine}
	for _, s := range suites {
		t.Run("systemd-"+s.systemd, func(t *testing.T) { runCases(t, k, prepare(t, s.suite, s.systemd)) })
	}
}

// machineDisk is what a guest writes, over its image; that is shared, and stays as it is.
func machineDisk(t *testing.T, im image) string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "root.qcow2")
	if err := command(t.Context(), "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", filepath.Join(im.dir, "root.ext4"), disk); err != nil {
		t.Fatal(err)
	}
	return disk
}

func startMachine(ctx context.Context, _ image, root, test, console string) (*guest, error) {
	disk := test + ".ext4"
	if _, err := os.Stat(disk); err != nil {
		if err := command(ctx, "mke2fs", "-q", "-t", "ext4", "-L", "cases", "-d", test, disk, "256M"); err != nil {
			return nil, err
		}
	}
	kernelImage, err := build(ctx, kernelSuite)
	if err != nil {
		return nil, err
	}
	boot := filepath.Join(kernelImage.dir, "root")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2", "-m", "1536",
		"-nodefaults", "-display", "none", "-no-reboot", "-nic", "none",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-kernel", filepath.Join(boot, "vmlinuz"), "-initrd", filepath.Join(boot, "initrd.img"),
		"-append", "root=LABEL=root rw console=ttyS0 panic=-1 mitigations=off systemd.getty_auto=0 systemd.show_status=1",
		// Nothing of it is to outlive this machine's memory.
		"-drive", "if=virtio,format=qcow2,cache=unsafe,file="+root,
		"-drive", "if=virtio,format=raw,readonly=on,file="+disk,
		"-serial", "file:"+console, "-serial", "stdio")
	bound(cmd, syscall.SIGTERM)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	results, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &guest{process: cmd, results: results}, cmd.Start()
}
