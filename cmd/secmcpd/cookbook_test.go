package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each recipe of docs/engagements.md is an engagement, and judges the requests below it as it is said there.
func TestTheCookbook(t *testing.T) {
	b, err := os.ReadFile("../../docs/engagements.md")
	if err != nil {
		t.Fatal(err)
	}
	_, cookbook, _ := strings.Cut(string(b), "\n## Cookbook\n")
	recipes := strings.Split(cookbook, "\n### ")[1:]
	if len(recipes) < 10 {
		t.Fatalf("%d recipes", len(recipes))
	}
	for _, recipe := range recipes {
		title, _, _ := strings.Cut(recipe, "\n")
		t.Run(title, func(t *testing.T) { judgeRecipe(t, recipe) })
	}
}

var (
	recipeBlock   = regexp.MustCompile("(?s)```(yaml|sh)\n(.*?)```")
	recipeName    = regexp.MustCompile(`(?m)^name: (\S+)$`)
	recipeRequest = regexp.MustCompile(`^secmcpd engagements explain (.+)  # (allowed|approval|refused: [a-z_]+)$`)
	// Who is who there; this machine knows none of them.
	recipePeople  = map[string]string{"alice": "1001", "bob": "1002", "scanner": "1004", "secmcpd-agents": "2001", "team-red": "2002", "team-web": "2003"}
	recipeGroups  = map[string]string{"1001": "2001", "1002": "2002", "1003": "2003", "1004": "2004"}
	recipeCallers = regexp.MustCompile(`(?m)^callers: .*$`)
)

// recipeTime is when a request is made for which nothing else is said.
const recipeTime = "2026-12-01T10:00:00Z"

func judgeRecipe(t *testing.T, recipe string) {
	dir := t.TempDir()
	engagements := filepath.Join(dir, "engagements.d")
	for path := dir; path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(engagements, 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "secmcpd.yaml")
	settings := fmt.Sprintf("front_user: \"65401\"\nengagements_dir: %s\nlauncher_state_dir: %s\n", engagements, dir)
	if err := os.WriteFile(config, []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	files, requests := 0, 0
	for _, block := range recipeBlock.FindAllStringSubmatch(recipe, -1) {
		if block[1] == "yaml" {
			name := recipeName.FindStringSubmatch(block[2])
			if name == nil {
				t.Fatalf("a file without a name:\n%s", block[2])
			}
			text := recipeCallers.ReplaceAllStringFunc(block[2], func(line string) string {
				return regexp.MustCompile(`[a-z][a-z-]*[a-z]\b`).ReplaceAllStringFunc(line, func(word string) string {
					if id, is := recipePeople[word]; is {
						return id
					}
					return word
				})
			})
			if err := os.WriteFile(filepath.Join(engagements, name[1]+".yaml"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			files++
			continue
		}
		for line := range strings.Lines(block[2]) {
			line = strings.TrimSuffix(line, "\n")
			request := recipeRequest.FindStringSubmatch(line)
			if request == nil {
				t.Errorf("no request with what becomes of it: %s", line)
				continue
			}
			requests++
			if got := judged(t, config, strings.Fields(request[1])); got != request[2] {
				t.Errorf("%s\n\tis said to be %s, and is %s", request[1], request[2], got)
			}
		}
	}
	if files == 0 || requests < 2 {
		t.Errorf("%d files and %d requests", files, requests)
	}
}

// judged is what `secmcpd engagements explain` makes of a request.
func judged(t *testing.T, config string, words []string) string {
	t.Helper()
	arguments := append([]string{"engagements", "explain"}, words...)
	if !strings.Contains(strings.Join(words, " "), "--at ") {
		arguments = append(arguments, "--at", recipeTime)
	}
	for i, word := range words {
		if word == "--uid" {
			arguments = append(arguments, "--gid", words[i+1], "--groups", recipeGroups[words[i+1]])
		}
	}
	var out, said bytes.Buffer
	status := run(append(arguments, "--json", "--config", config), strings.NewReader(""), &out, &said)
	var x explained
	if err := json.Unmarshal(out.Bytes(), &x); err != nil {
		t.Fatalf("%v: status %d, %s%s", arguments, status, out.String(), said.String())
	}
	for _, note := range x.Notes {
		if strings.HasPrefix(note, "not in force") {
			t.Error(note)
		}
	}
	switch {
	case status == exitOK:
		return "allowed"
	case status == exitWarned:
		return "approval"
	case x.Denial != nil:
		return "refused: " + x.Denial.Code
	}
	return fmt.Sprintf("status %d: %s", status, out.String())
}
