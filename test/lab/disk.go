package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// brittle puts a file system of its own, ext4, under one of the daemon's directories, that breaks when
// it is told to.
func (d *Daemon) brittle(name string, owner int) error {
	image, dir := filepath.Join(d.Dir, "disk"), filepath.Join(d.Dir, name)
	for _, words := range [][]string{{"truncate", "-s", "400M", image}, {"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if err := command(words...); err != nil {
			return err
		}
	}
	d.breaks = dir
	d.mounted = append(d.mounted, dir)
	return errors.Join(os.Remove(filepath.Join(dir, "lost+found")), os.Chown(dir, owner, owner))
}

func command(words ...string) error {
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", words, err, out)
	}
	return nil
}

// Break makes the disk that Options.Breaks names read-only under whoever has it open, as the kernel does
// after an error of the hardware.
func (d *Daemon) Break() error {
	if err := command("mount", "-o", "remount,abort", d.breaks); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(d.breaks, "probe"), 0o700); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("the disk is not broken: %w", err)
	}
	return nil
}

// Mend ends the role that uses the disk, has the disk in order again, and starts the role anew.
func (d *Daemon) Mend(r Role) error {
	d.mu.Lock()
	was := d.restart
	d.restart = false
	d.mu.Unlock()
	if err := d.Kill9(r); err != nil {
		return err
	}
	image := filepath.Join(d.Dir, "disk")
	// Whoever has died may have had it in a namespace of its own for a moment longer.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Unmount(d.breaks, 0)
		if errors.Is(err, unix.EINVAL) { // it is no mount any more
			used, lost := exec.Command("losetup", "--associated", image).Output()
			if err = lost; err == nil && len(used) == 0 {
				break
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot take the broken disk away: %w", err)
		}
	}
	// 1: its errors are mended (e2fsck(8)).
	var exit *exec.ExitError
	if err := exec.Command("fsck.ext4", "-p", image).Run(); err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		return fmt.Errorf("cannot mend the disk: %w", err)
	}
	if err := command("mount", "-o", "loop", image, d.breaks); err != nil {
		return err
	}
	d.mu.Lock()
	d.restart = was
	d.mu.Unlock()
	return d.start(r)
}
