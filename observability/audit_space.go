package observability

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// heldAhead is what is asked for beyond the reserve, in bytes, so that not every record asks again.
const heldAhead = 256 << 10

// errUnreserved says that a file system cannot keep space for a file.
var errUnreserved = errors.New("this file system cannot keep space for a file")

// reserveSpace gives a file its space from one place to another, without making it longer: nobody
// else on the file system can take it then. held is how far it has it.
func reserveSpace(f *os.File, from, to int64) (held int64, err error) {
	for {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, from, to-from)
		switch {
		case err == nil:
			return to, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
			return from, errUnreserved
		}
		return from, &fs.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
}

func noSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// hold asks for the whole reserve, or for as much of it as there is. What a log of an earlier launcher
// has kept is its own still, and found by asking for it: that takes nothing from a full disk.
func (a *Audit) hold() {
	a.held = max(a.held, a.size)
	for want := a.reserve + heldAhead; want >= 4096; want /= 2 {
		held, err := reserveSpace(a.file, a.size, a.size+want)
		if err == nil {
			a.held = max(a.held, held)
		}
		if err == nil || !noSpace(err) {
			return
		}
	}
}

// room sees to it that the file has its space up to end, and so many bytes beyond it. What can be
// refused is refused on a full disk at once, and not when the file has used up what it has.
func (a *Audit) room(end, keep int64) error {
	if keep > 0 {
		if err := a.free(maxLine); err != nil {
			return err
		}
	}
	if a.held >= end+keep {
		return nil
	}
	held, err := reserveSpace(a.file, a.size, end+a.reserve+heldAhead)
	if noSpace(err) {
		// Less is enough for this one.
		held, err = reserveSpace(a.file, a.size, end+keep)
	}
	if errors.Is(err, errUnreserved) {
		return a.free(end - a.size + keep)
	}
	a.held = max(a.held, held)
	if a.held >= end+keep {
		return nil
	}
	return err
}

// free refuses where fewer bytes are free than are needed. It is all that can be done where no space
// can be kept: who fills the disk next takes it.
func (a *Audit) free(need int64) error {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(a.file.Fd()), &s); err != nil {
		return &fs.PathError{Op: "statfs", Path: a.dir, Err: err}
	}
	if int64(s.Bavail)*s.Bsize < need {
		return &fs.PathError{Op: "write", Path: a.file.Name(), Err: unix.ENOSPC}
	}
	return nil
}

// nocow is FS_NOCOW_FL of linux/fs.h.
const nocow = 0x00800000

// inPlace asks btrfs to write a new file where it is: copied at each write, what is kept for it would
// not be where it is written to. Elsewhere this is so, and a file that has data stays as it is.
func inPlace(f *os.File) {
	var s unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &s) != nil || s.Type != unix.BTRFS_SUPER_MAGIC {
		return
	}
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|nocow) // best effort: the docs say what btrfs is
	}
}

// AuditState is how the log is at this moment.
type AuditState struct {
	Records  uint64 // of the last one
	Waiting  int    // records that could not be written yet
	Lost     int    // and those beyond what can wait
	Reserved int64  // bytes of space that the log has ahead of its end, at least
	Bytes    int64  // of the current file
}

// State says how the log is.
func (a *Audit) State() AuditState {
	a.mu.Lock()
	defer a.mu.Unlock()
	return AuditState{Records: a.seq, Waiting: len(a.pending), Lost: a.lost, Reserved: a.held - a.size, Bytes: a.size}
}
