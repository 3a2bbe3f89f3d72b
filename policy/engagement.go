package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// Engagement is an operator's authorisation, read and compiled. The zero Engagement names no
// caller and so allows nothing.
type Engagement struct {
	Name, Description string
	File              string
	Revision          string // sha256 of the file, in hexadecimal
	// Limits are the most that one job gets.
	Limits Limits
	// Intrusive is what becomes of scans that are more than a look.
	Intrusive Outcome
	// Expires is the moment from which nothing is allowed; zero for none.
	Expires time.Time

	callers []string // as in the file, with numbers, for people
	users   []uint32
	groups  []uint32
	targets []string // as in the file
	nets    scope
	names   []nameRule
	exclude table
	partly  []portRule // where some ports are excluded and not all, in the order of the file
	// excludePorts is the same by address.
	excludePorts portTable
	hours        *hours
	tools        map[string][]string // profiles, or "*" alone
	confirm      []string            // intrusive, a tool, or TOOL/PROFILE
	approve      []string            // a tool, or TOOL/PROFILE
	approval     approvalFile
}

// nameRule permits asking for names. What the answers may be is its own scope: a name is
// somebody else's word, and it is not to open a network that was meant for another rule.
type nameRule struct {
	name  string // host.example or, for all below it, .example
	label string
	ports portSet
	scope scope
}

// covers takes canonical names, none of which begins with a dot.
func (r nameRule) covers(t Target) bool {
	if strings.HasPrefix(r.name, ".") {
		return strings.HasSuffix(t.Name, r.name) || t.Below && "."+t.Name == r.name
	}
	return !t.Below && t.Name == r.name
}

// Lookup turns what people write into what the kernel says. Any of its functions may be nil.
type Lookup struct {
	User, Group func(name string) (id uint32, ok bool)
	// Profiles says which profiles a tool has; with it, a tool or a profile that does not
	// exist is a fault rather than a rule that never applies.
	Profiles func(tool string) (profiles []string, ok bool)
}

const (
	// maxRules bounds the targets, the prefixes of names and the exclusions of one engagement,
	// each.
	maxRules = 8192
	// maxPortRanges bounds the ports of one target or exclusion, in ranges.
	maxPortRanges = 100
	// maxAddresses bounds addresses_per_job: four networks as large as 10.0.0.0/8.
	maxAddresses = 1 << 26
	// maxPorts is all ports of TCP, UDP and SCTP.
	maxPorts    = 3 * 65535
	maxRate     = 10_000_000
	maxDuration = 7 * 24 * time.Hour
	maxJobs     = 1024
)

// engagementFile is an engagement as it is written. private-lab.yaml shows every key.
type engagementFile struct {
	// Name is the file's name without .yaml, so that a file which cannot be read any more
	// still says which engagement it was.
	Name string `yaml:"name"`
	// Description is for people and for agents: what the work is and who ordered it.
	Description string `yaml:"description"`
	// Callers is who may ask, by name or number.
	Callers callersFile `yaml:"callers"`
	// Targets is what may be scanned: networks and addresses, and names.
	Targets []targetFile `yaml:"targets"`
	// Exclude is what may not, whatever targets says.
	Exclude []excludeFile `yaml:"exclude"`
	// Hours is when; without it, at any hour.
	Hours *hoursFile `yaml:"hours"`
	// Expires is the end: a moment (RFC 3339) or the last day, in the time zone of hours or
	// else in UTC. Without it the engagement has no end.
	Expires expiry `yaml:"expires"`
	// Tools is which tools and which of their profiles; "*" is all profiles of a tool.
	Tools map[string]toolFile `yaml:"tools"`
	// Limits bound each job; what is left out has the value of defaultLimits.
	Limits limitsFile `yaml:"limits"`
	// Intrusive is deny (as without the key), approve or allow.
	Intrusive intrusive `yaml:"intrusive"`
	// Confirm is what the user of the agent has to confirm before it starts: intrusive, a tool, or
	// TOOL/PROFILE. It takes the place of no approval.
	Confirm []string `yaml:"confirm"`
	// Approve is what an operator has to approve beside what is intrusive: a tool, or TOOL/PROFILE.
	Approve []string `yaml:"approve"`
	// Approval is how an approval is given, and from which size on one is needed.
	Approval approvalFile `yaml:"approval"`
}

type callersFile struct {
	Users  []principal `yaml:"users"`
	Groups []principal `yaml:"groups"`
}

// targetFile is a network or an address, or a mapping: of that with what may be sent there, or of
// a name with what its addresses must lie within.
type targetFile struct {
	Network ruleText   `yaml:"network"`
	Name    hostName   `yaml:"name"`
	Within  []ruleText `yaml:"within"`
	// Ports is which; without it, all.
	Ports portsFile `yaml:"ports"`
	// ICMP says whether hosts may be asked by ICMP: as without ports, and not as with them, if it
	// is not said.
	ICMP *bool `yaml:"icmp"`
}

// excludeFile is a network or an address, or a mapping of that with the ports that are excluded.
type excludeFile struct {
	Network ruleText  `yaml:"network"`
	Ports   portsFile `yaml:"ports"`
}

type toolFile struct {
	Profiles []string `yaml:"profiles"`
}

type limitsFile struct {
	Addresses int           `yaml:"addresses_per_job"`
	Ports     int           `yaml:"ports_per_address"`
	Rate      int           `yaml:"packets_per_second"`
	Duration  time.Duration `yaml:"duration"`
	Jobs      int           `yaml:"jobs"`
	Budget    int           `yaml:"total_packets_per_second"`
}

// defaultLimits are for a look at a small network. All jobs together have the machine's budget alone.
var defaultLimits = limitsFile{Addresses: 256, Ports: 65535, Rate: 1000, Duration: time.Hour, Jobs: 4}

// ParseEngagement reads an engagement. With faults, of which every one is told, the engagement
// returned holds nothing but its file, and allows nothing.
func ParseEngagement(file string, data []byte, who Lookup) (Engagement, strict.Faults) {
	f := engagementFile{Limits: defaultLimits, Intrusive: intrusive(Deny), Approval: approvalFile{Within: defaultWithin}}
	lines, faults := strict.Decode(file, data, &f)
	if lines.Unread() {
		return Engagement{File: file}, faults
	}
	c := &compiler{Lines: lines, who: who, faults: faults}
	e := c.engagement(file, f)
	if len(c.faults) > 0 {
		slices.SortStableFunc(c.faults, func(a, b strict.Fault) int { return a.Line - b.Line })
		return Engagement{File: file}, c.faults
	}
	sum := sha256.Sum256(data)
	e.Revision = hex.EncodeToString(sum[:])
	return e, nil
}

// compiler makes an engagement of what was written, and collects what is wrong with its meaning.
type compiler struct {
	*strict.Lines
	who    Lookup
	faults strict.Faults
}

func (c *compiler) wrong(path, got, allowed, hint string) {
	c.faults = append(c.faults, c.Fault(path, got, allowed, hint))
}

// missing reports a key that has to be there; one that is there and wrong was reported already.
func (c *compiler) missing(path string, isEmpty bool, allowed string) {
	if isEmpty && !c.Bad(path) {
		c.wrong(path, "nothing", allowed, "")
	}
}

func (c *compiler) engagement(file string, f engagementFile) Engagement {
	e := Engagement{Name: f.Name, Description: f.Description, File: file, Intrusive: Outcome(f.Intrusive)}
	c.nameAndDescription(file, f)
	c.callers(&e, f.Callers)
	c.targets(&e, f.Targets)
	c.exclude(&e, f.Exclude)
	e.hours = c.readHours(f.Hours)
	e.Expires = f.Expires.end(e.hours)
	e.tools = c.tools(f.Tools)
	e.Limits = c.limits(f.Limits)
	c.scans(&e, "confirm", f.Confirm, []string{intrusiveScans}, "intrusive, a tool of tools, or TOOL/PROFILE")
	e.confirm = slices.Clone(f.Confirm)
	c.approval(&e, f.Approve, f.Approval)
	return e
}

var engagementName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

const nameForm = "small letters, digits and inner hyphens, at most 63"

func (c *compiler) nameAndDescription(file string, f engagementFile) {
	base := strings.TrimSuffix(path.Base(file), ".yaml")
	c.missing("name", f.Name == "", nameForm)
	switch {
	case f.Name == "" || c.Bad("name"):
	case !engagementName.MatchString(f.Name):
		c.wrong("name", strict.Quote(f.Name), nameForm, "")
	case f.Name != base:
		c.wrong("name", strict.Quote(f.Name), "the name of the file, "+strict.Quote(base), "rename the file or the engagement")
	}
	if len(f.Description) > 1000 || strings.ContainsFunc(f.Description, isControl) {
		c.wrong("description", strict.Quote(f.Description), "at most 1000 bytes of text without control characters", "")
	}
}

// isControl is what has no place in a text that ends up on terminals. A newline is fine.
func isControl(r rune) bool { return r != '\n' && !strconv.IsGraphic(r) }

func (c *compiler) callers(e *Engagement, f callersFile) {
	c.missing("callers", len(f.Users)+len(f.Groups) == 0 && !c.Bad("callers.users") && !c.Bad("callers.groups"), "users, groups, or both")
	for i, p := range f.Users {
		e.users = append(e.users, c.principal(e, strict.Index("callers.users", i), "user", p, c.who.User))
	}
	for i, p := range f.Groups {
		e.groups = append(e.groups, c.principal(e, strict.Index("callers.groups", i), "group", p, c.who.Group))
	}
}

func (c *compiler) principal(e *Engagement, path, kind string, p principal, lookup func(string) (uint32, bool)) uint32 {
	if c.Bad(path) {
		return 0
	}
	if p.isNumber {
		e.callers = append(e.callers, fmt.Sprintf("%s %d", kind, p.id))
		return p.id
	}
	id, ok := uint32(0), false
	if lookup != nil {
		id, ok = lookup(p.name)
	}
	if !ok || id == nobody {
		c.wrong(path, strict.Quote(p.name), "a "+kind+" of this machine, by name or number", "a "+kind+" of a directory service is given by number")
	}
	e.callers = append(e.callers, fmt.Sprintf("%s %s (%d)", kind, p.name, id))
	return id
}

func (c *compiler) targets(e *Engagement, targets []targetFile) {
	c.missing("targets", len(targets) == 0, "networks, addresses, or names with what they must lie within")
	c.bound("targets", len(targets))
	var nets []portRule
	within := 0
	for i, t := range targets {
		at := strict.Index("targets", i)
		switch {
		case c.Bad(at), c.Bad(at + ".network"):
		case t.Network.prefix.IsValid():
			prefix := t.Network.prefix
			c.reachable(at, prefix)
			if t.Name != "" || t.Within != nil {
				c.wrong(at, "a network and a name", "one of them", "give each as a target of its own")
			}
			ports, text := c.ports(at, t)
			nets = append(nets, newPortRule(at, prefix, ports, text))
			e.targets = append(e.targets, textOf(prefix)+text)
		default:
			within += len(t.Within)
			c.nameRule(e, at, t)
		}
	}
	c.bound("targets", within)
	e.nets = newScope(nets)
}

func (c *compiler) nameRule(e *Engagement, at string, t targetFile) {
	c.missing(at+".name", t.Name == "", hostForm)
	c.missing(at+".within", len(t.Within) == 0, "the networks that every address of the name must lie within")
	c.bound(at+".within", len(t.Within))
	ports, text := c.ports(at, t)
	var rules []portRule
	var texts []string
	for i, r := range t.Within {
		if r.prefix.IsValid() {
			path := strict.Index(at+".within", i)
			c.reachable(path, r.prefix)
			rules = append(rules, newPortRule(path, r.prefix, ports, ""))
			texts = append(texts, textOf(r.prefix))
		}
	}
	e.names = append(e.names, nameRule{string(t.Name), at + " " + string(t.Name) + text, ports, newScope(rules)})
	e.targets = append(e.targets, string(t.Name)+" within "+strings.Join(texts, ", ")+text)
}

// ports is what a target allows, and how that is said after it.
func (c *compiler) ports(at string, t targetFile) (portSet, string) {
	set, text := allPorts, ""
	if t.Ports != nil {
		set = c.portSet(at+".ports", t.Ports)
		text = " ports " + set.ports().String()
	}
	if t.ICMP != nil && *t.ICMP {
		set[icmp] = icmpAsked
		if t.Ports != nil {
			text = " ports " + set.ports().String()
		}
	} else if t.ICMP != nil {
		set[icmp] = nil
		if t.Ports == nil {
			text = " without icmp"
		}
	}
	if set.isNone() && !c.Bad(at+".ports") {
		c.wrong(at+".ports", "nothing", "ports, or icmp: true beside an empty list", "")
	}
	return set, text
}

func (c *compiler) portSet(path string, ports portsFile) portSet {
	if len(ports) > maxPortRanges {
		c.wrong(path, strconv.Itoa(len(ports))+" entries", fmt.Sprintf("at most %d", maxPortRanges), "use larger ranges")
		ports = ports[:maxPortRanges]
	}
	return ports.set()
}

// exclude leaves out what had a fault; the engagement is not used then.
func (c *compiler) exclude(e *Engagement, rules []excludeFile) {
	c.bound("exclude", len(rules))
	var whole []rule
	for i, r := range rules {
		at := strict.Index("exclude", i)
		c.missing(at+".network", !r.Network.prefix.IsValid() && !c.Bad(at), "the network or address of which ports are excluded")
		switch {
		case !r.Network.prefix.IsValid():
		case r.Ports == nil:
			whole = append(whole, newRule(at, r.Network.prefix))
		default:
			c.missing(at+".ports", len(r.Ports) == 0, "ports; without the key, the whole of it is excluded")
			set := c.portSet(at+".ports", r.Ports)
			e.partly = append(e.partly, newPortRule(at, r.Network.prefix, set, " ports "+set.ports().String()))
		}
	}
	e.exclude, e.excludePorts = newTable(whole), newPortTable(e.partly)
}

func (c *compiler) bound(path string, n int) {
	if n > maxRules {
		c.wrong(path, strconv.Itoa(n)+" entries", fmt.Sprintf("at most %d", maxRules), "use larger networks, or a second engagement")
	}
}

// reachable reports a rule that could never allow anything.
func (c *compiler) reachable(path string, p netip.Prefix) {
	for _, row := range never {
		if !row.lifts && spanOf(p).isIn(row.span) {
			c.wrong(path, strict.Quote(textOf(p)), "a network that can be a target", row.what+" addresses never are: "+row.why)
			return
		}
	}
}

var (
	toolName    = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)
)

// anyProfile stands for all profiles of a tool.
const anyProfile = "*"

func (c *compiler) tools(tools map[string]toolFile) map[string][]string {
	c.missing("tools", len(tools) == 0, "tools with their profiles, as in nmap_scan: {profiles: [quick]}")
	out := map[string][]string{}
	for _, name := range sortedKeys(tools) {
		at := strict.Key("tools", name)
		if !toolName.MatchString(name) {
			c.wrong(at, strict.Quote(name), "the name of a tool", "")
			continue
		}
		profiles := tools[name].Profiles
		c.missing(at+".profiles", len(profiles) == 0 && !c.Bad(at), `names of profiles, or ["*"] for all`)
		c.profiles(at+".profiles", name, profiles)
		out[name] = slices.Clone(profiles)
	}
	return out
}

func (c *compiler) profiles(at, tool string, profiles []string) {
	var known []string
	if c.who.Profiles != nil {
		var exists bool
		if known, exists = c.who.Profiles(tool); !exists {
			c.wrong(strict.Key("tools", tool), strict.Quote(tool), "the name of a tool", "there is no such tool")
			return
		}
	}
	for i, p := range profiles {
		path := strict.Index(at, i)
		switch {
		case c.Bad(path):
		case p == anyProfile && len(profiles) == 1:
		case p == anyProfile:
			c.wrong(path, strict.Quote(p), `["*"] alone, or names`, "")
		case !profileName.MatchString(p):
			c.wrong(path, strict.Quote(p), "the name of a profile", "")
		case c.who.Profiles != nil && !slices.Contains(known, p):
			hint := ""
			if near := strict.Nearest(p, known); near != "" {
				hint = "did you mean " + strict.Quote(near) + "?"
			}
			c.wrong(path, strict.Quote(p), strings.Join(known, ", "), hint)
		}
	}
}

// intrusiveScans stands for them in lists of scans.
const intrusiveScans = "intrusive"

// Confirm is what the user of the agent has to confirm before it starts.
func (e Engagement) Confirm() []string { return slices.Clone(e.confirm) }

func (c *compiler) limits(f limitsFile) Limits {
	for _, l := range []struct {
		key       string
		got, most int
	}{
		{"addresses_per_job", f.Addresses, maxAddresses},
		{"ports_per_address", f.Ports, maxPorts},
		{"packets_per_second", f.Rate, maxRate},
		{"jobs", f.Jobs, maxJobs},
	} {
		if at := "limits." + l.key; !c.Bad(at) && (l.got < 1 || l.got > l.most) {
			c.wrong(at, strconv.Itoa(l.got), fmt.Sprintf("1 to %d", l.most), "")
		}
	}
	if at := "limits.total_packets_per_second"; !c.Bad(at) && (f.Budget < 0 || f.Budget > maxRate || f.Budget == 0 && c.Has(at)) {
		c.wrong(at, strconv.Itoa(f.Budget), fmt.Sprintf("1 to %d", maxRate), "without the key there is no bound but the machine's")
	}
	if !c.Bad("limits.duration") && (f.Duration < time.Second || f.Duration > maxDuration) {
		c.wrong("limits.duration", f.Duration.String(), "1s to "+maxDuration.String(), "")
	}
	return Limits(f)
}

// Names says that the engagement's callers include c.
func (e Engagement) Names(c Caller) bool {
	return slices.Contains(e.users, c.UID) || slices.Contains(e.groups, c.GID) ||
		slices.ContainsFunc(c.Groups, func(g uint32) bool { return slices.Contains(e.groups, g) })
}

// Callers is who may ask, as people write it.
func (e Engagement) Callers() []string { return slices.Clone(e.callers) }

// Targets is the targets as people write them.
func (e Engagement) Targets() []string { return slices.Clone(e.targets) }

// Touches says that an address of the network is a target, by its own rule or by that of a name.
func (e Engagement) Touches(network netip.Prefix) bool {
	of := spanOf(network)
	return len(e.nets.inside.overlapping(of)) > 0 || slices.ContainsFunc(e.names, func(r nameRule) bool { return len(r.scope.inside.overlapping(of)) > 0 })
}

// Excluded is what is excluded, as people write it: what is so with all its ports, sorted, where
// what lies in another is left out, and then that of which ports are.
func (e Engagement) Excluded() []string {
	var out []string
	for _, r := range e.exclude {
		out = append(out, textsOf(prefixesOf([]span{r.span}))...)
	}
	for _, r := range e.partly {
		_, text, _ := strings.Cut(r.label, " ") // behind its place in the file
		out = append(out, text)
	}
	return out
}

// Hours says when it may be used; empty for at any hour.
func (e Engagement) Hours() string {
	if e.hours == nil {
		return ""
	}
	return e.hours.text
}

// Tools is the tools that may be used, sorted.
func (e Engagement) Tools() []string { return sortedKeys(e.tools) }

// Profiles is the profiles of a tool that may be used, or "*" alone for all.
func (e Engagement) Profiles(tool string) []string { return slices.Clone(e.tools[tool]) }

// Open says whether the engagement may be used at that time: until when (zero for no end), or
// else why not.
func (e Engagement) Open(now time.Time) (until time.Time, closed string) {
	if v := e.open(now); v != nil {
		return time.Time{}, v.Reason
	}
	return e.until(now), ""
}
