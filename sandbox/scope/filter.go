package scope

import (
	"bytes"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// object is bpf/scope.c, compiled (make bpf), for machines of little endian.
//
//go:embed bpf/scope.o
var object []byte

// filter judges what crosses the links of slots, on this machine's side of them. It is loaded
// once; links are attached to it once, and every job is given and taken by changes of maps.
//
// A link that is attached passes nothing in either direction but what the grant that was given
// for it admits. That holds also when this process is gone: the kernel keeps programs and maps as
// long as the link.
type filter struct {
	programs struct {
		Out *ebpf.Program `ebpf:"scope_out"`
		In  *ebpf.Program `ebpf:"scope_in"`

		Wire *ebpf.Program `ebpf:"scope_wire"`
	}
	maps struct {
		Slots      *ebpf.Map `ebpf:"slots"`
		Scope      *ebpf.Map `ebpf:"scope"`
		Ports      *ebpf.Map `ebpf:"ports"`
		Budgets    *ebpf.Map `ebpf:"budgets"`
		Counters   *ebpf.Map `ebpf:"counters"`
		Violations *ebpf.Map `ebpf:"violations"`
		Range      *ebpf.Map `ebpf:"range"`
		Owners     *ebpf.Map `ebpf:"owners"`
	}
	settled, nothing *ebpf.Map // see settle
	out, in, wire    int       // the kernel's numbers of the programs

	mu     sync.Mutex
	job    uint32 // the last one; a number is never used twice
	slots  map[int]*given
	unused map[uint64]bool // keys of budgets that may be removed once they are whole
}

// given is what the maps hold for an attached link.
type given struct {
	job    uint32 // 0: none
	record record
	scope  []place
	ports  []portSet
	shared []uint64
}

// grant is what one job may send, and from where.
type grant struct {
	inner4, outer4     netip.Addr       // of the box, and of this side of its link
	inner6             netip.Addr       // not valid: the slot has no IPv6
	innerMAC, outerMAC net.HardwareAddr // likewise

	// Where prefixes of allow overlap, the longest one that an address lies in is its rule. What
	// lies in deny is never in the scope.
	allow []targets
	deny  []netip.Prefix

	arp       bool // may ask for outer4's hardware address
	l2        int  // the interface of the targets' segment, by which what passes leaves; 0: it is routed
	fragments bool // IPv4 fragments pass to targets of which all ports are granted

	rate   limit     // of the slot
	shared [2]budget // what it has in common with others: of its engagement, of the machine
	mark   uint32    // of packets that have passed; not 0
}

// targets are prefixes of one rule.
type targets struct {
	prefixes []netip.Prefix
	ports    *portRule // nil: all of them
	icmp     bool      // the requests of ICMP that scans make, and "unreachable"
	others   bool      // protocols other than TCP, UDP, SCTP and ICMP; no IPv6 extension headers
}

// portRule has the destination ports that are granted. What is nil is a protocol that is not; what is
// empty is one of which no port is.
type portRule struct{ tcp, udp, sctp []portRange }

// portRange includes both ends.
type portRange struct{ first, last uint16 }

// limit is in packets; as many as burst may come at once. The zero value limits nothing.
type limit struct{ perSecond, burst uint64 }

// budget is a limit that is shared by all slots that give its key. Their limits may differ: each
// slot applies its own to what all of them have sent.
type budget struct {
	key uint64
	limit
}

// counts are packets, where nothing else is said.
type counts struct {
	sent, offScope, spoofed, form, ethertype, protocol, port, budget, noise, notReady uint64

	received, refused        uint64
	sentBytes, receivedBytes uint64 // with Ethernet headers
}

// violation is a destination to which packets were dropped.
type violation struct {
	to       netip.Addr
	protocol uint8
	port     uint16 // 0 where the protocol has none
	reason   string // "off scope", "protocol", "port"
	packets  uint64
}

// What follows up to loadFilter is what bpf/scope.c calls by the same names.

const (
	reasonOffScope = 1
	reasonProtocol = 5
	reasonPort     = 6
)

var reasons = map[uint8]string{reasonOffScope: "off scope", reasonProtocol: "protocol", reasonPort: "port"}

const (
	flagRunning = 1 << iota
	flagIPv6
	flagARP
	flagL2
	flagDeny
	flagFragments
)

// A set is the number of a job, times 4, and these.
const (
	setDenied = 1 << iota
	setIPv6
)

const (
	mayICMP = 1 << iota
	mayOther
)

type rateRecord struct{ Interval, Tolerance uint64 } // ns

type record struct {
	Lock  uint32
	Named uint32
	Next  uint64

	Job, Flags, Mark   uint32
	Inner4, Outer4     [4]byte
	InnerMAC, OuterMAC [6]byte
	Inner6             [16]byte
	Wire, Zero         uint32
	Shared             [2]uint64
	Rates              [3]rateRecord
}

type place struct {
	Bits, Set uint32
	Addr      [16]byte
}

type targetRecord struct{ Ports, May uint32 }

type portSet struct{ Job, Set, Protocol uint32 }

type portBits [8192]byte

type budgetRecord struct {
	Lock, Zero uint32
	Next       uint64
}

type countersRecord struct {
	Sent, OffScope, Spoofed, Form, Ethertype, Protocol, Port, Budget, Noise, NotReady uint64
	Received, Refused, SentBytes, ReceivedBytes                                       uint64
}

type violationKey struct {
	Job      uint32
	To       [16]byte
	Port     uint16
	Protocol uint8
	Reason   uint8
}

// loadFilter fails where the kernel has no BPF, or the process may not use it (CAP_BPF and
// CAP_NET_ADMIN, or CAP_SYS_ADMIN).
func loadFilter() (*filter, error) {
	f, err := load()
	if !errors.Is(err, unix.EPERM) {
		return f, err
	}
	// Before Linux 5.11 maps count as locked memory.
	all := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if limited := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &all); limited != nil {
		return nil, err
	}
	return load()
}

func load() (_ *filter, err error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("cannot read the filter's program: %w", err)
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("cannot load the filter's program: %w", err)
	}
	defer collection.Close() // closes what is not assigned
	f := &filter{slots: map[int]*given{}, unused: map[uint64]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if err := errors.Join(collection.Assign(&f.programs), collection.Assign(&f.maps)); err != nil {
		return nil, fmt.Errorf("cannot load the filter's program: %w", err)
	}
	if f.out, err = programNumber(f.programs.Out); err == nil {
		f.in, err = programNumber(f.programs.In)
	}
	if err == nil {
		f.wire, err = programNumber(f.programs.Wire)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot tell the filter's programs from others: %w", err)
	}
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	if f.nothing, err = ebpf.NewMap(inner); err == nil {
		f.settled, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a map of maps: %w", err)
	}
	// What comes from a link that has no job is counted under none.
	if err := f.maps.Counters.Put(uint32(0), noCounters()); err != nil {
		return nil, fmt.Errorf("cannot make counters: %w", err)
	}
	return f, nil
}

func programNumber(p *ebpf.Program) (int, error) {
	info, err := p.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("it has no number") // before Linux 4.13
	}
	return int(id), nil
}

func noCounters() []countersRecord { return make([]countersRecord, ebpf.MustPossibleCPU()) }

// close takes every job and gives the filter up. Links that are attached pass nothing from then on.
func (f *filter) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for ifindex, g := range f.slots {
		if g.job != 0 {
			errs = append(errs, f.write(ifindex, record{}))
		}
	}
	f.slots = nil
	for _, p := range []*ebpf.Program{f.programs.Out, f.programs.In, f.programs.Wire} {
		errs = append(errs, p.Close()) // of nil: nothing
	}
	for _, m := range []*ebpf.Map{f.maps.Slots, f.maps.Scope, f.maps.Ports, f.maps.Budgets, f.maps.Counters, f.maps.Violations, f.maps.Range, f.maps.Owners, f.settled, f.nothing} {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// attach puts the filter on a link, which passes nothing from then on until it is given a grant.
// A link that is attached already keeps its grant.
func (f *filter) attach(link netlink.Link) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return f.attachBy(h, link)
}

func (f *filter) attachBy(h *netlink.Handle, link netlink.Link) error {
	ifindex := link.Attrs().Index
	err := f.maps.Slots.Update(uint32(ifindex), record{}, ebpf.UpdateNoExist)
	if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("cannot attach the filter to %s: %w", link.Attrs().Name, err)
	}
	// Not tcx: what is attached by it is gone with the process that did it.
	if err := h.QdiscAdd(clsact(ifindex)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot attach the filter to %s: %w", link.Attrs().Name, err)
	}
	for _, side := range []struct {
		parent  uint32
		name    string
		program *ebpf.Program
	}{{netlink.HANDLE_MIN_INGRESS, "scope_out", f.programs.Out}, {netlink.HANDLE_MIN_EGRESS, "scope_in", f.programs.In}} {
		err := h.FilterReplace(&netlink.BpfFilter{
			FilterAttrs:  netlink.FilterAttrs{LinkIndex: ifindex, Parent: side.parent, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
			Fd:           side.program.FD(),
			Name:         side.name,
			DirectAction: true,
		})
		if err != nil {
			return fmt.Errorf("cannot attach the filter to %s: %s: %w", link.Attrs().Name, side.name, err)
		}
	}
	f.mu.Lock() // not before: while links are removed, others wait for the kernel
	defer f.mu.Unlock()
	if f.slots[ifindex] == nil {
		f.slots[ifindex] = &given{}
	}
	return nil
}

// on says whether the filter, and nothing else, judges what crosses a link.
func (f *filter) on(h *netlink.Handle, link netlink.Link) bool {
	for parent, program := range map[uint32]int{netlink.HANDLE_MIN_INGRESS: f.out, netlink.HANDLE_MIN_EGRESS: f.in} {
		found, err := consistent(func() ([]netlink.Filter, error) { return h.FilterList(link, parent) })
		if err != nil || len(found) != 1 {
			return false
		}
		if b, ok := found[0].(*netlink.BpfFilter); !ok || b.Id != program || !b.DirectAction {
			return false
		}
	}
	return true
}

// detach forgets a link that is gone.
func (f *filter) detach(ifindex int) error {
	if err := f.take(ifindex); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.slots, ifindex)
	if err := f.maps.Slots.Delete(uint32(ifindex)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("cannot forget link %d: %w", ifindex, err)
	}
	return nil
}

// errNotAttached says that a link is none of the filter's.
var errNotAttached = errors.New("the filter is not attached to it")

// give puts a grant in force on a link. Its counters begin at zero. Where another grant is in
// force it is replaced at once: each packet is judged wholly by one of them. On an error that is no
// errLeft, what was in force still is.
func (f *filter) give(ifindex int, g grant) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.slots[ifindex]
	if before == nil {
		return fmt.Errorf("cannot give link %d a grant: %w", ifindex, errNotAttached)
	}
	now, err := f.prepare(g)
	if err == nil {
		err = f.write(ifindex, now.record)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot give link %d a grant: %w", ifindex, err), f.forget(now))
	}
	f.slots[ifindex] = now
	if err := f.leave(before); err != nil {
		return fmt.Errorf("the grant of link %d was replaced: %w", ifindex, err)
	}
	return nil
}

// prepare fills the maps with what belongs to a grant. It is found by the job's number alone, so
// nothing looks at it yet. On an error it returns what is to be forgotten.
func (f *filter) prepare(g grant) (now *given, err error) {
	if f.job == math.MaxUint32>>2 {
		return &given{}, errors.New("the numbers of jobs are used up")
	}
	f.job++
	now = &given{job: f.job}
	if now.record, err = g.record(f.job); err != nil {
		return now, err
	}
	if err := f.maps.Counters.Put(f.job, noCounters()); err != nil {
		return now, fmt.Errorf("counters: %w", err)
	}
	if err := f.putPorts(now, g.allow); err != nil {
		return now, fmt.Errorf("ports: %w", err)
	}
	if err := f.putScope(now, g); err != nil {
		return now, fmt.Errorf("scope: %w", err)
	}
	for i, b := range g.shared {
		if now.record.Rates[i+1].Interval == 0 {
			continue
		}
		if err := f.maps.Budgets.Update(b.key, budgetRecord{}, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return now, fmt.Errorf("budget: %w", err)
		}
		now.shared = append(now.shared, b.key)
	}
	return now, nil
}

// errLeft says that a grant is no longer in force, but not all that belonged to it is gone.
var errLeft = errors.New("what belonged to the grant before is not gone")

// leave forgets what is no longer in force, once nothing looks at it any more.
func (f *filter) leave(before *given) error {
	if before.job == 0 {
		return nil
	}
	err := f.settle()
	if err == nil {
		err = f.forget(before)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errLeft, err)
	}
	return nil
}

// stop lets nothing pass any more. Counters stay until the grant is taken.
func (f *filter) stop(ifindex int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.slots[ifindex]
	if g == nil || g.job == 0 {
		return nil
	}
	g.record.Flags &^= flagRunning
	return f.write(ifindex, g.record)
}

// take ends a grant: nothing passes any more, and when take returns, no packet is on its way
// through the filter that was judged by it. That takes some milliseconds. A link that has none,
// or is not attached, is no error.
func (f *filter) take(ifindex int) error {
	g, err := f.end(ifindex)
	if g == nil && err == nil {
		return nil
	}
	if err == nil {
		err = f.settle() // others need not wait for it
	}
	if err == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		err = f.forget(g)
	}
	if err != nil {
		return fmt.Errorf("cannot take the grant of link %d: %w", ifindex, err)
	}
	return nil
}

// end lets nothing pass any more; nil: there was no grant.
func (f *filter) end(ifindex int) (*given, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.slots[ifindex]
	if g == nil || g.job == 0 {
		return nil, nil
	}
	if err := f.write(ifindex, record{}); err != nil {
		return nil, err
	}
	f.slots[ifindex] = &given{}
	return g, nil
}

// write changes a link's record as a whole: programs copy it under the same lock.
func (f *filter) write(ifindex int, r record) error {
	return f.maps.Slots.Update(uint32(ifindex), r, ebpf.UpdateExist|ebpf.UpdateLock)
}

// settle waits until the programs have ended that were running when it was called. The kernel
// does so before it returns from a change of a map of maps (since 5.0).
func (f *filter) settle() error {
	if err := f.settled.Put(uint32(0), f.nothing); err != nil {
		return fmt.Errorf("cannot wait for the filter: %w", err)
	}
	return nil
}

// forget removes from the maps what belongs to a job that is not in force.
func (f *filter) forget(g *given) error {
	if g.job == 0 {
		return nil
	}
	var errs []error
	gone := func(err error) {
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	if len(g.scope) > 0 {
		if _, err := f.maps.Scope.BatchDelete(g.scope, nil); err != nil {
			for _, p := range g.scope {
				gone(f.maps.Scope.Delete(p))
			}
		}
	}
	for _, p := range g.ports {
		gone(f.maps.Ports.Delete(p))
	}
	keys, _, err := f.named(g.job)
	errs = append(errs, err)
	for _, k := range keys {
		gone(f.maps.Violations.Delete(k))
	}
	gone(f.maps.Counters.Delete(g.job))
	for _, key := range g.shared {
		f.unused[key] = true
	}
	for key := range f.unused {
		gone(f.release(key))
	}
	return errors.Join(errs...)
}

// release removes a shared budget that nobody uses, once it is whole again: until then a job to
// come may not begin with a new one.
func (f *filter) release(key uint64) error {
	for _, g := range f.slots {
		if slices.Contains(g.shared, key) {
			delete(f.unused, key)
			return nil
		}
	}
	var b budgetRecord
	if err := f.maps.Budgets.LookupWithFlags(key, &b, ebpf.LookupLock); err != nil {
		return err
	}
	if b.Next > monotonic() {
		return nil // whoever forgets a grant next tries again
	}
	delete(f.unused, key)
	return f.maps.Budgets.Delete(key)
}

func monotonic() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0 // it does not fail
	}
	return uint64(t.Nano())
}

func (g grant) record(job uint32) (record, error) {
	r := record{Job: job, Flags: flagRunning, Mark: g.mark, Wire: uint32(g.l2)}
	for _, f := range []struct {
		on   bool
		flag uint32
	}{{g.arp, flagARP}, {g.l2 > 0, flagL2}, {g.fragments, flagFragments}, {len(g.deny) > 0, flagDeny}, {g.inner6.IsValid(), flagIPv6}} {
		if f.on {
			r.Flags |= f.flag
		}
	}
	if !g.inner4.Is4() || !g.outer4.Is4() {
		return r, fmt.Errorf("the addresses %s and %s are not both IPv4", g.inner4, g.outer4)
	}
	r.Inner4, r.Outer4 = g.inner4.As4(), g.outer4.As4()
	if g.inner6.IsValid() {
		if !g.inner6.Is6() || g.inner6.Is4In6() {
			return r, fmt.Errorf("the address %s is not IPv6", g.inner6)
		}
		r.Inner6 = g.inner6.As16()
	}
	if len(g.innerMAC) != 6 || len(g.outerMAC) != 6 {
		return r, fmt.Errorf("the hardware addresses %q and %q are not both of 6 bytes", g.innerMAC, g.outerMAC)
	}
	r.InnerMAC, r.OuterMAC = [6]byte(g.innerMAC), [6]byte(g.outerMAC)
	if g.mark == 0 {
		return r, errors.New("what passes has no mark")
	}
	for i, l := range []limit{g.rate, g.shared[0].limit, g.shared[1].limit} {
		var err error
		if r.Rates[i], err = l.record(); err != nil {
			return r, err
		}
	}
	r.Shared = [2]uint64{g.shared[0].key, g.shared[1].key}
	return r, nil
}

func (l limit) record() (rateRecord, error) {
	if l == (limit{}) {
		return rateRecord{}, nil
	}
	if l.perSecond == 0 || l.perSecond > 1e9 || l.burst == 0 || l.burst > 1e9 {
		return rateRecord{}, fmt.Errorf("a limit of %d packets per second, %d at once: both are 1 to 1000000000", l.perSecond, l.burst)
	}
	interval := (1e9 + l.perSecond - 1) / l.perSecond // rounded to what is slower
	return rateRecord{Interval: interval, Tolerance: (l.burst - 1) * interval}, nil
}

// putPorts makes a set for each rule that has ports, numbered as the rules are, from 1.
func (f *filter) putPorts(g *given, allow []targets) error {
	for i, t := range allow {
		if t.ports == nil {
			continue
		}
		for _, p := range []struct {
			protocol uint32
			ranges   []portRange
		}{{unix.IPPROTO_TCP, t.ports.tcp}, {unix.IPPROTO_UDP, t.ports.udp}, {unix.IPPROTO_SCTP, t.ports.sctp}} {
			if p.ranges == nil {
				continue
			}
			var bits portBits
			for _, r := range p.ranges {
				if r.first > r.last {
					return fmt.Errorf("the range %d-%d has no port", r.first, r.last)
				}
				for port := int(r.first); port <= int(r.last); port++ {
					bits[port/8] |= 1 << (port % 8)
				}
			}
			key := portSet{Job: g.job, Set: uint32(i + 1), Protocol: p.protocol}
			g.ports = append(g.ports, key)
			if err := f.maps.Ports.Update(key, &bits, ebpf.UpdateNoExist); err != nil {
				return err
			}
		}
	}
	return nil
}

// putScope makes the scope. One prefix has one rule.
func (f *filter) putScope(g *given, from grant) error {
	type rule struct {
		place  place
		target targetRecord
	}
	var rules []rule
	add := func(prefixes []netip.Prefix, set uint32, t targetRecord) error {
		for _, p := range prefixes {
			at, err := newPlace(p, set)
			if err != nil {
				return err
			}
			rules = append(rules, rule{at, t})
		}
		return nil
	}
	for i, t := range from.allow {
		var to targetRecord
		if t.ports != nil {
			to.Ports = uint32(i + 1)
		}
		if t.icmp {
			to.May |= mayICMP
		}
		if t.others {
			to.May |= mayOther
		}
		if err := add(t.prefixes, g.job<<2, to); err != nil {
			return err
		}
	}
	if err := add(from.deny, g.job<<2|setDenied, targetRecord{}); err != nil {
		return err
	}
	slices.SortFunc(rules, func(a, b rule) int {
		return cmp.Or(cmp.Compare(a.place.Set, b.place.Set), bytes.Compare(a.place.Addr[:], b.place.Addr[:]), cmp.Compare(a.place.Bits, b.place.Bits))
	})
	rules = slices.Compact(rules)
	values := make([]targetRecord, len(rules))
	g.scope = make([]place, len(rules))
	for i, r := range rules {
		if i > 0 && r.place == rules[i-1].place {
			g.scope = nil
			return fmt.Errorf("there are two rules for %s", r.place)
		}
		g.scope[i], values[i] = r.place, r.target
	}
	if len(rules) == 0 {
		return nil
	}
	_, err := f.maps.Scope.BatchUpdate(g.scope, values, nil)
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	for i, p := range g.scope { // before Linux 5.13
		if err := f.maps.Scope.Put(p, values[i]); err != nil {
			return err
		}
	}
	return nil
}

// newPlace is a prefix of one of a job's sets.
func newPlace(p netip.Prefix, set uint32) (place, error) {
	if !p.IsValid() || p.Addr().Is4In6() {
		return place{}, fmt.Errorf("%s is not a prefix of IPv4 or IPv6", p)
	}
	if p.Addr().Is6() {
		set |= setIPv6
	}
	bits := 32 + 128 - p.Addr().BitLen() + p.Bits()
	return place{Bits: uint32(bits), Set: set, Addr: p.Masked().Addr().As16()}, nil
}

func (p place) String() string {
	addr := netip.AddrFrom16(p.Addr)
	if p.Set&setIPv6 == 0 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, int(p.Bits)-32-128+addr.BitLen()).String()
}

// counters are those of the grant in force, and the destinations that it named first, at most 64.
// The counts are exact; packets to destinations that are not named are in them all the same.
func (f *filter) counters(ifindex int) (counts, []violation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.slots[ifindex]
	if g == nil {
		return counts{}, nil, fmt.Errorf("cannot read the counters of link %d: %w", ifindex, errNotAttached)
	}
	if g.job == 0 {
		return counts{}, nil, nil
	}
	c, err := f.count(g.job)
	if err != nil {
		return counts{}, nil, fmt.Errorf("cannot read the counters of link %d: %w", ifindex, err)
	}
	_, found, err := f.named(g.job)
	if err != nil {
		return counts{}, nil, fmt.Errorf("cannot read the violations of link %d: %w", ifindex, err)
	}
	slices.SortFunc(found, func(a, b violation) int {
		return cmp.Or(cmp.Compare(b.packets, a.packets), a.to.Compare(b.to), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.port, b.port), cmp.Compare(a.reason, b.reason))
	})
	return c, found, nil
}

// count adds what the CPUs have counted.
func (f *filter) count(job uint32) (c counts, err error) {
	var each []countersRecord
	if err := f.maps.Counters.Lookup(job, &each); err != nil {
		return c, err
	}
	for _, e := range each {
		c.sent, c.offScope, c.spoofed, c.form = c.sent+e.Sent, c.offScope+e.OffScope, c.spoofed+e.Spoofed, c.form+e.Form
		c.ethertype, c.protocol, c.port = c.ethertype+e.Ethertype, c.protocol+e.Protocol, c.port+e.Port
		c.budget, c.noise, c.notReady = c.budget+e.Budget, c.noise+e.Noise, c.notReady+e.NotReady
		c.received, c.refused = c.received+e.Received, c.refused+e.Refused
		c.sentBytes, c.receivedBytes = c.sentBytes+e.SentBytes, c.receivedBytes+e.ReceivedBytes
	}
	return c, nil
}

// named lists the destinations of a job that were named.
func (f *filter) named(job uint32) (keys []violationKey, found []violation, err error) {
	for range 10 { // whoever removes others meanwhile makes it begin again
		keys, found = nil, nil
		var k violationKey
		var packets uint64
		all := f.maps.Violations.Iterate()
		for all.Next(&k, &packets) {
			if k.Job != job {
				continue
			}
			keys = append(keys, k)
			found = append(found, violation{netip.AddrFrom16(k.To).Unmap(), k.Protocol, k.Port, reasons[k.Reason], packets})
		}
		if err = all.Err(); !errors.Is(err, ebpf.ErrIterationAborted) {
			break
		}
	}
	return keys, found, err
}

// SupportedBPF says why the table has to be the filter here: it loads it and puts it on a link that it
// makes for this, in a namespace of its own.
func SupportedBPF() (err error) {
	f, err := loadFilter()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	ns, err := newNetns(false)
	if err != nil {
		return fmt.Errorf("cannot make a network namespace: %w", err)
	}
	defer func(ns *os.File) { err = errors.Join(err, ns.Close()) }(ns)
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0"}
	link.Name = prefix + "try"
	if err := h.LinkAdd(link); err != nil {
		return fmt.Errorf("cannot make a link: %w", err)
	}
	made, err := h.LinkByName(link.Name)
	if err != nil {
		return err
	}
	if err := f.attachBy(h, made); err != nil {
		return err
	}
	one := netip.AddrFrom4([4]byte{192, 0, 2, 1})
	g := grant{inner4: one, outer4: one, innerMAC: made.Attrs().HardwareAddr, outerMAC: made.Attrs().HardwareAddr, mark: 1,
		allow: []targets{{prefixes: []netip.Prefix{netip.PrefixFrom(one, 32)}}}}
	return errors.Join(f.give(made.Attrs().Index, g), f.take(made.Attrs().Index))
}
