// Package strict decodes the YAML files of secmcpd, all of them, and forgives nothing: a key
// that is not known, twice there or of the wrong type is a fault, since in a file that says
// who may do what, a line that is silently ignored is a hole. Every fault of a file is told at
// once, with its line and the nearest thing that would have been right.
//
// Of YAML it takes mappings, lists and scalars. Anchors, aliases, merges, tags, nulls and a
// second document are faults: they make a file mean something else than it seems to.
package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxSize bounds a file, in bytes.
	MaxSize = 1 << 20
	// MaxDepth bounds the nesting of lists and mappings.
	MaxDepth = 32
	// MaxNodes bounds the keys and values of a file together.
	MaxNodes = 100_000
	// MaxFaults bounds the faults told of one file.
	MaxFaults = 100
)

// Scalar is a type that reads itself from one scalar, whatever its YAML type. The fault, if
// any, needs Allowed and Hint only. A struct that is a Scalar may be written either way, as a
// scalar or as a mapping.
type Scalar interface {
	ReadScalar(text string) *Fault
}

// Decode reads data, the content of file, into the struct that into points to. Fields carry
// the tag `yaml:"key"` and are strings, booleans, integers, time.Duration ("30m"), netip.Addr,
// netip.Prefix, a [Scalar], or structs, pointers, lists and maps with string keys of these.
// A key that is absent leaves its field alone, so defaults are set before.
//
// With faults, into holds what could be read, of use only for finding more of them. Lines is
// never nil.
func Decode(file string, data []byte, into any) (*Lines, Faults) {
	d := &decoder{Lines: &Lines{file: file, at: map[string]int{}, bad: map[string]bool{}}}
	if root := d.parse(data); root != nil {
		d.value(root, reflect.ValueOf(into).Elem(), "")
	}
	slices.SortStableFunc(d.faults, func(a, b Fault) int { return a.Line - b.Line })
	if more := len(d.faults) - MaxFaults; more > 0 {
		last := d.faults[MaxFaults]
		d.faults = append(d.faults[:MaxFaults], Fault{File: file, Line: last.Line, Hint: fmt.Sprintf("and %d more faults", more)})
	}
	return d.Lines, d.faults
}

type decoder struct {
	*Lines
	faults Faults
}

func (d *decoder) fault(line int, path, got, allowed, hint string) {
	d.bad[path] = true
	if d.unlined {
		line = 0
	}
	d.faults = append(d.faults, Fault{d.file, line, path, got, allowed, hint})
}

// parse makes the tree of the one document; nil when there is none or none that may be read.
func (d *decoder) parse(data []byte) *yaml.Node {
	if !d.isText(data) {
		return nil
	}
	from := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	if err := from.Decode(&document); errors.Is(err, io.EOF) {
		d.read = true // it has none
		return nil
	} else if err != nil {
		d.notYAML(err)
		return nil
	}
	if err := from.Decode(&second); err == nil {
		d.fault(max(second.Line, 1), "", "a second document", "one document", "remove what follows ---")
	} else if !errors.Is(err, io.EOF) {
		d.notYAML(err)
	}
	root := document.Content[0]
	if !d.isBounded(root) {
		return nil
	}
	return root
}

func (d *decoder) isText(data []byte) bool {
	switch {
	case len(data) > MaxSize:
		d.fault(1, "", fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("%d bytes", MaxSize), "")
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		d.fault(1, "", "a byte order mark", "UTF-8 without one", "remove the first three bytes")
	case !utf8.Valid(data):
		d.fault(lineOfInvalid(data), "", "bytes that are not UTF-8", "UTF-8 text", "")
	default:
		return true
	}
	return false
}

// lineOfInvalid is the line of the first byte that is not UTF-8.
func lineOfInvalid(data []byte) int {
	line := 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 {
			break
		}
		if r == '\n' {
			line++
		}
		data = data[size:]
	}
	return line
}

var yamlError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)

// notYAML reports what the parser says, which knows its line most of the time.
func (d *decoder) notYAML(err error) {
	line, text := 1, err.Error()
	if m := yamlError.FindStringSubmatch(text); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 {
			line = n
		}
		text = strings.TrimPrefix(text, m[0])
	}
	d.fault(line, "", "", "YAML", "cannot parse: "+strings.Trim(Quote(text), `"`))
}

// isBounded measures the tree before anything walks it with types. The parser itself bounds
// its own depth, and aliases are not followed.
func (d *decoder) isBounded(root *yaml.Node) bool {
	nodes := 0
	var measure func(n *yaml.Node, depth int) bool
	measure = func(n *yaml.Node, depth int) bool {
		nodes++
		if nodes > MaxNodes {
			d.fault(n.Line, "", fmt.Sprintf("more than %d keys and values", MaxNodes), "fewer", "")
			return false
		}
		if depth > MaxDepth {
			d.fault(n.Line, "", fmt.Sprintf("more than %d levels", MaxDepth), "fewer", "")
			return false
		}
		for _, c := range n.Content {
			if !measure(c, depth+1) {
				return false
			}
		}
		return true
	}
	return measure(root, 1)
}

// value decodes node into v, whatever it is.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if d.at[path] == 0 {
		d.at[path] = n.Line
	}
	if !d.isPlain(n, path, kindOf(v)) {
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch own, isScalar := v.Addr().Interface().(Scalar); {
	case endsInColon(n) && (isScalar || isText(v)):
		d.fault(n.Line, path, Quote(n.Content[0].Value+":"), kindOf(v), "put it in quotes: to YAML it is a key")
	case isScalar && n.Kind == yaml.ScalarNode:
		d.scalarFault(n, path, own.ReadScalar(n.Value))
	case isScalar && v.Kind() != reflect.Struct, isText(v):
		d.scalar(n, v, path)
	default:
		d.compound(n, v, path)
	}
}

// endsInColon knows what was meant by fd00:: without quotes, which is a mapping from fd00: to
// nothing.
func endsInColon(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && len(n.Content) == 2 && strings.HasSuffix(n.Content[0].Value, ":") &&
		n.Content[1].Kind == yaml.ScalarNode && n.Content[1].ShortTag() == "!!null"
}

func (d *decoder) compound(n *yaml.Node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

// isPlain refuses the parts of YAML that this package does not take, at node n.
func (d *decoder) isPlain(n *yaml.Node, path, allowed string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		d.fault(n.Line, path, "an alias "+Quote("*"+n.Value), allowed, "write the value itself")
	case n.Anchor != "":
		d.fault(n.Line, path, "an anchor "+Quote("&"+n.Anchor), allowed, "remove the anchor")
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n.Line, path, "a tag "+Quote(n.Tag), allowed, "remove the tag")
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		d.fault(n.Line, path, "nothing", allowed, "give a value or remove the key")
	default:
		return true
	}
	return false
}

// entries yields the keys of a mapping with their values; a key that is odd or there twice is
// a fault and left out.
func (d *decoder) entries(n *yaml.Node, path string, entry func(key string, k, v *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if !d.isPlain(k, path, "a plain key") {
			continue
		}
		if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" {
			d.fault(k.Line, path, "a key that is "+describe(k), "a plain key", "")
			continue
		}
		if line := seen[k.Value]; line != 0 {
			d.fault(k.Line, Key(path, k.Value), "the key again", "each key once", fmt.Sprintf("the first is in line %d", line))
			continue
		}
		seen[k.Value] = k.Line
		entry(k.Value, k, n.Content[i+1])
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.fault(n.Line, path, describe(n), kindOf(v), "")
		return
	}
	d.read = true
	fields, keys := fieldsOf(v)
	d.entries(n, path, func(key string, k, value *yaml.Node) {
		field, known := fields[key]
		at := Key(path, key)
		if !known {
			d.fault(k.Line, at, "an unknown key "+Quote(key), strings.Join(keys, ", "), meant(key, keys))
			return
		}
		d.at[at] = k.Line
		d.value(value, field, at)
	})
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.fault(n.Line, path, describe(n), kindOf(v), listHint(n))
		return
	}
	// Elements with faults keep their place, so that indices are those of the file.
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, c := range n.Content {
		d.value(c, v.Index(i), Index(path, i))
	}
}

func listHint(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && len(n.Value) <= 40 {
		return fmt.Sprintf("write [%s]", n.Value)
	}
	return ""
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.fault(n.Line, path, describe(n), kindOf(v), "")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.entries(n, path, func(key string, k, value *yaml.Node) {
		at := Key(path, key)
		d.at[at] = k.Line
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(value, element, at)
		v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), element)
	})
}

// fieldsOf is the fields of struct v by key, and the keys in the order of the struct.
func fieldsOf(v reflect.Value) (map[string]reflect.Value, []string) {
	fields, keys := map[string]reflect.Value{}, []string{}
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); key != "" && key != "-" {
			fields[key] = v.Field(i)
			keys = append(keys, key)
		}
	}
	return fields, keys
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return Quote(n.Value)
}
