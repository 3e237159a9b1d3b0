package dhcp4

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// parseRoutes reads option 121 (RFC 3442). One route that is cut off spoils all.
func parseRoutes(b []byte) ([]Route, error) {
	var routes []Route
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8 // of the network's bytes, only these are sent
		if bits > 32 || len(b) < 1+n+4 {
			return nil, fmt.Errorf("route %d of %d bits is cut off or none", len(routes)+1, bits)
		}
		var to [4]byte
		copy(to[:], b[1:1+n])
		r := Route{To: netip.PrefixFrom(netip.AddrFrom4(to), bits).Masked()}
		if via := netip.AddrFrom4([4]byte(b[1+n:])); !via.IsUnspecified() {
			r.Via = via
		}
		routes = append(routes, r)
		b = b[1+n+4:]
	}
	return routes, nil
}

// parseSearch reads option 119 (RFC 3397): names as in DNS, which may end in a pointer to an
// earlier one.
func parseSearch(b []byte) ([]string, error) {
	var list []string
	for at := 0; at < len(b); {
		name, next, err := parseName(b, at)
		if err != nil {
			return nil, fmt.Errorf("name %d: %w", len(list)+1, err)
		}
		if name != "" {
			list = append(list, name)
		}
		at = next
	}
	return list, nil
}

// maxName is the length of the longest domain name (RFC 1035 §2.3.4), without the last dot.
const maxName = 253

// parseName reads the name at b[at:] and returns where the next one begins.
func parseName(b []byte, at int) (name string, next int, err error) {
	var labels []string
	length, end := 0, at // a pointer leads below end, so that there is an end
	jumped := false
	for {
		if at >= len(b) {
			return "", 0, errors.New("it is cut off")
		}
		n := int(b[at])
		switch {
		case n == 0:
			if !jumped {
				next = at + 1
			}
			return strings.Join(labels, "."), next, nil
		case n >= 0xc0:
			if at+1 >= len(b) {
				return "", 0, errors.New("its pointer is cut off")
			}
			to := (n&0x3f)<<8 | int(b[at+1])
			if to >= end {
				return "", 0, errors.New("its pointer does not lead back")
			}
			if !jumped {
				next = at + 2
			}
			jumped = true
			at, end = to, to
		case n > 63 || at+1+n > len(b):
			return "", 0, errors.New("a label is too long")
		default:
			l := string(b[at+1 : at+1+n])
			if !label(l) {
				return "", 0, fmt.Errorf("label %q is none", l)
			}
			if length += n + 1; length > maxName+1 {
				return "", 0, errors.New("it is too long")
			}
			labels = append(labels, l)
			at += 1 + n
		}
	}
}

// domain reads a name as servers write it: with or without a last dot or zero. It ends up in files
// that others read, so only what names are made of is let through.
func domain(b []byte) (name string, ok bool) {
	name = strings.TrimSuffix(strings.TrimRight(string(b), "\x00"), ".")
	if name == "" || len(name) > maxName {
		return "", false
	}
	for l := range strings.SplitSeq(name, ".") {
		if !label(l) {
			return "", false
		}
	}
	return name, true
}

func label(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// fqdn is the value of option 81 (RFC 4702): our name in DNS's form, to which the server is asked to
// point. We update nothing ourselves.
func fqdn(hostname string) []byte {
	const server, encoded = 1 << 0, 1 << 2
	b := []byte{server | encoded, 0, 0}
	for l := range strings.SplitSeq(hostname, ".") {
		l = l[:min(len(l), 63)]
		b = append(append(b, byte(len(l))), l...)
	}
	return b // no zero at the end: the rest of the name is the server's to add
}
