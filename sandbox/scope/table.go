package scope

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is ours alone: nothing else is ever changed in the machine's filter.
const tableName = "secmcpd"

func ourTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
}

// before conntrack (-200) and everything else that could rewrite: what is judged here is what
// leaves, since untracked packets are not translated.
const beforeAll = -310

// table is the filter in the kernel.
type table struct {
	nft     *nftables.Conn // changes
	list    *nftables.Conn // questions
	t       *nftables.Table
	pre     *nftables.Chain
	forward *nftables.Chain
	mode    Mode
}

// newTable makes the base: nothing comes from a slot's link that no filter has passed, nothing
// reaches this machine from one, slots do not reach each other.
func (n *Net) newTable() (*table, error) {
	conn, accept := n.nft, nftables.ChainPolicyAccept
	t := &table{nft: conn, list: n.list, t: conn.AddTable(ourTable()), mode: n.cfg.Mode}
	t.pre = conn.AddChain(&nftables.Chain{Table: t.t, Name: "prerouting", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(beforeAll), Policy: &accept})
	input := conn.AddChain(&nftables.Chain{Table: t.t, Name: "input", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRef(beforeAll), Policy: &accept})
	t.forward = conn.AddChain(&nftables.Chain{Table: t.t, Name: "forward", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityRef(beforeAll), Policy: &accept})

	if n.filter != nil && t.mode != L2 {
		t.rule(t.pre, "base", from(prefix), marked(passed), t.tracking(unmark()), pass())
	}
	t.rule(t.pre, "base", from(prefix), drop())
	answers := notrack()
	if t.mode == Translated {
		answers = drop() // they come to this machine's address; nobody speaks to a slot's
		t.translate()
	}
	if t.mode == L2 {
		// They never get here, but for the words by which neighbours are found.
		answers = drop()
		for _, kind := range []byte{135, 136} {
			t.rule(t.pre, "base", is6(), exactly(expr.MetaKeyIIFNAME, n.segment().name), equal(netNext6, []byte{unix.IPPROTO_ICMPV6}), icmp(kind), pass())
		}
	}
	t.rule(t.pre, "base", is4(), within(netDst4, n.cfg.V4), answers)
	if n.cfg.V6.IsValid() {
		t.rule(t.pre, "base", is6(), within(netDst6, n.cfg.V6), answers)
	}
	t.rule(input, "base", from(prefix), drop())
	t.rule(t.forward, "base", from(prefix), to(prefix), drop())
	if n.filter == nil {
		t.rule(t.forward, "base", to(prefix), drop())
	}
	return t, conn.Flush()
}

// tracking is what a rule that passes a slot's packet does with it besides: it keeps it from being
// tracked and does what else there is to do. What is to be translated is tracked, and left to the
// chain that judges what became of it.
func (t *table) tracking(otherwise ...[]expr.Any) []expr.Any {
	if t.mode == Translated {
		return nil
	}
	return slices.Concat(append([][]expr.Any{notrack()}, otherwise...)...)
}

// translate makes connections leave under this machine's address. Others' rules have had their say
// when the last chain is asked, whatever their priority: all of NAT is done at one place (-100),
// before it. What they have given another destination (to a container, or to this machine itself),
// kept from being tracked, or what the tracking takes for no part of a connection, would go where
// no filter has let it go, or under the slot's own address. The mark is on until then: without the
// table, routing swallows it.
func (t *table) translate() {
	accept := nftables.ChainPolicyAccept
	last := t.nft.AddChain(&nftables.Chain{Table: t.t, Name: "tracked", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityLast, Policy: &accept})
	t.rule(last, "base", from(prefix), sameDestination(), unmark(), pass())
	t.rule(last, "base", from(prefix), counted(), drop())
	post := t.nft.AddChain(&nftables.Chain{Table: t.t, Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Policy: &accept})
	t.rule(post, "base", from(prefix), notTo(prefix), masquerade())
}

func chainName(index int) string { return "slot" + strconv.Itoa(index) }
func backName(index int) string  { return "back" + strconv.Itoa(index) }
func set4Name(index int) string  { return "scope4_" + strconv.Itoa(index) }
func set6Name(index int) string  { return "scope6_" + strconv.Itoa(index) }

// portsName comes before the number of a protocol.
func portsName(index int) string { return "ports" + strconv.Itoa(index) + "_" }

// The ICMP messages that a scan sends: echo, timestamp and address mask requests, and the
// errors by which a kernel says that nobody listens. Redirects and advertisements never.
var (
	sent4 = []byte{3, 8, 13, 17}
	sent6 = []byte{1, 128}
	// Errors about what was sent come from routers on the way, too.
	errors4 = []byte{3, 11, 12}
	errors6 = []byte{1, 2, 3, 4}
)

// reports6 is ff02::16, where all multicast routers listen.
var reports6 = []byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16}

// elements is how many a message to the kernel holds at most.
const elements = 1000

// addSlot puts a slot's chains in force.
func (t *table) addSlot(l *link, allow []netip.Prefix, ports *Ports) error {
	index := l.number
	four, six, err := t.sets(index, allow)
	if err != nil {
		return err
	}
	transports, err := t.portSets(index, ports)
	if err != nil {
		return err
	}
	out := t.nft.AddChain(&nftables.Chain{Table: t.t, Name: chainName(index)})
	back := t.nft.AddChain(&nftables.Chain{Table: t.t, Name: backName(index)})

	plain4 := slices.Concat(is4(), noOptions4(), noFragment4(), equal(netSrc4, l.inner4.AsSlice()), inSet(four, netDst4, 4), t.tracking())
	plain6 := slices.Concat(is6(), equal(netSrc6, l.inner6.AsSlice()), inSet(six, netDst6, 16), t.tracking())
	for _, g := range transports {
		t.rule(out, "sent", plain4, equal(netProtocol4, []byte{g.protocol}), g.ports, counted(), pass())
		t.rule(out, "sent", plain6, equal(netNext6, []byte{g.protocol}), g.ports, counted(), pass())
	}
	asked4, asked6 := sent4, sent6
	if ports != nil && !ports.ICMP {
		asked4, asked6 = nil, nil
	}
	for _, kind := range asked4 {
		t.rule(out, "sent", plain4, equal(netProtocol4, []byte{unix.IPPROTO_ICMP}), icmp(kind), counted(), pass())
	}
	for _, kind := range asked6 {
		t.rule(out, "sent", plain6, equal(netNext6, []byte{unix.IPPROTO_ICMPV6}), icmp(kind), counted(), pass())
	}
	// A slot's own kernel reports its multicast groups when its link comes up. That is no
	// scanner's doing; it is dropped like everything else, and not counted as if it were.
	t.rule(out, "noise", is6(), equal(netDst6, reports6), counted(), drop())
	t.rule(out, "dropped", counted(), drop())

	for _, kind := range errors4 {
		t.rule(back, "errors", is4(), equal(netProtocol4, []byte{unix.IPPROTO_ICMP}), icmp(kind), pass())
	}
	for _, kind := range errors6 {
		t.rule(back, "errors", is6(), equal(netNext6, []byte{unix.IPPROTO_ICMPV6}), icmp(kind), pass())
	}
	t.rule(back, "answers", is4(), inSet(four, netSrc4, 4), pass())
	t.rule(back, "answers", is6(), inSet(six, netSrc6, 16), pass())
	t.rule(back, "refused", counted(), drop())

	t.insert(t.pre, chainName(index), exactly(expr.MetaKeyIIFNAME, l.name()), jump(chainName(index)))
	t.insert(t.forward, backName(index), exactly(expr.MetaKeyOIFNAME, l.name()), jump(backName(index)))
	// Inserted last, so that it stands first: slots do not reach each other.
	t.insert(t.forward, backName(index), from(prefix), to(prefix), drop())
	return t.nft.Flush()
}

// sets makes the scope as two interval sets, whose lookup costs the same for one prefix and
// for thousands.
func (t *table) sets(index int, allow []netip.Prefix) (four, six *nftables.Set, err error) {
	four = &nftables.Set{Table: t.t, Name: set4Name(index), KeyType: nftables.TypeIPAddr, Interval: true}
	six = &nftables.Set{Table: t.t, Name: set6Name(index), KeyType: nftables.TypeIP6Addr, Interval: true}
	var members4, members6 []nftables.SetElement
	for _, p := range allow {
		interval := []nftables.SetElement{{Key: p.Masked().Addr().AsSlice()}}
		if end := after(p); end.IsValid() {
			interval = append(interval, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
		if p.Addr().Is4() {
			members4 = append(members4, interval...)
		} else {
			members6 = append(members6, interval...)
		}
	}
	for _, s := range []struct {
		set     *nftables.Set
		members []nftables.SetElement
	}{{four, members4}, {six, members6}} {
		if err := t.nft.AddSet(s.set, nil); err != nil {
			return nil, nil, err
		}
		for chunk := range slices.Chunk(s.members, elements) {
			if err := t.nft.SetAddElements(s.set, chunk); err != nil {
				return nil, nil, err
			}
			if err := t.nft.Flush(); err != nil {
				return nil, nil, err
			}
		}
	}
	return four, six, t.nft.Flush()
}

// transport is a protocol whose packets pass, if they match what is said of their ports.
type transport struct {
	protocol byte
	ports    []expr.Any
}

// portSets makes the ports as interval sets, one for each protocol that has any. Nil: all ports of
// all protocols.
func (t *table) portSets(index int, ports *Ports) (out []transport, err error) {
	all := ports == nil
	if all {
		ports = &Ports{}
	}
	for _, p := range []struct {
		protocol byte
		header   uint32 // its size, in bytes
		ranges   [][2]uint16
	}{{unix.IPPROTO_TCP, 20, ports.TCP}, {unix.IPPROTO_UDP, 8, ports.UDP}, {unix.IPPROTO_SCTP, 12, ports.SCTP}} {
		if all {
			out = append(out, transport{protocol: p.protocol})
		}
		if len(p.ranges) == 0 {
			continue
		}
		set := &nftables.Set{Table: t.t, Name: portsName(index) + strconv.Itoa(int(p.protocol)), KeyType: nftables.TypeInetService, Interval: true}
		var members []nftables.SetElement
		for _, r := range p.ranges {
			members = append(members, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, r[0])})
			if r[1] < math.MaxUint16 {
				members = append(members, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, r[1]+1), IntervalEnd: true})
			}
		}
		if err := t.nft.AddSet(set, nil); err != nil {
			return nil, err
		}
		for chunk := range slices.Chunk(members, elements) {
			if err := t.nft.SetAddElements(set, chunk); err != nil {
				return nil, err
			}
			if err := t.nft.Flush(); err != nil {
				return nil, err
			}
		}
		out = append(out, transport{p.protocol, slices.Concat(header(p.header), toPort(set))})
	}
	return out, nil
}

// after is the first address behind a prefix; invalid when there is none.
func after(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := range b {
		if bits := p.Bits() - 8*i; bits <= 0 {
			b[i] = 0xff
		} else if bits < 8 {
			b[i] |= 0xff >> bits
		}
	}
	last, _ := netip.AddrFromSlice(b)
	return last.Next()
}

// removeSlot takes a slot's chains and sets out; what is not there is no error.
func (t *table) removeSlot(index int) error {
	for _, chain := range []*nftables.Chain{t.pre, t.forward} {
		rules, err := t.list.GetRules(t.t, chain)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if mark := string(r.UserData); mark == chainName(index) || mark == backName(index) {
				if err := t.nft.DelRule(r); err != nil {
					return err
				}
			}
		}
	}
	if err := t.nft.Flush(); err != nil {
		return err
	}
	chains, err := t.list.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	for _, c := range chains {
		if c.Table.Name == tableName && (c.Name == chainName(index) || c.Name == backName(index)) {
			t.nft.FlushChain(c)
			t.nft.DelChain(c)
		}
	}
	sets, err := t.list.GetSets(t.t)
	if err != nil {
		return err
	}
	for _, s := range sets {
		if s.Name == set4Name(index) || s.Name == set6Name(index) || strings.HasPrefix(s.Name, portsName(index)) {
			t.nft.DelSet(s)
		}
	}
	return t.nft.Flush()
}

// counters fails with ErrLost where the rules that count are not there.
func (t *table) counters(index int) (c Counters, err error) {
	var last int // the rules at the ends of both chains
	for _, name := range []string{chainName(index), backName(index)} {
		rules, err := t.list.GetRules(t.t, &nftables.Chain{Table: t.t, Name: name})
		if err != nil {
			return c, fmt.Errorf("cannot read the counters of slot %d: %w", index, err)
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				counter, ok := e.(*expr.Counter)
				if !ok {
					continue
				}
				switch string(r.UserData) {
				case "sent":
					c.Sent += counter.Packets
				case "dropped":
					c.Dropped += counter.Packets
					c.OffScope += counter.Packets
					last++
				case "refused":
					c.Refused += counter.Packets
					last++
				}
			}
		}
	}
	if last != 2 {
		return Counters{}, ErrLost
	}
	return c, nil
}

// fingerprint tells whether the filter is as it was: chains, rules and the members of sets.
// Counters are not part of it.
func (t *table) fingerprint() (string, error) {
	h := sha256.New()
	chains, err := t.list.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", err
	}
	for _, c := range chains {
		if c.Table.Name != tableName {
			continue
		}
		fmt.Fprintf(h, "chain %q\n", c.Name)
		if c.Hooknum != nil && c.Priority != nil && c.Policy != nil {
			fmt.Fprintf(h, "hook %d %d %d\n", *c.Hooknum, *c.Priority, *c.Policy)
		}
		rules, err := t.list.GetRules(t.t, c)
		if err != nil {
			return "", err
		}
		for _, r := range rules {
			fmt.Fprintf(h, "rule %d %q %d\n", r.Handle, r.UserData, len(r.Exprs)) // what is replaced has another handle
		}
	}
	sets, err := t.list.GetSets(t.t)
	if err != nil {
		return "", err
	}
	for _, s := range sets {
		members, err := t.list.GetSetElements(s)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "set %q\n", s.Name)
		for _, m := range members {
			fmt.Fprintf(h, "%x %v\n", m.Key, m.IntervalEnd)
		}
	}
	return string(h.Sum(nil)), nil
}

// guard keeps an interface whose forwarding is switched on for slots from forwarding for
// anybody else. The rule remembers what to switch back, also for a launcher that comes after
// one that was killed.
func (t *table) guard(family, key, link string) error {
	only := is4()
	if family == "ipv6" {
		only = is6()
	}
	t.rule(t.forward, "guard "+family+" "+key+" "+link, only, exactly(expr.MetaKeyIIFNAME, link), notTo(prefix), drop())
	return t.nft.Flush()
}

// removeTable switches back what guards remember and deletes the table.
func removeTable(conn *nftables.Conn) error {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("cannot list nf_tables: %w", err)
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName })
	if slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == proofTable }) {
		conn.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: proofTable})
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("cannot remove what is left of a proof: %w", err)
		}
	}
	if i < 0 {
		return nil
	}
	rules, err := conn.GetRules(tables[i], &nftables.Chain{Table: tables[i], Name: "forward"})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot read guards: %w", err)
	}
	for _, r := range rules {
		f := strings.Fields(string(r.UserData))
		if len(f) != 4 || f[0] != "guard" {
			continue
		}
		// An interface that is gone needs no switching back.
		if get(f[1], f[3], f[2]) == "1" {
			if err := set(f[1], f[3], f[2], "0"); err != nil {
				return fmt.Errorf("cannot switch forwarding of %s back: %w", f[3], err)
			}
		}
	}
	conn.DelTable(tables[i])
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot remove the filter: %w", err)
	}
	return nil
}

// rule appends, insert puts first.
func (t *table) rule(c *nftables.Chain, mark string, parts ...[]expr.Any) {
	t.nft.AddRule(&nftables.Rule{Table: t.t, Chain: c, Exprs: slices.Concat(parts...), UserData: []byte(mark)})
}

func (t *table) insert(c *nftables.Chain, mark string, parts ...[]expr.Any) {
	t.nft.InsertRule(&nftables.Rule{Table: t.t, Chain: c, Exprs: slices.Concat(parts...), UserData: []byte(mark)})
}

// The fields of the network header, as offsets.
const (
	netProtocol4 = 9
	netSrc4      = 12
	netDst4      = 16
	netNext6     = 6
	netSrc6      = 8
	netDst6      = 24
)

// What follows are the words that rules are made of.

// is4 and is6 tell the families apart by what the kernel parsed, which a sender cannot choose:
// the frame crossed a link.
func is4() []expr.Any { return meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4}) }
func is6() []expr.Any { return meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV6}) }

func meta(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

// from and to match interfaces by the beginning of their name.
func from(begins string) []expr.Any { return meta(expr.MetaKeyIIFNAME, []byte(begins)) }
func to(begins string) []expr.Any   { return meta(expr.MetaKeyOIFNAME, []byte(begins)) }

func notTo(begins string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(begins)}}
}

// exactly matches a whole name: the kernel pads it with zeros.
func exactly(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return meta(key, padded)
}

// field loads a part of the network header.
func field(offset, size uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
}

func equal(offset uint32, value []byte) []expr.Any {
	return []expr.Any{field(offset, uint32(len(value))), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func masked(offset uint32, mask, value []byte) []expr.Any {
	size := uint32(len(mask))
	return []expr.Any{field(offset, size), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

// noOptions4 passes headers of five words: without options, and so without source routes.
func noOptions4() []expr.Any { return masked(0, []byte{0x0f}, []byte{5}) }

// noFragment4 passes whole packets: neither "more fragments" nor an offset. IPv6 fragments are
// an extension header, which no rule passes.
func noFragment4() []expr.Any { return masked(6, []byte{0x3f, 0xff}, []byte{0, 0}) }

func within(offset uint32, p netip.Prefix) []expr.Any {
	mask := make([]byte, p.Addr().BitLen()/8)
	for bit := range p.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	return masked(offset, mask, p.Masked().Addr().AsSlice())
}

func inSet(s *nftables.Set, offset, size uint32) []expr.Any {
	return []expr.Any{field(offset, size), &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

// header matches packets that have a transport header of that size: what is not there cannot be loaded.
func header(size uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: size - 1, Len: 1},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: []byte{0}}}
}

// toPort matches the destination port, which TCP, UDP and SCTP have at the same place.
func toPort(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

// icmp matches the type, the first byte of the transport header.
func icmp(kind byte) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{kind}}}
}

// sameDestination matches what belongs to a connection that is tracked and bound for where its sender
// has sent it. It asks for the connection's status, which nothing else has.
func sameDestination() []expr.Any {
	const translated = 1 << 5 // IPS_DST_NAT
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, translated), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)}}
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

func notrack() []expr.Any { return []expr.Any{&expr.Notrack{}} }
func marked(mark uint32) []expr.Any {
	return meta(expr.MetaKeyMARK, binary.NativeEndian.AppendUint32(nil, mark))
}

func unmark() []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: make([]byte, 4)}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
}
func counted() []expr.Any { return []expr.Any{&expr.Counter{}} }
func pass() []expr.Any    { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any    { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}
