package policy

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The manual's table of an engagement's keys is compared with what is read.
func TestTheManualHasEveryKeyOfAnEngagement(t *testing.T) {
	b, err := os.ReadFile("../docs/engagements.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(b), "\n## Every key\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var said []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+`) \\|").FindAllStringSubmatch(section, -1) {
		said = append(said, strings.Split(strings.Trim(row[1], "`"), "`, `")...)
	}
	read := keysOf(reflect.TypeFor[engagementFile](), "")
	slices.Sort(said)
	slices.Sort(read)
	if !slices.Equal(said, read) {
		t.Errorf("the manual has\n%s\nwhat is read is\n%s", strings.Join(said, "\n"), strings.Join(read, "\n"))
	}
}

// keysOf are the keys of a mapping as people write them. A list is a key of its own, and so are tools.
func keysOf(of reflect.Type, before string) (keys []string) {
	for _, field := range reflect.VisibleFields(of) {
		key, is := field.Tag.Lookup("yaml")
		if !is {
			continue
		}
		key = before + key
		inner := func(within string, inside reflect.Type) []string {
			if inside.Kind() != reflect.Struct {
				return nil
			}
			return keysOf(inside, within)
		}
		kind, below := field.Type, key+"."
		switch kind.Kind() {
		case reflect.Pointer:
			kind = kind.Elem()
		case reflect.Slice:
			kind, below = kind.Elem(), key+"[]."
		case reflect.Map:
			kind, below = kind.Elem(), key+".TOOL."
		}
		parts := inner(below, kind)
		if len(parts) == 0 || field.Type.Kind() == reflect.Slice || field.Type.Kind() == reflect.Map {
			keys = append(keys, key)
		}
		keys = append(keys, parts...)
	}
	return keys
}
