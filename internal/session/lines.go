package session

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sys/unix"
)

// Methods that the connection itself has to know.
const (
	initialize  = "initialize"
	callTool    = "tools/call"
	getPrompt   = "prompts/get"
	complete    = "completion/complete"
	initialized = "notifications/initialized"
	cancelled   = "notifications/cancelled"
	progress    = "notifications/progress"
	ping        = "ping"
	listen      = "subscriptions/listen"
)

// maxBeside bounds what does not count as a call: pings, so that a client with all its calls under
// way can still ask whether anybody is there, and the one subscription.
const maxBeside = 16

// lines is a connection of newline-delimited JSON. It stands between a client that may be clumsy or
// hostile and the SDK, which would end the session for one bad line, takes any number of calls at
// once, and waits for ever on a client that does not read.
type lines struct {
	speaker *Speaker
	conn    io.ReadWriteCloser
	raw     syscall.RawConn // of what is written to; nil: it has no descriptor
	uid     uint32

	// Of the goroutine that reads alone.
	in      *bufio.Reader
	until   time.Time // the deadline of reading as it is set
	greeted bool      // an initialize has come, and its notification has not
	holds   bool      // the message that is being read is a large one; once it is a call, the call holds that

	closed chan struct{}
	once   sync.Once
	why    error // why it was closed, if not for the end of the client's input

	mu      sync.Mutex
	open    map[jsonrpc.ID]*call // not answered yet
	counted int                  // of them, those that count against the limits
	asked   []jsonrpc.ID         // what the server has asked of the client, the newest of it
	waiting []*call              // with progress that has not been written
	begun   [3]bool              // in which eras the SDK has answered well; see atOnce
	quiet   chan struct{}        // one token whenever the last answer is about to be written

	writing sync.Mutex // one message at a time
}

// call is one request of the client's that is under way.
type call struct {
	method    string
	token     jsonrpc.ID // of its progress; not valid: none is wanted
	begins    era        // what its answer shows to have begun; 0: nothing
	large     bool       // and counted as that
	cancelled bool
	progress  []byte // the newest that has not been written
}

func (c *call) counts() bool { return c.method != ping && c.method != listen }

// serveLines speaks newline JSON until the connection ends.
func (s *Speaker) serveLines(ctx context.Context, conn io.ReadWriteCloser, in *bufio.Reader, uid uint32) error {
	l := &lines{speaker: s, conn: conn, uid: uid, in: in, closed: make(chan struct{}), open: map[jsonrpc.ID]*call{}, quiet: make(chan struct{}, 1)}
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			l.raw = raw
		}
	}
	ss, err := s.server.Connect(ctx, l, nil)
	if err == nil {
		err = ss.Wait()
	}
	l.end(err)
	l.mu.Lock()
	for range l.counted { // what was cut off is not under way any more
		s.leave(uid)
	}
	for _, c := range l.open {
		if c.large {
			s.letGo(uid)
		}
	}
	l.mu.Unlock()
	return l.why
}

// Connect makes a connection its own transport.
func (l *lines) Connect(context.Context) (mcp.Connection, error) { return l, nil }

// SessionID is "": a session is its connection.
func (l *lines) SessionID() string { return "" }

// Close ends the connection.
func (l *lines) Close() error {
	l.end(nil)
	return nil
}

func (l *lines) end(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.closed)
		l.conn.Close() // it may be closed already, by whoever hung up
	})
}

// Read returns the next message that is one, and answers whatever is none. At the end of the
// client's input it waits until all is answered: `printf … | secmcpd connect` is a client that has
// nothing more to say and waits.
func (l *lines) Read(ctx context.Context) (jsonrpc.Message, error) {
	for {
		l.letGo()
		line, err := l.line()
		var f fault
		if errors.As(err, &f) {
			err = l.refuse(f)
		}
		if err != nil {
			return nil, l.over(err)
		}
		if line == nil {
			continue
		}
		m, err := l.take(line)
		if errors.As(err, &f) {
			err = l.refuse(f)
		}
		if err != nil {
			return nil, l.over(err)
		}
		if m == nil {
			continue
		}
		done, err := l.atOnce(ctx, m)
		if err != nil {
			return nil, l.over(err)
		}
		if !done {
			return m, nil
		}
	}
}

// over is the end of reading.
func (l *lines) over(err error) error {
	l.letGo()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		l.drain()
	}
	if !errors.Is(err, io.EOF) {
		l.end(err)
	}
	return err
}

// hold counts the message that is being read as a large one. Like all that is done once in a while it is
// no part of line, on whose stack an idle session waits.
//
//go:noinline
func (l *lines) hold() error {
	if l.holds {
		return nil
	}
	if full := l.speaker.hold(l.uid); full != nil {
		return fault{said: *full}
	}
	l.holds = true
	return nil
}

// letGo forgets a large message that has become no call.
func (l *lines) letGo() {
	if l.holds {
		l.holds = false
		l.speaker.letGo(l.uid)
	}
}

// fault is what is wrong with a line, and what it is answered.
type fault struct {
	id   jsonrpc.ID // not valid: whose it is cannot be told
	said jsonrpc.Error
}

func invalid(id jsonrpc.ID, format string, args ...any) fault {
	return fault{id, jsonrpc.Error{Code: jsonrpc.CodeInvalidRequest, Message: fmt.Sprintf(format, args...)}}
}

func (f fault) Error() string { return f.said.Message }

func (l *lines) refuse(f fault) error { return l.send(answer(f.id, nil, &f.said), nil) }

// line reads one line, without its end; nil: an empty one. The last one may lack its newline. Of a
// line that is too long, or large where there is no room for another, nothing is kept.
func (l *lines) line() (line []byte, err error) {
	limits := &l.speaker.limits
	if l.in.Buffered() == 0 {
		if err := l.await(limits.Idle); err != nil {
			return nil, err
		}
	}
	if ahead, _ := l.in.Peek(l.in.Buffered()); bytes.IndexByte(ahead, '\n') < 0 {
		if err := l.deadline(limits.Message); err != nil {
			return nil, err
		}
		l.until = time.Time{} // it is not the one for the next message
	}
	var full error
	for tooLong := false; ; {
		part, err := l.in.ReadSlice('\n')
		tooLong = tooLong || len(line)+len(bytes.TrimSuffix(part, newline)) > limits.Line
		if !tooLong && full == nil && len(line)+len(part) > maxAbout {
			full = l.hold()
		}
		switch {
		case tooLong, full != nil:
			line = nil
		default:
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, ended("a message took too long")
		case errors.Is(err, io.EOF) && (tooLong || full != nil || !json.Valid(line)):
			return nil, io.ErrUnexpectedEOF
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case tooLong:
			return nil, invalid(jsonrpc.ID{}, "a message has at most %d bytes; give less in one call", limits.Line)
		case full != nil:
			return nil, full
		default:
			return bytes.Trim(line, " \t\r\n"), nil
		}
	}
}

var newline = []byte("\n")

// await waits for the first byte of a message, as long as calls are under way or at most d.
func (l *lines) await(d time.Duration) error {
	for {
		// Moving the deadline costs as much as a small message does, so it is moved by steps.
		if time.Until(l.until) < d-d/8 {
			if err := l.deadline(d); err != nil {
				return err
			}
		}
		_, err := l.in.Peek(1)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if l.answered() {
			return ended("the client had nothing to say")
		}
	}
}

func (l *lines) deadline(d time.Duration) error {
	l.until = time.Now().Add(d)
	return setReadDeadline(l.conn, d)
}

// take reads a line. nil: it is for nobody.
func (l *lines) take(line []byte) (jsonrpc.Message, error) {
	if len(line) == 0 {
		return nil, nil
	}
	m, f := parse(line)
	if f == nil && m.isCall() {
		f = m.refusal()
	}
	if f != nil {
		if l.isOpen(f.id) {
			f.id = jsonrpc.ID{} // it would be taken for the answer to the other one
		}
		return nil, *f
	}
	if m.method == "" {
		return l.answerOf(m)
	}
	if !m.id.IsValid() {
		return l.notified(m.method, m.params)
	}
	if f := l.begin(m.id, &call{method: m.method, token: m.token, begins: m.begins(), large: l.holds}); f != nil {
		return nil, *f
	}
	l.holds = false // the call has it
	if m.method == initialize {
		l.greeted = true
	}
	return &jsonrpc.Request{ID: m.id, Method: m.method, Params: m.params}, nil
}

// answerOf is the client's answer to what the server has asked. Any other is for nobody.
func (l *lines) answerOf(m envelope) (jsonrpc.Message, error) {
	l.mu.Lock()
	at := slices.Index(l.asked, m.id)
	if at >= 0 {
		l.asked = slices.Delete(l.asked, at, at+1)
	}
	l.mu.Unlock()
	if at < 0 {
		return nil, nil
	}
	r := &jsonrpc.Response{ID: m.id, Result: m.result}
	if m.rawError != nil {
		said := &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "the client's error cannot be read"}
		if m.rawError[0] == '{' {
			members(m.rawError, func(name string, value json.RawMessage) {
				switch name { // what does not fit is left out
				case "code":
					_ = json.Unmarshal(value, &said.Code)
				case "message":
					_ = json.Unmarshal(value, &said.Message)
				}
			})
		}
		r.Result, r.Error = nil, said
	}
	return r, nil
}

// notified passes on the notifications that change something. The SDK keeps those that it has not
// handled in a list without end.
func (l *lines) notified(method string, params json.RawMessage) (jsonrpc.Message, error) {
	switch method {
	case initialized:
		if l.greeted {
			l.greeted = false
			return &jsonrpc.Request{Method: method, Params: params}, nil
		}
	case cancelled:
		var raw json.RawMessage
		if params != nil {
			members(params, func(name string, value json.RawMessage) {
				if name == "requestId" {
					raw = value
				}
			})
		}
		if raw != nil && l.cancel(identifier(raw)) {
			return &jsonrpc.Request{Method: method, Params: json.RawMessage(`{"requestId":` + string(raw) + `}`)}, nil
		}
	}
	return nil, nil
}

// cancel makes sure that nothing more is sent for a call; false: there is none, or it is cancelled
// already.
func (l *lines) cancel(id jsonrpc.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.open[id]
	if c == nil || c.cancelled {
		return false
	}
	c.cancelled = true
	l.forget(c)
	return true
}

func (l *lines) isOpen(id jsonrpc.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[id] != nil
}

// begin counts a call, or says why it cannot be taken.
func (l *lines) begin(id jsonrpc.ID, c *call) *fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[id] != nil {
		f := invalid(jsonrpc.ID{}, usedID)
		return &f
	}
	limits := &l.speaker.limits
	var refused *jsonrpc.Error
	switch {
	case c.method == listen && l.listens():
		refused = &jsonrpc.Error{Code: jsonrpc.CodeInvalidRequest, Message: "one " + listen + " of a connection is under way; cancel it first"}
	case !c.counts() && len(l.open)-l.counted >= maxBeside:
		refused = busy("%d pings are under way; wait for one", maxBeside)
	case !c.counts():
	case l.counted >= limits.InFlight:
		refused = busy("%d calls are under way; wait for one", limits.InFlight)
	default:
		refused = l.speaker.enter(l.uid)
	}
	if refused != nil {
		return &fault{id, *refused}
	}
	if c.counts() {
		l.counted++
	}
	l.open[id] = c
	return nil
}

func (l *lines) hasBegun(of era) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begun[of]
}

func (l *lines) listens() bool {
	for _, c := range l.open {
		if c.method == listen {
			return true
		}
	}
	return false
}

// answered says whether no call is under way. A subscription ends with its connection.
func (l *lines) answered() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		if c.method != listen {
			return false
		}
	}
	return true
}

// drain waits until every call is answered, or nobody is there to read the answers.
func (l *lines) drain() {
	timeout := time.NewTimer(l.speaker.limits.Drain)
	defer timeout.Stop()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for !l.answered() {
		select {
		case <-l.quiet:
		case <-look.C:
			if l.poll(0)&(unix.POLLHUP|unix.POLLERR) != 0 {
				return
			}
		case <-l.closed:
			return
		case <-timeout.C:
			return
		}
	}
	l.writing.Lock()   // the last one may be on its way
	l.writing.Unlock() //lint:ignore SA2001 that is all that is waited for
}

// poll asks the kernel about what is written to, without waiting. Where there is no descriptor it
// says what is hoped for.
func (l *lines) poll(events int16) int16 {
	if l.raw == nil {
		return events
	}
	fds := []unix.PollFd{{Events: events}}
	if err := l.raw.Control(func(fd uintptr) {
		fds[0].Fd = int32(fd)
		_, _ = unix.Poll(fds, 0)
	}); err != nil {
		return unix.POLLHUP
	}
	return fds[0].Revents
}

// Write sends a message of the SDK's, in one piece, or not at all if it is about a call that was
// cancelled. Progress never waits for the client: what it has not taken is replaced by the next.
func (l *lines) Write(ctx context.Context, m jsonrpc.Message) error {
	switch m := m.(type) {
	case *jsonrpc.Response:
		return l.send(answer(m.ID, m.Result, m.Error), func() bool { return l.finish(m.ID, m.Error == nil) })
	case *jsonrpc.Request:
		b, err := jsonrpc.EncodeMessage(m)
		if err != nil {
			return err
		}
		b = append(b, '\n')
		switch {
		case m.IsCall():
			l.ask(m.ID)
		case ctx.Err() != nil:
			return nil // it is about a call that was cancelled
		case m.Method == progress:
			l.tell(m.Params, b)
			return l.flush()
		}
		return l.send(b, nil)
	}
	return fmt.Errorf("a message of type %T", m)
}

// finish ends a call, whose answer goes out now unless it was cancelled. It is asked when it is the
// answer's turn: from then on the client may use the id again.
func (l *lines) finish(id jsonrpc.ID, well bool) (wanted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.open[id]
	if c == nil {
		return false
	}
	delete(l.open, id)
	l.forget(c)
	l.begun[c.begins] = l.begun[c.begins] || well
	if c.large {
		l.speaker.letGo(l.uid)
	}
	if c.counts() {
		l.counted--
		l.speaker.leave(l.uid)
	}
	if len(l.open) == 0 {
		select {
		case l.quiet <- struct{}{}:
		default:
		}
	}
	return !c.cancelled
}

// maxAsked bounds how many of the server's own questions are remembered, of which a client need not
// answer any.
const maxAsked = 64

func (l *lines) ask(id jsonrpc.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, id)
	l.asked = l.asked[max(0, len(l.asked)-maxAsked):]
}

// tell keeps the newest progress of a call until it can be written.
func (l *lines) tell(params json.RawMessage, b []byte) {
	var token jsonrpc.ID
	members(params, func(name string, value json.RawMessage) {
		if name == "progressToken" {
			token = identifier(value)
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		if token.IsValid() && c.token == token && !c.cancelled {
			if c.progress == nil {
				l.waiting = append(l.waiting, c)
			}
			c.progress = b
			return
		}
	}
}

// forget drops the progress of a call that has not been written.
func (l *lines) forget(c *call) {
	if c.progress != nil {
		c.progress = nil
		l.waiting = slices.DeleteFunc(l.waiting, func(other *call) bool { return other == c })
	}
}

// send writes a message when its turn has come, if it is still wanted then.
func (l *lines) send(b []byte, wanted func() bool) error {
	l.writing.Lock()
	var err error
	if wanted == nil || wanted() {
		err = l.put(b)
	}
	l.writing.Unlock()
	return errors.Join(err, l.flush())
}

// flush writes what progress there is, if nobody else is writing (who will do it then), and the
// kernel has room.
func (l *lines) flush() error {
	for l.hasProgress() && l.writing.TryLock() {
		var b []byte
		if l.poll(unix.POLLOUT)&unix.POLLOUT != 0 {
			b = l.nextProgress()
		}
		var err error
		if b != nil {
			err = l.put(b)
		}
		l.writing.Unlock()
		if b == nil || err != nil {
			return err
		}
	}
	return nil
}

func (l *lines) hasProgress() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) > 0
}

func (l *lines) nextProgress() (b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) > 0 {
		b, l.waiting[0].progress = l.waiting[0].progress, nil
		l.waiting = slices.Delete(l.waiting, 0, 1)
	}
	return b
}

// put writes a message whole. After a part of one nothing sensible can follow, so that a client that
// has not taken it in time is cut off.
func (l *lines) put(b []byte) error {
	if c, ok := l.conn.(interface{ SetWriteDeadline(time.Time) error }); ok {
		if err := c.SetWriteDeadline(time.Now().Add(l.speaker.limits.Write)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
			l.end(err)
			return err
		}
	}
	_, err := l.conn.Write(b)
	if err != nil {
		l.end(err)
	}
	return err
}

// answer is a line. An id that is not valid is told as null.
func answer(id jsonrpc.ID, result json.RawMessage, err error) []byte {
	b := make([]byte, 0, 64+len(result))
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	switch v := id.Raw().(type) {
	case int64:
		b = strconv.AppendInt(b, v, 10)
	default:
		b = append(b, plain(v)...)
	}
	if err != nil {
		b = append(b, `,"error":`...)
		b = append(b, plain(told(err))...)
	} else {
		b = append(b, `,"result":`...)
		b = append(b, result...)
	}
	return append(b, "}\n"...)
}

// plain is JSON as the SDK writes it: without escapes for HTML.
func plain(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil { // of a string or an error: never
		return []byte("null")
	}
	return bytes.TrimSuffix(b.Bytes(), newline)
}

// What is said where the SDK would be about its own types.
const (
	unfit  = "the parameters do not fit the method"
	early  = "begin with " + initialize + ", or say in the _meta of each request which version it speaks"
	usedID = "the id of a call that is under way cannot be used again"
)

// maxTold bounds the text of an error, in bytes: the SDK repeats in it what the client sent.
const maxTold = 512

// maxData bounds what comes with it: more than that only repeats the client.
const maxData = 64 << 10

// told is an error as the client may read it. What the SDK writes about parameters that it cannot
// decode is about its own types, and repeats all of them.
func told(err error) *jsonrpc.Error {
	said := inWords(err)
	if len(said.Data) > maxData || !sayable(&said) {
		said.Data = nil
	}
	if len(said.Message) > maxTold {
		said.Message = strings.ToValidUTF8(said.Message[:maxTold], "") + "…"
	}
	return &said
}

func inWords(err error) jsonrpc.Error {
	if direct, is := err.(*jsonrpc.Error); is {
		return *direct
	}
	var inner *jsonrpc.Error
	switch text := err.Error(); {
	case errors.As(err, &inner) && inner.Code != jsonrpc.CodeInvalidParams:
		return jsonrpc.Error{Code: inner.Code, Message: text, Data: inner.Data}
	case inner != nil, strings.HasPrefix(text, "handling '"):
		return jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: unfit}
	case strings.HasSuffix(text, "is invalid during session initialization"):
		return jsonrpc.Error{Code: jsonrpc.CodeInvalidRequest, Message: early}
	}
	return *errInternal
}
