package trust

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/update/bundle"
)

// A Source is where signed metadata and targets come from: a [Repository] or a [Bundle].
type Source interface {
	// metadata returns a metadata file of at most so many bytes. Errors are of type *Error, but for
	// the end of ctx by its owner.
	metadata(ctx context.Context, name string, most int64) ([]byte, error)
	// locate returns where the file of a target is, or "" if the source does not have it.
	locate(path string, size int64, sha256 string) string
	// live says whether it is asked what is the newest. One that lies in a drawer may be old.
	live() bool
}

// perFile is how long one metadata file may take: even the largest passes at 4 KB/s.
const perFile = 2 * time.Minute

// A Repository is one behind a URL, as firmware publish makes it.
type Repository struct {
	base   *url.URL
	client *http.Client
}

// NewRepository returns the repository at an address like https://updates.example.com/cloudlink/.
func NewRepository(address string) (*Repository, error) {
	const want = "want one like https://updates.example.com/cloudlink/"
	base, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("update server %.200q: %s", address, want)
	}
	if base.Scheme != "https" && base.Scheme != "http" || base.Hostname() == "" {
		return nil, fmt.Errorf("update server %.200q: %s", address, want)
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" || base.ForceQuery {
		return nil, fmt.Errorf("update server %.200q: no user name, ? or # in it: %s", base.Redacted(), want)
	}
	if !strings.HasSuffix(base.Path, "/") {
		base.Path, base.RawPath = base.Path+"/", ""
	}
	return &Repository{base, NewHTTPClient()}, nil
}

// errRedirected is what the client's own error wraps.
var errRedirected = errors.New("it sends us elsewhere")

// NewHTTPClient returns a client for repositories. What comes is not unpacked on the way, no answer is
// waited for without end, and a redirection may lead to another place on the same server, but not to
// another one, which nobody has named here (it may be one in the owner's network), nor off TLS.
func NewHTTPClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:   15 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			IdleConnTimeout:       30 * time.Second,
			MaxIdleConns:          2,
			DisableCompression:    true,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},

			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			first := via[0].URL
			if len(via) > 3 {
				return fmt.Errorf("%w, again and again", errRedirected)
			}
			if req.URL.Hostname() != first.Hostname() || first.Scheme == "https" && req.URL.Scheme != "https" {
				return fmt.Errorf("%w, to %s://%.200s: give that address instead, if you trust it", errRedirected, req.URL.Scheme, req.URL.Host)
			}
			return nil
		},
	}
}

// Close ends idle connections.
func (r *Repository) Close() { r.client.CloseIdleConnections() }

func (r *Repository) live() bool { return true }

func (r *Repository) locate(path string, _ int64, sha256 string) string {
	return r.url(bundle.TargetsFolder, bundle.HashedPath(path, sha256))
}

// url names a file of the repository. Some servers take a plus for a blank, unless it is written so.
func (r *Repository) url(folder, name string) string {
	u := *r.base
	u.Path += folder + "/" + name
	u.RawPath = strings.ReplaceAll(u.EscapedPath(), "+", "%2B")
	return u.String()
}

func (r *Repository) metadata(ctx context.Context, name string, most int64) ([]byte, error) {
	b, err := r.fetch(ctx, name, most)
	if err == nil {
		return b, nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, fmt.Errorf("fetch %s: %w", name, ctx.Err())
	}
	reason := NoConnection
	e := (*Error)(nil)
	var timeout net.Error
	switch {
	case errors.As(err, &e):
		return nil, &Error{Reason: e.Reason, Status: e.Status, Err: fmt.Errorf("fetch %s: %w", name, e.Err)}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout() && !isDial(err):
		reason = TooSlow
	case errors.Is(err, errRedirected):
		reason = Redirected
	case errors.Is(err, io.ErrUnexpectedEOF):
		reason = Truncated
	default:
		if c := (*tls.CertificateVerificationError)(nil); errors.As(err, &c) {
			reason = Certificate
		}
	}
	return nil, failf(reason, "fetch %s: %w", name, err)
}

// isDial says whether no connection was made: a host that is switched off gives a timeout, too.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func (r *Repository) fetch(ctx context.Context, name string, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, perFile)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url(bundle.MetadataFolder, name), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "cloudlink-gateway")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &Error{Reason: NoAnswer, Status: resp.StatusCode, Err: fmt.Errorf("the server says %.100q", resp.Status)}
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if int64(len(b)) > most || resp.ContentLength > most {
		return nil, failf(TooLarge, "more than %d bytes", most)
	}
	return b, err
}

// A Bundle is the file with a whole update, read as a stream. After Check has made an offer of it,
// Target has the offered file.
type Bundle struct{ r *bundle.Reader }

// OpenBundle reads the metadata at the start of r. Errors are of type *Error, but for those of r itself.
func OpenBundle(r io.Reader) (*Bundle, error) {
	b, err := bundle.Open(r)
	switch {
	case errors.Is(err, bundle.ErrTruncated):
		return nil, &Error{Reason: Truncated, Err: err}
	case errors.Is(err, bundle.ErrForeign):
		return nil, &Error{Reason: NotRepository, Err: err}
	case err != nil:
		return nil, err
	}
	return &Bundle{b}, nil
}

// Target returns a reader of the bundle's target that ends with an error unless it is f.
func (b *Bundle) Target(f File) io.Reader { return bundle.Verify(b.r, f.Size, f.SHA256) }

func (b *Bundle) live() bool { return false }

func (b *Bundle) locate(path string, size int64, sha256 string) string {
	if b.r.Size != size || b.r.Target != bundle.HashedPath(path, sha256) {
		return ""
	}
	return b.r.Target
}

func (b *Bundle) metadata(_ context.Context, name string, most int64) ([]byte, error) {
	data, ok := b.r.Metadata(name)
	switch {
	case !ok:
		return nil, &Error{Reason: NoAnswer, Status: http.StatusNotFound, Err: fmt.Errorf("there is no %s in the file", name)}
	case int64(len(data)) > most:
		return nil, failf(TooLarge, "%s: more than %d bytes", name, most)
	}
	return data, nil
}
