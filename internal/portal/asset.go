package portal

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

//go:embed page/*.html page/*.json page/*.css page/*.js page/*.svg page/vendor/*.css page/vendor/*.js
var files embed.FS

// assets are the files that pages refer to, by name, and where they lie in files.
var assets = map[string]string{
	"htmx.min.js":  "page/vendor/htmx.min.js",
	"pico.min.css": "page/vendor/pico.min.css",
	"portal.js":    "page/portal.js",
	"find.js":      "page/find.js",
	"upload.js":    "page/upload.js",
	"style.css":    "page/style.css",
	"logo.svg":     "page/logo.svg",
	"icons.svg":    "page/icons.svg",
}

var assetTypes = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

// fingerprint is part of every asset's address, so that browsers may keep assets for good. One for
// all of them lets a style sheet name an icon beside it.
var fingerprint = sync.OnceValue(func() string {
	h := sha256.New()
	for _, name := range sortedKeys(assets) {
		h.Write(content(name))
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
})

// contents are the assets: one copy, however many clients are slow to take them.
var contents = sync.OnceValue(func() map[string][]byte {
	all := map[string][]byte{}
	for name, path := range assets {
		b, err := files.ReadFile(path)
		if err != nil {
			panic("portal: " + err.Error()) // embedded: every test would have seen it
		}
		all[name] = b
	}
	return all
})

func content(asset string) []byte { return contents()[asset] }

// compressed keeps what compress made of each asset.
var compressed sync.Map // name → func() []byte

func compress(asset string) []byte {
	once, _ := compressed.LoadOrStore(asset, sync.OnceValue(func() []byte {
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
		z.Write(content(asset)) // to memory: cannot fail
		z.Close()
		return b.Bytes()
	}))
	return once.(func() []byte)()
}

func (p *Portal) asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if _, ok := assets[name]; !ok || r.PathValue("fingerprint") != fingerprint() {
		p.fail(w, r, http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", assetTypes[path.Ext(name)])
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Vary", "Accept-Encoding")
	b := content(name)
	if takesGzip(r) {
		h.Set("Content-Encoding", "gzip")
		b = compress(name)
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.Write(b)
}

// takesGzip tells whether the client said that it takes gzip.
func takesGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		coding, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.TrimSpace(coding) != "gzip" {
			continue
		}
		v, found := strings.CutPrefix(strings.TrimSpace(q), "q=")
		weight, err := strconv.ParseFloat(v, 64)
		return !found || err == nil && weight > 0
	}
	return false
}
