package conformance

import (
	"flag"
	"testing"

	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

var kind = flag.String("kind", string(mdnstest.Ours), "the program to play to: ours, avahi or resolved")

func TestMain(m *testing.M) { mdnstest.Main(m) }

func TestRFC(t *testing.T) {
	for _, sc := range Scenarios {
		t.Run(sc.Name, func(t *testing.T) {
			t.Parallel()
			if err := Run(t, mdnstest.Kind(*kind), sc); err != nil {
				t.Error(err)
			}
		})
	}
}
