package main

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// The layers of the configuration, the weakest first: defaults, secmcpd.yaml, conf.d/*.yaml by name, the
// predecessor's variables, SECMCPD_* variables, --set. Whatever layer says a key has to say it well: a
// fault in one that a later layer overrides is a fault.

// sources are where the configuration of a command is said.
type sources struct {
	file    string   // path of secmcpd.yaml; conf.d/ is beside it
	environ []string // NAME=VALUE
	set     []string // KEY=VALUE, of --set
}

// said is where the settings in force were said, and what of that is not as it was said.
type said struct {
	layers   []*strict.Lines
	read     []string          // the files, each with the sha256 of what it held
	clamped  map[string]string // key to what was said, where a number beyond its bounds became the nearest bound
	warnings strict.Faults     // of that, and of the predecessor's variables
	level    slog.LevelVar     // of the log of the role that has these settings
}

// origin is what said a key last: FILE:LINE, a variable, a flag, or a default.
func (o *said) origin(key string) string {
	for _, lines := range slices.Backward(o.layers) {
		if where := lines.Where(key); where != "" {
			return where
		}
	}
	return "default"
}

// ownVariables are SECMCPD_* names that are no settings.
var ownVariables = []string{"SECMCPD_SOCKET"}

// variable is the name in the environment of a key: SECMCPD_SCANS_AT_ONCE of scans.at_once.
func variable(key string) string {
	return "SECMCPD_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// readEnvironment sets what SECMCPD_* variables say.
func readEnvironment(environ []string, s *settings) (layers []*strict.Lines, faults strict.Faults) {
	keys := map[string]string{} // of variables
	var known []string
	mappings := map[string]bool{}
	for _, k := range s.keys() {
		path := k.path
		if k.of != "" {
			path, mappings[k.of] = k.of, true // any name may follow
		}
		keys[variable(path)] = path
		known = append(known, variable(path))
	}
	for _, entry := range slices.Sorted(slices.Values(environ)) {
		name, text, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "SECMCPD_") || slices.Contains(ownVariables, name) {
			continue
		}
		key, is := keys[name]
		for mapping := range mappings {
			if entry, of := strings.CutPrefix(name, variable(mapping)+"_"); of && entry != "" {
				key, is = mapping+"."+strings.ToLower(entry), true
			}
		}
		if !is {
			faults = append(faults, strict.Fault{File: "environment", Got: "an unknown name " + strict.Quote(name), Allowed: "SECMCPD_ and a key of the settings",
				Hint: near(name, known)})
			continue
		}
		lines, wrong := strict.Set("environment "+name, key, text, s)
		layers, faults = append(layers, lines), append(faults, wrong...)
	}
	return layers, faults
}

// readFlags sets what --set says.
func readFlags(set []string, s *settings) (layers []*strict.Lines, faults strict.Faults) {
	for _, word := range set {
		key, text, is := strings.Cut(word, "=")
		if !is || key == "" {
			faults = append(faults, strict.Fault{File: "--set", Got: strict.Quote(word), Allowed: "KEY=VALUE"})
			continue
		}
		lines, wrong := strict.Set("--set", key, text, s)
		layers, faults = append(layers, lines), append(faults, wrong...)
	}
	return layers, faults
}

// key is one setting.
type key struct {
	path   string
	value  reflect.Value
	secret bool   // its value is not shown
	reload bool   // a reload takes it up
	of     string // the mapping that it is an entry of; empty: it is none
	set    func(reflect.Value)
}

// keys are the settings that there are, with their values, in the order of the struct. A mapping is as
// many as it has entries.
func (s *settings) keys() []key { return keysOf(s) }

// keysOf is keys of any struct of settings. The tag `secret:"yes"`, of a field or of a section, keeps
// values from being shown; `reload:"yes"` says that a reload takes them up.
func keysOf(settings any) (out []key) {
	strict.Keys(reflect.ValueOf(settings).Elem(), func(path string, v reflect.Value, field reflect.StructField, above []reflect.StructField) {
		k := key{path: path, value: v, set: v.Set}
		for _, f := range append(above, field) {
			k.secret = k.secret || f.Tag.Get("secret") == "yes"
			k.reload = k.reload || f.Tag.Get("reload") == "yes"
		}
		if v.Kind() == reflect.Map {
			k.of = path
		}
		if v.Kind() != reflect.Map || v.Len() == 0 {
			out = append(out, k)
			return
		}
		for _, name := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
			of := k
			of.path, of.value = strict.Key(path, name.String()), v.MapIndex(name)
			of.set = func(value reflect.Value) { v.SetMapIndex(name, value) }
			out = append(out, of)
		}
	})
	return out
}

const redacted = "(redacted)"

// shown is the value as text, as a file has it; a secret's is not.
func (k key) shown() string {
	if k.secret && !k.value.IsZero() {
		return redacted
	}
	return textOf(k.value)
}

// textOf is a value as a file has it.
func textOf(v reflect.Value) string {
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		return spanText(time.Duration(v.Int()))
	case v.Kind() == reflect.Slice:
		words := make([]string, v.Len())
		for i := range words {
			words[i] = textOf(v.Index(i))
		}
		return "[" + strings.Join(words, ", ") + "]"
	case v.Kind() == reflect.Map:
		return "{}" // one with entries is as many keys
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return `""`
		}
		return textOf(v.Elem())
	}
	text := fmt.Sprint(v.Interface())
	if text == "" || text == "invalid Prefix" || text != strings.TrimSpace(text) || strings.ContainsAny(text, "\n\t\"'#,[]{}") || v.Kind() == reflect.String && looksOtherwise(text) {
		if text == "invalid Prefix" {
			text = ""
		}
		return strconv.Quote(text)
	}
	return text
}

// looksOtherwise says that a text without quotes would be no text to YAML.
func looksOtherwise(text string) bool {
	_, err := strconv.ParseFloat(text, 64)
	return err == nil || slices.Contains([]string{"true", "false", "yes", "no", "on", "off", "null", "~"}, strings.ToLower(text))
}

// spanText is a duration without the zeros that Go ends it with.
func spanText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// redactIn takes the secrets among keys out of faults: what was got is a part of what is in the file.
func redactIn(keys []key, faults strict.Faults) {
	for _, k := range keys {
		for i := range faults {
			if k.secret && faults[i].Got != "" && (faults[i].Field == k.path || strings.HasPrefix(faults[i].Field, k.path+"[")) {
				faults[i].Got = redacted
			}
		}
	}
}

// differing are the keys of which two settings have different values.
func differing(a, b *settings) (out []key) {
	was := map[string]string{}
	for _, k := range a.keys() {
		was[k.path] = textOf(k.value)
	}
	for _, k := range b.keys() {
		if before, is := was[k.path]; !is || before != textOf(k.value) {
			out = append(out, k)
		}
		delete(was, k.path)
	}
	for _, k := range a.keys() {
		if _, gone := was[k.path]; gone {
			out = append(out, k)
		}
	}
	return out
}

// bounds are those of numbers and durations: within them a setting stands as it was said, outside it is
// a fault, or clamped to the nearest bound where the predecessor's users rely on that.
type bounds struct {
	field    string
	low, top int64
	beyond   beyond
}

// beyond is what becomes of a number outside of its bounds.
type beyond bool

const (
	refuse beyond = false
	clamp  beyond = true
)

var errNoNumber = errors.New("no number")

// within holds settings to bounds: it clamps where that is said, and tells what it did.
func (s *settings) within(all []bounds, at faultAt) (clamped map[string]string, warnings, faults strict.Faults) {
	keys := map[string]key{}
	for _, k := range s.keys() {
		keys[k.path] = k
	}
	clamped = map[string]string{}
	for _, b := range all {
		v := keys[b.field].value
		if !v.IsValid() || !v.CanInt() {
			panic(fmt.Errorf("%s: %w", b.field, errNoNumber))
		}
		got := v.Int()
		if got >= b.low && got <= b.top {
			continue
		}
		show := func(n int64) string { return textOf(reflect.ValueOf(n).Convert(v.Type())) }
		f := at(b.field, strict.Quote(show(got)), show(b.low)+" to "+show(b.top), "")
		if b.beyond == refuse {
			faults = append(faults, f)
			continue
		}
		used := min(max(got, b.low), b.top)
		keys[b.field].set(reflect.ValueOf(used).Convert(v.Type()))
		clamped[b.field] = show(got)
		f.Hint = show(used) + " is used"
		warnings = append(warnings, f)
	}
	return clamped, warnings, faults
}
