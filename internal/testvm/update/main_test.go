package update

import (
	"flag"
	"os"
	"testing"
)

// parallel machines mostly wait for trials to prove themselves.
const parallel = "5"

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", parallel); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
