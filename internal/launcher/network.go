package launcher

import (
	"errors"
	"fmt"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// network is how scans leave this machine; nil: by its own network, unfiltered, as Accept allowed.
func (l *Launcher) network() *wire.Network {
	net, _ := l.slots.get()
	if net == nil {
		return nil
	}
	filter, _ := net.Filter()
	return &wire.Network{Mode: string(l.cfg.Mode), Filter: filter, Cannot: l.cfg.Mode.Cannot()}
}

// networkNow is network and what is not as the configuration has it: addresses of slots that others have.
func (l *Launcher) networkNow() *wire.Network {
	out := l.network()
	net, _ := l.slots.get()
	if net == nil {
		return out
	}
	if claims := net.Claims(); len(claims) > 0 {
		c := claims[0]
		out.Cannot = append(out.Cannot, fmt.Sprintf("%d addresses of slots are used by others on the segment, the first by %s (%s): no scan gets them", len(claims), c.By, c.Addr))
	}
	return out
}

// errConnections refuses a scan that leaves too little of the machine's table of connections to others.
var errConnections = errors.New("the scan needs more of this machine's table of connections than there is for one")

// leastPace is the slowest that a scan is made for the sake of others, in packets per second.
const leastPace = 10

// pace is the rate of a scan that sends so many packets, each of which may open a connection that
// the machine keeps for a while. All scans together have half of its table, each of them an equal
// part. One that does not fit in there at once goes no faster than its entries go. rate 0 is any.
func pace(packets int64, rate int, t scope.Tracking, scans int) (int, error) {
	if t.Max == 0 {
		return rate, nil // nothing is tracked
	}
	part := t.Max / 2 / int64(max(scans, 1))
	if packets <= part {
		return rate, nil
	}
	slower := part * int64(time.Second) / int64(max(t.Keeps, time.Second))
	if rate > 0 && int64(rate) <= slower {
		return rate, nil
	}
	if slower < leastPace {
		return 0, fmt.Errorf("%w: %d packets, a part of %d entries", errConnections, packets, part)
	}
	return int(slower), nil
}
