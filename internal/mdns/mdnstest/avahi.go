package mdnstest

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// startAvahi starts avahi-daemon with Debian's configuration but for the names, without D-Bus unless
// somebody asks there, and heeding whether a cable is plugged in, which it otherwise does not.
func (h *Host) startAvahi() {
	h.t.Helper()
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	config := h.write("avahi.conf", fmt.Sprintf(`[server]
host-name=%s
use-ipv4=yes
use-ipv6=yes
use-iff-running=yes
enable-dbus=%s
ratelimit-interval-usec=1000000
ratelimit-burst=1000
[wide-area]
enable-wide-area=yes
[publish]
publish-hinfo=no
publish-workstation=no
publish-aaaa-on-ipv4=yes
publish-a-on-ipv6=no
[reflector]
enable-reflector=%s
`, h.Names.Host, yes(h.options.Bus), yes(h.options.Reflect)))
	h.writeAvahiServices()
	h.process = h.Peer.Start(h.t, h.in("avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits", "--debug", "--file="+config))
	h.process.Wait(h.t, "starting up")
}

// writeAvahiServices writes a file for each service, and removes those of others.
func (h *Host) writeAvahiServices() {
	h.t.Helper()
	old, err := filepath.Glob(filepath.Join(h.dir, "services", "*.service"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			h.t.Fatal(err)
		}
	}
	for i, s := range h.Names.Services {
		var text strings.Builder
		for _, t := range s.Text {
			fmt.Fprintf(&text, "<txt-record>%s</txt-record>", escape(t))
		}
		h.write(fmt.Sprintf("services/%d.service", i), fmt.Sprintf(`<?xml version="1.0" standalone="no"?>
<!DOCTYPE service-group SYSTEM "avahi-service.dtd">
<service-group><name>%s</name><service><type>%s</type><port>%d</port>%s</service></service-group>
`, escape(s.Instance), s.Type, s.Port, text.String()))
	}
}

func escape(s string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(s)) // a bytes.Buffer takes all
	return b.String()
}
