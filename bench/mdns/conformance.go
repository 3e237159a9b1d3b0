package main

import (
	"fmt"
	"strings"
	"sync"

	"cloudlink.local/gateway/bench/internal/harness"
	"cloudlink.local/gateway/internal/mdns/conformance"
	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

// together is how many scenarios are played at a time: they wait, mostly.
const together = 24

// measureConformance plays all scenarios to all programs, and lists what each fails.
func measureConformance(h *harness.T, result map[string]any) {
	kinds := []mdnstest.Kind{mdnstest.Ours, mdnstest.Avahi, mdnstest.Resolved}
	all := conformance.Scenarios
	verdicts := map[mdnstest.Kind][]error{}
	var playing sync.WaitGroup
	var broken sync.Once
	var why error // something other than a program's behaviour
	room := make(chan struct{}, together)
	for _, kind := range kinds {
		verdicts[kind] = make([]error, len(all))
		for i, sc := range all {
			room <- struct{}{}
			playing.Go(func() {
				defer func() { <-room }()
				err := harness.Try(files, func(h *harness.T) { verdicts[kind][i] = conformance.Run(h, kind, sc) })
				if err != nil {
					broken.Do(func() { why = fmt.Errorf("%s: %s: %w", kind, sc.Name, err) })
				}
			})
		}
	}
	playing.Wait()
	if why != nil {
		h.Fatal(why)
	}
	scores := map[string]any{"total": len(all)}
	for _, kind := range kinds {
		passed := 0
		for i, err := range verdicts[kind] {
			if err == nil {
				passed++
				continue
			}
			reason, _, _ := strings.Cut(err.Error(), "\n")
			if len(reason) > 160 {
				reason = reason[:160] + "…"
			}
			fmt.Printf("%s fails %s: %s\n", kind, all[i].Name, reason)
		}
		scores[string(kind)] = map[string]int{"passed": passed}
	}
	result["conformance"] = scores
}
