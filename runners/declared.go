package runners

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Declared is a read call of a declared tool: complete and canonical, as Nmap is.
type Declared struct {
	// Revision is of the declaration that it was read by: to another one its values may mean something else.
	Revision   string            `json:"revision"`
	Targets    []string          `json:"targets"`
	Exclude    []string          `json:"exclude,omitempty"` // of the targets
	Profile    string            `json:"profile"`
	IPVersion  int               `json:"ip_version"`
	Values     map[string]string `json:"values"` // of each field of the declaration, in its one spelling
	Rate       int               `json:"rate,omitempty"`
	Limit      int               `json:"limit,omitempty"`
	Engagement string            `json:"engagement,omitempty"`

	of    *Declaration // from the table that read or validated the call
	lines int64        // of its wordlist: see WithWords
}

// by is the call with what it means: by a declaration, and with a wordlist of so many lines.
func (c *Declared) by(d *Declaration, lines int64) *Declared {
	with := *c
	with.of, with.lines = d, lines
	return &with
}

// declaredScan is a call together with the declaration that says what it means.
type declaredScan struct {
	*Declared
	d *Declaration
}

// With is the table with declared scanners after those that are built in. Their names are those of ParseDeclaration, and
// each once.
func (t Table) With(declared ...Declaration) Table {
	rows := slices.Clone(t.rows)
	for i := range declared {
		rows = append(rows, declared[i].row())
	}
	return Table{rows}
}

// Declaration is that of a declared tool; nil: it is built in, or there is no such tool.
func (t Table) Declaration(tool string) *Declaration {
	r, _ := t.named(tool)
	return r.declared
}

func (d *Declaration) row() row {
	return row{
		name: d.Name, scanner: d.scanner(), tool: d.tool, profiles: d.profileNames, declared: d,
		read: func(members map[string]json.RawMessage) (Call, []Fault) {
			scan, faults := d.read(members)
			return Call{Declared: scan.by(d, 0)}, faults
		},
		asks: [][]string{d.asks}, version: d.version,
		knows: func(v Version, _ [][]byte) error {
			if d.from != nil && v.before(*d.from) || d.to != nil && d.to.before(v) {
				return fmt.Errorf("%s %s is not used: its declaration is for other versions", d.scanner(), v)
			}
			return nil
		},
	}
}

func (v Version) before(o Version) bool {
	return v.Major < o.Major || v.Major == o.Major && v.Minor < o.Minor
}

func (d *Declaration) tool() Tool {
	var b strings.Builder
	b.WriteString(d.description + "\nProfiles:\n")
	for _, p := range d.profiles {
		b.WriteString("- " + p.name + ": " + p.about + "\n")
	}
	return Tool{Name: d.Name, Scanner: d.scanner(), Title: d.title, Description: strings.TrimSuffix(b.String(), "\n"), InputSchema: objectSchema(d.arguments(), d.required()...)}
}

// required is what a call has to say: its targets, and what nothing else says.
func (d *Declaration) required() []string {
	names := []string{"targets"}
	for _, f := range d.fields {
		if f.initial == "" && !d.everyProfileSets(f.name) {
			names = append(names, f.name)
		}
	}
	return names
}

func (d *Declaration) everyProfileSets(name string) bool {
	return !slices.ContainsFunc(d.profiles, func(p declaredProfile) bool { return p.set[name] == "" })
}

// arguments is every argument of the tool.
func (d *Declaration) arguments() []field {
	profile := oneOfWords("", d.profileNames())
	profile.Default = d.profiles[0].name
	about := "Addresses, networks or host names: at most " + strconv.Itoa(d.most) + " addresses."
	if d.networks {
		about = "Addresses, networks or host names: at most " + strconv.Itoa(d.most) + "."
	}
	fields := []field{{"targets", list(about, 1, min(d.most, MaxTargets), schema{Type: "string"})}, {"profile", profile}}
	for _, f := range d.fields {
		fields = append(fields, field{f.name, f.schema()})
	}
	if len(d.families) > 1 {
		fields = append(fields, field{"ip_version", schema{Type: "integer", Enum: []any{4, 6}}})
	}
	return append(fields, excludeField(""), field{"rate", numbers("Most packets per second.", 1, maxRate)}, field{"limit", numbers("Seconds for the whole job.", minLimit, maxLimit)},
		field{"engagement", schema{Type: "string", Pattern: engagementRE}})
}

func (f *declaredField) schema() schema {
	switch first, last := 1, maxPort; f.kind {
	case kindInteger:
		return numbers(f.about, f.low, f.high)
	case kindBoolean:
		return truth(f.about)
	case kindEnum:
		return oneOfWords(f.about, f.names())
	case kindPort:
		return numbers(f.about, first, last)
	case kindPorts:
		return list(f.about, 1, f.most, schema{AnyOf: []schema{
			{Type: "integer", Minimum: &first, Maximum: &last},
			{Type: "string", Pattern: `^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$`},
		}})
	}
	return schema{Type: "string", Description: f.about, Pattern: WordlistForm}
}

func (f *declaredField) names() (names []string) {
	for _, v := range f.values {
		names = append(names, v.name)
	}
	return names
}

// read is the one spelling of a value as it is written in a file or came over the wire.
func (f *declaredField) read(text string) (string, *Fault) {
	switch f.kind {
	case kindInteger, kindPort:
		low, high := f.low, f.high
		if f.kind == kindPort {
			low, high = 1, maxPort
		}
		n, err := strconv.Atoi(text)
		if err != nil || strconv.Itoa(n) != text || n < low || n > high {
			fault := outOfRange(f.name, n, low, high)
			fault.Got = excerpt(text)
			return "", &fault
		}
	case kindBoolean:
		if faults := oneOf(f.name, text, []string{"true", "false"}); len(faults) > 0 {
			return "", &faults[0]
		}
	case kindEnum:
		if faults := oneOf(f.name, text, f.names()); len(faults) > 0 {
			return "", &faults[0]
		}
	case kindWordlist:
		if !wordlistForm.MatchString(text) {
			return "", &Fault{Code: "bad_name", Field: f.name, Got: excerpt(text), Allowed: []string{"1 to 64 of a-z 0-9 . _ -"}, Hint: "a wordlist is given by its name; capabilities lists them"}
		}
	case kindPorts:
		ranges, fault := f.ranges(text)
		if fault != nil {
			return "", fault
		}
		return portList(ranges), nil
	}
	return text, nil
}

// ranges reads ports as they are spelled in a value: with commas between them.
func (f *declaredField) ranges(text string) (ranges []Ports, fault *Fault) {
	for i, part := range strings.Split(text, ",") {
		r, fault := readPorts(element(f.name, i), part)
		if fault != nil {
			return nil, fault
		}
		ranges = append(ranges, r)
	}
	if len(ranges) > f.most {
		fault := tooMany(f.name, len(ranges), f.most)
		return nil, &fault
	}
	return joinPorts(ranges), nil
}

type declaredDraft struct {
	Declared
	reader
	d *Declaration
}

// read reads forms, fills in the profile and the defaults, and leaves every question of meaning to validate.
func (d *Declaration) read(members map[string]json.RawMessage) (Declared, []Fault) {
	r := &declaredDraft{Declared: Declared{Revision: d.Revision, Values: map[string]string{}}, reader: reader{fields: d.arguments()}, d: d}
	r.all(members, r.take)
	if !r.given["profile"] {
		r.Profile = d.profiles[0].name
	}
	for _, p := range d.profiles {
		if p.name == r.Profile {
			r.fill(p.set)
		}
	}
	initial := map[string]string{}
	for _, f := range d.fields {
		initial[f.name], _ = f.read(f.initial) // the one spelling of what was checked; "" of none
	}
	r.fill(initial)
	r.Targets, _ = canonicalTargets(r.Targets)
	r.Exclude = canonicalExclude(r.Exclude)
	if !r.given["ip_version"] {
		r.IPVersion = d.families[0]
		for _, t := range readTargets(r.Targets) {
			if v := family(t.Prefix); v != 0 && slices.Contains(d.families, v) {
				r.IPVersion = v
				break
			}
		}
	}
	scan := declaredScan{Declared: &r.Declared, d: d}
	return r.Declared, r.withMeaning(scan.validate())
}

// fill puts values where none was given, or is there already.
func (r *declaredDraft) fill(values map[string]string) {
	for name, value := range values {
		if _, has := r.Values[name]; !has && !r.given[name] && value != "" {
			r.Values[name] = value
		}
	}
}

func (r *declaredDraft) take(name string, raw json.RawMessage) bool {
	switch name {
	case "targets":
		r.Targets = r.texts(name, raw, MaxTargets)
		return true
	case "exclude":
		r.Exclude = r.texts(name, raw, maxExclude)
		return true
	case "profile":
		r.Profile = r.text(name, raw)
		return true
	case "rate":
		r.Rate = r.number(name, raw)
		return true
	case "limit":
		r.Limit = r.number(name, raw)
		return true
	case "engagement":
		r.Engagement = r.engagement(name, raw)
		return true
	case "ip_version":
		r.IPVersion = r.number(name, raw)
		return len(r.d.families) > 1
	}
	f := r.d.field(name)
	if f == nil {
		return false
	}
	switch before := len(r.faults); f.kind {
	case kindInteger, kindPort:
		if n := r.number(name, raw); len(r.faults) == before {
			r.Values[name] = strconv.Itoa(n)
		}
	case kindBoolean:
		r.Values[name] = strconv.FormatBool(r.truth(name, raw))
	case kindPorts:
		if ranges := r.ports(name, raw); len(r.faults) == before {
			r.Values[name] = portList(joinPorts(ranges))
		}
	default:
		r.Values[name] = r.text(name, raw)
	}
	return true
}

// validate is every rule there is about a value, whether it was read here or came over the wire.
func (s *declaredScan) validate() []Fault {
	if s.Revision != s.d.Revision {
		return []Fault{{Code: "declaration_changed", Field: "tool", Got: excerpt(s.Revision), Allowed: []string{s.d.Revision}, Hint: "the operator has changed the declaration of this scanner, and restarts both units for it"}}
	}
	faults := append(targetFaults(s.Targets, s.IPVersion), excludeFaults(s.Exclude, s.IPVersion)...)
	faults = append(faults, oneOf("profile", s.Profile, s.d.profileNames())...)
	var families []string
	for _, v := range s.d.families {
		families = append(families, strconv.Itoa(v))
	}
	faults = append(faults, oneOf("ip_version", strconv.Itoa(s.IPVersion), families)...)
	if s.Engagement != "" && !engagement.MatchString(s.Engagement) {
		faults = append(faults, badEngagement(s.Engagement))
	}
	for field, got := range map[string]int{"rate": s.Rate, "limit": s.Limit} {
		if low, high, _ := rangeOf(s.d.arguments(), field); got != 0 && (got < low || got > high) {
			faults = append(faults, outOfRange(field, got, low, high))
		}
	}
	if most := min(s.d.most, MaxTargets); len(s.Targets) > most {
		faults = append(faults, tooMany("targets", len(s.Targets), most))
	} else if n := countTargets(s.Targets); !s.d.networks && n > int64(s.d.most) && len(faults) == 0 {
		faults = append(faults, Fault{Code: "too_many", Field: "targets", Got: fmt.Sprintf("%d addresses", n), Allowed: []string{fmt.Sprintf("at most %d addresses", s.d.most)}, Hint: "split the call"})
	}
	faults = append(faults, s.valueFaults()...)
	slices.SortStableFunc(faults, func(a, b Fault) int { return strings.Compare(topField(a.Field), topField(b.Field)) })
	return faults
}

func (s *declaredScan) valueFaults() (faults []Fault) {
	for _, f := range s.d.fields {
		got, has := s.Values[f.name]
		if !has {
			faults = append(faults, Fault{Code: "missing", Field: f.name, Hint: f.about})
			continue
		}
		read, fault := f.read(got)
		switch {
		case fault != nil:
			faults = append(faults, *fault)
		case read != got:
			faults = append(faults, notCanonical(f.name, got, read))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Values)) {
		if s.d.field(name) == nil {
			faults = append(faults, Fault{Code: "unknown_argument", Field: argumentName(name), Allowed: fieldNames(s.d.arguments()), Hint: "leave it out"})
		}
	}
	return faults
}

// MarshalJSON is the arguments that Read reads again.
func (s *declaredScan) MarshalJSON() ([]byte, error) {
	out := map[string]any{"targets": s.Targets, "profile": s.Profile}
	for name, text := range s.Values {
		switch f := s.d.field(name); f.kind {
		case kindInteger, kindPort, kindBoolean:
			out[name] = json.RawMessage(text)
		case kindPorts:
			out[name] = strings.Split(text, ",")
		default:
			out[name] = text
		}
	}
	if len(s.Exclude) > 0 {
		out["exclude"] = s.Exclude
	}
	if len(s.d.families) > 1 {
		out["ip_version"] = s.IPVersion
	}
	if s.Rate > 0 {
		out["rate"] = s.Rate
	}
	if s.Limit > 0 {
		out["limit"] = s.Limit
	}
	if s.Engagement != "" {
		out["engagement"] = s.Engagement
	}
	return json.Marshal(out)
}

// TargetsOf reads the targets of arguments that a table without their tool cannot read any more.
func TargetsOf(arguments []byte) []Target {
	var a struct {
		Targets []string `json:"targets"`
	}
	if json.Unmarshal(arguments, &a) != nil {
		return nil
	}
	return readTargets(a.Targets)
}

// sends is the ports that are sent to, in ranges.
func (s *declaredScan) sends() (tcp, udp []Ports) {
	tcp, udp = slices.Clone(s.d.tcp), slices.Clone(s.d.udp)
	if f := s.d.portField(); f != nil {
		own, _ := f.portsOf(s.Values[f.name])
		if f.udp {
			udp = append(udp, own...)
		} else {
			tcp = append(tcp, own...)
		}
	}
	return joinPorts(tcp), joinPorts(udp)
}

// portsOf reads a value of type port or ports.
func (f *declaredField) portsOf(text string) ([]Ports, *Fault) {
	if f.kind == kindPort {
		n, is := readPort(text)
		if !is {
			return nil, &Fault{Code: "bad_port", Field: f.name, Got: excerpt(text)}
		}
		return []Ports{{n, n}}, nil
	}
	return f.ranges(text)
}

func (s *declaredScan) plan() Plan {
	p := Plan{Targets: readTargets(s.Targets), Exclude: readExclude(s.Exclude), Profile: s.Profile, IPv6: s.IPVersion == 6, Raw: s.d.raw, Intrusive: s.intrusive(), Rate: s.Rate,
		Limit: time.Duration(s.Limit) * time.Second, Engagement: s.Engagement, PortsField: "tool"}
	if f := s.d.portField(); f != nil {
		p.PortsField = f.name
	}
	p.One = s.d.most == 1
	p.Asked.ICMP = s.d.icmp
	tcp, udp := s.sends()
	for _, r := range tcp {
		p.Asked.TCP = append(p.Asked.TCP, [2]uint16{r.First, r.Last})
	}
	for _, r := range udp {
		p.Asked.UDP = append(p.Asked.UDP, [2]uint16{r.First, r.Last})
	}
	p.Ports = int(portTotal(tcp) + portTotal(udp))
	if name := s.d.wordlist(); name != "" {
		p.Wordlist, p.Variants = s.Values[name], 1
	}
	return p
}

func (d *Declaration) wordlist() string {
	for _, f := range d.fields {
		if f.kind == kindWordlist {
			return f.name
		}
	}
	return ""
}

func portTotal(ranges []Ports) (n int64) {
	for _, r := range ranges {
		n += int64(r.Last) - int64(r.First) + 1
	}
	return n
}

func (s *declaredScan) intrusive() (reasons []string) {
	if s.d.intrusive != "" {
		reasons = append(reasons, s.d.Name+": "+s.d.intrusive)
	}
	for _, f := range s.d.fields {
		text := s.Values[f.name]
		switch {
		case f.kind == kindBoolean && text == "true" && f.intrusive != "":
			reasons = append(reasons, f.name+": "+f.intrusive)
		case f.kind == kindInteger && f.above != nil:
			if n, _ := strconv.Atoi(text); n > *f.above {
				reasons = append(reasons, fmt.Sprintf("%s %d, more than %d", f.name, n, *f.above))
			}
		case f.kind == kindEnum:
			for _, v := range f.values {
				if v.name == text && v.intrusive != "" {
					reasons = append(reasons, f.name+" "+v.name+": "+v.intrusive)
				}
			}
		}
	}
	return append(reasons, excess(countTargets(s.Targets), s.Rate)...)
}

// bounded leaves a rate that was left open at DefaultRate, or lower, as masscan's does.
func (s *declaredScan) bounded(rate int, limit time.Duration) Call {
	b := *s.Declared
	if b.Rate == 0 {
		b.Rate = DefaultRate
	}
	if rate > 0 {
		b.Rate = min(b.Rate, rate)
	}
	if seconds := int(min(limit/time.Second, maxLimit)); limit > 0 && (b.Limit == 0 || b.Limit > seconds) {
		b.Limit = max(seconds, minLimit)
	}
	return Call{Declared: &b}
}

// command builds a declared scanner's command line: the declaration's words, and in its places numbers, ports, judged
// addresses and words of its enums.
func (s *declaredScan) command(_ Version, addresses, excluded []netip.Prefix, reach *Reach) (Command, error) {
	wrong := func(err error) (Command, error) {
		return Command{}, fmt.Errorf("cannot build a command for %s: %w", s.d.scanner(), err)
	}
	if err := checkAddresses(s.IPVersion, addresses, excluded); err != nil {
		return wrong(err)
	}
	operands, err := s.operands(addresses)
	if err != nil {
		return wrong(err)
	}
	own, err := s.within(reach)
	if err != nil {
		return wrong(err)
	}
	rate := s.Rate
	if rate == 0 {
		rate = DefaultRate
	}
	argv := []string{s.d.scanner()}
	for _, word := range s.d.command {
		argv = append(argv, s.words(word, operands, own, rate)...)
	}
	if size := argvBytes(argv); size > maxArgvBytes {
		return wrong(fmt.Errorf("%d targets make %d bytes, more than %d: split the call", len(operands), size, maxArgvBytes))
	}
	c := Command{Scanner: s.d.scanner(), Argv: argv, Box: "declared", Raw: s.d.raw, Rate: rate, Words: s.d.wordlist() != ""}
	if s.d.raw {
		c.Box = "declared-raw"
	}
	if u := s.unfit(countAddresses(addresses), rate); u != nil {
		return wrong(u)
	}
	c.Packets, c.Time = s.cost(countAddresses(addresses), rate)
	return c, nil
}

// operands is what stands for the targets.
func (s *declaredScan) operands(addresses []netip.Prefix) (out []netip.Prefix, err error) {
	n, what := countAddresses(addresses), "addresses"
	if s.d.networks {
		n, what = int64(len(addresses)), "networks, after what is excluded is taken out,"
	}
	if n > int64(s.d.most) {
		return nil, fmt.Errorf("%d %s are more than %d: split the call", n, what, s.d.most)
	}
	if s.d.networks {
		return addresses, nil
	}
	for _, p := range addresses {
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out, nil
}

// within is the ports of the call that may be sent to. What the scanner always sends to has to be among them.
func (s *declaredScan) within(reach *Reach) (own []Ports, err error) {
	f := s.d.portField()
	if f != nil {
		own, _ = f.portsOf(s.Values[f.name]) // validated
	}
	if reach == nil {
		return own, nil
	}
	switch {
	case s.d.icmp && !reach.ICMP:
		return nil, fmt.Errorf("ICMP may not be sent, and it sends that")
	case portTotal(common(s.d.tcp, reach.TCP)) != portTotal(s.d.tcp), portTotal(common(s.d.udp, reach.UDP)) != portTotal(s.d.udp):
		return nil, fmt.Errorf("a port may not be sent to that it always sends to")
	case f == nil:
		return nil, nil
	}
	if own = common(own, reach.TCP); f.udp {
		own, _ = f.portsOf(s.Values[f.name])
		own = common(own, reach.UDP)
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("none of the ports may be sent to")
	}
	return own, nil
}

// words is what a word of the declaration's command becomes.
func (s *declaredScan) words(word string, operands []netip.Prefix, own []Ports, rate int) (out []string) {
	if f := s.d.field(strings.Trim(word, "{}")); f != nil && slot.FindString(word) == word {
		return f.expand(s.text(f, own))
	}
	fixed := slot.ReplaceAllStringFunc(word, func(place string) string {
		switch name := strings.Trim(place, "{}"); name {
		case "targets":
			return place
		case "rate":
			return strconv.Itoa(rate)
		case "gap_ms":
			return strconv.Itoa(max((1000+rate-1)/rate, 1))
		default:
			f := s.d.field(name)
			return f.expand(s.text(f, own))[0]
		}
	})
	if !strings.Contains(fixed, "{targets}") {
		return []string{fixed}
	}
	for _, o := range operands {
		text := operand(o)
		if o.Addr().Is6() && strings.Contains(fixed, "{targets}:") { // else the port could be a part of it
			text = "[" + text + "]"
		}
		out = append(out, strings.Replace(fixed, "{targets}", text, 1))
	}
	return out
}

// text is a field's value as the command has it.
func (s *declaredScan) text(f *declaredField, own []Ports) string {
	switch f.kind {
	case kindPort, kindPorts:
		return portList(own)
	case kindWordlist:
		return wordlistPath
	}
	return s.Values[f.name]
}

// expand is the words of a field with a value.
func (f *declaredField) expand(text string) (out []string) {
	switch f.kind {
	case kindBoolean:
		if text == "true" {
			return f.words
		}
		return nil
	case kindEnum:
		for _, v := range f.values {
			if v.name == text {
				return v.words
			}
		}
		return nil
	}
	for _, w := range f.words {
		out = append(out, strings.ReplaceAll(w, "{}", text))
	}
	return out
}

// probes is how many each address has: one for each port, or one, times what the declaration says.
func (s *declaredScan) probes() int64 {
	tcp, udp := s.sends()
	each := max(portTotal(tcp)+portTotal(udp), 1)
	for _, name := range s.d.cost.times {
		n := s.lines
		if f := s.d.field(name); f.kind == kindInteger {
			n, _ = strconv.ParseInt(s.Values[name], 10, 64) // validated
		}
		each = saturated(each, max(n, 1))
	}
	return each
}

// cost is the packets and the time that so many addresses take at most, as the declaration has it.
func (s *declaredScan) cost(addresses int64, rate int) (packets int64, took time.Duration) {
	probes := saturated(addresses, s.probes())
	packets = saturated(probes, s.d.cost.packets)
	sending := time.Duration(min(upBy(packets, int64(rate)), 1<<31)) * time.Second
	waiting := time.Duration(saturated(upBy(probes, s.d.cost.atOnce), int64(s.d.cost.each)))
	return packets, s.d.cost.start + max(sending, waiting)
}

// unfit is why a scan cannot end in time: each probe is one packet at least.
func (s *declaredScan) unfit(addresses int64, rate int) *Unfit {
	probes, limit := saturated(addresses, s.probes()), int64(s.Limit)
	needs := time.Duration(min(upBy(probes, int64(rate)), 1<<31)) * time.Second
	if limit == 0 || needs <= time.Duration(limit)*time.Second {
		return nil
	}
	u := &Unfit{Field: "limit", Needs: needs, Limit: time.Duration(limit) * time.Second}
	u.atLeast("limit", up(needs), maxLimit)
	u.atLeast("rate", upBy(probes, limit), maxRate)
	u.atMost("addresses", limit*int64(rate)/s.probes())
	return u
}

// saturated is a product that is no more than 2^50.
func saturated(a, b int64) int64 {
	const most = 1 << 50
	if a > 0 && b > most/a {
		return most
	}
	return a * b
}
