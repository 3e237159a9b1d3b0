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

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/logring"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/supervise/sandbox"
)

// Main runs a service in this process, within rules, until it is asked to stop. It returns the
// exit status. ready is to be called once, when the service does its work.
func Main(rules sandbox.Rules, run func(ctx context.Context, ready func(), log *slog.Logger) error) int {
	log := Logger(os.Stderr)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	ready := readiness(os.Getenv("CLOUDLINK_READY_FD"))
	os.Unsetenv("CLOUDLINK_READY_FD")
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

// readiness returns what tells the supervisor, at most once; nothing where nobody asked.
func readiness(env string) func() {
	fd, err := strconv.Atoi(env)
	if err != nil || fd < 3 {
		return func() {}
	}
	unix.CloseOnExec(fd) // no child of the service keeps it open
	return sync.OnceFunc(func() {
		unix.Write(fd, []byte("ready\n"))
		unix.Close(fd)
	})
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
