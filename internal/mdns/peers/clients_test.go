package peers

import (
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

const instance = "CloudLink Gateway (11af)"

// addresses of the gateway and of the client.
var (
	gatewayAddrs = []string{"192.0.2.1/24", "fd00::1/64"}
	clientAddrs  = []string{"192.0.2.2/24", "fd00::2/64"}
)

func TestAvahiResolves(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	gateway(t, l.machine(t, gatewayAddrs...))
	c := client(t, l.machine(t, clientAddrs...))
	for _, name := range []string{"cloudlink.local", "cloudlink-4711af.local"} {
		says(t, c, []string{name + "\t192.0.2.1\n"}, "avahi-resolve", "-4", "-n", name)
		out := says(t, c, []string{name + "\tf"}, "avahi-resolve", "-6", "-n", name)
		if addr := strings.TrimSpace(strings.TrimPrefix(out, name)); addr != "fd00::1" && !strings.HasPrefix(addr, "fe80::") {
			t.Errorf("avahi-resolve -6 says %q", out)
		}
	}
	for _, addr := range []string{"192.0.2.1", "fd00::1"} {
		says(t, c, []string{addr + "\tcloudlink-4711af.local\n"}, "avahi-resolve", "-a", addr)
	}
}

func TestAvahiBrowses(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	gateway(t, l.machine(t, gatewayAddrs...))
	c := client(t, l.machine(t, clientAddrs...))
	says(t, c, []string{
		"=   lan0 IPv4 " + instance, "=   lan0 IPv6 " + instance, "hostname = [cloudlink-4711af.local]", "address = [192.0.2.1]",
		"port = [80]", `"path=/"`, `"version=1.2.3"`,
	}, "avahi-browse", "-rt", "_http._tcp")
	says(t, c, []string{"+   lan0 IPv4 " + instance, "+   lan0 IPv6 " + instance}, "avahi-browse", "-at")
}

func TestResolvedResolves(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	gateway(t, l.machine(t, gatewayAddrs...))
	c := mdnstest.New(t, l.machine(t, clientAddrs...), mdnstest.Resolved, mdnstest.Names{Host: "client"}, mdnstest.Options{Bus: true})
	c.Start()
	resolvectl := func(words []string, args ...string) {
		t.Helper()
		program := c.Resolvectl()
		says(t, c, words, program[0], append(program[1:], args...)...)
	}
	resolvectl([]string{"cloudlink.local: 192.0.2.1", "mDNS/IPv4"}, "query", "-4", "cloudlink.local")
	resolvectl([]string{"cloudlink.local: f", "mDNS/IPv6"}, "query", "-6", "cloudlink.local")
	resolvectl([]string{"cloudlink-4711af.local: 192.0.2.1"}, "query", "-4", "cloudlink-4711af.local")
	resolvectl([]string{"cloudlink-4711af.local:80", "192.0.2.1", "path=/"}, "-4", "service", instance, "_http._tcp", "local")
}

const zeroconf = `
import sys, time
from zeroconf import Zeroconf, ServiceBrowser, ServiceListener
class Listener(ServiceListener):
    def add_service(self, zc, kind, name):
        info = zc.get_service_info(kind, name, 5000)
        print(name, info.server, info.parsed_addresses(), info.port, info.properties, flush=True)
    def update_service(self, *args): pass
    def remove_service(self, *args): pass
zc = Zeroconf(interfaces=["192.0.2.2"])
ServiceBrowser(zc, "_http._tcp.local.", Listener())
time.sleep(5)
zc.close()
`

func TestPythonZeroconfFinds(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	gateway(t, l.machine(t, gatewayAddrs...))
	c := mdnstest.New(t, l.machine(t, clientAddrs...), mdnstest.Ours, mdnstest.Names{}, mdnstest.Options{})
	says(t, c, []string{instance + "._http._tcp.local. cloudlink-4711af.local. ['192.0.2.1'", " 80 ", "b'path': b'/'"},
		"/usr/bin/python3", "-c", zeroconf)
}

func TestMDNSScanFinds(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	gateway(t, l.machine(t, gatewayAddrs...))
	c := mdnstest.New(t, l.machine(t, clientAddrs...), mdnstest.Ours, mdnstest.Names{}, mdnstest.Options{})
	c.IP("route", "add", "default", "via", "192.0.2.254") // that is how it finds its port
	deadline := time.Now().Add(patient)
	for {
		out, _ := c.Command(4*time.Second, "stdbuf", "-oL", "mdns-scan") // it goes on for ever
		if strings.Contains(out, "+ "+instance+"._http._tcp.local") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("mdns-scan says:\n%s", out)
		}
	}
}
