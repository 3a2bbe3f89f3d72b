package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/launcher"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// tokenBytes is the length of a token's secret, before it is written as text.
const tokenBytes = 32

// httpCommand makes what HTTP needs.
func httpCommand(s *surroundings) *cobra.Command {
	var uses []string
	c := &cobra.Command{Use: "http", Short: "MCP over HTTP, for those who cannot use the socket"}
	token := &cobra.Command{Use: "token", Short: "tokens, by which requests over HTTP are somebody's"}
	make_ := &cobra.Command{
		Use: "new USER", Short: "print a new token, once, and the line that lets it in", Args: cobra.ExactArgs(1),
		Long: `Print a new token for a user of this machine, and the line that lets it in.

The token is printed once and kept nowhere: the file has its hash. Whoever bears it is that user over
HTTP, for what it is for: mcp, to scan within the engagements and to hear of one's own jobs; metrics,
to read metrics and the details of health. A line that is taken out ends what came by it within two
seconds; its scans go on.`,
		RunE: func(c *cobra.Command, args []string) error {
			settings, err := loadSettings(s.config)
			if err != nil {
				return err
			}
			cfg, err := settings.launcher()
			if err != nil {
				return err
			}
			secret := make([]byte, tokenBytes)
			rand.Read(secret) // never fails (crypto/rand)
			text := "secmcpd_" + base64.RawURLEncoding.EncodeToString(secret)
			user := args[0]
			if _, err := strconv.ParseUint(user, 10, 32); err == nil {
				user = "'" + user + "'" // YAML would take it for a number
			}
			line := fmt.Sprintf("  - {user: %s, sha256: %x, for: [%s]", user, sha256.Sum256([]byte(text)), strings.Join(uses, ", "))
			if args[0] == "root" || args[0] == "0" {
				line += ", root: true"
			}
			line += "}"
			if err := launcher.CheckToken("tokens:\n"+line+"\n", cfg.Never); err != nil {
				return usage(c, err)
			}
			path := settings.HTTP.Tokens
			if _, err := os.Stat(path); err != nil {
				line = "tokens:\n" + line
			}
			_, err = fmt.Fprintf(s.stdout, "The token, which is shown this once:\n\n%s\n\nTo let it in, add to %s (root's, mode 0600):\n\n%s\n", text, path, line)
			return err
		},
	}
	make_.Flags().StringSliceVar(&uses, "for", []string{wire.ForMCP}, "what it is for: "+strings.Join(wire.TokenUses, ", "))
	token.AddCommand(make_)
	c.AddCommand(token)
	return c
}

// tokenFiles are where tokens are: the file, and what systemd gave this service as a credential.
func (s *settings) tokenFiles() []string {
	files := []string{s.HTTP.Tokens}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); filepath.IsAbs(dir) {
		files = append(files, filepath.Join(dir, "http-tokens"))
	}
	return files
}
