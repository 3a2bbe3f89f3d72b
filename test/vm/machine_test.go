//go:build systest

package vm

import (
	"context"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestMachine runs the cases in a virtual machine without hardware virtualisation: a real
// kernel with cgroup v2 and all its controllers, an order of magnitude slower than the host.
func TestMachine(t *testing.T) {
	k := kind{name: "machine", perCase: 3 * time.Minute, all: 25 * time.Minute, start: startMachine}
	for _, s := range suites {
		t.Run("systemd-"+s.systemd, func(t *testing.T) { runCases(t, k, prepare(t, s.suite, s.systemd)) })
	}
}

func startMachine(ctx context.Context, im image, test string) (*guest, error) {
	disk := filepath.Join(filepath.Dir(test), "cases.ext4")
	if err := command(ctx, "mke2fs", "-q", "-t", "ext4", "-L", "cases", "-d", test, disk, "256M"); err != nil {
		return nil, err
	}
	kernelImage, err := build(ctx, kernelSuite)
	if err != nil {
		return nil, err
	}
	boot := filepath.Join(kernelImage.dir, "root")
	console, err := consoleFile(test, "machine-"+im.suite)
	if err != nil {
		return nil, err
	}
	defer console.Close() // QEMU opens it by name
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2", "-m", "1536",
		"-nodefaults", "-display", "none", "-no-reboot", "-nic", "none",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-kernel", filepath.Join(boot, "vmlinuz"), "-initrd", filepath.Join(boot, "initrd.img"),
		"-append", "root=LABEL=root rw console=ttyS0 panic=-1 mitigations=off systemd.getty_auto=0 systemd.show_status=1",
		// What a guest writes to its root goes when it does; two guests can share one image.
		"-drive", "if=virtio,format=raw,snapshot=on,file="+filepath.Join(im.dir, "root.ext4"),
		"-drive", "if=virtio,format=raw,readonly=on,file="+disk,
		"-serial", "file:"+console.Name(), "-serial", "stdio")
	bound(cmd, syscall.SIGTERM)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	results, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &guest{process: cmd, results: results, console: console.Name()}, cmd.Start()
}
