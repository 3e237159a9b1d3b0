package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// maxDNS is what a resolver reads of resolv.conf.
const maxDNS = 3

// resolvConf is the file's content.
func resolvConf(dns []netip.Addr) []byte {
	var b bytes.Buffer
	b.WriteString("# Written by the network service: the DNS servers that DHCP names.\n")
	for _, a := range dns {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.Bytes()
}

// nameservers is the inverse of resolvConf, for content that somebody may have damaged.
func nameservers(content []byte) []netip.Addr {
	var dns []netip.Addr
	for line := range strings.Lines(string(content)) {
		word := strings.Fields(line)
		if len(word) < 2 || word[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(word[1])
		if err != nil || !addr.Is4() || addr.IsUnspecified() || addr.IsMulticast() || slices.Contains(dns, addr) {
			continue
		}
		if dns = append(dns, addr); len(dns) == maxDNS {
			break
		}
	}
	return dns
}

// replaceFile writes path so that a reader sees all of it or what was there before.
func replaceFile(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	next := path + ".new"
	if err := os.WriteFile(next, content, 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}
