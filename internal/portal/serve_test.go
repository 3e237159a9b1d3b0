package portal

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A pipes listener hands out connections in memory, so that time in a synctest bubble passes.
type pipes struct {
	conns chan net.Conn
	ctx   context.Context
	close func()
}

func newPipes() *pipes {
	ctx, cancel := context.WithCancel(context.Background())
	return &pipes{make(chan net.Conn), ctx, cancel}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.ctx.Done():
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// serve runs a portal for g on ln and returns what stops it.
func serve(t *testing.T, ln net.Listener, g *gateway, change ...func(*Config)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan bool, 1), make(chan error, 1)
	p := newPortal(t, g, change...)
	go func() { ended <- Serve(ctx, ln, func() { ready <- true }, p) }()
	<-ready
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
}

// Clients that take their time are hung up on and do not hold up the end.
func TestSlowClients(t *testing.T) {
	for name, say := range map[string]string{
		"says nothing":         "",
		"never ends its words": "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\nX: ",
		"never ends its body":  "POST / HTTP/1.1\r\nHost: 192.0.2.1\r\nContent-Length: 100\r\n\r\nx",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipes()
				stop := serve(t, ln, sample())
				c := ln.dial()
				start := time.Now()
				go io.WriteString(c, say)
				io.Copy(io.Discard, c) // until the server hangs up
				if waited := time.Since(start); waited > readTime+time.Second {
					t.Errorf("hung up on after %v", waited)
				}
				c.Close()
				stop()
			})
		})
	}
	t.Run("never reads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ln := newPipes()
			stop := serve(t, ln, sample())
			c := ln.dial()
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n")
			start := time.Now()
			stop()
			if waited := time.Since(start); waited > graceAtEnd {
				t.Errorf("the end took %v", waited)
			}
			c.Close()
		})
	})
}

func TestLongHeaderIsRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer serve(t, ln, sample())()
	req, err := http.NewRequest(http.MethodGet, "http://"+ln.Addr().String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X", strings.Repeat("x", 2*maxHeader))
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Error(resp.Status)
	}
}

// One client cannot have all connections; what it gives back it may have again.
func TestConnectionsOfOneClient(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer serve(t, ln, sample())()
	dial := func(from string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	answered := func(c net.Conn) bool {
		fmt.Fprintf(c, "GET /licences HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK
	}
	var mine []net.Conn
	for i := range maxConnsPerClient {
		c := dial("127.0.0.1")
		if !answered(c) {
			t.Fatalf("connection %d is refused", i+1)
		}
		mine = append(mine, c)
	}
	if answered(dial("127.0.0.1")) {
		t.Error("one more than allowed is served")
	}
	if !answered(dial("127.0.0.2")) {
		t.Error("another client is refused")
	}
	if !answered(mine[0]) {
		t.Error("an earlier connection was closed")
	}
	mine[0].Close()
	for !answered(dial("127.0.0.1")) { // until the server has noticed
	}
}

func TestClientsAreTold(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7:1234":             "192.0.2.7/32",
		"[::ffff:192.0.2.7]:1234":    "192.0.2.7/32",
		"[2001:db8:1:2:3:4:5:6]:123": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:123":         "fe80::/64",
	} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := client(a).String(); got != want {
			t.Errorf("%s: %s", addr, got)
		}
	}
}
