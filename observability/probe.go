package observability

import (
	"fmt"
	"io/fs"
)

// probeSpace is about what a record takes, in bytes.
const probeSpace = 4 << 10

// Probe does what the next record takes but the record: those that wait are written, what a failed one left
// is taken back, there is space for one with the whole reserve behind it, and the head is written and synced as
// it is. The log does not grow. An error says that [Audit.Append] would fail as well.
func (a *Audit) Probe() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.probe()
	if a.unready = err != nil; a.unready {
		return fmt.Errorf("cannot write the audit log: %w", err)
	}
	return nil
}

func (a *Audit) probe() error {
	if a.file == nil {
		return fs.ErrClosed
	}
	if err := a.flush(); err != nil {
		return err
	}
	if err := a.mend(); err != nil {
		return err
	}
	if err := a.room(a.size+probeSpace, a.reserve); err != nil {
		return err
	}
	return a.head.write(a.seq, a.hash)
}
