package launcher

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/secmcpd/secmcpd/internal/wire"
)

const (
	// maxAnswers bounds the addresses that one name may have; more is refused rather than
	// judged in part.
	maxAnswers = 64
	// maxAnswerBytes bounds what the resolver's box may write.
	maxAnswerBytes = 64 << 10
)

// answers is what the resolver's box said of each name: addresses, or a code of failure.
type answers struct {
	addresses map[string][]netip.Addr
	failed    map[string]string
}

// parseAnswers reads what the resolver's box wrote: one line for each answer, "INDEX ADDRESS"
// or "INDEX ! CODE". DNS is hostile input and so is whoever it took over inside the box:
// anything else than these forms refuses the whole.
func parseAnswers(b []byte, names []string) (answers, error) {
	a := answers{addresses: map[string][]netip.Addr{}, failed: map[string]string{}}
	if len(b) > maxAnswerBytes {
		return a, fmt.Errorf("the resolver wrote more than %d bytes", maxAnswerBytes)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		index, rest, ok := strings.Cut(lines.Text(), " ")
		i, err := strconv.Atoi(index)
		if !ok || err != nil || i < 0 || i >= len(names) || strconv.Itoa(i) != index {
			return a, errors.New("the resolver wrote a line that is no answer")
		}
		name := names[i]
		if code, failed := strings.CutPrefix(rest, "! "); failed {
			if code != "not_found" && code != "timeout" && code != "failed" {
				return a, errors.New("the resolver wrote an unknown code")
			}
			a.failed[name] = code
			continue
		}
		addr, err := netip.ParseAddr(rest)
		if err != nil || addr.Zone() != "" || addr.String() != rest {
			return a, errors.New("the resolver wrote what is no address")
		}
		if len(a.addresses[name]) == maxAnswers {
			return a, fmt.Errorf("a name has more than %d addresses", maxAnswers)
		}
		a.addresses[name] = append(a.addresses[name], addr)
	}
	return a, lines.Err()
}

// ErrLoopback says that the machine's only name servers are on loopback. A box has a loopback of
// its own, so it cannot reach them.
var ErrLoopback = errors.New("every name server of this machine is on loopback, which a box cannot reach")

// Resolvers finds the machine's name servers where the configuration names none: those of
// resolv.conf or, where that names the stub of systemd-resolved, those behind the stub. One that a
// box cannot reach is left out. The error is ErrLoopback where that leaves none of them.
func Resolvers() ([]netip.AddrPort, error) { return resolvers(os.DirFS("/")) }

func resolvers(root fs.FS) ([]netip.AddrPort, error) {
	said := nameservers(root, "etc/resolv.conf")
	if slices.ContainsFunc(said, isStub) {
		said = append(nameservers(root, "run/systemd/resolve/resolv.conf"), said...)
	}
	var found []netip.AddrPort
	for _, a := range said {
		// A link-local one is on a link that a box does not have.
		if p := netip.AddrPortFrom(a, dnsPort); !a.IsLoopback() && !a.IsUnspecified() && a.Zone() == "" && !slices.Contains(found, p) {
			found = append(found, p)
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case slices.ContainsFunc(said, func(a netip.Addr) bool { return a.IsLoopback() || a.IsUnspecified() }):
		return nil, ErrLoopback
	}
	return nil, errors.New("this machine has no name server that a box can reach")
}

const dnsPort = 53

// isStub knows the addresses at which systemd-resolved answers programs of its own machine.
func isStub(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || a == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

// nameservers is what a file in the form of resolv.conf names; one that is not there names none.
func nameservers(root fs.FS, path string) (out []netip.Addr) {
	b, err := fs.ReadFile(root, path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// resolvers are the name servers to ask, or why no name can be asked for.
func (l *Launcher) resolvers(set *Live) ([]netip.AddrPort, *wire.Refusal) {
	if len(set.Resolvers) > 0 {
		return set.Resolvers, nil
	}
	found, err := l.servers()
	if err != nil {
		return nil, &wire.Refusal{Code: "no_resolver", Field: "targets", Reason: "names cannot be resolved here: " + err.Error(),
			Hint: "give addresses, or ask the operator to set `resolvers` in secmcpd.yaml"}
	}
	return found, nil
}

// resolve asks for names in a box of its own, whose scope is the name server. Users take turns, so
// that the slow names of one hold up the others by one question each.
func (l *Launcher) resolve(ctx context.Context, uid uint32, resolvers []netip.AddrPort, names []string, ipv6 bool) (answers, error) {
	var errs []error
	for _, r := range resolvers[:min(len(resolvers), 3)] {
		out, err := l.runResolver(ctx, uid, r, names, ipv6)
		if err == nil {
			return parseAnswers(out, names)
		}
		errs = append(errs, fmt.Errorf("%s: %w", r, err))
	}
	return answers{}, errors.Join(errs...)
}
