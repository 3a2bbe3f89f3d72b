package front

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/secmcpd/secmcpd/runners"
)

// pool is what generated arguments are made of: values that are right for some argument, and some
// that are for none.
var pool = []string{`1`, `0`, `-1`, `45`, `46`, `10`, `100`, `101`, `5.0`, `1.5`, `4`, `6`, `99999999999`, `true`, `false`, `null`, `""`, `"x"`, `[]`, `{}`,
	`"10.0.0.5"`, `"10.0.0.0/24"`, `"fd00::5"`, `["10.0.0.5"]`, `["host.lab.internal","10.0.0.0/30"]`, `[22,"80-90"]`, `[22.0]`, `[0]`, `["ssl-cert"]`, `["nope"]`, `[1,"x",null]`,
	`"quick"`, `"udp"`, `"polite"`, `"lab"`, `"LAB"`, `"completed"`, `"queued"`, `"abcdefghijklmnopqrstuvwxyz"`, `"abcdefgh.1.0"`, `"c-1"`, `"a b"`, `"nmap_scan"`, `{"targets":["10.0.0.5"]}`}

// needed are values for what tools need: few calls fit a schema without.
var needed = map[string]json.RawMessage{"targets": json.RawMessage(`["10.0.0.5"]`), "job_id": json.RawMessage(`"abcdefghijklmnopqrstuvwxyz"`),
	"before": json.RawMessage(`"baseline"`), "after": json.RawMessage(`"abcdefghijklmnopqrstuvwxyz"`), "tool": json.RawMessage(`"nmap_scan"`), "arguments": json.RawMessage(`{}`)}

// generated is arguments of a tool, most of them known ones.
func generated(random *rand.Rand, names []string) map[string]json.RawMessage {
	arguments := map[string]json.RawMessage{}
	for _, name := range names {
		if value := needed[name]; value != nil {
			arguments[name] = value
		}
		if random.IntN(len(names)+1) == 0 {
			arguments[name] = json.RawMessage(pool[random.IntN(len(pool))])
		}
	}
	if random.IntN(8) == 0 {
		arguments["another"] = json.RawMessage(`1`)
	}
	return arguments
}

// formal are the codes of faults that a schema can tell, too, of what is in the pool.
var formal = []string{"wrong_type", "unknown_argument", "missing", "bad_port"}

// readAs reads the arguments of a tool as it does.
func readAs(tool string, raw json.RawMessage) faults {
	for _, t := range tools(runners.BuiltIn()) {
		if t.name == tool && t.takes != nil {
			_, fs := read(t.takes, raw)
			return fs
		}
	}
	members, wrong := runners.Members(raw)
	_, _, mine := takeOurs(members)
	_, theirs := runners.BuiltIn().ReadMembers(tool, members)
	return append(append(mine, wrong...), theirs...)
}

// What a tool's reader takes its schema takes, and what the schema takes is refused for its meaning alone.
func FuzzTheSchemaAndTheReaderAgree(f *testing.F) {
	schemas := map[string]*jsonschema.Resolved{}
	names := map[string][]string{}
	all := tools(runners.BuiltIn())
	for _, t := range all {
		full := inputSchema(t.takes)
		for _, scan := range runners.BuiltIn().Tools() {
			if scan.Name == t.name {
				full = encode(scanSchema(scan.InputSchema))
			}
		}
		var schema jsonschema.Schema
		if err := json.Unmarshal(full, &schema); err != nil {
			f.Fatal(err)
		}
		for name := range schema.Properties {
			names[t.name] = append(names[t.name], name)
		}
		slices.Sort(names[t.name])
		var err error
		if schemas[t.name], err = schema.Resolve(nil); err != nil {
			f.Fatal(err)
		}
	}
	for seed := range uint64(20000) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 1))
		tool := all[random.IntN(len(all))].name
		raw := encode(generated(random, names[tool]))
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			t.Fatal(err)
		}
		refused := schemas[tool].Validate(value)
		fs := readAs(tool, raw)
		if len(fs) == 0 && refused != nil {
			t.Errorf("%s %s is read, and its schema says %v", tool, raw, refused)
		}
		for _, fault := range fs {
			if refused == nil && slices.Contains(formal, fault.Code) {
				t.Errorf("%s %s fits its schema, and the reader says %v", tool, raw, fault)
			}
		}
	})
}

// What is not known is answered with what was probably meant.
func TestTheNearestIsNamed(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	for _, c := range []struct{ tool, arguments, want string }{
		{"job_list", `{"sate":"queued"}`, "state"},
		{"job_list", `{"state":"runing"}`, "running"},
		{"job_status", `{"jobid":"x"}`, "job_id"},
		{"nmap_scan", `{"tagets":["10.0.0.5"]}`, "targets"},
		{"nmap_scan", `{"targets":["10.0.0.5"],"profile":"quik"}`, "quick"},
		{"nmap_scan", `{"targets":["10.0.0.5"],"scripts":["ssl-crt"]}`, "ssl-cert"},
		{"scan_preview", `{"tool":"nmap_scn","arguments":{}}`, "nmap_scan"},
	} {
		e := r.call(s, c.tool, json.RawMessage(c.arguments))["error"]
		if hint, _ := at(e, "hint").(string); !strings.Contains(hint, "did you mean "+c.want+"?") || at(e, "retryable") != false {
			t.Errorf("%s %s: %v", c.tool, c.arguments, e)
		}
	}
	if a := <-start(context.Background(), s, "nmap_scna", nil); a.err == nil || !strings.Contains(a.err.Error(), `unknown tool "nmap_scna": did you mean nmap_scan?`) {
		t.Errorf("%v", a.err)
	}
}

// What is given as an example is taken.
func TestExamplesAreTaken(t *testing.T) {
	for _, a := range slices.Concat(statusArguments, resultArguments, cancelArguments, listArguments, previewArguments(runners.BuiltIn()), ours) {
		if a.example == "" {
			continue
		}
		example := json.RawMessage(a.example)
		if a.kind == "string" {
			example = encode(a.example)
		}
		if f, is := a.wrong(example); is {
			t.Errorf("%s: its example %s is refused: %v", a.name, a.example, f)
		}
	}
	if _, fs := runners.BuiltIn().Read("nmap_scan", []byte(argArguments.example)); len(fs) > 0 {
		t.Errorf("%s: %v", argArguments.example, fs)
	}
	// The targets that a fault gives for examples.
	_, fs := runners.BuiltIn().Read("nmap_scan", []byte(`{"targets":["-x"]}`))
	if len(fs) == 0 || fs[0].Example == "" {
		t.Fatalf("%v", fs)
	}
	for _, target := range strings.Split(strings.ReplaceAll(fs[0].Example, " or ", ", "), ", ") {
		if _, fs := runners.BuiltIn().Read("nmap_scan", encode(map[string]any{"targets": []string{target}})); len(fs) > 0 {
			t.Errorf("the example %q is refused: %v", target, fs)
		}
	}
}
