package runners

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"time"
)

// Call is one request, read and normalised. Exactly one of the pointers is set: the one that belongs to Tool.
type Call struct {
	Tool string `json:"tool"`
	Nmap *Nmap  `json:"nmap,omitempty"`
}

// Tool is a scanner as agents see it.
type Tool struct {
	Name        string // what an agent calls
	Scanner     string // the program, and argv[0]
	Title       string
	Description string
	InputSchema json.RawMessage
}

// Tools returns every tool, in the order in which they are listed to agents.
func Tools() []Tool {
	return []Tool{nmapTool()}
}

// Plan is what a call asks for, in the terms in which policy decides.
type Plan struct {
	Targets    []Target
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
}

// Command is a scanner's command line and what it needs and is expected to take.
type Command struct {
	Scanner string
	Argv    []string // Argv[0] is the scanner's name
	Box     string   // which box it runs in
	Raw     bool
	Rate    int           // packets per second that its box may send
	Packets int64         // expected to be sent, at most
	Time    time.Duration // expected, at most
}

// Read reads a tool's JSON arguments. It returns either a canonical Call or every fault there is.
func Read(tool string, arguments []byte) (Call, []Fault) {
	members, faults := Members(arguments)
	if len(faults) > 0 {
		return Call{}, faults
	}
	return ReadMembers(tool, members)
}

// ReadMembers is Read for arguments that Members has taken apart, for a caller that takes members of its own out first.
func ReadMembers(tool string, members map[string]json.RawMessage) (Call, []Fault) {
	if tool != nmapName {
		return Call{}, []Fault{unknownTool(tool)}
	}
	scan, faults := readNmap(members)
	if len(faults) > 0 {
		return Call{}, faults
	}
	return Call{Tool: tool, Nmap: &scan}, nil
}

// Validate applies the rules of Read to a value that came from elsewhere. It also refuses values that are not in the
// form in which Read leaves them, so that a valid Call has one meaning and one spelling.
func Validate(c Call) []Fault {
	if c.Tool != nmapName {
		return []Fault{unknownTool(c.Tool)}
	}
	if c.Nmap == nil {
		return []Fault{{Code: "missing", Field: "nmap", Hint: "the call carries no arguments for its tool"}}
	}
	return c.Nmap.validate()
}

// Arguments returns the call's arguments as canonical JSON: Read of it gives the call again.
func (c Call) Arguments() (json.RawMessage, error) {
	if c.Nmap == nil {
		return nil, errors.New("cannot print arguments: the call is empty")
	}
	return json.Marshal(c.Nmap)
}

// Plan says what the call asks for. The call must be valid.
func (c Call) Plan() Plan {
	if c.Nmap == nil {
		return Plan{}
	}
	return c.Nmap.plan()
}

// Bounded returns the call within an engagement's limits: the rate and the time that policy settled on take the place
// of larger ones and of ones that were left open. Zero bounds nothing.
func (c Call) Bounded(rate int, limit time.Duration) Call {
	if c.Nmap != nil {
		bounded := c.Nmap.bounded(rate, limit)
		c.Nmap = &bounded
	}
	return c
}

// Command builds the command line for the addresses that were judged. excluded is given only to be checked against:
// an address in both is an error, never a quiet gap in what is scanned. Nothing of what is run sends beyond reach; nil
// is everything.
func (c Call) Command(v Version, addresses, excluded []netip.Prefix, reach *Reach) (Command, error) {
	if faults := Validate(c); len(faults) > 0 {
		return Command{}, fmt.Errorf("cannot build a command: %w", faults[0])
	}
	return c.Nmap.command(v, addresses, excluded, reach)
}

// Version is the version of a scanner, as far as command lines depend on it.
type Version struct{ Major, Minor int }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

var versionLines = map[string]*regexp.Regexp{
	"nmap": regexp.MustCompile(`^Nmap version ([0-9]{1,3})\.([0-9]{1,4})(?:SVN|[A-Z]{1,8}[0-9]{0,3})?(?: |$)`),
}

// ParseVersion reads the first line of what the scanner prints when asked for its version.
func ParseVersion(scanner string, firstLine []byte) (Version, error) {
	line, known := versionLines[scanner]
	if !known {
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

func unknownTool(tool string) Fault {
	return Fault{Code: "unknown_tool", Field: "tool", Got: excerpt(tool), Allowed: []string{nmapName}}
}

// Profiles names the profiles of a tool; false: there is no such tool.
func Profiles(tool string) ([]string, bool) {
	if tool != nmapName {
		return nil, false
	}
	return profileNames(), true
}
