package runners

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const masscanName = "masscan_scan"

// The bounds of a call beside those that all scanners share.
const (
	maxRetries = 3
	maxSettle  = 60 // seconds
)

// Masscan is a read call of masscan_scan: complete, since the profile has filled in what the caller left open, and canonical.
type Masscan struct {
	Targets    []string     `json:"targets"`           // in the order asked, each once; of IPv4
	Exclude    []string     `json:"exclude,omitempty"` // of the targets
	Profile    string       `json:"profile"`
	Ports      []ProtoPorts `json:"ports"`          // sorted, joined; TCP first
	Rate       int          `json:"rate,omitempty"` // packets per second; 0 is 1000, or the engagement's where that is lower
	Retries    int          `json:"retries"`
	Wait       int          `json:"wait"`                  // seconds
	SecondPass bool         `json:"second_pass,omitempty"` // the same once more, in another order
	Verify     string       `json:"verify,omitempty"`      // what nmap is to ask of the open ports: ports, services
	Limit      int          `json:"limit,omitempty"`
	Engagement string       `json:"engagement,omitempty"`
}

// ProtoPorts is a range of ports of TCP, or of UDP, which is written "udp/N" or "udp/N-M".
type ProtoPorts struct {
	UDP bool
	Ports
}

const udpWord = "udp/"

func (p ProtoPorts) String() string {
	if p.UDP {
		return udpWord + p.Ports.String()
	}
	return p.Ports.String()
}

// MarshalText and UnmarshalText are the one spelling of a range, in JSON and on the wire.
func (p ProtoPorts) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p *ProtoPorts) UnmarshalText(text []byte) error {
	read, fault := readProtoPorts("ports", string(text))
	if fault != nil {
		return fmt.Errorf("cannot read ports: %w", fault)
	}
	*p = read
	return nil
}

func readProtoPorts(field, text string) (ProtoPorts, *Fault) {
	rest, udp := strings.CutPrefix(text, udpWord)
	ports, fault := readPorts(field, rest)
	if fault != nil {
		fault.Got, fault.Allowed, fault.Example = excerpt(text), []string{"N", "N-M", "udp/N", "1 to 65535"}, `"22", "8000-8100", "udp/53"`
		if strings.ContainsAny(rest, ":/") {
			fault.Hint = "TCP needs no word before the number; UDP is written udp/53"
		}
		return ProtoPorts{}, fault
	}
	return ProtoPorts{udp, ports}, nil
}

// ofProtocol is the ranges of TCP, or of UDP.
func ofProtocol(all []ProtoPorts, udp bool) (out []Ports) {
	for _, p := range all {
		if p.UDP == udp {
			out = append(out, p.Ports)
		}
	}
	return out
}

// joinProtoPorts sorts ranges, those of TCP first, and joins those that touch.
func joinProtoPorts(all []ProtoPorts) []ProtoPorts {
	out := []ProtoPorts{}
	for _, udp := range []bool{false, true} {
		for _, p := range joinPorts(ofProtocol(all, udp)) {
			out = append(out, ProtoPorts{udp, p})
		}
	}
	return out
}

// A masscanProfile is a set of defaults: what a caller says outright goes before it.
type masscanProfile struct {
	name, about, ports string
}

var masscanProfiles = []masscanProfile{
	{"quick", "100 common ports", "7,9,13,21-23,25-26,37,53,79-81,88,106,110-111,113,119,135,139,143-144,179,199,389,427,443-445,465,513-515,543-544,548,554,587,631,646,873," +
		"990,993,995,1025-1029,1110,1433,1720,1723,1755,1900,2000-2001,2049,2121,2717,3000,3128,3306,3389,3986,4899,5000,5009,5051,5060,5101,5190,5357,5432,5631,5666,5800,5900," +
		"6000-6001,6646,7070,8000,8008-8009,8080-8081,8443,8888,9100,9999-10000,32768,49152-49157"},
	{"standard", "ports 1-1000", "1-1000"},
	{"thorough", "all ports", "1-65535"},
	{"web", "12", "80,443,3000,5000,8000,8008,8080-8081,8443,8888,9000,9090"},
	{"common", "21", "21-23,25,53,80,110-111,135,139,143,443,445,993,995,1723,3306,3389,5432,5900,8080"},
}

func masscanProfileNames() []string {
	names := make([]string, len(masscanProfiles))
	for i, p := range masscanProfiles {
		names[i] = p.name
	}
	return names
}

func masscanProfileNamed(name string) masscanProfile {
	i := slices.IndexFunc(masscanProfiles, func(p masscanProfile) bool { return p.name == name })
	return masscanProfiles[max(i, 0)]
}

// list is the profile's ports.
func (p masscanProfile) list() (out []ProtoPorts) {
	for text := range strings.SplitSeq(p.ports, ",") {
		r, fault := readPorts("ports", text)
		if fault != nil {
			panic(fault) // the table's own; tested
		}
		out = append(out, ProtoPorts{Ports: r})
	}
	return out
}

func masscanRow() row {
	return row{
		name: masscanName, scanner: "masscan", tool: masscanTool, profiles: masscanProfileNames,
		read: func(members map[string]json.RawMessage) (Call, []Fault) {
			scan, faults := readMasscan(members)
			return Call{Masscan: &scan}, faults
		},
		asks:    [][]string{{"--version"}},
		version: regexp.MustCompile(`^\s*Masscan version ([0-9]{1,3})\.([0-9]{1,4})(?:[. ]|$)`),
		knows: func(v Version, _ [][]byte) error {
			if !knownMasscan(v) {
				return fmt.Errorf("masscan %s: known is %s", v, testedMasscan)
			}
			return nil
		},
	}
}

func masscanTool() Tool {
	return Tool{Name: masscanName, Scanner: "masscan", Title: "Find open ports fast with masscan", Description: masscanDescription(), InputSchema: objectSchema(masscanFields(), "targets")}
}

func masscanDescription() string {
	var b strings.Builder
	b.WriteString("Finds open ports of many IPv4 addresses with masscan; nmap_scan asks for services. A port that is not listed was not heard of: closed, filtered or lost. Profiles: ")
	for i, p := range masscanProfiles {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.name + " (" + p.about + ")")
	}
	return b.String()
}

func masscanFields() []field {
	profile := oneOfWords("", masscanProfileNames())
	profile.Default = defaultProfile
	first, last := 1, maxPort
	port := schema{AnyOf: []schema{
		{Type: "integer", Minimum: &first, Maximum: &last},
		{Type: "string", Pattern: `^(udp/)?[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$`},
	}}
	return []field{
		{"targets", list("As of nmap_scan, IPv4.", 1, MaxTargets, schema{Type: "string"})},
		excludeField(""),
		{"profile", profile},
		{"ports", list(`Such as 22, "8000-8100", "udp/53".`, 1, maxPortRanges, port)},
		{"rate", numbers("Packets per second; default 1000 or the engagement's.", 1, maxRate)},
		{"retries", numbers("Probes repeated, a second later; default 1.", 0, maxRetries)},
		{"wait", numbers("Seconds to listen after the last probe; default 3.", 1, maxSettle)},
		{"second_pass", truth("All once more; compared.")},
		{"verify", oneOfWords("What is open, by nmap_scan.", verifications)},
		{"limit", numbers("", minLimit, maxLimit)},
		{"engagement", schema{Type: "string", Pattern: engagementRE}},
	}
}

// verifications is what nmap can be asked of the ports that were found open.
var verifications = []string{"ports", "services"}

const (
	defaultRetries = 1
	defaultSettle  = 3
)

type masscanDraft struct {
	Masscan
	reader
}

// readMasscan reads forms, fills in the profile, normalises, and leaves every question of meaning to validate.
func readMasscan(members map[string]json.RawMessage) (Masscan, []Fault) {
	d := &masscanDraft{reader: reader{fields: masscanFields()}}
	d.all(members, d.take)
	if !d.given["profile"] {
		d.Profile = defaultProfile
	}
	if !d.given["ports"] {
		d.Ports = masscanProfileNamed(d.Profile).list()
	}
	if !d.given["retries"] {
		d.Retries = defaultRetries
	}
	if !d.given["wait"] {
		d.Wait = defaultSettle
	}
	d.Targets, _ = canonicalTargets(d.Targets)
	d.Exclude = canonicalExclude(d.Exclude)
	d.Ports = joinProtoPorts(d.Ports)
	return d.Masscan, d.withMeaning(d.validate())
}

// canonicalTargets brings readable targets into their one spelling; false: some are not, and all keep their places.
func canonicalTargets(texts []string) ([]string, bool) {
	readable := true
	for i, text := range texts {
		t, fault := readTarget(element("targets", i), text)
		if fault != nil {
			readable = false
			continue
		}
		texts[i] = t.Text
	}
	if !readable { // a fault's index must still be the caller's
		return texts, false
	}
	return once(texts), true
}

func (d *masscanDraft) take(name string, raw json.RawMessage) bool {
	switch name {
	case "targets":
		d.Targets = d.texts(name, raw, MaxTargets)
	case "exclude":
		d.Exclude = d.texts(name, raw, maxExclude)
	case "second_pass":
		d.SecondPass = d.truth(name, raw)
	case "verify":
		if d.Verify = d.text(name, raw); d.Verify == "" {
			d.faults = append(d.faults, oneOf("verify", "", verifications)...)
		}
	case "profile":
		d.Profile = d.text(name, raw)
	case "ports":
		d.Ports = d.protoPorts(name, raw)
	case "rate":
		d.Rate = d.number(name, raw)
	case "retries":
		d.Retries = d.number(name, raw)
	case "wait":
		d.Wait = d.number(name, raw)
	case "limit":
		d.Limit = d.number(name, raw)
	case "engagement":
		d.Engagement = d.engagement(name, raw)
	default:
		return false
	}
	return true
}

func (d *reader) protoPorts(field string, raw json.RawMessage) (ranges []ProtoPorts) {
	elements := d.list(field, raw, maxPortRanges)
	if elements != nil && len(elements) == 0 {
		d.faults = append(d.faults, Fault{Code: "too_few", Field: field, Hint: "name a port, or leave the argument out"})
	}
	for i, e := range elements {
		text := string(e) // a bare number is a port as well
		if strings.HasPrefix(text, `"`) {
			text = d.text(element(field, i), e)
		} else if n, is := Whole(e); is {
			text = strconv.FormatInt(n, 10)
		}
		r, fault := readProtoPorts(element(field, i), text)
		if fault != nil {
			d.faults = append(d.faults, *fault)
			continue
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// validate is every rule there is about a value, whether it was read here or came over the wire.
func (m *Masscan) validate() []Fault {
	var faults []Fault
	for i, t := range m.Targets[:min(len(m.Targets), MaxTargets)] {
		if target, fault := readTarget(element("targets", i), t); fault == nil && family(target.Prefix) == 6 {
			faults = append(faults, Fault{Code: "target_ipv6", Field: element("targets", i), Got: excerpt(t), Hint: "this tool scans IPv4 alone; nmap_scan takes IPv6"})
		}
	}
	if len(faults) == 0 {
		faults = targetFaults(m.Targets, 4)
	}
	faults = append(faults, excludeFaults(m.Exclude, 4)...)
	faults = append(faults, oneOf("profile", m.Profile, masscanProfileNames())...)
	if m.Verify != "" {
		faults = append(faults, oneOf("verify", m.Verify, verifications)...)
	}
	if m.Engagement != "" && !engagement.MatchString(m.Engagement) {
		faults = append(faults, badEngagement(m.Engagement))
	}
	fields := masscanFields()
	for _, n := range []struct {
		field string
		got   int
		open  bool // zero is not given
	}{{"rate", m.Rate, true}, {"retries", m.Retries, false}, {"wait", m.Wait, false}, {"limit", m.Limit, true}} {
		if low, high, _ := rangeOf(fields, n.field); (n.got != 0 || !n.open) && (n.got < low || n.got > high) {
			faults = append(faults, outOfRange(n.field, n.got, low, high))
		}
	}
	if m.Limit > 0 && m.Wait > m.Limit {
		faults = append(faults, Fault{Code: "contradiction", Field: "wait", Hint: "it is a part of limit: lower it, or raise limit", with: "limit"})
	}
	return append(faults, m.portFaults()...)
}

func (m *Masscan) portFaults() []Fault {
	if len(m.Ports) == 0 {
		return []Fault{{Code: "missing", Field: "ports", Hint: "name a port"}}
	}
	if len(m.Ports) > maxPortRanges {
		return []Fault{tooMany("ports", len(m.Ports), maxPortRanges)}
	}
	for i, p := range m.Ports {
		if p.First == 0 || p.First > p.Last {
			return []Fault{{Code: "bad_port", Field: element("ports", i), Got: p.String(), Allowed: []string{"N", "N-M", "udp/N", "1 to 65535"}}}
		}
	}
	if !slices.Equal(m.Ports, joinProtoPorts(m.Ports)) {
		return []Fault{notCanonical("ports", "ranges that touch or are out of order", "sorted and joined ranges, TCP first")}
	}
	return nil
}

func (m *Masscan) plan() Plan {
	p := Plan{Profile: m.Profile, Raw: true, Intrusive: m.intrusive(), Ports: countPorts(m.Ports), Rate: m.Rate, Limit: time.Duration(m.Limit) * time.Second,
		Engagement: m.Engagement, PortsField: "ports", Targets: readTargets(m.Targets), Exclude: readExclude(m.Exclude)}
	for _, r := range m.Ports {
		of := &p.Asked.TCP
		if r.UDP {
			of = &p.Asked.UDP
		}
		*of = append(*of, [2]uint16{r.First, r.Last})
	}
	return p
}

// countPorts is how many ports each address is asked for.
func countPorts(ranges []ProtoPorts) (n int) {
	for _, r := range ranges {
		n += int(r.Last) - int(r.First) + 1
	}
	return n
}

func (m *Masscan) intrusive() []string { return excess(countTargets(m.Targets), m.Rate) }

// bounded leaves a rate that was left open at DefaultRate, or lower: an engagement's rate is what it grants, not what a
// scanner without any care for its targets is to send by default.
func (m *Masscan) bounded(rate int, limit time.Duration) Call {
	b := *m
	if b.Rate == 0 {
		b.Rate = DefaultRate
	}
	if rate > 0 {
		b.Rate = min(b.Rate, rate)
	}
	if seconds := int(min(limit/time.Second, maxLimit)); limit > 0 && (b.Limit == 0 || b.Limit > seconds) {
		b.Limit = max(seconds, minLimit)
		b.Wait = min(b.Wait, b.Limit)
	}
	return Call{Masscan: &b}
}

// testedMasscan is the one line of versions whose options and output this package knows.
var testedMasscan = Version{1, 3}

func knownMasscan(v Version) bool { return v == testedMasscan }

// command builds masscan's command line, of nothing but numbers, judged addresses and words of this function. Its parser
// takes options in many spellings and has no end of options: a word that begins with a hyphen stands here or nowhere.
func (m *Masscan) command(v Version, addresses, excluded []netip.Prefix, reach *Reach) (Command, error) {
	wrong := func(err error) (Command, error) {
		return Command{}, fmt.Errorf("cannot build a command for masscan: %w", err)
	}
	if !knownMasscan(v) {
		return wrong(fmt.Errorf("its version is %s, known is %s", v, testedMasscan))
	}
	if err := checkAddresses(4, addresses, excluded); err != nil {
		return wrong(err)
	}
	tcp, udp := ofProtocol(m.Ports, false), ofProtocol(m.Ports, true)
	if reach != nil {
		if tcp, udp = common(tcp, reach.TCP), common(udp, reach.UDP); len(tcp)+len(udp) == 0 {
			return wrong(errors.New("none of the ports may be sent to"))
		}
	}
	var ports []string
	for _, r := range tcp {
		ports = append(ports, r.String())
	}
	for _, r := range udp {
		ports = append(ports, "U:"+r.String())
	}
	each := 0
	for _, r := range slices.Concat(tcp, udp) {
		each += int(r.Last) - int(r.First) + 1
	}
	probes := countAddresses(addresses) * int64(each)
	rate := m.Rate
	if rate == 0 {
		rate = DefaultRate
	}
	pace := masscanPace(rate, m.Retries, probes)
	sent := masscanSent(pace, m.Retries, probes)
	argv := []string{"masscan",
		"--rate", strconv.Itoa(pace),
		"--retries", strconv.Itoa(m.Retries),
		"--wait", strconv.Itoa(m.Wait),
		"--noreset", // the slot's own kernel resets what is answered; twice would be packets for nothing
		"-p", strings.Join(ports, ",")}
	for _, p := range addresses {
		argv = append(argv, operand(p))
	}
	if size := argvBytes(argv); size > maxArgvBytes {
		return wrong(fmt.Errorf("%d networks make %d bytes, more than %d: split the call", len(addresses), size, maxArgvBytes))
	}
	if u := m.unfit(rate, probes); u != nil {
		return wrong(u)
	}
	// Each answer may be reset by the slot's kernel.
	most := masscanStart + max(2*sent/int64(rate), sent/int64(pace)) + int64(m.Wait) + 1
	return Command{Scanner: "masscan", Argv: argv, Box: "masscan", Raw: true, Ticks: true, Rate: rate, Packets: 2 * sent, Time: time.Duration(most) * time.Second}, nil
}

// masscanStart is how long masscan takes before its first probe and after its last status, in seconds.
const masscanStart = 2

// masscanPace is the rate that masscan is told. It repeats a probe so many packets later as its rate is, and fills up
// with more repetitions where there are not so many probes: 96 probes at 500 a second and one retry were 1192 packets.
// At a rate no higher than the number of probes each is sent at most (1 + retries)² times.
func masscanPace(rate, retries int, probes int64) int {
	if retries > 0 {
		return int(max(min(int64(rate), probes), 1))
	}
	return rate
}

// masscanSent is how many probes masscan sends: seen for 0 and 1 retries at rates above and below their number.
func masscanSent(rate, retries int, probes int64) int64 {
	return (probes + int64(retries)*int64(rate)) * int64(retries+1)
}
