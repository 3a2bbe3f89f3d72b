package main

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/secmcpd/secmcpd/internal/bridge"
)

// metadata is what both descriptions are read for.
type metadata struct {
	Name, Description, Version string
	Server                     struct {
		EntryPoint string `json:"entry_point"`
		MCPConfig  struct {
			Command string
			Args    []string
		} `json:"mcp_config"`
	}
	UserConfig map[string]struct{ Default string } `json:"user_config"`
	Packages   []struct {
		RegistryType, Identifier, FileSha256 string
		Transport                            struct{ Type string }
	}
	Meta map[string]json.RawMessage `json:"_meta"`
}

func read(t *testing.T, path string) (m metadata) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return m
}

var version = regexp.MustCompile(`^\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?$`)

func checkManifest(t *testing.T, m metadata) {
	t.Helper()
	c := m.Server.MCPConfig
	if c.Command != "${__dirname}/"+m.Server.EntryPoint || !slices.Equal(c.Args, []string{"--socket", "${user_config.socket}"}) {
		t.Errorf("it starts %s %q", c.Command, c.Args)
	}
	if m.UserConfig["socket"].Default != bridge.Socket {
		t.Errorf("the socket is %s", m.UserConfig["socket"].Default)
	}
	if !version.MatchString(m.Version) {
		t.Errorf("the version is %s", m.Version)
	}
}

// checkRegistration holds to what the registry's schema of 2025-12-11 and its publishing rules say.
func checkRegistration(t *testing.T, m metadata) {
	t.Helper()
	if !regexp.MustCompile(`^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$`).MatchString(m.Name) || len(m.Name) > 200 {
		t.Errorf("the name is %q", m.Name)
	}
	if n := len(m.Description); n == 0 || n > 100 {
		t.Errorf("the description has %d characters", n)
	}
	if !version.MatchString(m.Version) || len(m.Version) > 255 {
		t.Errorf("the version is %q", m.Version)
	}
	if len(m.Packages) != 1 {
		t.Fatalf("%d packages", len(m.Packages))
	}
	p := m.Packages[0]
	if want := "https://github.com/secmcpd/secmcpd/releases/download/v" + m.Version + "/secmcpd-" + m.Version + ".mcpb"; p.RegistryType != "mcpb" || p.Identifier != want || p.Transport.Type != "stdio" {
		t.Errorf("%+v", p)
	}
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(p.FileSha256) {
		t.Errorf("the digest is %q", p.FileSha256)
	}
	for name, value := range m.Meta {
		if name != "io.modelcontextprotocol.registry/publisher-provided" || len(value) > 4<<10 {
			t.Errorf("_meta has %s of %d bytes", name, len(value))
		}
	}
}

func TestDescriptions(t *testing.T) {
	checkManifest(t, read(t, "manifest.json"))
	checkRegistration(t, read(t, "server.json"))
}
