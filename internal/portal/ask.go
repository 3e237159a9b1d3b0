package portal

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/settings"
)

// How long the network service may take.
const (
	changeTime = 10 * time.Second // to save a change and to apply it
	testTime   = 50 * time.Second // to check the table of ports
)

// requestOf says who asks for something, for the network service: what it knows of the connection
// itself, and nothing that a header claims.
func requestOf(ctx context.Context, remote string) network.Request {
	r := network.Request{By: byPortal}
	if from, err := netip.ParseAddrPort(remote); err == nil {
		r.From = from.Addr().Unmap()
	}
	if local, ok := ctx.Value(http.LocalAddrContextKey).(interface{ AddrPort() netip.AddrPort }); ok {
		r.ArrivedOn = local.AddrPort().Addr().Unmap()
	}
	return r
}

// byPortal is who changes something, as the diary names it, until people sign in.
const byPortal = "portal"

// A kept answer costs many viewers as much as one.
type kept[T any] struct {
	mu    sync.Mutex // guards what follows, and lets one ask at a time
	asked time.Time
	v     T
	err   error
}

// get returns the last answer, or what ask finds if that one is older than keep.
func (k *kept[T]) get(keep time.Duration, ask func() (T, error)) (T, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.asked.IsZero() || time.Since(k.asked) >= keep {
		k.v, k.err = ask()
		k.asked = time.Now()
	}
	return k.v, k.err
}

// change asks the network service for a change, and sees to it that the next page shows what became of it.
func (p *Portal) change(ctx context.Context, f func(context.Context) (network.Status, error)) (network.Status, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTime) // begun is begun, whoever leaves
	defer cancel()
	defer p.forget()
	s, err := f(ctx)
	return whole(s), err
}

// refusalOf returns the network service's refusal, nil for an error of another kind.
func refusalOf(err error) *network.Refusal {
	refusal, _ := errors.AsType[*network.Refusal](err)
	return refusal
}

// answers are what the network service said last, beyond its state.
type answers struct {
	settings kept[settings.Settings]
	diary    kept[[]diary.Entry]
	table    kept[[]portmap.Row]
	selfTest kept[[]portmap.Result]
}

// lookUp gets k, asking with f for no longer than limit.
func lookUp[T any](ctx context.Context, k *kept[T], keep, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	return k.get(keep, func() (T, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit) // others wait for it too
		defer cancel()
		return f(ctx)
	})
}

// settings returns the settings in force.
func (p *Portal) settings(ctx context.Context) (settings.Settings, error) {
	return lookUp(ctx, &p.answers.settings, 0, askTime, p.network.Settings)
}

// diary returns the timeline, the oldest entry first. It is not to be changed.
func (p *Portal) diary(ctx context.Context) ([]diary.Entry, error) {
	return lookUp(ctx, &p.answers.diary, p.keep, askTime, func(ctx context.Context) ([]diary.Entry, error) { return p.network.Diary(ctx, 0) })
}

// table returns the table of ports. It is not to be changed.
func (p *Portal) table(ctx context.Context) ([]portmap.Row, error) {
	return lookUp(ctx, &p.answers.table, p.keep, askTime, p.network.PortMap)
}

// selfTest returns the table of ports, checked, with what r proves. One check is enough for all who
// ask meanwhile.
func (p *Portal) selfTest(ctx context.Context, r network.Request) ([]portmap.Result, error) {
	results, err := lookUp(ctx, &p.answers.selfTest, p.keep, testTime, p.network.SelfTest)
	if err != nil {
		return nil, err
	}
	e := portmap.Evidence{Visitor: r.From}
	s, _ := p.networkStatus(ctx)
	for _, port := range s.Ports {
		for _, a := range port.Addresses {
			switch a.Source {
			case network.DHCP:
				e.DHCP = a.Prefix
			case network.DHCP6:
				e.DHCPv6 = a.Prefix
			}
		}
	}
	return portmap.With(results, e), nil
}
