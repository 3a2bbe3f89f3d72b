package launcher

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

func TestAnswersAreReadStrictly(t *testing.T) {
	names := []string{"a.lab.internal", "b.lab.internal"}
	for _, c := range []struct{ says, wrote, want string }{
		{"an address for a name", "0 10.0.0.1\n", "map[a.lab.internal:[10.0.0.1]] map[]"},
		{"several addresses", "0 10.0.0.1\n0 10.0.0.2\n1 fd00::1\n", "map[a.lab.internal:[10.0.0.1 10.0.0.2] b.lab.internal:[fd00::1]] map[]"},
		{"a failure", "1 ! not_found\n", "map[] map[b.lab.internal:not_found]"},
		{"nothing", "", "map[] map[]"},
		{"an index that is no name", "2 10.0.0.1\n", "refused"},
		{"an index with a sign", "+0 10.0.0.1\n", "refused"},
		{"an index with a zero before", "00 10.0.0.1\n", "refused"},
		{"no index", "10.0.0.1\n", "refused"},
		{"an octal address", "0 010.0.0.1\n", "refused"},
		{"an address with a zone", "0 fe80::1%eth0\n", "refused"},
		{"an address in other letters", "0 FD00::1\n", "refused"},
		{"a prefix", "0 10.0.0.0/8\n", "refused"},
		{"a name", "0 evil.example\n", "refused"},
		{"an unknown code", "0 ! ignore previous\n", "refused"},
		{"a control character", "0 10.0.0.1\x1b[2J\n", "refused"},
		{"a carriage return", "0 10.0.0.1\r\r\n", "refused"},
		{"a line without end", "0 " + strings.Repeat("1", maxAnswerBytes-3), "refused"},
		{"more than is read", strings.Repeat("0 10.0.0.1\n", maxAnswerBytes/11+1), "refused"},
		{"more addresses than a name may have", manyAnswers(maxAnswers + 1), "refused"},
	} {
		a, err := parseAnswers([]byte(c.wrote), names)
		got := fmt.Sprint(a.addresses, a.failed)
		if err != nil {
			got = "refused"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s (%v)", c.says, got, c.want, err)
		}
	}
}

func manyAnswers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "0 10.0.%d.%d\n", i/256, i%256)
	}
	return b.String()
}

func FuzzParseAnswers(f *testing.F) {
	f.Add([]byte("0 10.0.0.1\n1 ! timeout\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		names := []string{"a", "b"}
		a, err := parseAnswers(b, names)
		if err != nil {
			return
		}
		for name, list := range a.addresses {
			for _, addr := range list {
				if !addr.IsValid() || addr.Zone() != "" || (name != "a" && name != "b") {
					t.Fatalf("%q: %v", name, addr)
				}
			}
		}
	})
}

func TestTheMachinesNameServersAreThoseThatABoxCanReach(t *testing.T) {
	const resolved, loopback, none = "nameserver 10.0.0.53\nnameserver fd00::53\n", "loopback", "none"
	for says, c := range map[string]struct{ conf, resolved, want string }{
		"a server":                               {"nameserver 10.0.0.1\n", "", "[10.0.0.1:53]"},
		"several, and other lines":               {"# x\nsearch lab\nnameserver 10.0.0.1\noptions edns0\nnameserver fd00::1\n", "", "[10.0.0.1:53 [fd00::1]:53]"},
		"a server twice":                         {"nameserver 10.0.0.1\nnameserver 10.0.0.1\n", "", "[10.0.0.1:53]"},
		"the stub of systemd-resolved":           {"nameserver 127.0.0.53\noptions edns0 trust-ad\n", resolved, "[10.0.0.53:53 [fd00::53]:53]"},
		"its stub without rewriting":             {"nameserver 127.0.0.54\n", resolved, "[10.0.0.53:53 [fd00::53]:53]"},
		"a server, and a resolved nobody asks":   {"nameserver 10.0.0.1\n", resolved, "[10.0.0.1:53]"},
		"dnsmasq, and a resolved nobody asks":    {"nameserver 127.0.0.1\n", resolved, loopback},
		"unbound on IPv6":                        {"nameserver ::1\n", "", loopback},
		"mapped loopback":                        {"nameserver ::ffff:127.0.0.1\n", "", loopback},
		"this machine, in other words":           {"nameserver 0.0.0.0\n", "", loopback},
		"dnsmasq, and a server":                  {"nameserver 127.0.0.1\nnameserver 10.0.0.1\n", "", "[10.0.0.1:53]"},
		"the stub, whose resolved asks loopback": {"nameserver 127.0.0.53\n", "nameserver 127.0.0.1\n", loopback},
		"the stub, whose resolved knows nobody":  {"nameserver 127.0.0.53\n", "", loopback},
		"a server on a link":                     {"nameserver fe80::1%eth0\n", "", none},
		"no server":                              {"search lab\n", "", none},
		"what is no address":                     {"nameserver ns.lab.internal\nnameserver\n", "", none},
	} {
		root := fstest.MapFS{"etc/resolv.conf": {Data: []byte(c.conf)}}
		if c.resolved != "" {
			root["run/systemd/resolve/resolv.conf"] = &fstest.MapFile{Data: []byte(c.resolved)}
		}
		found, err := resolvers(root)
		got := fmt.Sprint(found)
		if errors.Is(err, ErrLoopback) {
			got = loopback
		} else if err != nil {
			got = none
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", says, got, c.want)
		}
	}
	if found, err := resolvers(fstest.MapFS{}); err == nil || errors.Is(err, ErrLoopback) {
		t.Errorf("without a file: %v, %v", found, err)
	}
}

// A name that cannot be asked for is refused before anything is kept or launched, with the key
// that mends it.
func TestANameIsRefusedWhereNoBoxReachesANameServer(t *testing.T) {
	h := newHouse(t)
	h.inside = func(l *Launcher) { l.servers = func() ([]netip.AddrPort, error) { return nil, ErrLoopback } }
	h.open()
	handle, _ := h.client()
	const named = `{"targets":["web.lab.internal"],"ports":[22]}`
	want := wire.Refusal{Code: "no_resolver", Field: "targets", Reason: "names cannot be resolved here: " + ErrLoopback.Error(),
		Hint: "give addresses, or ask the operator to set `resolvers` in secmcpd.yaml"}
	if got := h.start(handle, jobA, value(t, named)); got == nil || fmt.Sprint(*got) != fmt.Sprint(want) {
		t.Errorf("%+v", got)
	}
	preview := func(arguments string) *wire.Previewed {
		return h.reply(func(seq uint64) wire.Message {
			return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: handle, Value: value(t, arguments)}}
		}).Preview
	}
	if p := preview(named); p == nil || p.Refused == nil || fmt.Sprint(*p.Refused) != fmt.Sprint(want) {
		t.Errorf("%+v", p)
	}
	if p := preview(`{"targets":["10.77.0.12"],"ports":[22]}`); p == nil || p.Refused != nil {
		t.Errorf("an address: %+v", p)
	}
}

// The resolver's box may send to one port of one server.
func TestTheScopeOfTheResolver(t *testing.T) {
	server := netip.MustParseAddrPort("10.77.0.53:5353")
	port := [][2]uint16{{5353, 5353}}
	want := scope.Target{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.77.0.53/32")}, Ports: &scope.Ports{TCP: port, UDP: port}}
	if diff := cmp.Diff(want, nameServer(server), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
