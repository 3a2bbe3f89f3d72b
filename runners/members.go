package runners

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"strconv"
	"unicode/utf8"
)

// MaxArguments is the most bytes that the arguments of one call may have.
const MaxArguments = 64 << 10

// maxMembers is the most arguments that one call may have. No tool has a tenth of that, and each that is unknown costs a
// fault and a search for what was meant.
const maxMembers = 256

// Members takes a JSON object apart, one level deep. Unlike decoding into a struct it is exact: a key that differs in
// case is another key, and a key given twice is a fault, since two readers could each take another one of the two.
func Members(arguments []byte) (map[string]json.RawMessage, []Fault) {
	if len(arguments) > MaxArguments {
		return nil, []Fault{{Code: "too_large", Field: "arguments", Got: strconv.Itoa(len(arguments)) + " bytes",
			Allowed: []string{"at most " + strconv.Itoa(MaxArguments) + " bytes"}}}
	}
	if len(bytes.TrimSpace(arguments)) == 0 {
		return map[string]json.RawMessage{}, nil
	}
	if !utf8.Valid(arguments) {
		return nil, []Fault{{Code: "bad_json", Field: "arguments", Hint: "the arguments are not valid UTF-8"}}
	}
	decoder := json.NewDecoder(bytes.NewReader(arguments))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return nil, []Fault{notAnObject()}
	}
	members := map[string]json.RawMessage{}
	var faults []Fault
	for n := 0; decoder.More(); n++ {
		if n == maxMembers {
			return nil, []Fault{{Code: "too_many", Field: "arguments", Allowed: []string{"at most " + strconv.Itoa(maxMembers)}, Hint: "the schema of the tool lists its arguments"}}
		}
		key, err := decoder.Token()
		name, isString := key.(string)
		var value json.RawMessage
		if err != nil || !isString || decoder.Decode(&value) != nil {
			return nil, []Fault{notAnObject()}
		}
		if _, twice := members[name]; twice {
			faults = append(faults, Fault{Code: "duplicate_argument", Field: argumentName(name), Hint: "give each argument once"})
		}
		members[name] = value
	}
	if end, err := decoder.Token(); err != nil || end != json.Delim('}') {
		return nil, []Fault{notAnObject()}
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, []Fault{notAnObject()}
	}
	return members, faults
}

// Whole reads a whole number, up to 2^53 either way. 10.0 is one, too: clients exist that write every number so. One
// with an exponent is not taken.
func Whole(raw []byte) (n int64, is bool) {
	x, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || bytes.ContainsAny(raw, "eE") || x != math.Trunc(x) || math.Abs(x) > 1<<53 {
		return 0, false
	}
	return int64(x), true
}

func notAnObject() Fault {
	return Fault{Code: "bad_json", Field: "arguments", Hint: "the arguments must be one JSON object", Example: `{"targets":["10.0.0.5"]}`}
}

// argumentName is a caller's key as a fault names it.
func argumentName(key string) string {
	if key == "" {
		return `""`
	}
	return excerpt(key)
}
