package front

import (
	"context"
	"fmt"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/journal"
)

// spaceEvery is how often the disk is looked at for the log.
const spaceEvery = 15 * time.Second

// crowded refuses new jobs while the disk has less room than is kept free: what a scan finds has to go somewhere, and
// what is there already is kept.
func (f *front) crowded() *wire.Refusal {
	space, err := f.store.Space(f.ctx)
	if err != nil || space.Free >= f.now().Keep.Free {
		return nil // where the disk cannot be asked, keeping the job tells
	}
	return &wire.Refusal{Code: wire.DiskFull, Reason: fmt.Sprintf("%d MiB are free where results are kept, and %d MiB have to be: no new scan is started; what was found before is kept", space.Free>>20, f.now().Keep.Free>>20),
		Hint: "the operator frees space there, or lowers jobs.keep_mib or jobs.free_mib", Retryable: true}
}

// watchSpace tells the log when the disk gets too full for new jobs, and when it no longer is.
func (f *front) watchSpace(ctx context.Context) error {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for full := false; ; {
		full = f.tellSpace(full)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tellSpace says what has changed since the disk was full, or was not, and returns which it is.
func (f *front) tellSpace(was bool) bool {
	r := f.crowded()
	switch {
	case r != nil && !was:
		f.log.Error("no new scan is started", journal.Key, journal.StoreFull, "why", r.Reason)
	case r == nil && was:
		f.log.Info("there is room for new scans again", journal.Key, journal.StoreFreed)
	}
	return r != nil
}
