package front

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// The schemas are JSON Schema 2020-12 in the plain subset that every model's API takes: one type
// a property, no references. Those of answers come from the types that are answered with. The list
// of tools, which a model reads in every session, has the first level of them; the whole is a
// resource, secmcpd://schemas/NAME.

// fullSchema is the whole schema of an answer of type T.
func fullSchema[T any]() *jsonschema.Schema {
	text := &jsonschema.Schema{Type: "string"}
	var states []any
	for _, s := range jobStates {
		states = append(states, s)
	}
	s, err := jsonschema.For[T](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[netip.Addr]():      text,
		reflect.TypeFor[time.Time]():       text,
		reflect.TypeFor[store.State]():     {Type: "string", Enum: states},
		reflect.TypeFor[json.RawMessage](): {Type: "object"},
	}})
	if err != nil {
		panic(fmt.Sprintf("front: schema of %T: %v", *new(T), err)) // a type of ours; tested
	}
	plain(s)
	return s
}

// plain leaves each property one type: what may be null in Go is left out or empty here.
func plain(s *jsonschema.Schema) {
	if len(s.Types) == 2 && s.Types[0] == "null" {
		s.Type, s.Types = s.Types[1], nil
	}
	for _, p := range s.Properties {
		plain(p)
	}
	if s.Items != nil {
		plain(s.Items)
	}
	if s.AdditionalProperties != nil {
		plain(s.AdditionalProperties)
	}
}

// listed is the first level of a schema: the properties named, or all, and which of them are
// always there.
func listed(full *jsonschema.Schema, names ...string) json.RawMessage {
	if len(names) == 0 {
		names = full.PropertyOrder
	}
	out := jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{}, PropertyOrder: names}
	for _, name := range names {
		p := full.Properties[name]
		out.Properties[name] = &jsonschema.Schema{Type: p.Type, Description: p.Description}
	}
	for _, name := range full.Required {
		if out.Properties[name] != nil {
			out.Required = append(out.Required, name)
		}
	}
	return encode(&out)
}

// bare is a schema without descriptions: a tool's that stands before it in the list has them.
func bare(schema json.RawMessage) json.RawMessage {
	var s jsonschema.Schema
	if err := json.Unmarshal(schema, &s); err != nil {
		panic(fmt.Sprintf("front: a schema of ours: %v", err)) // tested
	}
	for _, p := range s.Properties {
		p.Description = ""
	}
	return encode(&s)
}

// fullSchemas are the whole schemas of what tools answer, by the names of their resources.
func fullSchemas() map[string]*jsonschema.Schema {
	job := fullSchema[answer]()
	for _, state := range fates {
		job.Properties["host"].Properties["state"].Enum = append(job.Properties["host"].Properties["state"].Enum, state)
	}
	return map[string]*jsonschema.Schema{"job": job, "job_list": fullSchema[listing](), "scan_preview": fullSchema[previewed](),
		"capabilities": fullSchema[wire.Capabilities](), "error": fullSchema[failure]()}
}

// schemaOf is the name of the whole schema of a tool's answers.
func schemaOf(tool string) string {
	switch tool {
	case "job_list", "scan_preview", "capabilities":
		return tool
	}
	return "job"
}

// inputSchema is that of a tool of ours.
func inputSchema(arguments []argument) json.RawMessage {
	properties, required := []string{}, []string{}
	for _, a := range arguments {
		properties = append(properties, string(encode(a.name))+":"+string(encode(a.schema())))
		if a.required {
			required = append(required, a.name)
		}
	}
	more := ""
	if len(required) > 0 {
		more = `,"required":` + string(encode(required))
	}
	return json.RawMessage(`{"type":"object","properties":{` + strings.Join(properties, ",") + `}` + more + `,"additionalProperties":false}`)
}

// scanSchema is that of a scan tool: the runner's, and the arguments that concern the call.
func scanSchema(schema json.RawMessage) map[string]any {
	var s map[string]any
	if err := json.Unmarshal(schema, &s); err != nil {
		panic(fmt.Sprintf("front: schema of a runner: %v", err)) // a constant of ours; tested
	}
	properties := s["properties"].(map[string]any)
	for _, a := range ours {
		properties[a.name] = a.schema()
	}
	return s
}

// withoutBounds leaves out what a refusal says as well: what has been described with the first scan
// tool is not described again, and what is out of bounds is refused with the bounds.
func withoutBounds(properties map[string]any) map[string]any {
	out := map[string]any{}
	for name, p := range properties {
		short := maps.Clone(p.(map[string]any))
		for _, word := range []string{"minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "pattern"} {
			delete(short, word)
		}
		if items, is := short["items"].(map[string]any); is && items["type"] != nil {
			short["items"] = map[string]any{"type": items["type"]}
		} else if is { // of several types
			short["items"] = map[string]any{}
		}
		if slices.ContainsFunc(ours, func(a argument) bool { return a.name == name }) {
			short = map[string]any{"type": short["type"]}
		}
		out[name] = short
	}
	return out
}

// shortSchema leaves out lists of words that are too long to be read in every session. A word that
// is not among them is refused with the nearest that is.
func shortSchema(tool string, first bool, schema map[string]any) json.RawMessage {
	properties := schema["properties"].(map[string]any)
	if !first {
		properties = withoutBounds(properties)
		schema["properties"] = properties
	}
	for _, p := range properties {
		p, _ := p.(map[string]any)
		items, _ := p["items"].(map[string]any)
		if words, _ := items["enum"].([]any); len(words) > 16 {
			p["items"] = map[string]any{"type": items["type"]}
			p["description"] = fmt.Sprintf("%s Names as in secmcpd://schemas/%s, such as %q.", p["description"], tool, words[len(words)-12])
		}
	}
	return encode(schema)
}
