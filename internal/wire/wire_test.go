package wire

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const job = "abcdefghijklmnopqrstuvwxyz"

func samples() []Message {
	at := time.Date(2026, 11, 24, 12, 0, 0, 123000000, time.UTC)
	return []Message{
		{Hello: &Hello{Version: Version, Instance: "i", Budget: 10000, Gaps: []Gap{{Layer: "cgroup-memory", Why: "w", Follows: "f"}}}},
		{Client: &Client{Handle: 1<<63 + 5, UID: 1000, GID: 1000, Groups: []uint32{4, 7}, PID: 12}},
		{Gone: &Gone{Handle: 9}},
		{Synced: &Synced{}},
		{Start: &Start{Seq: 1, Handle: 2, Job: job, Value: []byte{0xa0}, Correlation: "order-66:a.b_C"}},
		{Preview: &Preview{Seq: 1, Handle: 2, Value: []byte{0xa0}}},
		{Ask: &Ask{Seq: 3}},
		{Cancel: &Cancel{Seq: 4, Handle: 5, Job: job}},
		{Ack: &Ack{Job: job}},
		{Met: &Met{Handle: 3}},
		{Leave: &Leave{Handle: 3}},
		{Reply: &Reply{Seq: 7, Refused: &Refusal{Code: "target_never", Allowed: []string{"10.0.0.0/8"}, Retryable: true}}},
		{Job: &Job{ID: job, State: Ended, Files: []string{"stdout"}, Started: at,
			Verdict: Verdict{Outcome: "allow", Addresses: []string{"10.0.0.0/24"}, AddressCount: 256, Until: at},
			Outcome: &Outcome{Reason: Exited, Ended: at, Usage: Usage{WallMS: 12}}}},
	}
}

func TestEveryKindOfMessageSurvivesTheRoundTrip(t *testing.T) {
	front, launcher := pair(t)
	for _, m := range samples() {
		if err := launcher.Send(m); err != nil {
			t.Fatal(err)
		}
		got, files, err := front.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 0 {
			t.Fatalf("%d files from nowhere", len(files))
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Errorf("sent and received differ:\n%s", diff)
		}
	}
}

func TestDescriptorsTravelFromTheLauncherToTheFront(t *testing.T) {
	front, launcher := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := launcher.Send(Message{Client: &Client{Handle: 1}}, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	_, files, err := front.Receive()
	if err != nil || len(files) != 1 {
		t.Fatalf("received %d files, %v", len(files), err)
	}
	if flags, _ := unix.FcntlInt(files[0].Fd(), unix.F_GETFD, 0); flags&unix.FD_CLOEXEC == 0 {
		t.Error("a received descriptor would be inherited by children")
	}
	if _, err := files[0].WriteString("x"); err != nil {
		t.Fatal(err)
	}
	files[0].Close()
	if b, _ := io.ReadAll(r); string(b) != "x" {
		t.Errorf("through the pipe came %q", b)
	}
}

func TestAFrontThatSendsADescriptorLosesItsConnection(t *testing.T) {
	a, b := sockets(t)
	launcher := NewLauncher(a)
	packet, err := Encode(&Message{Ack: &Ack{Job: job}}, MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	before := openDescriptors(t)
	if _, _, err := b.WriteMsgUnix(packet, unix.UnixRights(0), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := launcher.Receive(); err == nil || !strings.Contains(err.Error(), "descriptor") {
		t.Errorf("the launcher received it: %v", err)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors open, before the message %d", after, before)
	}
}

func TestAPacketThatIsNotExactlyOneMessageIsRefused(t *testing.T) {
	raw := func(v any) []byte {
		b, err := cbor.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, packet := range map[string][]byte{
		"no kind":                     raw(map[string]any{}),
		"two kinds":                   raw(map[string]any{"ack": map[string]any{"job": job}, "synced": map[string]any{}}),
		"an unknown kind":             raw(map[string]any{"exec": map[string]any{"path": "/bin/sh"}}),
		"an unknown field":            raw(map[string]any{"ack": map[string]any{"job": job, "x": 1}}),
		"a kind in other case":        raw(map[string]any{"ACK": map[string]any{"job": job}}),
		"a job id with a slash":       raw(map[string]any{"ack": map[string]any{"job": "../../../etc/passwd......."}}),
		"a job id that is too long":   raw(map[string]any{"ack": map[string]any{"job": job + "a"}}),
		"a start without a value":     raw(map[string]any{"start": map[string]any{"seq": 1, "handle": 1, "job": job, "value": []byte{}}}),
		"a value over its bound":      raw(map[string]any{"preview": map[string]any{"seq": 1, "handle": 1, "value": make([]byte, MaxValue+1)}}),
		"a negative handle":           raw(map[string]any{"gone": map[string]any{"handle": -1}}),
		"a tag":                       {0xc0, 0xa0},
		"an indefinite map":           {0xbf, 0xff},
		"a duplicate key":             {0xa2, 0x63, 'a', 'c', 'k', 0xf6, 0x63, 'a', 'c', 'k', 0xf6},
		"bytes after the message":     append(raw(map[string]any{"synced": map[string]any{}}), 0),
		"keys in another order":       {0xa1, 0x64, 'g', 'o', 'n', 'e', 0xa1, 0x66, 'h', 'a', 'n', 'd', 'l', 'e', 0x18, 0x01},
		"an array that claims 2^31":   {0x9a, 0x80, 0, 0, 0},
		"a packet larger than it may": make([]byte, MaxMessage+1),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := sockets(t)
			if _, err := b.Write(packet); err != nil {
				t.Fatal(err)
			}
			if m, _, err := NewLauncher(a).Receive(); err == nil || err == io.EOF {
				t.Errorf("received %+v, %v", m, err)
			}
		})
	}
}

func TestAPeerThatClosesIsEndOfFile(t *testing.T) {
	a, b := sockets(t)
	b.Close()
	if _, _, err := NewLauncher(a).Receive(); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

// A packet that decodes is the only packet that means what it says, and the sender's checks are
// the receiver's: what was accepted can be sent on unchanged.
func FuzzDecode(f *testing.F) {
	for _, m := range samples() {
		b, err := Encode(&m, MaxMessage)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Message
		if Decode(b, MaxMessage, &m) != nil || m.check() != nil {
			return
		}
		again, err := Encode(&m, MaxMessage)
		if err != nil {
			t.Fatalf("accepted, and cannot be sent: %v", err)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("two encodings of one message: %x and %x", b, again)
		}
	})
}

func pair(t *testing.T) (front, launcher *Conn) {
	t.Helper()
	a, b := sockets(t)
	return NewFront(a), NewLauncher(b)
}

func sockets(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return conn(t, fds[0]), conn(t, fds[1])
}

func conn(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A caller's own id goes into records, logs and the journal: it has no letter that means something
// there.
func TestACorrelationIsAPlainWord(t *testing.T) {
	for id, valid := range map[string]bool{
		"": true, "a": true, "A-1.b:c_d": true, strings.Repeat("x", MaxCorrelation): true,
		strings.Repeat("x", MaxCorrelation+1): false, "a b": false, "a\nb": false, "a=b": false, "é": false, "a\x00": false, "\"": false, "a/b": false, "%s": false,
	} {
		m := Message{Start: &Start{Job: strings.Repeat("a", JobIDLength), Value: []byte{0xa0}, Correlation: id}}
		if err := m.check(); (err == nil) != valid {
			t.Errorf("%.80q: %v", id, err)
		}
	}
}
