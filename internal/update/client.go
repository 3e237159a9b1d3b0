package update

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"cloudlink.local/gateway/internal/localhttp"
)

// maxAnswer is more than the service ever has to say.
const maxAnswer = 4 << 20

// A Client asks the update service. Its methods may be called at the same time.
type Client struct{ http http.Client }

// NewClient returns a client; it connects when it is asked something.
func NewClient() *Client { return newClient(Socket) }

func newClient(socket string) *Client {
	return &Client{http.Client{Transport: localhttp.Transport(socket)}}
}

// A Refusal says why something is not done.
type Refusal struct {
	Text  string     // a technician's words
	Check *LastCheck // of an upload: what is wrong with it
}

func (r *Refusal) Error() string { return r.Text }

// Status returns how updates stand.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return c.ask(ctx, http.MethodGet, "/status", nil)
}

// CheckNow asks the update server. So do the others what their names say; each returns once it has begun.
func (c *Client) CheckNow(ctx context.Context, r Request) (Status, error) {
	return c.post(ctx, "/check", r)
}

// Install installs what the update server has.
func (c *Client) Install(ctx context.Context, r Request) (Status, error) {
	return c.post(ctx, "/install", r)
}

// USB installs the bundle that is on a USB stick.
func (c *Client) USB(ctx context.Context, r Request) (Status, error) { return c.post(ctx, "/usb", r) }

// Rollback starts the system in the other slot, for good.
func (c *Client) Rollback(ctx context.Context, r Request) (Status, error) {
	return c.post(ctx, "/rollback", r)
}

// Drill starts the system in the other slot, to see that it would, and then this one again.
func (c *Client) Drill(ctx context.Context, r Request) (Status, error) {
	return c.post(ctx, "/drill", r)
}

// Cancel ends the update, if it can still end.
func (c *Client) Cancel(ctx context.Context, r Request) (Status, error) {
	return c.post(ctx, "/cancel", r)
}

// Upload installs a bundle. It returns when all of it has been read.
func (c *Client) Upload(ctx context.Context, r Request, bundle io.Reader) (Status, error) {
	return c.ask(ctx, http.MethodPost, "/upload?"+url.Values{"by": {r.By}}.Encode(), bundle)
}

func (c *Client) post(ctx context.Context, path string, r Request) (Status, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return Status{}, err
	}
	return c.ask(ctx, http.MethodPost, path, bytes.NewReader(b))
}

func (c *Client) ask(ctx context.Context, method, path string, body io.Reader) (st Status, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ask update service: %w", err)
		}
	}()
	req, err := http.NewRequestWithContext(ctx, method, "http://update"+path, body)
	if err != nil {
		return st, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return st, err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusAccepted:
		return st, json.Unmarshal(b, &st)
	case http.StatusUnprocessableEntity:
		r := &Refusal{Text: strings.TrimSpace(string(b)), Check: new(LastCheck)}
		if json.Unmarshal(b, r.Check) != nil {
			r.Check = nil
		}
		return st, r
	case http.StatusConflict:
		return st, &Refusal{Text: strings.TrimSpace(string(b))}
	}
	return st, errors.New(resp.Status)
}
