package policy

import "net/netip"

// reserved is a row of the table of what is no target unless an operator names it: addresses
// that lead elsewhere than they seem to, or to everybody.
type reserved struct {
	span
	what string
	// lifts says that a rule whose prefix lies wholly in the row makes its own addresses
	// targets again, as far as this row goes.
	lifts bool
	why   string
}

// never is the table. Rows may lie in one another; an address must be free of all of them.
var never = []reserved{
	{network("0.0.0.0/32"), "unspecified", false, "a connection to it reaches this machine itself"},
	{network("0.0.0.0/8"), "this network", true, "RFC 1122: a source while an address is being learnt, no destination"},
	{network("127.0.0.0/8"), "loopback", true, "the machine that sends"},
	{network("169.254.0.0/16"), "link-local", true, "RFC 3927: another host on each link; services of clouds live here"},
	{network("192.0.0.0/24"), "IETF protocol assignments", true, "RFC 6890: among them addresses that every network's gateway answers"},
	{network("192.0.2.0/24"), "documentation", true, "RFC 5737: copied from an example; nobody's"},
	{network("198.51.100.0/24"), "documentation", true, "RFC 5737"},
	{network("203.0.113.0/24"), "documentation", true, "RFC 5737"},
	{network("192.88.99.0/24"), "6to4 relays", true, "RFC 7526: whichever relay is near"},
	{network("198.18.0.0/15"), "benchmarking", true, "RFC 2544: test beds, and the inner addresses of some proxies"},
	{network("224.0.0.0/4"), "multicast", true, "one packet, any number of hosts, none of them asked for"},
	{network("240.0.0.0/4"), "reserved", true, "RFC 1112, class E: nobody's"},
	{network("255.255.255.255/32"), "broadcast", false, "everybody on the link at once; no address of anybody's"},

	// A scanner that reaches one of these may be handed the machine's credentials.
	{network("169.254.169.254/32"), "cloud metadata", true, "AWS, Azure, Google and most others"},
	{network("169.254.170.2/32"), "cloud metadata", true, "AWS: credentials of containers (ECS)"},
	{network("169.254.170.23/32"), "cloud metadata", true, "AWS: credentials of containers (EKS)"},
	{network("100.100.100.200/32"), "cloud metadata", true, "Alibaba; lies in shared address space, which is a target like any other"},
	{network("168.63.129.16/32"), "cloud metadata", true, "Azure: the host's services; a public address"},
	{network("fd00:ec2::/32"), "cloud metadata", true, "AWS: metadata, container credentials, name server and clock, all in unique local space"},
	{network("fd20:ce::254/128"), "cloud metadata", true, "Google; in unique local space"},
	{network("fd00:42::42/128"), "cloud metadata", true, "Scaleway; in unique local space"},

	{network("::/128"), "unspecified", false, "a connection to it reaches this machine itself"},
	{network("::1/128"), "loopback", true, "the machine that sends"},
	{network("fe80::/10"), "link-local", true, "another host on each link"},
	{network("fec0::/10"), "site-local", true, "RFC 3879: deprecated, for no two sites agreed what it meant"},
	{network("ff00::/8"), "multicast", true, "one packet, any number of hosts, none of them asked for"},
	{network("100::/64"), "discard only", true, "RFC 6666: made to be dropped"},
	{network("2001:db8::/32"), "documentation", true, "RFC 3849: copied from an example; nobody's"},
	{network("3fff::/20"), "documentation", true, "RFC 9637"},
	{network("2001:2::/48"), "benchmarking", true, "RFC 5180"},
	{network("2001:10::/28"), "ORCHID", true, "RFC 4843, 7343: names of hosts, no places"},
	{network("2001:20::/28"), "ORCHID", true, "RFC 7343"},

	// An address of IPv4 inside one of IPv6: whoever names the second would get around each
	// exclusion and rule that is written for the first. So nothing lifts these.
	{span{netip.MustParseAddr("::2"), netip.MustParseAddr("::ffff:ffff")}, "IPv4-compatible", false, "RFC 4291: IPv4 in disguise, deprecated"},
	{network("::ffff:0:0/96"), "IPv4-mapped", false, "RFC 4291: the kernel sends IPv4 for it"},
	{network("::ffff:0:0:0/96"), "IPv4-translated", false, "RFC 2765: IPv4 in disguise"},
	{network("64:ff9b::/96"), "NAT64", false, "RFC 6052: a translator sends IPv4 for it"},
	{network("64:ff9b:1::/48"), "NAT64", false, "RFC 8215: a translator sends IPv4 for it"},
	{network("2002::/16"), "6to4", false, "RFC 3056: a tunnel to the IPv4 address inside"},
	{network("2001::/32"), "Teredo", false, "RFC 4380: a tunnel to the IPv4 address inside"},
}

func network(text string) span { return spanOf(netip.MustParsePrefix(text)) }

func (r reserved) rule() string { return "never: " + r.what }

// neverRow is the row that all of s lies in, if any; the narrowest says most.
func neverRow(s span) (reserved, bool) {
	var found *reserved
	for i, row := range never {
		if s.isIn(row.span) && (found == nil || row.span.isIn(found.span)) {
			found = &never[i]
		}
	}
	if found == nil {
		return reserved{}, false
	}
	return *found, true
}
