// Package console is the service that shows the gateway's state on its screen and serial lines,
// and a menu when somebody presses Enter there.
package console

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/update"
)

// Machine is what the console asks of process 1.
type Machine interface {
	Status(context.Context) (machine.Status, error)
	Log(ctx context.Context, after uint64, level machine.Level) ([]machine.Entry, error)
	Restart(context.Context) error
	PowerOff(context.Context) error
}

// Network is what the console asks of the network service.
type Network interface {
	Status(context.Context) (network.Status, error)
}

// Update is what the console asks of the update service.
type Update interface {
	Status(context.Context) (update.Status, error)
}

// Run is the service console, on every terminal that the kernel has for consoles.
func Run(ctx context.Context, ready func(), log *slog.Logger) error {
	c := &console{machine: machine.NewClient(), network: network.NewClient(), update: update.NewClient(), shells: shells, log: log}
	return c.run(ctx, ready, ttys("/sys/class/tty/console/active", "/dev"))
}

const (
	period  = time.Second     // between two looks at the gateway
	askTime = time.Second     // for one part to answer
	logTime = 5 * time.Second // for process 1 to answer with its log
)

// A console is the terminals and whom they ask.
type console struct {
	machine Machine
	network Network
	update  Update
	shells  []string
	log     *slog.Logger
}

func (c *console) run(ctx context.Context, ready func(), paths []string) error {
	var all sync.WaitGroup
	var terminals []*terminal
	for _, path := range paths {
		t := &terminal{console: c, path: path, views: make(chan View, 1)}
		t.dialogue = dialogue{place: atScreen, lang: &english}
		terminals = append(terminals, t)
		all.Go(func() { t.run(ctx) })
	}
	defer all.Wait()
	ready()
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		v := c.look(ctx)
		for _, t := range terminals { // one that is busy finds the newest when it has time
			select {
			case <-t.views:
			default:
			}
			t.views <- v
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// look asks all parts at once.
func (c *console) look(ctx context.Context) View {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var v View
	var others sync.WaitGroup
	others.Go(func() {
		if s, err := c.network.Status(ctx); err == nil {
			v.Network = &s
		}
	})
	others.Go(func() {
		if s, err := c.update.Status(ctx); err == nil {
			v.Update = &s
		}
	})
	if s, err := c.machine.Status(ctx); err == nil {
		v.Machine = &s
	}
	others.Wait()
	return v
}
