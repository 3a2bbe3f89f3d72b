package runners

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// MaxDeclared is how many scanners an operator may declare: each is read by every agent, in every session.
const MaxDeclared = 16

// Declaration is a scanner that an operator has declared: what a call of it may say, the words that this becomes, what it
// sends and costs, and how its output is read. It is read from a file, and is data alone.
type Declaration struct {
	Name     string // of the tool
	Program  string // absolute path
	Revision string // the first 16 hexadecimal digits of the sha256 of its text
	Text     []byte // as it was read
	Output   Output

	title, description string
	asks               []string
	version            *regexp.Regexp
	from, to           *Version
	raw                bool
	icmp               bool
	tcp, udp           []Ports // that it always sends to
	families           []int
	most               int // addresses, or networks
	networks           bool
	fields             []declaredField
	profiles           []declaredProfile
	command            []string
	cost               cost
	intrusive          string
}

// Output is how what a declared scanner writes is read.
type Output struct {
	Stderr   bool              // it is on standard error
	Lines    []OutputLine      // the first that fits a line reads it; or else
	JSON     map[string]string // a JSON object a line: what a value is, to its key there
	States   map[string]string // the scanner's words for states, to those of this program
	Lists    string            // "all" addresses that it is through with, or what it "found"
	End      *regexp.Regexp    // a line that says that it came to its end; nil: its exit status does
	Failed   *regexp.Regexp    // a line that says that it failed
	Statuses []int             // exit statuses of a scan that went well
}

// OutputLine is a form of a line: its named groups are values, Set is others that are the same in each.
type OutputLine struct {
	Pattern *regexp.Regexp
	Set     map[string]string
}

type declaredField struct {
	name, kind, about string
	low, high         int    // of an integer
	most              int    // ranges of ports
	udp               bool   // of ports
	initial           string // where nobody says otherwise; "": it has to be given
	words             []string
	values            []declaredValue // of an enum
	intrusive         string          // of a boolean that is true
	above             *int            // a larger integer is intrusive
}

type declaredValue struct {
	name      string
	words     []string
	intrusive string
}

type declaredProfile struct {
	name, about string
	set         map[string]string
}

// cost is what is expected of each probe: each address, each port of it where there are any, and each of times.
type cost struct {
	packets     int64
	times       []string
	start, each time.Duration
	atOnce      int64
}

// scanner is what its program is called here, and argv[0].
func (d *Declaration) scanner() string { return strings.TrimSuffix(d.Name, "_scan") }

func (d *Declaration) field(name string) *declaredField {
	i := slices.IndexFunc(d.fields, func(f declaredField) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return &d.fields[i]
}

func (d *Declaration) profileNames() (names []string) {
	for _, p := range d.profiles {
		names = append(names, p.name)
	}
	return names
}

// The kinds of fields that a declaration may have. There is none for free text.
const (
	kindInteger  = "integer"
	kindBoolean  = "boolean"
	kindEnum     = "enum"
	kindPort     = "port"
	kindPorts    = "ports"
	kindWordlist = "wordlist"
)

var kinds = []string{kindInteger, kindBoolean, kindEnum, kindPort, kindPorts, kindWordlist}

// The file as it is written.
type declarationFile struct {
	Name        string        `yaml:"name"`
	Title       string        `yaml:"title"`
	Description string        `yaml:"description"`
	Program     string        `yaml:"program"`
	Version     versionFile   `yaml:"version"`
	Needs       needsFile     `yaml:"needs"`
	Targets     targetsFile   `yaml:"targets"`
	Fields      []fieldFile   `yaml:"fields"`
	Profiles    []profileFile `yaml:"profiles"`
	Command     []string      `yaml:"command"`
	Cost        costFile      `yaml:"cost"`
	Intrusive   string        `yaml:"intrusive"`
	Output      outputFile    `yaml:"output"`
}

type versionFile struct {
	Arguments []string `yaml:"arguments"`
	Pattern   string   `yaml:"pattern"`
	From      string   `yaml:"from"`
	To        string   `yaml:"to"`
}

type needsFile struct {
	RawSockets bool    `yaml:"raw_sockets"`
	ICMP       bool    `yaml:"icmp"`
	TCP        []plain `yaml:"tcp"`
	UDP        []plain `yaml:"udp"`
}

type targetsFile struct {
	IPVersions []int `yaml:"ip_versions"`
	AtMost     int   `yaml:"at_most"`
	Networks   bool  `yaml:"networks"`
}

type fieldFile struct {
	Name           string      `yaml:"name"`
	Type           string      `yaml:"type"`
	About          string      `yaml:"about"`
	Min            *int        `yaml:"min"`
	Max            *int        `yaml:"max"`
	Default        plain       `yaml:"default"`
	Words          []string    `yaml:"words"`
	Values         []valueFile `yaml:"values"`
	Protocol       string      `yaml:"protocol"`
	AtMost         int         `yaml:"at_most"`
	Intrusive      string      `yaml:"intrusive"`
	IntrusiveAbove *int        `yaml:"intrusive_above"`
}

type valueFile struct {
	Name      string   `yaml:"name"`
	Words     []string `yaml:"words"`
	Intrusive string   `yaml:"intrusive"`
}

type profileFile struct {
	Name  string           `yaml:"name"`
	About string           `yaml:"about"`
	Set   map[string]plain `yaml:"set"`
}

type costFile struct {
	Packets int           `yaml:"packets"`
	Times   []string      `yaml:"times"`
	Start   time.Duration `yaml:"start"`
	Each    time.Duration `yaml:"each"`
	AtOnce  int           `yaml:"at_once"`
}

type outputFile struct {
	From     string            `yaml:"from"`
	Lines    []lineFile        `yaml:"lines"`
	JSON     map[string]string `yaml:"json"`
	States   map[string]string `yaml:"states"`
	Lists    string            `yaml:"lists"`
	End      string            `yaml:"end"`
	Failed   string            `yaml:"failed"`
	Statuses []int             `yaml:"statuses"`
}

type lineFile struct {
	Pattern string           `yaml:"pattern"`
	Set     map[string]plain `yaml:"set"`
}

// plain is a scalar as it is written, whatever YAML takes it for.
type plain string

// ReadScalar keeps the text.
func (p *plain) ReadScalar(text string) *strict.Fault {
	*p = plain(text)
	return nil
}

var (
	toolForm  = regexp.MustCompile(`^[a-z][a-z0-9]{0,23}_scan$`)
	fieldForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)
	wordForm  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)
	slot      = regexp.MustCompile(`\{[a-z0-9_]*\}`)
)

// What each declared tool takes beside its own fields.
var declaredArguments = []string{"targets", "profile", "exclude", "rate", "limit", "engagement", "ip_version"}

// What a value of the output can be beside text of a scanned host.
var outputValues = []string{"host", "port", "protocol", "state", "service"}

// States of ports, and of hosts.
var (
	portStates = []string{"open", "closed", "filtered", "open|filtered", "unfiltered"}
	hostStates = []string{"up", "down"}
)

const (
	maxFields   = 24
	maxWords    = 64
	maxWord     = 256 // bytes
	maxPatterns = 64
	maxAbout    = 200
)

// ParseDeclaration reads a declaration. It returns either a declaration or every fault there is. base is the name of its
// file: a declaration is found by the name of what it declares.
func ParseDeclaration(file string, data []byte) (Declaration, strict.Faults) {
	f := declarationFile{Targets: targetsFile{AtMost: 256}, Cost: costFile{AtOnce: 1}, Output: outputFile{From: "stdout"}}
	lines, faults := strict.Decode(file, data, &f)
	sum := sha256.Sum256(data)
	p := &declarationParser{lines: lines, f: f, d: Declaration{Text: data, Revision: hex.EncodeToString(sum[:])[:16]}}
	if !lines.Unread() {
		p.all(strings.TrimSuffix(path.Base(file), ".yaml"))
	}
	for _, fault := range p.faults {
		if !lines.Bad(fault.Field) {
			faults = append(faults, fault)
		}
	}
	slices.SortStableFunc(faults, func(a, b strict.Fault) int { return a.Line - b.Line })
	return p.d, faults
}

// declarationParser checks the meaning of a file whose form is right, and fills in the declaration.
type declarationParser struct {
	lines  *strict.Lines
	f      declarationFile
	d      Declaration
	faults strict.Faults
}

func (p *declarationParser) wrong(field, got, allowed, hint string) {
	if got != "" {
		got = strict.Quote(got)
	}
	p.faults = append(p.faults, p.lines.Fault(field, got, allowed, hint))
}

func (p *declarationParser) all(base string) {
	f, d := &p.f, &p.d
	d.Name, d.title, d.description, d.Program, d.intrusive, d.raw = f.Name, f.Title, f.Description, f.Program, f.Intrusive, f.Needs.RawSockets
	switch builtIn := BuiltIn(); {
	case !toolForm.MatchString(f.Name):
		p.wrong("name", f.Name, "a letter, up to 23 more of a-z 0-9, and _scan", "such as fping_scan")
	case builtIn.ScannerOf(f.Name) != "":
		p.wrong("name", f.Name, "a name that no other tool has", "this one is built in")
	case f.Name != base:
		p.wrong("name", f.Name, base, "the file is called as its tool is")
	}
	if !path.IsAbs(f.Program) || path.Clean(f.Program) != f.Program {
		p.wrong("program", f.Program, "an absolute path", "")
	}
	p.phrase("title", f.Title, 60)
	p.phrase("description", f.Description, 400)
	if f.Intrusive != "" {
		p.phrase("intrusive", f.Intrusive, maxAbout)
	}
	p.version()
	p.targets()
	p.fields()
	p.sends()
	p.profiles()
	p.command()
	p.cost()
	p.output()
}

// phrase wants words for people and models: agents read them.
func (p *declarationParser) phrase(field, text string, most int) {
	if text == "" || len(text) > most || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		p.wrong(field, text, fmt.Sprintf("1 to %d printable characters of ASCII", most), "")
	}
}

func (p *declarationParser) version() {
	v := p.f.Version
	p.d.asks = v.Arguments
	p.literals("version.arguments", v.Arguments)
	if len(v.Arguments) == 0 {
		p.wrong("version.arguments", "", "the words that the program is asked for its version with", "such as [--version]")
	}
	if p.d.version = p.pattern("version.pattern", v.Pattern); p.d.version != nil && p.d.version.NumSubexp() != 2 {
		p.wrong("version.pattern", v.Pattern, "a regular expression with two groups, of the major and the minor number", `such as 'Version ([0-9]+)\.([0-9]+)'`)
	}
	bound := func(field, text string) *Version {
		if text == "" {
			return nil
		}
		major, minor, found := strings.Cut(text, ".")
		a, err1 := strconv.ParseUint(major, 10, 14)
		b, err2 := strconv.ParseUint(minor, 10, 14)
		if !found || err1 != nil || err2 != nil {
			p.wrong(field, text, "a version of two numbers, in quotes", `such as "5.1"`)
			return nil
		}
		return &Version{int(a), int(b)}
	}
	p.d.from, p.d.to = bound("version.from", v.From), bound("version.to", v.To)
}

// pattern compiles a regular expression: those of RE2, which take time in proportion to what they read.
func (p *declarationParser) pattern(field, text string) *regexp.Regexp {
	re, err := regexp.Compile(text)
	if text == "" || len(text) > 512 || err != nil {
		hint := ""
		if err != nil {
			hint = "it cannot be read: " + strings.TrimPrefix(err.Error(), "error parsing regexp: ")
		}
		p.wrong(field, text, "a regular expression (RE2) of at most 512 characters", hint)
		return nil
	}
	return re
}

func (p *declarationParser) literals(field string, words []string) {
	if len(words) > maxWords {
		p.wrong(field, strconv.Itoa(len(words))+" words", fmt.Sprintf("at most %d", maxWords), "")
	}
	for i, w := range words {
		if w == "" || len(w) > maxWord || strings.ContainsFunc(w, func(r rune) bool { return r < ' ' || r > '~' }) {
			p.wrong(strict.Index(field, i), w, fmt.Sprintf("1 to %d printable characters of ASCII", maxWord), "")
		}
	}
}

func (p *declarationParser) targets() {
	t := p.f.Targets
	p.d.families, p.d.most, p.d.networks = t.IPVersions, t.AtMost, t.Networks
	for i, v := range t.IPVersions {
		if v != 4 && v != 6 || slices.Contains(t.IPVersions[:i], v) {
			p.wrong(strict.Index("targets.ip_versions", i), strconv.Itoa(v), "4, 6, each once", "")
		}
	}
	if len(t.IPVersions) == 0 {
		p.wrong("targets.ip_versions", "", "[4], [6] or [4, 6]", "")
	}
	if t.AtMost < 1 || t.AtMost > 4096 {
		p.wrong("targets.at_most", strconv.Itoa(t.AtMost), "1 to 4096", "addresses of a call, or networks where networks is true")
	}
}

func (p *declarationParser) fields() {
	if len(p.f.Fields) > maxFields {
		p.wrong("fields", strconv.Itoa(len(p.f.Fields))+" fields", fmt.Sprintf("at most %d", maxFields), "")
		return
	}
	lists, ports := 0, 0
	for i, f := range p.f.Fields {
		at := strict.Index("fields", i)
		switch {
		case !fieldForm.MatchString(f.Name):
			p.wrong(at+".name", f.Name, "a letter and up to 30 more of a-z 0-9 _", "")
		case slices.Contains(append(slices.Clone(declaredArguments), frontArguments...), f.Name):
			p.wrong(at+".name", f.Name, "another name", "every tool has this argument already")
		case p.d.field(f.Name) != nil:
			p.wrong(at+".name", f.Name, "each name once", "")
		}
		p.phrase(at+".about", f.About, maxAbout)
		field := declaredField{name: f.Name, kind: f.Type, about: f.About, initial: string(f.Default), words: f.Words, most: f.AtMost, udp: f.Protocol == "udp", intrusive: f.Intrusive, above: f.IntrusiveAbove}
		switch f.Type {
		case kindInteger:
			p.integer(at, f, &field)
		case kindEnum:
			p.enum(at, f, &field)
		case kindBoolean:
			if field.initial == "" {
				field.initial = "false"
			}
			if f.Intrusive != "" {
				p.phrase(at+".intrusive", f.Intrusive, maxAbout)
			}
			if len(f.Words) == 0 {
				p.wrong(at+".words", "", "the words that stand in the command where it is true", "")
			}
		case kindPort, kindPorts:
			ports++
			if f.Protocol != "tcp" && f.Protocol != "udp" {
				p.wrong(at+".protocol", f.Protocol, "tcp, udp", "")
			}
			if field.most == 0 {
				field.most = maxPortRanges
			}
		case kindWordlist:
			lists++
		default:
			p.wrong(at+".type", f.Type, strings.Join(kinds, ", "), near(f.Type, kinds))
			continue
		}
		p.unused(at, f)
		p.literals(at+".words", f.Words)
		if f.Type != kindBoolean && f.Type != kindEnum {
			if len(field.words) == 0 {
				field.words = []string{"{}"}
			}
			if strings.Count(strings.Join(field.words, " "), "{}") != 1 {
				p.wrong(at+".words", strings.Join(field.words, " "), "words with {} once, where the value stands", "")
			}
		}
		if field.initial != "" {
			if _, fault := field.read(field.initial); fault != nil {
				p.wrong(at+".default", field.initial, strings.Join(fault.Allowed, ", "), fault.Hint)
			}
		}
		p.d.fields = append(p.d.fields, field)
	}
	if lists > 1 || ports > 1 {
		p.wrong("fields", "", "at most one of type wordlist, and one of type port or ports", "")
	}
}

// near is a hint at the word that was meant.
func near(got string, known []string) string {
	if n := strict.Nearest(got, known); n != "" {
		return "did you mean " + n + "?"
	}
	return ""
}

// unused refuses what a field of its type has no use for: it would say something that does not hold.
func (p *declarationParser) unused(at string, f fieldFile) {
	for _, row := range []struct {
		key   string
		given bool
		of    []string
	}{
		{"min", f.Min != nil, []string{kindInteger}},
		{"max", f.Max != nil, []string{kindInteger}},
		{"intrusive_above", f.IntrusiveAbove != nil, []string{kindInteger}},
		{"values", len(f.Values) > 0, []string{kindEnum}},
		{"protocol", f.Protocol != "", []string{kindPort, kindPorts}},
		{"at_most", f.AtMost != 0, []string{kindPorts}},
		{"intrusive", f.Intrusive != "", []string{kindBoolean}},
		{"words", len(f.Words) > 0, []string{kindInteger, kindBoolean, kindPort, kindPorts, kindWordlist}},
	} {
		if row.given && !slices.Contains(row.of, f.Type) {
			p.wrong(strict.Key(at, row.key), "", "nothing", "a field of type "+f.Type+" has none; "+strings.Join(row.of, ", ")+" has")
		}
	}
	if f.AtMost < 0 || f.AtMost > maxPortRanges {
		p.wrong(at+".at_most", strconv.Itoa(f.AtMost), fmt.Sprintf("1 to %d", maxPortRanges), "")
	}
}

func (p *declarationParser) integer(at string, f fieldFile, field *declaredField) {
	if f.Min == nil || f.Max == nil || *f.Min < 0 || *f.Max < *f.Min || *f.Max > 1<<30 {
		p.wrong(at+".min", "", "min and max, from 0 to 1073741824, the smaller one first", "a number without bounds means anything")
		return
	}
	field.low, field.high = *f.Min, *f.Max
}

func (p *declarationParser) enum(at string, f fieldFile, field *declaredField) {
	if len(f.Values) == 0 || len(f.Values) > maxWords {
		p.wrong(at+".values", "", fmt.Sprintf("1 to %d values", maxWords), "")
	}
	for i, v := range f.Values {
		in := strict.Index(at+".values", i)
		if !wordForm.MatchString(v.Name) || slices.ContainsFunc(field.values, func(o declaredValue) bool { return o.name == v.Name }) {
			p.wrong(in+".name", v.Name, "1 to 32 of a-z 0-9 . _ -, each once", "")
		}
		p.literals(in+".words", v.Words)
		if v.Intrusive != "" {
			p.phrase(in+".intrusive", v.Intrusive, maxAbout)
		}
		field.values = append(field.values, declaredValue{v.Name, v.Words, v.Intrusive})
	}
}

// sends is what the scanner sends to, beside the ports that a call names.
func (p *declarationParser) sends() {
	n := p.f.Needs
	p.d.icmp = n.ICMP
	ports := func(key string, texts []plain) (out []Ports) {
		for i, text := range texts {
			r, fault := readPorts(key, string(text))
			if fault != nil {
				p.wrong(strict.Index("needs."+key, i), string(text), strings.Join(fault.Allowed, ", "), fault.Hint)
				continue
			}
			out = append(out, r)
		}
		return joinPorts(out)
	}
	p.d.tcp, p.d.udp = ports("tcp", n.TCP), ports("udp", n.UDP)
	if !n.ICMP && len(n.TCP)+len(n.UDP) == 0 && p.d.portField() == nil {
		p.wrong("needs", "", "icmp: true, ports under tcp or udp, or a field of type port or ports", "an engagement judges what a scanner sends to")
	}
	if n.ICMP && !n.RawSockets {
		p.wrong("needs.icmp", "true", "raw_sockets: true beside it", "ICMP takes a raw socket")
	}
}

// portField is the field that says which ports are sent to.
func (d *Declaration) portField() *declaredField {
	i := slices.IndexFunc(d.fields, func(f declaredField) bool { return f.kind == kindPort || f.kind == kindPorts })
	if i < 0 {
		return nil
	}
	return &d.fields[i]
}

func (p *declarationParser) profiles() {
	if n := len(p.f.Profiles); n == 0 || n > 16 {
		p.wrong("profiles", "", "1 to 16 profiles, the first of which is the default", "")
	}
	for i, f := range p.f.Profiles {
		at := strict.Index("profiles", i)
		if !wordForm.MatchString(f.Name) || slices.Contains(p.d.profileNames(), f.Name) {
			p.wrong(at+".name", f.Name, "1 to 32 of a-z 0-9 . _ -, each once", "")
		}
		p.phrase(at+".about", f.About, maxAbout)
		set := map[string]string{}
		for name, value := range f.Set {
			field := p.d.field(name)
			if field == nil {
				p.wrong(strict.Key(at+".set", name), name, "a field of this declaration", "")
				continue
			}
			read, fault := field.read(string(value))
			if fault != nil {
				p.wrong(strict.Key(at+".set", name), string(value), strings.Join(fault.Allowed, ", "), fault.Hint)
			}
			set[name] = read
		}
		p.d.profiles = append(p.d.profiles, declaredProfile{f.Name, f.About, set})
	}
}

// command checks that each argument has a place, and that each place is one that is known.
func (p *declarationParser) command() {
	p.d.command = p.f.Command
	p.literals("command", p.f.Command)
	placed := map[string]int{}
	for i, word := range p.f.Command {
		at := strict.Index("command", i)
		for _, place := range slot.FindAllString(word, -1) {
			name := strings.Trim(place, "{}")
			placed[name]++
			field := p.d.field(name)
			switch {
			case name == "targets" || name == "rate" || name == "gap_ms":
			case field == nil:
				p.wrong(at, word, "a field of this declaration, targets, rate or gap_ms in braces", "")
			case place != word && (field.kind == kindBoolean || field.kind == kindEnum):
				p.wrong(at, word, place+" as a word of its own", "it stands for any number of words")
			case place != word && len(field.words) != 1:
				p.wrong(at, word, place+" as a word of its own", "its field has words of its own")
			}
		}
		if rest := slot.ReplaceAllString(word, ""); strings.ContainsAny(rest, "{}") {
			p.wrong(at, word, "braces around names alone", "")
		}
	}
	if placed["targets"] != 1 {
		p.wrong("command", "", "{targets} once", "it stands for the addresses that were judged")
	}
	for i, f := range p.d.fields {
		if placed[f.name] == 0 {
			p.wrong(strict.Index("fields", i)+".name", f.name, "{"+f.name+"} in command", "what is asked for has to have an effect")
		}
	}
}

func (p *declarationParser) cost() {
	c := p.f.Cost
	p.d.cost = cost{packets: int64(c.Packets), times: c.Times, start: c.Start, each: c.Each, atOnce: int64(c.AtOnce)}
	if c.Packets < 1 || c.Packets > 1_000_000 {
		p.wrong("cost.packets", strconv.Itoa(c.Packets), "1 to 1000000", "packets sent at most, for each address and port")
	}
	if c.AtOnce < 1 || c.AtOnce > 10000 {
		p.wrong("cost.at_once", strconv.Itoa(c.AtOnce), "1 to 10000", "")
	}
	if c.Each < 0 || c.Each > time.Hour {
		p.wrong("cost.each", c.Each.String(), "0s to 1h", "")
	}
	if c.Start < 0 || c.Start > time.Hour {
		p.wrong("cost.start", c.Start.String(), "0s to 1h", "")
	}
	for i, name := range c.Times {
		if f := p.d.field(name); f == nil || f.kind != kindInteger && f.kind != kindWordlist {
			p.wrong(strict.Index("cost.times", i), name, "a field of type integer or wordlist", "")
		}
	}
}

func (p *declarationParser) output() {
	f := p.f.Output
	o := Output{Stderr: f.From == "stderr", JSON: f.JSON, States: f.States, Lists: f.Lists, Statuses: f.Statuses}
	if f.From != "stdout" && f.From != "stderr" {
		p.wrong("output.from", f.From, "stdout, stderr", "")
	}
	if (len(f.Lines) == 0) == (len(f.JSON) == 0) || len(f.Lines) > maxPatterns {
		p.wrong("output", "", fmt.Sprintf("lines (at most %d) or json", maxPatterns), "")
	}
	for i, l := range f.Lines {
		at := strict.Index("output.lines", i)
		line := OutputLine{Pattern: p.pattern(at+".pattern", l.Pattern), Set: map[string]string{}}
		if line.Pattern != nil {
			named := slices.DeleteFunc(slices.Clone(line.Pattern.SubexpNames()), func(n string) bool { return n == "" })
			if len(named) == 0 && len(l.Set) == 0 {
				p.wrong(at+".pattern", l.Pattern, "a regular expression with named groups, such as (?P<host>[0-9.]+)", "")
			}
			for _, name := range named {
				p.outputName(at+".pattern", name)
			}
		}
		for name, value := range l.Set {
			in := strict.Key(at+".set", name)
			line.Set[name] = string(value)
			if !slices.Contains(outputValues, name) || name == "host" {
				p.wrong(in, name, "port, protocol, state, service", "")
			} else if name == "state" {
				p.state(in, string(value))
			}
		}
		o.Lines = append(o.Lines, line)
	}
	for name, key := range f.JSON {
		p.outputName(strict.Key("output.json", name), name)
		if key == "" || len(key) > 128 {
			p.wrong(strict.Key("output.json", name), key, "a key of the object, or keys with dots between them", "")
		}
	}
	for word, state := range f.States {
		p.state(strict.Key("output.states", word), state)
	}
	if f.Lists != "all" && f.Lists != "found" {
		p.wrong("output.lists", f.Lists, "all, found", "all: it names each address that it is through with; found: it names what it found, and is through with all at its end")
	}
	if f.End != "" {
		o.End = p.pattern("output.end", f.End)
	}
	if f.Failed != "" {
		o.Failed = p.pattern("output.failed", f.Failed)
	}
	for i, n := range f.Statuses {
		if n < 0 || n > 255 {
			p.wrong(strict.Index("output.statuses", i), strconv.Itoa(n), "0 to 255", "")
		}
	}
	if len(f.Statuses) == 0 {
		o.Statuses = []int{0}
	}
	p.d.Output = o
}

func (p *declarationParser) outputName(field, name string) {
	if !fieldForm.MatchString(name) {
		p.wrong(field, name, strings.Join(outputValues, ", ")+", or a name of a-z 0-9 _ for text of the scanned host", "")
	}
}

func (p *declarationParser) state(field, state string) {
	if all := slices.Concat(portStates, hostStates); !slices.Contains(all, state) {
		p.wrong(field, state, strings.Join(all, ", "), near(state, all))
	}
}
