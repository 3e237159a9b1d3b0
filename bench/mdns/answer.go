package main

import (
	"fmt"
	"slices"
	"time"

	"cloudlink.local/gateway/bench/internal/harness"
	"cloudlink.local/gateway/internal/mdns/conformance"
	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

// How often each is asked, and how fast: one host may ask us 50 times a second.
const (
	blocks   = 20
	perBlock = 100
	each     = 25 * time.Millisecond
)

// measureAnswer measures the time from a question for a unique record to its answer, both as the
// kernel had them at the asking end of a cable. The two are asked in turn, each after the same silence: who
// is asked right after another finds a machine awake. The slowest answer but one is taken of each hundred,
// and of these the median: a machine that now and then stands still for some milliseconds decides about few
// of the blocks only.
func measureAnswer(h *harness.T, result map[string]any) {
	kinds := []mdnstest.Kind{mdnstest.Ours, mdnstest.Avahi}
	watches, took := map[mdnstest.Kind]*conformance.Stopwatch{}, map[mdnstest.Kind][]time.Duration{}
	for _, kind := range kinds {
		w, err := conformance.NewStopwatch(h, kind)
		if err != nil {
			h.Fatalf("%s: %v", kind, err)
		}
		watches[kind] = w
	}
	again := time.NewTicker(each / 2)
	defer again.Stop()
	for range blocks * perBlock {
		for _, kind := range kinds {
			d, err := watches[kind].Ask()
			if err != nil {
				h.Fatalf("%s: %v", kind, err)
			}
			took[kind] = append(took[kind], d)
			<-again.C
		}
	}
	p99, half := map[mdnstest.Kind]time.Duration{}, map[mdnstest.Kind]time.Duration{}
	for _, kind := range kinds {
		var slow []time.Duration
		for block := range slices.Chunk(took[kind], perBlock) {
			slow = append(slow, slices.Sorted(slices.Values(block))[perBlock-2])
		}
		p99[kind], half[kind] = harness.Median(slow), harness.Median(took[kind])
		fmt.Printf("%s answers in %v (median), %v (99 of 100), %v (99 of 100 of all), %v (all)\n",
			kind, half[kind], p99[kind], quantile(took[kind], 0.99), quantile(took[kind], 1))
	}
	for name, of := range map[string]map[mdnstest.Kind]time.Duration{"answer_p99_us": p99, "answer_median_us": half} {
		result[name] = map[string]float64{
			"ours":  harness.Round(float64(of[mdnstest.Ours].Nanoseconds()) / 1000),
			"avahi": harness.Round(float64(of[mdnstest.Avahi].Nanoseconds()) / 1000),
			"ratio": harness.Round(float64(of[mdnstest.Ours]) / float64(of[mdnstest.Avahi])),
		}
	}
}
