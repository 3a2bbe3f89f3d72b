package sandbox

import (
	"runtime"
	"testing"
)

// inThread runs do on a thread of its own, which ends with it: what do changes
// there (a network namespace) nobody else sees.
func inThread(t testing.TB, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
