package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/runners"
)

// The arguments of a scan as flags: one for each property of the tool's input schema, so that what an
// agent can ask for, a person can, too.

// maxArguments bounds the arguments of one scan, in bytes, as the daemon does.
const maxArguments = 48 << 10

// property is one argument in a tool's input schema.
type property struct {
	Type        string          `json:"type"`
	Description string          `json:"description"`
	Enum        []any           `json:"enum"`
	Default     any             `json:"default"`
	Minimum     *int64          `json:"minimum"`
	Maximum     *int64          `json:"maximum"`
	Items       *property       `json:"items"`
	Properties  json.RawMessage `json:"properties"`
}

// toolArguments are the flags of one tool, and what was given.
type toolArguments struct {
	tool   string
	whole  string // --arguments
	fields map[string]*argumentFlag
}

// argumentFlag is one of them. It holds what was given as JSON.
type argumentFlag struct {
	name  string
	of    property
	value any
}

func (f *argumentFlag) String() string { return "" } // what is not given is the daemon's to choose

func (f *argumentFlag) Type() string {
	switch {
	case f.of.Type == "array":
		return "LIST"
	case f.of.Type == "boolean":
		return "BOOL"
	case f.of.Type == "integer", f.of.Type == "number":
		return "NUMBER"
	}
	return "TEXT"
}

// Set takes a word of the command line. A list may be given in parts, and parts with commas.
func (f *argumentFlag) Set(text string) error {
	if f.of.Type != "array" {
		v, err := scalarOf(f.of.Type, text)
		f.value = v
		return err
	}
	list, _ := f.value.([]any)
	kind := ""
	if f.of.Items != nil {
		kind = f.of.Items.Type
	}
	for one := range strings.SplitSeq(text, ",") {
		v, err := scalarOf(kind, one)
		if err != nil {
			return err
		}
		list = append(list, v)
	}
	if len(list) > 4096 {
		return errors.New("more than 4096 words")
	}
	f.value = list
	return nil
}

func scalarOf(kind, text string) (any, error) {
	switch kind {
	case "integer":
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, errors.New("a whole number is allowed")
		}
		return n, nil
	case "boolean":
		switch text {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, errors.New("true and false are allowed")
	}
	return text, nil
}

// known is what people are told of arguments that a schema leaves without a word, since models do without.
var known = map[string]string{
	"engagement":     "under this engagement only",
	"exclude":        "addresses and networks left out of the targets",
	"limit":          "seconds that the scan may take",
	"url":            "the site: http:// or https://",
	"domain":         "the domain whose names are looked for",
	"mode":           "what is looked for",
	"extensions":     "of files, tried with each word",
	"status_codes":   "only answers of these",
	"threads":        "requests at once",
	"delay_ms":       "milliseconds between requests of a thread",
	"timeout_s":      "seconds that an answer may take",
	"tls_verify":     "whether certificates are verified",
	"ip_version":     "of a name with addresses of both",
	"rate":           "packets per second",
	"host_timeout_s": "seconds after which a host is given up",
}

// usage is what the help says of it.
func (f *argumentFlag) usage() string {
	p := f.of
	if p.Items != nil && len(p.Enum) == 0 {
		p.Enum = p.Items.Enum
	}
	about := strings.TrimSuffix(strings.ReplaceAll(cmp.Or(p.Description, known[f.name]), "`", "'"), ".")
	var more []string
	switch words := f.words(); {
	case len(words) > 0 && len(words) <= 12:
		more = append(more, strings.Join(words, ", "))
	case len(words) > 12:
		more = append(more, strings.Join(words[:6], ", ")+" and "+strconv.Itoa(len(words)-6)+" more")
	case p.Minimum != nil && p.Maximum != nil:
		more = append(more, fmt.Sprintf("%d to %d", *p.Minimum, *p.Maximum))
	}
	if p.Default != nil {
		more = append(more, fmt.Sprintf("default %v", p.Default))
	}
	said := strings.Join(more, "; ")
	switch {
	case about == "":
		return said
	case said == "":
		return about
	}
	return about + " (" + said + ")"
}

// words are those that it can be, if they can be counted.
func (f *argumentFlag) words() (out []string) {
	enum := f.of.Enum
	if f.of.Items != nil {
		enum = f.of.Items.Enum
	}
	for _, w := range enum {
		out = append(out, fmt.Sprint(w))
	}
	return out
}

// addArguments gives a command the flags of a tool. One that has the name of a flag of the command itself
// is --arg-NAME.
func addArguments(c *cobra.Command, tool runners.Tool) *toolArguments {
	a := &toolArguments{tool: tool.Name, fields: map[string]*argumentFlag{}}
	c.Flags().StringVar(&a.whole, "arguments", "", "all arguments as one JSON object, as an agent gives them; - reads it from standard input; flags go before it")
	c.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	var schema struct {
		Properties map[string]property `json:"properties"`
	}
	if err := json.Unmarshal(tool.InputSchema, &schema); err != nil {
		panic(fmt.Sprintf("secmcpd: schema of %s: %v", tool.Name, err)) // a runner's own; tested
	}
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		p := schema.Properties[name]
		if p.Type == "object" || p.Items != nil && p.Items.Type == "object" {
			continue // --arguments has it
		}
		f := &argumentFlag{name: name, of: p}
		a.fields[name] = f
		flag := strings.ReplaceAll(name, "_", "-")
		if flag == "config" || flag == "help" || c.Flags().Lookup(flag) != nil {
			flag = "arg-" + flag
		}
		added := c.Flags().VarPF(f, flag, "", f.usage())
		if p.Type == "boolean" {
			added.NoOptDefVal = "true"
		}
		if words := f.words(); len(words) > 0 {
			completeWith(c, flag, words...)
		}
	}
	return a
}

// takes says whether the tool has an argument of that name.
func (a *toolArguments) takes(name string) bool { return a.fields[name] != nil }

// object is what was given as one JSON object. Words of the command line are targets.
func (a *toolArguments) object(stdin io.Reader, targets []string) (json.RawMessage, error) {
	members := map[string]any{}
	if text := a.whole; text != "" {
		if text == "-" {
			b, err := io.ReadAll(io.LimitReader(stdin, maxArguments+1))
			if err != nil {
				return nil, fmt.Errorf("--arguments: cannot read standard input: %w", err)
			}
			text = string(b)
		}
		if len(text) > maxArguments {
			return nil, fmt.Errorf("--arguments: more than %d bytes", maxArguments)
		}
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&members); err != nil {
			return nil, fmt.Errorf("--arguments: got %s; allowed: one JSON object", strict.Quote(text))
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return nil, errors.New("--arguments: there is more behind the object")
		}
	}
	for name, f := range a.fields {
		if f.value != nil {
			members[name] = f.value
		}
	}
	if len(targets) > 0 {
		list, _ := members["targets"].([]any)
		for _, t := range targets {
			list = append(list, t)
		}
		members["targets"] = list
	}
	return json.Marshal(members)
}

// toolsFor is the scanners whose arguments are flags: those of the configuration that the words of the
// command line name, or those built in where it cannot be read. Only commands that need them read it.
func toolsFor(args []string) runners.Table {
	if !slices.Contains(args, "scan") && !slices.Contains(args, "explain") {
		return runners.BuiltIn()
	}
	from := sources{file: defaultConfig, environ: os.Environ()}
	for i, word := range args {
		name, value, is := strings.Cut(word, "=")
		if !is && i+1 < len(args) {
			value = args[i+1]
		}
		switch name {
		case "--config":
			from.file = value
		case "--set":
			from.set = append(from.set, value)
		}
	}
	settings, err := loadSettings(from)
	if err != nil {
		return runners.BuiltIn()
	}
	return settings.tools()
}
