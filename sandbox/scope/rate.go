package scope

import (
	"fmt"
	"math"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A slot's packets are counted against its rate twice. Inside, a queue makes senders wait, so that
// nothing is lost (a scanner that believes to have sent reports what was dropped as silence). The
// filter outside drops what gets around the queue, and is a little more generous, so that what the
// queue lets out in one go passes.

// eachPacket is what the queue takes any packet for, in bytes: it limits bytes, and is told of an
// overhead beside which the size of a packet does not matter (2 % at most).
const (
	overhead   = 65000
	eachPacket = overhead + 60
)

// queued bounds what waits, in bytes as they are. Senders wait before: their sockets' buffers are
// smaller.
const queued = 8 << 20

// burst is how many packets may leave at once: a fiftieth of a second's.
func burst(rate int) int { return min(max(rate/50, 8), 20000) }

// policed is what the filter admits of a rate.
func policed(rate int) limit {
	if rate <= 0 {
		return limit{}
	}
	return limit{perSecond: uint64(rate + rate/10 + 1), burst: uint64(2*burst(rate) + rate/10 + 16)}
}

// Budget is a rate that slots have together.
type Budget struct {
	Name  string // slots that give the same one share it
	Rate  int    // packets a second; 0: no bound
	Slots int    // how many share it at once, at most
}

// policed is what the filter admits of a budget: as much at once as it admits of all its slots,
// whose rates together are no more than the budget. Each slot's queue lets out a few packets in
// one go, however slow it is.
func (b Budget) policed() limit {
	l := policed(b.Rate)
	if l != (limit{}) {
		l.burst += uint64(max(b.Slots-1, 0) * (2*burst(0) + 16))
	}
	return l
}

// unlimited is more than a link carries.
const unlimited = 1 << 26

// queue is the one on the box's side of a link. It is made with the link, since the kernel takes a
// third of a millisecond to put one in the place of another, and changed for each job by a socket
// that was opened in the link's namespace then.
type queue struct {
	socket *nl.NetlinkSocket
	link   int // inside
}

// newQueue fails with ENOENT on a kernel without it: the filter drops what is too much then, and
// counts it.
func newQueue(ns *os.File) (_ *queue, err error) {
	q := &queue{}
	err = inside(ns, func() (err error) {
		if q.link, err = linkInside(); err == nil {
			q.socket, err = nl.Subscribe(unix.NETLINK_ROUTE)
		}
		return err
	})
	if err == nil {
		err = q.limit(0)
	}
	if err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

func (q *queue) close() {
	if q != nil && q.socket != nil {
		q.socket.Close()
	}
}

// limit makes senders wait for so many packets a second; 0: for none.
func (q *queue) limit(rate int) error {
	if q == nil {
		return nil
	}
	if rate <= 0 {
		rate = unlimited
	}
	bytes := uint64(rate) * eachPacket
	parameters := nl.TcTbfQopt{Limit: queued}
	parameters.Rate = nl.TcRateSpec{Linklayer: nl.LINKLAYER_ETHERNET, Overhead: overhead, Rate: uint32(min(bytes, math.MaxUint32))}
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_TBF_PARMS, parameters.Serialize())
	options.AddRtAttr(nl.TCA_TBF_RATE64, nl.Uint64Attr(bytes))
	options.AddRtAttr(nl.TCA_TBF_BURST, nl.Uint32Attr(uint32(burst(rate)*eachPacket-overhead)))
	request := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: q.socket}}
	request.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(q.link), Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT})
	request.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("tbf")))
	request.AddData(options)
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("cannot set a rate: %w", err)
	}
	return nil
}
