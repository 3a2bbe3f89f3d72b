package runners

import (
	"encoding/json"
	"slices"
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

// draft is a call while it is read.
type draft struct {
	Nmap
	reader
}

// readNmap reads forms, fills in the profile, normalises, and leaves every question of meaning to validate: Read and
// Validate cannot come to differ.
func readNmap(members map[string]json.RawMessage) (Nmap, []Fault) {
	d := &draft{reader: reader{fields: nmapFields()}}
	d.all(members, d.take)
	d.fill()
	d.normalise()
	return d.Nmap, d.withMeaning(d.Nmap.validate())
}

// take reads one argument. It returns false when there is no such argument.
func (d *draft) take(name string, raw json.RawMessage) bool {
	switch name {
	case "targets":
		d.Targets = d.texts(name, raw, MaxTargets)
	case "exclude":
		d.Exclude = d.texts(name, raw, maxExclude)
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
		d.Engagement = d.engagement(name, raw)
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
	d.Exclude = canonicalExclude(d.Exclude)
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
