package machine

import (
	"net"
	"sync"
)

// maxConns is more than the services need together; a service gone wild cannot have more.
const maxConns = 32

// A limited listener accepts no more than cap(free) connections at a time.
type limited struct {
	net.Listener
	free chan struct{}
}

// Accept closes at once what is too many, so that a caller does not wait in vain.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.free <- struct{}{}:
			return &limitedConn{Conn: c, done: sync.OnceFunc(func() { <-l.free })}, nil
		default:
			c.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	done func()
}

func (c *limitedConn) Close() error {
	c.done()
	return c.Conn.Close()
}
