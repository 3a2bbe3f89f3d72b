package runners

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const nmapName = "nmap_scan"

// The bounds of a call. The schema, Read and Validate take them from here.
const (
	MaxTargets    = 256
	MaxAddresses  = 65536 // over all targets; an engagement allows fewer
	maxPortRanges = 100
	maxPort       = 65535
	maxRate       = 10000 // packets per second
	minHostTime   = 5     // seconds
	maxHostTime   = 4 * 3600
	minLimit      = 10 // seconds
	maxLimit      = 12 * 3600
	maxIntensity  = 9
	engagementRE  = `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`
)

// What makes a call intrusive beside its scripts.
const (
	largeNetwork = 1024 // addresses
	highRate     = 2000 // packets per second
)

// Nmap is a read call of nmap_scan: complete, since the profile has filled in what the caller left open, and canonical.
type Nmap struct {
	Targets          []string `json:"targets"`           // in the order asked, each once
	Exclude          []string `json:"exclude,omitempty"` // of the targets
	Profile          string   `json:"profile"`
	ScanType         string   `json:"scan_type"`
	Ports            []Ports  `json:"ports,omitempty"`     // sorted, joined; or else
	TopPorts         int      `json:"top_ports,omitempty"` // the most common ones
	ServiceDetection bool     `json:"service_detection"`
	VersionIntensity *int     `json:"version_intensity,omitempty"` // set exactly with ServiceDetection
	OSDetection      bool     `json:"os_detection"`
	Scripts          []string `json:"scripts"` // sorted, never nil
	Timing           string   `json:"timing"`
	IPVersion        int      `json:"ip_version"`
	Rate             int      `json:"rate,omitempty"` // packets per second; 0 leaves it to the engagement
	HostTimeout      int      `json:"host_timeout"`   // seconds
	Limit            int      `json:"limit,omitempty"`
	SkipDiscovery    bool     `json:"skip_discovery"`
	Engagement       string   `json:"engagement,omitempty"`
}

func nmapRow() row {
	return row{
		name: nmapName, scanner: "nmap", tool: nmapTool, profiles: profileNames,
		read: func(members map[string]json.RawMessage) (Call, []Fault) {
			scan, faults := readNmap(members)
			return Call{Nmap: &scan}, faults
		},
		asks:    [][]string{{"--version"}},
		version: regexp.MustCompile(`^Nmap version ([0-9]{1,3})\.([0-9]{1,4})(?:SVN|[A-Z]{1,8}[0-9]{0,3})?(?: |$)`),
	}
}

// Ports is a range of port numbers, both ends included. It is written "N" or "N-M".
type Ports struct{ First, Last uint16 }

func (p Ports) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// MarshalText and UnmarshalText are the one spelling of a range, in JSON and on the wire.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p *Ports) UnmarshalText(text []byte) error {
	read, fault := readPorts("ports", string(text))
	if fault != nil {
		return fmt.Errorf("cannot read ports: %w", fault)
	}
	*p = read
	return nil
}

// readPorts reads one range. The protocol is the scan type's, so that a call has one protocol and says it once.
func readPorts(field, text string) (Ports, *Fault) {
	fault := &Fault{Code: "bad_port", Field: field, Got: excerpt(text), Allowed: []string{"N", "N-M", "1 to 65535"}, Example: `"22", "8000-8100"`}
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	from, ok1 := readPort(first)
	to, ok2 := readPort(last)
	switch {
	case text == "-":
		fault.Hint = `all ports are "1-65535"`
	case strings.Contains(text, ","):
		fault.Hint = "give each port or range as an element of its own"
	case strings.Contains(text, ":"):
		fault.Hint = "no protocol here: scan_type udp scans UDP ports, every other scan type TCP ports"
	case !ok1 || !ok2:
		fault.Hint = "ports are numbers from 1 to 65535, without leading zeros; names are not taken"
	case from > to:
		fault.Hint = fmt.Sprintf("the smaller number comes first: %d-%d", to, from)
	default:
		return Ports{from, to}, nil
	}
	return Ports{}, fault
}

func readPort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0 && text[0] != '0' && text[0] != '+'
}

// joinPorts sorts ranges and joins those that touch.
func joinPorts(ranges []Ports) []Ports {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b Ports) int { return int(a.First) - int(b.First) })
	var joined []Ports
	for _, r := range sorted {
		if last := len(joined) - 1; last >= 0 && int(r.First) <= int(joined[last].Last)+1 {
			joined[last].Last = max(joined[last].Last, r.Last)
			continue
		}
		joined = append(joined, r)
	}
	return joined
}

// portCount is how many ports each address is asked for.
func (n *Nmap) portCount() int {
	count := n.TopPorts
	for _, r := range n.Ports {
		count += int(r.Last) - int(r.First) + 1
	}
	return count
}

// raw says whether the scan needs raw sockets.
func (n *Nmap) raw() bool { return n.ScanType != "connect" || n.OSDetection }

func (n *Nmap) plan() Plan {
	p := Plan{
		Profile: n.Profile, IPv6: n.IPVersion == 6, Raw: n.raw(), Intrusive: n.intrusive(), Ports: n.portCount(),
		Rate: n.Rate, Limit: time.Duration(n.Limit) * time.Second, Engagement: n.Engagement,
		PortsField: "ports", Elsewhere: n.elsewhere(), Discovery: n.ScanType == "ping",
	}
	asked := n.Ports
	if n.TopPorts > 0 {
		p.PortsField, asked = "top_ports", []Ports{{1, maxPort}}
	}
	for _, r := range asked {
		*n.scanned(&p.Asked) = append(*n.scanned(&p.Asked), [2]uint16{r.First, r.Last})
	}
	p.Targets, p.Exclude = readTargets(n.Targets), readExclude(n.Exclude)
	return p
}

// readTargets is the targets of a valid call.
func readTargets(texts []string) (targets []Target) {
	for i, text := range texts {
		if target, fault := readTarget(element("targets", i), text); fault == nil {
			targets = append(targets, target)
		}
	}
	return targets
}

// scanned is the part of a reach that is the scan's own protocol.
func (n *Nmap) scanned(r *Reach) *[][2]uint16 {
	if n.ScanType == "udp" {
		return &r.UDP
	}
	return &r.TCP
}

// elsewhere is what makes the scan send to other ports than those that are asked for.
func (n *Nmap) elsewhere() (out []Wish) {
	if n.OSDetection {
		out = append(out, Wish{"os_detection", "true", "it sends to ports of TCP and UDP that nmap chooses, and ICMP", "leave it out"})
	}
	var roam []string
	for _, name := range n.tableScripts() {
		if slices.Contains(roaming, name) {
			roam = append(roam, name)
		}
	}
	if len(roam) > 0 {
		out = append(out, Wish{"scripts", strings.Join(roam, ", "), "these scripts send to other ports than the ones that are scanned", "give scripts without them"})
	}
	return out
}

// intrusive lists what an engagement must expressly allow.
func (n *Nmap) intrusive() []string {
	var reasons []string
	for _, name := range n.Scripts {
		if s, ok := scriptNamed(name); ok && s.intrusive {
			reasons = append(reasons, "script "+name+": "+s.reason)
		}
	}
	if n.OSDetection && n.ServiceDetection && len(n.Scripts) > 0 {
		reasons = append(reasons, "os_detection, service_detection and scripts together: what nmap calls aggressive")
	}
	if n.VersionIntensity != nil && *n.VersionIntensity == maxIntensity {
		reasons = append(reasons, "version_intensity 9: every probe to every open port")
	}
	return append(reasons, excess(n.addressCount(), n.Rate)...)
}

// excess is why so many addresses, or such a rate, are more than an ordinary call has.
func excess(addresses int64, rate int) (reasons []string) {
	if addresses > largeNetwork {
		reasons = append(reasons, fmt.Sprintf("%d addresses, more than %d", addresses, largeNetwork))
	}
	if rate > highRate {
		reasons = append(reasons, fmt.Sprintf("%d packets per second, more than %d", rate, highRate))
	}
	return reasons
}

func (n *Nmap) addressCount() int64 { return countTargets(n.Targets) }

// countTargets counts the addresses of literal targets, and each name as one.
func countTargets(targets []string) int64 {
	var count int64
	for i, text := range targets {
		target, fault := readTarget(element("targets", i), text)
		switch {
		case fault != nil:
		case target.Prefix.IsValid():
			count += addressCount(target.Prefix)
		default:
			count++
		}
	}
	return count
}

func (n *Nmap) bounded(rate int, limit time.Duration) Call {
	b := *n
	if rate = min(rate, maxRate); rate > 0 && (b.Rate == 0 || b.Rate > rate) {
		b.Rate = rate
	}
	if seconds := int(min(limit/time.Second, maxLimit)); limit > 0 && (b.Limit == 0 || b.Limit > seconds) {
		b.Limit = max(seconds, minLimit)
		b.HostTimeout = min(b.HostTimeout, b.Limit)
	}
	return Call{Nmap: &b}
}

// family is 4 or 6 for a literal target and 0 for a name.
func family(p netip.Prefix) int {
	switch {
	case !p.IsValid():
		return 0
	case p.Addr().Is4():
		return 4
	}
	return 6
}
