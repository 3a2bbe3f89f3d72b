package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// editor is a client that speaks HTTP to Unix sockets: how it writes what it asks, and whether it
// keeps its connections.
type editor struct {
	version            string
	post, get, delete_ string
	keeps              bool
}

// The requests of VS Code (undici, from a unix:// URL) and of Goose (hyper, whose requests name the
// whole URL, each on a connection of its own), byte by byte.
var editors = map[string]editor{
	"VS Code": {version: "2025-11-25", keeps: true,
		post: "POST /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nAccept: text/event-stream, application/json\r\n{session}" +
			"accept-language: *\r\nsec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip, deflate\r\n\r\n{message}",
		get: "GET /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive\r\nAccept: text/event-stream\r\n{session}" +
			"accept-language: *\r\nsec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip, deflate\r\n\r\n",
		delete_: "DELETE /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive\r\n{session}accept: */*\r\n" +
			"accept-language: *\r\nsec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip, deflate\r\n\r\n"},
	"Goose": {version: "2025-06-18",
		post:    "POST http://localhost/mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: text/event-stream, application/json\r\n{session}content-length: {length}\r\n\r\n{message}",
		get:     "GET http://localhost/mcp HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream, application/json\r\n{session}\r\n",
		delete_: "DELETE http://localhost/mcp HTTP/1.1\r\nhost: localhost\r\n{session}\r\n"},
}

// editing is an editor at work.
type editing struct {
	editor
	t       *testing.T
	socket  string
	conn    net.Conn
	in      *bufio.Reader
	session string
}

func (e *editing) dial() (net.Conn, *bufio.Reader) {
	e.t.Helper()
	conn, err := net.Dial("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	return conn, bufio.NewReader(conn)
}

// header is the session's, once there is one.
func (e *editing) header() string {
	switch {
	case e.session == "":
		return ""
	case e.keeps:
		return "Mcp-Session-Id: " + e.session + "\r\n"
	}
	return "mcp-protocol-version: " + e.version + "\r\nmcp-session-id: " + e.session + "\r\n"
}

// ask sends one request, and reads the answer whole.
func (e *editing) ask(form, message string) (*http.Response, object) {
	e.t.Helper()
	if e.conn == nil || !e.keeps {
		e.conn, e.in = e.dial()
	}
	if _, err := io.WriteString(e.conn, e.write(form, message)); err != nil {
		e.t.Fatal(err)
	}
	r, err := http.ReadResponse(e.in, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	if !e.keeps {
		e.conn.Close()
	}
	var answer object
	if _, data, ok := strings.Cut(string(body), "data: "); ok {
		if err := json.Unmarshal([]byte(data), &answer); err != nil {
			e.t.Fatalf("%q: %v", body, err)
		}
	}
	return r, answer
}

func (e *editing) write(form, message string) string {
	return strings.NewReplacer("{session}", e.header(), "{length}", strconv.Itoa(len(message)), "{message}", message).Replace(form)
}

func (e *editing) begin() {
	e.t.Helper()
	r, answer := e.ask(e.post, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"`+e.version+`","capabilities":{},"clientInfo":{"name":"editor","version":"1"}}}`)
	e.session = r.Header.Get("Mcp-Session-Id")
	if r.StatusCode != http.StatusOK || e.session == "" || at(answer, "result", "protocolVersion") != e.version {
		e.t.Fatalf("%s: %s", r.Status, show(answer))
	}
	if r, _ := e.ask(e.post, `{"jsonrpc":"2.0","method":"notifications/initialized"}`); r.StatusCode != http.StatusAccepted {
		e.t.Fatal(r.Status)
	}
}

func TestEditorsSpeakHTTPToTheSocket(t *testing.T) {
	h := newHouse(t, lab.Options{})
	for name, how := range editors {
		t.Run(name, func(t *testing.T) {
			e := &editing{editor: how, t: t, socket: h.daemon.Socket()}
			e.begin()
			stream, in := e.dial()
			defer stream.Close()
			if _, err := io.WriteString(stream, e.write(e.get, "")); err != nil {
				t.Fatal(err)
			}
			s, err := http.ReadResponse(in, nil)
			if err != nil || s.StatusCode != http.StatusOK || s.Header.Get("Content-Type") != "text/event-stream" {
				t.Fatalf("the stream: %v, %v", s, err)
			}
			if _, answer := e.ask(e.post, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`); at(answer, "result", "tools", 0, "name") == nil {
				t.Errorf("%s", show(answer))
			}
			_, answer := e.ask(e.post, `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"nmap_scan","arguments":{"targets":["`+lab.SSH+`"],"ports":[22],"wait_s":45}}}`)
			found, _ := at(answer, "result", "structuredContent").(object)
			if ports(found) != "10.77.0.12/22/open/ssh" {
				t.Errorf("%s", show(answer))
			}
			if r, _ := e.ask(e.delete_, ""); r.StatusCode != http.StatusNoContent {
				t.Errorf("DELETE: %s", r.Status)
			}
			if _, err := io.ReadAll(s.Body); err != nil {
				t.Errorf("the stream goes on after DELETE: %v", err)
			}
			if r, _ := e.ask(e.post, `{"jsonrpc":"2.0","id":4,"method":"tools/list"}`); r.StatusCode != http.StatusNotFound {
				t.Errorf("after DELETE: %s", r.Status)
			}
		})
	}
}

// A session's id is worth nothing to another user: the kernel says who asks.
func TestAnHTTPSessionIsItsUsersAlone(t *testing.T) {
	h := newHouse(t, lab.Options{})
	e := &editing{editor: editors["Goose"], t: t, socket: h.daemon.Socket()}
	e.begin()
	for uid, want := range map[uint32]string{0: "HTTP/1.1 200 OK", 65402: "HTTP/1.1 404 Not Found"} {
		cmd := exec.Command(filepath.Join(h.daemon.Dir, "secmcpd"), "connect", "--socket", h.daemon.Socket())
		cmd.Dir, cmd.Env = "/", []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		cmd.Stdin = strings.NewReader(strings.Replace(e.write(e.post, `{"jsonrpc":"2.0","id":4,"method":"tools/list"}`), "\r\n", "\r\nconnection: close\r\n", 1))
		out, err := cmd.Output()
		if got, _, _ := strings.Cut(string(out), "\r\n"); err != nil || got != want {
			t.Errorf("uid %d: %q, %v", uid, got, err)
		}
	}
}

// Nor does an HTTP client take its scan with it when it goes away, in either era.
func TestAnHTTPClientThatVanishesFindsItsScanAgain(t *testing.T) {
	h := newHouse(t, lab.Options{})
	for _, stateless := range []bool{false, true} {
		t.Run(fmt.Sprintf("stateless: %v", stateless), func(t *testing.T) {
			e := &editing{editor: editors["VS Code"], t: t, socket: h.daemon.Socket()}
			text := `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"nmap_scan","arguments":{"targets":["` + lab.SSHAndWeb + `","10.77.1.0/29"],"ports":[22,80],"skip_discovery":true}`
			form := e.post
			if stateless {
				text += `,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
				form = strings.Replace(form, "\r\n", "\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: nmap_scan\r\n", 1)
			} else {
				e.begin()
			}
			conn, _ := e.dial()
			if _, err := io.WriteString(conn, e.write(form, text+"}}")); err != nil {
				t.Fatal(err)
			}
			var id any
			for deadline := time.Now().Add(20 * time.Second); id == nil; time.Sleep(100 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("its scan does not begin")
				}
				id = at(h.call("job_list", object{"state": "running"}), "jobs", 0, "job_id")
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			if answer := h.again(id); answer["status"] != "completed" || !strings.HasPrefix(ports(answer), "10.77.0.10/22/open/ssh 10.77.0.10/80/open/http") {
				t.Errorf("%s", show(answer))
			}
		})
	}
}
