package launcher

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
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

// Resolvers finds the machine's name servers where the configuration names none: systemd-
// resolved's own upstreams, else resolv.conf. One on loopback cannot be reached from a box and
// is left out.
func Resolvers() ([]netip.AddrPort, error) {
	var found []netip.AddrPort
	for _, path := range []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"} {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "nameserver" {
				continue
			}
			if a, err := netip.ParseAddr(f[1]); err == nil && !a.IsLoopback() && a.Zone() == "" {
				found = append(found, netip.AddrPortFrom(a, 53))
			}
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	return nil, errors.New("no name server that a box can reach is known: set `resolvers` in secmcpd.yaml")
}

// resolve asks for names in a box of its own, whose scope is the name server. Users take turns, so
// that the slow names of one hold up the others by one question each.
func (l *Launcher) resolve(ctx context.Context, uid uint32, names []string, ipv6 bool) (answers, error) {
	resolvers := l.cfg.Resolvers
	if len(resolvers) == 0 {
		var err error
		if resolvers, err = Resolvers(); err != nil {
			return answers{}, err
		}
	}
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
