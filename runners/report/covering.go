package report

import (
	"net/netip"
	"slices"
)

// covering is the least list of prefixes that holds exactly the given addresses, in order.
func covering(all []netip.Addr) []netip.Prefix {
	slices.SortFunc(all, netip.Addr.Compare)
	out := []netip.Prefix{}
	for _, a := range all {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
		for len(out) > 1 {
			whole, joined := join(out[len(out)-2], out[len(out)-1])
			if !joined {
				break
			}
			out = append(out[:len(out)-2], whole)
		}
	}
	return out
}

// join makes two halves one network.
func join(low, high netip.Prefix) (netip.Prefix, bool) {
	if low.Bits() != high.Bits() || low.Bits() == 0 || low.Addr().BitLen() != high.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	whole := netip.PrefixFrom(low.Addr(), low.Bits()-1).Masked()
	return whole, whole.Addr() == low.Addr() && whole.Contains(high.Addr())
}
