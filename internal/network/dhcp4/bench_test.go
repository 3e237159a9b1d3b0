package dhcp4

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/testnet"
)

// BenchmarkLinkUpToAddress measures the time from a link's coming up to the address on the port, against
// one kea, of ours, dhcpcd with its defaults and udhcpc, in turn: the first time there ("fresh") and with
// the lease of the time before ("again"). The ratios are ours over theirs. udhcpc's default is not to look
// whether the address is free. Run it with -benchtime=10x or so: dhcpcd takes 5 to 8 s by chance.
func BenchmarkLinkUpToAddress(b *testing.B) {
	// dhcpcd keeps leases and says where it runs there: not on this machine.
	for _, dir := range []string{"/run", "/var/lib/dhcpcd"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			b.Fatalf("hide %s: %v", dir, err)
		}
		b.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	sw := testnet.Switch(b)
	kea(b, sw, testnet.Bridge, 8, filepath.Join(b.TempDir(), "leases"))
	script := filepath.Join(b.TempDir(), "udhcpc.script")
	writeFile(b, script, "#!/bin/sh\n[ \"$1\" = bound ] && ip addr replace \"$ip/$mask\" dev \"$interface\"\nexit 0\n")
	if err := os.Chmod(script, 0o755); err != nil {
		b.Fatal(err)
	}
	clients := []struct {
		name  string
		start func(port *net.Interface, up func(), old *Lease) (stop func() *Lease)
	}{
		{"ours", func(port *net.Interface, up func(), old *Lease) func() *Lease {
			d := newDevice(b, port)
			d.Remembered = old
			up()
			awaitLink(b, port.Name)
			d.run()
			return func() *Lease {
				defer d.end()
				return d.await("the gateway", func(l *Lease) bool { return l != nil && l.GatewayMAC != nil })
			}
		}},
		{"dhcpcd", func(port *net.Interface, up func(), _ *Lease) func() *Lease {
			// Its children keep its output open, so that goes to a file.
			log := filepath.Join(b.TempDir(), "log")
			out, err := os.Create(log)
			if err != nil {
				b.Fatal(err)
			}
			defer out.Close()
			cmd := exec.Command("dhcpcd", "-4", "-B", "-d", "--script", "/bin/true", port.Name)
			cmd.Stdout, cmd.Stderr = out, out
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID} // they end with it
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			for text := ""; !strings.Contains(text, "waiting for carrier"); time.Sleep(10 * time.Millisecond) {
				t, err := os.ReadFile(log)
				if err != nil {
					b.Fatal(err)
				}
				text = string(t)
			}
			up()
			return func() *Lease {
				cmd.Process.Kill()
				cmd.Wait()
				return nil
			}
		}},
		{"udhcpc", func(port *net.Interface, up func(), _ *Lease) func() *Lease {
			up()
			awaitLink(b, port.Name)
			p := testnet.Home(b).Start(b, exec.Command("udhcpc", "-f", "-i", port.Name, "-s", script))
			return func() *Lease { p.Stop(); return nil }
		}},
	}
	total := map[string]time.Duration{}
	for i := range b.N {
		for j, c := range clients {
			name := fmt.Sprintf("b%d-%d", i, j)
			port := plug(b, name, sw)
			var lease *Lease
			for _, when := range []string{"fresh", "again"} {
				sw.IP("link", "set", "far-"+name, "down")
				testnet.Home(b).IP("addr", "flush", "dev", name)
				var start time.Time
				stop := c.start(port, func() {
					sw.IP("link", "set", "far-"+name, "up")
					start = time.Now()
				}, lease)
				awaitAddress(b, port)
				total[c.name+"-"+when] += time.Since(start)
				lease = stop()
			}
		}
	}
	for _, when := range []string{"fresh", "again"} {
		ours := total["ours-"+when]
		for _, c := range clients {
			b.ReportMetric(total[c.name+"-"+when].Seconds()/float64(b.N), c.name+"-"+when+"-s")
			if c.name != "ours" {
				b.ReportMetric(float64(ours)/float64(total[c.name+"-"+when]), "ratio-"+c.name+"-"+when)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
}

func awaitLink(b *testing.B, name string) {
	for {
		p, err := net.InterfaceByName(name)
		if err != nil {
			b.Fatal(err)
		}
		if p.Flags&net.FlagRunning != 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func awaitAddress(b *testing.B, port *net.Interface) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		addrs, err := port.Addrs()
		if err != nil {
			b.Fatal(err)
		}
		for _, a := range addrs {
			if ip, _, _ := net.ParseCIDR(a.String()); ip.To4() != nil && !ip.IsLinkLocalUnicast() {
				return
			}
		}
		if time.Now().After(deadline) {
			b.Fatalf("no address on %s in a minute", port.Name)
		}
	}
}
