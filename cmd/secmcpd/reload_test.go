package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/runners"
)

// other is another value of a key, none of them a fault by itself.
var other = map[string]string{
	"resolvers": "10.0.0.1", "accept_unenforced": "cgroup-io", "tools.include": "nmap_scan", "tools.exclude": "nmap_scan",
	"wordlists.directories": "/other", "slots.mode": "routed", "slots.filter": "nftables", "slots.ipv4": "10.9.0.0/24", "slots.ipv6": "fd09::/48",
	"metrics.textfile": "/other.prom", "scanners.nmap": "/other", "scanners.masscan": "/other", "scanners.gobuster": "/other", "front_user": "65402",
	"breakers.multiplier": "2", "log.level": "debug", "log.format": "json",
}

// What is tagged for a reload is what one changes: each key alone changes what it hands to the rooms as
// live, and no other key does. Whoever adds a key has to say which it is.
func TestWhatAReloadTakesUp(t *testing.T) {
	rooms := func(s *settings) (live, fixed string) {
		cfg, err := s.launcher()
		if err != nil {
			t.Fatal(err)
		}
		of, tools := cfg.Live, s.tools()
		cfg.Live, of.Tools = launcher.Live{}, runners.Table{}
		var listed []string // a table is of functions
		for _, tool := range tools.Listed() {
			listed = append(listed, tool.Name)
		}
		room := s.front(&surroundings{stderr: os.Stderr}, nil, nil)
		a := rereading(sources{}, *s)
		a.took(s)
		return fmt.Sprintf("%+v %+v %+v %v", of, s.frontLive(runners.Table{}, false), listed, a.begun.from.level.Level()), fmt.Sprintf("%+v %+v", cfg, room.StateDir)
	}
	begin := func() settings {
		s := defaultSettings()
		s.FrontUser, s.from = "65401", &said{}
		return s
	}
	base := begin()
	live, fixed := rooms(&base)
	for _, k := range base.keys() {
		s := begin()
		text := other[k.path]
		if text == "" {
			switch v := k.value; {
			case v.Type() == reflect.TypeFor[time.Duration]():
				text = (time.Duration(v.Int()) + time.Minute).String()
			case v.CanInt():
				text = fmt.Sprint(v.Int() + 1)
			case v.Kind() == reflect.Bool:
				text = fmt.Sprint(!v.Bool())
			default:
				text = "/other"
			}
		}
		if _, faults := strict.Set("test", k.path, text, &s); len(faults) > 0 {
			t.Errorf("%v", faults)
			continue
		}
		l, f := rooms(&s)
		if changed := l != live; changed != k.reload {
			t.Errorf("%s is tagged for a reload: %v; it changes what a reload takes up: %v", k.path, k.reload, changed)
		}
		if k.reload && f != fixed {
			t.Errorf("%s changes what stays as it is until a restart", k.path)
		}
		a := rereading(sources{}, base)
		if keys := a.needRestart(&s); (len(keys) == 0) != k.reload {
			t.Errorf("%s: needs a restart: %v", k.path, keys)
		}
	}
}

// A reload finds every fault of all that it reads, and what changed where there is none.
func TestReread(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := "front_user: \"65401\"\nengagements_dir: " + dir + "/engagements.d\nrunners_dir: " + dir + "/runners.d\n"
	write("secmcpd.yaml", file)
	write("engagements.d/none", "")
	from := sources{file: filepath.Join(dir, "secmcpd.yaml")}
	begun, err := loadSettings(from)
	if err != nil {
		t.Fatal(err)
	}
	a, b := rereading(from, begun), rereading(from, begun)
	next, err := a.launcher()
	if err != nil || len(next.Changed) != 0 {
		t.Fatalf("%+v, %v", next, err)
	}
	same, err := b.front(false)
	if err != nil || same.Digest != next.Digest {
		t.Fatalf("%+v, %v", same, err)
	}

	write("secmcpd.yaml", file+"limits: {memory_mib: 300}\nscans: {at_once: 4}\n")
	changed, err := a.launcher()
	if err != nil || fmt.Sprint(changed.Changed) != "[limits.memory_mib]" || changed.Digest == next.Digest || changed.Live.Limits.Memory != 300<<20 {
		t.Errorf("%+v, %v", changed, err)
	}
	if again, err := a.launcher(); err != nil || len(again.Changed) != 1 {
		t.Errorf("what was not taken is not in force: %v, %v", again.Changed, err)
	}
	changed.Took()
	if again, err := a.launcher(); err != nil || len(again.Changed) != 0 {
		t.Errorf("what was taken is in force: %v, %v", again.Changed, err)
	}

	write("secmcpd.yaml", file+"limits: {memory_mib: 300}\nscans: {at_once: 5}\nslots: {mode: routed}\n")
	if _, err := a.launcher(); err == nil || err.Error() != "it takes a restart for scans.at_once, slots.mode" {
		t.Errorf("%v", err)
	}
	write("secmcpd.yaml", file+"limits: {memory_mib: no}\nscans: {at_once: 5}\n")
	write("engagements.d/bad.yaml", "name: bad\ntoolz: {}\n")
	write("runners.d/bad_scan.yaml", "nmae: x\n")
	_, err = a.launcher()
	for _, part := range []string{"limits.memory_mib", "toolz", "nmae"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v has no %s", err, part)
		}
	}
	if _, err := b.front(false); err == nil || strings.Contains(err.Error(), "toolz") || !strings.Contains(err.Error(), "nmae") {
		t.Errorf("of engagements the front knows nothing: %v", err)
	}
	write("secmcpd.yaml", file)
	if err := os.Remove(filepath.Join(dir, "runners.d/bad_scan.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.launcher(); err == nil || strings.Contains(err.Error(), "unknown tool") || !strings.Contains(err.Error(), "toolz") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(from.file); err != nil {
		t.Fatal(err)
	}
	if _, err := a.launcher(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
}
