package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// control speaks QMP, QEMU's machine protocol: a JSON object a line, both ways. Events come between
// the replies and are passed over.
type control struct {
	mu   sync.Mutex // one command at a time
	conn net.Conn
	in   *bufio.Scanner
}

// dial connects to the socket that QEMU opens a moment after it has started.
func dial(ctx context.Context, path string, ended <-chan struct{}) (*control, error) {
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			c := &control{conn: conn, in: bufio.NewScanner(conn)}
			if !c.in.Scan() { // its greeting
				return nil, errors.New("no greeting")
			}
			return c, c.execute("qmp_capabilities", nil)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ended:
			return nil, errors.New("it has ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c *control) execute(command string, arguments any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return err
	}
	if _, err := c.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	for c.in.Scan() {
		var reply struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal(c.in.Bytes(), &reply); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		switch {
		case reply.Error != nil:
			return fmt.Errorf("%s: %s", command, reply.Error.Desc)
		case reply.Return != nil:
			return nil
		}
	}
	return fmt.Errorf("%s: qemu has ended", command)
}
