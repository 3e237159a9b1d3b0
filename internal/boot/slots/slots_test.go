package slots

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloudlink.local/gateway/internal/boot"
	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/machine"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Debian's own tools are the judges of what we format.
func TestFormat(t *testing.T) {
	for _, mib := range []int64{32, 64, 100, 1024} {
		file := filepath.Join(t.TempDir(), "slot")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.WriteAt(bytes.Repeat([]byte{0xa5}, 1<<20), 0) // what was there before
		if err := f.Truncate(mib << 20); err != nil {
			t.Fatal(err)
		}
		if err := format(f, mib<<20, "slot-b", 0x12345678); err != nil {
			t.Fatal(err)
		}
		if out := run(t, "/sbin/fsck.fat", "-n", "-v", file); strings.Contains(out, "differ") || !strings.Contains(out, ": 1 files, 0/") {
			t.Errorf("%d MiB: %s", mib, out)
		}
		if out := run(t, "mdir", "-i", file, "::"); !strings.Contains(out, "SLOT-B") || !strings.Contains(out, "1234-5678") {
			t.Errorf("%d MiB: %s", mib, out)
		}
		big := filepath.Join(t.TempDir(), "linux.efi")
		if err := os.WriteFile(big, bytes.Repeat([]byte("x"), 12<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		run(t, "mcopy", "-i", file, big, "::/linux.efi")
		run(t, "/sbin/fsck.fat", "-n", file)
	}
	if err := format(os.NewFile(1<<20, "none"), 1<<20, "slot-b", 1); err == nil {
		t.Error("a megabyte is no FAT16")
	}
}

// A medium is loop devices in place of the partitions.
type medium map[string]string

// newKeeper makes a medium from whose slot a the system seems to have been started.
func newKeeper(t *testing.T, env bootenv.Env) (*Keeper, medium) {
	t.Helper()
	dir := t.TempDir()
	m := medium{}
	for _, label := range []string{boot.ESP, boot.SlotA, boot.SlotB} {
		file := filepath.Join(dir, label)
		if err := os.Truncate(touch(t, file), 32<<20); err != nil {
			t.Fatal(err)
		}
		m[label] = run(t, "losetup", "-f", "--show", file)
		t.Cleanup(func() { run(t, "losetup", "-d", m[label]) })
	}
	b, err := env.Encode()
	if err != nil {
		t.Fatal(err)
	}
	esp := filepath.Join(dir, "files")
	for _, name := range []string{bootenv.File, bootenv.Backup} {
		if err := errors.Join(os.MkdirAll(filepath.Join(esp, filepath.Dir(name)), 0o700), os.WriteFile(filepath.Join(esp, name), b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "/sbin/mke2fs", "-q", "-t", "ext4", "-d", esp, m[boot.ESP])
	run(t, "/sbin/mke2fs", "-q", "-t", "ext4", "-d", esp, m[boot.SlotA])
	find := func(label string) (string, bool) { path, ok := m[label]; return path, ok }
	k, err := New(bootenv.A, find, env, filepath.Join(dir, "slots"), filepath.Join(dir, "mounted"), 104)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	k.fs = fileSystem{kind: "ext4", format: func(_ io.WriterAt, _ int64, label string, _ uint32) error {
		run(t, "/sbin/mke2fs", "-q", "-F", "-t", "ext4", m[label])
		return nil
	}}
	return k, m
}

func touch(t *testing.T, path string) string {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// envs are both copies as the loader would read them.
func envs(t *testing.T, m medium) [2]bootenv.Env {
	t.Helper()
	var list [2]bootenv.Env
	for i, name := range []string{bootenv.File, bootenv.Backup} {
		env, err := bootenv.Parse(block(t, m[boot.ESP], name))
		if err != nil {
			t.Fatal(err)
		}
		list[i] = env
	}
	return list
}

func TestWriteReadBackArmConfirm(t *testing.T) {
	k, m := newKeeper(t, bootenv.Env{Confirmed: bootenv.A})
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	both := func(want bootenv.Env) {
		t.Helper()
		if got := envs(t, m); got != [2]bootenv.Env{want, want} {
			t.Errorf("the loader reads %+v, want %+v", got, want)
		}
	}
	if k.Arm(1) == nil || k.Seal() == nil {
		t.Error("what was never written was sealed or armed")
	}
	check("open", k.Open())
	if s := k.Status(); s.Access != machine.SlotWritable || s.Running != "a" || s.OnTrial {
		t.Errorf("%+v", s)
	}
	path := filepath.Join(k.dir, "linux.efi")
	content := bytes.Repeat([]byte("system "), 1<<20)
	check("write", os.WriteFile(path, content, 0o600))
	if k.Arm(1) == nil {
		t.Error("armed without having been read back")
	}
	check("seal", k.Seal())
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read back: %d bytes, %v", len(got), err)
	}
	if err := os.WriteFile(path, nil, 0o600); err == nil {
		t.Error("written after it was sealed")
	}
	run(t, "/sbin/e2fsck", "-n", "-f", m[boot.SlotB])
	both(bootenv.Env{Confirmed: bootenv.A})
	if k.Arm(0) == nil || k.Arm(10) == nil {
		t.Error("armed with impossible tries")
	}
	check("arm", k.Arm(1))
	both(bootenv.Env{Confirmed: bootenv.A, Trial: bootenv.B, Tries: 1})
	check("open again", k.Open()) // and so calls the trial off: it is half-written now
	both(bootenv.Env{Confirmed: bootenv.A})
	if _, err := os.Stat(path); err == nil {
		t.Error("opened with what was in it")
	}
	check("look", k.Look())
	check("arm", k.Arm(2))
	check("confirm", k.Confirm())
	both(bootenv.Env{Confirmed: bootenv.A})
}

func TestASystemOnTrialWritesNoSlot(t *testing.T) {
	k, m := newKeeper(t, bootenv.Env{Confirmed: bootenv.B, Trial: bootenv.A})
	if !k.OnTrial() {
		t.Fatal("it does not know that it is on trial")
	}
	if k.Open() == nil {
		t.Error("it emptied the slot that it goes back to")
	}
	run(t, "/sbin/mke2fs", "-q", "-F", "-t", "ext4", m[boot.SlotB])
	if err := k.Look(); err != nil || k.Arm(1) == nil {
		t.Errorf("look: %v, or it armed the other slot", err)
	}
	if err := k.Confirm(); err != nil || k.OnTrial() {
		t.Errorf("confirm: %v", err)
	}
	if got := envs(t, m)[0]; got != (bootenv.Env{Confirmed: bootenv.A}) {
		t.Errorf("%+v", got)
	}
	if err := k.Open(); err != nil {
		t.Error(err)
	}
}

// Whatever is left of the other slot's file system.
func TestADamagedSlotIsWrittenAnew(t *testing.T) {
	k, m := newKeeper(t, bootenv.Env{Confirmed: bootenv.A})
	if k.Look() == nil { // it was never formatted
		t.Error("an empty partition was mounted")
	}
	f, err := os.OpenFile(m[boot.SlotB], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte{0x5a}, 4<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := k.Open(); err != nil {
		t.Error(err)
	}
}

func TestTheRunningSlotIsReadOnly(t *testing.T) {
	k, _ := newKeeper(t, bootenv.Env{Confirmed: bootenv.A})
	for range 2 {
		if err := k.OpenRunning(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { run(t, "umount", k.own) })
	if _, err := os.ReadFile(filepath.Join(k.own, bootenv.File)); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(k.own, "linux.efi"), nil, 0o600); err == nil {
		t.Error("the slot that runs was written")
	}
}

func TestWithoutAKnownSlotNothingIsWritten(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	if _, err := New(bootenv.None, none, bootenv.Env{}, t.TempDir(), t.TempDir(), 104); err == nil {
		t.Error("no slot")
	}
	k, err := New(bootenv.B, none, bootenv.Env{Confirmed: bootenv.A, Trial: bootenv.B}, t.TempDir(), t.TempDir(), 104)
	if err != nil || k.Look() == nil || k.Confirm() == nil {
		t.Errorf("no partitions: %v", err)
	}
}

// block is a copy of the environment, read past the kernel's memory of the file system.
func block(t *testing.T, device, name string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "block")
	run(t, "/sbin/debugfs", "-R", "dump "+name+" "+file, device)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A floor goes up and never down, and one damaged record does not lower it.
func TestTheFloorOnlyRises(t *testing.T) {
	k, m := newKeeper(t, bootenv.Env{Confirmed: bootenv.A})
	want := func(floor string) {
		t.Helper()
		if got, err := k.Floor(); got != floor || err != nil {
			t.Errorf("floor %q, %v; want %q", got, err, floor)
		}
	}
	want("")
	for _, c := range []struct{ raise, floor string }{{"1.2.0", "1.2.0"}, {"1.1.0", "1.2.0"}, {"1.10.0", "1.10.0"}} {
		if err := k.RaiseFloor(c.raise); err != nil {
			t.Fatal(err)
		}
		want(c.floor)
	}
	if k.RaiseFloor("../../etc") == nil {
		t.Error("what is no version is a floor")
	}
	for _, name := range []string{bootenv.FloorFile, bootenv.FloorBackup} {
		if err := k.onESP(0, func() error {
			return os.WriteFile(filepath.Join(k.esp, name), []byte("torn"), 0o600)
		}); err != nil {
			t.Fatal(err)
		}
		if name == bootenv.FloorFile {
			want("1.10.0")
		}
	}
	if _, err := k.Floor(); err == nil {
		t.Error("both records are damaged, and nobody says so")
	}
	if err := k.RaiseFloor("1.3.0"); err != nil {
		t.Error(err)
	}
	want("1.3.0")
	if got := envs(t, m)[0]; got != (bootenv.Env{Confirmed: bootenv.A}) {
		t.Errorf("the environment is %+v now", got)
	}
}

// The loader fell back to a: b, which is confirmed, did not start. What is written into b now must not be
// what the loader starts without a counter.
func TestM4AfterAFallBackNothingUntriedIsConfirmed(t *testing.T) {
	k, m := newKeeper(t, bootenv.Env{Confirmed: bootenv.B})
	if err := k.Open(); err != nil {
		t.Fatal(err)
	}
	if err := k.Seal(); err != nil {
		t.Fatal(err)
	}
	if got := envs(t, m)[0]; got.Confirmed != bootenv.A {
		t.Errorf("slot b is written and nobody has tried it; the loader starts it as confirmed: %+v", got)
	}
}

// The second copy cannot be written.
func TestM4ArmedByHalves(t *testing.T) {
	k, _ := newKeeper(t, bootenv.Env{Confirmed: bootenv.A})
	if err := k.onESP(0, func() error {
		p := filepath.Join(k.esp, bootenv.Backup)
		os.Remove(p)
		return os.Mkdir(p, 0o700)
	}); err != nil {
		t.Fatal(err)
	}
	k.Open()
	k.Seal()
	err := k.Arm(1)
	if err == nil {
		t.Fatal("armed")
	}
	read := func() bootenv.Env {
		var e bootenv.Env
		k.onESP(1, func() error { e, _ = bootenv.ReadFile(filepath.Join(k.esp, bootenv.File)); return nil })
		return e
	}
	if e := read(); e.Trial != bootenv.None {
		t.Errorf("%v: but the loader reads %+v", err, e)
	}
	if err := k.Open(); err == nil && read().Trial != bootenv.None {
		t.Errorf("an emptied slot is on trial: %+v", read())
	}
	if err := k.Confirm(); err == nil && read().Trial != bootenv.None {
		t.Errorf("Confirm called nothing off: %+v", read())
	}
}
