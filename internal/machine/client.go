package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A Client asks process 1. Its methods may be called at the same time.
type Client struct {
	http http.Client
}

// NewClient returns a client of process 1; it connects when it is asked something.
func NewClient() *Client { return newClient(Socket) }

func newClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{http.Client{
		Transport: &http.Transport{DialContext: dial, MaxIdleConns: 1, IdleConnTimeout: 10 * time.Second},
		Timeout:   10 * time.Second,
	}}
}

// Status returns the machine's status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.do(ctx, http.MethodGet, "/status", &s)
	return s, err
}

// Log returns this run's entries after sequence number after that are at least as grave as level.
func (c *Client) Log(ctx context.Context, after uint64, level Level) ([]Entry, error) {
	var list []Entry
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "level": {strconv.Itoa(int(level))}}
	err := c.do(ctx, http.MethodGet, "/log?"+q.Encode(), &list)
	return list, err
}

// PreviousLog returns what was saved of the run before this one.
func (c *Client) PreviousLog(ctx context.Context, level Level) ([]Entry, error) {
	var list []Entry
	err := c.do(ctx, http.MethodGet, "/log?boot=previous&level="+strconv.Itoa(int(level)), &list)
	return list, err
}

// Restart asks for an orderly restart. It returns once that is accepted, not done.
func (c *Client) Restart(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/restart", nil)
}

// PowerOff asks for an orderly power-off. It returns once that is accepted, not done.
func (c *Client) PowerOff(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/power-off", nil)
}

// maxAnswer is more than process 1 ever has to say.
const maxAnswer = 8 << 20

func (c *Client) do(ctx context.Context, method, path string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://init"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask process 1: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask process 1: %s: %w", path, err)
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("ask process 1: %s: %s: %s", path, resp.Status, strings.TrimSpace(string(body)))
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("ask process 1: %s: %w", path, err)
	}
	return nil
}
