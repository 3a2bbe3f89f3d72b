package runners

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Call is one request, read and normalised. Exactly one of the pointers is set: the one that belongs to Tool.
type Call struct {
	Tool     string    `json:"tool"`
	Nmap     *Nmap     `json:"nmap,omitempty"`
	Masscan  *Masscan  `json:"masscan,omitempty"`
	Gobuster *Gobuster `json:"gobuster,omitempty"`
	Declared *Declared `json:"declared,omitempty"`
}

// Tool is a scanner as agents see it.
type Tool struct {
	Name        string // what an agent calls
	Scanner     string // the program, and argv[0]
	Title       string
	Description string
	InputSchema json.RawMessage
	Off         bool // the operator has left it out: it is known, and neither listed to agents nor used
}

// row is one scanner in the table: what belongs to it, and its functions.
type row struct {
	name     string // of the tool
	scanner  string // the program
	tool     func() Tool
	profiles func() []string
	read     func(members map[string]json.RawMessage) (Call, []Fault)
	asks     [][]string     // that it is asked for its version, in order, until an answer has one
	version  *regexp.Regexp // in that answer: major and minor
	helps    [][]string     // that it is asked for its options
	knows    func(v Version, help [][]byte) error
	declared *Declaration // nil: built in
	off      bool         // the operator has left it out
}

// scan is what a call is to its scanner.
type scan interface {
	validate() []Fault
	plan() Plan
	bounded(rate int, limit time.Duration) Call
	command(v Version, addresses, excluded []netip.Prefix, reach *Reach) (Command, error)
}

// Table is the scanners that there are, in the order in which their tools are listed to agents.
type Table struct{ rows []row }

// BuiltIn is the scanners that this package knows by itself.
func BuiltIn() Table {
	return Table{[]row{nmapRow(), masscanRow(), gobusterRow()}}
}

func (t Table) named(tool string) (row, bool) {
	for _, r := range t.rows {
		if r.name == tool {
			return r, true
		}
	}
	return row{}, false
}

// Tools returns every tool, in the order in which they are listed to agents.
func (t Table) Tools() []Tool {
	var tools []Tool
	for _, r := range t.rows {
		tool := r.tool()
		tool.Off = r.off
		tools = append(tools, tool)
	}
	return tools
}

// Listed returns the tools that agents see.
func (t Table) Listed() []Tool {
	return slices.DeleteFunc(t.Tools(), func(tool Tool) bool { return tool.Off })
}

// Only is the table with tools left out: those that are not in include, where that names any, and those in exclude. They
// stay known, since engagements may name them.
func (t Table) Only(include, exclude []string) Table {
	rows := slices.Clone(t.rows)
	for i, r := range rows {
		rows[i].off = len(include) > 0 && !slices.Contains(include, r.name) || slices.Contains(exclude, r.name)
	}
	return Table{rows}
}

// Off says whether a tool is left out.
func (t Table) Off(tool string) bool {
	r, _ := t.named(tool)
	return r.off
}

// Names returns the name of every tool, in the same order.
func (t Table) Names() []string {
	var names []string
	for _, r := range t.rows {
		names = append(names, r.name)
	}
	return names
}

// ScannerOf is the scanner of a tool; empty: there is no such tool.
func (t Table) ScannerOf(tool string) string {
	r, _ := t.named(tool)
	return r.scanner
}

// Plan is what a call asks for, in the terms in which policy decides.
type Plan struct {
	Targets    []Target
	Exclude    []netip.Prefix // what is left out of them
	Profile    string
	IPv6       bool
	Raw        bool     // needs raw sockets
	Intrusive  []string // reasons; empty when the call is an ordinary one
	Ports      int      // per address
	Asked      Reach    // the ports; of top_ports, all that they can be
	PortsField string   // the argument that asks for them
	Elsewhere  []Wish   // what makes the scan send to other ports than those
	Discovery  bool     // it asks no ports, only whether hosts are there
	Rate       int      // packets per second; 0 leaves it to the engagement
	Limit      time.Duration
	Engagement string
	Asks       bool   // it sends to the name server alone, and asks it for names below its targets
	One        bool   // of the addresses of a name it sends to the first
	Wordlist   string // the list that it is to have, by name
	Variants   int64  // requests for each of its words
}

// Reach is what may be sent to at every address of a scan: the ports of each protocol, in ranges with
// both ends, sorted and apart, and whether ICMP may be asked.
type Reach struct {
	TCP, UDP, SCTP [][2]uint16
	ICMP           bool
}

// Wish is an argument, what it says, what follows from it, and what to give instead.
type Wish struct{ Field, Got, Why, Hint string }

// Target is one target as asked: a prefix (an address is a prefix of full length) or else a name.
type Target struct {
	Text   string
	Prefix netip.Prefix
	Name   string
	Field  string // the argument that names it, if that is not its place among the targets
	Below  bool   // every name below Name is meant, too
	Like   bool   // the name is only said to the first target: it is not asked for, and has that one's address
}

// Command is a scanner's command line and what it needs and is expected to take.
type Command struct {
	Scanner string
	Argv    []string // Argv[0] is the scanner's name
	Box     string   // which box it runs in
	Raw     bool
	Ticks   bool          // it hangs on a silent link: one is to be ticked while it runs
	Rate    int           // packets per second that its box may send
	Packets int64         // expected to be sent, at most
	Time    time.Duration // expected, at most
	Hosts   string        // lines that the box's hosts file has beside its own
	Words   bool          // it reads its wordlist as /in/words
}

// Read reads a tool's JSON arguments. It returns either a canonical Call or every fault there is.
func (t Table) Read(tool string, arguments []byte) (Call, []Fault) {
	members, faults := Members(arguments)
	if len(faults) > 0 {
		return Call{}, faults
	}
	return t.ReadMembers(tool, members)
}

// ReadMembers is Read for arguments that Members has taken apart, for a caller that takes members of its own out first.
func (t Table) ReadMembers(tool string, members map[string]json.RawMessage) (Call, []Fault) {
	r, known := t.named(tool)
	if !known {
		return Call{}, []Fault{t.unknown(tool)}
	}
	call, faults := r.read(members)
	if len(faults) > 0 {
		return Call{}, faults
	}
	call.Tool = tool
	return call, nil
}

// Validate applies the rules of Read to a value that came from elsewhere, and returns it as a call of this table. It
// also refuses values that are not in the form in which Read leaves them, so that a valid Call has one meaning and one
// spelling.
func (t Table) Validate(c Call) (Call, []Fault) {
	r, known := t.named(c.Tool)
	if !known {
		return c, []Fault{t.unknown(c.Tool)}
	}
	if c.Declared != nil {
		c.Declared = c.Declared.by(r.declared, 0)
	}
	return c, c.validate()
}

func (c Call) validate() []Fault {
	s := c.scan()
	if s == nil || c.carries() != 1 {
		return []Fault{{Code: "missing", Field: "arguments", Hint: "the call carries no arguments for its tool, or another's"}}
	}
	return s.validate()
}

// scan is the arguments of the call's own tool; nil: it has none.
func (c Call) scan() scan {
	switch {
	case c.Tool == nmapName && c.Nmap != nil:
		return c.Nmap
	case c.Tool == masscanName && c.Masscan != nil:
		return c.Masscan
	case c.Tool == gobusterName && c.Gobuster != nil:
		return c.Gobuster
	case c.Declared != nil && c.Declared.of != nil && c.Declared.of.Name == c.Tool:
		return &declaredScan{c.Declared, c.Declared.of}
	}
	return nil
}

// carries is for how many tools the call has arguments.
func (c Call) carries() (n int) {
	for _, has := range []bool{c.Nmap != nil, c.Masscan != nil, c.Gobuster != nil, c.Declared != nil} {
		if has {
			n++
		}
	}
	return n
}

// Arguments returns the call's arguments as canonical JSON: Read of it gives the call again.
func (c Call) Arguments() (json.RawMessage, error) {
	s := c.scan()
	if s == nil {
		return nil, errors.New("cannot print arguments: the call is empty")
	}
	return json.Marshal(s)
}

// Plan says what the call asks for. The call must be valid.
func (c Call) Plan() Plan {
	s := c.scan()
	if s == nil {
		return Plan{}
	}
	return s.plan()
}

// Bounded returns the call within an engagement's limits: the rate and the time that policy settled on take the place
// of larger ones and of ones that were left open. Zero bounds nothing.
func (c Call) Bounded(rate int, limit time.Duration) Call {
	s := c.scan()
	if s == nil {
		return c
	}
	b := s.bounded(rate, limit)
	b.Tool = c.Tool
	return b
}

// Command builds the command line for the addresses that were judged. excluded is given only to be checked against:
// an address in both is an error, never a quiet gap in what is scanned. Nothing of what is run sends beyond reach; nil
// is everything.
func (c Call) Command(v Version, addresses, excluded []netip.Prefix, reach *Reach) (Command, error) {
	if faults := c.validate(); len(faults) > 0 {
		return Command{}, fmt.Errorf("cannot build a command: %w", faults[0])
	}
	return c.scan().command(v, addresses, excluded, reach)
}

// Version is the version of a scanner, as far as command lines depend on it.
type Version struct{ Major, Minor int }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// VersionArguments are the ways to ask a scanner for its version, the likelier first.
func (t Table) VersionArguments(scanner string) [][]string { return t.scanner(scanner).asks }

// HelpArguments are what a scanner is asked for its options; none, where its version says enough.
func (t Table) HelpArguments(scanner string) [][]string { return t.scanner(scanner).helps }

// Asks tells apart ways of asking a scanner for its version: it is the declaration's revision; empty, where the
// scanner is built in.
func (t Table) Asks(scanner string) string {
	if d := t.scanner(scanner).declared; d != nil {
		return d.Revision
	}
	return ""
}

// Known says why a scanner of that version, which answered so to HelpArguments, is not used: its options are not those
// that this package knows.
func (t Table) Known(scanner string, v Version, help [][]byte) error {
	r := t.scanner(scanner)
	if r.knows == nil {
		return nil
	}
	return r.knows(v, help)
}

// Program is the path of a declared scanner's program; empty: the configuration has it.
func (t Table) Program(scanner string) string {
	if d := t.scanner(scanner).declared; d != nil {
		return d.Program
	}
	return ""
}

func (t Table) scanner(scanner string) row {
	for _, r := range t.rows {
		if r.scanner == scanner {
			return r
		}
	}
	return row{}
}

// ParseVersion reads the first line of what the scanner prints when asked for its version.
func (t Table) ParseVersion(scanner string, firstLine []byte) (Version, error) {
	line := t.scanner(scanner).version
	if line == nil {
		return Version{}, fmt.Errorf("cannot read a version: no scanner %q", excerpt(scanner))
	}
	m := line.FindSubmatch(firstLine[:min(len(firstLine), 256)])
	if m == nil {
		return Version{}, fmt.Errorf("cannot read a version of %s in %q", scanner, excerpt(string(firstLine)))
	}
	major, _ := strconv.Atoi(string(m[1])) // at most four digits: the pattern says so
	minor, _ := strconv.Atoi(string(m[2]))
	return Version{major, minor}, nil
}

func (t Table) unknown(tool string) Fault {
	return Fault{Code: "unknown_tool", Field: "tool", Got: excerpt(tool), Allowed: t.Names()}
}

// Profiles names the profiles of a tool; false: there is no such tool.
func (t Table) Profiles(tool string) ([]string, bool) {
	r, known := t.named(tool)
	if !known {
		return nil, false
	}
	return r.profiles(), true
}
