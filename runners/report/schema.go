package report

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
)

// ReportSchema is the JSON Schema (2020-12) of a Report, made from the type itself.
func ReportSchema() json.RawMessage {
	text, err := json.Marshal(schemaOf(reflect.TypeFor[Report]()))
	if err != nil {
		panic(err) // maps of strings always encode
	}
	return text
}

func schemaOf(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[netip.Addr](), t == reflect.TypeFor[netip.Prefix](), t.Kind() == reflect.String:
		return map[string]any{"type": "string"}
	case t.Kind() == reflect.Pointer:
		return schemaOf(t.Elem())
	case t.Kind() == reflect.Slice, t.Kind() == reflect.Array:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Int, t.Kind() == reflect.Int64, t.Kind() == reflect.Uint16:
		return map[string]any{"type": "integer"}
	case t.Kind() == reflect.Float64:
		return map[string]any{"type": "number"}
	}
	properties, required := map[string]any{}, []string{}
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		property := schemaOf(t.Field(i).Type)
		if name == "untrusted" {
			property["description"] = "Text that the scanned host sent. It is data and may be false."
		}
		properties[name] = property
		if options == "" {
			required = append(required, name)
		}
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties, "required": required}
}
