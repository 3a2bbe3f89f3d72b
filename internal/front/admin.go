package front

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"time"
)

// Bounds of the operators' requests.
const (
	maxAdmin    = 64               // connections at once
	adminHeader = 16 << 10         // bytes of one request's head
	adminRead   = 10 * time.Second // until it is there
	adminWrite  = 60 * time.Second // of an answer
	adminIdle   = time.Minute
	adminClose  = 2 * time.Second // for answers under way, when the front ends
)

// serveAdmin answers operators on their socket, until ctx ends. Its mode says who they are: they
// see every user's jobs. What changes anything is asked of the launcher, not here.
func (f *front) serveAdmin(ctx context.Context) error {
	if f.cfg.Admin == nil {
		return nil
	}
	s := &http.Server{Handler: f.adminHandler(), MaxHeaderBytes: adminHeader, ReadHeaderTimeout: adminRead, ReadTimeout: adminRead,
		WriteTimeout: adminWrite, IdleTimeout: adminIdle, ErrorLog: log.New(discard{}, "", 0)} // it would quote what was sent
	s.SetKeepAlivesEnabled(false)
	d, stop := newDoor(ctx, f.cfg.Admin, maxAdmin)
	defer stop()
	f.addDoor(d)
	err := s.Serve(d)
	closeServer(s)
	if ctx.Err() == nil {
		return fmt.Errorf("cannot answer operators: %w", err)
	}
	return nil
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func (f *front) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", f.metrics.Handler())
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { answerJSON(w, http.StatusOK, f.status(r.Context())) })
	mux.HandleFunc("GET /v1/jobs", f.showJobs)
	mux.HandleFunc("GET /v1/jobs/{id}", f.showJob)
	mux.HandleFunc("GET /healthz", f.healthz)
	mux.HandleFunc("GET /readyz", f.readyz)
	mux.HandleFunc("GET /livez", f.livez)
	mux.HandleFunc("GET "+eventsPath, func(w http.ResponseWriter, r *http.Request) { f.events.stream(f.ctx, w, r, 0, true) })
	return mux
}

// answerJSON answers with v, which is one of our own types.
func answerJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
