// Package wire is the protocol between the two rooms of secmcpd: the launcher, which has
// privilege, and the front, which parses what agents and scanned hosts say.
//
// One connection (SOCK_SEQPACKET, so a message is a packet and a length is never guessed),
// dialled by the launcher. Each packet is one [Message] in canonical CBOR of at most
// [MaxMessage] bytes. Descriptors travel from the launcher to the front only: a packet from the
// front that carries one ends the connection.
//
//	launcher → front   Hello, then Job for each record it keeps, then Synced
//	                   Client (with the connection), Gone, Job, State, Reread, Reply
//	front → launcher   Hello, then Start, Preview, Ask, Cancel, Ack, Login, Met, Leave, Rest, HasRead, Signal
//
// The launcher treats whatever the front sends as hostile: every field is bounded here, and
// what a message asks is judged again by the launcher on its own knowledge of the caller.
package wire

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// What the front may be unable to enforce about itself, as layers that accept_unenforced can
// name. Having a capability or being root is not among them: it refuses to start.
const (
	FrontNetwork    = "front-network"      // it has a network interface beside loopback
	FrontPrivileges = "front-no-new-privs" // it could gain privilege through a set-uid file
	Wall            = "wall"               // both rooms are one user (`secmcpd stdio` without root)
)

// RoomLayers are all of these.
var RoomLayers = []string{FrontNetwork, FrontPrivileges, Wall}

// Version is the protocol's number. Both rooms come from one package, so a difference means
// that an upgrade restarted only one of them; the connection ends and is made anew.
const Version = 2

const (
	// MaxMessage bounds one packet in bytes, either way.
	MaxMessage = 64 << 10
	// MaxFiles bounds the descriptors of one packet (a job's four artefacts are the most).
	MaxFiles = 4
	// MaxList bounds the entries of the lists that a verdict quotes; the counts beside them
	// are exact.
	MaxList = 64
	// MaxValue bounds the runner's encoded value inside Start and Preview, in bytes.
	MaxValue = 48 << 10
)

// Message is one packet: exactly one field is set.
type Message struct {
	Hello   *Hello   `cbor:"hello,omitempty"`
	Client  *Client  `cbor:"client,omitempty"`
	Gone    *Gone    `cbor:"gone,omitempty"`
	Job     *Job     `cbor:"job,omitempty"`
	State   *State   `cbor:"state,omitempty"`
	Synced  *Synced  `cbor:"synced,omitempty"`
	Reply   *Reply   `cbor:"reply,omitempty"`
	Start   *Start   `cbor:"start,omitempty"`
	Preview *Preview `cbor:"preview,omitempty"`
	Ask     *Ask     `cbor:"ask,omitempty"`
	Cancel  *Cancel  `cbor:"cancel,omitempty"`
	Ack     *Ack     `cbor:"ack,omitempty"`
	Met     *Met     `cbor:"met,omitempty"`
	Leave   *Leave   `cbor:"leave,omitempty"`
	Login   *Login   `cbor:"login,omitempty"`
	Rest    *Rest    `cbor:"rest,omitempty"`
	Reread  *Reread  `cbor:"reread,omitempty"`
	HasRead *HasRead `cbor:"has_read,omitempty"`
	Signal  *Signal  `cbor:"signal,omitempty"`
}

// Hello opens the connection, one from each room.
type Hello struct {
	Version int `cbor:"version"`
	// Instance names one life of the launcher (empty from the front). Handles of another
	// instance are dead.
	Instance string `cbor:"instance,omitempty"`
	// Gaps is what the sender could not enforce about itself or, from the launcher, about
	// this machine. Of the front's the launcher reads the layer only, if it is one of RoomLayers.
	Gaps []Gap `cbor:"gaps,omitempty"`
	// Budget is the launcher's for all scans together, in packets a second; 0: no bound.
	Budget int `cbor:"budget,omitempty"`
}

// Gap is a layer of protection that is not in force, why, and what follows from it.
type Gap struct {
	Layer   string `cbor:"layer" json:"layer"`
	Why     string `cbor:"why" json:"why"`
	Follows string `cbor:"follows" json:"follows"`
}

// Network is how what a scan sends leaves this machine.
type Network struct {
	Mode   string   `cbor:"mode" json:"mode"`                         // routed, translated
	Filter string   `cbor:"filter,omitempty" json:"filter,omitempty"` // bpf, nftables; none from a launcher that did not say it
	Cannot []string `cbor:"cannot,omitempty" json:"cannot,omitempty"` // what scans cannot do in it, in our words
	Slowed string   `cbor:"slowed,omitempty" json:"slowed,omitempty"` // why this scan sends more slowly than it might
}

// Client hands a connected caller to the front. One descriptor comes with it (the accepted
// socket), or two (standard input and output of `secmcpd stdio`).
type Client struct {
	Handle uint64   `cbor:"handle"`
	UID    uint32   `cbor:"uid"`
	GID    uint32   `cbor:"gid"`
	Groups []uint32 `cbor:"groups,omitempty"`
	PID    int32    `cbor:"pid"` // of who connected, as it was then; told, never acted on
}

// Gone says that a client's connection has hung up; its handle is dead.
type Gone struct {
	Handle uint64 `cbor:"handle"`
}

// Synced ends the list of records that the launcher sends when the connection opens. A job
// that the front believes to be under way and that was not in the list never will be.
type Synced struct{}

// Start asks for a scan in the name of a connected caller. Value is the runner's typed value
// in canonical form (see [Encode]).
type Start struct {
	Seq    uint64 `cbor:"seq"`
	Handle uint64 `cbor:"handle"`
	Job    string `cbor:"job"`
	Value  []byte `cbor:"value"`
	// Consent is the engagement and its revision, as ENGAGEMENT@REVISION, for which the user of the
	// agent has confirmed the scan; empty where nobody was asked. It is the front's word for the
	// caller's, and stands in for no approval.
	Consent string `cbor:"consent,omitempty"`
	// Correlation is the id under which the caller looks for the scan in records and logs; empty: the
	// job's. See [ValidCorrelation].
	Correlation string `cbor:"correlation,omitempty"`
}

// MaxConsent bounds a consent in bytes, MaxCorrelation an id of a caller's own.
const (
	MaxConsent     = 192
	MaxCorrelation = 64
)

// Preview asks what Start would do. Nothing is run and no name is resolved.
type Preview struct {
	Seq    uint64 `cbor:"seq"`
	Handle uint64 `cbor:"handle"`
	Value  []byte `cbor:"value"`
}

// Ask asks what a caller may do here: engagements, scanners, limits.
type Ask struct {
	Seq    uint64 `cbor:"seq"`
	Handle uint64 `cbor:"handle"`
}

// Cancel ends a job of the same caller (by uid).
type Cancel struct {
	Seq    uint64 `cbor:"seq"`
	Handle uint64 `cbor:"handle"`
	Job    string `cbor:"job"`
}

// Ack says that the front has committed an ended job; the launcher forgets its record.
type Ack struct {
	Job string `cbor:"job"`
}

// Met says that the front begins to read from a client. One that was handed to a front which ended before
// saying so has lost nothing: the launcher hands its copy to the next.
type Met struct {
	Handle uint64 `cbor:"handle"`
}

// Leave says that the front has ended a client's session; the launcher drops its copy of the
// connection.
type Leave struct {
	Handle uint64 `cbor:"handle"`
}

// Login asks who bears a token that came over HTTP. The launcher alone knows.
type Login struct {
	Seq   uint64 `cbor:"seq"`
	Token string `cbor:"token"` // as it was sent, at most MaxToken bytes
}

// MaxToken bounds a token in bytes.
const MaxToken = 128

// LoggedIn is who bears a token: a client without a connection, whose handle lives until the token is
// taken back, the front leaves it, or the connection between the rooms ends. One token has one handle.
type LoggedIn struct {
	Client Client   `cbor:"client"`
	For    []string `cbor:"for"` // what the token is good for: ForMCP, ForMetrics
}

// What a token may be good for.
const (
	ForMCP     = "mcp"     // to be that caller: MCP, and the events of its own jobs
	ForMetrics = "metrics" // to read metrics and the details of health
)

// TokenUses are all of these.
var TokenUses = []string{ForMCP, ForMetrics}

// Rest says that nothing is under way in the front. If nothing is with the launcher either, it ends the
// connection, and nothing that it sent before is lost with it; otherwise it refuses.
type Rest struct {
	Seq uint64 `cbor:"seq"`
}

// Reply answers the request with the same Seq. Refused is set, or one of the others, or
// nothing (a Start that was accepted and queued, a Cancel that was carried out).
type Reply struct {
	Seq          uint64        `cbor:"seq"`
	Refused      *Refusal      `cbor:"refused,omitempty"`
	Preview      *Previewed    `cbor:"preview,omitempty"`
	Capabilities *Capabilities `cbor:"capabilities,omitempty"`
	LoggedIn     *LoggedIn     `cbor:"logged_in,omitempty"`
}

// ConfirmationNeeded is the code of a refusal of what the user of the agent has not confirmed.
const ConfirmationNeeded = "confirmation_needed"

// Refusal is an error that a model can act on: what was wrong, with which field, what would be
// accepted.
type Refusal struct {
	Code      string   `cbor:"code" json:"code"`
	Field     string   `cbor:"field,omitempty" json:"field,omitempty"`
	Got       string   `cbor:"got,omitempty" json:"got,omitempty"`
	Allowed   []string `cbor:"allowed,omitempty" json:"allowed,omitempty"`
	Reason    string   `cbor:"reason,omitempty" json:"reason,omitempty"`
	Hint      string   `cbor:"hint,omitempty" json:"hint,omitempty"`
	Rule      string   `cbor:"rule,omitempty" json:"rule,omitempty"`
	Retryable bool     `cbor:"retryable" json:"retryable"`
	// RetryAfterS is in how many seconds asking again may help; 0: not known.
	RetryAfterS int64 `cbor:"retry_after_s,omitempty" json:"retry_after_s,omitempty"`
}

// Verdict is the answer of policy as the front may show it. The lists hold at most [MaxList]
// entries; the counts are exact.
type Verdict struct {
	Outcome       string      `cbor:"outcome" json:"outcome"` // allow, deny, approve
	Engagement    string      `cbor:"engagement,omitempty" json:"engagement,omitempty"`
	Revision      string      `cbor:"revision,omitempty" json:"revision,omitempty"` // sha256 of the engagement file
	Rule          string      `cbor:"rule,omitempty" json:"rule,omitempty"`
	Reason        string      `cbor:"reason,omitempty" json:"reason,omitempty"`
	Addresses     []string    `cbor:"addresses,omitempty" json:"addresses,omitempty"` // prefixes that may be sent to
	AddressCount  uint64      `cbor:"address_count" json:"address_count"`
	Excluded      []Exclusion `cbor:"excluded,omitempty" json:"excluded,omitempty"`
	ExcludedCount uint64      `cbor:"excluded_count" json:"excluded_count"` // addresses asked for and left out
	// Ports is what may be sent to at each address: "22", "8000-8100" (TCP), "udp/53", "icmp". None:
	// all ports, and ICMP.
	Ports      []string `cbor:"ports,omitempty" json:"ports,omitempty"`
	PortsCount int      `cbor:"ports_count,omitempty" json:"ports_count,omitempty"`
	// ExcludedPorts were asked for and are left out at each address.
	ExcludedPorts      []string  `cbor:"excluded_ports,omitempty" json:"excluded_ports,omitempty"`
	ExcludedPortsCount int       `cbor:"excluded_ports_count,omitempty" json:"excluded_ports_count,omitempty"`
	ExcludedPortsRule  string    `cbor:"excluded_ports_rule,omitempty" json:"excluded_ports_rule,omitempty"`
	Confirm            []string  `cbor:"confirm,omitempty" json:"confirm,omitempty"` // what the user of the agent has to confirm
	Approve            []string  `cbor:"approve,omitempty" json:"approve,omitempty"` // what an operator has to approve
	Unresolved         []string  `cbor:"unresolved,omitempty" json:"unresolved,omitempty"`
	Rate               int       `cbor:"rate,omitempty" json:"rate,omitempty"`       // packets per second
	LimitS             int64     `cbor:"limit_s,omitempty" json:"limit_s,omitempty"` // seconds a job may take
	Until              time.Time `cbor:"until,omitzero" json:"until,omitzero"`       // end of hours or of the engagement
}

// Exclusion is a part of what was asked that is left out, and by which rule.
type Exclusion struct {
	Prefix string `cbor:"prefix" json:"prefix"`
	Rule   string `cbor:"rule" json:"rule"`
}

// Previewed is what Start would do.
type Previewed struct {
	Verdict     Verdict   `cbor:"verdict"`
	Refused     *Refusal  `cbor:"refused,omitempty"` // set when Start would be refused, by the verdict or for lack of something
	Argv        []string  `cbor:"argv,omitempty"`    // at most MaxList words
	ArgvCount   int       `cbor:"argv_count"`
	Scanner     Scanner   `cbor:"scanner"`
	Packets     int64     `cbor:"packets"`    // expected
	ExpectedS   int64     `cbor:"expected_s"` // seconds expected
	Network     *Network  `cbor:"network,omitempty"`
	NotEnforced []Gap     `cbor:"not_enforced,omitempty"`
	Wordlist    *Wordlist `cbor:"wordlist,omitempty"`
}

// Scanner is one scanner as the launcher found it.
type Scanner struct {
	Tool    string `cbor:"tool" json:"tool"`
	Path    string `cbor:"path,omitempty" json:"path,omitempty"`
	Version string `cbor:"version,omitempty" json:"version,omitempty"`
	SHA256  string `cbor:"sha256,omitempty" json:"sha256,omitempty"`
	Problem string `cbor:"problem,omitempty" json:"problem,omitempty"` // why it cannot be used
	// Disabled says that the operator has switched the tool off, and where.
	Disabled string `cbor:"disabled,omitempty" json:"disabled,omitempty"`
}

// Capabilities is what one caller may do here.
type Capabilities struct {
	Engagements      []EngagementView `cbor:"engagements,omitempty" json:"engagements"` // as many as a message holds
	EngagementsCount int              `cbor:"engagements_count" json:"engagements_count"`
	Scanners         []Scanner        `cbor:"scanners,omitempty" json:"scanners"`
	Slots            int              `cbor:"slots" json:"slots"`     // scans at once
	Running          int              `cbor:"running" json:"running"` // now
	Queued           int              `cbor:"queued" json:"queued"`
	Network          *Network         `cbor:"network,omitempty" json:"network,omitempty"`
	NotEnforced      []Gap            `cbor:"not_enforced,omitempty" json:"not_enforced"`
	Wordlists        []Wordlist       `cbor:"wordlists,omitempty" json:"wordlists"` // the first MaxList
	WordlistsCount   int              `cbor:"wordlists_count,omitempty" json:"wordlists_count,omitempty"`
	// Refusing are the breakers that refuse scans now: of tools, and of networks in the caller's
	// engagements; the first MaxRefusing.
	Refusing []Refusing `cbor:"refusing,omitempty" json:"refusing,omitempty"`
}

// MaxRefusing bounds the breakers that capabilities tell of.
const MaxRefusing = 16

// Refusing is a breaker that refuses scans.
type Refusing struct {
	Breaker     string `cbor:"breaker" json:"breaker"` // a tool or a network
	State       string `cbor:"state" json:"state"`     // open, half_open
	RetryAfterS int64  `cbor:"retry_after_s,omitempty" json:"retry_after_s,omitempty"`
	Reason      string `cbor:"reason" json:"reason"`
}

// Wordlist is a list of words that the operator offers to scans.
type Wordlist struct {
	Name    string `cbor:"name" json:"name"`
	Lines   int64  `cbor:"lines" json:"lines"`
	Blank   int64  `cbor:"blank,omitempty" json:"blank,omitempty"` // of them, without a word or beginning with #: gobuster passes over them
	Bytes   int64  `cbor:"bytes,omitempty" json:"bytes,omitempty"`
	SHA256  string `cbor:"sha256,omitempty" json:"sha256,omitempty"`
	Problem string `cbor:"problem,omitempty" json:"problem,omitempty"` // why it cannot be used
}

// EngagementView is an engagement as one of its callers may see it. Its lists are cut, at MaxList
// or for all of them to fit in a message; the counts beside them are exact.
type EngagementView struct {
	Name          string              `cbor:"name" json:"name"`
	Description   string              `cbor:"description,omitempty" json:"description,omitempty"`
	Targets       []string            `cbor:"targets,omitempty" json:"targets"`
	TargetsCount  int                 `cbor:"targets_count" json:"targets_count"`
	Excluded      []string            `cbor:"excluded,omitempty" json:"excluded"`
	ExcludedCount int                 `cbor:"excluded_count" json:"excluded_count"`
	Tools         []string            `cbor:"tools,omitempty" json:"tools"`
	Profiles      map[string][]string `cbor:"profiles,omitempty" json:"profiles"` // of each tool; "*" is all
	Intrusive     string              `cbor:"intrusive" json:"intrusive"`
	Confirm       []string            `cbor:"confirm,omitempty" json:"confirm,omitempty"` // what the user of the agent has to confirm
	Approve       []string            `cbor:"approve,omitempty" json:"approve,omitempty"` // what an operator has to approve
	Addresses     int                 `cbor:"addresses" json:"addresses_per_job"`
	Ports         int                 `cbor:"ports" json:"ports_per_address"`
	Rate          int                 `cbor:"rate" json:"packets_per_second"`
	Budget        int                 `cbor:"budget,omitempty" json:"total_packets_per_second,omitempty"` // of all jobs together; 0: no bound
	LimitS        int64               `cbor:"limit_s" json:"limit_s"`
	Jobs          int                 `cbor:"jobs" json:"jobs_at_once"`
	Hours         string              `cbor:"hours,omitempty" json:"hours,omitempty"` // empty: any
	Expires       time.Time           `cbor:"expires,omitzero" json:"expires,omitzero"`
	Open          bool                `cbor:"open" json:"open"`                         // may be used at this moment
	Closed        string              `cbor:"closed,omitempty" json:"closed,omitempty"` // why not
}

// The states of a job in the launcher.
const (
	Queued  = "queued"  // accepted, waits for a slot or an approval
	Running = "running" // the scanner has been started
	Ended   = "ended"   // nothing of it runs any more; Outcome says how it ended
)

// Job is the launcher's record of one job. It is sent when the state changes, and for each
// record kept when the connection opens. From Running on, the first Job of a connection comes
// with the read-only descriptors named in Files, in that order.
type Job struct {
	ID          string    `cbor:"id"`
	UID         uint32    `cbor:"uid"`
	Tool        string    `cbor:"tool"`
	State       string    `cbor:"state"`
	Correlation string    `cbor:"correlation,omitempty"` // the caller's id for it, or its own; none from a launcher that did not note it
	Asked       time.Time `cbor:"asked,omitzero"`        // zero from a launcher that did not note it
	Files       []string  `cbor:"files,omitempty"`       // "stdout", "stderr", "argv", "spec"
	Verdict     Verdict   `cbor:"verdict"`
	Scanner     Scanner   `cbor:"scanner"`
	Packets     int64     `cbor:"packets,omitempty"`    // expected
	ExpectedS   int64     `cbor:"expected_s,omitempty"` // seconds expected
	Rate        int       `cbor:"rate,omitempty"`       // packets a second that it was launched with
	Started     time.Time `cbor:"started,omitzero"`
	Deadline    time.Time `cbor:"deadline,omitzero"`
	Outcome     *Outcome  `cbor:"outcome,omitempty"`
	Network     *Network  `cbor:"network,omitempty"` // nil: the scan has this machine's own
	NotEnforced []Gap     `cbor:"not_enforced,omitempty"`
	// Resolved is what the name server answered for the first MaxNames names.
	Resolved []Resolved `cbor:"resolved,omitempty"`
	// Wordlist is what the scan has, and Requests how many it makes of it.
	Wordlist *Wordlist `cbor:"wordlist,omitempty"`
	Requests int64     `cbor:"requests,omitempty"`
	// EndsBy is when the scan is ended because the launcher is being stopped; zero: it is not.
	EndsBy time.Time `cbor:"ends_by,omitzero"`
	// Approval is of a job that an operator has to approve.
	Approval *Approval `cbor:"approval,omitempty"`
}

// Resolved is a name that was asked for and the addresses that it had, of which MaxAnswers are
// listed; Count is exact.
type Resolved struct {
	Name      string   `cbor:"name" json:"name"`
	Addresses []string `cbor:"addresses" json:"addresses"`
	Count     int      `cbor:"count" json:"count"`
}

// What a record lists of the names that were asked for.
const (
	MaxNames   = 32
	MaxAnswers = 8 // of one name
)

// The reasons for which a job ended.
const (
	Exited      = "exited"      // the scanner ended by itself; Code says how
	Signalled   = "signalled"   // a signal that nobody here sent
	Cancelled   = "cancelled"   // by its caller
	Withdrawn   = "withdrawn"   // its engagement was narrowed, removed, or expired
	Timeout     = "timeout"     // its time was up
	Output      = "output"      // it wrote more than its limit
	Memory      = "memory"      // out of memory within its limit
	Pids        = "pids"        // too many processes or threads
	CPU         = "cpu"         // used more processor time than its limit
	DiskFull    = "disk_full"   // too little was left where outputs are kept
	Violation   = "violation"   // a call that no scanner makes: killed by the box
	Launch      = "launch"      // the box could not be built; Stage says where
	Refused     = "refused"     // judged again before the launch, and denied
	Shutdown    = "shutdown"    // the launcher was stopped
	ScopeLost   = "scope_lost"  // somebody else changed or removed the kernel's filter
	Interrupted = "interrupted" // the launcher died and took its boxes with it
)

// Outcome says how a job ended.
type Outcome struct {
	Reason  string    `cbor:"reason"`
	Code    int       `cbor:"code"`              // exit status, when Exited
	Signal  int       `cbor:"signal,omitempty"`  // when Signalled or Violation
	Stage   string    `cbor:"stage,omitempty"`   // of the launch that failed
	Detail  string    `cbor:"detail,omitempty"`  // our own words, never the scanner's
	Refused *Refusal  `cbor:"refused,omitempty"` // when Refused or Launch
	Ended   time.Time `cbor:"ended"`
	Usage   Usage     `cbor:"usage"`
	// The first destinations to which packets were dropped, at most MaxOffScope.
	OffScope []OffScope `cbor:"off_scope,omitempty"`
}

// MaxOffScope bounds the destinations off scope that are named; those that got most come first.
const MaxOffScope = 16

// OffScope is a destination that a scanner sent to and that its scope does not have. Protocol is that
// of IP, and 0 where the destination's hardware address was asked for (ARP).
type OffScope struct {
	To       string `cbor:"to" json:"to"` // an address
	Protocol uint8  `cbor:"protocol" json:"protocol"`
	Port     uint16 `cbor:"port,omitempty" json:"port,omitempty"`
	Packets  uint64 `cbor:"packets" json:"packets"`
}

// Usage is what a job used. The network counters are of the kernel's filter. What the cgroup of
// this machine does not count is zero, and left out for agents.
type Usage struct {
	WallMS      int64  `cbor:"wall_ms" json:"wall_ms"`
	CPUMS       int64  `cbor:"cpu_ms" json:"cpu_ms"`
	MemoryPeak  uint64 `cbor:"memory_peak" json:"memory_peak_bytes,omitempty"`
	PidsRefused uint64 `cbor:"pids_refused" json:"pids_refused"` // processes or threads that the limit refused
	Output      int64  `cbor:"output" json:"output_bytes"`
	SentPackets uint64 `cbor:"sent" json:"sent_packets"`
	Received    uint64 `cbor:"received,omitempty" json:"received_packets,omitempty"`   // where the filter is BPF
	Dropped     uint64 `cbor:"dropped" json:"dropped_packets"`                         // off scope, or of a form that does not pass, by the kernel
	OverRate    uint64 `cbor:"over_rate,omitempty" json:"over_rate_packets,omitempty"` // dropped, because they were more than its rate
	OffScope    uint64 `cbor:"off_scope,omitempty" json:"off_scope_packets,omitempty"`
	Refused     uint64 `cbor:"refused,omitempty" json:"refused_packets,omitempty"`   // on the way to the scanner, from elsewhere
	ThrottledMS int64  `cbor:"throttled_ms,omitempty" json:"throttled_ms,omitempty"` // kept from the processor by the limit of its share
	Read        int64  `cbor:"read,omitempty" json:"read_bytes,omitempty"`           // from disks
	Written     int64  `cbor:"written,omitempty" json:"written_bytes,omitempty"`     // to disks
	// Pressure: how long some task of it waited for the processor, for memory, for a disk.
	WaitedCPUMS    int64 `cbor:"waited_cpu_ms,omitempty" json:"waited_cpu_ms,omitempty"`
	WaitedMemoryMS int64 `cbor:"waited_memory_ms,omitempty" json:"waited_memory_ms,omitempty"`
	WaitedIOMS     int64 `cbor:"waited_io_ms,omitempty" json:"waited_io_ms,omitempty"`
}

// Strict, canonical CBOR: one value has one encoding, and anything else is refused. The
// decoder's own limits come before any allocation that a length in the input asks for.
var (
	enc = must(cbor.EncOptions{Sort: cbor.SortCoreDeterministic, Time: cbor.TimeRFC3339NanoUTC,
		IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden, NilContainers: cbor.NilContainerAsNull,
		OmitEmpty: cbor.OmitEmptyCBORValue}.EncMode())
	dec = must(cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		TagsMd: cbor.TagsForbidden, MaxNestedLevels: 8, MaxArrayElements: 4096, MaxMapPairs: 256,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, UTF8: cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("wire: options of the codec: %v", err))
	}
	return v
}

// Encode gives the canonical bytes of v, at most limit of them.
func Encode(v any, limit int) ([]byte, error) {
	b, err := enc.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %T: %w", v, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("cannot encode %T: %d bytes, at most %d are sent", v, len(b), limit)
	}
	return b, nil
}

// ErrNotCanonical refuses bytes that decode well and are not what Encode would have written.
// One value, one encoding: what was audited, digested or compared is what was meant.
var ErrNotCanonical = errors.New("not in canonical form")

// Decode is the inverse of Encode and accepts nothing else.
func Decode(b []byte, limit int, into any) error {
	if len(b) > limit {
		return fmt.Errorf("cannot decode %T: %d bytes, at most %d are read", into, len(b), limit)
	}
	if err := dec.Unmarshal(b, into); err != nil {
		return fmt.Errorf("cannot decode %T: %w", into, err)
	}
	again, err := enc.Marshal(into)
	if err != nil {
		return fmt.Errorf("cannot decode %T: %w", into, err)
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("cannot decode %T: %w", into, ErrNotCanonical)
	}
	return nil
}

// check refuses a message that is not exactly one of its kinds, or whose fields are out of
// bounds.
func (m *Message) check() error {
	n := 0
	for _, set := range []bool{m.Hello != nil, m.Client != nil, m.Gone != nil, m.Job != nil, m.State != nil, m.Synced != nil,
		m.Reply != nil, m.Start != nil, m.Preview != nil, m.Ask != nil, m.Cancel != nil, m.Ack != nil, m.Met != nil, m.Leave != nil,
		m.Login != nil, m.Rest != nil, m.Reread != nil, m.HasRead != nil, m.Signal != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("a message has %d kinds, not one", n)
	}
	switch {
	case m.Start != nil:
		if len(m.Start.Consent) > MaxConsent {
			return fmt.Errorf("consent: %d bytes, at most %d", len(m.Start.Consent), MaxConsent)
		}
		if c := m.Start.Correlation; c != "" && !ValidCorrelation(c) {
			return fmt.Errorf("correlation: %q is not 1 to %d characters of A-Za-z0-9._:-", fmt.Sprintf("%.80s", c), MaxCorrelation)
		}
		return errors.Join(checkJobID(m.Start.Job), checkValue(m.Start.Value))
	case m.Preview != nil:
		return checkValue(m.Preview.Value)
	case m.Reread != nil:
		return m.Reread.check()
	case m.HasRead != nil:
		return m.HasRead.check()
	case m.Cancel != nil:
		return checkJobID(m.Cancel.Job)
	case m.Ack != nil:
		return checkJobID(m.Ack.Job)
	case m.Job != nil:
		return checkJobID(m.Job.ID)
	case m.Login != nil && (m.Login.Token == "" || len(m.Login.Token) > MaxToken):
		return fmt.Errorf("token: %d bytes, allowed are 1 to %d", len(m.Login.Token), MaxToken)
	case m.Hello != nil && len(m.Hello.Gaps) > MaxList:
		return fmt.Errorf("hello: %d gaps, at most %d", len(m.Hello.Gaps), MaxList)
	}
	return nil
}

func checkValue(b []byte) error {
	if len(b) == 0 || len(b) > MaxValue {
		return fmt.Errorf("value: %d bytes, allowed are 1 to %d", len(b), MaxValue)
	}
	return nil
}

// JobIDLength is the length of a job's id: 26 characters of lower-case base 32 (no padding), 130 bits.
const JobIDLength = 26

// checkJobID refuses what cannot be a job's id. An id becomes the name of a directory and of a
// cgroup, so its alphabet is the whole defence: a to z and 2 to 7.
func checkJobID(id string) error {
	if !ValidJobID(id) {
		return fmt.Errorf("job: %q is not %d characters of a-z2-7", fmt.Sprintf("%.40s", id), JobIDLength)
	}
	return nil
}

// ValidJobID reports whether id has the form of a job's id.
func ValidJobID(id string) bool {
	if len(id) != JobIDLength {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// ValidCorrelation reports whether an id of a caller's own has the form that it may have: it goes into
// records, logs and the journal, where it cannot be taken for anything else.
func ValidCorrelation(id string) bool {
	if len(id) < 1 || len(id) > MaxCorrelation {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == ':', c == '-':
		default:
			return false
		}
	}
	return true
}
