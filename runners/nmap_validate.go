package runners

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

var (
	scanTypes  = []string{"connect", "syn", "udp", "ping"}
	timings    = []string{"polite", "normal", "aggressive"}
	engagement = regexp.MustCompile(engagementRE)
)

// validate is every rule there is about a value, whether it was read here or came over the wire.
func (n *Nmap) validate() []Fault {
	var faults []Fault
	faults = append(faults, n.targetFaults()...)
	faults = append(faults, excludeFaults(n.Exclude, n.IPVersion)...)
	faults = append(faults, n.wordFaults()...)
	faults = append(faults, n.rangeFaults()...)
	faults = append(faults, n.portFaults()...)
	faults = append(faults, n.scriptFaults()...)
	return append(faults, n.contradictions()...)
}

func (n *Nmap) targetFaults() []Fault { return targetFaults(n.Targets, n.IPVersion) }

// targetFaults are those of targets that are to be of one version of IP.
func targetFaults(targets []string, version int) []Fault {
	if len(targets) == 0 {
		return []Fault{{Code: "missing", Field: "targets", Hint: "name at least one target", Example: targetExample}}
	}
	if len(targets) > MaxTargets {
		return []Fault{tooMany("targets", len(targets), MaxTargets)}
	}
	var faults []Fault
	literal := 0
	for i, text := range targets {
		field := element("targets", i)
		target, fault := readTarget(field, text)
		if fault != nil {
			faults = append(faults, *fault)
			continue
		}
		if target.Text != text {
			faults = append(faults, notCanonical(field, text, target.Text))
		}
		f := family(target.Prefix)
		if f != 0 && literal != 0 && f != literal {
			faults = append(faults, Fault{Code: "mixed_families", Field: field, Got: excerpt(text), Hint: "IPv4 and IPv6 targets are two calls"})
		}
		if literal == 0 {
			literal = f
		}
	}
	if literal != 0 && (version == 4 || version == 6) && version != literal {
		faults = append(faults, Fault{Code: "mixed_families", Field: "ip_version", Got: strconv.Itoa(version), Allowed: []string{strconv.Itoa(literal)},
			Hint: "the targets have addresses of the other version", with: "targets"})
	}
	if len(faults) > 0 {
		return faults
	}
	if count := countTargets(targets); count > MaxAddresses {
		faults = append(faults, Fault{Code: "too_many", Field: "targets", Got: fmt.Sprintf("%d addresses", count),
			Allowed: []string{fmt.Sprintf("at most %d addresses", MaxAddresses)}, Hint: "split the call"})
	}
	if len(once(targets)) != len(targets) {
		faults = append(faults, notCanonical("targets", "a target twice", "each target once"))
	}
	return faults
}

func (n *Nmap) wordFaults() []Fault {
	var faults []Fault
	faults = append(faults, oneOf("profile", n.Profile, profileNames())...)
	faults = append(faults, oneOf("scan_type", n.ScanType, scanTypes)...)
	faults = append(faults, oneOf("timing", n.Timing, timings)...)
	faults = append(faults, oneOf("ip_version", strconv.Itoa(n.IPVersion), []string{"4", "6"})...)
	if n.Engagement != "" && !engagement.MatchString(n.Engagement) {
		faults = append(faults, badEngagement(n.Engagement))
	}
	return faults
}

func (n *Nmap) rangeFaults() []Fault {
	var faults []Fault
	fields := nmapFields()
	within := func(field string, got int) {
		if low, high, _ := rangeOf(fields, field); got < low || got > high {
			faults = append(faults, outOfRange(field, got, low, high))
		}
	}
	unlessOpen := func(field string, got int) {
		if got != 0 {
			within(field, got)
		}
	}
	within("host_timeout", n.HostTimeout)
	unlessOpen("top_ports", n.TopPorts)
	unlessOpen("rate", n.Rate)
	unlessOpen("limit", n.Limit)
	if n.VersionIntensity != nil {
		within("version_intensity", *n.VersionIntensity)
	}
	return faults
}

func (n *Nmap) portFaults() []Fault {
	if len(n.Ports) > maxPortRanges {
		return []Fault{tooMany("ports", len(n.Ports), maxPortRanges)}
	}
	for i, p := range n.Ports {
		if p.First == 0 || p.First > p.Last {
			return []Fault{{Code: "bad_port", Field: element("ports", i), Got: p.String(), Allowed: []string{"N", "N-M", "1 to 65535"}}}
		}
	}
	if !slices.Equal(n.Ports, joinPorts(n.Ports)) {
		return []Fault{notCanonical("ports", "ranges that touch or are out of order", "sorted and joined ranges")}
	}
	return nil
}

func (n *Nmap) scriptFaults() []Fault {
	if len(n.Scripts) > len(scripts) {
		return []Fault{tooMany("scripts", len(n.Scripts), len(scripts))}
	}
	var faults []Fault
	for i, name := range n.Scripts {
		if unknownScript(name) {
			hint := perhaps(name, scriptNames(anyScript))
			if hint == "" {
				hint = "scripts are given by name, not by category, path or expression"
			}
			faults = append(faults, Fault{Code: "unknown_script", Field: element("scripts", i), Got: excerpt(name), Hint: hint, Example: "ssl-cert",
				Allowed: append(scriptsLike(name), fmt.Sprintf("the %d names that the schema of %s lists for scripts", len(scripts), nmapName))})
		}
	}
	if len(faults) > 0 {
		return faults
	}
	if !slices.IsSorted(n.Scripts) || len(once(n.Scripts)) != len(n.Scripts) {
		faults = append(faults, notCanonical("scripts", "names out of order or twice", "sorted names, each once"))
	}
	return faults
}

// contradictions are faults between two arguments, each of which could be right.
func (n *Nmap) contradictions() []Fault {
	var faults []Fault
	clash := func(when bool, field, with, hint string) {
		if when {
			faults = append(faults, Fault{Code: "contradiction", Field: field, Hint: hint, with: with})
		}
	}
	ping := n.ScanType == "ping"
	const noPorts = "scan_type ping (profile discovery) looks for hosts only: leave this out, or choose scan_type connect"
	clash(ping && len(n.Ports) > 0, "ports", "scan_type", noPorts)
	clash(ping && n.TopPorts > 0, "top_ports", "scan_type", noPorts)
	clash(ping && n.ServiceDetection, "service_detection", "scan_type", noPorts)
	clash(ping && n.OSDetection, "os_detection", "scan_type", noPorts)
	clash(ping && len(n.Scripts) > 0, "scripts", "scan_type", noPorts)
	clash(ping && n.SkipDiscovery, "skip_discovery", "scan_type", "scan_type ping is the discovery")
	clash(!ping && len(n.Ports) == 0 && n.TopPorts == 0, "ports", "top_ports", "a scan of ports needs ports or top_ports")
	clash(len(n.Ports) > 0 && n.TopPorts > 0, "top_ports", "ports", "give ports or top_ports, not both")
	clash(n.VersionIntensity != nil && !n.ServiceDetection, "version_intensity", "service_detection", "it needs service_detection true")
	clash(n.VersionIntensity == nil && n.ServiceDetection, "version_intensity", "service_detection", "service_detection needs it")
	clash(n.Limit > 0 && n.HostTimeout > n.Limit, "host_timeout", "limit", "one host cannot take longer than the whole job: lower it, or raise limit")
	return faults
}

// oneOf is the fault of a word that is none of those allowed, if it is not.
func oneOf(field, got string, allowed []string) []Fault {
	if slices.Contains(allowed, got) {
		return nil
	}
	hint := perhaps(got, allowed)
	if hint == "" {
		hint = "take one of those allowed, or leave it out"
	}
	return []Fault{{Code: "not_one_of", Field: field, Got: excerpt(got), Allowed: allowed, Hint: hint}}
}

func tooMany(field string, got, most int) Fault {
	return Fault{Code: "too_many", Field: field, Got: strconv.Itoa(got), Allowed: []string{"at most " + strconv.Itoa(most)}}
}

func outOfRange(field string, got, low, high int) Fault {
	return Fault{Code: "out_of_range", Field: field, Got: strconv.Itoa(got), Allowed: []string{fmt.Sprintf("%d to %d", low, high)},
		Hint: "give a number of that range, or leave it out"}
}

func badEngagement(got string) Fault {
	return Fault{Code: "bad_name", Field: "engagement", Got: excerpt(got), Allowed: []string{"1 to 63 of a-z 0-9 and inner hyphens"},
		Hint: "leave it out to have one chosen"}
}

func notCanonical(field, got, want string) Fault {
	return Fault{Code: "not_canonical", Field: field, Got: excerpt(got), Allowed: []string{excerpt(want)}}
}
