package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/update/bundle"
)

// served are the files of a repository. Everything else is not there, whatever lies in the folder.
var served = regexp.MustCompile(`^/(metadata/([0-9]+\.(root|targets|snapshot)|timestamp)\.json|targets/[a-z0-9-]+/[0-9a-f]{64}\.[0-9A-Za-z.+-]+|bundles/[0-9A-Za-z.+-]+\.bundle)$`)

// Handler serves the repository in dir.
func Handler(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		if !served.MatchString(req.URL.Path) {
			http.NotFound(w, req)
			return
		}
		root, err := os.OpenRoot(dir) // no link leads out of it
		if err != nil {
			http.Error(w, "the repository is not there", http.StatusServiceUnavailable)
			return
		}
		defer root.Close()
		f, err := root.Open(filepath.FromSlash(strings.TrimPrefix(req.URL.Path, "/")))
		if err != nil {
			http.NotFound(w, req)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			http.NotFound(w, req)
			return
		}
		// Only the timestamp ever changes, and the bundles when keys do.
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("Content-Type", "application/octet-stream")
		if strings.HasSuffix(req.URL.Path, ".json") {
			w.Header().Set("Content-Type", "application/json")
		}
		if strings.HasPrefix(req.URL.Path, "/"+bundle.TargetsFolder+"/") {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
			sum, _, _ := strings.Cut(filepath.Base(req.URL.Path), ".")
			w.Header().Set("ETag", `"`+sum+`"`)
		}
		http.ServeContent(w, req, "", info.ModTime(), f)
	})
}

// Serve serves the repository in dir at address until ctx ends; it tells ready where.
func Serve(ctx context.Context, dir, address string, ready func(url string)) error {
	if _, err := os.Stat(filepath.Join(dir, bundle.MetadataFolder, timestampFile)); err != nil {
		return fmt.Errorf("%s is no repository: name one with -repo, or make it with go run ./firmware publish", dir)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen at %s: %w: name another address with -listen", address, err)
	}
	s := &http.Server{Handler: Handler(dir), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	ready("http://" + l.Addr().String() + "/")
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
