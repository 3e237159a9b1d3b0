package mdnstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// unpacked is where scripts/setup puts systemd-resolved: installing it would make it the resolver of
// this machine.
const unpacked = "build/cache/resolved"

// resolvedPath finds a file of its package, which is below dir.
func (h *Host) resolvedPath(name string) string {
	h.t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		h.t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			h.t.Fatal("mdnstest: run it below the folder that has go.mod")
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, unpacked, name))
	if err != nil || len(found) != 1 {
		h.t.Fatalf("mdnstest: %s is missing in %s: run scripts/setup test", name, unpacked)
	}
	return found[0]
}

// resolvedProgram makes the words of a command that runs a program of its package.
func (h *Host) resolvedProgram(name string) []string {
	h.t.Helper()
	return []string{"env", "LD_LIBRARY_PATH=" + h.resolvedPath("usr/lib/*/systemd"), h.resolvedPath(name)}
}

// startResolved starts systemd-resolved as a multicast DNS responder without systemd.
func (h *Host) startResolved() {
	h.t.Helper()
	h.shell("cat >/run/systemd/resolved.conf.d/test.conf <<'END'\n" +
		"[Resolve]\nMulticastDNS=yes\nLLMNR=no\nDNSStubListener=no\nDNSSEC=no\nDNS=\nFallbackDNS=\nEND\n")
	// As systemd-networkd would say it of each port.
	h.shell("mkdir -p /run/systemd/netif/links; for i in $(ip -o link | cut -d: -f1); do\n" +
		"printf 'ADMIN_STATE=configured\\nOPER_STATE=routable\\nMDNS=yes\\nLLMNR=no\\n' >/run/systemd/netif/links/$i; done")
	h.shell("rm -f /run/systemd/dnssd/*")
	for i, s := range h.Names.Services {
		h.shell(fmt.Sprintf("cat >/run/systemd/dnssd/%d.dnssd <<'END'\n[Service]\nName=%s\nType=%s\nPort=%d\nTxtText=%s\nEND\n",
			i, s.Instance, s.Type, s.Port, strings.Join(s.Text, " ")))
	}
	words := h.resolvedProgram("lib/systemd/systemd-resolved")
	h.process = h.Peer.Start(h.t, h.in(words[0], append([]string{"SYSTEMD_LOG_LEVEL=debug", "SYSTEMD_LOG_TARGET=console"}, words[1:]...)...))
	h.process.Wait(h.t, "protocol mdns")
}

// Resolvectl is the beginning of a command that asks this host's systemd-resolved.
func (h *Host) Resolvectl() []string {
	h.t.Helper()
	return h.resolvedProgram("usr/bin/resolvectl")
}

func (h *Host) shell(script string) {
	h.t.Helper()
	if out, err := h.Command(10*time.Second, "sh", "-ec", script); err != nil {
		h.t.Fatalf("mdnstest: %v\n%s", err, out)
	}
}
