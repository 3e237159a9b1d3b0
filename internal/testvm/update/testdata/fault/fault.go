package main

// This file is built into cmd/init for tests of updates: the init of a release that is broken in the way
// that /etc/fault says. It is nowhere else.

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	b, err := os.ReadFile("/etc/fault")
	if err != nil {
		return
	}
	service := ""
	if os.Getpid() != 1 {
		service = os.Args[1]
	}
	switch fault := string(b); {
	case fault == "exits" && service == "":
		say("this release is broken: init exits")
		os.Exit(1)
	case fault == "hangs" && service == "":
		hang()
	case fault == "no-network" && service == "":
		go withoutNetwork()
	case fault == "no-portal" && service == "portal":
		say("this release is broken: the portal ends")
		os.Exit(1)
	case fault == "late" && service == "portal":
		go func() {
			time.Sleep(60 * time.Second)
			say("this release is broken: the portal ends after a minute")
			os.Exit(1)
		}()
	case fault == "fills" && service == "":
		go fill()
	case fault == "settings" && service == "network":
		go newSettings()
	}
}

func say(text string) {
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		fmt.Fprintln(f, "<2>fault: "+text)
		f.Close()
	}
	fmt.Fprintln(os.Stderr, text)
}

// hang sets the watchdog going, and then does nothing any more.
func hang() {
	unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, "")
	for range 100 {
		if f, err := os.OpenFile("/dev/watchdog0", os.O_WRONLY, 0); err == nil {
			say("this release is broken: init hangs")
			defer f.Close()
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	for {
		time.Sleep(time.Hour)
	}
}

// withoutNetwork takes the driver from every network card.
func withoutNetwork() {
	const driver = "/sys/bus/virtio/drivers/virtio_net"
	for {
		cards, _ := filepath.Glob(driver + "/virtio*")
		for _, card := range cards {
			os.WriteFile(driver+"/unbind", []byte(filepath.Base(card)), 0)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// fill writes to the data partition until nothing fits any more.
func fill() {
	for {
		b, _ := os.ReadFile("/proc/mounts")
		if strings.Contains(string(b), " /data ext4 ") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(20 * time.Second)
	f, err := os.Create("/data/filled")
	if err != nil {
		return
	}
	zeros, err := os.Open("/dev/zero")
	if err != nil {
		return
	}
	n, err := io.Copy(f, zeros)
	for more := make([]byte, 512); ; n += 512 { // the last block
		if _, err := f.Write(more); err != nil {
			break
		}
	}
	f.Close()
	say(fmt.Sprintf("this release is broken: it has written %d bytes: %v", n, err))
}

// newSettings has the settings in a shape that only this release knows, and ends.
func newSettings() {
	time.Sleep(10 * time.Second)
	b, _ := os.ReadFile("/data/network/settings.json")
	text := strings.Replace(string(b), `"version": 1`, `"version": 7, "media": {"codec": ["opus"]}`, 1)
	text = strings.Replace(text, `"host": "cloudlink"`, `"host": ["cloudlink", "another"]`, 1)
	os.WriteFile("/data/network/settings.json", []byte(text), 0o600)
	say("this release is broken: its network service ends")
	os.Exit(1)
}
