package strict

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	addrType     = reflect.TypeFor[netip.Addr]()
	prefixType   = reflect.TypeFor[netip.Prefix]()
	scalarType   = reflect.TypeFor[Scalar]()
)

// isText says that v is read from one scalar although it is a struct.
func isText(v reflect.Value) bool { return v.Type() == addrType || v.Type() == prefixType }

// scalar decodes the types that are written as one scalar.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.fault(n.Line, path, describe(n), kindOf(v), "")
		return
	}
	switch {
	case v.Type() == durationType:
		duration, fault := ParseDuration(n.Value)
		v.SetInt(int64(duration))
		d.scalarFault(n, path, fault)
	case v.Type() == addrType:
		addr, fault := ParseAddr(n.Value)
		v.Set(reflect.ValueOf(addr))
		d.scalarFault(n, path, fault)
	case v.Type() == prefixType:
		prefix, fault := ParsePrefix(n.Value)
		v.Set(reflect.ValueOf(prefix))
		d.scalarFault(n, path, fault)
	case v.Kind() == reflect.String:
		d.text(n, v, path)
	case v.Kind() == reflect.Bool:
		d.boolean(n, v, path)
	case v.CanInt() || v.CanUint():
		d.integer(n, v, path)
	default:
		panic(fmt.Sprintf("strict: cannot decode into %s", v.Type()))
	}
}

// scalarFault completes the fault that the reader of a scalar gave, if any.
func (d *decoder) scalarFault(n *yaml.Node, path string, f *Fault) {
	if f == nil {
		return
	}
	d.fault(n.Line, path, Quote(n.Value), f.Allowed, f.Hint)
}

// text takes what YAML sees as text. A plain 2026-12-31 is a time stamp to YAML and text to
// everybody else; a plain 010, 1.10 or true is not taken, since YAML may have read it otherwise.
func (d *decoder) text(n *yaml.Node, v reflect.Value, path string) {
	if tag := n.ShortTag(); tag != "!!str" && tag != "!!timestamp" {
		d.fault(n.Line, path, Quote(n.Value), "text", "put it in quotes")
		return
	}
	v.SetString(n.Value)
}

func (d *decoder) boolean(n *yaml.Node, v reflect.Value, path string) {
	if n.ShortTag() != "!!bool" || n.Value != "true" && n.Value != "false" {
		d.fault(n.Line, path, Quote(n.Value), "true, false", "")
		return
	}
	v.SetBool(n.Value == "true")
}

var decimal = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

func (d *decoder) integer(n *yaml.Node, v reflect.Value, path string) {
	if n.ShortTag() != "!!int" || !decimal.MatchString(n.Value) {
		hint := ""
		if n.ShortTag() == "!!str" && decimal.MatchString(n.Value) {
			hint = "remove the quotes"
		}
		d.fault(n.Line, path, Quote(n.Value), kindOf(v), hint)
		return
	}
	if v.CanUint() {
		number, err := strconv.ParseUint(n.Value, 10, 64)
		if err != nil || v.OverflowUint(number) {
			d.fault(n.Line, path, Quote(n.Value), kindOf(v), "")
			return
		}
		v.SetUint(number)
		return
	}
	number, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil || v.OverflowInt(number) {
		d.fault(n.Line, path, Quote(n.Value), kindOf(v), "")
		return
	}
	v.SetInt(number)
}

// ParseDuration reads a duration with its units, as in 90s, 30m or 1h30m.
func ParseDuration(text string) (time.Duration, *Fault) {
	d, err := time.ParseDuration(text)
	if err == nil && d >= 0 {
		return d, nil
	}
	f := &Fault{Allowed: "a duration such as 90s, 30m, 1h30m"}
	if decimal.MatchString(text) {
		f.Hint = "add the unit"
	}
	return 0, f
}

// ParseAddr reads an address in its one canonical text. Zones, addresses of IPv4 disguised as
// IPv6, leading zeros and short forms are refused: each has been read as another address by
// some program.
func ParseAddr(text string) (netip.Addr, *Fault) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, &Fault{Allowed: "an address such as 192.168.1.10 or fd00::1"}
	case addr.Is4In6():
		return netip.Addr{}, &Fault{Allowed: "an IPv4 address in its own form", Hint: "write " + addr.Unmap().String()}
	case addr.Zone() != "":
		return netip.Addr{}, &Fault{Allowed: "an address without a zone", Hint: "write " + addr.WithZone("").String()}
	case addr.String() != text:
		return netip.Addr{}, &Fault{Allowed: "the canonical form", Hint: "write " + addr.String()}
	}
	return addr, nil
}

// ParsePrefix reads a network in its one canonical text, without host bits.
func ParsePrefix(text string) (netip.Prefix, *Fault) {
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, &Fault{Allowed: "a network such as 192.168.1.0/24 or fd00::/64"}
	case prefix.Addr().Is4In6():
		return netip.Prefix{}, &Fault{Allowed: "an IPv4 network in its own form", Hint: "write it as 192.168.1.0/24"}
	case prefix != prefix.Masked():
		return netip.Prefix{}, &Fault{Allowed: "a network without host bits", Hint: "write " + prefix.Masked().String()}
	case prefix.String() != text:
		return netip.Prefix{}, &Fault{Allowed: "the canonical form", Hint: "write " + prefix.String()}
	}
	return prefix, nil
}

// kindOf says what may be written for v.
func kindOf(v reflect.Value) string {
	t := v.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == durationType:
		return "a duration such as 90s, 30m, 1h30m"
	case t == addrType:
		return "an address"
	case t == prefixType:
		return "a network"
	}
	if reflect.PointerTo(t).Implements(scalarType) && t.Kind() == reflect.Struct {
		return "text or a mapping"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true, false"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a mapping"
	}
	zero := reflect.Zero(t)
	if zero.CanUint() {
		return "a whole number from 0 to " + strconv.FormatUint(^uint64(0)>>(64-t.Bits()), 10)
	}
	if zero.CanInt() && t.Bits() == 64 {
		return "a whole number"
	}
	if zero.CanInt() {
		most := int64(1)<<(t.Bits()-1) - 1
		return fmt.Sprintf("a whole number from %d to %d", -most-1, most)
	}
	return "a value"
}
