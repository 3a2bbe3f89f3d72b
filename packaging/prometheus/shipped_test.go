// Package prometheus holds what is shipped for Prometheus and Grafana to what the daemon exports.
package prometheus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/secmcpd/secmcpd/observability/metrics"
)

// nodes are those of node_exporter that the rules look at.
var nodes = []string{"node_textfile_mtime_seconds", "node_textfile_scrape_error"}

// series are the names that there are: what an expression may ask for.
func series() map[string]string {
	all := map[string]string{}
	for _, name := range nodes {
		all[name] = name
	}
	for _, f := range metrics.Families() {
		if f.Type != "histogram" {
			all[f.Name] = f.Name
			continue
		}
		for _, end := range []string{"_bucket", "_sum", "_count"} {
			all[f.Name+end] = f.Name
		}
	}
	return all
}

var word = regexp.MustCompile(`\b(mcp|secmcpd|node)_[a-z_]+\b`)

// asks says of which families an expression asks, and fails for a name or a label that there is not.
func asks(t *testing.T, where, expr string) (families []string) {
	t.Helper()
	known := series()
	labels := map[string]bool{"instance": true, "le": true, "file": true}
	for _, f := range metrics.Families() {
		for _, l := range f.Labels {
			labels[l] = true
		}
	}
	for _, name := range word.FindAllString(expr, -1) {
		if known[name] == "" {
			t.Errorf("%s: %s is not exported", where, name)
		}
		families = append(families, known[name])
	}
	for _, m := range regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"`).FindAllStringSubmatch(expr, -1) {
		if !labels[m[1]] {
			t.Errorf("%s: there is no label %s", where, m[1])
		}
	}
	if len(families) == 0 {
		t.Errorf("%s asks for nothing of ours: %s", where, expr)
	}
	return families
}

type rule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) (all []rule) {
	t.Helper()
	b, err := os.ReadFile("secmcpd.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

func TestTheRulesAskForWhatIsExported(t *testing.T) {
	promtool(t, "secmcpd.rules.yaml")
	rules := alerts(t)
	if len(rules) < 15 {
		t.Errorf("%d rules", len(rules))
	}
	for _, r := range rules {
		asks(t, r.Alert, r.Expr)
		if !strings.HasPrefix(r.Alert, "Secmcpd") || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s is not told to whoever is woken by it", r.Alert)
		}
		for _, m := range regexp.MustCompile(`\$labels\.([a-z_]+)`).FindAllStringSubmatch(fmt.Sprint(r.Annotations), -1) {
			if !hasLabel(t, r, m[1]) {
				t.Errorf("%s: no series of it has %s", r.Alert, m[1])
			}
		}
	}
}

// hasLabel says whether some family that the rule asks for has the label.
func hasLabel(t *testing.T, r rule, label string) bool {
	t.Helper()
	asked := strings.Join(asks(t, r.Alert, r.Expr), " ")
	for _, f := range metrics.Families() {
		if strings.Contains(asked, f.Name) && strings.Contains(" "+strings.Join(f.Labels, " ")+" ", " "+label+" ") {
			return true
		}
	}
	return false
}

// promtool checks a file of rules.
func promtool(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("promtool", "check", "rules", "--lint-fatal", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

type panel struct {
	ID         int
	Type       string
	Title      string
	Datasource struct{ Type, UID string }
	GridPos    struct{ H, W, X, Y int }
	Targets    []struct {
		RefID        string
		Expr         string
		LegendFormat string
		Datasource   struct{ Type, UID string }
	}
}

// The dashboard asks for what is exported, and shows all of it.
func TestTheDashboardShowsWhatIsExported(t *testing.T) {
	b, err := os.ReadFile("../grafana/secmcpd.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID        string
		Title      string
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
		Panels []panel
	}
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	if board.UID != "secmcpd" || board.Title == "" {
		t.Errorf("uid %q, title %q", board.UID, board.Title)
	}
	variables := map[string]bool{}
	for _, v := range board.Templating.List {
		variables[v.Name] = true
		if v.Type == "query" {
			asks(t, v.Name, v.Query)
		}
	}
	shown := map[string]bool{}
	ids, places := map[int]bool{}, map[string]bool{}
	var rules bytes.Buffer
	rules.WriteString("groups:\n- name: panels\n  rules:\n")
	n := 0
	for _, p := range board.Panels {
		place := fmt.Sprint(p.GridPos.X, ",", p.GridPos.Y)
		if ids[p.ID] || places[place] || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s: id %d or place %s twice, or too wide", p.Title, p.ID, place)
		}
		ids[p.ID], places[place] = true, true
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("%s: data source %q, %d targets", p.Title, p.Datasource.UID, len(p.Targets))
		}
		for _, target := range p.Targets {
			for _, f := range asks(t, p.Title, target.Expr) {
				shown[f] = true
			}
			for _, m := range regexp.MustCompile(`\$\{?([a-z_]+)`).FindAllStringSubmatch(target.Expr, -1) {
				if !variables[m[1]] {
					t.Errorf("%s: there is no variable %s", p.Title, m[1])
				}
			}
			expr := strings.NewReplacer("$instance", ".*", "$tool", ".*").Replace(target.Expr)
			fmt.Fprintf(&rules, "  - record: panel:expr%d\n    expr: '%s'\n", n, strings.ReplaceAll(expr, "'", "''"))
			n++
		}
	}
	for _, f := range metrics.Families() {
		if !shown[f.Name] {
			t.Errorf("%s is on no panel", f.Name)
		}
	}
	path := filepath.Join(t.TempDir(), "panels.yaml")
	if err := os.WriteFile(path, rules.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, path)
}

// Who comes from the predecessor finds each of its metrics and alerts, and what is named in their place is there.
func TestTheManualHasAPlaceForThePredecessors(t *testing.T) {
	manual, err := os.ReadFile("../../docs/migration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(manual), "\n## Metrics and alerts\n")
	section, _, _ = strings.Cut(section, "\n## ")
	there := ""
	named := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| ([^|]+) \|$`).FindAllStringSubmatch(section, -1) {
		there += row[1]
		for _, m := range regexp.MustCompile("`([A-Za-z_]+)`").FindAllStringSubmatch(row[2], -1) {
			named[m[1]] = true
		}
	}
	for _, name := range []string{"mcp_tool_execution_total", "mcp_tool_execution_seconds", "mcp_tool_active", "mcp_tool_errors_total",
		"circuit_breaker_state", "circuit_breaker_calls_total", "circuit_breaker_transitions_total", "mcp_health_*",
		"metrics.prometheus_port", "metrics.collection_interval",
		"TargetDown", "MCPServerDown", "MCPFailureRateHigh", "MCPFailureRateSevere", "MCPTimeoutRateHigh", "MCPValidationErrorsObserved", "MCPExecutionErrorsSpike",
		"MCPLatencyP95High", "MCPLatencyP99Severe", "MCPActiveExecutionsHigh", "MCPActiveExecutionsCritical", "NodeHighCPU", "NodeLowMemory", "PrometheusRuleEvaluationErrors"} {
		if !strings.Contains(there, "`"+name+"`") {
			t.Errorf("nothing is said of %s", name)
		}
	}
	known := series()
	for _, r := range alerts(t) {
		if !named[r.Alert] {
			t.Errorf("%s is not in the manual", r.Alert)
		}
		known[r.Alert] = r.Alert
	}
	for name := range named {
		if (strings.HasPrefix(name, "Secmcpd") || strings.HasPrefix(name, "secmcpd_") || strings.HasPrefix(name, "mcp_")) && known[name] == "" {
			t.Errorf("there is no %s", name)
		}
	}
}
