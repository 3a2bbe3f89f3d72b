package launcher

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ownProgram is the copy of this program in the launcher's state directory, where there is one.
const ownProgram = "program"

// program opens this program as a box can have it. One that was replaced has no name in the file system any more, and
// what has none cannot be mounted: a copy can. One caller at a time.
func (l *Launcher) program() (*os.File, error) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("cannot open this program: %w", err)
	}
	var is unix.Stat_t
	if err := unix.Fstat(int(exe.Fd()), &is); err != nil || is.Nlink > 0 {
		return exe, err
	}
	defer exe.Close()
	path := filepath.Join(l.cfg.StateDir, ownProgram)
	if !l.copied {
		if err := copyProgram(exe, path); err != nil {
			return nil, fmt.Errorf("cannot copy this program, which was replaced: %w", err)
		}
		l.copied = true
	}
	return os.Open(path)
}

func copyProgram(exe *os.File, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, exe)
	return errors.Join(err, out.Chmod(0o755), out.Close()) // whatever the umask is
}

// forgetProgram removes the copy that a launcher before this one has made.
func (l *Launcher) forgetProgram() error {
	if err := os.Remove(filepath.Join(l.cfg.StateDir, ownProgram)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the program of an earlier launcher: %w", err)
	}
	return nil
}
