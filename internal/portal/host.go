package portal

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// ownHost tells whether host, of a request's Host header, is a name of this gateway. A page of the
// internet whose name was made to point here (DNS rebinding) comes under its own name and is not
// let in. An IP address is no name that could be made to point anywhere.
func ownHost(host, serial string) bool {
	name := host
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		var port string
		var err error
		if name, port, err = net.SplitHostPort(host); err != nil {
			return false
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
		if strings.ContainsRune(name, ':') {
			name = "[" + name + "]"
		}
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		return ok && err == nil && ip.Is6()
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.Is4()
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "cloudlink.local" || name == "localhost" ||
		serial != "" && name == "cloudlink-"+strings.ToLower(serial)+".local"
}
