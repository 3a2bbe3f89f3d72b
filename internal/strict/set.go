package strict

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxText bounds a value that is set, in bytes.
const maxText = 64 << 10

// Set reads text into the one key at path of the struct that into points to, as [Decode] would read it
// from a file, with the differences that a shell makes: text needs no quotes, and a list may be written
// with commas alone. Lists and mappings are also taken in brackets, as in YAML. source says where the
// text was found; faults have it in place of a file.
func Set(source, path, text string, into any) (*Lines, Faults) {
	d := &decoder{Lines: &Lines{file: source, at: map[string]int{}, bad: map[string]bool{}, read: true, unlined: true}}
	if len(text) > maxText {
		d.fault(0, path, fmt.Sprintf("%d bytes", len(text)), fmt.Sprintf("%d bytes", maxText), "")
		return d.Lines, d.faults
	}
	d.set(reflect.ValueOf(into).Elem(), "", strings.Split(path, "."), text)
	return d.Lines, d.faults
}

// set follows steps from v, which is at path.
func (d *decoder) set(v reflect.Value, path string, steps []string, text string) {
	if len(steps) == 0 {
		d.worded(v, path, text)
		return
	}
	at := Key(path, steps[0])
	switch {
	case isSection(v):
		fields, keys := fieldsOf(v)
		field, known := fields[steps[0]]
		if !known {
			d.fault(0, at, "an unknown key "+Quote(steps[0]), strings.Join(keys, ", "), meant(steps[0], keys))
			return
		}
		d.set(field, at, steps[1:], text)
	case v.Kind() == reflect.Map && len(steps) == 1:
		// The others that it has stay; whoever else has this map keeps it as it is.
		own := reflect.MakeMap(v.Type())
		for _, k := range v.MapKeys() {
			own.SetMapIndex(k, v.MapIndex(k))
		}
		element := reflect.New(v.Type().Elem()).Elem()
		d.set(element, at, nil, text)
		own.SetMapIndex(reflect.ValueOf(steps[0]).Convert(v.Type().Key()), element)
		v.Set(own)
	default:
		d.fault(0, at, "an unknown key "+Quote(steps[0]), kindOf(v), "it has no keys below it")
	}
}

// isSection says that v is a struct whose fields are keys of their own.
func isSection(v reflect.Value) bool {
	_, isScalar := v.Addr().Interface().(Scalar)
	return v.Kind() == reflect.Struct && !isText(v) && !isScalar
}

// worded decodes the words of one value.
func (d *decoder) worded(v reflect.Value, path, text string) {
	node := &yaml.Node{Kind: yaml.ScalarNode, Value: text, Line: 1}
	words := strings.TrimSpace(text)
	switch {
	case isSection(v):
		_, keys := fieldsOf(v)
		d.fault(0, path, Quote(text), "one of its keys: "+strings.Join(keys, ", "), "")
		return
	case v.Kind() == reflect.Slice && strings.HasPrefix(words, "["), v.Kind() == reflect.Map:
		if node = d.parse([]byte(text)); node == nil {
			if len(d.faults) == 0 {
				d.fault(0, path, "nothing", kindOf(v), "write {} for none")
			}
			d.bad[path] = true
			return
		}
	case v.Kind() == reflect.Slice:
		node = &yaml.Node{Kind: yaml.SequenceNode, Line: 1}
		for word := range strings.SplitSeq(text, ",") {
			if word = strings.TrimSpace(word); word != "" || strings.Contains(text, ",") {
				node.Content = append(node.Content, asText(word, v.Type().Elem()))
			}
		}
	default:
		node = asText(text, v.Type())
	}
	d.value(node, v, path)
}

// asText is a scalar: text for what is text, and for others what YAML takes it for.
func asText(text string, t reflect.Type) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: text, Line: 1}
	if kind := t.Kind(); kind != reflect.Bool && (kind < reflect.Int || kind > reflect.Uint64) || t == durationType {
		n.Tag = "!!str"
	}
	return n
}

// Keys lists the keys of the struct v that hold values, section by section, in the order of its fields,
// with the field of each; above are the fields of the sections around it, the outermost first.
func Keys(v reflect.Value, each func(path string, v reflect.Value, field reflect.StructField, above []reflect.StructField)) {
	var walk func(v reflect.Value, path string, above []reflect.StructField)
	walk = func(v reflect.Value, path string, above []reflect.StructField) {
		for i := range v.NumField() {
			field := v.Type().Field(i)
			key := field.Tag.Get("yaml")
			if key == "" || key == "-" {
				continue
			}
			at, value := Key(path, key), v.Field(i)
			if isSection(value) {
				walk(value, at, append(slices.Clone(above), field))
				continue
			}
			each(at, value, field, above)
		}
	}
	walk(v, "", nil)
}
