package portal

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = "192.0.2.1"
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestPages(t *testing.T) {
	for _, g := range []*gateway{sample(), faulty()} {
		p := newPortal(t, g)
		for _, path := range []string{"/", "/live", "/log", "/log/live", "/log.txt", "/licences", "/licences/notices.txt", "/browsers", "/api/v1/status", "/api/v1/log", "/api/openapi.json", "/api/openapi.yaml", "/nowhere", "/api/nowhere", "/?lang=de"} {
			resp := get(t, p, path, "Accept-Language", "de")
			var b strings.Builder
			resp.Write(&b)
			t.Log(path, b.String())
		}
	}
}
