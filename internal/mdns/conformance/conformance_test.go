package conformance

import (
	"flag"
	"os"
	"testing"

	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

func TestMain(m *testing.M) {
	// The scenarios wait most of their time.
	flag.Parse()
	flag.Set("test.parallel", "24")
	mdnstest.Main(m)
}

func TestRFC(t *testing.T) {
	kind := mdnstest.Ours
	if k := os.Getenv("CONFORMANCE_KIND"); k != "" {
		kind = mdnstest.Kind(k)
	}
	for _, sc := range Scenarios {
		t.Run(sc.Name, func(t *testing.T) {
			t.Parallel()
			if err := Run(t, kind, sc); err != nil {
				t.Error(err)
			}
		})
	}
}
