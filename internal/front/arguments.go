package front

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/runners"
)

// argument is one argument of a tool of ours. Its schema, its reading and its faults come from here.
type argument struct {
	name, kind, about string         // kind: string, integer, object
	form              *regexp.Regexp // of a string
	words             []string       // or else these alone
	low, high         int            // of an integer
	otherwise         int            // what an integer is that is left out
	required          bool
	fits              func(string) bool // of a string: what its form cannot say
	allowed           string            // what it may be, for people
	hint, example     string
}

// schema is the argument's in JSON Schema.
func (a argument) schema() map[string]any {
	s := map[string]any{"type": a.kind}
	if a.about != "" {
		s["description"] = a.about
	}
	if a.form != nil {
		s["pattern"] = a.form.String()
	}
	if len(a.words) > 0 {
		s["enum"] = a.words
	}
	if a.kind == "integer" {
		s["minimum"], s["maximum"] = a.low, a.high
		if a.otherwise >= a.low {
			s["default"] = a.otherwise
		}
	}
	return s
}

// fault is one about the argument, with what may stand there.
func (a argument) fault(code, got string) runners.Fault {
	f := runners.Fault{Code: code, Field: a.name, Got: got, Allowed: a.words, Hint: a.hint, Example: a.example}
	if a.kind == "integer" {
		f.Allowed = []string{fmt.Sprintf("%d to %d", a.low, a.high)}
	} else if a.allowed != "" {
		f.Allowed = []string{a.allowed}
	}
	return f
}

// wrong is what is wrong with a value; false: nothing.
func (a argument) wrong(raw json.RawMessage) (f runners.Fault, is bool) {
	f = a.fault("wrong_type", got(raw))
	if string(raw) == "null" {
		if !a.required {
			f.Hint = "leave the argument out"
		}
		return f, true
	}
	switch a.kind {
	case "integer":
		n, whole := runners.Whole(raw)
		if whole {
			f.Code = "bad_value"
		}
		return f, !whole || n < int64(a.low) || n > int64(a.high)
	case "object":
		return f, !strings.HasPrefix(string(raw), "{")
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return f, true
	}
	f.Code = "bad_value"
	if near := strict.Nearest(s, a.words); near != "" {
		f.Hint = "did you mean " + near + "?"
	}
	return f, a.form != nil && !a.form.MatchString(s) || a.words != nil && !slices.Contains(a.words, s) || a.fits != nil && !a.fits(s)
}

// values are arguments that have been read.
type values map[string]json.RawMessage

// read takes arguments apart and tells every fault of their form.
func read(arguments []argument, raw json.RawMessage) (values, faults) {
	members, wrong := runners.Members(raw)
	fs := repeating(members, wrong)
	if members == nil {
		return nil, fs
	}
	known := namesOf(arguments)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if !slices.Contains(known, name) {
			fs = append(fs, unknownArgument(name, members[name], known))
		}
	}
	return members, append(fs, check(arguments, members)...)
}

// check tells what is wrong with those of the arguments that are given, and which are missing.
func check(arguments []argument, members values) (fs faults) {
	for _, a := range arguments {
		raw, given := members[a.name]
		if given {
			if f, is := a.wrong(raw); is {
				fs = append(fs, f)
			}
		} else if a.required {
			fs = append(fs, a.fault("missing", ""))
		}
	}
	return fs
}

func namesOf(arguments []argument) []string {
	names := make([]string, len(arguments))
	for i, a := range arguments {
		names[i] = a.name
	}
	return names
}

// text is a string that has been read; empty where it was left out.
func (v values) text(a argument) (s string) {
	if raw, given := v[a.name]; given {
		_ = json.Unmarshal(raw, &s) // it has been read
	}
	return s
}

// number is a number that has been read, or what it is where it was left out.
func (v values) number(a argument) int {
	if raw, given := v[a.name]; given {
		n, _ := runners.Whole(raw)
		return int(n)
	}
	return a.otherwise
}

// repeating gives faults the values that were written, where they do not have them.
func repeating(members map[string]json.RawMessage, fs faults) faults {
	for i, f := range fs {
		if raw, given := members[f.Field]; given && f.Got == "" {
			fs[i].Got = got(raw)
		}
	}
	return fs
}

func unknownArgument(name string, value json.RawMessage, known []string) runners.Fault {
	f := runners.Fault{Code: "unknown_argument", Field: clip(name), Got: got(value), Allowed: known, Hint: "leave it out; the schema of the tool lists its arguments"}
	if near := strict.Nearest(name, known); near != "" {
		f.Hint = "leave it out, or did you mean " + near + "?"
	}
	return f
}

func isAddress(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == "" && a.String() == s
}

var jobStates = []string{"queued", "running", "completed", "partial", "truncated", "cancelled", "failed", "refused", "interrupted"}

// The arguments that tools take.
var (
	argJob = argument{name: "job_id", kind: "string", about: "as a scan answered it", form: regexp.MustCompile(`^[a-z2-7]{26}$`), required: true,
		allowed: "26 characters of a-z and 2-7, as a scan answered them", hint: "job_list lists your jobs"}
	argWait = argument{name: "wait_s", kind: "integer", about: "seconds to wait for the end", low: 0, high: maxWait,
		hint: "give a whole number, or leave it out; a longer scan answers with its job_id, and job_status goes on from there"}
	argScanWait = argument{name: "wait_s", kind: "integer", about: "seconds to wait for the end; a longer scan answers with its job_id and goes on", low: 0, high: maxWait,
		otherwise: defaultWait, hint: argWait.hint}
	argCorrelation = argument{name: "correlation_id", kind: "string", about: "an id of your own, shown with the job", form: regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`),
		allowed: "1 to 64 of A-Z a-z 0-9 . _ : -", hint: "leave it out, or give an id of your own", example: "ticket-17"}
	argLimit = argument{name: "limit", kind: "integer", about: "entries on a page", low: 1, high: 100, otherwise: defaultPage, hint: "give a whole number, or leave it out"}
	argPage  = argument{name: "cursor", kind: "string", about: "page.next_cursor of the last page", form: cursorForm,
		allowed: "page.next_cursor of an answer of job_result about this job", hint: "leave cursor out to begin with the first page"}
	argHost = argument{name: "host", kind: "string", about: "one address: what became of it", fits: isAddress,
		allowed: "an address, as in hosts[].addr", hint: "one address in its shortest form; networks and names are not taken", example: "10.0.0.5"}
	argState  = argument{name: "state", kind: "string", about: "only jobs in this state", words: jobStates, hint: "leave it out for jobs in any state"}
	argBefore = argument{name: "cursor", kind: "string", about: "next_cursor of the last page", form: argJob.form,
		allowed: "next_cursor of an answer of job_list", hint: "leave cursor out to begin with the newest job"}
	argTool      = argument{name: "tool", kind: "string", about: "the scan tool", required: true, hint: "scan_preview takes the name of a scan tool and its arguments"}
	argArguments = argument{name: "arguments", kind: "object", about: "as that tool takes them", required: true, hint: "give the arguments of the scan", example: `{"targets":["10.0.0.5"]}`}
)

// ours are the arguments of a scan that concern the call, not the scan.
var ours = []argument{argScanWait, argCorrelation}
