// Package deploy reads the compose file and the Kubernetes manifest as those who run them do, strictly, and holds
// them to the units.
package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

const top = "../../"

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(top + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// directive is what a unit says of a key, all its lines.
func directive(t *testing.T, unit, key string) (lines []string) {
	t.Helper()
	for line := range strings.Lines(read(t, "systemd/"+unit)) {
		if value, is := strings.CutPrefix(strings.TrimSpace(line), key+"="); is {
			lines = append(lines, value)
		}
	}
	if len(lines) == 0 {
		t.Fatalf("%s has no %s", unit, key)
	}
	return lines
}

// granted are the capabilities of the launcher's unit, as container engines name them.
func granted(t *testing.T) []string {
	t.Helper()
	all := strings.Fields(strings.ReplaceAll(directive(t, "secmcpd-launcher.service", "CapabilityBoundingSet")[0], "CAP_", ""))
	slices.Sort(all)
	return all
}

func compose(t *testing.T) *types.Project {
	t.Helper()
	dir, err := filepath.Abs(top + "deploy/container")
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml"), Content: []byte(read(t, "deploy/container/compose.yaml"))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestTheComposeFileGivesTheRoomsWhatTheUnitsGive(t *testing.T) {
	launcher, front := compose(t).Services["launcher"], compose(t).Services["front"]
	for _, s := range []types.ServiceConfig{launcher, front} {
		if !slices.Equal(s.CapDrop, []string{"ALL"}) || !s.ReadOnly || s.Privileged || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: drops %v, read-only %v, privileged %v, options %v", s.Name, s.CapDrop, s.ReadOnly, s.Privileged, s.SecurityOpt)
		}
		if s.MemLimit == 0 || s.PidsLimit == 0 {
			t.Errorf("%s has no ceiling", s.Name)
		}
		if len(s.Ports) > 0 {
			t.Errorf("%s publishes %v", s.Name, s.Ports)
		}
		if s.HealthCheck == nil || !isCheck(t, s.HealthCheck.Test[1:]) {
			t.Errorf("%s has no health check that there is: %v", s.Name, s.HealthCheck)
		}
	}
	if got := slices.Sorted(slices.Values(launcher.CapAdd)); !slices.Equal(got, granted(t)) {
		t.Errorf("the launcher has %v, its unit %v", got, granted(t))
	}
	if len(front.CapAdd) > 0 || front.NetworkMode != "none" || front.User != "secmcpd" {
		t.Errorf("the front has %v, network %q, user %q", front.CapAdd, front.NetworkMode, front.User)
	}
	for _, option := range launcher.SecurityOpt {
		if file, is := strings.CutPrefix(option, "seccomp="); is {
			read(t, "deploy/container/"+file)
		}
	}
}

// isCheck says whether a probe's words are a mode of the script that the image has.
func isCheck(t *testing.T, words []string) bool {
	t.Helper()
	return len(words) == 2 && words[0] == "/usr/local/sbin/healthcheck" && strings.Contains(read(t, "deploy/container/Containerfile"), "deploy/container/healthcheck /usr/local/sbin/") &&
		regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(words[1])+`\)`).MatchString(read(t, "deploy/container/healthcheck"))
}

// manifest is every object of the file, each known to Kubernetes, none with a field that is not.
func manifest(t *testing.T) map[string]runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{core.AddToScheme, apps.AddToScheme, networking.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	strict := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	objects := map[string]runtime.Object{}
	for _, document := range strings.Split(read(t, "deploy/kubernetes/secmcpd.yaml"), "\n---\n") {
		object, kind, err := strict.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("%v\n%.200s", err, document)
		}
		objects[kind.Kind] = object
	}
	return objects
}

func TestTheManifestGivesTheRoomsWhatTheUnitsGive(t *testing.T) {
	objects := manifest(t)
	pod := objects["StatefulSet"].(*apps.StatefulSet).Spec.Template.Spec
	ids := map[string]int64{} // of the image; the front's user has its group's
	for _, m := range regexp.MustCompile(`groupadd --gid (\d+) (\S+)`).FindAllStringSubmatch(read(t, "deploy/container/Containerfile"), -1) {
		var id int64
		if _, err := fmt.Sscan(m[1], &id); err != nil {
			t.Fatal(err)
		}
		ids[m[2]] = id
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the pod has a token of the cluster")
	}
	if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
		t.Error("a service's variables would be taken for settings")
	}
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range objects["StatefulSet"].(*apps.StatefulSet).Spec.VolumeClaimTemplates {
		volumes[c.Name] = true
	}
	for _, c := range append(slices.Clone(pod.InitContainers), pod.Containers...) {
		s := c.SecurityContext
		if s.Privileged != nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			!slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) {
			t.Errorf("%s is not as small as it could be: %+v", c.Name, s)
		}
		var added []string
		for _, a := range s.Capabilities.Add {
			added = append(added, string(a))
		}
		slices.Sort(added)
		var want []string
		switch c.Name {
		case "launcher":
			want = granted(t)
		case "prepare":
			want = []string{"CHOWN", "FOWNER", "FSETID"}
		case "front":
			if *s.RunAsUser != ids["secmcpd"] {
				t.Errorf("the front is uid %d, in the image %v", *s.RunAsUser, ids)
			}
		case "agent":
			if *s.RunAsGroup != ids["secmcpd-agents"] || *s.RunAsUser == *pod.Containers[1].SecurityContext.RunAsUser {
				t.Errorf("the agent is %d:%d, in the image %v", *s.RunAsUser, *s.RunAsGroup, ids)
			}
		default:
			t.Errorf("what is %s?", c.Name)
		}
		if !slices.Equal(added, want) {
			t.Errorf("%s has %v, want %v", c.Name, added, want)
		}
		if c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s has no ceiling", c.Name)
		}
		for _, p := range []*core.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if p != nil && (p.Exec == nil || !isCheck(t, p.Exec.Command)) {
				t.Errorf("%s has a probe that is not there: %+v", c.Name, p)
			}
		}
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s mounts %s, which is no volume", c.Name, m.Name)
			}
		}
	}
	if objects["Service"] != nil {
		t.Error("the pod is served to others by default")
	}
	if policy := objects["NetworkPolicy"].(*networking.NetworkPolicy).Spec; len(policy.Ingress) > 0 || len(policy.PolicyTypes) != 2 {
		t.Errorf("others reach the pod: %+v", policy)
	}
	if enforced := objects["Namespace"].(*core.Namespace).Labels["pod-security.kubernetes.io/enforce"]; enforced != "privileged" {
		t.Errorf("pod security is %q, under which the launcher is not admitted", enforced)
	}
}

// The program itself judges the engagements; it is built already where this is run.
func TestTheManifestsEngagementsAreValid(t *testing.T) {
	dir := t.TempDir()
	for name, text := range manifest(t)["ConfigMap"].(*core.ConfigMap).Data {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	settings := filepath.Join(dir, "secmcpd.conf")
	if err := os.WriteFile(settings, []byte("front_user: \"65401\"\nengagements_dir: "+dir+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	binary, err := filepath.Abs(top + "bin/secmcpd")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(binary, "--config", settings, "check").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The launcher's profile is its unit's filter: nothing that the unit's does not have, and what boxes are made with.
func TestTheSeccompProfileIsTheUnitsFilter(t *testing.T) {
	var profile struct {
		DefaultAction   string
		DefaultErrnoRet int
		Syscalls        []struct {
			Names  []string
			Action string
		}
	}
	strict := json.NewDecoder(strings.NewReader(read(t, "deploy/container/seccomp.json")))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&profile); err != nil {
		t.Fatal(err)
	}
	if profile.DefaultAction != "SCMP_ACT_ERRNO" || profile.DefaultErrnoRet != 1 || len(profile.Syscalls) != 1 || profile.Syscalls[0].Action != "SCMP_ACT_ALLOW" {
		t.Fatalf("the profile is no list of what is allowed: %+v", profile)
	}
	sets := syscallSets(t)
	allowed := map[string]bool{}
	expand(sets, "@default", func(name string) { allowed[name] = true })
	for _, line := range directive(t, "secmcpd-launcher.service", "SystemCallFilter") {
		words, denies := strings.CutPrefix(line, "~")
		for _, word := range strings.Fields(words) {
			expand(sets, word, func(name string) { allowed[name] = !denies })
		}
	}
	for _, name := range profile.Syscalls[0].Names {
		if !allowed[name] {
			t.Errorf("%s is allowed, and not by the unit", name)
		}
	}
	for name, allows := range allowed {
		if allows && !slices.Contains(profile.Syscalls[0].Names, name) && systemd(t) == "252" { // whose sets the profile has
			t.Errorf("%s is allowed by the unit, and not here", name)
		}
	}
}

func systemd(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("systemctl", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[1]
}

// syscallSets are systemd's own, as it has them here.
func syscallSets(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("systemd-analyze", "--no-pager", "syscall-filter").Output()
	if err != nil {
		t.Fatal(err)
	}
	sets, set := map[string][]string{}, ""
	for line := range bytes.Lines(out) {
		word := string(bytes.TrimSpace(line))
		switch {
		case line[0] == '@':
			set = word
		case line[0] != ' ':
			set = ""
		case set != "" && word != "" && word[0] != '#':
			sets[set] = append(sets[set], word)
		}
	}
	return sets
}

func expand(sets map[string][]string, word string, each func(string)) {
	if word[0] != '@' {
		each(word)
		return
	}
	for _, inner := range sets[word] {
		expand(sets, inner, each)
	}
}

// `make packages` leaves a package of each architecture in dist/, of which an image takes its own.
func TestTheImageTakesThePackageOfItsArchitecture(t *testing.T) {
	m := regexp.MustCompile(`apt-get install [^\n]* /tmp/(secmcpd.*?\.deb) `).FindStringSubmatch(read(t, "deploy/container/Containerfile"))
	if m == nil {
		t.Fatal("the image installs no package")
	}
	dir := t.TempDir()
	for _, arch := range []string{"amd64", "arm64"} {
		if err := os.WriteFile(filepath.Join(dir, "secmcpd_0.1.0-1_"+arch+".deb"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		sh := exec.Command("sh", "-c", `dpkg() { echo "$ARCH"; }; echo `+m[1])
		sh.Dir, sh.Env = dir, append(os.Environ(), "ARCH="+arch)
		got, err := sh.Output()
		if want := "secmcpd_0.1.0-1_" + arch + ".deb\n"; err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", arch, got, err, want)
		}
	}
}
