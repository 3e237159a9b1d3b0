package testvm_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloudlink.local/gateway/firmware/kernel"
	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/testvm"
)

func gatewayImage(t *testing.T) string {
	return filepath.Join(testvm.Image(t, "qemu-virt", "gateway"), "cloudlink.img")
}

// One machine, one boot: what a gateway says and does when all is well.
func TestGateway(t *testing.T) {
	const size = 1 << 30
	vm := testvm.Boot(t, testvm.Options{Image: gatewayImage(t), Size: size})
	status := vm.WaitUp()
	step := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { vm.In(t); f(t) })
	}

	step("M21 the page answers by address, in both languages", func(t *testing.T) {
		for lang, want := range map[string]string{"de": "Lizenzen", "en": "Licences"} {
			req, err := http.NewRequest(http.MethodGet, vm.URL("/"), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Language", lang)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			page, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(page, []byte(want)) {
				t.Errorf("%s: status %d, %q is missing (%v)", lang, resp.StatusCode, want, err)
			}
		}
	})
	step("it says what it is", func(t *testing.T) {
		if status.Release.Product != release.Product || status.Release.Board != "qemu-virt" || status.Slot != "a" || status.BootID == "" || status.Serial == "" {
			t.Errorf("status: %+v", status.Status)
		}
		if status.Data.State != machine.DataOK {
			t.Errorf("data partition: %+v", status.Data)
		}
		if len(status.Ports) != 1 || len(status.Ports[0].Addresses) == 0 {
			t.Errorf("ports: %+v", status.Ports)
		}
	})
	step("an image signed with development keys says so", func(t *testing.T) {
		if !testvm.HasCondition(status, condition.DevelopmentKeys) {
			t.Errorf("the API does not: %+v", status.Conditions)
		}
		if page := vm.Get("/"); !bytes.Contains(bytes.ToLower(page), []byte("development keys")) {
			t.Error("the page does not")
		}
		vm.Expect("(?i)development keys")
	})
	step("nothing else is wrong", func(t *testing.T) {
		for _, c := range status.Conditions {
			if c.Severity != condition.Info && c.ID != condition.DevelopmentKeys {
				t.Errorf("%s: %s %v", c.ID, c.Title, c.Args)
			}
		}
	})
	step("the data partition grows to its disk", func(t *testing.T) {
		vm.Until("it has grown", func() error {
			if s := vm.Status().Data; s.SizeBytes < size/2 {
				return fmt.Errorf("%d bytes of %d", s.SizeBytes, size)
			}
			return nil
		})
	})
	step("the kernel is the one that its fragments describe", func(t *testing.T) {
		config, err := kernel.ParseConfig(strings.NewReader(vm.Shell("gzip -d -c /proc/config.gz")))
		if err != nil {
			t.Fatal(err)
		}
		fragments, err := filepath.Glob(filepath.Join(testvm.Root(t), "firmware/kernel/config/*.config"))
		if err != nil || len(fragments) < 2 {
			t.Fatalf("fragments: %v, %v", fragments, err)
		}
		for _, name := range fragments {
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := kernel.CheckFragments(config, f); err != nil {
				t.Errorf("%s: %v", filepath.Base(name), err)
			}
			f.Close()
		}
	})
	step("lockdown holds and what is not needed is not there", func(t *testing.T) {
		if got := vm.Shell("cat /sys/kernel/security/lockdown"); !strings.Contains(got, "[integrity]") && !strings.Contains(got, "[confidentiality]") {
			t.Errorf("lockdown: %s", got)
		}
		for _, path := range []string{"/dev/mem", "/dev/kmem", "/proc/kcore", "/proc/modules"} {
			if got := vm.Shell("ls " + path); !strings.Contains(strings.ToLower(got), "no such file") {
				t.Errorf("%s: %s", path, got)
			}
		}
		if got := vm.Shell("mkdir /bad"); !strings.Contains(strings.ToLower(got), "read-only") {
			t.Errorf("the root file system can be written: %s", got)
		}
	})
	step("each service has its own user and few capabilities", func(t *testing.T) {
		users := map[string]bool{}
		for _, s := range vm.Status().Services {
			proc := vm.Shell(fmt.Sprintf("cat /proc/%d/status", s.PID))
			uid, caps := field(proc, "Uid:"), field(proc, "CapBnd:")
			if s.Name != "console" && (uid == "0" || users[uid]) {
				t.Errorf("%s runs as user %s", s.Name, uid)
			}
			users[uid] = true
			if s.Name != "console" && (field(proc, "NoNewPrivs:") != "1" || field(proc, "Seccomp:") != "2") {
				t.Errorf("%s is not shut in:\n%s", s.Name, proc)
			}
			if strings.Trim(caps, "0") == "" && s.Name == "network" {
				t.Errorf("%s has no capabilities", s.Name)
			}
			if s.Name == "portal" && strings.TrimLeft(field(proc, "CapPrm:"), "0") != "400" { // NET_BIND_SERVICE
				t.Errorf("portal's capabilities: %s", field(proc, "CapPrm:"))
			}
		}
	})
	step("every service comes back after kill -9", func(t *testing.T) {
		for _, name := range []string{"network", "portal"} {
			before := service(t, vm, name)
			vm.Shell(fmt.Sprintf("kill -9 %d", before.PID))
			vm.Until(name+" is back", func() error {
				now := service(t, vm, name)
				if now.PID == before.PID || now.State != machine.Running {
					return fmt.Errorf("%+v", now)
				}
				return nil
			})
		}
	})
	step("a service that hangs is started again", func(t *testing.T) {
		before := service(t, vm, "network")
		if name := vm.Shell(fmt.Sprintf("cat /proc/%d/comm", before.PID)); !strings.Contains(name, "network") {
			t.Errorf("ps shows it as %s", name)
		}
		vm.Shell(fmt.Sprintf("kill -19 %d", before.PID)) // SIGSTOP
		vm.Until("network runs again", func() error {
			if now := service(t, vm, "network"); now.PID == before.PID || now.State != machine.Running {
				return fmt.Errorf("%+v", now)
			}
			return nil
		})
	})
	step("a service that keeps crashing is named and comes back", func(t *testing.T) {
		named, killed := false, 0
		for range 8 {
			vm.Until("network runs once more", func() error {
				s := vm.Status() // as it was up to half a second ago
				named = named || testvm.HasCondition(s, condition.ServiceFailing)
				for _, service := range s.Services {
					if service.Name == "network" && service.PID != 0 && service.PID != killed && !named {
						killed = service.PID
						vm.Shell(fmt.Sprintf("kill -9 %d", killed))
						return nil
					}
				}
				if named {
					return nil
				}
				return fmt.Errorf("%+v", s.Services)
			})
		}
		if !named {
			t.Error("the owner is not told")
		}
		vm.Until("network is well again", func() error {
			if s := service(t, vm, "network"); s.State != machine.Running {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	})
	step("orphans are reaped", func(t *testing.T) {
		vm.Shell("sh -c 'sleep 1 & kill -9 $$'") // its sleep becomes process 1's child
		vm.Until("no zombie is left", func() error {
			if got := vm.Shell("cat /proc/[0-9]*/stat"); strings.Contains(got, ") Z ") {
				return fmt.Errorf("zombies:\n%s", got)
			}
			return nil
		})
	})
	step("logs of services and kernel can be read", func(t *testing.T) {
		page := vm.Get("/api/v1/log")
		for _, source := range []string{`"init"`, `"kernel"`, `"network"`} {
			if !bytes.Contains(page, []byte(source)) {
				t.Errorf("nothing from %s", source)
			}
		}
	})
	step("third-party notices are on the device", func(t *testing.T) {
		for _, word := range []string{"Linux", "GRUB", "apt-get source"} {
			if !bytes.Contains(vm.Get("/licences/notices.txt"), []byte(word)) {
				t.Errorf("no word of %s", word)
			}
		}
	})
	step("the power button ends it in order, also when a service hangs", func(t *testing.T) {
		vm.Shell(fmt.Sprintf("kill -19 %d", service(t, vm, "portal").PID))
		vm.PowerButton()
		vm.WaitOff()
		if err := vm.Disk.CheckData(); err != nil {
			t.Errorf("data partition: %v", err)
		}
	})
	step("the next run knows the last one's log, and boots without complaint", func(t *testing.T) {
		vm.On()
		next := vm.WaitUp()
		if next.BootID == status.BootID {
			t.Error("the boot id is the same")
		}
		if next.Serial != status.Serial {
			t.Errorf("the serial number was %s and is %s", status.Serial, next.Serial)
		}
		if testvm.HasCondition(next, condition.WatchdogReset) || next.Data.State != machine.DataOK {
			t.Errorf("after an orderly power-off: %+v %+v", next.Conditions, next.Data)
		}
		if log := vm.Get("/api/v1/log?boot=previous"); !bytes.Contains(log, []byte("goes down")) {
			t.Errorf("the last run's log has no end: %.500s", log)
		}
	})
	step("Ctrl-Alt-Del restarts it", func(t *testing.T) {
		before := vm.Status().BootID
		vm.ShellEnds("kill -2 1")
		vm.Until("it is another run", func() error {
			if s := vm.Status(); s.BootID == before {
				return fmt.Errorf("still %s", before)
			}
			return nil
		})
	})
	step("a process 1 that stops making progress is reset by the watchdog", func(t *testing.T) {
		before := vm.WaitUp().BootID
		vm.ShellEnds("mkdir /sys/fs/cgroup/stop && echo 1 > /sys/fs/cgroup/stop/cgroup.procs && echo 1 > /sys/fs/cgroup/stop/cgroup.freeze")
		vm.Until("it is another run", func() error {
			status, _, err := vm.TryGet("/")
			if err == nil && status == http.StatusOK && vm.Status().BootID == before {
				err = fmt.Errorf("still %s", before)
			}
			return err
		})
		hasCondition(t, vm, condition.WatchdogReset)
	})
}

func service(t *testing.T, vm *testvm.VM, name string) machine.Service {
	t.Helper()
	for _, s := range vm.Status().Services {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("there is no service %s", name)
	return machine.Service{}
}

func field(status, name string) string {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.Fields(rest)[0]
		}
	}
	return ""
}

// The data partition in every bad state: the gateway comes up and says what happened.
func TestDataPartition(t *testing.T) {
	zero := make([]byte, 1<<20)
	garbage := bytes.Repeat([]byte("not a file system. "), 1<<16)
	for _, c := range []struct {
		name  string
		grown bool // to a size that has a second superblock
		harm  func(d *testvm.Disk)
		opts  testvm.Options
		state machine.DataState
		told  condition.ID // "" for nothing
	}{
		{name: "full", harm: func(d *testvm.Disk) { d.FillData() }, state: machine.DataOK, told: condition.DataFull},
		{name: "its first superblock torn", grown: true, opts: testvm.Options{Size: 1 << 30}, harm: func(d *testvm.Disk) { d.Overwrite("data", 1024, garbage[:1024]) }, state: machine.DataOK},
		{name: "zeroed", harm: func(d *testvm.Disk) {
			_, size := d.Partition("data")
			for off := int64(0); off+int64(len(zero)) <= size; off += int64(len(zero)) {
				d.Overwrite("data", off, zero)
			}
		}, state: machine.DataReplaced, told: condition.DataReplaced},
		{name: "overwritten with garbage", harm: func(d *testvm.Disk) {
			_, size := d.Partition("data")
			for off := int64(0); off+int64(len(garbage)) <= size; off += int64(len(garbage)) {
				d.Overwrite("data", off, garbage)
			}
		}, state: machine.DataReplaced, told: condition.DataReplaced},
		{name: "missing", harm: func(d *testvm.Disk) { d.DeletePartition("data") }, state: machine.DataMissing, told: condition.DataMissing},
		{name: "read-only", opts: testvm.Options{ReadOnly: true}, state: machine.DataReadOnly, told: condition.DataReadOnly},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.opts.Image = gatewayImage(t)
			vm := testvm.New(t, c.opts)
			if c.grown {
				vm.On()
				vm.Until("it has grown", func() error {
					if s := vm.Status().Data; s.SizeBytes < c.opts.Size/2 {
						return fmt.Errorf("%+v", s)
					}
					return nil
				})
				vm.PowerButton()
				vm.WaitOff()
			}
			if c.harm != nil {
				c.harm(vm.Disk)
			}
			vm.On()
			s := vm.WaitUp()
			if s.Data.State != c.state {
				t.Errorf("data partition: %+v, want %s", s.Data, c.state)
			}
			if c.told != "" {
				hasCondition(t, vm, c.told)
			}
			if c.told == condition.DataReplaced {
				vm.PowerButton()
				vm.WaitOff()
				if err := vm.Disk.CheckData(); err != nil {
					t.Errorf("the new data partition: %v", err)
				}
			}
		})
	}
}

// Odd machines: no network card, little memory, arguments that nobody knows.
func TestOddMachines(t *testing.T) {
	t.Run("no network card", func(t *testing.T) {
		vm := testvm.Boot(t, testvm.Options{Image: gatewayImage(t), NoNIC: true})
		vm.Expect("(?i)no (network|ethernet) port")
		vm.PowerButton()
		vm.WaitOff()
	})
	t.Run("an old processor", func(t *testing.T) { // ARMv8.0, as on many small boards
		vm := testvm.Boot(t, testvm.Options{Image: gatewayImage(t), CPU: "cortex-a53"})
		vm.WaitUp()
		vm.PowerButton()
		vm.WaitOff()
	})
	t.Run("unknown kernel arguments", func(t *testing.T) { // the kernel hands them to process 1
		const words = "portal frobnicate=9 -- --help single rescue nosuch.option"
		image := filepath.Join(testvm.Image(t, "qemu-virt", "arguments", "-arguments", words), "cloudlink.img")
		vm := testvm.Boot(t, testvm.Options{Image: image})
		vm.WaitUp()
		if got := vm.Shell("cat /proc/cmdline"); !strings.Contains(got, words) {
			t.Errorf("its command line is %s", got)
		}
	})
	t.Run("EDK2 with ACPI, and its power button", func(t *testing.T) {
		image := filepath.Join(testvm.Image(t, "uefi-arm64", "loader-EDK2"), "cloudlink.img")
		vm := testvm.Boot(t, testvm.Options{Image: image, Firmware: qemu.EDK2})
		if s := vm.WaitUp(); s.Slot != "a" || s.Release.Board != "uefi-arm64" {
			t.Errorf("%+v", s.Status)
		}
		vm.PowerButton()
		vm.WaitOff()
		if err := vm.Disk.CheckData(); err != nil {
			t.Errorf("data partition: %v", err)
		}
		if got, want := vm.Disk.Env(bootenv.File), (bootenv.Env{Confirmed: bootenv.A}); got != want {
			t.Errorf("environment: %+v, want %+v", got, want)
		}
	})
}
