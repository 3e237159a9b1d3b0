package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"cloudlink.local/gateway/bench/internal/harness"
	vm "cloudlink.local/gateway/internal/testvm/update"
)

// How the page is asked for. An attempt that comes while nobody has the address is repeated by QEMU's
// network only after a second and more, so attempts are many and each is given up soon.
const (
	every    = 100 * time.Millisecond
	patience = time.Second
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
	ask := func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			return
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			w.mu.Lock()
			w.seen = append(w.seen, time.Now())
			w.mu.Unlock()
		}
	}
	asking.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			asking.Go(ask)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	w.stop = func() { cancel(); asking.Wait() }
	return w
}

// back is when the page was there for the first time; the zero time: not yet.
func (w *watcher) back() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) == 0 {
		return time.Time{}
	}
	return w.seen[0]
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

func (w *watcher) await(t *harness.T, what string, good func() bool) {
	for deadline := time.Now().Add(2 * time.Minute); !good(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it takes too long", what)
		}
	}
}
