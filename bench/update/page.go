package main

import (
	"net/http"
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

// awaitPage asks for the page until it opens, and returns when that was.
func awaitPage(t *harness.T, g *vm.Gateway) time.Time {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(pause) {
		if resp, err := client.Get(g.URL("/")); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Now()
			}
		}
	}
	t.Fatal("the page does not open within two minutes of power-on")
	return time.Time{}
}
