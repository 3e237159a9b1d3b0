package testvm_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/testvm"
)

// The loader's rules, each with the built image, under every firmware that we support.
func TestLoader(t *testing.T) {
	snakeoil := []string{
		"-keys", testvm.SnakeoilKeys(t),
	}
	for _, fw := range []struct {
		name     string
		firmware qemu.Firmware
		board    string
		flags    []string
	}{
		{"U-Boot", qemu.UBoot, "qemu-virt", nil},
		{"EDK2", qemu.EDK2, "uefi-arm64", nil},
		{"SecureBoot", qemu.SecureBoot, "uefi-arm64", snakeoil},
	} {
		t.Run(fw.name, func(t *testing.T) {
			t.Parallel() // a booting machine keeps one core busy, and a panicking one none
			l := loader{
				firmware: fw.firmware,
				image:    testvm.Image(t, fw.board, "loader-"+fw.name, fw.flags...),
				broken: testvm.Image(t, fw.board, "panic-"+fw.name,
					append([]string{"-init", testvm.Binary(t, "./internal/testvm/testdata/panic")}, fw.flags...)...),
			}
			t.Run("a confirmed slot boots and no counter is touched", l.confirmed)
			t.Run("a trial is counted before it is loaded and falls back", l.trial)
			t.Run("a flipped byte falls back at once", l.flipped)
			if fw.firmware == qemu.SecureBoot {
				t.Run("an unsigned loader is refused", l.unsigned)
				return // the rest is GRUB's own and the same with and without Secure Boot
			}
			t.Run("a torn environment block is passed over and healed", l.torn)
			t.Run("two bad slots end in a message", l.bothBad)
		})
	}
}

type loader struct {
	firmware qemu.Firmware
	image    string // folder of a good image
	broken   string // folder of an image whose process 1 ends
}

func (l loader) new(t *testing.T) *testvm.VM {
	return testvm.New(t, testvm.Options{Image: filepath.Join(l.image, "cloudlink.img"), Firmware: l.firmware})
}

// slot waits until the system is up and says which slot it was loaded from.
func slot(vm *testvm.VM) string { return vm.WaitUp().Slot }

func expectSlot(t *testing.T, vm *testvm.VM, want string) {
	t.Helper()
	if got := slot(vm); got != want {
		t.Fatalf("slot %s runs, want %s", got, want)
	}
}

func (l loader) confirmed(t *testing.T) {
	t.Parallel()
	vm := l.new(t)
	for _, want := range []bootenv.Slot{bootenv.A, bootenv.B} {
		env := bootenv.Env{Confirmed: want}
		vm.Disk.SetEnv(env)
		vm.On()
		expectSlot(t, vm, string(want))
		vm.PowerCut()
		if got := vm.Disk.Env(bootenv.File); got != env {
			t.Errorf("after the boot the environment is %+v, want it unchanged: %+v", got, env)
		}
	}
}

func (l loader) trial(t *testing.T) {
	t.Parallel()
	vm := l.new(t)
	for _, name := range []string{"linux.efi", "linux.efi.sig"} {
		b, err := os.ReadFile(filepath.Join(l.broken, name))
		if err != nil {
			t.Fatal(err)
		}
		vm.Disk.WriteFile("slot-b", name, b)
	}
	env := bootenv.Env{Confirmed: bootenv.A, Trial: bootenv.B, Tries: 3}
	vm.Disk.SetEnv(env)

	vm.On()
	vm.Expect("this system is broken")
	vm.PowerCut() // before the broken system could have written anything
	for _, copy := range []string{bootenv.File, bootenv.Backup} {
		if got := vm.Disk.Env(copy); got.Tries != 2 || got.Trial != bootenv.B || got.Confirmed != bootenv.A {
			t.Fatalf("%s after the first try: %+v, want two tries left", copy, got)
		}
	}

	vm.On() // from here the machine goes on by itself
	vm.Expect("this system is broken")
	vm.Expect("this system is broken")
	expectSlot(t, vm, "a")
	if got := vm.Disk.Env(bootenv.File); got.Tries != 0 {
		t.Errorf("after the last try: %+v, want none left", got)
	}
	hasCondition(t, vm, condition.FellBack)
}

func (l loader) flipped(t *testing.T) {
	t.Parallel()
	vm := l.new(t)
	vm.Disk.SetEnv(bootenv.Env{Confirmed: bootenv.A, Trial: bootenv.B, Tries: 3})
	vm.Disk.FlipByte("slot-b", "linux.efi")
	vm.On()
	expectSlot(t, vm, "a")
	vm.PowerCut()

	vm.Disk.SetEnv(bootenv.Env{Confirmed: bootenv.B})
	vm.On()
	expectSlot(t, vm, "a")
	hasCondition(t, vm, condition.FellBack)
}

func (l loader) torn(t *testing.T) {
	t.Parallel()
	vm := l.new(t)
	block, err := bootenv.Env{Confirmed: bootenv.B}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	torn := bytes.Clone(block)
	for i := range 300 {
		torn[10+i] = byte(i * 7)
	}

	vm.Disk.SetEnv(bootenv.Env{Confirmed: bootenv.B})
	vm.Disk.WriteFile("esp", bootenv.File, torn)
	vm.On()
	expectSlot(t, vm, "b") // the second copy was right
	hasCondition(t, vm, condition.BootEnvRepaired)
	vm.PowerCut()
	if got := vm.Disk.Env(bootenv.File); got.Confirmed != bootenv.B {
		t.Errorf("the torn copy was not healed: %+v", got)
	}

	vm.Disk.WriteFile("esp", bootenv.File, torn)
	vm.Disk.Remove("esp", bootenv.Backup)
	vm.On()
	running := slot(vm) // either is good; the loader takes the first
	hasCondition(t, vm, condition.BootEnvRepaired)
	vm.PowerCut()
	for _, copy := range []string{bootenv.File, bootenv.Backup} {
		if got := vm.Disk.Env(copy); got.Confirmed != bootenv.Slot(running) {
			t.Errorf("%s was not healed: %+v, slot %s ran", copy, got, running)
		}
	}
}

func (l loader) bothBad(t *testing.T) {
	t.Parallel()
	vm := l.new(t)
	good := vm.Disk.ReadFile("slot-b", "linux.efi")
	vm.Disk.FlipByte("slot-a", "linux.efi")
	vm.Disk.FlipByte("slot-b", "linux.efi")
	vm.On()
	vm.Expect(`(?i)no system that can be started`)
	vm.Expect(`(?i)kein startf`)
	select { // it must stay so: a boot loop would begin within a second
	case <-time.After(8 * time.Second):
	case <-vm.Machine().Done():
		t.Fatal("the machine went off")
	}
	if again := vm.Console(); bytes.Contains([]byte(again), []byte("U-Boot")) || bytes.Contains([]byte(again), []byte("UEFI firmware")) {
		t.Errorf("the machine restarts in a loop:\n%s", again)
	}
	if bytes.Contains([]byte(vm.Console()), []byte("grub>")) {
		t.Error("the loader offers a shell to whoever stands there")
	}
	vm.PowerCut()

	vm.Disk.WriteFile("slot-b", "linux.efi", good)
	vm.On()
	expectSlot(t, vm, "b")
}

func (l loader) unsigned(t *testing.T) {
	t.Parallel()
	vm := l.new(t)
	signed := vm.Disk.ReadFile("esp", "EFI/BOOT/BOOTAA64.EFI")
	plain, err := os.ReadFile(filepath.Join(testvm.Image(t, "qemu-virt", "loader-U-Boot"), "grub.efi"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(signed, plain) {
		t.Fatal("the loader of the Secure Boot image is not signed")
	}
	vm.Disk.WriteFile("esp", "EFI/BOOT/BOOTAA64.EFI", plain)
	vm.On()
	vm.Expect(`Access Denied|Security Violation`)
}

func hasCondition(t *testing.T, vm *testvm.VM, want condition.ID) {
	t.Helper()
	vm.Until("the owner is told "+string(want), func() error {
		if s := vm.Status(); !testvm.HasCondition(s, want) {
			return fmt.Errorf("only of %+v", s.Conditions)
		}
		return nil
	})
}
