package session

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// TestMain lets the test be the server of a client that measures its memory.
func TestMain(m *testing.M) {
	if os.Getenv("SESSION_TEST") == "serve" {
		conn, err := net.FileConn(os.NewFile(3, "client"))
		if err == nil {
			err = newPlace(Limits{}).Serve(context.Background(), conn, 1000)
		}
		status, _ := os.ReadFile("/proc/self/status")
		fmt.Println(err, string(status))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// FuzzRead plays a client that follows a script of the fuzzer's: good calls, slow ones, cancels, used
// ids and whatever bytes it likes. Each call with an id of its own is answered once, or not at all
// if it was cancelled, and the connection lives to the end.
func FuzzRead(f *testing.F) {
	f.Add([]byte("e1\nw2\nc2\ne2\nx{}\nw3\nw3\np4\nf5\nl6\nk7\n"))
	f.Add([]byte("w1\nw2\nw3\nw4\nw5\nw6\nc1\nc2\nc1\nr\ne1\n"))
	f.Add([]byte("x[[[\nx{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"id\":2}\nx\xff\nx{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{}}\n"))
	f.Add([]byte("x" + strings.Repeat("a", 5000) + "\ne1\nq1\nq2\nx{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n"))
	f.Fuzz(func(t *testing.T, script []byte) {
		limits := Limits{Line: 4096, InFlight: 4, Write: time.Minute, Message: time.Minute}
		follow(t, script, newPlace(limits))
		follow(t, script, prepared(limits))
	})
}

func follow(t *testing.T, script []byte, p *place) {
	ours, theirs := net.Pipe()
	c := p.serve(t, ours, theirs, 1000)
	nonce := rand.Text() // so that no line of the fuzzer's own has an id of ours
	heard := make(chan message, 1)
	go func() {
		defer close(heard)
		in := bufio.NewScanner(ours)
		for in.Buffer(nil, 1<<20); in.Scan(); {
			var m message
			if err := json.Unmarshal(in.Bytes(), &m); err != nil {
				t.Errorf("the server says %q", in.Text())
			}
			heard <- m
		}
	}()
	c.say(hello)
	if a := <-heard; a.ID != "hello" || a.Error != nil {
		t.Fatalf("%+v", a)
	}
	answers, sent, slow, gone := map[string]int{}, map[string]int{}, map[string]bool{}, map[string]bool{}
	read, done := make(chan struct{}), make(chan struct{})
	barrier, fence := nonce+"barrier", nonce+"fence"
	go func() {
		defer close(done)
		for m := range heard {
			if id, ok := m.ID.(string); ok && strings.HasPrefix(id, nonce) {
				switch answers[id]++; id {
				case barrier:
					close(read)
				case fence:
					return
				}
			}
		}
	}()
	released := false // the calls of "wait" end by themselves
	for line := range bytes.Lines(script) {
		line = bytes.TrimSuffix(line, newline)
		if len(line) == 0 {
			continue
		}
		id := nonce + string(bytes.ToValidUTF8(line[1:min(len(line), 3)], nil))
		if strings.ContainsRune(id, '\uFFFD') {
			continue
		}
		tool := map[byte]string{'e': "echo", 'w': "wait", 'f': "fail", 'k': "panic", 'l': "large", 'p': "unheard-of"}[line[0]]
		switch {
		case tool != "" && sent[id] == 0 && !gone[id]:
			sent[id]++
			slow[id] = tool == "wait" && !released
			c.say("%s", calling(id, tool))
		case tool != "" && slow[id] && !gone[id] && !released: // it is under way, or was refused for lack of room
			sent[id]++
			c.say("%s", calling(id, tool))
		case line[0] == 'c':
			gone[id] = true
			c.say("%s", cancelling(id))
		case line[0] == 'r' && !released:
			released = true
			close(p.release)
		case line[0] == 'x':
			c.say("%s", line[1:])
		}
	}
	if !released {
		close(p.release)
	}
	// All has been read when this is answered, and nothing is left when no call is counted any more.
	c.say(`{"jsonrpc":"2.0","id":%s,"method":"ping"}`, plain(barrier))
	select {
	case <-read:
	case <-time.After(10 * time.Second):
		t.Fatal("the session does not live")
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Microsecond) {
		p.mu.Lock()
		left := p.calls
		p.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("calls are never answered")
		}
	}
	c.say(`{"jsonrpc":"2.0","id":%s,"method":"ping"}`, plain(fence))
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the session does not live")
	}
	for id, most := range sent {
		if n := answers[id]; n > most || n == 0 && !gone[id] {
			t.Errorf("%q was answered %d times (cancelled: %v)", id, n, gone[id])
		}
	}
	ours.Close()
	for range heard {
	}
	if err := c.ended(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	p.nothingUnderWay(t)
}

// settled waits until there are no more goroutines than before.
func settled(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
			return
		}
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

func TestAHundredThousandMalformedMessages(t *testing.T) {
	bad := []string{"x", "{", "[]", "null", `{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, `{"jsonrpc":"2.0","id":{},"method":"ping"}`, "{\"a\":\"\xff\"}",
		`{"jsonrpc":"1.0","id":1,"method":"ping"}`, `{"jsonrpc":"2.0","id":1,"id":1,"method":"ping"}`, `{"jsonrpc":"2.0","id":1}`}
	const n = 100000
	c := newPlace(Limits{}).greeted(t, 1000)
	before := heap()
	go func() {
		out := bufio.NewWriter(c.conn)
		for i := range n {
			fmt.Fprintln(out, bad[i%len(bad)])
		}
		fmt.Fprintln(out, `{"jsonrpc":"2.0","id":"fence","method":"ping"}`)
		out.Flush()
	}()
	for i := range n {
		if line := c.hearLine(); !strings.Contains(line, `"code":-32600`) && !strings.Contains(line, `"code":-32700`) {
			t.Fatalf("%d is answered %s", i, line)
		}
	}
	if a := c.hear(); a.ID != "fence" {
		t.Errorf("%s", a.line)
	}
	if after := heap(); after > before+1<<20 {
		t.Errorf("%d bytes are kept", after-before)
	}
}

// What the server has no use for is not kept until it has the time to drop it.
func TestAFloodOfNotificationsAndAnswersLeavesNothing(t *testing.T) {
	c := newPlace(Limits{}).greeted(t, 1000)
	before := heap()
	out := bufio.NewWriter(c.conn)
	for i := range 100000 {
		fmt.Fprintf(out, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%d,"progress":1}}`+"\n", i)
		fmt.Fprintf(out, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`+"\n", i)
		fmt.Fprintf(out, `{"jsonrpc":"2.0","method":"notifications/x%d"}`+"\n"+`{"jsonrpc":"2.0","id":%d,"result":{}}`+"\n", i, i)
	}
	fmt.Fprintln(out, `{"jsonrpc":"2.0","id":"fence","method":"ping"}`)
	out.Flush()
	if a := c.hear(); a.ID != "fence" {
		t.Errorf("%s", a.line)
	}
	if after := heap(); after > before+1<<20 {
		t.Errorf("%d bytes are kept", after-before)
	}
}

// stalled is a client that asks for twice what the kernel takes for one that reads nothing.
func (p *place) stalled(t *testing.T, uid uint32) *client {
	t.Helper()
	ours, theirs := pair(t)
	c := p.serve(t, ours, theirs, uid)
	io.WriteString(ours, hello)
	for n := range 8 {
		io.WriteString(ours, calling(n, "large"))
	}
	return c
}

// Of two hundred clients half do not read, and are let be: the others do not wait for them.
func TestAHundredStalledClientsDoNotDisturbAHundredOthers(t *testing.T) {
	before := runtime.NumGoroutine()
	p := newPlace(Limits{InFlight: 8, InFlightAll: 1 << 20, Write: time.Hour})
	began := time.Now()
	var good sync.WaitGroup
	var stalled []*client
	for i := range uint32(100) {
		stalled = append(stalled, p.stalled(t, 1000+i))
		ours, theirs := pair(t)
		c := p.serve(t, ours, theirs, 2000+i)
		good.Go(func() {
			defer c.conn.Close()
			fmt.Fprint(c.conn, hello)
			c.hearLine()
			for n := range 10 {
				io.WriteString(c.conn, calling(n, "echo"))
				if line := c.hearLine(); !strings.Contains(line, fmt.Sprintf(`"id":%d,"result"`, n)) {
					t.Errorf("%s", line)
				}
			}
		})
	}
	good.Wait()
	t.Logf("the others were done after %v", time.Since(began))
	for _, c := range stalled {
		select {
		case err := <-c.end:
			t.Errorf("a stalled one has ended with %v", err)
		default:
		}
		c.conn.Close()
		c.ended()
	}
	settled(t, before)
	p.nothingUnderWay(t)
}

func TestAHundredStalledClientsAreCutOff(t *testing.T) {
	before := runtime.NumGoroutine()
	p := newPlace(Limits{InFlight: 8, InFlightAll: 1 << 20})
	began := time.Now()
	var all []*client
	for i := range uint32(100) {
		all = append(all, p.stalled(t, 1000+i))
	}
	for _, c := range all {
		if err := c.ended(); err == nil || err.Error() != "the client stopped reading" {
			t.Errorf("a stalled one ended with %v", err)
		}
		c.conn.Close()
	}
	took := time.Since(began)
	if t.Logf("the stalled were cut off after %v", took); took < 4*time.Second || took > 20*time.Second {
		t.Errorf("the stalled were cut off after %v", took)
	}
	settled(t, before)
	p.nothingUnderWay(t)
}

func TestALineOfFifteenMegabytesIsSkipped(t *testing.T) {
	c := newPlace(Limits{}).greeted(t, 1000)
	long := bytes.Repeat([]byte("x"), 15<<20)
	for _, wrap := range []string{"%s", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":"%s"}}}`} {
		line := fmt.Appendf(nil, wrap+"\n", long)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		go c.conn.Write(line)
		if a := c.hear(); a.ID != nil || a.code() != -32600 {
			t.Errorf("%s", a.line)
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
			t.Errorf("%d bytes for a line of which at most one MiB is looked at", took)
		}
	}
	// The bound itself is exact.
	frame := len(calling(1, "echo")) - len("\n")
	for pad, want := range map[int]int64{1<<20 - frame: 0, 1<<20 - frame + 1: -32600} {
		c.say("%s", strings.Replace(calling(1, "echo"), `"arguments":{`, `"arguments":{`+strings.Repeat(" ", pad), 1))
		if a := c.hear(); a.code() != want {
			t.Errorf("%d more: %.200s", pad, a.line)
		}
	}
}

func TestTwentyThousandCallsOnOneConnection(t *testing.T) {
	const n = 20000
	p := newPlace(Limits{})
	t.Run("one after the other", func(t *testing.T) {
		c := p.greeted(t, 1000)
		window := make(chan bool, 64) // exactly what is allowed: none is refused
		go func() {
			for i := range n {
				window <- true
				io.WriteString(c.conn, calling(i, "echo"))
			}
		}()
		seen := make([]bool, n)
		for range n {
			a := c.hear()
			<-window
			if id, ok := a.ID.(float64); !ok || a.Error != nil || seen[int(id)] {
				t.Fatalf("%s", a.line)
			} else {
				seen[int(id)] = true
			}
		}
	})
	t.Run("at once", func(t *testing.T) {
		c := p.greeted(t, 1001)
		before := runtime.NumGoroutine()
		go func() {
			for i := range n {
				io.WriteString(c.conn, calling(i, "wait"))
			}
		}()
		for range n - 64 {
			if a := c.hear(); a.code() != -32000 {
				t.Fatalf("%s", a.line)
			}
		}
		if now := runtime.NumGoroutine(); now > before+2*64 {
			t.Errorf("%d goroutines, %d before", now, before)
		}
		close(p.release)
		for range 64 {
			if a := c.hear(); a.Error != nil {
				t.Errorf("%s", a.line)
			}
		}
	})
}

func TestAThousandIdleSessionsLeaveNothing(t *testing.T) {
	const n = 1000
	p := newPlace(Limits{})
	p.greeted(t, 1000).conn.Close() // what is made once is made
	runtime.GC()
	goroutines, files, bytes := runtime.NumGoroutine(), descriptors(t), heap()
	round := func() {
		var all []*client
		for range n {
			ours, theirs := pair(t)
			c := p.serve(t, ours, theirs, 1000)
			c.say(hello)
			c.hearLine()
			all = append(all, c)
		}
		each := (heap() - bytes) / n
		if t.Logf("%d bytes each, with the client's side", each); each > 24<<10 {
			t.Errorf("an idle session takes %d bytes", each)
		}
		for _, c := range all {
			c.conn.Close()
			if err := c.ended(); err != nil {
				t.Errorf("it ended with %v", err)
			}
		}
	}
	for again := range 2 {
		round()
		settled(t, goroutines)
		if now := descriptors(t); now != files {
			t.Errorf("%d descriptors, %d before", now, files)
		}
		now := heap()
		if again > 0 && now > bytes+1<<19 { // the first thousand leave pools for the next
			t.Errorf("%d bytes are kept", now-bytes)
		}
		bytes = now
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// A client that has stopped reading holds up no scan that tells it progress, and gets the newest
// when it reads again.
func TestAFloodOfProgressDoesNotWaitForItsReader(t *testing.T) {
	p := newPlace(Limits{})
	c := p.greeted(t, 1000)
	c.say("%s", calling(1, "flood"))
	select {
	case took := <-p.flooded:
		t.Logf("10000 messages in %v", took)
	case <-time.After(6 * time.Second):
		t.Fatal("the flood waits")
	}
	last, told := 0.0, 0
	for {
		m := c.hear()
		if m.Method != progress {
			if m.ID != 1.0 || m.Error != nil {
				t.Errorf("%.300s", m.line)
			}
			break
		}
		told++
		if m.Params.Progress <= last {
			t.Errorf("%v after %v", m.Params.Progress, last)
		}
		last = m.Params.Progress
	}
	if told == 0 || told > 1000 {
		t.Errorf("%d were sent", told)
	}
	c.say(`{"jsonrpc":"2.0","id":2,"method":"ping"}`)
	if a := c.hear(); a.ID != 2.0 {
		t.Errorf("%s", a.line)
	}
}

// Whoever reads gets all of it.
func TestProgressIsToldToWhoeverReads(t *testing.T) {
	p := newPlace(Limits{})
	c := p.greeted(t, 1000)
	c.say("%s", calling(1, "flood"))
	told := 0
	for c.hear().Method == progress {
		told++
	}
	t.Logf("%d of 10000", told)
	if told < 100 {
		t.Errorf("%d were told", told)
	}
}

func TestALineOfAMegabyteTakesLessThanEightyOfMemory(t *testing.T) {
	fill := func(before, item, after string) string {
		return before + strings.Repeat(item, (1<<20-len(before)-len(after)-1)/len(item)) + after
	}
	const open = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"fail",`
	for says, line := range map[string]string{
		"a string in _meta":      fill(open+`"_meta":{"x":"`, "x", `"}}}`),
		"numbers in _meta":       fill(open+`"_meta":{"x":[`, "0,", `0]}}}`),
		"objects in _meta":       fill(open+`"_meta":{"x":[`, "{},", `0]}}}`),
		"objects in arguments":   fill(open+`"arguments":{"x":[`, `{"a":0},`, `0]}}}`),
		"a string in arguments":  fill(open+`"arguments":{"x":"`, `\n`, `"}}}`),
		"unknown parameters":     fill(open, `"a":0,`, `"b":0}}`),
		"unknown names":          fill(`{"jsonrpc":"2.0","id":1,"method":"ping",`, `"a":0,`, `"b":0}`),
		"lists within lists":     open + `"_meta":{"x":` + strings.Repeat("[", 500000) + strings.Repeat("]", 500000) + "}}}",
		"different parameters":   open + distinct("0") + `"b":0}}`,
		"a prompt's arguments":   `{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"x","arguments":{` + distinct(`""`) + `"b":""}}}`,
		"a completion's context": `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"x"},"argument":{"name":"x","value":""},"context":{"arguments":{` + distinct(`""`) + `"b":""}}}}`,
		"answers to a question":  open + `"inputResponses":{` + distinct(`{"action":"x"}`) + `"b":{}}}}`,
		"a message of one word":  strings.Repeat("x", 1<<20),
		"capabilities and names": fill(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"experimental":{"x":[`, "{},", `0]}},"clientInfo":{"name":"t","version":"1"}}}`),
	} {
		t.Run(says, func(t *testing.T) {
			if len(line) > 1<<20 {
				t.Fatalf("the line has %d bytes", len(line))
			}
			ours, theirs := pair(t)
			f, err := theirs.(*net.UnixConn).File()
			if err != nil {
				t.Fatal(err)
			}
			theirs.Close()
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "SESSION_TEST=serve")
			cmd.ExtraFiles = []*os.File{f}
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			f.Close()
			c := &client{t: t, conn: ours, in: bufio.NewReader(ours)}
			if !strings.Contains(line, `"initialize"`) {
				c.say(hello)
				c.hearLine()
			}
			for range 5 { // one after the other
				c.say("%s", line)
				c.hearLine()
			}
			ours.Close()
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v: %s", err, said.String())
			}
			_, rest, _ := strings.Cut(said.String(), "VmHWM:")
			kib, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
			if err != nil {
				t.Fatalf("%v: %s", err, said.String())
			}
			t.Logf("%d MiB", kib>>10)
			if kib > 80<<10 {
				t.Errorf("%d MiB", kib>>10)
			}
		})
	}
}

func distinct(value string) string {
	var b strings.Builder
	for i := 0; b.Len() < 1<<20-300; i++ {
		fmt.Fprintf(&b, `"%x":%s,`, i, value)
	}
	return b.String()
}

// FuzzMembers compares how an object is taken apart with the standard library.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{}`, ` { "a" : 1 , "b":[{"c":"]}\\\""},-1.5e3] }`, `{"a":1,"\u0061":2}`, `{"":null,"x":{"y":{}},"z":true}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		text = bytes.Trim(text, " \t\r\n")
		var want map[string]json.RawMessage
		if len(text) == 0 || text[0] != '{' || json.Unmarshal(text, &want) != nil {
			return
		}
		got, n := map[string]json.RawMessage{}, 0
		once := members(text, func(name string, value json.RawMessage) {
			got[strings.ToValidUTF8(name, "\uFFFD")] = value
			n++
		})
		if utf8.Valid(text) && (len(got) != len(want) || once != (n == len(want))) {
			t.Fatalf("%d names of %d, each once: %v", len(got), len(want), once)
		}
		for name, value := range want {
			if utf8.Valid(text) && !bytes.Equal(got[name], value) {
				t.Errorf("%q is %q, not %q", name, got[name], value)
			}
		}
	})
}
