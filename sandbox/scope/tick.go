package scope

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// tick is how long a link is quiet at most.
const tick = 300 * time.Millisecond

// Tick puts a small frame into the slot about three times a second, until ctx ends. A scanner whose
// receiver waits for the next packet before it looks whether it is done (masscan does) would wait for
// ever on a link on which nobody else speaks. The frame is of a type that is set aside for experiments
// (IEEE 802, 88b5), so the slot's kernel drops it; it goes past the filter and is not counted. An
// error says that no more can be sent, as when the link is gone.
func (s *Slot) Tick(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot keep %s from being quiet: %w", s.name(), err)
	}
	defer unix.Close(fd)
	// Past the queue is past the filter of what comes in.
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return fmt.Errorf("cannot keep %s from being quiet: %w", s.name(), err)
	}
	const experiment = 0x88b5
	frame := slices.Concat(s.inner, s.outer.Attrs().HardwareAddr, []byte{experiment >> 8, experiment & 0xff}, make([]byte, 46))
	next := time.NewTicker(tick)
	defer next.Stop()
	for {
		if err := sendFrame(fd, s.outer.Attrs().Index, frame); err != nil {
			return fmt.Errorf("cannot keep %s from being quiet: %w", s.name(), err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
	}
}
