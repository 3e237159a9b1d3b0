package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/safefile"
)

// A File is what is to be fetched, as the signed metadata promises it.
type File struct {
	URL    string
	Size   int64
	SHA256 string // lower-case hex
}

// A Progress tells how far something is.
type Progress struct {
	Bytes       int64   `json:"bytes"`
	Total       int64   `json:"total"`
	SecondsLeft float64 `json:"seconds_left,omitempty"` // 0 while nobody can say
}

// A fetcher fetches files over HTTP. What has been fetched is kept: whoever asks again, after a loss of
// the network, of the process or of power, goes on where it ended.
type fetcher struct {
	client  *http.Client
	tell    func(Progress)
	log     *slog.Logger
	stalled time.Duration   // without a byte, until it is asked again
	pauses  []time.Duration // before asking again while nothing comes; after the last it gives up
}

// defaultPauses is about an hour.
var defaultPauses = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 20 * time.Minute,
}

// fetch has f at path when it returns nil. It is not synced: it is gone again as soon as the slot has it,
// and what a loss of power leaves of it is good enough to go on from.
func (d fetcher) fetch(ctx context.Context, f File, path string) error {
	if err := safefile.Clear(path, false); err != nil { // what is no file is in the way
		return failure(err, MediumFailed)
	}
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return failure(err, MediumFailed)
	}
	defer out.Close()
	sum := &asideSHA256{}
	defer sum.reset()
	have, err := resume(out, f, sum)
	if err != nil {
		return failure(err, MediumFailed)
	}
	again := false // it had come whole, and was another
	for try := 0; ; {
		before := have
		if have < f.Size {
			have, err = d.more(ctx, f, out, have, sum)
		}
		switch {
		case ctx.Err() != nil:
			out.Sync() // the next attempt would like to have it
			return ctx.Err()
		case err == nil && have == f.Size && sum.hex() == f.SHA256:
			return nil
		case err == nil: // one of another release, or damaged on its way
			if err := out.Truncate(0); err != nil {
				return failure(err, MediumFailed)
			}
			if again {
				return fail(WrongFile, errors.New("its hash is not the one that was signed"))
			}
			have, again = 0, true
			sum.reset()
			continue
		}
		if f := (*Failure)(nil); errors.As(err, &f) && f.Reason != NoConnection {
			return f
		}
		if have > before {
			try = 0
		}
		if try == len(d.pauses) {
			return failure(err, NoConnection)
		}
		d.log.Info("update: download interrupted", "bytes", have, "again in", d.pauses[try], "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(d.pauses[try]):
		}
		try++
	}
}

// resume reads what there is of f, to go on from there.
func resume(out *os.File, f File, sum *asideSHA256) (have int64, err error) {
	info, err := out.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() > f.Size { // it is another file
		return 0, out.Truncate(0)
	}
	return io.CopyBuffer(sum, struct{ io.Reader }{out}, make([]byte, copySize))
}

// more fetches what is missing after the first have bytes. A nil error says that all is there.
func (d fetcher) more(ctx context.Context, f File, out *os.File, have int64, sum *asideSHA256) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(d.stalled, func() { cancel(errors.New("the server sends nothing any more")) })
	defer stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
	if err != nil {
		return have, fail(ServerAnswer, err)
	}
	req.Header.Set("Accept-Encoding", "identity") // ranges are of the file as it is
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return have, fail(NoConnection, cause(ctx, err))
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent && have > 0:
		if start, total, ok := contentRange(resp.Header.Get("Content-Range")); !ok || start != have || total >= 0 && total != f.Size {
			return have, fail(WrongFile, fmt.Errorf("bytes from %d of %d were asked for, and the server sends %q",
				have, f.Size, resp.Header.Get("Content-Range")))
		}
	case resp.StatusCode == http.StatusOK: // from the start, whatever was asked for
		if resp.ContentLength >= 0 && resp.ContentLength != f.Size {
			return have, fail(WrongFile, fmt.Errorf("it has %d bytes and should have %d", resp.ContentLength, f.Size))
		}
		if err := out.Truncate(0); err != nil {
			return have, failure(err, MediumFailed)
		}
		have = 0
		sum.reset()
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && have > 0:
		sum.reset() // the file there is shorter: it is asked for from the start
		if err := out.Truncate(0); err != nil {
			return have, failure(err, MediumFailed)
		}
		return 0, fail(NoConnection, errors.New(resp.Status))
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests: // it may get well
		return have, fail(NoConnection, errors.New("the server answers: "+resp.Status))
	default:
		return have, fail(ServerAnswer, errors.New(resp.Status))
	}
	return d.body(ctx, f, resp.Body, out, have, sum, stall)
}

// body writes what comes behind the first have bytes.
func (d fetcher) body(ctx context.Context, f File, body io.Reader, out *os.File, have int64, sum *asideSHA256, stall *time.Timer) (int64, error) {
	buf := make([]byte, copySize)
	began, first := time.Now(), have
	for have < f.Size {
		n, err := body.Read(buf[:min(int64(len(buf)), f.Size-have)])
		if n > 0 {
			stall.Reset(d.stalled)
			if _, err := out.WriteAt(buf[:n], have); err != nil {
				return have, failure(err, MediumFailed)
			}
			sum.Write(buf[:n])
			have += int64(n)
			p := Progress{Bytes: have, Total: f.Size}
			if spent := time.Since(began).Seconds(); spent > 1 {
				p.SecondsLeft = float64(f.Size-have) * spent / float64(have-first)
			}
			d.tell(p) // each time: what comes next may be a long silence
		}
		if err == io.EOF && have < f.Size {
			return have, fail(NoConnection, fmt.Errorf("it ended after %d bytes of %d", have, f.Size))
		}
		if err != nil && err != io.EOF {
			return have, fail(NoConnection, cause(ctx, err))
		}
	}
	return have, nil
}

// cause is why ctx ended, if it did, else err.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// contentRange reads "bytes 5-9/10"; total is -1 where the server does not say.
func contentRange(s string) (start, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, cut := strings.Cut(s, "/")
	from, _, dash := strings.Cut(span, "-")
	if !ok || !cut || !dash {
		return 0, 0, false
	}
	start, err := strconv.ParseInt(from, 10, 64)
	total = -1
	if size != "*" && err == nil {
		total, err = strconv.ParseInt(size, 10, 64)
	}
	return start, total, err == nil && start >= 0
}
