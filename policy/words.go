package policy

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// The scalars of an engagement file, each of which reads itself.

// ruleText is a network, or an address for the network that is it alone.
type ruleText struct{ prefix netip.Prefix }

func (r *ruleText) ReadScalar(text string) (f *strict.Fault) {
	r.prefix, f = readNetwork(text)
	return f
}

func readNetwork(text string) (netip.Prefix, *strict.Fault) {
	if !strings.Contains(text, "/") {
		addr, f := strict.ParseAddr(text)
		if f != nil {
			return netip.Prefix{}, orNetwork(f)
		}
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, f := strict.ParsePrefix(text)
	if f != nil {
		return netip.Prefix{}, orNetwork(f)
	}
	return prefix, nil
}

// orNetwork says of a text that is neither what either would be; faults that know what was
// meant stay.
func orNetwork(f *strict.Fault) *strict.Fault {
	if f.Hint == "" {
		f.Allowed = "a network such as 192.168.1.0/24 or fd00::/64, or an address"
	}
	return f
}

// ReadScalar reads a target that is a network or an address.
func (t *targetFile) ReadScalar(text string) (f *strict.Fault) {
	t.Network.prefix, f = readNetwork(text)
	if f != nil && f.Hint == "" && isHostName(strings.TrimPrefix(text, ".")) {
		f.Hint = "write a name as {name: " + text + ", within: [192.168.1.0/24]}"
	}
	return f
}

// ReadScalar reads an exclusion of all ports.
func (e *excludeFile) ReadScalar(text string) (f *strict.Fault) {
	e.Network.prefix, f = readNetwork(text)
	return f
}

// hostName is a name, or with a leading dot all names below one.
type hostName string

const hostForm = "a name such as web.lab.internal, or .lab.internal for all below it"

func (n *hostName) ReadScalar(text string) *strict.Fault {
	*n = hostName(text)
	if isHostName(strings.TrimPrefix(text, ".")) {
		return nil
	}
	f := &strict.Fault{Allowed: hostForm}
	if lower := strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(text, "*"), ".")); lower != text && isHostName(strings.TrimPrefix(lower, ".")) {
		f.Hint = "write " + lower
	}
	return f
}

var (
	label       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	numberLabel = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`)
)

// isHostName knows canonical names: small letters, no final dot, and nothing that some program
// reads as an address (127.1, 0x7f.1 and 2130706433 are all the loopback address to somebody).
func isHostName(name string) bool {
	if len(name) == 0 || len(name) > 253 {
		return false
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if !label.MatchString(l) {
			return false
		}
	}
	return !numberLabel.MatchString(labels[len(labels)-1])
}

// principal is a user or a group, by name or number.
type principal struct {
	name     string
	id       uint32
	isNumber bool
}

// nobody is (uid_t)-1, which means "no change" to the kernel and is nobody's.
const nobody = math.MaxUint32

var (
	accountName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?$`)
	number      = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
)

func (p *principal) ReadScalar(text string) *strict.Fault {
	if number.MatchString(text) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n == nobody {
			return &strict.Fault{Allowed: "a number from 0 to 4294967294"}
		}
		*p = principal{id: uint32(n), isNumber: true}
		return nil
	}
	if !accountName.MatchString(text) {
		return &strict.Fault{Allowed: "a name or a number"}
	}
	*p = principal{name: text}
	return nil
}

// intrusive is what becomes of scans that are more than a look.
type intrusive Outcome

func (i *intrusive) ReadScalar(text string) *strict.Fault {
	choices := []string{string(Deny), string(Approve), string(Allow)}
	if !slices.Contains(choices, text) {
		return &strict.Fault{Allowed: strings.Join(choices, ", ")}
	}
	*i = intrusive(text)
	return nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
