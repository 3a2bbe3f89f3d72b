package policy

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"
	"slices"
)

// span is the addresses from the first to the last, both of one family and both included.
// Arithmetic is done on spans, since the difference of two spans is at most two, while that of
// two prefixes is up to 128; only what leaves the package is made into prefixes again.
type span struct{ from, to netip.Addr }

func spanOf(p netip.Prefix) span {
	from := p.Masked().Addr()
	return span{from, lastOf(from, p.Bits())}
}

// lastOf is the last address of the network of that length which begins at from.
func lastOf(from netip.Addr, length int) netip.Addr {
	b := from.AsSlice()
	for i := range b {
		switch host := 8*(i+1) - length; {
		case host >= 8:
			b[i] = 0xff
		case host > 0:
			b[i] |= 1<<host - 1
		}
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// isIn says that all of s lies in o. IPv4 sorts before all of IPv6, so families never mix.
func (s span) isIn(o span) bool { return !s.from.Less(o.from) && !o.to.Less(s.to) }

func (s span) overlaps(o span) bool { return !s.to.Less(o.from) && !o.to.Less(s.from) }

// within is the part of s that lies in o; s and o overlap.
func (s span) within(o span) span {
	if s.from.Less(o.from) {
		s.from = o.from
	}
	if o.to.Less(s.to) {
		s.to = o.to
	}
	return s
}

// size is the number of addresses, at most 2^64-1: more is not needed to be too many.
func (s span) size() uint64 {
	fromHigh, fromLow := halves(s.from)
	toHigh, toLow := halves(s.to)
	low, borrow := bits.Sub64(toLow, fromLow, 0)
	high, _ := bits.Sub64(toHigh, fromHigh, borrow)
	if high != 0 || low == math.MaxUint64 {
		return math.MaxUint64
	}
	return low + 1
}

func halves(a netip.Addr) (high, low uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

func sizeOf(spans []span) uint64 {
	var sum, carry uint64
	for _, s := range spans {
		if sum, carry = bits.Add64(sum, s.size(), 0); carry != 0 {
			return math.MaxUint64
		}
	}
	return sum
}

// merge sorts spans and joins those that overlap or touch.
func merge(spans []span) []span {
	sorted := slices.Clone(spans)
	slices.SortFunc(sorted, func(a, b span) int {
		return cmp.Or(a.from.Compare(b.from), b.to.Compare(a.to))
	})
	var joined []span
	for _, s := range sorted {
		last := len(joined) - 1
		if last < 0 || joined[last].to.Less(s.from) && joined[last].to.Next() != s.from {
			joined = append(joined, s)
			continue
		}
		if joined[last].to.Less(s.to) {
			joined[last].to = s.to
		}
	}
	return joined
}

// without is what is left of s outside of holes, which are sorted and apart, as merge makes them.
func (s span) without(holes []span) []span {
	var left []span
	for _, h := range holes {
		if !h.overlaps(s) {
			continue
		}
		if s.from.Less(h.from) {
			left = append(left, span{s.from, h.from.Prev()})
		}
		if !h.to.Less(s.to) {
			return left
		}
		s.from = h.to.Next()
	}
	return append(left, s)
}

// prefixesOf is the shortest list of prefixes that cover exactly the spans, which are sorted
// and apart.
func prefixesOf(spans []span) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range spans {
		for {
			p := widest(s)
			out = append(out, p)
			last := lastOf(p.Addr(), p.Bits())
			if !last.Less(s.to) {
				break
			}
			s.from = last.Next()
		}
	}
	return out
}

// widest is the largest prefix that begins where s does and lies in s.
func widest(s span) netip.Prefix {
	length := s.from.BitLen()
	for length > 0 {
		p := netip.PrefixFrom(s.from, length-1)
		if p.Masked() != p || s.to.Less(lastOf(s.from, length-1)) {
			break
		}
		length--
	}
	return netip.PrefixFrom(s.from, length)
}
