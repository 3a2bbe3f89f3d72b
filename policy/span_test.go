package policy

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func spans(text string) []span {
	var out []span
	for part := range strings.FieldsSeq(text) {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			out = append(out, spanOf(netip.MustParsePrefix(part)))
			continue
		}
		out = append(out, span{netip.MustParseAddr(from), netip.MustParseAddr(to)})
	}
	return out
}

func TestSpans(t *testing.T) {
	for _, row := range []struct{ from, without, want string }{
		{"10.0.0.0/24", "", "10.0.0.0/24"},
		{"10.0.0.0/24", "10.0.0.0/24", ""},
		{"10.0.0.0/24", "10.0.0.0/8", ""},
		{"10.0.0.0/30", "10.0.0.1/32", "10.0.0.0/32 10.0.0.2/31"},
		{"10.0.0.0/24", "10.0.0.0/32 10.0.0.255/32", "10.0.0.1-10.0.0.254"},
		{"0.0.0.0/0", "0.0.0.0/1 255.255.255.255/32", "128.0.0.0-255.255.255.254"},
		{"0.0.0.0/0", "::/0", "0.0.0.0/0"},
		{"::/0", "::/1", "8000::/1"},
		{"::/0", "0.0.0.0/0 ffff::/16", "::-fffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"10.0.0.4-10.0.0.11", "10.0.0.0/29 10.0.0.10-10.0.0.20", "10.0.0.8/31"},
	} {
		got := spans(row.from)[0].without(merge(spans(row.without)))
		want := merge(spans(row.want))
		if !slices.Equal(got, want) {
			t.Errorf("%s without %s is %v, want %v", row.from, row.without, got, want)
		}
		var back []span
		for _, p := range prefixesOf(got) {
			back = append(back, spanOf(p))
		}
		if !slices.Equal(merge(back), want) {
			t.Errorf("the prefixes of %v are %v", got, back)
		}
	}
}

func TestPrefixesAreFewest(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1-10.0.0.6":                          "10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32",
		"10.0.0.0/25 10.0.0.128/25":                  "10.0.0.0/24",
		"0.0.0.0-255.255.255.255":                    "0.0.0.0/0",
		"::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": "::/0",
		"10.0.0.0/24 10.0.0.7/32 10.0.1.0/24":        "10.0.0.0/23",
		"255.255.255.254-255.255.255.255":            "255.255.255.254/31",
		"255.255.255.255/32 ::/128":                  "255.255.255.255/32 ::/128",
		"::ffff:10.0.0.0-::ffff:10.0.0.1":            "::ffff:10.0.0.0/127",
	} {
		var got []string
		for _, p := range prefixesOf(merge(spans(text))) {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s is %v, want %s", text, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{
		"10.0.0.1/32": 1, "10.0.0.0/8": 1 << 24, "0.0.0.0/0": 1 << 32, "fd00::/65": 1 << 63,
		"fd00::/64": math.MaxUint64, "fd00::-fd00:0:0:1::4": math.MaxUint64, "::/0": math.MaxUint64, "fd00::/65 fd01::/65": math.MaxUint64,
		"fd00::/65 10.0.0.0/31": 1<<63 + 2, "::fffe-::1:0001": 4, "": 0,
	} {
		if got := sizeOf(merge(spans(text))); got != want {
			t.Errorf("%q has %d addresses, want %d", text, got, want)
		}
	}
}
