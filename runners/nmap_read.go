package runners

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A profile is a set of defaults: what a caller says outright goes before it.
type profile struct {
	name             string
	about            string
	scanType         string
	ports            []Ports
	topPorts         int
	serviceDetection bool
	intensity        int // where services are detected
	scripts          bool
	timing           string
	hostTimeout      int // seconds
}

var profiles = []profile{
	{name: "discovery", about: "which addresses answer, no ports", scanType: "ping", timing: "aggressive", hostTimeout: 60},
	{name: "quick", about: "100 most common ports", scanType: "connect", topPorts: 100, timing: "aggressive", hostTimeout: 300},
	{name: "standard", about: "1000 most common ports, services", scanType: "connect", topPorts: 1000, serviceDetection: true, intensity: 7, timing: "normal", hostTimeout: 900},
	{name: "thorough", about: "all ports, services, standard scripts", scanType: "connect", ports: []Ports{{1, maxPort}}, serviceDetection: true, intensity: 7, scripts: true, timing: "normal", hostTimeout: 3600},
	{name: "version", about: "1000 most common ports, services with fewer probes", scanType: "connect", topPorts: 1000, serviceDetection: true, intensity: 5, timing: "normal", hostTimeout: 900},
	{name: "script", about: "1000 most common ports, standard scripts", scanType: "connect", topPorts: 1000, scripts: true, timing: "normal", hostTimeout: 900},
}

const (
	defaultProfile   = "quick"
	defaultIntensity = 7 // nmap's own
)

func profileNamed(name string) (profile, bool) {
	i := slices.IndexFunc(profiles, func(p profile) bool { return p.name == name })
	if i < 0 {
		return profile{}, false
	}
	return profiles[i], true
}

func profileNames() []string {
	names := make([]string, len(profiles))
	for i, p := range profiles {
		names[i] = p.name
	}
	return names
}

// draft is a call while it is read: what was given, and what was wrong with its form.
type draft struct {
	Nmap
	given  map[string]bool
	faults []Fault
}

// frontArguments are what the tool takes beside its own arguments. The front reads them and takes them out before.
var frontArguments = []string{"wait_s", "correlation_id"}

// readNmap reads forms, fills in the profile, normalises, and leaves every question of meaning to validate: Read and
// Validate cannot come to differ.
func readNmap(members map[string]json.RawMessage) (Nmap, []Fault) {
	d := &draft{given: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		d.given[name] = true
		if !d.take(name, members[name]) {
			known := append(nmapFieldNames(), frontArguments...)
			hint := perhaps(name, known)
			if hint == "" {
				hint = "leave it out: these arguments are all there are, and no scanner option is passed on"
			}
			d.faults = append(d.faults, Fault{Code: "unknown_argument", Field: argumentName(name), Allowed: known, Hint: hint})
		}
	}
	d.fill()
	d.normalise()
	return d.Nmap, d.withMeaning(d.Nmap.validate())
}

// take reads one argument. It returns false when there is no such argument.
func (d *draft) take(name string, raw json.RawMessage) bool {
	switch name {
	case "targets":
		d.Targets = d.texts(name, raw, MaxTargets)
	case "profile":
		d.Profile = d.text(name, raw)
	case "scan_type":
		d.ScanType = d.text(name, raw)
	case "ports":
		d.Ports = d.ports(name, raw)
	case "top_ports":
		d.TopPorts = d.number(name, raw)
	case "service_detection":
		d.ServiceDetection = d.truth(name, raw)
	case "version_intensity":
		n := d.number(name, raw)
		d.VersionIntensity = &n
	case "os_detection":
		d.OSDetection = d.truth(name, raw)
	case "scripts":
		d.Scripts = d.texts(name, raw, len(scripts))
	case "timing":
		d.Timing = d.text(name, raw)
	case "ip_version":
		d.IPVersion = d.number(name, raw)
	case "rate":
		d.Rate = d.number(name, raw)
	case "host_timeout":
		d.HostTimeout = d.number(name, raw)
	case "limit":
		d.Limit = d.number(name, raw)
	case "skip_discovery":
		d.SkipDiscovery = d.truth(name, raw)
	case "engagement":
		d.engagement(name, raw)
	default:
		return false
	}
	return true
}

// fill puts the profile's defaults where nothing was given.
func (d *draft) fill() {
	if !d.given["profile"] {
		d.Profile = defaultProfile
	}
	p, known := profileNamed(d.Profile)
	if !known {
		p, _ = profileNamed(defaultProfile)
	}
	if !d.given["scan_type"] {
		d.ScanType = p.scanType
	}
	if !d.given["ports"] && !d.given["top_ports"] && d.ScanType != "ping" {
		d.Ports, d.TopPorts = slices.Clone(p.ports), p.topPorts
		if p.scanType == "ping" {
			d.TopPorts = 100 // discovery with a port scan's type: as many ports as quick
		}
	}
	if !d.given["service_detection"] {
		d.ServiceDetection = p.serviceDetection && d.ScanType != "ping"
	}
	if !d.given["version_intensity"] && d.ServiceDetection {
		intensity := p.intensity
		if !p.serviceDetection {
			intensity = defaultIntensity
		}
		d.VersionIntensity = &intensity
	}
	if !d.given["scripts"] && p.scripts && d.ScanType != "ping" {
		d.Scripts = scriptNames(standardScript)
	}
	if !d.given["timing"] {
		d.Timing = p.timing
	}
	if !d.given["host_timeout"] {
		d.HostTimeout = p.hostTimeout
		if d.Limit >= minLimit {
			d.HostTimeout = min(d.HostTimeout, d.Limit)
		}
	}
}

// normalise brings what is readable into its one spelling and leaves the rest for validate to refuse.
func (d *draft) normalise() {
	single, readable, literal := true, true, 0
	for i, text := range d.Targets {
		t, fault := readTarget(element("targets", i), text)
		if fault != nil {
			readable = false
			continue
		}
		d.Targets[i] = t.Text
		single = single && (t.Name != "" || t.Prefix.IsSingleIP())
		if literal == 0 {
			literal = family(t.Prefix)
		}
	}
	if readable { // else a fault's index must still be the caller's
		d.Targets = once(d.Targets)
	}
	d.Ports = joinPorts(d.Ports)
	if !slices.ContainsFunc(d.Scripts, unknownScript) {
		d.Scripts = once(slices.Sorted(slices.Values(d.Scripts)))
	}
	if !d.given["ip_version"] {
		d.IPVersion = 4
		if literal == 6 {
			d.IPVersion = 6
		}
	}
	if !d.given["skip_discovery"] {
		// A host that was named and drops probes is to be scanned, not called down; a network is to be searched first.
		d.SkipDiscovery = single && d.ScanType != "ping"
	}
}

// withMeaning joins the faults of form with those of meaning. Where an argument could not be read at all, what it would
// mean is not gone into.
func (d *draft) withMeaning(meaning []Fault) []Fault {
	unread := map[string]bool{}
	for _, f := range d.faults {
		unread[topField(f.Field)] = true
	}
	faults := d.faults
	for _, f := range meaning {
		if !unread[topField(f.Field)] && !unread[f.with] {
			faults = append(faults, f)
		}
	}
	return faults
}

func (d *draft) wrongType(field string, raw json.RawMessage, want string) {
	f := Fault{Code: "wrong_type", Field: field, Got: excerpt(string(raw)), Allowed: []string{want}, Hint: "the schema of the tool has the type of each argument"}
	if string(raw) == "null" {
		f.Hint = "leave the argument out"
	}
	d.faults = append(d.faults, f)
}

func (d *draft) text(field string, raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		d.wrongType(field, raw, "a string")
	}
	return s
}

// engagement reads the name of an engagement. Empty stands for "not given", and to give it is not the same.
func (d *draft) engagement(field string, raw json.RawMessage) {
	before := len(d.faults)
	d.Engagement = d.text(field, raw)
	if d.Engagement == "" && len(d.faults) == before {
		d.faults = append(d.faults, badEngagement(""))
	}
}

func (d *draft) truth(field string, raw json.RawMessage) bool {
	if s := string(raw); s != "true" && s != "false" {
		d.wrongType(field, raw, "true or false")
	}
	return string(raw) == "true"
}

// number reads an integer. No bound is wider than 32 bits.
func (d *draft) number(field string, raw json.RawMessage) int {
	n, is := Whole(raw)
	if !is || n != int64(int32(n)) {
		d.wrongType(field, raw, "a whole number")
	} else if n == 0 {
		// Zero stands for "not given" in several fields, and to give it is not the same.
		d.zero(field)
	}
	return int(n)
}

// zero refuses a given zero where a field's range does not begin there.
func (d *draft) zero(field string) {
	if low, high, bounded := nmapRange(field); bounded && low > 0 {
		d.faults = append(d.faults, outOfRange(field, 0, low, high))
	}
}

// list takes a list apart. It is nil, and the fault is recorded, when there is no list of a bearable length.
func (d *draft) list(field string, raw json.RawMessage, most int) []json.RawMessage {
	var elements []json.RawMessage
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &elements) != nil {
		d.wrongType(field, raw, "a list")
		return nil
	}
	if len(elements) > most {
		d.faults = append(d.faults, tooMany(field, len(elements), most))
		return nil
	}
	return elements
}

func (d *draft) texts(field string, raw json.RawMessage, most int) []string {
	texts := []string{}
	for i, e := range d.list(field, raw, most) {
		texts = append(texts, d.text(element(field, i), e))
	}
	return texts
}

func (d *draft) ports(field string, raw json.RawMessage) []Ports {
	elements := d.list(field, raw, maxPortRanges)
	if elements != nil && len(elements) == 0 {
		d.faults = append(d.faults, Fault{Code: "too_few", Field: field, Hint: "name a port, or leave the argument out"})
	}
	ranges := []Ports{}
	for i, e := range elements {
		text := string(e) // a bare number is a port as well
		if strings.HasPrefix(text, `"`) {
			text = d.text(element(field, i), e)
		} else if n, is := Whole(e); is {
			text = strconv.FormatInt(n, 10)
		}
		r, fault := readPorts(element(field, i), text)
		if fault != nil {
			d.faults = append(d.faults, *fault)
			continue
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// once drops repetitions and keeps the order.
func once(texts []string) []string {
	seen := map[string]bool{}
	kept := []string{}
	for _, t := range texts {
		if !seen[t] {
			seen[t] = true
			kept = append(kept, t)
		}
	}
	return kept
}
