// Package portal serves the gateway's pages and its JSON API to the LAN, over plain HTTP: a
// ".local" name has no certificate. It holds no state of its own; what it shows it asks process 1
// and the services for.
package portal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update"
)

// Notices is where the image builder puts the third-party notices.
const Notices = "/usr/share/cloudlink/notices.txt.gz"

const (
	port       = 80
	maxHeader  = 16 << 10         // bytes of a request's header
	maxBody    = 64 << 10         // bytes of a request's body; of a bundle's more
	graceAtEnd = 2 * time.Second  // for answers under way when we are told to stop
	headerTime = 5 * time.Second  // to send a request's header in
	readTime   = 10 * time.Second // to send a whole request in
	writeTime  = 30 * time.Second // to take an answer in; the notices are the longest
	turnTime   = 8 * time.Second  // to take a log in, while others wait for their turn
	idleTime   = 60 * time.Second // a browser polls every two seconds
)

// Run serves until ctx ends.
func Run(ctx context.Context, ready func(), log *slog.Logger) error {
	rel, err := release.Load(release.File)
	if err != nil {
		log.Warn("version is unknown", "error", err) // the pages are needed all the more
	}
	ln, err := listen(ctx, port)
	if err != nil {
		return err
	}
	return Serve(ctx, ln, ready, New(Config{
		Release: rel,
		Machine: machine.NewClient(),
		Network: network.NewClient(),
		Update:  update.NewClient(),
		Notices: Notices,
		Log:     log,
	}))
}

// listen opens port on every address of both families, or of IPv4 where the kernel has no IPv6.
// Left to itself package net would bind other ports first, to learn whether there is IPv6; the
// sandbox forbids that, and package net would take it for a no.
func listen(ctx context.Context, port uint16) (net.Listener, error) {
	both := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
		})
		return errors.Join(err, set)
	}}
	ln, err := both.Listen(ctx, "tcp6", fmt.Sprintf("[::]:%d", port))
	if errors.Is(err, unix.EAFNOSUPPORT) {
		ln, err = net.Listen("tcp4", fmt.Sprintf(":%d", port))
	}
	if err != nil {
		return nil, fmt.Errorf("open port %d: %w", port, err)
	}
	return ln, nil
}

// Serve answers on ln, with bounds on what a client can hold, until ctx ends. It closes ln.
func Serve(ctx context.Context, ln net.Listener, ready func(), p *Portal) error {
	srv := &http.Server{
		Handler:           p,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       readTime,
		WriteTimeout:      writeTime,
		IdleTimeout:       idleTime,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug), // clients can cause these lines

		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.Background(), endsKey{}, ctx.Done())
		},
		DisableGeneralOptionsHandler: true, // "OPTIONS *" gets our headers too
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(limit(ln)) }()
	p.log.Info("serving", "address", ln.Addr().String())
	ready() // connections wait in ln's backlog from now on
	var warm sync.WaitGroup
	defer warm.Wait()
	warm.Go(p.warm) // while the network comes up
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceAtEnd)
	defer cancel()
	err := srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close() // who is still reading has had the time
	}
	<-ended
	if err != nil {
		return fmt.Errorf("stop serving: %w", err)
	}
	return nil
}
