package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/release"
)

func TestMain(m *testing.M) {
	if os.Getenv("INIT_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestWithoutAServicesNameItSaysHowItIsUsed(t *testing.T) {
	for _, args := range [][]string{nil, {"nothing"}, {"portal", "network"}, {"-h"}, {""}} {
		cmd := exec.Command("/proc/self/exe", args...)
		cmd.Env = append(os.Environ(), "INIT_MAIN=1")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 2 || !strings.HasPrefix(string(out), "usage: init SERVICE\nThe services are network, portal, update, console;") {
			t.Errorf("init %q: %v\n%s", args, err, out)
		}
	}
}

func TestTheTableOfServices(t *testing.T) {
	for _, keys := range []release.Keys{release.Production, release.Development, ""} {
		names, users := map[string]bool{}, map[uint32]bool{}
		for _, r := range services(keys) {
			if r.Name == "" || r.Name == "init" || filepath.Base(r.Name) != r.Name || names[r.Name] {
				t.Errorf("name %q", r.Name)
			}
			if users[r.User] || r.User < 100 && (r.Name != "console" || keys != release.Development) {
				t.Errorf("%s is user %d", r.Name, r.User)
			}
			if r.rules.Open && keys != release.Development {
				t.Errorf("%s is not shut in", r.Name)
			}
			if r.Memory < 16<<20 || r.Processes < 16 || r.run == nil {
				t.Errorf("%s: %+v", r.Name, r.Spec)
			}
			for _, path := range append(append(r.rules.Read, r.rules.Write...), r.rules.Devices...) {
				if !filepath.IsAbs(path) || path == "/" || path == "/data" {
					t.Errorf("%s may use %q", r.Name, path)
				}
			}
			names[r.Name], users[r.User] = true, true
		}
	}
}

func TestMemoryIsRead(t *testing.T) {
	got := parseMemory([]byte("MemTotal:         246784 kB\nMemFree:   10 kB\nMemAvailable:     197000 kB\n\nodd\nSwapTotal: x kB\n"))
	if want := (machine.Memory{TotalBytes: 246784 << 10, AvailableBytes: 197000 << 10}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if m := memory(); m.TotalBytes <= m.AvailableBytes || m.AvailableBytes == 0 {
		t.Errorf("here it is %+v", m)
	}
}
