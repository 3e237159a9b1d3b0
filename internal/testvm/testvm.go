// Package testvm boots the built image in QEMU for tests: serial console, HTTP client, power cut,
// and the disk from outside. Where a tool or the image is missing the test fails and names the cure.
package testvm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/qemu"
)

// Patience is how long a VM may take for one thing that it is waited for. It bounds a hung test; it
// is no figure: two cores that emulate arm64 beside other work can be slow.
const Patience = 100 * time.Second

// A VM is one machine with one disk, from its first start to the end of its test.
type VM struct {
	Disk *Disk

	t       testing.TB
	config  qemu.Config
	portal  string // its address
	client  http.Client
	machine *qemu.Machine
	console *qemu.Console
	shell   *Shell // nil until it is opened
}

// Options change the machine from the usual one: EDK2 or U-Boot, 256 MB, one card on the
// user-mode network.
type Options struct {
	Image    string        // path of the image; copied, never changed
	Firmware qemu.Firmware // qemu.UBoot if ""
	Size     int64         // bytes the disk is enlarged to, as if a bigger medium were flashed
	MemoryMB int
	CPU      string // QEMU's name of it
	NoNIC    bool
	ReadOnly bool
	NICs     []qemu.NIC // instead of the one user-mode card
	Args     []string
	// Serve, if not nil, is given the path of the disk image and returns what QEMU opens instead: the
	// address of a server of that disk.
	Serve func(path string) (string, error)
}

// New makes the machine with a copy of the image as its disk, switched off.
func New(t testing.TB, o Options) *VM {
	t.Helper()
	dir, err := os.MkdirTemp("", "testvm") // not t.TempDir: its long names overflow a Unix socket's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	disk := filepath.Join(dir, "disk.img")
	if err := qemu.CopyDisk(disk, o.Image, o.Size); err != nil {
		t.Fatalf("copy the image (make image BOARD=… builds it): %v", err)
	}
	if o.Firmware == "" {
		o.Firmware = qemu.UBoot
	}
	opened := disk
	if o.Serve != nil {
		var err error
		if opened, err = o.Serve(disk); err != nil {
			t.Fatalf("serve the disk: %v", err)
		}
	}
	vm := &VM{t: t, Disk: &Disk{t: t, path: disk}, console: qemu.NewConsole()}
	nics := o.NICs
	if nics == nil && !o.NoNIC {
		port, err := qemu.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		nics = []qemu.NIC{{Forward: port}}
		vm.Reach(fmt.Sprintf("127.0.0.1:%d", port), nil)
	}
	vm.config = qemu.Config{
		Firmware: o.Firmware, Disk: opened, MemoryMB: o.MemoryMB, CPU: o.CPU,
		NICs: nics, ReadOnly: o.ReadOnly, Args: o.Args, Dir: dir,
	}
	t.Cleanup(func() {
		if vm.machine != nil {
			vm.PowerCut()
		}
		if t.Failed() {
			t.Logf("console of %s:\n%s", o.Firmware, vm.console.Tail(12000))
		}
	})
	return vm
}

// Boot makes the machine and switches it on.
func Boot(t testing.TB, o Options) *VM {
	t.Helper()
	vm := New(t, o)
	vm.On()
	return vm
}

// In makes t, a subtest that shares the machine, the one that fails from now until its end.
func (vm *VM) In(t testing.TB) {
	outer := vm.t
	vm.t, vm.Disk.t = t, t
	t.Cleanup(func() { vm.t, vm.Disk.t = outer, outer })
}

// On switches the machine on.
func (vm *VM) On() {
	vm.t.Helper()
	if vm.machine != nil {
		vm.t.Fatal("the machine is on already")
	}
	m, err := qemu.Start(context.Background(), vm.config)
	if err != nil {
		vm.t.Fatal(err)
	}
	vm.machine = m
	go vm.console.Follow(m.Console) // ends when QEMU does
}

// PowerCut kills the machine between two instructions.
func (vm *VM) PowerCut() {
	vm.machine.Kill()
	vm.machine, vm.shell = nil, nil
}

// WaitOff waits until the machine has switched itself off.
func (vm *VM) WaitOff() {
	vm.t.Helper()
	select {
	case <-vm.machine.Done():
	case <-time.After(Patience):
		vm.t.Fatal("the machine does not switch off")
	}
	if err := vm.machine.Err(); err != nil {
		vm.t.Fatalf("qemu: %v", err)
	}
	vm.machine, vm.shell = nil, nil
}

// PowerButton presses the power button.
func (vm *VM) PowerButton() {
	vm.t.Helper()
	if err := vm.machine.PowerButton(); err != nil {
		vm.t.Fatal(err)
	}
}

// Machine is the running QEMU.
func (vm *VM) Machine() *qemu.Machine { return vm.machine }

// Expect waits for the console to print what matches the regular expression, after what an earlier
// Expect has matched, and returns the match and its groups.
func (vm *VM) Expect(pattern string) []string {
	vm.t.Helper()
	m, err := vm.console.Expect(regexp.MustCompile(pattern), Patience)
	if err != nil {
		vm.t.Fatal(err)
	}
	return m
}

// Console returns all that the console has printed and no Expect has consumed yet.
func (vm *VM) Console() string { return vm.console.Rest() }

// Type types on the console.
func (vm *VM) Type(text string) {
	vm.t.Helper()
	if _, err := io.WriteString(vm.machine.Console, text); err != nil {
		vm.t.Fatalf("type on the console: %v", err)
	}
}

// Reach says at what address the portal is from now on, and, if dial is not nil, how to get there:
// Peer.Dial of package testnet for a guest on a tap.
func (vm *VM) Reach(addr string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	vm.portal = addr
	vm.client = http.Client{
		Timeout:   3 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial},
	}
}

// URL is the portal's address, followed by path.
func (vm *VM) URL(path string) string { return "http://" + vm.portal + path }

// TryGet fetches a page once.
func (vm *VM) TryGet(path string) (status int, body []byte, err error) {
	resp, err := vm.client.Get(vm.URL(path))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// Get fetches a page, waiting until the portal answers 200.
func (vm *VM) Get(path string) []byte {
	vm.t.Helper()
	var got []byte
	vm.Until("the portal answers "+path, func() error {
		status, body, err := vm.TryGet(path)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %.200s", status, body)
		}
		got = body
		return err
	})
	return got
}

// JSON fetches path into v, waiting until the portal answers.
func (vm *VM) JSON(path string, v any) {
	vm.t.Helper()
	if b := vm.Get(path); json.Unmarshal(b, v) != nil {
		vm.t.Fatalf("%s is not JSON: %.200s", path, b)
	}
}

// Until calls try again and again until it returns nil.
func (vm *VM) Until(what string, try func() error) {
	vm.t.Helper()
	deadline := time.Now().Add(Patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			vm.t.Fatalf("wait until %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
