package portal

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"time"

	"cloudlink.local/gateway/internal/machine"
)

// An assault is a request as bytes, and what the answer is to be.
type assault struct {
	name, request string
	code          int
	bare          bool // the server itself answers, before any handler of ours: one line of text
}

const host = "Host: cloudlink.local\r\n"

// assaults are what people who mean ill, and programs that are broken, send to port 80.
var assaults = []assault{
	{"a page", "GET / HTTP/1.1\r\n" + host + "\r\n", 200, false},
	{"its live part", "GET /live HTTP/1.1\r\n" + host + "\r\n", 200, false},
	{"the log", "GET /log?level=debug HTTP/1.1\r\n" + host + "\r\n", 200, false},
	{"its live part", "GET /log/live?after=0 HTTP/1.1\r\n" + host + "\r\n", 200, false},
	{"as text", "GET /log.txt HTTP/1.1\r\n" + host + "\r\n", 200, false},
	{"as JSON", "GET /api/v1/log HTTP/1.1\r\n" + host + "\r\n", 200, false},
	{"the API's description", "GET /api/openapi.json HTTP/1.1\r\n" + host + "\r\n", 200, false},
	{"the API's description as YAML", "GET /api/openapi.yaml HTTP/1.1\r\n" + host + "\r\n", 200, false},
	{"the server as a whole", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", 204, false},
	{"that under a foreign name", "OPTIONS * HTTP/1.1\r\nHost: evil.test\r\n\r\n", 421, false},
	{"no path", "GET * HTTP/1.1\r\n" + host + "\r\n", 400, false},
	{"options of a page", "OPTIONS /log HTTP/1.1\r\n" + host + "\r\n", 405, false},
	{"an echo", "TRACE / HTTP/1.1\r\n" + host + "X-Secret: 1\r\n\r\n", 405, false},
	{"a tunnel", "CONNECT cloudlink.local:80 HTTP/1.1\r\n" + host + "\r\n", 405, false},
	{"a tunnel to elsewhere", "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", 421, false},
	{"a proxy", "GET http://evil.test/ HTTP/1.1\r\n" + host + "\r\n", 421, false},
	{"itself, as through a proxy", "GET http://cloudlink.local/licences HTTP/1.1\r\nHost: evil.test\r\n\r\n", 200, false},
	{"a foreign name", "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", 421, false},
	{"markup for a name", "GET / HTTP/1.1\r\nHost: <script>\r\n\r\n", 400, true},
	{"no name", "GET / HTTP/1.1\r\n\r\n", 400, true},
	{"two names", "GET / HTTP/1.1\r\n" + host + "Host: evil.test\r\n\r\n", 400, true},
	{"an older version", "GET / HTTP/1.0\r\n" + host + "Connection: keep-alive\r\n\r\n", 200, false},
	{"that without a name", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 421, false},
	{"a newer version", "PRI * HTTP/2.0\r\n\r\n", 421, false},
	{"an unknown version", "GET / HTTP/9.9\r\n" + host + "\r\n", 505, true},
	{"no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, true},
	{"a switch to version 2", "GET /licences HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", 200, false},
	{"a way up", "GET /../../etc/passwd HTTP/1.1\r\n" + host + "\r\n", 404, false},
	{"a hidden way up", "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + host + "\r\n", 404, false},
	{"a way up from the assets", "GET /assets/x/..%2f..%2fportal.go HTTP/1.1\r\n" + host + "\r\n", 404, false},
	{"a backslash", "GET /..\\..\\etc\\passwd HTTP/1.1\r\n" + host + "\r\n", 404, false},
	{"another host in the path", "GET //evil.test/%2e%2e/log HTTP/1.1\r\n" + host + "\r\n", 404, false},
	{"a crooked way to a page", "GET //./x/../log HTTP/1.1\r\n" + host + "\r\n", 307, false},
	{"NUL", "GET /log%00.txt HTTP/1.1\r\n" + host + "\r\n", 404, false},
	{"control characters", "GET /%1b%5b2J%0d%0aX:%20y HTTP/1.1\r\n" + host + "\r\n", 404, false},
	{"bytes that are no text", "GET /\xff\xfe HTTP/1.1\r\n" + host + "\r\n", 404, false},
	{"a broken escape", "GET /%zz HTTP/1.1\r\n" + host + "\r\n", 400, true},
	{"a header in a parameter", "GET /?lang=de%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\n" + host + "\r\n", 400, false},
	{"a header in the language link", "GET /log?level=info&lang=de&boot=current%0d%0aX:y HTTP/1.1\r\n" + host + "\r\n", 400, false},
	{"many parameters", "GET /log?" + strings.Repeat("level=info&", 1000) + " HTTP/1.1\r\n" + host + "\r\n", 400, false},
	{"a long path", "GET /" + strings.Repeat("a/", 7000) + " HTTP/1.1\r\n" + host + "\r\n", 404, false},
	{"a path that is too long", "GET /" + strings.Repeat("a/", 20000) + " HTTP/1.1\r\n" + host + "\r\n", 431, true},
	{"a header that is too long", "GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 40000) + "\r\n\r\n", 431, true},
	{"too many headers", "GET / HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 9000) + "\r\n", 431, true},
	{"many headers", "GET / HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 2000) + "\r\n", 200, false},
	{"many cookies", "GET / HTTP/1.1\r\n" + host + "Cookie: " + strings.Repeat("lang=x; ", 1500) + "\r\n\r\n", 200, false},
	{"a folded header", "GET /licences HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n", 200, false},
	{"a space before the colon", "GET / HTTP/1.1\r\n" + host + "Cookie : lang=de\r\n\r\n", 400, true},
	{"NUL in a header", "GET / HTTP/1.1\r\n" + host + "X: \x00\r\n\r\n", 400, true},
	{"many languages", "GET / HTTP/1.1\r\n" + host + "Accept-Language: " + strings.Repeat("de,", 5000) + "\r\n\r\n", 200, false},
	{"many parts of one language", "GET / HTTP/1.1\r\n" + host + "Accept-Language: " + strings.Repeat("a-", 7000) + "\r\n\r\n", 200, false},
	{"many strange languages", "GET /api/v1/status HTTP/1.1\r\n" + host + "Accept-Language: " + strings.Repeat("zh-Hant-HK-u-co-stroke;q=0.1,", 500) + "\r\n\r\n", 200, false},
	{"broken languages", "GET / HTTP/1.1\r\n" + host + "Accept-Language: ;;q=,,-,*;q=9e999,\xff\r\n\r\n", 200, false},
	{"odd kinds of answer", "GET /api/v1/status HTTP/1.1\r\n" + host + "Accept: application/cbor;q=1,*/*;q=x,;;\r\n\r\n", 200, false},
	{"odd packings", "GET /licences/notices.txt HTTP/1.1\r\n" + host + "Accept-Encoding: gzip;q=nan, gzip;q=-1, " + strings.Repeat("x,", 3000) + "\r\n\r\n", 200, false},
	{"a range", "GET /log.txt HTTP/1.1\r\n" + host + "Range: bytes=0-0,0-0,0-0,0-0\r\n\r\n", 200, false},
	{"a body where none belongs", "GET /licences HTTP/1.1\r\n" + host + "Content-Length: 5\r\n\r\nhello", 200, false},
	{"a body in pieces", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 405, false},
	{"a long body", "POST /log HTTP/1.1\r\n" + host + "Content-Length: 99999\r\n\r\n" + strings.Repeat("x", 99999), 405, false},
	{"two lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400, true},
	{"a negative length", "POST / HTTP/1.1\r\n" + host + "Content-Length: -5\r\n\r\n", 400, true},
	{"a length and pieces", "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 405, false},
	{"an unknown transfer", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip\r\n\r\n", 501, true},
	{"an unknown expectation", "GET / HTTP/1.1\r\n" + host + "Expect: everything\r\n\r\n", 417, true},
	{"another site's form", "POST /log HTTP/1.1\r\n" + host + "Origin: http://evil.test\r\nContent-Length: 0\r\n\r\n", 403, false},
	{"the token, for another site", "GET /find/token HTTP/1.1\r\n" + host + "Origin: http://evil.test\r\n\r\n", 200, false},
	{"leave for another site's script", "OPTIONS /find/token HTTP/1.1\r\n" + host + "Origin: http://evil.test\r\nAccess-Control-Request-Method: GET\r\n\r\n", 405, false},
	{"a QR code of elsewhere", "GET /find/qr.png?address=evil.test HTTP/1.1\r\n" + host + "\r\n", 404, false},
	{"an unknown method", "BREW / HTTP/1.1\r\n" + host + "\r\n", 405, false},
	{"no method", " / HTTP/1.1\r\n" + host + "\r\n", 400, true},
}

// A journal is a log that the test reads.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// logger writes what the gateway would keep.
func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// ask sends an assault and says what is wrong with the answer. It reports whether the connection
// can be used on.
func (a assault) ask(c net.Conn, in *bufio.Reader) (open bool, err error) {
	c.SetDeadline(time.Now().Add(30 * time.Second)) // it must not hang
	wrote := make(chan error, 1)
	go func() { // the answer may come before the end of the question
		_, err := io.WriteString(c, a.request)
		wrote <- err
	}()
	method, _, _ := strings.Cut(a.request, " ")
	resp, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		return false, fmt.Errorf("%s: %w", a.name, err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.Close {
		c.Close()
	}
	if wroteErr := <-wrote; err == nil && !resp.Close {
		err = wroteErr
	}
	switch {
	case err != nil:
		return false, fmt.Errorf("%s: %w", a.name, err)
	case resp.StatusCode != a.code:
		return false, fmt.Errorf("%s: %s, want %d", a.name, resp.Status, a.code)
	case !a.bare && (resp.Header.Get("Content-Security-Policy") != contentPolicy || resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Cache-Control") != "no-store"):
		return false, fmt.Errorf("%s: without our headers: %v", a.name, resp.Header)
	case resp.Header.Get("X") != "" || strings.Contains(fmt.Sprint(resp.Header), "evil.test"):
		return false, fmt.Errorf("%s: the answer's header has what was asked: %v", a.name, resp.Header)
	}
	return !resp.Close, nil
}

func TestAssaultsOneByOne(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer serve(t, ln, sample())()
	var each sync.WaitGroup
	defer each.Wait()
	for i, a := range assaults {
		each.Go(func() {
			c := dialFrom(t, ln, i)
			defer c.Close()
			if _, err := a.ask(c, bufio.NewReader(c)); err != nil {
				t.Error(err)
			}
		})
	}
}

// talkative is a gateway whose log does not fit into a connection's buffers.
func talkative() *gateway {
	g := sample()
	for i := range shownEntries {
		g.entries = append(g.entries, machine.Entry{Seq: uint64(100 + i), Source: "kernel", Level: machine.LevelInfo, Text: strings.Repeat("x", 60)})
	}
	return g
}

// dialFrom connects as client i.
func dialFrom(t *testing.T, ln net.Listener, i int) net.Conn {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i))}}
	c, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Error(err)
		return &net.TCPConn{} // every use of it fails
	}
	return c
}

// Thousands of them, as fast as the gateway answers, over 64 connections: each gets its answer, and
// none leaves a trace, neither a line in the log nor a goroutine.
func TestAssaultsInNumbers(t *testing.T) {
	const (
		clients = 64
		each    = 20 // assaults by each client
	)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	list := slices.Clone(assaults) // but not those after which the server lingers for half a second
	list = slices.DeleteFunc(list, func(a assault) bool { return a.bare })
	var kept journal
	before := runtime.NumGoroutine()
	stop := serve(t, ln, talkative(), func(c *Config) { c.Log = kept.logger() })
	start := kept.String()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			var c net.Conn
			var in *bufio.Reader
			for range each {
				if c == nil {
					c = dialFrom(t, ln, i)
					in = bufio.NewReader(c)
				}
				open, err := list[random.IntN(len(list))].ask(c, in)
				if err != nil {
					t.Error(err)
				}
				if !open {
					c.Close()
					c = nil
				}
			}
			if c != nil {
				c.Close()
			}
		})
	}
	all.Wait()
	stop()
	if got := strings.TrimPrefix(kept.String(), start); got != "" {
		t.Errorf("clients wrote into the log:\n%.2000s", got)
	}
	for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, before there were %d", runtime.NumGoroutine(), before)
		}
	}
}

// Requests that come in one go, before any answer is read, are answered one after the other.
func TestPipelinedRequests(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer serve(t, ln, sample())()
	c := dialFrom(t, ln, 0)
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second)) // it must not hang
	const n = 200
	wrote := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, strings.Repeat("GET /licences HTTP/1.1\r\n"+host+"\r\nGET /?x HTTP/1.1\r\n"+host+"\r\nOPTIONS * HTTP/1.1\r\n"+host+"\r\n", n))
		wrote <- err
	}()
	in := bufio.NewReader(c)
	for range n {
		for _, want := range []int{http.StatusOK, http.StatusBadRequest, http.StatusNoContent} {
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != want {
				t.Fatalf("%s, want %d: %v", resp.Status, want, err)
			}
		}
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// Whoever asks for the log and does not take it keeps others waiting for a while, and gets no more
// of the memory than a few may have; the other pages answer at once.
func TestReadersOfTheLogTakeTurns(t *testing.T) {
	for _, path := range []string{"/log", "/log/live", "/log.txt", "/api/v1/log"} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipes()
				stop := serve(t, ln, talkative())
				ask := func(path string) net.Conn {
					c := ln.dial()
					fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: 192.0.2.1\r\nConnection: close\r\n\r\n", path)
					return c
				}
				take := func(c net.Conn) int {
					resp, err := http.ReadResponse(bufio.NewReader(c), nil)
					if err != nil {
						return 0
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						t.Errorf("answer: %v", err)
					}
					return resp.StatusCode
				}
				var slow []net.Conn
				for range maxReaders {
					slow = append(slow, ask(path))
				}
				synctest.Wait() // until each has its turn
				start := time.Now()
				if code := take(ask("/licences")); code != http.StatusOK || time.Since(start) > 0 {
					t.Errorf("another page: %d, after %v", code, time.Since(start))
				}
				busy := map[string]int{"/log/live": http.StatusNoContent}[path]
				if busy == 0 {
					busy = http.StatusServiceUnavailable
				}
				if code := take(ask(path)); code != busy || time.Since(start) != logTime {
					t.Errorf("one more: %d, after %v", code, time.Since(start))
				}
				if code := take(ask(path)); code != http.StatusOK || time.Since(start) > turnTime {
					t.Errorf("when their time is over: %d, after %v", code, time.Since(start))
				}
				synctest.Wait() // all of them had the same time
				for _, c := range slow {
					if code := take(c); code != 0 {
						t.Errorf("one who took his time got %d", code)
					}
				}
				stop()
			})
		})
	}
}

// A client that is gone, as an http.ResponseWriter.
type gone struct{ *httptest.ResponseRecorder }

func (gone) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWhoHangsUpWritesNothingIntoTheLog(t *testing.T) {
	var kept journal
	p := newPortal(t, sample(), func(c *Config) { c.Log = kept.logger() })
	for _, path := range []string{"/", "/log", "/log.txt", "/licences/notices.txt", "/api/v1/log", "/api/v1/status", "/assets/" + fingerprint() + "/htmx.min.js"} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = "192.0.2.1"
		p.ServeHTTP(gone{httptest.NewRecorder()}, r)
	}
	if got := kept.String(); got != "" {
		t.Error(got)
	}
}
