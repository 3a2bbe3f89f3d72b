package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// older is one of the two firewalls that were there before nf_tables, and the places of what is
// read of its rules: struct ipt_entry and ip6t_entry of the kernel's headers, which are for ever.
type older struct {
	command, names string
	domain, level  int
	addresses      int // bytes of addresses and masks, at the beginning
	interfaces     int // in, out, and their masks, 16 bytes each
	protocol       int
	flags, inverse int
	target         int // u16: where it is; beside it where the next rule is
	size           int // of what comes before the matches
}

var olders = []older{
	{"iptables-legacy", "ip_tables_names", unix.AF_INET, unix.SOL_IP, 16, 16, 80, 82, 83, 88, 112},
	{"ip6tables-legacy", "ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 64, 64, 128, 131, 132, 140, 168},
}

const (
	olderInfo    = 64 // IPT_SO_GET_INFO and IP6T_SO_GET_INFO
	olderEntries = 65
	olderHeader  = 40 // before the entries: a name, their size, padding
	olderMost    = 64 << 20
	olderDrop    = 0 // NF_DROP
	olderAccept  = 1
)

// drops says that the firewall drops what is forwarded, by the policy of its chain FORWARD or a
// last rule that is for everything, and that no rule accepts the slots' links.
func (o older) drops() (bool, error) {
	// Whoever asks for a table makes it: only what is there is asked for.
	names, err := os.ReadFile("/proc/thread-self/net/" + o.names)
	if err != nil || !slices.Contains(strings.Fields(string(names)), "filter") {
		return false, nil
	}
	rules, forward, err := o.read()
	if err != nil {
		return false, err
	}
	accepted := map[string]bool{}
	for _, r := range rules {
		if r.verdict == olderAccept && len(r.conditions) == 1 {
			accepted[r.conditions[0]] = true
		}
	}
	drops := slices.ContainsFunc(forward, func(r olderRule) bool { return r.verdict == olderDrop && len(r.conditions) == 0 })
	return drops && !(accepted["in "+links] && accepted["out "+links]), nil
}

// olderRule is what doctor needs to know of a rule.
type olderRule struct {
	conditions []string // "in secv": comes from an interface of that prefix; other words are some other one
	verdict    int      // olderDrop, olderAccept; -1: another one
}

// read gives all rules of the table filter, and of those the last of the chain FORWARD with its
// policy.
func (o older) read() (all, forward []olderRule, err error) {
	s, err := unix.Socket(o.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(s)
	info := make([]byte, 84) // name, hooks, the first rule and the policy of each, number and size of rules
	copy(info, "filter")
	if err := ask(s, o.level, olderInfo, info); err != nil {
		return nil, nil, err
	}
	word := func(i int) int { return int(binary.NativeEndian.Uint32(info[32+4*i:])) }
	const hooks, firsts, policies, sizes = 0, 1, 6, 12
	if word(hooks)&(1<<unix.NF_INET_FORWARD) == 0 {
		return nil, nil, nil
	}
	size, first, policy := word(sizes), word(firsts+unix.NF_INET_FORWARD), word(policies+unix.NF_INET_FORWARD)
	if size > olderMost {
		return nil, nil, errors.New("its rules are too many to be read")
	}
	b := make([]byte, olderHeader+size)
	copy(b, "filter")
	binary.NativeEndian.PutUint32(b[32:], uint32(size))
	if err := ask(s, o.level, olderEntries, b); err != nil {
		return nil, nil, err // EAGAIN: they have just been changed
	}
	b = b[olderHeader:]
	before := -1
	for at := 0; at < size; {
		r, next, err := o.rule(b[at:])
		if err != nil {
			return nil, nil, err
		}
		all = append(all, r)
		if at == policy {
			if before >= 0 {
				forward = append(forward, all[before])
			}
			forward = append(forward, r)
		}
		if at >= first && at < policy {
			before = len(all) - 1
		}
		at += next
	}
	return all, forward, nil
}

func ask(s, level, what int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(s), uintptr(level), uintptr(what), uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

var errOlder = errors.New("its rules have another form than is known")

// rule reads one rule, and says where the next one begins.
func (o older) rule(b []byte) (r olderRule, next int, err error) {
	if len(b) < o.size {
		return r, 0, errOlder
	}
	target, next := int(binary.NativeEndian.Uint16(b[o.target:])), int(binary.NativeEndian.Uint16(b[o.target+2:]))
	if target < o.size || next < target+36 || next > len(b) {
		return r, 0, errOlder
	}
	if slices.ContainsFunc(b[:o.addresses], isNot0) || b[o.protocol] != 0 || b[o.protocol+1] != 0 || b[o.flags] != 0 || b[o.inverse] != 0 {
		r.conditions = append(r.conditions, "something")
	}
	for i, way := range []string{"in ", "out "} {
		name, mask := b[o.interfaces+16*i:][:16], b[o.interfaces+32+16*i:][:16]
		// Of a whole name the end is compared, too; of a prefix it is not.
		if compared := bytes.TrimRight(mask, "\x00"); len(compared) > 0 {
			r.conditions = append(r.conditions, way+string(name[:len(compared)]))
		}
	}
	for at := o.size; at < target; {
		size := int(binary.NativeEndian.Uint16(b[at:]))
		if size < 32 || at+size > target {
			return r, 0, errOlder
		}
		if name, _, _ := bytes.Cut(b[at+2:at+31], []byte{0}); string(name) != "comment" {
			r.conditions = append(r.conditions, fmt.Sprintf("match %q", name))
		}
		at += size
	}
	r.verdict = -1
	switch name, _, _ := bytes.Cut(b[target+2:target+31], []byte{0}); string(name) {
	case "": // the standard one: a verdict, or how far to jump
		if v := int32(binary.NativeEndian.Uint32(b[target+32:])); v == -olderDrop-1 || v == -olderAccept-1 {
			r.verdict = int(-v - 1)
		}
	case "REJECT":
		r.verdict = olderDrop
	}
	return r, next, nil
}

func isNot0(b byte) bool { return b != 0 }
