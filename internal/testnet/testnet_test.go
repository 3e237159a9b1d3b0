package testnet

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

func TestBinaryRunsInAnEmptyNetwork(t *testing.T) {
	ports, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if len(ports) != 1 || ports[0].Name != "lo" || ports[0].Flags&net.FlagUp == 0 {
		t.Errorf("ports are %v, want lo alone, up", ports)
	}
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("/sys/class/net has %v, want lo alone", entries)
	}
}

func TestBytesCrossTheCable(t *testing.T) {
	peer := Cable(t, "lan0")
	peer.IP("addr", "add", "192.0.2.2/24", "dev", "eth0")
	if out, err := exec.Command(lookPath(t, "ip"), "addr", "add", "192.0.2.1/24", "dev", "lan0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var far net.PacketConn
	err := peer.Do(func() (err error) { far, err = net.ListenPacket("udp4", "192.0.2.2:9"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := net.Dial("udp4", "192.0.2.2:9")
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	if _, err := near.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, from, err := far.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" || from.String() != near.LocalAddr().String() {
		t.Errorf("read %q from %v, %v", buf[:n], from, err)
	}
}

func TestProgramRunsInThePeerAndEndsWhenAsked(t *testing.T) {
	peer := Cable(t, "lan0")
	server := peer.Dnsmasq(t, "eth0", "192.0.2.2/24", "--dhcp-range=192.0.2.10,192.0.2.20")
	if !strings.Contains(peer.IP("-br", "addr"), "192.0.2.2/24") {
		t.Error("the peer lacks its address")
	}
	server.Stop()
	server.Stop() // twice is once
	if !server.ended {
		t.Errorf("%v still runs", server)
	}
}

func TestTapIsAPortOfTheSwitch(t *testing.T) {
	peer := Switch(t)
	tap := peer.Tap(t, "tap0")
	if out := peer.IP("-br", "link", "show", "master", Bridge); !strings.Contains(out, "tap0") {
		t.Errorf("ports of the switch: %s", out)
	}
	peer.IP("addr", "add", "192.0.2.2/24", "dev", Bridge)
	if err := peer.Do(func() error {
		conn, err := net.Dial("udp4", "192.0.2.3:9")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("x")) // the kernel asks for 192.0.2.3's address by ARP
		return err
	}); err != nil {
		t.Fatal(err)
	}
	const header = 10 // virtio-net's
	buf := make([]byte, 2048)
	for { // multicast of the bridge's own comes through as well
		n, err := tap.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n > header+14 && buf[header+12] == 0x08 && buf[header+13] == 0x06 {
			return
		}
	}
}
