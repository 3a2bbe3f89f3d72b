package runners

import (
	"bytes"
	"encoding/json"
	"slices"
)

// schema is the part of JSON Schema 2020-12 that tools use. A property has one type: clients exist that refuse lists
// of types.
type schema struct {
	Type        string   `json:"type,omitempty"`
	Description string   `json:"description,omitempty"`
	Enum        []any    `json:"enum,omitempty"`
	Default     any      `json:"default,omitempty"`
	Minimum     *int     `json:"minimum,omitempty"`
	Maximum     *int     `json:"maximum,omitempty"`
	MinLength   *int     `json:"minLength,omitempty"`
	MaxLength   *int     `json:"maxLength,omitempty"`
	Pattern     string   `json:"pattern,omitempty"`
	Items       *schema  `json:"items,omitempty"`
	AnyOf       []schema `json:"anyOf,omitempty"`
	MinItems    *int     `json:"minItems,omitempty"`
	MaxItems    *int     `json:"maxItems,omitempty"`
}

// field is one argument of a tool.
type field struct {
	name   string
	schema schema
}

func fieldNames(fields []field) []string {
	var names []string
	for _, f := range fields {
		names = append(names, f.name)
	}
	return names
}

// rangeOf is the range of a number, as its schema says it.
func rangeOf(fields []field, name string) (low, high int, bounded bool) {
	i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
	if i < 0 || fields[i].schema.Minimum == nil {
		return 0, 0, false
	}
	return *fields[i].schema.Minimum, *fields[i].schema.Maximum, true
}

// objectSchema prints the schema of a tool's arguments, with the properties in the given order: what matters most comes
// first for whoever reads it.
func objectSchema(fields []field, required ...string) json.RawMessage {
	var out bytes.Buffer
	out.WriteString(`{"type":"object","additionalProperties":false,`)
	if len(required) > 0 {
		out.WriteString(`"required":`)
		out.Write(mustJSON(required))
		out.WriteByte(',')
	}
	out.WriteString(`"properties":{`)
	for i, f := range fields {
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(mustJSON(f.name))
		out.WriteByte(':')
		out.Write(mustJSON(f.schema))
	}
	out.WriteString(`}}`)
	return out.Bytes()
}

// mustJSON prints a value of this package's own tables, which cannot fail: they hold words and numbers.
func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

func numbers(about string, low, high int) schema {
	return schema{Type: "integer", Description: about, Minimum: &low, Maximum: &high}
}

func oneOfWords(about string, words []string) schema {
	s := schema{Type: "string", Description: about}
	for _, w := range words {
		s.Enum = append(s.Enum, w)
	}
	return s
}

func truth(about string) schema { return schema{Type: "boolean", Description: about} }

func list(about string, low, high int, items schema) schema {
	return schema{Type: "array", Description: about, MinItems: &low, MaxItems: &high, Items: &items}
}
