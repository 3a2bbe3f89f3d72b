package runners

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A dialect is what a line of versions understands. 3.7 moved from one parser of options to another: short options got
// new meanings (-d is delay), so that all here are long ones.
type dialect struct {
	from, to Version
	options  map[string][]string // by mode: those that its help must have
}

var webOptions = []string{"url", "wordlist", "threads", "delay", "timeout", "no-color", "no-tls-validation", "headers"}

var dialects = []dialect{
	{Version{3, 1}, Version{3, 6}, map[string][]string{
		"dir":   append([]string{"status-codes", "status-codes-blacklist", "extensions"}, webOptions...),
		"vhost": append([]string{"domain", "append-domain"}, webOptions...),
		"dns":   {"domain", "resolver", "show-ips", "wordlist", "threads", "delay", "timeout", "no-color"}}},
	{Version{3, 7}, Version{3, 8}, map[string][]string{
		"dir":   append([]string{"status-codes", "status-codes-blacklist", "extensions"}, webOptions...),
		"vhost": append([]string{"domain", "append-domain"}, webOptions...),
		"dns":   {"domain", "resolver", "wordlist", "threads", "delay", "timeout", "no-color"}}},
}

func dialectOf(v Version) (dialect, bool) {
	number := func(v Version) int { return v.Major*10000 + v.Minor }
	for _, d := range dialects {
		if number(d.from) <= number(v) && number(v) <= number(d.to) {
			return d, true
		}
	}
	return dialect{}, false
}

// knownGobuster looks for each option in the help of its mode: what a distribution built is taken at its word, not at
// its number alone.
func knownGobuster(v Version, help [][]byte) error {
	d, known := dialectOf(v)
	switch {
	case v.Major < 3:
		return fmt.Errorf("gobuster %s is not used: before 3.0 it has no modes, and takes its arguments otherwise; install 3.1 or later", v)
	case !known:
		return fmt.Errorf("gobuster %s is not used: known are %s to %s", v, dialects[0].from, dialects[len(dialects)-1].to)
	case len(help) != len(gobusterModes):
		return errors.New("gobuster did not say which options it has")
	}
	for i, mode := range gobusterModes {
		for _, option := range d.options[mode] {
			if !regexp.MustCompile(`(^|[\s,])--` + option + `($|[\s,])`).Match(help[i]) {
				return fmt.Errorf("gobuster %s is not used: its mode %s has no option --%s", v, mode, option)
			}
		}
	}
	return nil
}

// command builds gobuster's command line. Of the caller's text it holds a URL, names and a list's words only as far as
// readURL, readTarget and the forms of this package let them through; a name in it stands for the judged address, by
// the box's own hosts file.
func (g *Gobuster) command(v Version, addresses, excluded []netip.Prefix, reach *Reach) (Command, error) {
	fail := func(err error) (Command, error) {
		return Command{}, fmt.Errorf("cannot build a command for gobuster: %w", err)
	}
	if _, known := dialectOf(v); !known {
		return fail(fmt.Errorf("version %s is not known", v))
	}
	address, err := g.checkedAddress(addresses, excluded)
	if err != nil {
		return fail(err)
	}
	c := Command{Scanner: "gobuster", Box: "gobuster", Words: true, Rate: g.rate(), Packets: g.packets(), Time: g.duration()}
	if u := g.unfit(); u != nil {
		return fail(u)
	}
	argv := []string{"gobuster", g.Mode, "--no-color", "--wordlist", wordlistPath, "--threads", strconv.Itoa(g.Threads),
		"--timeout", strconv.Itoa(g.Timeout) + "s", "--delay", strconv.Itoa(g.Delay) + "ms"}
	if g.Mode == "dns" {
		more, err := g.asking(v, address, reach)
		c.Argv = append(argv, more...)
		if err != nil {
			return fail(err)
		}
		return c, nil
	}
	u, fault := readURL(g.URL)
	if fault != nil {
		return fail(fault)
	}
	if family(netip.PrefixFrom(address, address.BitLen())) != g.IPVersion || u.host.Prefix.IsValid() && u.host.Prefix.Addr() != address {
		return fail(fmt.Errorf("%v is not the address of the URL", address))
	}
	if reach != nil && len(common([]Ports{{u.port, u.port}}, reach.TCP)) == 0 {
		return fail(fmt.Errorf("port %d may not be sent to", u.port))
	}
	if u.host.Name != "" {
		c.Hosts = address.String() + " " + u.host.Name + "\n"
	}
	argv = append(argv, "--url", g.URL)
	if !g.TLSVerify {
		argv = append(argv, "--no-tls-validation")
	}
	c.Argv = append(argv, g.ofMode()...)
	return c, nil
}

// asking is what mode dns has: the one name server that the box can reach.
func (g *Gobuster) asking(v Version, address netip.Addr, reach *Reach) ([]string, error) {
	if reach == nil || len(reach.UDP) != 1 || reach.UDP[0][0] != reach.UDP[0][1] {
		return nil, errors.New("no port of the name server")
	}
	argv := []string{"--domain", g.Domain, "--resolver", netip.AddrPortFrom(address, reach.UDP[0][0]).String()}
	if v.Minor <= 6 {
		argv = append(argv, "--show-ips") // later ones always do
	}
	return argv, nil
}

func (g *Gobuster) ofMode() (argv []string) {
	if g.Mode == "vhost" {
		return []string{"--domain", g.Domain, "--append-domain"}
	}
	// Both given is an error, and the second has a default.
	argv = []string{"--status-codes=" + integers(g.StatusCodes), "--status-codes-blacklist=" + integers(g.ExcludeStatus)}
	if len(g.Extensions) > 0 {
		argv = append(argv, "--extensions", strings.Join(g.Extensions, ","))
	}
	if g.Host != "" {
		argv = append(argv, "--headers", "Host: "+g.Host)
	}
	return argv
}

func integers(all []int) string {
	var b bytes.Buffer
	for i, n := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(n))
	}
	return b.String()
}

// What a request costs at most, in packets sent: of HTTP the request, confirmations of an answer of some kilobytes, and a
// share of opening connections; of DNS two questions, each once more.
const (
	packetsRequest  = 8
	packetsQuestion = 4
	requestTime     = 200 * time.Millisecond // a usual answer of a busy server
)

func (g *Gobuster) packets() int64 {
	if g.Mode == "dns" {
		return (g.requests() + 2) * packetsQuestion
	}
	return (g.requests() + 2) * packetsRequest
}

// requests is one for each word and each variant of it.
func (g *Gobuster) requests() int64 { return g.Lines * g.variants() }

// duration is the expected time, at most: the requests of each thread one after the other, or the packets at the rate if
// that is more. It can be more than the call's limit: then the scan may be cut.
func (g *Gobuster) duration() time.Duration {
	each := requestTime + time.Duration(g.Delay)*time.Millisecond
	return max(time.Duration(g.requests()/int64(g.Threads)+1)*each, time.Duration(g.packets()/int64(g.rate()))*time.Second)
}

func (g *Gobuster) rate() int {
	if g.Rate == 0 {
		return DefaultRate
	}
	return g.Rate
}
