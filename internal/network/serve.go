package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"cloudlink.local/gateway/internal/network/dhcp4"
)

// A snapshot is what was last seen. Nobody changes it: an answer never waits for the kernel.
type snapshot struct {
	ports  []port
	addrs  []addr
	port   int // the one that has lease
	lease  *dhcp4.Lease
	search time.Time
}

// look publishes the kernel's state as it is now.
func (s *service) look() error {
	now := time.Now()
	ports, err := listPorts(s.isPort)
	if err != nil {
		return err
	}
	addrs, err := listAddrs(now)
	if err != nil {
		return err
	}
	s.published.Store(&snapshot{ports, addrs, s.port, s.lease, s.search})
	return nil
}

// status is the snapshot in words, now.
func (s *snapshot) status(now time.Time) Status {
	list := Status{Ports: []Port{}}
	for i, p := range s.ports {
		port := Port{
			Name:      p.name,
			MAC:       p.mac.String(),
			Link:      p.link,
			SpeedMbps: p.speed,
			Addresses: []Address{},
		}
		for _, a := range s.addrs {
			if a.port != p.index {
				continue
			}
			address := Address{Prefix: a.prefix, Source: Manual}
			switch {
			case a.ours:
				address.Source = DHCP
			case a.prefix.Addr().Is6():
				address.Source = Kernel
			}
			if !a.expires.IsZero() {
				address.ValidSeconds = max(1, int64(a.expires.Sub(now)/time.Second)) // 0 would be for ever
			}
			port.Addresses = append(port.Addresses, address)
		}
		if s.lease != nil && s.port == p.index {
			port.Gateway, port.DNS = s.lease.Gateway, s.lease.DNS
		}
		if i == 0 && !s.search.IsZero() {
			port.SearchingSeconds = int64(now.Sub(s.search) / time.Second)
		}
		list.Ports = append(list.Ports, port)
	}
	return list
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(s.published.Load().status(time.Now())) // an error is the asker's, who is gone
	})
	return mux
}

// listen opens the service's socket, in place of one that a killed process left behind. Whoever
// reaches it may ask: its directory lets nobody but the services in.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}
