//go:build bundle

package main

import (
	"archive/zip"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var dist = flag.String("dist", "../../dist", "where `make bundle` has put it")

// What is in the bundle is what its descriptions say, and the bridge in it bridges.
func TestTheBundle(t *testing.T) {
	checkManifest(t, read(t, *dist+"/mcpb/manifest.json"))
	about := read(t, *dist+"/server.json")
	checkRegistration(t, about)
	path := filepath.Join(*dist, "secmcpd-"+about.Version+".mcpb")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != about.Packages[0].FileSha256 {
		t.Error("the digest is another file's")
	}
	archive, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	in, err := archive.Open("server/secmcpd")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "secmcpd")
	out, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	out.Close()

	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		line, _ := bufio.NewReader(conn).ReadString('\n')
		_, _ = io.WriteString(conn, "answer to "+line)
		conn.Close()
	}()
	cmd := exec.Command(program, "--socket", socket)
	from, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(from, "a line\n"); err != nil {
		t.Fatal(err)
	}
	if said, err := cmd.Output(); err != nil || string(said) != "answer to a line\n" {
		t.Errorf("%q, %v", said, err)
	}
}
