package main

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/strict"
)

func configCommand(s *surroundings) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "the settings"}
	c.AddCommand(configShow(s))
	return c
}

// configShow prints what would be in force, were a role started with the words and variables of this
// command.
func configShow(s *surroundings) *cobra.Command {
	var origin, asJSON bool
	c := &cobra.Command{
		Use: "show [KEY]", Short: "print the settings in force, and where each was said", Args: cobra.MaximumNArgs(1),
		Long: "Print the settings that a role would have, were it started with the environment and the flags of\n" +
			"this command; of KEY alone, or of the section KEY. What a running daemon has may be older: `secmcpd\n" +
			"reload`. Secrets are not printed.",
		RunE: func(c *cobra.Command, args []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			var only string
			if len(args) == 1 {
				only = args[0]
			}
			shown, err := settings.show(only)
			if err != nil {
				return usage(c, err)
			}
			if asJSON {
				return s.printJSON(shown)
			}
			for _, one := range shown {
				if _, err := fmt.Fprintln(s.stdout, one.line(origin)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&origin, "origin", false, "say where each was said")
	c.Flags().BoolVar(&asJSON, "json", false, jsonUsage)
	return c
}

// shownKey is one setting, for people and programs.
type shownKey struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Origin string `json:"origin"`
	// Said is what was said, where the value is the nearest that is allowed.
	Said   string `json:"clamped_from,omitempty"`
	Reload bool   `json:"reload"` // a reload takes it up; else it takes a restart
	text   string
}

func (k shownKey) line(origin bool) string {
	var more []string
	if k.Said != "" {
		more = append(more, "clamped from "+k.Said)
	}
	if origin {
		more = append(more, k.Origin)
	}
	if len(more) == 0 {
		return k.Key + ": " + k.text
	}
	return k.Key + ": " + k.text + "  # " + strings.Join(more, ", ")
}

// show is every setting, or those of one key or section. A key that there is not is an error.
func (s *settings) show(only string) ([]shownKey, error) {
	if s.from == nil { // the defaults alone
		s.from = &said{}
	}
	var out []shownKey
	var known []string
	for _, k := range s.keys() {
		known = append(known, k.path)
		if only != "" && k.path != only && !strings.HasPrefix(k.path, only+".") {
			continue
		}
		one := shownKey{Key: k.path, Value: jsonOf(k), Origin: s.from.origin(k.path), Said: s.from.clamped[k.path], Reload: k.reload, text: k.shown()}
		if one.Said != "" && k.secret {
			one.Said = redacted
		}
		out = append(out, one)
	}
	if len(out) == 0 {
		err := fmt.Errorf("there is no setting %s", strict.Quote(only))
		if hint := near(only, known); hint != "" {
			err = fmt.Errorf("%w; %s", err, hint)
		}
		return nil, err
	}
	return out, nil
}

// jsonOf is a value as JSON has it: numbers, truths and lists as such, all else as text.
func jsonOf(k key) any {
	if k.secret && !k.value.IsZero() {
		return redacted
	}
	return jsonValue(k.value)
}

func jsonValue(v reflect.Value) any {
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		return spanText(time.Duration(v.Int()))
	case v.CanInt(), v.CanUint(), v.CanFloat(), v.Kind() == reflect.Bool:
		return v.Interface()
	case v.Kind() == reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = jsonValue(v.Index(i))
		}
		return list
	case v.Kind() == reflect.String:
		return v.String()
	case v.Kind() == reflect.Map:
		return map[string]any{}
	}
	return strings.Trim(textOf(v), `"`)
}
