package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"cloudlink.local/gateway/bench/internal/harness"
	vm "cloudlink.local/gateway/internal/testvm/update"
)

// How the page is asked for: by one browser, which gives an attempt up soon. An attempt that comes while
// nobody has the address is repeated by QEMU's network only after seconds; with many of them at once
// the gateway would bound what one client may hold.
const (
	pause    = 50 * time.Millisecond
	patience = 500 * time.Millisecond
)

// A watcher asks for the page all the time, and notes when it was there.
type watcher struct {
	stop func()

	mu   sync.Mutex
	seen []time.Time
}

func watch(g *vm.Gateway) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	url := g.URL("/")
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			if resp, err := client.Get(url); err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					w.mu.Lock()
					w.seen = append(w.seen, time.Now())
					w.mu.Unlock()
				}
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	})
	w.stop = func() { cancel(); asking.Wait() }
	return w
}

// first is when the page was there for the first time; it waits for that.
func (w *watcher) first(t *harness.T) time.Time {
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		seen := w.seen
		w.mu.Unlock()
		if len(seen) > 0 {
			return seen[0]
		}
	}
	t.Fatal("the page does not open within two minutes of power-on")
	return time.Time{}
}

// longest is the longest time between two sights of the page.
func (w *watcher) longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var longest time.Duration
	for i := 1; i < len(w.seen); i++ {
		longest = max(longest, w.seen[i].Sub(w.seen[i-1]))
	}
	return longest
}
