package observability

import (
	"os"
	"path/filepath"
)

// Figures are how the audit log is now.
type Figures struct {
	Records    uint64 // since it was begun
	Bytes      int64  // of all its files
	Files      int
	Pending    int  // records that wait until it can be written
	Unwritable bool // the last attempt to write it failed, or the last probe
}

// Figures looks at the log.
func (a *Audit) Figures() Figures {
	a.mu.Lock()
	f := Figures{Records: a.seq, Pending: len(a.pending), Unwritable: a.failed || a.unready || len(a.pending) > 0}
	a.mu.Unlock()
	names, err := auditFiles(a.dir)
	if err != nil {
		return f // whether it can be written is known all the same
	}
	f.Files = len(names)
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(a.dir, name)); err == nil { // else it was put aside meanwhile
			f.Bytes += info.Size()
		}
	}
	return f
}
