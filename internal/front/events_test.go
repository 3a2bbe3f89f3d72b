package front

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// heard is what a listener that comes with an id is told at once.
func heard(t *testing.T, e *events, uid uint32, everybody bool, last string) (status int, kinds []string) {
	t.Helper()
	ctx, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	r := httptest.NewRequest(http.MethodGet, eventsPath, nil).WithContext(ctx)
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	w := httptest.NewRecorder()
	e.stream(ctx, w, r, uid, everybody)
	for line := range strings.Lines(w.Body.String()) {
		if kind, is := strings.CutPrefix(strings.TrimSpace(line), "event: "); is {
			kinds = append(kinds, kind)
		}
	}
	return w.Code, kinds
}

func TestWhoComesBackHearsWhatWasMissed(t *testing.T) {
	e := newEvents(time.Now())
	begun := e.last
	for i, kind := range []string{jobQueued, jobRunning, jobEnded} {
		e.tell(kind, jobEvent{Job: "a", UID: 1000, State: "x"})
		e.tell(kind, jobEvent{Job: "b", UID: uint32(1001 + i), State: "x"})
	}
	for name, c := range map[string]struct {
		last      string
		everybody bool
		status    int
		want      string
	}{
		"from now on":                     {"", false, 200, ""},
		"after the first":                 {fmt.Sprint(begun + 1), false, 200, "job.running job.ended"},
		"after another's":                 {fmt.Sprint(begun + 2), false, 200, "job.running job.ended"},
		"after the last":                  {fmt.Sprint(begun + 6), false, 200, ""},
		"before the first":                {fmt.Sprint(begun), false, 200, "job.queued job.running job.ended"},
		"of an earlier life":              {fmt.Sprint(begun - 10), false, 200, "gap job.queued job.running job.ended"},
		"of a later life":                 {fmt.Sprint(begun + 1000), false, 200, "gap job.queued job.running job.ended"},
		"everybody's, after the first":    {fmt.Sprint(begun + 1), true, 200, "job.queued job.running job.running job.ended job.ended"},
		"what is no id":                   {"x", false, 400, ""},
		"a number that is none of events": {"-1", false, 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, kinds := heard(t, e, 1000, c.everybody, c.last)
			if status != c.status || strings.Join(kinds, " ") != c.want {
				t.Errorf("%d: %v", status, kinds)
			}
		})
	}
	for range 2 * eventsKept {
		e.tell(jobProgress, jobEvent{Job: "b", UID: 1001})
	}
	if len(e.kept) > eventsKept || cap(e.kept) > 2*eventsKept {
		t.Errorf("%d events are kept, in room for %d", len(e.kept), cap(e.kept))
	}
	if _, kinds := heard(t, e, 1000, false, fmt.Sprint(begun+1)); strings.Join(kinds, " ") != eventGap {
		t.Errorf("what is not kept any more: %v", kinds)
	}
	// Who has heard of a gap and comes back has not missed the same again.
	ctx, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	r := httptest.NewRequest(http.MethodGet, eventsPath, nil)
	r.Header.Set("Last-Event-ID", fmt.Sprint(begun+1))
	w := httptest.NewRecorder()
	e.stream(ctx, w, r, 1000, false)
	if want := fmt.Sprintf("id: %d\nevent: gap\n", e.last); !strings.Contains(w.Body.String(), want) {
		t.Errorf("no %q in %q", want, w.Body)
	}
	// A question for the headers alone is answered, and not held.
	w = httptest.NewRecorder()
	e.stream(t.Context(), w, httptest.NewRequest(http.MethodHead, eventsPath, nil), 1000, false)
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/event-stream" || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d, %v", w.Code, w.Header())
	}
	if e.listening() != 0 || len(e.ofUser) != 0 {
		t.Errorf("%d streams are counted still, %v", e.listening(), e.ofUser)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	e := newEvents(time.Now())
	for i := range maxStreamsOfUser {
		if _, ok := e.open(1000, false); !ok {
			t.Fatalf("stream %d is refused", i)
		}
	}
	if status, _ := heard(t, e, 1000, false, ""); status != http.StatusTooManyRequests {
		t.Errorf("one too many of a user: %d", status)
	}
	if status, _ := heard(t, e, 1001, false, ""); status != http.StatusOK {
		t.Errorf("another user: %d", status)
	}
	for e.listening() < maxStreams {
		e.open(0, true)
	}
	if status, _ := heard(t, e, 0, true, ""); status != http.StatusTooManyRequests {
		t.Errorf("one too many in all: %d", status)
	}
}

// The streams that there are end together; a later one does not end with them.
func TestStreamsEndWhenTheFrontRests(t *testing.T) {
	e := newEvents(time.Now())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.stream(t.Context(), httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, eventsPath, nil), 1000, false)
	}()
	for e.listening() == 0 {
		time.Sleep(time.Millisecond)
	}
	e.endStreams()
	<-ended
	if over, ok := e.open(1000, false); !ok {
		t.Error("refused")
	} else {
		select {
		case <-over:
			t.Error("a stream that has just begun ends")
		default:
		}
	}
}

func TestAListenerThatDoesNotReadIsCutOff(t *testing.T) {
	e := newEvents(time.Now())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@" + newJobID(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.stream(t.Context(), w, r, 1000, false) }), ReadTimeout: time.Second}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	listen := func() net.Conn {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", eventsPath)
		return conn
	}
	listen() // and never reads
	reads := listen()
	go func() { _, _ = io.Copy(io.Discard, reads) }()
	for e.listening() < 2 {
		time.Sleep(time.Millisecond)
	}
	begun := time.Now()
	for e.listening() > 1 {
		if time.Since(begun) > eventWrite+10*time.Second {
			t.Fatal("it is not cut off")
		}
		for range 100 {
			e.tell(jobProgress, jobEvent{Job: strings.Repeat("a", 26), UID: 1000})
		}
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(begun); took < eventWrite/2 {
		t.Errorf("cut off after %s", took)
	}
	if e.listening() != 1 {
		t.Error("who reads is cut off, too")
	}
}
