// Package service is a service's side of package supervise: it shuts the process in, tells process
// 1 when the service is ready, and passes its log on.
package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/logring"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/supervise"
	"cloudlink.local/gateway/internal/supervise/sandbox"
)

// Main runs a service in this process, within rules, until it is asked to stop. It returns the
// exit status. ready is to be called once, when the service does its work.
func Main(rules sandbox.Rules, run func(ctx context.Context, ready func(), log *slog.Logger) error) int {
	log := Logger(os.Stderr)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	tell := supervisor(os.Getenv("CLOUDLINK_READY_FD"))
	os.Unsetenv("CLOUDLINK_READY_FD")
	var beating sync.WaitGroup
	defer beating.Wait()
	defer stop() // ends it
	ready := sync.OnceFunc(func() {
		tell(supervise.Ready)
		beating.Go(func() { beat(ctx, tell) })
	})
	if err := rules.Enter(); err != nil {
		log.Error("shut the service in", "error", err)
		return 1
	}
	if err := run(ctx, ready, log); err != nil {
		log.Error(err.Error())
		return 1
	}
	return 0
}

// supervisor returns what writes a line to process 1; nothing does where nobody asked for it.
func supervisor(env string) (tell func(word string)) {
	fd, err := strconv.Atoi(env)
	if err != nil || fd < 3 {
		return func(string) {}
	}
	unix.CloseOnExec(fd) // no child of the service keeps it open
	return func(word string) { unix.Write(fd, []byte(word+"\n")) }
}

// beat says that this process lives, until ctx ends.
func beat(ctx context.Context, tell func(string)) {
	again := time.NewTicker(supervise.Beat)
	defer again.Stop()
	for {
		tell(supervise.Alive)
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// Logger returns a logger that writes lines as the supervisor reads them: "<LEVEL>text".
func Logger(w io.Writer) *slog.Logger {
	var mu sync.Mutex // one line after the other
	return slog.New(logring.NewHandler(func(level machine.Level, text string) {
		line := fmt.Appendf(nil, "<%d>%s\n", level, logring.Clean(text))
		mu.Lock()
		defer mu.Unlock()
		w.Write(line)
	}))
}
