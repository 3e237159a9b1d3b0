package network

import (
	"errors"
	"os"
	"path/filepath"
)

// sysctls are the kernel's settings of each port, and of those to come ("default"): relative to
// /proc/sys/net, VALUE by name.
var sysctls = []struct{ name, value string }{
	// Nobody on the link tells us where to send packets: routes come from DHCP and the owner.
	{"ipv4/conf/*/accept_redirects", "0"},
	{"ipv4/conf/*/secure_redirects", "0"},
	{"ipv4/conf/*/send_redirects", "0"},
	{"ipv4/conf/*/accept_source_route", "0"},
	{"ipv6/conf/*/accept_redirects", "0"},
	{"ipv6/conf/*/accept_source_route", "0"},
	// Two ports may be in one network: each speaks for its own addresses only.
	{"ipv4/conf/*/arp_ignore", "1"},
	{"ipv4/conf/*/arp_announce", "2"},
	// Neighbours hear of a new address at once, or of the cable being in another switch.
	{"ipv4/conf/*/arp_notify", "1"},
	{"ipv6/conf/*/ndisc_notify", "1"},
	// Taking one of two addresses of a network away leaves the other.
	{"ipv4/conf/*/promote_secondaries", "1"},
}

// setSysctls sets what port (or "all", "default") is to have. A kernel may lack some of it.
func setSysctls(port string) error {
	var errs []error
	for _, s := range sysctls {
		dir, file := filepath.Split(s.name)
		path := filepath.Join("/proc/sys/net", filepath.Dir(filepath.Clean(dir)), port, file)
		err := os.WriteFile(path, []byte(s.value), 0o644)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
