package conformance

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

var kind = flag.String("kind", string(mdnstest.Ours), "the program to play to: ours, avahi or resolved")

func TestMain(m *testing.M) {
	mdnstest.BeOurs()
	flag.Parse()
	// The scenarios wait most of their time.
	if err := flag.Set("test.parallel", "24"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	mdnstest.Main(m)
}

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
