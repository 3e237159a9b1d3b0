package ipv6

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// maxName is the length of the longest domain name (RFC 1035 §2.3.4), without the last dot.
const maxName = 253

// parseNames reads a list of names as in DNS, but without pointers (RFC 8106 §5.2, RFC 8415 §10). Empty
// names fill up the rest. They end up in files that others read, so only what names are made of is let
// through.
func parseNames(b []byte) ([]string, error) {
	var list []string
	for len(b) > 0 {
		var labels []string
		for {
			if len(b) == 0 {
				return nil, errors.New("a name is cut off")
			}
			n := int(b[0])
			if b = b[1:]; n == 0 {
				break
			}
			if n > 63 || n > len(b) {
				return nil, errors.New("a label is too long")
			}
			if !label(b[:n]) {
				return nil, fmt.Errorf("label %.20q is none", b[:n])
			}
			labels = append(labels, string(b[:n]))
			b = b[n:]
		}
		name := strings.Join(labels, ".")
		if len(name) > maxName {
			return nil, errors.New("a name is too long")
		}
		if name != "" {
			list = append(list, name)
		}
	}
	return list, nil
}

func label(s []byte) bool {
	if len(s) == 0 || s[0] == '-' {
		return false
	}
	for _, r := range s {
		if r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return true
}

// isName says whether s is a name that parseNames could have read.
func isName(s string) bool {
	for l := range strings.SplitSeq(s, ".") {
		if len(l) > 63 || !label([]byte(l)) {
			return false
		}
	}
	return len(s) <= maxName
}

// usable says whether one machine can have addr.
func usable(addr netip.Addr) bool {
	return addr.Is6() && !addr.Is4In6() && (addr.IsGlobalUnicast() || addr.IsLinkLocalUnicast())
}

// zoned is addr as this machine can use it: a link-local address means nothing without its port.
func zoned(addr netip.Addr, zone string) netip.Addr {
	if addr.IsLinkLocalUnicast() {
		return addr.WithZone(zone)
	}
	return addr
}
