package scope

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// bridges are the names that container and virtual machine managers give to theirs. A bridge
// of another name may be the machine's own way to its network.
var bridges = regexp.MustCompile(`^(docker\d+|br-[0-9a-f]{12}|cni\d+|cni-.*|podman\d+|lxcbr\d+|lxdbr\d+|incusbr\d+|virbr\d+|kube-bridge|flannel\..*|cali.*)$`)

// Machine says what this machine's own addresses are, the broadcast addresses of the networks
// that it is on, and the networks of container bridges. Slots are not among them.
func Machine() (own, broadcast, inside []netip.Prefix, err error) {
	links, err := consistent(netlink.LinkList)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("cannot list links: %w", err)
	}
	now, err := addressesNow()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("cannot list addresses: %w", err)
	}
	lent := map[netip.Addr]bool{}
	for _, a := range now {
		lent[a.Addr()] = a.ours
	}
	for _, l := range links {
		name := l.Attrs().Name
		if strings.HasPrefix(name, prefix) {
			continue
		}
		addrs, err := consistent(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, nil, nil, fmt.Errorf("cannot list the addresses of %s: %w", name, err)
		}
		for _, a := range addrs {
			network, ok := toPrefix(a.IPNet)
			addr, ok2 := netip.AddrFromSlice(a.IP)
			if addr = addr.Unmap(); !ok || !ok2 || lent[addr] {
				continue
			}
			own = append(own, netip.PrefixFrom(addr, addr.BitLen()))
			if bridges.MatchString(name) {
				inside = append(inside, network)
			}
			// Both ends of an IPv4 network: the lower one is an older form of broadcast. A
			// network of two addresses has neither.
			if addr.Is4() && network.Bits() < 31 && l.Attrs().Flags&net.FlagLoopback == 0 {
				last := after(network).Prev()
				if !last.IsValid() {
					last = netip.AddrFrom4([4]byte{255, 255, 255, 255})
				}
				broadcast = append(broadcast, netip.PrefixFrom(network.Addr(), 32), netip.PrefixFrom(last, 32))
			}
		}
	}
	return own, broadcast, inside, nil
}

// consistent asks the kernel for a list until nothing has changed while it was told: links of slots come
// and go.
func consistent[T any](list func() ([]T, error)) (all []T, err error) {
	for range 100 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// Watch calls changed whenever this machine's addresses have changed, until ctx ends. Several
// changes within a short time are one.
func Watch(ctx context.Context, changed func()) error {
	for {
		err := watchOnce(ctx, changed)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		changed() // events may have been lost
	}
}

// settle is how long a burst of changes is awaited.
const settle = 200 * time.Millisecond

func watchOnce(ctx context.Context, changed func()) error {
	updates, done, lost := make(chan netlink.AddrUpdate, 64), make(chan struct{}), make(chan struct{}, 1)
	err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{ErrorCallback: func(error) {
		select {
		case lost <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		return fmt.Errorf("cannot follow addresses: %w", err)
	}
	defer func() {
		close(done)
		for range updates { // closed by the subscription when it has ended
		}
	}()
	var settled <-chan time.Time // nil: nothing has changed
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-updates:
			if !ok {
				return nil
			}
			settled = time.After(settle)
		case <-settled:
			settled = nil
			changed()
		case <-lost:
			return nil
		}
	}
}
