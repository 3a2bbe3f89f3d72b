package front

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/internal/wire"
)

func TestPortsThatAVerdictLeavesOut(t *testing.T) {
	for _, c := range []struct {
		says, asked, out, want string
	}{
		{"nothing is left out", "22,80-90", "", "22,80-90"},
		{"one port", "22,80-90", "22", "80-90"},
		{"the middle of a range", "80-90", "85", "80-84,86-90"},
		{"its beginning", "80-90", "70-81", "82-90"},
		{"its end", "80-90", "89-99", "80-88"},
		{"all", "80-90", "1-65535", ""},
		{"the first and the last port", "1-65535", "1", "2-65535"},
		{"another protocol", "53", "udp/53", "53"},
		{"what is no port", "53", "icmp", "53"},
	} {
		var l looked
		if err := l.TCP.UnmarshalText([]byte(c.asked)); err != nil {
			t.Fatal(err)
		}
		v := wire.Verdict{}
		if c.out != "" {
			v.ExcludedPorts, v.ExcludedPortsCount = []string{c.out}, 1
		}
		l.take(v)
		if got, err := l.TCP.MarshalText(); err != nil || string(got) != c.want || l.Unknown {
			t.Errorf("%s: %s, %v", c.says, got, err)
		}
	}
	var l looked
	if l.take(wire.Verdict{ExcludedPorts: []string{"1"}, ExcludedPortsCount: 2}); !l.Unknown {
		t.Error("not all that was left out is on record")
	}
}

// What is kept of what a job looked at is bounded, says when there was more, and is read back.
func TestWhatAJobLookedAtIsKeptShort(t *testing.T) {
	var ports portRanges
	for p := uint16(1); p < 2000; p += 2 {
		ports = append(ports, [2]uint16{p, p})
	}
	var many []netip.Prefix
	for i := range 5000 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32))
	}
	for says, c := range map[string]struct {
		looked
		more bool
		why  string // of port 80, and of an address
	}{
		"few":            {looked{TCP: ports, Through: many[:3]}, false, "port_not_asked"},
		"many addresses": {looked{TCP: ports, Through: many}, true, "port_not_asked"},
		"no record":      {looked{Unknown: true}, false, "ports_unknown"},
		"words":          {looked{Words: "x", Through: many[:1]}, false, "no_ports"},
	} {
		kept := c.kept()
		var back looked
		if err := json.Unmarshal(kept, &back); err != nil || len(kept) > 64<<10 || back.More != c.more {
			t.Errorf("%s: %d bytes, more %v, %v", says, len(kept), back.More, err)
		}
		if got := back.port("tcp", 80); got != c.why {
			t.Errorf("%s: %s", says, got)
		}
		if says == "few" && (back.port("tcp", 81) != "" || back.port("", 81) != "" || back.port("udp", 81) != "port_not_asked" || fmt.Sprint(back) != fmt.Sprint(c.looked)) {
			t.Errorf("%s: %+v", says, back)
		}
	}
}

func TestAnAddressIsFoundAmongPrefixes(t *testing.T) {
	s := setOf([]netip.Prefix{netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/30"), netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("10.0.0.9/32")})
	for text, want := range map[string]bool{"10.0.0.0": true, "10.0.0.3": true, "10.0.0.4": false, "10.0.0.9": true, "10.0.0.10": false, "10.0.2.255": true, "10.0.3.0": false,
		"9.255.255.255": false, "2001:db8::5": true, "2001:db8:0:1::": false, "::": false} {
		if s.has(netip.MustParseAddr(text)) != want {
			t.Errorf("%s: not %v", text, want)
		}
	}
	if setOf(nil).has(netip.MustParseAddr("10.0.0.1")) {
		t.Error("nothing is in no prefix")
	}
}

func TestPrefixesWithoutOthers(t *testing.T) {
	parse := func(list string) (out []netip.Prefix) {
		for _, text := range strings.Fields(list) {
			out = append(out, netip.MustParsePrefix(text))
		}
		return out
	}
	for _, c := range []struct{ says, all, holes, want string }{
		{"none", "10.0.0.0/30", "", "[10.0.0.0/30]"},
		{"one", "10.0.0.0/30", "10.0.0.1/32", "[10.0.0.0/32 10.0.0.2/31]"},
		{"the first", "10.0.0.0/31", "10.0.0.0/32", "[10.0.0.1/32]"},
		{"several, in no order", "10.0.0.0/30 10.0.1.0/32 2001:db8::/127", "2001:db8::1/128 10.0.1.0/32 10.0.0.3/32", "[10.0.0.0/31 10.0.0.2/32 2001:db8::/128]"},
		{"all", "10.0.0.0/31 10.0.0.2/32", "10.0.0.0/30", "[]"},
		{"others", "10.0.0.0/31", "10.0.0.2/31 9.255.255.255/32", "[10.0.0.0/31]"},
	} {
		if got := fmt.Sprint(withoutAll(parse(c.all), parse(c.holes))); got != c.want {
			t.Errorf("%s: %s", c.says, got)
		}
	}
}
