package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/localhttp"
	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/settings"
)

// A Client asks the network service. Its methods may be called at the same time.
type Client struct {
	http http.Client
}

// NewClient returns a client of the network service; it connects when it is asked something.
func NewClient() *Client { return newClient(Socket) }

func newClient(socket string) *Client {
	return &Client{http.Client{
		Transport: localhttp.Transport(socket),
		Timeout:   time.Minute,
	}}
}

// maxAnswer is more than a machine full of ports has to say.
const maxAnswer = 1 << 20

// Status returns the state of ports and clock.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, http.MethodGet, "/status", nil)
}

// Settings returns the settings in force.
func (c *Client) Settings(ctx context.Context) (settings.Settings, error) {
	return ask[settings.Settings](ctx, c, http.MethodGet, "/settings", nil)
}

// Change proposes new settings. What they lack comes as a *Refusal with its fields. Status.Change tells
// whether they are on probation.
func (c *Client) Change(ctx context.Context, p Proposal) (Status, error) {
	return ask[Status](ctx, c, http.MethodPut, "/settings", p)
}

// Confirm keeps the change on probation; a *Refusal says why not.
func (c *Client) Confirm(ctx context.Context, r Request) (Status, error) {
	return ask[Status](ctx, c, http.MethodPost, "/confirm", r)
}

// Return takes the change on probation back.
func (c *Client) Return(ctx context.Context, r Request) (Status, error) {
	return ask[Status](ctx, c, http.MethodPost, "/return", r)
}

// Diary returns the entries after the one of that ID, the oldest first.
func (c *Client) Diary(ctx context.Context, after uint64) ([]diary.Entry, error) {
	return ask[[]diary.Entry](ctx, c, http.MethodGet, fmt.Sprintf("/diary?after=%d", after), nil)
}

// PortMap returns the table of ports (M10).
func (c *Client) PortMap(ctx context.Context) ([]portmap.Row, error) {
	return ask[[]portmap.Row](ctx, c, http.MethodGet, "/ports", nil)
}

// SelfTest checks the table of ports, which takes up to half a minute.
func (c *Client) SelfTest(ctx context.Context) ([]portmap.Result, error) {
	return ask[[]portmap.Result](ctx, c, http.MethodPost, "/selftest", nil)
}

// ask sends in, if not nil, and returns what comes back.
func ask[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	fail := func(err error) (T, error) {
		var none T
		return none, fmt.Errorf("ask network service: %w", err)
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fail(err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://network"+path, body)
	if err != nil {
		return fail(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fail(err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if err := json.Unmarshal(answer, &out); err != nil {
			return fail(err)
		}
		return out, nil
	case http.StatusUnprocessableEntity, http.StatusConflict:
		refusal := new(Refusal)
		if err := json.Unmarshal(answer, refusal); err != nil {
			return fail(err)
		}
		return fail(refusal)
	}
	return fail(errors.New(resp.Status))
}
