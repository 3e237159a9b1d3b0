package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/network/spec"
)

// A sysctl is a setting of the kernel for one port, or for "all" or those to come ("default"): NAME in
// /proc/sys/net/FAMILY/conf/PORT.
type sysctl struct{ family, name, value string }

// always is what every port has.
var always = []sysctl{
	// Nobody on the link tells us where to send packets: routes come from DHCP and the owner.
	{"ipv4", "accept_redirects", "0"},
	{"ipv4", "secure_redirects", "0"},
	{"ipv4", "send_redirects", "0"},
	{"ipv4", "accept_source_route", "0"},
	{"ipv6", "accept_redirects", "0"},
	{"ipv6", "accept_source_route", "0"},
	// Two ports may be in one network: each speaks for its own addresses only.
	{"ipv4", "arp_ignore", "1"},
	{"ipv4", "arp_announce", "2"},
	// Neighbours hear of a new address at once, or of the cable being in another switch.
	{"ipv4", "arp_notify", "1"},
	{"ipv6", "ndisc_notify", "1"},
	// Taking one of two addresses of a network away leaves the other.
	{"ipv4", "promote_secondaries", "1"},
}

// sysctlsOf is what link has besides. IPv6 is switched on last: the kernel makes the link's own address
// at that moment, if the link is up.
func sysctlsOf(l spec.Link) []sysctl {
	if l.IPv6 == spec.IPv6Off {
		return []sysctl{{"ipv6", "disable_ipv6", "1"}}
	}
	var list []sysctl
	if l.StableSecret.IsValid() {
		list = append(list,
			sysctl{"ipv6", "stable_secret", l.StableSecret.String()},
			sysctl{"ipv6", "addr_gen_mode", "2"}) // IN6_ADDR_GEN_MODE_STABLE_PRIVACY
	}
	hear := map[spec.IPv6]string{spec.IPv6Static: "0", spec.IPv6Automatic: "1"}[l.IPv6]
	if hear == "" {
		return list
	}
	return append(list,
		sysctl{"ipv6", "accept_ra", hear},
		sysctl{"ipv6", "autoconf", hear},
		sysctl{"ipv6", "accept_ra_min_hop_limit", "32"}, // a lower one would keep us from everybody far away
		sysctl{"ipv6", "use_tempaddr", "0"},             // whoever calls us needs an address that stays
		sysctl{"ipv6", "disable_ipv6", "0"})
}

// setSysctls sets what differs, and returns how many that were. A kernel may lack some.
func (r *Reconciler) setSysctls(links []spec.Link, have State) (int, error) {
	indexes := map[string]int{}
	for _, l := range links {
		if there, ok := have.link(l.Name); ok {
			indexes[l.Name] = there.Index
		}
	}
	if time.Since(r.checked) < r.Recheck && slices.Equal(links, r.links) && maps.Equal(indexes, r.indexes) {
		return 0, nil
	}
	var errs []error
	set := 0
	do := func(port string, s sysctl) {
		path := "/proc/sys/net/" + s.family + "/conf/" + port + "/" + s.name
		now, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || err == nil && sameValue(s, strings.TrimSpace(string(now))) {
			return
		}
		// An error of reading is EIO for a secret that is not set.
		r.writes++
		if err := os.WriteFile(path, []byte(s.value), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("set the kernel's %s of %s to %s: %w", s.name, port, s.value, err))
			return
		}
		set++
	}
	for _, port := range []string{"all", "default"} {
		for _, s := range always {
			if !strings.HasSuffix(s.name, "_notify") { // with "all" the loopback port tells itself about ::1, and is warned
				do(port, s)
			}
		}
	}
	for _, l := range links {
		if _, ok := have.link(l.Name); !ok {
			continue
		}
		for _, s := range always {
			do(l.Name, s)
		}
		for _, s := range sysctlsOf(l) {
			do(l.Name, s)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return set, err
	}
	if set == 0 {
		r.checked, r.links, r.indexes = time.Now(), slices.Clone(links), indexes
	}
	return set, nil
}

// sameValue says whether a setting has the wanted value. The kernel writes secrets in full.
func sameValue(want sysctl, have string) bool {
	if want.name != "stable_secret" {
		return have == want.value
	}
	a, err := netip.ParseAddr(have)
	return err == nil && a.String() == want.value
}
