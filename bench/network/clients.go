package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/network/dhcp4"
	"cloudlink.local/gateway/internal/network/reconcile"
)

// A client is a program that gets an address for port lan0 of a host.
type client struct {
	name   string
	start  func(*host) (*process, error) // returns when it waits for the link, if it does
	late   bool                          // it does not: it is to be started when the link is there
	forget func() error                  // what it keeps
	reboot func() error                  // as far as it keeps leases: has it take them for those of a former boot
}

var clients = []client{
	{name: "ours", start: startOurs, forget: forgetOurs, reboot: rebootOurs},
	{name: "dhcpcd", start: startDhcpcd, forget: forgetDhcpcd, reboot: func() error { return nil }},
	{name: "udhcpc", start: startUdhcpc, late: true, forget: func() error { return nil }},
}

// oursDir is what /data/network is on the gateway.
const oursDir = files + "/ours"

func startOurs(h *host) (*process, error) {
	p, err := h.start(exec.Command("/proc/self/exe", "-service", oursDir))
	if err != nil {
		return nil, err
	}
	return p, p.await("ready")
}

func forgetOurs() error {
	if err := os.RemoveAll(oursDir); err != nil {
		return err
	}
	return os.Mkdir(oursDir, 0o700)
}

// rebootOurs makes the files those of another boot: of this one's leases the service knows that they
// are on the port still.
func rebootOurs() error {
	now, err := dhcp4.Now()
	if err != nil {
		return err
	}
	leases, err := filepath.Glob(filepath.Join(oursDir, "lease-*.json"))
	if err != nil {
		return err
	}
	if len(leases) != 1 {
		return fmt.Errorf("the service keeps leases %q, want one", leases)
	}
	b, err := os.ReadFile(leases[0])
	if err != nil {
		return err
	}
	former := bytes.ReplaceAll(b, []byte(now.ID), []byte("00000000-0000-4000-8000-000000000000"))
	return os.WriteFile(leases[0], former, 0o600)
}

// beService runs the whole network service until SIGTERM.
func beService(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	return network.Config{
		Socket:     filepath.Join(dir, "network.sock"),
		ResolvConf: filepath.Join(dir, "resolv.conf"),
		Data:       dir,
		IsPort:     func(l reconcile.Link) bool { return l.Name == port },
		Built:      time.Now().Add(-time.Hour),
		Clock:      noClock{},
		Log:        slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}.Run(ctx, func() { fmt.Println("ready") })
}

// noClock stands for the system clock, which is everybody's on this machine.
type noClock struct{}

func (noClock) Now() time.Time           { return time.Now() }
func (noClock) Step(time.Duration) error { return unix.EPERM }
func (noClock) Slew(time.Duration) error { return unix.EPERM }
func (noClock) Synchronised() bool       { return false }

// dhcpcdDir is where dhcpcd keeps leases.
const dhcpcdDir = "/var/lib/dhcpcd"

// startDhcpcd starts dhcpcd with Debian's configuration. Its scripts, which would write this machine's
// resolv.conf, it is spared, and the time that they take.
func startDhcpcd(h *host) (*process, error) {
	p, err := h.start(exec.Command("dhcpcd", "--nobackground", "--script", "/bin/true", port))
	if err != nil {
		return nil, err
	}
	return p, p.await("waiting for carrier")
}

func forgetDhcpcd() error {
	kept, err := filepath.Glob(filepath.Join(dhcpcdDir, "*"))
	for _, f := range kept {
		if err == nil {
			err = os.RemoveAll(f)
		}
	}
	return err
}

// startUdhcpc starts udhcpc with its defaults: it does not look whether others have the address. Its
// script does as little as can be, and does not write resolv.conf.
func startUdhcpc(h *host) (*process, error) {
	script := filepath.Join(files, "udhcpc.script")
	ip, err := lookPath("ip")
	if err != nil {
		return nil, err
	}
	text := strings.ReplaceAll("#!/bin/sh\n[ \"$1\" != bound ] || IP addr replace \"$ip/$mask\" dev \"$interface\"\n", "IP", ip)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		return nil, err
	}
	return h.start(exec.Command("udhcpc", "-f", "-i", port, "-s", script))
}
