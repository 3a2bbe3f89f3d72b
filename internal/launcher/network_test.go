package launcher

import (
	"errors"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/sandbox/scope"
)

func TestAScanLeavesConnectionsToOthers(t *testing.T) {
	tracking := scope.Tracking{Max: 262144, Keeps: 2 * time.Minute}
	for _, c := range []struct {
		says    string
		packets int64
		rate    int
		of      scope.Tracking
		scans   int
		want    int
		err     error
	}{
		{"what is not tracked has its rate", 1 << 40, 100000, scope.Tracking{}, 4, 100000, nil},
		{"a scan that fits has its rate", 32768, 10000, tracking, 4, 10000, nil},
		{"one packet more is slowed to what goes in the same time", 32769, 10000, tracking, 4, 273, nil},
		{"one that is slower already keeps its rate", 1 << 30, 273, tracking, 4, 273, nil},
		{"one that is a little faster does not", 1 << 30, 274, tracking, 4, 273, nil},
		{"any rate is too fast for one that does not fit", 1 << 30, 0, tracking, 4, 273, nil},
		{"any rate will do for one that fits", 100, 0, tracking, 4, 0, nil},
		{"a scan that is alone has half of the table", 131072, 5000, tracking, 1, 5000, nil},
		{"and no more", 131073, 5000, tracking, 1, 1092, nil},
		{"a table that forgets soon takes more", 1 << 30, 50000, scope.Tracking{Max: 262144, Keeps: 10 * time.Second}, 4, 3276, nil},
		{"a small table slows", 100000, 1000, scope.Tracking{Max: 9600, Keeps: time.Minute}, 4, 20, nil},
		{"a table that is too small refuses", 100000, 1000, scope.Tracking{Max: 4096, Keeps: time.Minute}, 4, 0, errConnections},
		{"but not a scan that fits", 512, 1000, scope.Tracking{Max: 4096, Keeps: time.Minute}, 4, 1000, nil},
		{"nor one that is slow enough", 100000, 8, scope.Tracking{Max: 4096, Keeps: time.Minute}, 4, 8, nil},
		{"how long entries are kept may be unknown", 1 << 30, 100000, scope.Tracking{Max: 8000}, 4, 1000, nil},
	} {
		got, err := pace(c.packets, c.rate, c.of, c.scans)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %d, %v; want %d, %v", c.says, got, err, c.want, c.err)
		}
	}
}
