package main

import (
	"fmt"
	"time"

	"cloudlink.local/gateway/internal/mdns/conformance"
	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

// How often each is asked, and how fast: one host may ask us 50 times a second.
const (
	questions = 1000
	each      = 25 * time.Millisecond
)

// measureAnswer measures the time from a question for a unique record to its answer, both as the
// kernel had them at the asking end of a cable. The two are asked in turn.
func measureAnswer(h *harness, result map[string]any) {
	kinds := []mdnstest.Kind{mdnstest.Ours, mdnstest.Avahi}
	watches, took := map[mdnstest.Kind]*conformance.Stopwatch{}, map[mdnstest.Kind][]time.Duration{}
	for _, kind := range kinds {
		w, err := conformance.NewStopwatch(h, kind)
		if err != nil {
			h.Fatalf("%s: %v", kind, err)
		}
		watches[kind] = w
	}
	again := time.NewTicker(each)
	defer again.Stop()
	for range questions {
		for _, kind := range kinds {
			d, err := watches[kind].Ask()
			if err != nil {
				h.Fatalf("%s: %v", kind, err)
			}
			took[kind] = append(took[kind], d)
		}
		<-again.C
	}
	p99, half := map[string]any{}, map[string]any{}
	for _, kind := range kinds {
		fmt.Printf("%s answers in %v (median), %v (99 of 100), %v (all)\n",
			kind, median(took[kind]), percentile99(took[kind]), quantile(took[kind], 1))
		half[string(kind)] = round(float64(median(took[kind]).Nanoseconds()) / 1000)
		p99[string(kind)] = round(float64(percentile99(took[kind]).Nanoseconds()) / 1000)
	}
	p99["ratio"] = round(float64(percentile99(took[mdnstest.Ours])) / float64(percentile99(took[mdnstest.Avahi])))
	result["answer_p99_us"], result["answer_median_us"] = p99, half
}
