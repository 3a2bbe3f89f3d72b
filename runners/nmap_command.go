package runners

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	nmapData = "/usr/share/nmap"
	// Linux takes more, but a command line beyond this is a request that should have been several.
	maxArgvBytes = 100 << 10
	// DefaultRate is used where neither call nor engagement has one.
	DefaultRate = 1000
)

// oldestNmap and newestNmap bound the versions whose options this package knows. All of 7.80 and later understand the
// options below alike; a next major version is refused until somebody has looked.
var (
	oldestNmap = Version{7, 80}
	newestNmap = Version{7, 9999}
)

func knownNmap(v Version) bool {
	return v.Major == oldestNmap.Major && v.Minor >= oldestNmap.Minor && v.Minor <= newestNmap.Minor
}

// command builds nmap's command line. Nothing in it is a caller's text: words come from the tables of this package,
// numbers from integers, operands from the judged addresses.
func (n *Nmap) command(v Version, addresses, excluded []netip.Prefix, reach *Reach) (Command, error) {
	if !knownNmap(v) {
		return Command{}, fmt.Errorf("cannot build a command for nmap %s: known are %s and later of that line", v, oldestNmap)
	}
	if err := checkAddresses(n.IPVersion, addresses, excluded); err != nil {
		return Command{}, fmt.Errorf("cannot build a command for nmap: %w", err)
	}
	n, ports, err := n.within(reach)
	if err != nil {
		return Command{}, fmt.Errorf("cannot build a command for nmap: %w", err)
	}
	count := countAddresses(addresses)
	argv := append(append(n.options(count), ports...), "--")
	for _, p := range addresses {
		argv = append(argv, operand(p))
	}
	if size := argvBytes(argv); size > maxArgvBytes {
		return Command{}, fmt.Errorf("cannot build a command for nmap: %d networks make %d bytes, more than %d: split the call", len(addresses), size, maxArgvBytes)
	}
	if u := n.unfit(count); u != nil {
		return Command{}, fmt.Errorf("cannot build a command for nmap: %w", u)
	}
	box := "nmap-connect"
	if n.raw() {
		box = "nmap-raw"
	}
	return Command{Scanner: "nmap", Argv: argv, Box: box, Raw: n.raw(), Rate: n.rate(), Packets: n.packets(count), Time: n.duration(count)}, nil
}

// within is the scan without the ports that lie beyond its reach, and the options that keep it there.
func (n *Nmap) within(reach *Reach) (*Nmap, []string, error) {
	if reach == nil {
		return n, nil, nil
	}
	if wishes := n.elsewhere(); len(wishes) > 0 {
		return nil, nil, fmt.Errorf("%s: %s", wishes[0].Field, wishes[0].Why)
	}
	w := *n
	var options []string
	own := *n.scanned(reach)
	if w.Ports = common(n.Ports, own); len(n.Ports) > 0 && len(w.Ports) == 0 {
		return nil, nil, errors.New("none of the ports may be sent to")
	}
	if out := outside(own); n.TopPorts > 0 && len(out) > 0 {
		if out[0] == (Ports{1, maxPort}) {
			return nil, nil, errors.New("no port may be sent to")
		}
		options = append(options, "--exclude-ports", portList(out))
	}
	if n.SkipDiscovery {
		return &w, options, nil
	}
	probes := w.probes(reach)
	if len(probes) > 0 {
		return &w, append(options, probes...), nil
	}
	if n.ScanType == "ping" {
		return nil, nil, errors.New("neither ICMP nor a port of TCP may be asked whether hosts are there")
	}
	w.SkipDiscovery = true
	return &w, options, nil
}

// usualPorts are those of TCP at which a host most often says that it is there.
var usualPorts = []Ports{{443, 443}, {80, 80}, {22, 22}}

// probes are the options of a discovery within reach, in place of nmap's own choice: an echo and a
// timestamp (IPv4) where ICMP may be asked, and connections to usual ports, or else to some of those
// that are scanned, or else to some that may be. Without any it has none.
func (n *Nmap) probes(reach *Reach) (options []string) {
	if reach.ICMP && n.raw() {
		if options = append(options, "-PE"); n.IPVersion == 4 {
			options = append(options, "-PP")
		}
	}
	ports := common(usualPorts, reach.TCP)
	if len(ports) == 0 && n.ScanType != "udp" {
		ports = firstPorts(n.Ports)
	}
	if len(ports) == 0 {
		ports = firstPorts(common([]Ports{{1, maxPort}}, reach.TCP))
	}
	if len(ports) > 0 {
		options = append(options, "-PS"+portList(ports))
	}
	return options
}

// firstPorts is the first ports of the first few ranges.
func firstPorts(ranges []Ports) (out []Ports) {
	for _, r := range ranges[:min(len(ranges), len(usualPorts))] {
		out = append(out, Ports{r.First, r.First})
	}
	return out
}

// common is what of ranges lies in a reach, in the order of ranges.
func common(ranges []Ports, reach [][2]uint16) (out []Ports) {
	for _, r := range ranges {
		for _, in := range reach {
			if first, last := max(r.First, in[0]), min(r.Last, in[1]); first <= last {
				out = append(out, Ports{first, last})
			}
		}
	}
	return out
}

// outside is the ports beyond a reach.
func outside(reach [][2]uint16) (out []Ports) {
	from := 1
	for _, in := range reach {
		if from < int(in[0]) {
			out = append(out, Ports{uint16(from), in[0] - 1})
		}
		from = int(in[1]) + 1
	}
	if from <= maxPort {
		out = append(out, Ports{uint16(from), maxPort})
	}
	return out
}

func (n *Nmap) options(addresses int64) []string {
	argv := []string{
		"nmap",
		"--datadir", nmapData, // never a directory that an environment or a home names
		"-n",       // names were resolved and judged before
		"-v",       // lists hosts that are down, without which an unfinished scan does not say what it covered
		"-oX", "-", // the report, on stdout
		"--stats-every", "1s", // progress, in the report; --noninteractive would silence it
		n.privilege(), // instead of a guess from the uid
		"-T" + strconv.Itoa(n.pace()),
		"--max-rate", strconv.Itoa(n.rate()),
		"--max-hostgroup", strconv.FormatInt(hostGroup(addresses), 10),
		"--host-timeout", strconv.Itoa(n.HostTimeout) + "s",
		scanOption[n.ScanType],
	}
	if n.IPVersion == 6 {
		argv = append(argv, "-6")
	}
	if n.Timing == "polite" {
		argv = append(argv, "--scan-delay", strconv.Itoa(politeDelay)+"ms")
	}
	if n.SkipDiscovery {
		argv = append(argv, "-Pn")
	}
	if len(n.Ports) > 0 {
		argv = append(argv, "-p", portList(n.Ports))
	}
	if n.TopPorts > 0 {
		argv = append(argv, "--top-ports", strconv.Itoa(n.TopPorts))
	}
	if n.ServiceDetection {
		argv = append(argv, "-sV", "--version-intensity", strconv.Itoa(*n.VersionIntensity))
	}
	if n.OSDetection {
		argv = append(argv, "-O")
	}
	if len(n.Scripts) > 0 {
		argv = append(argv, "--script", strings.Join(n.tableScripts(), ","))
	}
	return argv
}

var scanOption = map[string]string{"connect": "-sT", "syn": "-sS", "udp": "-sU", "ping": "-sn"}

func (n *Nmap) privilege() string {
	if n.raw() {
		return "--privileged"
	}
	return "--unprivileged"
}

// pace is the number of nmap's timing template. Polite is the normal one with a delay: the template that nmap calls
// polite has one probe under way for a whole group of hosts, so that each waits for the silence of all others, and
// nmap looks at --host-timeout too late. Measured with 8 firewalled hosts, 100 ports and --host-timeout 10s: -T2 took
// 35 s (connect) and was not done after 60 s (SYN, UDP); -T3 --scan-delay 400ms took 10.5 s each.
func (n *Nmap) pace() int {
	if n.Timing == "aggressive" {
		return 4
	}
	return 3
}

func (n *Nmap) rate() int {
	if n.Rate == 0 {
		return DefaultRate
	}
	return n.Rate
}

// tableScripts are the call's scripts as the table spells them.
func (n *Nmap) tableScripts() []string {
	var names []string
	for _, name := range n.Scripts {
		if s, ok := scriptNamed(name); ok {
			names = append(names, s.name)
		}
	}
	return names
}

// hostGroup is how many hosts nmap scans side by side. Its report has only complete groups, so a scan that is ended
// loses one group; small groups in turn wait longer in sum. Measured with 32 firewalled hosts and 100 ports: groups of
// 4, 8, 16 and 32 took 23.5, 12.9, 9.4 and 7.9 s (SYN, 1000 packets per second: 24.4, 12.7, 10.7 and 6.7 s).
func hostGroup(addresses int64) int64 {
	switch {
	case addresses <= 32:
		return 8
	case addresses <= 256:
		return 16
	}
	return 32
}

// checkAddresses makes sure of what the launcher promises: judged addresses, in one form, of the call's version, and
// none of them excluded. Exclusions are not passed to the scanner as well, where a mistake would silently narrow the scan.
func checkAddresses(version int, addresses, excluded []netip.Prefix) error {
	if len(addresses) == 0 {
		return errors.New("no addresses")
	}
	for _, p := range addresses {
		switch {
		case !p.IsValid() || p.Addr().Is4In6() || p.Masked() != p:
			return fmt.Errorf("%v is not a network in canonical form", p)
		case family(p) != version:
			return fmt.Errorf("%v is not an IPv%d network", p, version)
		}
		for _, e := range excluded {
			if p.Overlaps(e) {
				return fmt.Errorf("%v overlaps the excluded %v", p, e)
			}
		}
	}
	if count := countAddresses(addresses); count > MaxAddresses {
		return fmt.Errorf("%d addresses are more than %d", count, MaxAddresses)
	}
	return nil
}

func countAddresses(prefixes []netip.Prefix) int64 {
	var count int64
	for _, p := range prefixes {
		count += addressCount(p)
	}
	return count
}

func operand(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func portList(ranges []Ports) string {
	var texts []string
	for _, r := range ranges {
		texts = append(texts, r.String())
	}
	return strings.Join(texts, ",")
}

func argvBytes(argv []string) int {
	size := 0
	for _, a := range argv {
		size += len(a) + 1
	}
	return size
}

// What one address costs at most, in packets sent.
const (
	packetsDiscovery = 8   // four probes, each once more
	packetsPort      = 3   // a probe, one repetition, and the end of a connection
	packetsService   = 300 // an address with a handful of open ports and all their probes
	packetsOS        = 120 // up to five rounds of sixteen probes, and repetitions
	packetsScript    = 30
)

// packets is the expected number of packets sent, at most:
// addresses × (8 for discovery + 3 per port + 300 for services + 120 for the operating system + 30 per script).
func (n *Nmap) packets(addresses int64) int64 {
	each := int64(n.portCount()) * packetsPort
	if !n.SkipDiscovery {
		each += packetsDiscovery
	}
	if n.ServiceDetection {
		each += packetsService
	}
	if n.OSDetection {
		each += packetsOS
	}
	return addresses * (each + int64(len(n.Scripts))*packetsScript)
}

// politeDelay is what lies between two probes to one host where timing is polite, in milliseconds.
const politeDelay = 400

// politeTime is how long the delays between the probes to one host take, at most, in seconds: each port once and once
// more, and discovery. Services and scripts are asked without delay.
func (n *Nmap) politeTime() int64 {
	probes := int64(n.portCount()) * 2
	if !n.SkipDiscovery {
		probes += packetsDiscovery
	}
	return (probes*politeDelay + 999) / 1000
}

// duration is the expected time, at most: the packets at the rate, and for each group of hosts what is spent waiting,
// which is 10 s (60 s more with services, 15 s more with the operating system, 30 s more with scripts; for UDP a second
// per port, since a closed port is told once a second; with timing polite the delays between probes). A group takes no
// longer than its hosts may. It can be more than the call's limit: then the scan may be cut.
func (n *Nmap) duration(addresses int64) time.Duration {
	sending := n.packets(addresses) / int64(n.rate())
	wait := int64(10)
	if n.ServiceDetection {
		wait += 60
	}
	if n.OSDetection {
		wait += 15
	}
	if len(n.Scripts) > 0 {
		wait += 30
	}
	if n.ScanType == "udp" {
		wait += int64(n.portCount())
	}
	if n.Timing == "polite" {
		wait += n.politeTime()
	}
	group := hostGroup(addresses)
	groups := (addresses + group - 1) / group
	return time.Duration(sending+groups*min(wait, int64(n.HostTimeout))) * time.Second
}
