package strict

import (
	"strings"
	"testing"
	"time"
)

// A file of the largest size costs seconds at the very most, however it is made: the daemon
// reads its files again while it serves.
func TestTheWorstFileIsRead(t *testing.T) {
	for _, unit := range []string{"[", "- ", "{a: ", "? ", "a: &x ", "[a,", "'", "\"\\n", "#\n", "a:\n", "- a\n", "|\n", "\n", "!a ", "--- a\n", "a: b\n", "*a ", ": "} {
		begin := time.Now()
		var into house
		_, faults := Decode("f", []byte(strings.Repeat(unit, MaxSize/len(unit))), &into)
		took := time.Since(begin)
		t.Logf("%q: %v, %d faults", unit, took, len(faults))
		if took > 20*time.Second {
			t.Errorf("%q repeated took %v", unit, took)
		}
	}
}
