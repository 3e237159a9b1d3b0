package main

import (
	"context"
	"log/slog"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot/data"
	"cloudlink.local/gateway/internal/console"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/portal"
	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/supervise"
	"cloudlink.local/gateway/internal/supervise/sandbox"
	"cloudlink.local/gateway/internal/update"
)

// A row is a service: how it is run, what it may do, and its code.
type row struct {
	supervise.Spec
	rules sandbox.Rules
	keeps bool // has a directory of its own on the data partition
	waits bool // gets CPU and medium when nobody else wants them
	run   func(ctx context.Context, ready func(), log *slog.Logger) error
}

// socketGroup is the group cloudlink, whose members may connect to the sockets below runtimeDir.
const socketGroup = 100

// Users, which are their groups as well. They own files on the data partition: none is ever given
// to another service.
const (
	networkUser = 101
	portalUser  = 102
	consoleUser = 103
	updateUser  = 104
)

// services is the one table of services, in the order in which they are started: the owner waits for
// the address and the page.
func services(keys release.Keys) []row {
	rows := []row{
		{
			Spec: supervise.Spec{
				Name: "network", User: networkUser, Memory: 48 << 20, Processes: 64, OOMScore: -200,
				Caps: supervise.Caps{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_TIME},
			},
			rules: sandbox.Rules{
				Read:    []string{"/etc", "/usr/share", "/proc", "/sys"},
				Write:   []string{runtimeDir + "/network", data.Dir + "/network", "/proc/sys/net"},
				Connect: append(portmap.TCPPorts(), 53), // for the self-test, and for long answers of DNS
				Sockets: []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET},
				Calls:   []uint32{unix.SYS_ADJTIMEX},
			},
			keeps: true,
			run:   network.Run,
		},
		{
			Spec: supervise.Spec{
				Name: "portal", User: portalUser, Memory: 64 << 20, Processes: 64, OOMScore: 100,
				Caps: supervise.Caps{unix.CAP_NET_BIND_SERVICE},
			},
			rules: sandbox.Rules{
				Read:    []string{"/etc", "/usr/share", "/proc", "/sys/class/net"},
				Listen:  []uint16{80},
				Sockets: []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK},
			},
			run: portal.Run,
		},
		{
			Spec: supervise.Spec{Name: "update", User: updateUser, Memory: 96 << 20, Processes: 64, OOMScore: 200},
			rules: sandbox.Rules{
				Read:    []string{"/etc", "/usr/share", "/proc"},
				Write:   []string{runtimeDir + "/update", data.Dir + "/update", slotsDir},
				Any:     true, // the owner names the update server
				Sockets: []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6},
			},
			keeps: true,
			waits: true,
			run:   update.Run,
		},
		{
			Spec: supervise.Spec{Name: "console", User: consoleUser, Memory: 96 << 20, Processes: 64, OOMScore: 300},
			rules: sandbox.Rules{
				Read:    []string{"/etc", "/usr/share", "/proc", "/sys"},
				Devices: []string{"/dev"}, // those of its user
				Sockets: []uint32{unix.AF_UNIX},
			},
			run: console.Run,
		},
	}
	if keys == release.Development { // its console has a root shell
		console := &rows[len(rows)-1]
		console.User, console.Caps, console.rules = 0, supervise.AllCaps(), sandbox.Rules{Open: true}
	}
	for i := range rows {
		rows[i].Groups = []uint32{socketGroup}
		rows[i].Env = []string{"ZONEINFO=/usr/share/zoneinfo.zip"}
	}
	return rows
}
