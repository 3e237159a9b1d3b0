package portal

import (
	"net"
	"net/netip"
	"sync"
)

// How many connections there may be at once. A browser opens six; tests and proxies share one
// address, so it gets more than that. Whoever wants more is hung up on: waiting would let one
// client keep all others out.
const (
	maxConns          = 256
	maxConnsPerClient = 64
)

// A limited listener hangs up on connections above maxConns and maxConnsPerClient.
type limited struct {
	net.Listener

	mu      sync.Mutex // guards what follows
	total   int
	clients map[netip.Prefix]int
}

func limit(ln net.Listener) *limited {
	return &limited{Listener: ln, clients: map[netip.Prefix]int{}}
}

// Accept returns the next connection within the limits.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := client(c.RemoteAddr())
		if l.admit(from) {
			return &counted{Conn: c, done: sync.OnceFunc(func() { l.release(from) })}, nil
		}
		c.Close()
	}
}

func (l *limited) admit(from netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxConns || l.clients[from] >= maxConnsPerClient {
		return false
	}
	l.total++
	l.clients[from]++
	return true
}

func (l *limited) release(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.clients[from]--; l.clients[from] == 0 {
		delete(l.clients, from)
	}
}

// client says who addr is: an IPv4 address, or an IPv6 /64, in which anyone may have any address.
func client(addr net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{} // not TCP: all count as one
	}
	ip, bits := ap.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

// A counted connection gives its place back when it is closed.
type counted struct {
	net.Conn
	done func()
}

// CloseWrite says that no more comes. The server does so before it hangs up on who is still sending:
// hung up on at once, a client loses the answer that says what was wrong.
func (c *counted) CloseWrite() error {
	if c, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Close closes the connection.
func (c *counted) Close() error {
	defer c.done()
	return c.Conn.Close()
}
