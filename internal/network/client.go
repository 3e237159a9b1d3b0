package network

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// A Client asks the network service. Its methods may be called at the same time.
type Client struct {
	http http.Client
}

// NewClient returns a client of the network service; it connects when it is asked something.
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

// maxAnswer is more than a machine full of ports has to say.
const maxAnswer = 1 << 20

// Status returns the state of the ports.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://network/status", nil)
	if err != nil {
		return s, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return s, fmt.Errorf("ask network service: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", resp.Status)
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	if err != nil {
		return Status{}, fmt.Errorf("ask network service: %w", err)
	}
	return s, nil
}
