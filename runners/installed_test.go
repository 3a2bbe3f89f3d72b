package runners

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os/exec"
	"testing"
	"time"
)

// The installed nmap takes every option and every script of the table: a scan of one closed port of this machine's
// loopback ends well. The options that need raw sockets are left to the tests in network namespaces.
func TestInstalledNmapTakesTheCommands(t *testing.T) {
	everyScript, err := json.Marshal(scriptNames(anyScript))
	if err != nil {
		t.Fatal(err)
	}
	version := installedVersion(t)
	for _, row := range []struct{ why, arguments, address string }{
		{"quick", `{"targets":["127.0.0.1"],"ports":[1]}`, "127.0.0.1/32"},
		{"quick, searched first", `{"targets":["127.0.0.0/31"],"ports":[1],"host_timeout":5}`, "127.0.0.1/32"},
		{"top ports", `{"targets":["127.0.0.1"],"top_ports":10,"timing":"normal"}`, "127.0.0.1/32"},
		{"version", `{"targets":["127.0.0.1"],"ports":[1],"profile":"version","version_intensity":0,"limit":60}`, "127.0.0.1/32"},
		{"thorough", `{"targets":["127.0.0.1"],"ports":["1-2",4],"profile":"thorough"}`, "127.0.0.1/32"},
		{"every script", `{"targets":["127.0.0.1"],"ports":[1],"scripts":` + string(everyScript) + `}`, "127.0.0.1/32"},
		{"polite, IPv6", `{"targets":["::1"],"ports":[1],"timing":"polite"}`, "::1/128"},
	} {
		t.Run(row.why, func(t *testing.T) {
			command, err := mustRead(t, row.arguments).Command(version, []netip.Prefix{netip.MustParsePrefix(row.address)}, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			run := exec.CommandContext(ctx, command.Argv[0], command.Argv[1:]...)
			run.Env, run.Dir = []string{"PATH=/usr/bin:/bin"}, t.TempDir()
			var problems bytes.Buffer
			run.Stderr = &problems
			out, err := run.Output()
			if err != nil || !bytes.Contains(out, []byte(`exit="success"`)) {
				t.Errorf("%v: %s\n%s\n%s", err, command.Argv, out, problems.String())
			}
		})
	}
}

// The options of a scan that is kept to some ports are options of the installed nmap.
func TestInstalledNmapTakesAReach(t *testing.T) {
	for _, row := range []struct {
		why, arguments string
		reach          Reach
	}{
		{"ports", `{"targets":["127.0.0.1"],"ports":["1-3"],"skip_discovery":false}`, Reach{TCP: [][2]uint16{{1, 1}, {3, 3}}, ICMP: true}},
		{"top ports", `{"targets":["127.0.0.1"],"top_ports":10,"skip_discovery":false}`, Reach{TCP: [][2]uint16{{1, 21}, {24, 65535}}}},
	} {
		command, err := mustRead(t, row.arguments).Command(installedVersion(t), prefixes("127.0.0.1/32"), nil, &row.reach)
		if err != nil {
			t.Fatal(err)
		}
		run := exec.CommandContext(t.Context(), command.Argv[0], command.Argv[1:]...)
		run.Env, run.Dir = []string{"PATH=/usr/bin:/bin"}, t.TempDir()
		var problems bytes.Buffer
		run.Stderr = &problems
		if out, err := run.Output(); err != nil || !bytes.Contains(out, []byte(`exit="success"`)) || problems.Len() > 0 || bytes.Contains(out, []byte(`portid="22"`)) {
			t.Errorf("%s: %v: %s\n%s\n%s", row.why, err, command.Argv, out, problems.String())
		}
	}
}

func installedVersion(t *testing.T) Version {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nmap", "--version").Output()
	if err != nil {
		t.Fatalf("this test needs nmap: %v", err)
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	version, err := ParseVersion("nmap", line)
	if err != nil {
		t.Fatal(err)
	}
	return version
}
