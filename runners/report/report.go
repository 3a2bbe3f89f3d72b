package report

import "net/netip"

// Bounds of what a report may take. Beyond them it goes on counting and says in Cut what it left out.
const (
	maxTotal   = 2 << 30 // bytes of the whole output
	maxDepth   = 64
	maxHosts   = 4096  // hosts that are kept; the least interesting ones go first
	maxPorts   = 2048  // per host
	maxAll     = 65536 // ports over all hosts
	maxScripts = 128   // per port, and per host
	maxTexts   = 8192  // script outputs over all
	maxFailed  = 32    // names of scripts
	maxGuesses = 5     // operating systems per host
	maxCPE     = 8
	maxCovered = 1 << 17 // addresses
	maxWords   = 4096    // of the scanner's own that are held once
)

// Report is what a scan found, as far as it came.
type Report struct {
	Scanner    string   `json:"scanner"`
	Version    string   `json:"version"`
	Finished   bool     `json:"finished"`              // the scanner came to its own end
	ExitOK     bool     `json:"exit_ok"`               // and said that all went well
	ErrorClass string   `json:"error_class,omitempty"` // what kind of failure, in words of this package
	Progress   Progress `json:"progress"`
	Coverage   Coverage `json:"coverage"`
	Hosts      []Host   `json:"hosts"`              // hosts that are up, and hosts that timed out
	Statuses   []int    `json:"statuses,omitempty"` // exit statuses of a scan that went well, where they are not 0 alone
	Cut        []string `json:"cut,omitempty"`      // what bounds left out: hosts, ports, scripts, texts, coverage, token, total, depth, line
}

// Values of ErrorClass.
const (
	ErrorNotAReport  = "not_a_report" // nothing of a report was there
	ErrorMalformed   = "malformed"    // the report broke off in something that is no XML
	ErrorPermission  = "permission"   // the scanner lacked a privilege
	ErrorRoute       = "route"        // no way to the targets
	ErrorScript      = "script"       // a script could not be loaded
	ErrorResources   = "resources"    // memory, descriptors, processes
	ErrorWildcard    = "wildcard"     // the server answers whatever is asked for, so that nothing is told apart
	ErrorTLS         = "tls"          // the certificate is not trusted, or there is no TLS
	ErrorUnreachable = "unreachable"  // the first request had no answer, or none that could be read
	ErrorLost        = "lines_lost"   // the scanner counted more than it printed
	ErrorScanner     = "scanner"      // any other failure that the scanner reported
)

// Progress is how far a scan is.
type Progress struct {
	Task      string  `json:"task"`      // what the scanner is at
	Percent   float64 `json:"percent"`   // of that task, for the hosts at hand
	Remaining int     `json:"remaining"` // seconds, of that task, as the scanner guesses
	Hosts     int     `json:"hosts"`     // hosts that are through
}

// Coverage is the honest part: what the scan did with the addresses that it was given.
type Coverage struct {
	Total     int            `json:"total"` // addresses, as the scanner counted them at its end; 0 before
	Up        int            `json:"up"`
	Alive     int            `json:"alive"`  // of those up: something answered
	Silent    int            `json:"silent"` // of those up: called so without looking, scanned to the end, and nothing answered
	Down      int            `json:"down"`
	TimedOut  int            `json:"timed_out"`          // of those up: given up, so that nothing is known of their ports
	OpenPorts int            `json:"open_ports"`         // also of ports and hosts that are not kept
	NotKept   int            `json:"hosts_not_kept"`     // of those up: beyond the bound of Hosts
	Listed    int            `json:"listed"`             // hosts in the report
	Invalid   int            `json:"invalid"`            // hosts without a usable address, or named before: dropped
	Whole     bool           `json:"whole,omitempty"`    // the scan went through every address that it was given, and lists only what it found
	Completed []netip.Prefix `json:"completed"`          // addresses that are through: up or down, and not timed out
	DownAt    []netip.Prefix `json:"down_at"`            // of these: down
	GivenUp   []netip.Prefix `json:"timed_out_at"`       // addresses that timed out
	Requests  *Requests      `json:"requests,omitempty"` // of a scan by words
	Scanned   []Scanned      `json:"scanned,omitempty"`  // ports, where the scanner says which
	// ScriptErrors is how often a script ended in an error of its own, so that nothing is known of what it looks for;
	// ScriptsFailed are the first of those scripts.
	ScriptErrors  int      `json:"script_errors,omitempty"`
	ScriptsFailed []string `json:"scripts_failed,omitempty"`

	// AskedUnknown says that it is not known any more what was asked for, but for the addresses.
	AskedUnknown bool `json:"asked_unknown,omitempty"`

	SecondPass   *SecondPass    `json:"second_pass,omitempty"`  // where it was asked for
	Verification []Verification `json:"verification,omitempty"` // likewise; of each protocol
}

// Host is one host. What the host itself sent is in Untrusted, here and in its ports.
type Host struct {
	Addr      netip.Addr `json:"addr"`
	Status    string     `json:"status"`
	Reason    string     `json:"reason,omitempty"`
	MAC       string     `json:"mac,omitempty"` // only of hosts on the same link
	Vendor    string     `json:"vendor,omitempty"`
	TimedOut  bool       `json:"timed_out,omitempty"`
	Silent    bool       `json:"silent,omitempty"` // called up without looking, and nothing answered
	Ports     []Port     `json:"ports"`
	Others    []Others   `json:"other_ports,omitempty"`
	OS        []OS       `json:"os,omitempty"`
	Found     []Found    `json:"found,omitempty"` // by a scan by words
	Untrusted *HostText  `json:"untrusted,omitempty"`
}

// Port is one port that is listed by itself.
type Port struct {
	Port      int       `json:"port"`
	Proto     string    `json:"proto"`
	State     string    `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	Service   string    `json:"service,omitempty"` // the scanner's own name for it
	Method    string    `json:"method,omitempty"`  // probed, or only looked up by number (table)
	Tunnel    string    `json:"tunnel,omitempty"`
	Untrusted *PortText `json:"untrusted,omitempty"`
}

// Others counts ports that are not listed, since there are many alike.
type Others struct {
	State string `json:"state"`
	Count int    `json:"count"`
}

// OS is a guess at an operating system, from the scanner's own list of names.
type OS struct {
	Name     string `json:"name"`
	Accuracy int    `json:"accuracy"` // percent
}

// PortText is what a host sent on a port, cleaned and cut.
type PortText struct {
	Product  string   `json:"product,omitempty"`
	Version  string   `json:"version,omitempty"`
	Extra    string   `json:"extra,omitempty"`
	Hostname string   `json:"hostname,omitempty"`
	OS       string   `json:"os,omitempty"`
	Device   string   `json:"device,omitempty"`
	CPE      []string `json:"cpe,omitempty"`
	Scripts  []Script `json:"scripts,omitempty"`
}

// HostText is what a host sent to scripts that ask the host as a whole.
type HostText struct {
	Scripts []Script `json:"scripts"`
}

// Script is what a script printed, cleaned and cut.
type Script struct {
	Name   string `json:"script"`
	Output string `json:"output"`
}

func (p PortText) empty() bool {
	return p.Product+p.Version+p.Extra+p.Hostname+p.OS+p.Device == "" && len(p.CPE) == 0 && len(p.Scripts) == 0
}
