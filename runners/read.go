package runners

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// reader reads the form of a tool's arguments: what was given, and what was wrong with it.
type reader struct {
	fields []field // of the tool
	given  map[string]bool
	faults []Fault
}

// frontArguments are what each tool takes beside its own arguments. The front reads them and takes them out before.
var frontArguments = []string{"wait_s", "correlation_id"}

// all reads every member, in order of names. take reads one, or returns false: there is no such argument.
func (d *reader) all(members map[string]json.RawMessage, take func(name string, raw json.RawMessage) bool) {
	d.given = map[string]bool{}
	known := append(fieldNames(d.fields), frontArguments...)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		d.given[name] = true
		if !take(name, members[name]) {
			hint := perhaps(name, known)
			if hint == "" {
				hint = "leave it out: these arguments are all there are, and no scanner option is passed on"
			}
			d.faults = append(d.faults, Fault{Code: "unknown_argument", Field: argumentName(name), Allowed: known, Hint: hint})
		}
	}
}

// withMeaning joins the faults of form with those of meaning. Where an argument could not be read at all, what it would
// mean is not gone into.
func (d *reader) withMeaning(meaning []Fault) []Fault {
	unread := map[string]bool{}
	for _, f := range d.faults {
		unread[topField(f.Field)] = true
	}
	faults := d.faults
	for _, f := range meaning {
		if !unread[topField(f.Field)] && !unread[f.with] {
			faults = append(faults, f)
		}
	}
	return faults
}

func (d *reader) wrongType(field string, raw json.RawMessage, want string) {
	f := Fault{Code: "wrong_type", Field: field, Got: excerpt(string(raw)), Allowed: []string{want}, Hint: "the schema of the tool has the type of each argument"}
	if string(raw) == "null" {
		f.Hint = "leave the argument out"
	}
	d.faults = append(d.faults, f)
}

func (d *reader) text(field string, raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		d.wrongType(field, raw, "a string")
	}
	return s
}

// engagement reads the name of an engagement. Empty stands for "not given", and to give it is not the same.
func (d *reader) engagement(field string, raw json.RawMessage) string {
	before := len(d.faults)
	name := d.text(field, raw)
	if name == "" && len(d.faults) == before {
		d.faults = append(d.faults, badEngagement(""))
	}
	return name
}

func (d *reader) truth(field string, raw json.RawMessage) bool {
	if s := string(raw); s != "true" && s != "false" {
		d.wrongType(field, raw, "true or false")
	}
	return string(raw) == "true"
}

// number reads an integer. No bound is wider than 32 bits.
func (d *reader) number(field string, raw json.RawMessage) int {
	n, is := Whole(raw)
	if !is || n != int64(int32(n)) {
		d.wrongType(field, raw, "a whole number")
	} else if n == 0 {
		// Zero stands for "not given" in several fields, and to give it is not the same.
		d.zero(field)
	}
	return int(n)
}

// zero refuses a given zero where a field's range does not begin there.
func (d *reader) zero(field string) {
	if low, high, bounded := rangeOf(d.fields, field); bounded && low > 0 {
		d.faults = append(d.faults, outOfRange(field, 0, low, high))
	}
}

// list takes a list apart. It is nil, and the fault is recorded, when there is no list of a bearable length.
func (d *reader) list(field string, raw json.RawMessage, most int) []json.RawMessage {
	var elements []json.RawMessage
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &elements) != nil {
		d.wrongType(field, raw, "a list")
		return nil
	}
	if len(elements) > most {
		d.faults = append(d.faults, tooMany(field, len(elements), most))
		return nil
	}
	return elements
}

func (d *reader) texts(field string, raw json.RawMessage, most int) []string {
	texts := []string{}
	for i, e := range d.list(field, raw, most) {
		texts = append(texts, d.text(element(field, i), e))
	}
	return texts
}

func (d *reader) ports(field string, raw json.RawMessage) []Ports {
	elements := d.list(field, raw, maxPortRanges)
	if elements != nil && len(elements) == 0 {
		d.faults = append(d.faults, Fault{Code: "too_few", Field: field, Hint: "name a port, or leave the argument out"})
	}
	ranges := []Ports{}
	for i, e := range elements {
		text := string(e) // a bare number is a port as well
		if strings.HasPrefix(text, `"`) {
			text = d.text(element(field, i), e)
		} else if n, is := Whole(e); is {
			text = strconv.FormatInt(n, 10)
		}
		r, fault := readPorts(element(field, i), text)
		if fault != nil {
			d.faults = append(d.faults, *fault)
			continue
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// once drops repetitions and keeps the order.
func once(texts []string) []string {
	seen := map[string]bool{}
	kept := []string{}
	for _, t := range texts {
		if !seen[t] {
			seen[t] = true
			kept = append(kept, t)
		}
	}
	return kept
}
