package runners

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// A target is an address, a prefix without host bits, or a name. Every other way in which programs write addresses is
// refused with a hint and never guessed at: a form that two parsers read differently is how a scan leaves its scope.

var (
	label       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	numberLabel = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`)
	rangeForm   = regexp.MustCompile(`^[0-9*\[\]-]+(\.[0-9*\[\]-]+){1,3}$`)
)

const targetExample = "10.0.0.5, 10.0.0.0/24, fd00::5 or host.lab.internal"

// readTarget reads a target. Its Text is the canonical spelling.
func readTarget(field, text string) (Target, *Fault) {
	refuse := func(code, hint string) (Target, *Fault) {
		return Target{}, &Fault{Code: code, Field: field, Got: excerpt(text), Hint: hint, Example: targetExample}
	}
	if code, hint := wrongForm(text); code != "" {
		return refuse(code, hint)
	}
	if strings.Contains(text, "/") {
		return readPrefix(text, refuse)
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		if addr.Is4In6() {
			return refuse("target_mapped", "write the IPv4 address itself: "+addr.Unmap().String())
		}
		return Target{Text: addr.String(), Prefix: netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	return readName(text, refuse)
}

// wrongForm recognises what is certainly not a target, whatever the rest of it says.
func wrongForm(text string) (code, hint string) {
	switch {
	case text == "":
		return "target_empty", "name an address, a network or a host"
	case len(text) > 253:
		return "target_name", "a name has at most 253 characters"
	case strings.IndexFunc(text, func(r rune) bool { return r > '~' }) >= 0:
		return "target_unicode", "write an international name in its punycode form (xn--…)"
	case strings.ContainsAny(text, " \t\r\n\v\f"):
		return "target_space", "no white space: give each target as an element of its own"
	case strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) >= 0:
		return "target_name", "control characters are no part of a target"
	case strings.HasPrefix(text, "-"):
		return "target_option", "a target is never an option; scanner options are arguments of this tool"
	case strings.Contains(text, ","):
		return "target_list", "give each target as an element of its own"
	case strings.Contains(text, "%"):
		return "target_zone", "an address with a zone (%eth0) is not scanned"
	case strings.Contains(text, "://") || strings.Contains(text, "@") || strings.ContainsAny(text, "?#\\"):
		return "target_url", "give the host alone, without scheme, user, port or path"
	case strings.HasPrefix(text, "["):
		return "target_url", "write an IPv6 address without brackets and without a port"
	case strings.HasSuffix(text, "."):
		return "target_trailing_dot", "write the name without the dot at its end"
	}
	return "", ""
}

func readPrefix(text string, refuse func(code, hint string) (Target, *Fault)) (Target, *Fault) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		host, bits, _ := strings.Cut(strings.ToLower(text), "/")
		_, notAddress := netip.ParseAddr(host)
		switch {
		case notAddress != nil && (rangeForm.MatchString(host) || numberLabel.MatchString(host)):
			return refuse("target_ipv4_form", "write the network as four decimal numbers and a prefix length")
		case notAddress == nil || numberLabel.MatchString(bits):
			return refuse("target_prefix", "after / comes a prefix length, to 32 or 128, and only after an address")
		}
		return refuse("target_url", "give the host alone, without a path")
	}
	if prefix.Addr().Is4In6() {
		return refuse("target_mapped", "write the IPv4 network itself")
	}
	if masked := prefix.Masked(); masked != prefix {
		return refuse("target_host_bits", "the address lies inside the network: write "+masked.String()+" or "+prefix.Addr().String())
	}
	if addressCount(prefix) > MaxAddresses {
		return refuse("target_too_large", "a call scans at most "+strconv.Itoa(MaxAddresses)+" addresses: split the network")
	}
	if prefix.IsSingleIP() {
		return Target{Text: prefix.Addr().String(), Prefix: prefix}, nil
	}
	return Target{Text: prefix.String(), Prefix: prefix}, nil
}

func readName(text string, refuse func(code, hint string) (Target, *Fault)) (Target, *Fault) {
	name := strings.ToLower(text)
	labels := strings.Split(name, ".")
	if rangeForm.MatchString(name) && strings.ContainsAny(name, "*-[") {
		return refuse("target_range", "octet ranges and wildcards are not read: write prefixes, such as 10.0.0.0/24")
	}
	if numberLabel.MatchString(labels[len(labels)-1]) {
		return refuse("target_ipv4_form", "write an IPv4 address as four decimal numbers without leading zeros")
	}
	if strings.Contains(name, ":") {
		return refuse("target_address", "this is no IPv6 address; a port belongs into ports")
	}
	for _, l := range labels {
		if !label.MatchString(l) {
			return refuse("target_name", "a name has labels of letters, digits and inner hyphens, each of 1 to 63 characters")
		}
	}
	return Target{Text: name, Name: name}, nil
}

// addressCount is how many addresses a prefix has; past 2^30 it says so many, which is more than any bound here.
func addressCount(p netip.Prefix) int64 {
	return 1 << min(p.Addr().BitLen()-p.Bits(), 30)
}
