package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// taking declares that a client takes tasks.
const taking = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}`

// task asks for something of a task over HTTP, on a connection of its own.
func (e *editing) task(method, id string) object {
	e.t.Helper()
	form := strings.Replace(e.post, "\r\n", "\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: "+method+"\r\nMcp-Name: "+id+"\r\n", 1)
	_, answer := e.ask(form, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":{"taskId":%q,%s}}`, method, id, taking))
	return answer
}

// A scan that one connection has begun as a task is followed to its end, or ended, over another, in
// the other framing.
func TestAScanIsATask(t *testing.T) {
	h := newHouse(t, lab.Options{})
	e := &editing{editor: editors["VS Code"], t: t, socket: h.daemon.Socket()}
	for says, c := range map[string]struct {
		arguments string
		cancelled bool
	}{
		"to its end": {`{"targets":["` + lab.SSH + `"],"ports":[22]}`, false},
		"cancelled":  {`{"targets":["10.77.128.1"],"ports":["1-2000"],"skip_discovery":true,"rate":10}`, true},
	} {
		t.Run(says, func(t *testing.T) {
			conn, in := e.dial()
			if _, err := io.WriteString(conn, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nmap_scan","arguments":`+c.arguments+`,`+taking+`}}`+"\n"); err != nil {
				t.Fatal(err)
			}
			line, err := in.ReadString('\n')
			var begun object
			if err == nil {
				err = json.Unmarshal([]byte(line), &begun)
			}
			id, _ := at(begun, "result", "taskId").(string)
			if err != nil || at(begun, "result", "resultType") != "task" || id == "" {
				t.Fatalf("%v: %s", err, line)
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			if c.cancelled {
				if a := e.task("tasks/cancel", id); at(a, "result", "resultType") != "complete" {
					t.Errorf("%s", show(a))
				}
			}
			var a object
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
				if a = e.task("tasks/get", id); at(a, "result", "status") != "working" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("it does not end: %s", show(a))
				}
			}
			if c.cancelled {
				if at(a, "result", "status") != "cancelled" || h.call("job_result", object{"job_id": id})["status"] != "cancelled" {
					t.Errorf("%s", show(a))
				}
				return
			}
			found, _ := at(a, "result", "result", "structuredContent").(object)
			if at(a, "result", "status") != "completed" || ports(found) != "10.77.0.12/22/open/ssh" {
				t.Errorf("%s", show(a))
			}
		})
	}
}
