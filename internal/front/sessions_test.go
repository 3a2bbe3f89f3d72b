package front

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// A client that hangs up when it has its answers is nothing to write about; any other end is told
// in words of ours.
func TestHowASessionEndsIsHowItIsLogged(t *testing.T) {
	for says, c := range map[string]struct {
		end  func(h *house, conn net.Conn, handle uint64)
		want string // of the log; nothing: no line
	}{
		"it has nothing more to say": {func(_ *house, conn net.Conn, _ uint64) { _ = conn.(*net.UnixConn).CloseWrite() }, ""},
		"it hangs up":                {func(_ *house, conn net.Conn, _ uint64) { conn.Close() }, ""},
		"it hangs up within a message": {func(_ *house, conn net.Conn, _ uint64) {
			fmt.Fprint(conn, `{"jsonrpc":`)
			conn.Close()
		}, "the client hung up within a message"},
		"it has spoken something else": {func(_ *house, conn net.Conn, _ uint64) {
			fmt.Fprintln(conn, "EHLO there")
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "-32700") {
				t.Errorf("it was answered %q (%v)", line, err)
			}
			conn.Close()
		}, ""},
		"the launcher hangs up": {func(h *house, _ net.Conn, handle uint64) {
			h.tell(wire.Message{Gone: &wire.Gone{Handle: handle}})
		}, "ended here"},
	} {
		t.Run(says, func(t *testing.T) {
			h := newHouse(t)
			h.synced()
			conn, handle := h.client(1000)
			fmt.Fprint(conn, hello)
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAtLeast(conn, make([]byte, 1<<16), 10); err != nil {
				t.Fatal(err)
			}
			c.end(h, conn, handle)
			h.until(func(m wire.Message) bool { return m.Leave != nil && m.Leave.Handle == handle })
			log := h.log.String()
			if c.want == "" && log != "" || !strings.Contains(log, c.want) || strings.Contains(log, "EHLO") {
				t.Errorf("it is logged as %q", log)
			}
		})
	}
}
