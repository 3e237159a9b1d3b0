package ntp

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const port = 123

// A host is a server's name, taken apart.
type host struct {
	named string
	name  string     // to be resolved, unless
	addr  netip.Addr // is valid
	port  uint16
}

// CheckServer tells what is wrong with an NTP server's name: it is a host name or an address, with a
// port if that is not 123.
func CheckServer(s string) error {
	_, err := parseHost(s)
	return err
}

func parseHost(s string) (host, error) {
	bad := func(why string) (host, error) {
		return host{}, fmt.Errorf("NTP server %.80q: %s: write a host name or an address, such as ntp.example.com, 192.0.2.1 or [2001:db8::1]:123", s, why)
	}
	if len(s) > 300 {
		return bad("it is too long")
	}
	h := host{named: s, name: s, port: port}
	if addr, err := netip.ParseAddr(s); err == nil { // before a colon could mean a port
		h.addr, h.name = addr.Unmap(), ""
	} else {
		name, number, hasPort := s, "", false
		if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
			name, number, hasPort = s[:i], s[i+1:], true
		}
		if hasPort {
			n, err := strconv.ParseUint(number, 10, 16)
			if err != nil || n == 0 {
				return bad("the port is no number from 1 to 65535")
			}
			h.port = uint16(n)
		}
		h.name = name
		if inner, ok := strings.CutPrefix(name, "["); ok {
			inner, ok = strings.CutSuffix(inner, "]")
			addr, err := netip.ParseAddr(inner)
			if !ok || err != nil || !addr.Is6() {
				return bad("there is no IPv6 address in brackets")
			}
			h.addr, h.name = addr.Unmap(), ""
		} else if addr, err := netip.ParseAddr(name); err == nil && addr.Is4() {
			h.addr, h.name = addr, ""
		}
	}
	if h.addr.IsValid() {
		if !askable(h.addr) {
			return bad("this address is nobody's")
		}
		return h, nil
	}
	if !isHostname(h.name) {
		return bad("it is neither")
	}
	return h, nil
}

// askable tells whether a server may have this address.
func askable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// isHostname tells whether s is one by RFC 1123. One whose last label is all digits would be an
// address with a slip in it.
func isHostname(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i] | 0x20; label[i] != '-' && (label[i] < '0' || label[i] > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// String names the server and, where they differ, its address.
func (s Server) String() string {
	if s.Name == s.Address.Addr().String() || s.Name == s.Address.String() {
		return s.Name
	}
	return fmt.Sprintf("%s (%v)", s.Name, s.Address.Addr())
}
