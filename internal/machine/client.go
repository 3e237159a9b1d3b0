package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/localhttp"
)

// A Client asks process 1. Its methods may be called at the same time.
type Client struct {
	http http.Client
}

// NewClient returns a client of process 1; it connects when it is asked something.
func NewClient() *Client { return newClient(Socket) }

func newClient(socket string) *Client {
	return &Client{http.Client{Transport: localhttp.Transport(socket)}}
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

// Slots returns how the two systems on the disk are.
func (c *Client) Slots(ctx context.Context) (Slots, error) {
	var s Slots
	err := c.do(ctx, http.MethodGet, "/slots", &s)
	return s, err
}

// OpenSlot empties the slot that is not running, and makes it writable.
func (c *Client) OpenSlot(ctx context.Context) (Slots, error) { return c.slot(ctx, "open") }

// SealSlot puts on the medium what was written, and makes it readable from there.
func (c *Client) SealSlot(ctx context.Context) (Slots, error) { return c.slot(ctx, "seal") }

// LookSlot makes the slot that is not running readable.
func (c *Client) LookSlot(ctx context.Context) (Slots, error) { return c.slot(ctx, "look") }

// OpenRunning makes the slot that runs readable.
func (c *Client) OpenRunning(ctx context.Context) (Slots, error) { return c.slot(ctx, "running") }

// CloseSlot ends what one of the others began.
func (c *Client) CloseSlot(ctx context.Context) (Slots, error) { return c.slot(ctx, "close") }

// ArmSlot has the loader try, so many times, the slot that was read last.
func (c *Client) ArmSlot(ctx context.Context, tries int) (Slots, error) {
	return c.slot(ctx, "arm?tries="+strconv.Itoa(tries))
}

// ConfirmSlot makes what runs what the loader starts.
func (c *Client) ConfirmSlot(ctx context.Context) (Slots, error) { return c.slot(ctx, "confirm") }

// OpenSticks makes readable what USB sticks hold.
func (c *Client) OpenSticks(ctx context.Context) (Slots, error) { return c.slot(ctx, "sticks") }

// CloseSticks ends that: they may be pulled out.
func (c *Client) CloseSticks(ctx context.Context) (Slots, error) { return c.slot(ctx, "unplug") }

// Floor returns the oldest version that may be installed, "" for any.
func (c *Client) Floor(ctx context.Context) (string, error) {
	var f Floor
	err := c.do(ctx, http.MethodGet, "/slots/floor", &f)
	return f.Version, err
}

// RaiseFloor has nothing older than version installed from now on, not even after a factory reset.
func (c *Client) RaiseFloor(ctx context.Context, version string) error {
	_, err := c.slot(ctx, "floor?"+url.Values{"version": {version}}.Encode())
	return err
}

func (c *Client) slot(ctx context.Context, what string) (Slots, error) {
	ctx, cancel := context.WithTimeout(ctx, slotLimit)
	defer cancel()
	var s Slots
	err := c.ask(ctx, http.MethodPost, "/slots/"+what, &s)
	return s, err
}

// maxAnswer is more than process 1 ever has to say.
const maxAnswer = 8 << 20

// limit is how long process 1 may take.
const limit = 10 * time.Second

func (c *Client) do(ctx context.Context, method, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.ask(ctx, method, path, answer)
}

func (c *Client) ask(ctx context.Context, method, path string, answer any) error {
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
