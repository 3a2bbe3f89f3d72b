// Command sbom writes the bill of materials of a built binary, as CycloneDX: what `go version -m` says of
// it, the shared libraries that it names, and SQLite, whose source is in one of its modules. The same
// binary gives the same text.
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

func main() {
	version := flag.String("version", "", "version of the packages")
	epoch := flag.Int64("epoch", 0, "when it was made: seconds since 1970")
	flag.Parse()
	if flag.NArg() != 1 || *version == "" {
		fmt.Fprintln(os.Stderr, "usage: sbom -version VERSION [-epoch SECONDS] BINARY")
		os.Exit(2)
	}
	text, err := describe(flag.Arg(0), *version, time.Unix(*epoch, 0).UTC())
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// The parts of CycloneDX 1.6 that we have something to say in.
type bill struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber,omitempty"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Licenses   []license  `json:"licenses,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type license struct {
	Expression string `json:"expression"`
	// Concluded: read from the text that the module carries, since Go's modules declare none.
	Acknowledgement string `json:"acknowledgement"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn,omitempty"`
}

// shared says which Debian package has a library. Its version is that of the machine where it runs.
var shared = map[string]string{
	"libc.so.6":             "libc6",
	"ld-linux-aarch64.so.1": "libc6",
	"ld-linux-x86-64.so.2":  "libc6",
	"libseccomp.so.2":       "libseccomp2",
}

func describe(file, version string, made time.Time) ([]byte, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return nil, err
	}
	binary, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	self := component{
		Type: "application", Ref: info.Main.Path, Name: filepath.Base(file), Version: version,
		Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(binary))}},
	}
	for _, s := range info.Settings {
		// What of the environment is in them differs between machines, and is in nothing that was built.
		if s.Value != "" && !strings.HasPrefix(s.Key, "CGO_") && s.Key != "-ldflags" {
			self.Properties = append(self.Properties, property{"go:build:" + s.Key, s.Value})
		}
	}
	b := bill{Format: "CycloneDX", Spec: "1.6", Version: 1, Metadata: metadata{made.Format(time.RFC3339), self}}
	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	b.Components = append(b.Components, component{
		Type: "library", Ref: "go", Name: "stdlib", Version: goVersion, PURL: "pkg:golang/stdlib@" + goVersion,
		Licenses: concluded("BSD-3-Clause"),
	})
	dirs, err := modules(info.Deps)
	if err != nil {
		return nil, err
	}
	for _, m := range info.Deps {
		c, err := module(m, dirs)
		if err != nil {
			return nil, err
		}
		b.Components = append(b.Components, c)
		if m.Path == "github.com/mattn/go-sqlite3" {
			c, err := sqlite(dirs[m.Path])
			if err != nil {
				return nil, err
			}
			b.Components = append(b.Components, c)
		}
	}
	libraries, err := linked(file)
	if err != nil {
		return nil, err
	}
	b.Components = append(b.Components, libraries...)
	all := dependency{Ref: self.Ref}
	for _, c := range b.Components {
		all.DependsOn = append(all.DependsOn, c.Ref)
	}
	b.Dependencies = []dependency{all}
	// A serial number of its own for each content (RFC 9562, version 8).
	text, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	b.Serial = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err = e.Encode(b)
	return out.Bytes(), err
}

func module(m *debug.Module, dirs map[string]string) (component, error) {
	if m.Replace != nil {
		return component{}, fmt.Errorf("%s is replaced by %s, which a bill would have to say", m.Path, m.Replace.Path)
	}
	expression, err := licenseOf(dirs[m.Path])
	if err != nil {
		return component{}, fmt.Errorf("%s: %w", m.Path, err)
	}
	purl := "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B")
	return component{
		Type: "library", Ref: purl, Name: m.Path, Version: m.Version, PURL: purl, Licenses: concluded(expression),
		// A hash over the hashes of its files, as in go.sum: none of the algorithms of CycloneDX.
		Properties: []property{{"go:sum", m.Sum}},
	}, nil
}

// modules says where the sources of the modules lie.
func modules(deps []*debug.Module) (map[string]string, error) {
	args := []string{"list", "-m", "-f", "{{.Path}}\t{{.Version}}\t{{.Dir}}"}
	want := map[string]string{}
	for _, m := range deps {
		args = append(args, m.Path)
		want[m.Path] = m.Version
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w", err)
	}
	dirs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 3 || want[f[0]] != f[1] {
			return nil, fmt.Errorf("the binary was not built from the modules that are here: %q, want %s", line, want[f[0]])
		}
		dirs[f[0]] = f[2]
	}
	return dirs, nil
}

var sqliteVersion = regexp.MustCompile(`(?m)^#define SQLITE_VERSION\s+"([0-9.]+)"`)

func sqlite(dir string) (component, error) {
	header, err := os.ReadFile(filepath.Join(dir, "sqlite3-binding.h"))
	if err != nil {
		return component{}, err
	}
	m := sqliteVersion.FindSubmatch(header)
	if m == nil {
		return component{}, errors.New("cannot tell the version of SQLite")
	}
	purl := "pkg:generic/sqlite@" + string(m[1])
	return component{Type: "library", Ref: purl, Name: "sqlite", Version: string(m[1]), PURL: purl, Licenses: concluded("blessing")}, nil
}

// linked are the libraries that the loader finds on the machine where it runs.
func linked(file string) ([]component, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	var all []component
	for _, name := range names {
		from, ok := shared[name]
		if !ok {
			return nil, fmt.Errorf("it is linked with %s, of which it is not known whose it is", name)
		}
		all = append(all, component{
			Type: "library", Ref: name, Name: name, PURL: "pkg:deb/debian/" + from,
			Properties: []property{{"linked", "dynamically: in the version of the machine where it runs"}},
		})
	}
	return all, nil
}

func concluded(expression string) []license { return []license{{expression, "concluded"}} }

// texts tell licences by a sentence that each of their texts has.
var texts = []struct {
	id    string
	match *regexp.Regexp
}{
	{"Apache-2.0", regexp.MustCompile(`Apache License,?\s+Version 2\.0`)},
	{"BSD-2-Clause", regexp.MustCompile(`Redistribution and use in source and binary forms`)},
	{"BSD-3-Clause", regexp.MustCompile(`(?i)Neither the name|names? of (its|the) contributors`)},
	{"MIT", regexp.MustCompile(`(?i)Permission is hereby granted, free of charge`)},
}

var spdx = regexp.MustCompile(`SPDX-License-Identifier: (.+?)(\s*\*/)?\n`)

func licenseOf(dir string) (string, error) {
	files, err := fs.ReadDir(os.DirFS(dir), ".")
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(files, func(f fs.DirEntry) bool {
		name := strings.ToLower(f.Name())
		return !f.IsDir() && (strings.HasPrefix(name, "licen") || strings.HasPrefix(name, "copying"))
	})
	if i < 0 {
		return "", errors.New("it carries no licence")
	}
	text, err := os.ReadFile(filepath.Join(dir, files[i].Name()))
	if err != nil {
		return "", err
	}
	return licenseIn(string(text))
}

func licenseIn(text string) (string, error) {
	if m := spdx.FindStringSubmatch(text); m != nil {
		return m[1], nil
	}
	var ids []string
	for _, l := range texts {
		if l.match.MatchString(text) {
			ids = append(ids, l.id)
		}
	}
	// The one with three clauses has the sentence of that with two.
	if slices.Contains(ids, "BSD-3-Clause") {
		ids = slices.DeleteFunc(ids, func(id string) bool { return id == "BSD-2-Clause" })
	}
	if len(ids) == 0 {
		return "", errors.New("its licence is none that is known here")
	}
	return strings.Join(ids, " AND "), nil
}
