package update

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/net/netutil"

	"cloudlink.local/gateway/internal/localhttp"
)

const (
	maxAsks   = 16        // at the same time
	maxAsk    = 4 << 10   // bytes
	maxUpload = 300 << 20 // bytes of a bundle: no slot is larger
)

// listen answers on the socket until stop is called.
func (s *service) listen(ctx context.Context, fail context.CancelCauseFunc) (stop func(), err error) {
	l, err := localhttp.Listen(s.Socket)
	if err != nil {
		return nil, err
	}
	server := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fail(fmt.Errorf("serve %s: %w", s.Socket, server.Serve(netutil.LimitListener(l, maxAsks))))
	}()
	return func() { server.Close(); <-done }, nil
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { answer(w, http.StatusOK, s.status()) })
	for path, o := range map[string]order{
		"POST /check": {kind: Update, check: true}, "POST /install": {kind: Update},
		"POST /usb": {kind: Update, stick: true}, "POST /rollback": {kind: Rollback}, "POST /drill": {kind: Drill},
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			var q Request
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAsk)).Decode(&q); err != nil || q.By == "" {
				http.Error(w, "by: say who asks", http.StatusUnprocessableEntity)
				return
			}
			o := o
			o.by = q.By
			s.accept(w, o)
		})
	}
	mux.HandleFunc("POST /cancel", func(w http.ResponseWriter, r *http.Request) {
		if !s.cancelNow() {
			http.Error(w, "there is nothing that could be cancelled", http.StatusConflict)
			return
		}
		answer(w, http.StatusAccepted, s.status())
	})
	mux.HandleFunc("POST /upload", s.upload)
	return mux
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v) // an error is the asker's, who is gone
}

// accept hands an order to the mover, unless it is busy.
func (s *service) accept(w http.ResponseWriter, o order) {
	if !s.take() {
		http.Error(w, "an update is on its way already", http.StatusConflict)
		return
	}
	s.orders <- o // there is room: nobody else has taken the service
	answer(w, http.StatusAccepted, s.status())
}

// take has nothing else begin until release.
func (s *service) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken {
		return false
	}
	s.taken = true
	return true
}

func (s *service) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = false
}

// cancelNow ends the attempt, if it can still end.
func (s *service) cancelNow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel == nil {
		return false
	}
	s.cancelled = true
	s.cancel()
	return true
}

// upload takes a bundle.
func (s *service) upload(w http.ResponseWriter, r *http.Request) {
	by := r.URL.Query().Get("by")
	if by == "" {
		http.Error(w, "by: say who asks", http.StatusUnprocessableEntity)
		return
	}
	if !s.take() {
		http.Error(w, "an update is on its way already", http.StatusConflict)
		return
	}
	path := s.path(uploaded)
	if err := writeSynced(path, http.MaxBytesReader(w, r.Body, maxUpload)); err != nil {
		os.Remove(path)
		s.release()
		f := failure(err, Interrupted)
		answer(w, http.StatusUnprocessableEntity, LastCheck{Time: time.Now().UTC(), Reason: f.Reason, Detail: f.Error()})
		return
	}
	s.orders <- order{kind: Update, by: by, file: path}
	answer(w, http.StatusAccepted, s.status())
}
