package runners

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

const gobusterName = "gobuster_scan"

// The bounds of a call.
const (
	maxThreads    = 50
	maxExtensions = 16
	maxStatuses   = 64
	maxDelay      = 10000 // milliseconds
	maxTimeout    = 60    // seconds
	manyThreads   = 20    // more are intrusive
)

// Wordlist is the file that a box of gobuster has for its words.
const (
	Wordlist     = "words"
	wordlistPath = "/in/" + Wordlist
)

// Gobuster is a read call of gobuster_scan: complete and canonical, as Nmap is.
type Gobuster struct {
	Mode          string   `json:"mode"`
	Profile       string   `json:"profile"`
	URL           string   `json:"url,omitempty"`    // dir, vhost: scheme, host, port if it is not the scheme's, path with / at its end
	Host          string   `json:"host,omitempty"`   // dir: the Host header, where it is not the URL's
	Domain        string   `json:"domain,omitempty"` // dns, vhost: words come before it
	Wordlist      string   `json:"wordlist"`
	Extensions    []string `json:"extensions,omitempty"`     // sorted
	StatusCodes   []int    `json:"status_codes,omitempty"`   // sorted; or else
	ExcludeStatus []int    `json:"exclude_status,omitempty"` // sorted
	Threads       int      `json:"threads"`
	Delay         int      `json:"delay_ms,omitempty"` // of each thread after each request
	Timeout       int      `json:"timeout_s"`          // of a request
	TLSVerify     bool     `json:"tls_verify"`
	IPVersion     int      `json:"ip_version"`
	Rate          int      `json:"rate,omitempty"` // packets per second; 0 leaves it to the engagement
	Limit         int      `json:"limit,omitempty"`
	Engagement    string   `json:"engagement,omitempty"`

	Lines int64 `json:"-"` // of the wordlist, as the launcher counted them: see WithWords
}

func gobusterRow() row {
	helps := [][]string{}
	for _, mode := range gobusterModes {
		helps = append(helps, []string{mode, "--help"})
	}
	return row{
		name: gobusterName, scanner: "gobuster", tool: gobusterTool, profiles: gobusterProfileNames,
		read: func(members map[string]json.RawMessage) (Call, []Fault) {
			scan, faults := readGobuster(members)
			return Call{Gobuster: &scan}, faults
		},
		asks:    [][]string{{"version"}, {"--version"}},
		version: regexp.MustCompile(`(?m)^(?:gobuster version |Gobuster v)?([0-9]{1,3})\.([0-9]{1,4})(?:\.[0-9]{1,4})?(?:[-+ ].*)?(?:\r?\n|$)`),
		helps:   helps,
		knows:   knownGobuster,
	}
}

// variants is how many requests are made of each word: by itself, and with each extension.
func (g *Gobuster) variants() int64 { return 1 + int64(len(g.Extensions)) }

// WithWords returns the call with the number of lines of its wordlist, which its command and its cost depend on.
func (c Call) WithWords(lines int64) Call {
	if c.Gobuster != nil {
		with := *c.Gobuster
		with.Lines = lines
		c.Gobuster = &with
	}
	if c.Declared != nil {
		c.Declared = c.Declared.by(c.Declared.of, lines)
	}
	return c
}

func (g *Gobuster) plan() Plan {
	p := Plan{
		Profile: g.Profile, IPv6: g.IPVersion == 6, Intrusive: g.intrusive(), Ports: 1, Rate: g.Rate, Limit: time.Duration(g.Limit) * time.Second,
		Engagement: g.Engagement, PortsField: "url", Wordlist: g.Wordlist, Variants: g.variants(),
	}
	if g.Mode == "dns" {
		// Where it asks is not the caller's to say: whoever judges the plan knows the name servers.
		p.PortsField, p.Asks = "domain", true
		p.Targets = []Target{{Text: g.Domain, Name: g.Domain, Field: "domain", Below: true}}
		return p
	}
	u, fault := readURL(g.URL)
	if fault != nil {
		return p
	}
	p.Asked.TCP, p.One = [][2]uint16{{u.port, u.port}}, true
	u.host.Field = "url"
	p.Targets = []Target{u.host}
	if g.Host != "" {
		p.Targets = append(p.Targets, Target{Text: g.Host, Name: g.Host, Field: "host", Like: true})
	}
	if g.Mode == "vhost" {
		p.Targets = append(p.Targets, Target{Text: g.Domain, Name: g.Domain, Field: "domain", Below: true, Like: true})
	}
	return p
}

func (g *Gobuster) intrusive() (reasons []string) {
	if g.Threads > manyThreads {
		reasons = append(reasons, fmt.Sprintf("%d threads, more than %d", g.Threads, manyThreads))
	}
	return append(reasons, excess(1, g.Rate)...)
}

func (g *Gobuster) bounded(rate int, limit time.Duration) Call {
	b := *g
	if rate = min(rate, maxRate); rate > 0 && (b.Rate == 0 || b.Rate > rate) {
		b.Rate = rate
	}
	if seconds := int(min(limit/time.Second, maxLimit)); limit > 0 && (b.Limit == 0 || b.Limit > seconds) {
		b.Limit = max(seconds, minLimit)
	}
	return Call{Gobuster: &b}
}

// location is a URL, taken apart.
type location struct {
	scheme string
	host   Target // an address or a name
	port   uint16
	path   string // begins and ends with /
}

func (u location) String() string {
	host := u.host.Text
	if u.host.Prefix.Addr().Is6() {
		host = "[" + host + "]"
	}
	if u.port != schemes[u.scheme] {
		host = fmt.Sprintf("%s:%d", host, u.port)
	}
	return u.scheme + "://" + host + u.path
}

var (
	schemes  = map[string]uint16{"http": 80, "https": 443}
	pathForm = regexp.MustCompile(`^/[A-Za-z0-9._~!$&'()*+,;=:@/-]*$`)
)

const urlExample = "http://10.0.0.5:8080/app/"

// readURL reads a URL of what two parsers read alike: no user, no query, nothing escaped.
func readURL(text string) (location, *Fault) {
	fault := &Fault{Code: "bad_url", Field: "url", Got: excerpt(text), Allowed: []string{"http or https, a host, a port, a path"}, Example: urlExample}
	scheme, rest, found := strings.Cut(text, "://")
	u := location{scheme: strings.ToLower(scheme), path: "/"}
	port, known := schemes[u.scheme]
	if !found || !known {
		fault.Hint = "it begins with http:// or https://"
		return location{}, fault
	}
	if len(text) > 512 {
		fault.Hint = "it has at most 512 characters"
		return location{}, fault
	}
	u.port = port
	authority := rest
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, u.path = rest[:i], rest[i:]
	}
	if !pathForm.MatchString(u.path) {
		fault.Hint = "its path has letters, digits and . _ ~ ! $ & ' ( ) * + , ; = : @ - alone: no query, no fragment, nothing escaped"
		return location{}, fault
	}
	if !strings.HasSuffix(u.path, "/") {
		u.path += "/"
	}
	host := authority
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		n, is := readPort(authority[i+1:])
		if !is {
			fault.Hint = "its port is a number from 1 to 65535, without leading zeros"
			return location{}, fault
		}
		host, u.port = authority[:i], n
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		var closed bool
		if inner, closed = strings.CutSuffix(inner, "]"); !closed {
			fault.Hint = "an IPv6 address stands in brackets"
			return location{}, fault
		}
	}
	t, wrong := readTarget("url", inner)
	if wrong != nil {
		wrong.Got, wrong.Example = excerpt(text), urlExample
		return location{}, wrong
	}
	if t.Prefix.IsValid() && (!t.Prefix.IsSingleIP() || t.Prefix.Addr().Is6() != bracketed) || t.Name != "" && bracketed {
		fault.Hint = "its host is one address or one name, an IPv6 address in brackets"
		return location{}, fault
	}
	u.host = t
	return u, nil
}

// checkedAddress is the one address that a URL's host stands for.
func (g *Gobuster) checkedAddress(addresses, excluded []netip.Prefix) (netip.Addr, error) {
	if len(addresses) != 1 || !addresses[0].IsSingleIP() || addresses[0].Addr().Is4In6() {
		return netip.Addr{}, fmt.Errorf("%v is not one address", addresses)
	}
	if slices.ContainsFunc(excluded, addresses[0].Overlaps) {
		return netip.Addr{}, fmt.Errorf("%v is excluded", addresses[0])
	}
	return addresses[0].Addr(), nil
}
