package wire

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Process is what a room says of its own process. What the machine does not tell is 0.
type Process struct {
	Resident   int64     `cbor:"resident" json:"resident_bytes"`
	CPUMS      int64     `cbor:"cpu_ms" json:"cpu_ms"`
	Goroutines int       `cbor:"goroutines" json:"goroutines"`
	Files      int       `cbor:"files" json:"open_files"`
	Started    time.Time `cbor:"started,omitzero" json:"started,omitzero"`
}

// ThisProcess looks at the process that asks, which started then.
func ThisProcess(started time.Time) Process {
	p := Process{Goroutines: runtime.NumGoroutine(), Started: started}
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) == nil {
		p.CPUMS = (used.Utime.Nano() + used.Stime.Nano()) / 1e6
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := bytes.Fields(b); len(fields) > 1 {
			pages, _ := strconv.ParseInt(string(fields[1]), 10, 64) // the kernel's own number
			p.Resident = pages * int64(os.Getpagesize())
		}
	}
	if d, err := os.Open("/proc/self/fd"); err == nil {
		names, _ := d.Readdirnames(-1)
		d.Close()
		p.Files = max(len(names)-1, 0) // without the one that was looked through
	}
	return p
}
