package launcher

import (
	"fmt"
	"strings"
	"testing"
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
