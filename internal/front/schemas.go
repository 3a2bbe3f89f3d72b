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
// of tools, which a model reads in every session, says of them that they are objects; the whole is a
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

// anObject is what the list of tools has of an answer. The description says what is in it, and the whole schema is a
// resource.
var anObject = json.RawMessage(`{"type":"object"}`)

// fullSchemas are the whole schemas of what tools answer, by the names of their resources.
func fullSchemas() map[string]*jsonschema.Schema {
	job := fullSchema[answer]()
	for _, state := range fates {
		job.Properties["host"].Properties["state"].Enum = append(job.Properties["host"].Properties["state"].Enum, state)
	}
	diff := fullSchema[diffed]()
	for _, kind := range diffKinds {
		diff.Properties["changes"].Items.Properties["kind"].Enum = append(diff.Properties["changes"].Items.Properties["kind"].Enum, kind)
	}
	for _, reason := range reasons {
		diff.Properties["reasons"].Items.Properties["reason"].Enum = append(diff.Properties["reasons"].Items.Properties["reason"].Enum, reason)
	}
	return map[string]*jsonschema.Schema{"result_query": fullSchema[queried](), "scan_diff": diff, "job_pin": fullSchema[pinnedAs](), "job": job, "job_list": fullSchema[listing](), "scan_preview": fullSchema[previewed](),
		"capabilities": fullSchema[wire.Capabilities](), "error": fullSchema[failure]()}
}

// schemaOf is the name of the whole schema of a tool's answers.
func schemaOf(tool string) string {
	switch tool {
	case "job_list", "scan_preview", "capabilities", "result_query", "scan_diff", "job_pin":
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
		if items, is := short["items"].(map[string]any); is {
			short["items"] = map[string]any{}
			if kind := items["type"]; kind != nil {
				short["items"] = map[string]any{"type": kind}
			}
		}
		if slices.ContainsFunc(ours, func(a argument) bool { return a.name == name }) {
			short = map[string]any{"type": short["type"]}
		}
		out[name] = short
	}
	return out
}

// withoutForms leaves out of a schema and all in it what only says how a value is written, or that there are no other
// properties: who writes it otherwise is told, and a model rarely does.
func withoutForms(schema map[string]any) {
	for _, word := range []string{"pattern", "minItems", "maxItems", "minLength", "maxLength"} {
		delete(schema, word)
	}
	if schema["additionalProperties"] == false {
		delete(schema, "additionalProperties")
	}
	for _, word := range []string{"properties", "items", "anyOf"} {
		switch in := schema[word].(type) {
		case map[string]any:
			if word == "items" {
				withoutForms(in)
				continue
			}
			for _, p := range in {
				withoutForms(p.(map[string]any))
			}
		case []any:
			for _, p := range in {
				withoutForms(p.(map[string]any))
			}
		}
	}
}

// shortInput is the schema of a tool of ours as the list of tools has it.
func shortInput(arguments []argument) json.RawMessage {
	var s map[string]any
	if err := json.Unmarshal(inputSchema(arguments), &s); err != nil {
		panic(fmt.Sprintf("front: a schema of ours: %v", err)) // tested
	}
	for _, p := range s["properties"].(map[string]any) {
		for _, word := range []string{"minimum", "maximum"} {
			delete(p.(map[string]any), word)
		}
	}
	withoutForms(s)
	return encode(s)
}

// shortSchema leaves out lists of words that are too long to be read in every session. A word that
// is not among them is refused with the nearest that is.
func shortSchema(tool string, first bool, schema map[string]any) json.RawMessage {
	properties := schema["properties"].(map[string]any)
	if !first {
		properties = withoutBounds(properties)
		schema["properties"] = properties
	}
	withoutForms(schema)
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
