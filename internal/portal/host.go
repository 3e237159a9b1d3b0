package portal

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"cloudlink.local/gateway/internal/network"
)

// ownNames are what the gateway is called in the LAN.
type ownNames struct {
	Host   string   // as set; another gateway may have it instead
	Unique string   // of the serial number, nobody else's; "" while that is not known
	Others []string // under which it is asked for besides
}

const (
	local       = ".local"
	defaultHost = "cloudlink" + local // the name that a gateway has unless it is set otherwise
)

// names returns the gateway's names. All that the portal does with names begins here.
func (g *gatherer) names(ctx context.Context) ownNames {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refresh(ctx, PartNetwork)
	if g.called.Host != "" {
		return g.called
	}
	if g.serial == "" {
		g.refresh(ctx, allParts...)
	}
	return ownNames{Host: defaultHost, Unique: uniqueName(g.serial)}
}

// learnNames takes down what the network service calls the gateway. It is called with mu held.
func (g *gatherer) learnNames(n network.Names) {
	if !isLocal(n.Host) {
		return
	}
	if before := g.called.Host; before != n.Host {
		g.former = before // who changes the name has pages open under the one before
	}
	g.called = ownNames{Host: n.Host}
	if isLocal(n.Unique) {
		g.called.Unique = n.Unique
	}
	if g.former != "" {
		g.called.Others = append(g.called.Others, g.former)
	}
	for _, port := range n.Ports {
		for _, name := range port.Names { // a number was added where another device has even the unique one
			if host := strings.ToLower(name.Name); isLocal(host) && !g.called.has(host) {
				g.called.Others = append(g.called.Others, host)
			}
		}
	}
}

// uniqueName is the name that is made of the serial number, "" where none can be made of it.
func uniqueName(serial string) string {
	name := "cloudlink-" + strings.ToLower(serial) + local
	if !isLocal(name) {
		return ""
	}
	return name
}

// list returns the names that there are.
func (n ownNames) list() []string {
	if n.Unique == "" || n.Unique == n.Host {
		return []string{n.Host}
	}
	return []string{n.Host, n.Unique}
}

// isLocal says whether s is a host name of one label in .local, in lower case. What is none gets into
// no address and no header.
func isLocal(s string) bool {
	label, ok := strings.CutSuffix(s, local)
	return ok && label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-' &&
		!strings.ContainsFunc(label, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
}

// ownHost tells whether host, of a request's Host header, is a name of this gateway. A page of the
// internet whose name was made to point here (DNS rebinding) comes under its own name and is not
// let in. An IP address is no name that could be made to point anywhere.
func ownHost(host string, own ownNames) bool {
	name, ip, ok := cutHost(host)
	return ok && (ip.IsValid() || own.has(name))
}

// has says whether name, in lower case, is one of ours. This computer itself is always meant by
// localhost.
func (n ownNames) has(name string) bool {
	return name == defaultHost || name == "localhost" ||
		name != "" && (slices.Contains(n.list(), name) || slices.Contains(n.Others, name))
}

// cutHost takes a Host header apart: into a name in lower case, or an IP address without its zone.
func cutHost(host string) (name string, ip netip.Addr, ok bool) {
	name = host
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		var port string
		var err error
		if name, port, err = net.SplitHostPort(host); err != nil {
			return "", ip, false
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", ip, false
		}
		if strings.ContainsRune(name, ':') {
			name = "[" + name + "]"
		}
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		return "", ip.WithZone(""), ok && err == nil && ip.Is6()
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		return "", ip, ip.Is4()
	}
	return strings.ToLower(strings.TrimSuffix(name, ".")), ip, true
}

// ownOrigin tells whether origin, of a request's Origin header, is a page of this gateway, or of
// another one beside it in the same LAN, which has to be told apart from this one. That is a name of
// ours, an address of ours, or one on a network of ours: no page of the internet is any of these.
// arrived is the address that the request came in on.
func ownOrigin(origin string, own ownNames, ports []network.Port, arrived netip.Addr) bool {
	rest, ok := strings.CutPrefix(origin, "http://")
	if u, err := url.Parse(origin); !ok || err != nil || u.Host != rest {
		return false // it has a path, a user or the like: no browser's origin has
	}
	name, ip, ok := cutHost(rest)
	if !ok || !ip.IsValid() {
		return ok && own.has(name)
	}
	ip = ip.Unmap()
	if ip.IsLoopback() || ip == arrived {
		return true
	}
	for _, port := range ports {
		if slices.ContainsFunc(port.Addresses, func(a network.Address) bool { return a.Prefix.Contains(ip) }) {
			return true
		}
	}
	return false
}
