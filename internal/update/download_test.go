package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// content is what the tests fetch.
var content = func() []byte {
	b := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}()

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func quick(client *http.Client) fetcher {
	return fetcher{client: client, tell: func(Progress) {}, log: slog.New(slog.DiscardHandler), stalled: 200 * time.Millisecond, pauses: []time.Duration{1, 1, 1}}
}

// whole serves content as a good server does.
func whole(w http.ResponseWriter, r *http.Request) {
	http.ServeContent(w, r, "slot", time.Time{}, bytes.NewReader(content))
}

// Each server answers the n-th request, counted from 0.
func TestFetch(t *testing.T) {
	const most = 300_000
	cut := func(w http.ResponseWriter, r *http.Request) { // the connection breaks
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:most])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
	}
	silent := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:most])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	for name, c := range map[string]struct {
		there  []byte // from an attempt before
		answer func(n int32, w http.ResponseWriter, r *http.Request)
		want   Reason // "" for success
	}{
		"at once": {answer: func(_ int32, w http.ResponseWriter, r *http.Request) { whole(w, r) }},
		"after a restart": {there: content[:most], answer: func(_ int32, w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != fmt.Sprintf("bytes=%d-", most) {
				t.Errorf("after a restart it asks for %q", r.Header.Get("Range"))
			}
			whole(w, r)
		}},
		"all is there already": {there: content, answer: func(int32, http.ResponseWriter, *http.Request) { t.Error("it asks") }},
		"too much is there":    {there: append(bytes.Clone(content), 0), answer: func(_ int32, w http.ResponseWriter, r *http.Request) { whole(w, r) }},
		"what is there is damaged": {there: bytes.Repeat([]byte{1}, most), answer: func(_ int32, w http.ResponseWriter, r *http.Request) {
			whole(w, r)
		}},
		"the network is lost": {answer: func(n int32, w http.ResponseWriter, r *http.Request) {
			if n == 0 {
				cut(w, r)
			}
			whole(w, r)
		}},
		"the network is lost again and again": {answer: func(n int32, w http.ResponseWriter, r *http.Request) {
			if n < 9 && r.Header.Get("Range") == "" {
				cut(w, r)
			} else if n < 9 { // a little of what is asked for
				var from int
				fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(content[from : from+10_000])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			whole(w, r)
		}},
		"it stalls": {answer: func(n int32, w http.ResponseWriter, r *http.Request) {
			if n < 2 {
				silent(w, r)
				return
			}
			whole(w, r)
		}},
		"it knows no ranges": {there: content[:most], answer: func(_ int32, w http.ResponseWriter, r *http.Request) { w.Write(content) }},
		"range not satisfiable": {there: content[:most], answer: func(n int32, w http.ResponseWriter, r *http.Request) {
			if n == 0 {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			if r.Header.Get("Range") != "" {
				t.Error("it asks for a range again")
			}
			whole(w, r)
		}},
		"503 for a while": {answer: func(n int32, w http.ResponseWriter, r *http.Request) {
			if n < 2 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			whole(w, r)
		}},
		"500 for ever": {answer: func(_ int32, w http.ResponseWriter, r *http.Request) { status(500)(w, r) }, want: NoConnection},
		"403":          {answer: func(_ int32, w http.ResponseWriter, r *http.Request) { status(403)(w, r) }, want: ServerAnswer},
		"404":          {answer: func(_ int32, w http.ResponseWriter, r *http.Request) { status(404)(w, r) }, want: ServerAnswer},
		"another length": {answer: func(_ int32, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(most))
			w.Write(content[:most])
		}, want: WrongFile},
		"another range": {there: content[:most], answer: func(_ int32, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(content)-1, len(content)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(content)
		}, want: WrongFile},
		"another file": {answer: func(_ int32, w http.ResponseWriter, r *http.Request) {
			w.Write(bytes.Repeat([]byte{2}, len(content)))
		}, want: WrongFile},
		"another file from the middle on": {answer: func(n int32, w http.ResponseWriter, r *http.Request) {
			switch {
			case n == 0:
				cut(w, r)
			case r.Header.Get("Range") != "":
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", most, len(content)-1, len(content)))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(bytes.Repeat([]byte{3}, len(content)-most))
			default:
				whole(w, r)
			}
		}},
		"endless": {answer: func(_ int32, w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(content); err != nil {
					return
				}
				w.(http.Flusher).Flush()
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.answer(asked.Add(1)-1, w, r) }))
			defer s.Close()
			path := filepath.Join(t.TempDir(), "part")
			if c.there != nil {
				if err := os.WriteFile(path, c.there, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := quick(s.Client()).fetch(t.Context(), File{URL: s.URL, Size: int64(len(content)), SHA256: hexSum(content)}, path)
			if c.want == "" {
				got, _ := os.ReadFile(path)
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				return
			}
			if f := (*Failure)(nil); !errors.As(err, &f) || f.Reason != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

func TestFetchFromNobody(t *testing.T) {
	s := httptest.NewServer(nil)
	s.Close() // its port is free now
	err := quick(http.DefaultClient).fetch(t.Context(), File{URL: s.URL, Size: 1}, filepath.Join(t.TempDir(), "part"))
	if f := (*Failure)(nil); !errors.As(err, &f) || f.Reason != NoConnection {
		t.Error(err)
	}
}

// What was fetched is kept when somebody ends it, and told to the last byte though the server is silent.
func TestFetchEnds(t *testing.T) {
	const sent = 500_000
	ctx, cancel := context.WithCancel(t.Context())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:sent])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer s.Close()
	path := filepath.Join(t.TempDir(), "part")
	f := quick(s.Client())
	f.stalled = time.Hour
	f.tell = func(p Progress) {
		if p.Bytes == sent {
			cancel()
		}
	}
	if err := f.fetch(ctx, File{URL: s.URL, Size: int64(len(content)), SHA256: hexSum(content)}, path); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got, _ := os.ReadFile(path); len(got) != sent || !bytes.HasPrefix(content, got) {
		t.Errorf("%d bytes are kept", len(got))
	}
}

func TestFullMedium(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(whole))
	defer s.Close()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("mount a small file system: %v (run the tests as root)", err)
	}
	defer unix.Unmount(dir, 0)
	err := quick(s.Client()).fetch(t.Context(), File{URL: s.URL, Size: int64(len(content)), SHA256: hexSum(content)}, filepath.Join(dir, "part"))
	if f := (*Failure)(nil); !errors.As(err, &f) || f.Reason != NoSpace {
		t.Error(err)
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 5-9/*", "bytes */10", "bytes 5-", "bytes -5-9/10", "bytes 99999999999999999999-1/2", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		start, total, ok := contentRange(s)
		if ok && (start < 0 || total < -1 || !strings.HasPrefix(s, "bytes ")) {
			t.Errorf("%q: %d %d", s, start, total)
		}
	})
}
