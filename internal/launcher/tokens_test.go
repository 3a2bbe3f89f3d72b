package launcher

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
)

func entry(user, token, more string) string {
	return fmt.Sprintf("  - {user: '%s', sha256: %x%s}\n", user, sha256.Sum256([]byte(token)), more)
}

// let writes a file of tokens as an editor does.
func let(t *testing.T, path, entries string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+"~", []byte("tokens:\n"+entries), 0o600), os.Chmod(path+"~", 0o600), os.Rename(path+"~", path)); err != nil {
		t.Fatal(err)
	}
}

func TestWhoseATokenIs(t *testing.T) {
	cfg := Config{FrontUID: 65401, FirstSlotUID: 66000, Slots: 2}
	path := filepath.Join(t.TempDir(), "http-tokens")
	for name, c := range map[string]struct {
		text string
		want string // "": it is taken
	}{
		"a user by number":          {entry("65402", "a", ""), ""},
		"a user by name":            {entry("nobody", "a", ""), ""},
		"a scraper":                 {entry("65402", "a", ", for: [metrics]"), ""},
		"root, said so":             {entry("root", "a", ", root: true"), ""},
		"two of one user":           {entry("65402", "a", "") + entry("65402", "b", ""), ""},
		"nobody of that name":       {entry("no-such-user", "a", ""), "allowed: a user of this machine"},
		"nobody at all":             {entry("", "a", ""), "allowed: a user of this machine"},
		"root":                      {entry("root", "a", ""), "allowed: a user other than root"},
		"root by number":            {entry("0", "a", ""), "allowed: a user other than root"},
		"the front":                 {entry("65401", "a", ", root: true"), "the front: it is never a caller"},
		"a box":                     {entry("66001", "a", ""), "belongs to a box"},
		"a hash that is none":       {"  - {user: nobody, sha256: beef}\n", "64 hexadecimal digits"},
		"a token in place of it":    {"  - {user: nobody, sha256: secmcpd_GoKUY5x8m0tJQe32lON0zmKfrThr7R6FlBXi2MbcjMk}\n", "64 hexadecimal digits"},
		"a use that is none":        {entry("65402", "a", ", for: [everything]"), "allowed: mcp, metrics"},
		"one token of two users":    {entry("65402", "a", "") + entry("65403", "a", ""), "a token that is listed once"},
		"a field that is not known": {entry("65402", "a", ", admin: true"), "admin"},
		"too many": {func() (all string) {
			for i := range maxTokens + 1 {
				all += entry("65402", fmt.Sprint(i), "")
			}
			return all
		}(), "at most 256"},
	} {
		t.Run(name, func(t *testing.T) {
			let(t, path, c.text)
			tokens, err := Tokens([]string{path}, cfg.Never)
			if c.want == "" && (err != nil || len(tokens) != strings.Count(c.text, "sha256")) {
				t.Errorf("%d tokens, %v", len(tokens), err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || len(tokens) != 0) {
				t.Errorf("%d tokens, %v", len(tokens), err)
			}
		})
	}
	let(t, path, entry("65402", "a", ""))
	for name, spoil := range map[string]func() error{
		"others may read it": func() error { return os.Chmod(path, 0o604) },
		"a group may write":  func() error { return os.Chmod(path, 0o620) },
		"it is somebody's":   func() error { return errors.Join(os.Chmod(path, 0o600), os.Chown(path, 65402, 0)) },
		"it is a link": func() error {
			return errors.Join(os.Rename(path, path+".real"), os.Chown(path+".real", 0, 0), os.Symlink(path+".real", path))
		},
		"it is no file": func() error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) },
		"it is larger": func() error {
			return errors.Join(os.Remove(path), os.WriteFile(path, make([]byte, maxTokenFile+1), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			if tokens, err := Tokens([]string{path}, cfg.Never); err == nil || len(tokens) != 0 {
				t.Errorf("%d tokens, %v", len(tokens), err)
			}
			os.Remove(path)
			let(t, path, entry("65402", "a", ""))
		})
	}
	if tokens, err := Tokens([]string{path + ".none"}, cfg.Never); err != nil || len(tokens) != 0 {
		t.Errorf("without a file: %d, %v", len(tokens), err)
	}
}

// tokenHouse is a house with a file of tokens, whose front is there.
func tokenHouse(t *testing.T, entries string) (h *house, path string) {
	h = newHouse(t)
	path = filepath.Join(filepath.Dir(h.cfg.FrontSocket), "http-tokens")
	let(t, path, entries)
	h.cfg.TokenFiles = []string{path}
	h.ring()
	h.open()
	h.bell()
	h.link()
	return h, path
}

// ring gives the house a bell; bell rings it.
func (h *house) ring() {
	h.t.Helper()
	path := filepath.Join(filepath.Dir(h.cfg.FrontSocket), "bell.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	h.cfg.Bell, h.cfg.FrontUID = l, 0 // this test rings
}

func (h *house) bell() {
	h.t.Helper()
	c, err := net.Dial("unix", h.cfg.Bell.Addr().String())
	if err != nil {
		h.t.Fatal(err)
	}
	c.Close()
}

func (h *house) login(token string) wire.Reply {
	return h.reply(func(seq uint64) wire.Message { return wire.Message{Login: &wire.Login{Seq: seq, Token: token}} })
}

func (h *house) rest() error {
	h.t.Helper()
	h.seq++
	if err := h.conn.Send(wire.Message{Rest: &wire.Rest{Seq: h.seq}}); err != nil {
		h.t.Fatal(err)
	}
	for {
		switch e := h.next(); {
		case e.err != nil:
			return nil
		case e.m.Reply != nil && e.m.Reply.Seq == h.seq:
			return errors.New(e.m.Reply.Refused.Code)
		}
	}
}

func TestATokenIsACallerUntilItIsTakenBack(t *testing.T) {
	both := entry("65402", "somebody's", "") + entry("65403", "a scraper's", ", for: [metrics]")
	h, path := tokenHouse(t, both)
	first := h.login("somebody's")
	if first.LoggedIn == nil || first.LoggedIn.Client.UID != 65402 || first.LoggedIn.Client.GID != 65402 || !slices.Equal(first.LoggedIn.For, []string{wire.ForMCP}) {
		t.Fatalf("%+v", first)
	}
	handle := first.LoggedIn.Client.Handle
	if again := h.login("somebody's"); again.LoggedIn == nil || again.LoggedIn.Client.Handle != handle {
		t.Errorf("one token has two handles: %+v", again)
	}
	if h.ask(handle).Capabilities == nil {
		t.Error("it may not ask")
	}
	scraper := h.login("a scraper's")
	if scraper.LoggedIn == nil || h.ask(scraper.LoggedIn.Client.Handle).Refused == nil {
		t.Errorf("a scraper asks for scans: %+v", scraper)
	}
	if refused := h.start(scraper.LoggedIn.Client.Handle, jobB, value(t, `{"targets":["10.77.0.12"]}`)); refused == nil || refused.Code != "caller_gone" {
		t.Errorf("a scraper scans: %+v", refused)
	}

	// Another file is as good as the old one where it says the same; what it leaves out is dead.
	let(t, path, "# the same\n"+both)
	let(t, path, entry("65402", "somebody's", ""))
	gone := h.until(func(m wire.Message) bool { return m.Gone != nil }).m.Gone
	if gone.Handle != scraper.LoggedIn.Client.Handle {
		t.Errorf("gone: %d", gone.Handle)
	}
	let(t, path, entry("65404", "somebody's", ""))
	if gone := h.until(func(m wire.Message) bool { return m.Gone != nil }).m.Gone; gone.Handle != handle {
		t.Errorf("gone: %d", gone.Handle)
	}
	if h.ask(handle).Refused == nil {
		t.Error("a token that is another's now goes on as whose it was")
	}
	if now := h.login("somebody's"); now.LoggedIn == nil || now.LoggedIn.Client.UID != 65404 {
		t.Errorf("%+v", now)
	}
	let(t, path, "  - a fault\n")
	h.until(func(m wire.Message) bool { return m.Gone != nil })
	if now := h.login("somebody's"); now.Refused == nil {
		t.Errorf("a file with a fault has tokens: %+v", now)
	}
}

func TestWrongTokensAreCountedAndNotToldOneByOne(t *testing.T) {
	h, _ := tokenHouse(t, entry("65402", "somebody's", ""))
	codes := map[string]int{}
	for i := range 200 {
		r := h.login(fmt.Sprint("a guess ", i))
		if r.Refused == nil {
			t.Fatalf("%+v", r)
		}
		codes[r.Refused.Code]++
	}
	if codes[loginFailed] < failuresBurst || codes[tooManyFailed] < 100 {
		t.Errorf("%v", codes)
	}
	if r := h.login("somebody's"); r.LoggedIn == nil {
		t.Errorf("guesses lock out who has a token: %+v", r)
	}
	h.close()
	told, counted := 0, 0
	for _, r := range auditRecords(t, h) {
		if r.Event == observability.LoginFailed {
			told++
			counted += r.Records
		}
		if strings.Contains(fmt.Sprintf("%+v", r), "guess") {
			t.Errorf("a token is on the record: %+v", r)
		}
	}
	if told != 2 || counted != 200 {
		t.Errorf("%d records of %d failures", told, counted)
	}
}

// A front that is let go loses nothing: what comes after that comes over the next connection.
func TestTheLauncherLetsAFrontGoThatNobodyNeeds(t *testing.T) {
	h, _ := tokenHouse(t, entry("65402", "somebody's", ""))
	handle := h.login("somebody's").LoggedIn.Client.Handle
	if err := h.rest(); err == nil || err.Error() != "busy" {
		t.Fatalf("with a token: %v", err)
	}
	if err := h.conn.Send(wire.Message{Leave: &wire.Leave{Handle: handle}}); err != nil {
		t.Fatal(err)
	}
	if err := h.rest(); err != nil {
		t.Fatalf("with nothing: %v", err)
	}
	// Nobody dials as long as nobody comes.
	if err := h.front.SetDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if c, err := h.front.AcceptUnix(); err == nil {
		c.Close()
		t.Fatal("the launcher dials for nobody")
	}
	h.conn = nil
	h.bell()
	h.link()
	if r := h.login("somebody's"); r.LoggedIn == nil || r.LoggedIn.Client.Handle == handle {
		t.Errorf("%+v", r)
	}
}
