package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/boot/gpt"
	"cloudlink.local/gateway/internal/testroot"
)

func TestMain(m *testing.M) { testroot.Main(m) }

const mib = 1 << 20

// put writes a file and the directories above it.
func put(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestTheMountTableIsMounted(t *testing.T) {
	root := t.TempDir()
	table := []Mount{
		{filepath.Join(root, "run"), "tmpfs", noExec, "mode=0755,size=1m", false},
		{filepath.Join(root, "run/deep/er"), "tmpfs", noExec, "mode=0700,size=1m", false},
		{filepath.Join(root, "none"), "no-such-file-system", noExec, "", true},
		{filepath.Join(root, "missing"), "no-such-file-system", noExec, "", false},
		{filepath.Join(root, "last"), "tmpfs", noExec, "size=1m", false},
	}
	err := MountAll(table)
	if err == nil || !strings.Contains(err.Error(), "mount "+root+"/missing") || strings.Contains(err.Error(), "none") {
		t.Errorf("mounted with %v", err)
	}
	for _, i := range []int{4, 1, 0} {
		var fs unix.Statfs_t
		if err := unix.Statfs(table[i].Target, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Flags&unix.ST_NOEXEC == 0 {
			t.Errorf("%s: %+v, %v", table[i].Target, fs, err)
		}
		if err := unix.Unmount(table[i].Target, 0); err != nil {
			t.Error(err)
		}
	}
}

func TestKernelSettingsAreAppliedAsFarAsTheyExist(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "kernel/kptr_restrict"), "0\n")
	put(t, filepath.Join(root, "fs/protected_fifos/not-a-file"), "")
	err := Harden(root)
	if err == nil || !strings.Contains(err.Error(), "set fs/protected_fifos") || strings.Count(err.Error(), "\n") != 0 {
		t.Errorf("errors %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "kernel/kptr_restrict")); !strings.HasPrefix(string(b), "2") || err != nil {
		t.Errorf("it is %q, %v", b, err)
	}
	for _, s := range Settings {
		if _, err := os.Stat(filepath.Join(root, s.Name)); err == nil && s.Name != "kernel/kptr_restrict" && s.Name != "fs/protected_fifos" {
			t.Errorf("%s was made", s.Name)
		}
	}
}

// loaderVariable returns the variable's file for a GUID.
func loaderVariable(id string) []byte {
	b := []byte{6, 0, 0, 0}
	for _, u := range utf16.Encode([]rune(id)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func TestTheLoadersPartitionIsRead(t *testing.T) {
	const id = "4A67B082-0A4C-41CF-B6C7-440B29BB8C4F"
	for name, b := range map[string][]byte{"as it is": loaderVariable(id), "with an end": append(loaderVariable(id), 0, 0)} {
		path := filepath.Join(t.TempDir(), "var")
		put(t, path, string(b))
		if got, err := LoadedFrom(path); got != strings.ToLower(id) || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": loaderVariable(id[:35]), "long": loaderVariable(id + id), "odd": loaderVariable(strings.Replace(id, "-", "x", 1)),
		"no hex": loaderVariable(strings.Replace(id, "A", "G", 1)), "not ASCII": loaderVariable(strings.Replace(id, "A", "Ä", 1)),
	} {
		if got, err := parseLoadedFrom(b); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, err := LoadedFrom(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing variable is read")
	}
}

func FuzzLoadedFrom(f *testing.F) {
	f.Add(loaderVariable("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := parseLoadedFrom(b); err == nil && (len(id) != 36 || strings.ToLower(id) != id || strings.Trim(id, "0123456789abcdef-") != "") {
			t.Fatalf("%q", id)
		}
	})
}

// partitioned makes a disk of size bytes whose partitions were made for 64 MiB, and hands it to the
// kernel with them.
func partitioned(t *testing.T, size int64, labels ...string) (image, name string) {
	t.Helper()
	image = testroot.File(t, 64*mib)
	script := "label: gpt\n"
	for _, label := range labels {
		script += "size=8MiB, name=" + label + "\n"
	}
	cmd := exec.Command("sfdisk", "-q", image)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	device := testroot.Loop(t, image, unix.LO_FLAGS_PARTSCAN)
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := gpt.Read(f, size, 512)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range table.Partitions { // a kernel that reads such tables has done so, and says EBUSY
		part := unix.BlkpgPartition{Start: int64(p.First) * 512, Length: int64(p.Last-p.First+1) * 512, Pno: int32(p.Number)}
		arg := unix.BlkpgIoctlArg{Op: unix.BLKPG_ADD_PARTITION, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 && errno != unix.EBUSY {
			t.Fatal(errno)
		}
	}
	return image, filepath.Base(device)
}

// sysfs makes a directory like /sys that shows these disks only: others may be there too.
func sysfs(t *testing.T, disks ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sys")
	if err := os.MkdirAll(filepath.Join(dir, "class/block"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		links, _ := filepath.Glob("/sys/class/block/" + d + "*")
		for _, l := range links {
			if rest := strings.TrimPrefix(filepath.Base(l), d); rest != "" && rest[0] != 'p' {
				continue
			}
			if err := os.Symlink(l, filepath.Join(dir, "class/block", filepath.Base(l))); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestTheDiskIsTheOneThatWeWereLoadedFrom(t *testing.T) {
	_, one := partitioned(t, 64*mib, ESP, SlotA, SlotB, Data)
	_, two := partitioned(t, 64*mib, ESP, SlotA, SlotB, Data)
	_, other := partitioned(t, 64*mib, "boot", "root")
	sys := sysfs(t, one, two, other)
	put(t, filepath.Join(sys, "class/block/ram0/size"), "0\n")
	put(t, filepath.Join(sys, "class/block/gone/size"), "8\n")
	read := func(name string) *gpt.Table {
		d := Disk{Name: name, dev: "/dev"}
		if err := d.read(); err != nil {
			t.Fatal(err)
		}
		return d.Table
	}
	for _, c := range []struct {
		disk, label string
		slot        bootenv.Slot
	}{{one, SlotA, bootenv.A}, {one, SlotB, bootenv.B}, {two, SlotB, bootenv.B}, {two, ESP, bootenv.None}, {other, "root", bootenv.None}} {
		p, _ := read(c.disk).ByName(c.label)
		d, err := FindDisk(t.Context(), sys, "/dev", p.ID.String())
		if err != nil || d.Name != c.disk || d.Slot != c.slot {
			t.Errorf("loaded from %s of %s: %+v, %v", c.label, c.disk, d, err)
		}
	}
	d, err := FindDisk(t.Context(), sysfs(t, other, two), "/dev", "")
	if err != nil || d.Name != two || d.Slot != bootenv.None {
		t.Fatalf("not knowing from where: %+v, %v", d, err)
	}
	if dev, ok := d.Device(Data); dev != "/dev/"+two+"p4" || !ok {
		t.Errorf("its data partition is %q, %v", dev, ok)
	}
	if dev, ok := d.Device("none"); ok {
		t.Errorf("it has %q", dev)
	}
	if got := (&Disk{Name: "vda", dev: "/dev"}).Partition(gpt.Partition{Number: 4}); got != "/dev/vda4" {
		t.Errorf("the fourth partition of vda is %s", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if d, err := FindDisk(ctx, sysfs(t, other), "/dev", ""); err == nil || !strings.Contains(err.Error(), "no disk has our partitions") {
		t.Errorf("found %+v, %v", d, err)
	}
}

func TestADiskThatAppearsLateIsFound(t *testing.T) {
	_, name := partitioned(t, 64*mib, ESP, SlotA, SlotB, Data)
	late, sys := sysfs(t, name), sysfs(t)
	found := make(chan error)
	go func() {
		_, err := FindDisk(t.Context(), sys, "/dev", "")
		found <- err
	}()
	if err := errors.Join(os.Remove(filepath.Join(sys, "class/block")), os.Rename(filepath.Join(late, "class/block"), filepath.Join(sys, "class/block"))); err != nil {
		t.Fatal(err)
	}
	if err := <-found; err != nil {
		t.Error(err)
	}
}

func TestTheDataPartitionGrowsOnTheDiskAndInTheKernel(t *testing.T) {
	image, name := partitioned(t, 300*mib, ESP, SlotA, SlotB, Data)
	d, err := FindDisk(t.Context(), sysfs(t, name), "/dev", "")
	if err != nil {
		t.Fatal(err)
	}
	device, _ := d.Device(Data)
	testroot.Run(t, "mkfs.ext4", "-q", device)
	dir := t.TempDir()
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil { // it grows in use
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	if grown, err := d.Grow(); !grown || err != nil {
		t.Fatalf("grown %v, %v", grown, err)
	}
	size, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(device), "size"))
	if err != nil {
		t.Fatal(err)
	}
	if sectors, err := strconv.ParseInt(strings.TrimSpace(string(size)), 10, 64); err != nil || sectors*512 != (299-1-24)*mib {
		t.Errorf("the kernel has %d bytes, %v", sectors*512, err)
	}
	if out := testroot.Run(t, "sgdisk", "-v", image); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
	again, err := FindDisk(t.Context(), sysfs(t, name), "/dev", "")
	if err != nil {
		t.Fatal(err)
	}
	if grown, err := again.Grow(); grown || err != nil {
		t.Errorf("grown again: %v, %v", grown, err)
	}
	_, without := partitioned(t, 300*mib, ESP, SlotA, SlotB)
	d = &Disk{Name: without, dev: "/dev"}
	if err := d.read(); err != nil {
		t.Fatal(err)
	}
	if grown, err := d.Grow(); grown || err != nil {
		t.Errorf("without a data partition: grown %v, %v", grown, err)
	}
}

func TestTheBootEnvironmentIsMadeWhole(t *testing.T) {
	a, b, trial := bootenv.Env{Confirmed: "a"}, bootenv.Env{Confirmed: "b"}, bootenv.Env{Confirmed: "a", Trial: "b", Tries: 2}
	type file struct {
		env  bootenv.Env
		torn bool // or missing, if env is there too
	}
	good := func(e bootenv.Env) file { return file{env: e} }
	torn, missing := file{torn: true}, file{env: a, torn: true}
	for name, c := range map[string]struct {
		files    [2]file
		booted   bootenv.Slot
		want     bootenv.Env
		repaired bool
		fails    bool
		quiet    bool // nothing is written
	}{
		"both good":                      {files: [2]file{good(trial), good(trial)}, booted: "b", want: trial, quiet: true},
		"cut between the loader's saves": {files: [2]file{good(trial), good(a)}, booted: "b", want: trial},
		"backup torn":                    {files: [2]file{good(b), torn}, booted: "b", want: b, repaired: true},
		"backup missing":                 {files: [2]file{good(b), missing}, booted: "b", want: b, repaired: true},
		"first torn":                     {files: [2]file{torn, good(trial)}, booted: "a", want: trial, repaired: true},
		"first missing":                  {files: [2]file{missing, good(b)}, booted: "", want: b, repaired: true},
		"both torn":                      {files: [2]file{torn, torn}, booted: "b", want: b, repaired: true},
		"both missing":                   {files: [2]file{missing, missing}, booted: "a", want: a, repaired: true},
		"both torn, booted unknown":      {files: [2]file{torn, torn}, fails: true, quiet: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			paths := [2]string{filepath.Join(dir, bootenv.File), filepath.Join(dir, bootenv.Backup)}
			for i, f := range c.files {
				switch {
				case f == missing:
				case f.torn:
					put(t, paths[i], strings.Repeat("\x00", bootenv.Size))
				default:
					put(t, paths[i], "")
					if err := bootenv.WriteFile(paths[i], f.env); err != nil {
						t.Fatal(err)
					}
				}
			}
			asked := 0
			l, err := checkEnv(dir, c.booted, func() error { asked++; return nil })
			if (err != nil) != c.fails || asked > 1 || (asked == 0) != c.quiet {
				t.Fatalf("%v; asked to write %d times", err, asked)
			}
			if c.fails {
				return
			}
			if l.Env != c.want || l.Repaired != c.repaired {
				t.Errorf("found %+v, want %+v, repaired %v", l, c.want, c.repaired)
			}
			for _, path := range paths {
				if got, err := bootenv.ReadFile(path); got != c.want || err != nil {
					t.Errorf("%s: %+v, %v", filepath.Base(path), got, err)
				}
			}
		})
	}
	l, err := checkEnv(t.TempDir(), "a", func() error { return errors.New("write-protected") })
	if err == nil || !strings.Contains(err.Error(), "write-protected") || l.Env.Confirmed != "a" {
		t.Errorf("on a read-only medium: %+v, %v", l, err)
	}
	if _, err := CheckLoader("/dev/null", t.TempDir(), "a"); err == nil || !strings.Contains(err.Error(), "mount esp") {
		t.Errorf("without an ESP: %v", err)
	}
}

func TestAFallBackIsSeen(t *testing.T) {
	for _, c := range []struct {
		env            bootenv.Env
		booted, wanted bootenv.Slot
		fellBack       bool
	}{
		{bootenv.Env{Confirmed: "a"}, "a", "a", false},
		{bootenv.Env{Confirmed: "a"}, "b", "a", true}, // a is damaged
		{bootenv.Env{Confirmed: "a"}, "", "a", false},
		{bootenv.Env{Confirmed: "a", Trial: "b", Tries: 2}, "b", "b", false},
		{bootenv.Env{Confirmed: "a", Trial: "b", Tries: 0}, "b", "b", false}, // its last try
		{bootenv.Env{Confirmed: "a", Trial: "b", Tries: 0}, "a", "b", true},  // tried in vain
		{bootenv.Env{Confirmed: "a", Trial: "b", Tries: 3}, "a", "b", true},  // b is damaged
	} {
		if wanted, fellBack := (Loader{Env: c.env}).FellBack(c.booted); wanted != c.wanted || fellBack != c.fellBack {
			t.Errorf("%+v, booted %q: wanted %q, fell back %v", c.env, c.booted, wanted, fellBack)
		}
	}
}

func TestTheKernelsLastWordsAreReadInOrder(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "dmesg-efi_pstore-1"), "Panic#1 Part1\n<0>[  9.1] Kernel panic\n<4>[  9.2] end\n")
	put(t, filepath.Join(dir, "dmesg-efi_pstore-2"), "Panic#1 Part2\n<6>[  8.1] before\n\n")
	put(t, filepath.Join(dir, "console-ramoops-0"), "boot\n")
	put(t, filepath.Join(dir, "dmesg-ramoops-0.enc.z"), "\x00\x01")
	if err := os.Mkdir(filepath.Join(dir, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	w, err := ReadLastWords(dir)
	want := []string{"<6>[  8.1] before", "<0>[  9.1] Kernel panic", "<4>[  9.2] end", "boot",
		"crash record dmesg-ramoops-0.enc.z is compressed in a way that this kernel does not know"}
	if !slices.Equal(w.Lines, want) || !w.Crashed || err != nil {
		t.Errorf("%q, crashed %v, %v", w.Lines, w.Crashed, err)
	}
	if err := w.Forget(); err != nil {
		t.Error(err)
	}
	w, err = ReadLastWords(dir)
	if len(w.Lines) != 0 || w.Crashed || err != nil {
		t.Errorf("then %q, %v", w.Lines, err)
	}
	put(t, filepath.Join(dir, "huge"), strings.Repeat("x\n", maxWords))
	if w, err := ReadLastWords(dir); len(w.Lines) != maxWords/2 || w.Crashed || err != nil {
		t.Errorf("of a huge record %d lines, %v", len(w.Lines), err)
	}
	if w, err := ReadLastWords(filepath.Join(dir, "none")); len(w.Lines) != 0 || err != nil {
		t.Errorf("without pstore: %v, %v", w, err)
	}
}

func FuzzLastWords(f *testing.F) {
	f.Add("dmesg-efi_pstore-1", []byte("Panic#1 Part1\n<0>[  9.1] Kernel panic\n"))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		for _, line := range parseRecord(name, b).lines {
			if strings.Contains(line, "\n") {
				t.Fatalf("%q", line)
			}
		}
	})
}

func TestTheSerialNumber(t *testing.T) {
	mac := func(t *testing.T, sys string) {
		for name, files := range map[string][4]string{
			"eth1": {"1", "3", "52:54:00:00:00:03", "y"}, "eth0": {"1", "2", "52:54:00:ab:cd:ef", "y"},
			"lo": {"772", "1", "00:00:00:00:00:00", ""}, "veth0": {"1", "0", "12:34:56:78:9a:bc", ""},
		} {
			dir := filepath.Join(sys, "class/net", name)
			put(t, filepath.Join(dir, "type"), files[0]+"\n")
			put(t, filepath.Join(dir, "ifindex"), files[1]+"\n")
			put(t, filepath.Join(dir, "address"), files[2]+"\n")
			if files[3] != "" {
				put(t, filepath.Join(dir, "device/vendor"), "x")
			}
		}
	}
	dmi := func(s string) func(t *testing.T, sys string) {
		return func(t *testing.T, sys string) { put(t, filepath.Join(sys, "class/dmi/id/product_serial"), s) }
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, sys string)
		kept string
		want string
	}{
		"of the maker": {make: dmi("CL-2026-0042\n"), kept: "OLD1", want: "CL-2026-0042"},
		"in the device tree": {make: func(t *testing.T, sys string) {
			put(t, filepath.Join(sys, "firmware/devicetree/base/serial-number"), "10000000abcd1234\x00")
		}, want: "10000000abcd1234"},
		"none but a word":     {make: dmi("To be filled by O.E.M.\n"), kept: "KEPT7\n", want: "KEPT7"},
		"zeros":               {make: dmi("0000000000"), kept: "KEPT7", want: "KEPT7"},
		"counting":            {make: dmi("123456789"), kept: "KEPT7", want: "KEPT7"},
		"hostile":             {make: dmi("<script>alert(1)</script>\x1b[2J" + strings.Repeat("x", 100)), want: "scriptalert1script2Jxxxxxxxxxxxx"},
		"of the first port":   {make: mac, want: "525400ABCDEF"},
		"kept before a port":  {make: mac, kept: "KEPT7", want: "KEPT7"},
		"kept one is garbage": {make: mac, kept: "\x00\xff", want: "525400ABCDEF"},
	} {
		t.Run(name, func(t *testing.T) {
			sys, file := t.TempDir(), filepath.Join(t.TempDir(), "serial")
			c.make(t, sys)
			if c.kept != "" {
				put(t, file, c.kept)
			}
			if got, _ := Serial(sys, file); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "serial")
	first, fresh := Serial(t.TempDir(), file)
	if len(first) != 12 || !fresh {
		t.Errorf("of chance: %q, %v", first, fresh)
	}
	if err := KeepSerial(file, first); err != nil {
		t.Error(err)
	}
	if again, fresh := Serial(t.TempDir(), file); again != first || fresh {
		t.Errorf("then %q, %v", again, fresh)
	}
	if err := KeepSerial(filepath.Join(t.TempDir(), "none/serial"), first); err == nil {
		t.Error("kept where it cannot be")
	}
}

func FuzzSerial(f *testing.F) {
	f.Add("CL-2026-0042\n")
	f.Fuzz(func(t *testing.T, raw string) {
		s := cleanSerial(raw)
		if len(s) > maxSerial || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Fatalf("%q", s)
		}
		if again := cleanSerial(s); s != "" && again != s {
			t.Fatalf("%q becomes %q", s, again)
		}
	})
}

// event returns what the kernel writes for a key.
func event(kind, code uint16, value uint32) []byte {
	b := make([]byte, eventSize)
	binary.LittleEndian.PutUint16(b[16:], kind)
	binary.LittleEndian.PutUint16(b[18:], code)
	binary.LittleEndian.PutUint32(b[20:], value)
	return b
}

func TestOnlyAPressOfThePowerKeyPowersOff(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for _, b := range [][]byte{
			event(unix.EV_KEY, 30, 1), event(0, keyPower, 1), event(unix.EV_KEY, keyPower, 0), event(unix.EV_KEY, keyPower, 2), event(unix.EV_KEY, keyRestart, 1),
			append(event(unix.EV_KEY, 31, 1), event(unix.EV_KEY, keyPower, 1)...), []byte("torn"),
		} {
			w.Write(b)
		}
		w.Close()
	}()
	requests := make(chan Request, 10)
	if err := readKeys(t.Context(), r, requests); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	close(requests)
	var got []Request
	for req := range requests {
		got = append(got, req)
	}
	if want := []Request{{Restart, "restart button"}, {PowerOff, "power button"}}; !slices.Equal(got, want) {
		t.Errorf("asked for %v, want %v", got, want)
	}
}

func TestButtonsThatAppearLateAreReadAndAllEndsInTheEnd(t *testing.T) {
	dir := t.TempDir()
	requests := make(chan Request)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		Buttons(ctx, dir, requests, slog.New(slog.DiscardHandler))
		close(done)
	}()
	path := filepath.Join(dir, "event0")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(event(unix.EV_KEY, keyPower, 1)); err != nil {
		t.Fatal(err)
	}
	if got := <-requests; got.Ending != PowerOff {
		t.Errorf("asked for %v", got)
	}
	stop()
	<-done
}

func TestSignalsAskForTheMachinesEnd(t *testing.T) {
	caught := CatchSignals()
	requests := make(chan Request)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { Signals(ctx, caught, requests) })
	for sig, want := range map[unix.Signal]Ending{unix.SIGTERM: Restart, unix.SIGINT: Restart, unix.SIGUSR2: PowerOff, unix.SIGPWR: PowerOff} {
		for _, s := range []unix.Signal{unix.SIGQUIT, unix.SIGHUP, unix.SIGABRT, sig} {
			if err := unix.Kill(os.Getpid(), s); err != nil {
				t.Fatal(err)
			}
		}
		if got := <-requests; got.Ending != want || got.By == "" {
			t.Errorf("%v asks for %+v, want %s", sig, got, want)
		}
	}
	stop()
	all.Wait()
}

func TestGoingDownEndsWhatIsLeftAndUnmounts(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	straggler := exec.Command("/bin/sleep", "1000")
	straggler.Dir = dir
	if err := straggler.Start(); err != nil {
		t.Fatal(err)
	}
	if err := Down(dir, t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := straggler.Wait(); err == nil {
		t.Error("the straggler ended by itself")
	}
	if err := unix.Unmount(dir, 0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("it was still mounted: %v", err)
	}
}

func TestWhatCannotBeUnmountedIsMadeReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir) // by this process, which is spared
	if err != nil {
		t.Fatal(err)
	}
	if err := Down(dir); err == nil || !strings.Contains(err.Error(), "made read-only instead") {
		t.Error(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("it is writable: %v", err)
	}
	f.Close()
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
}

func TestAStepThatHangsIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		if err := Bounded("sync", func() error { <-hang; return nil }); err == nil || !strings.Contains(err.Error(), "sync: hangs") {
			t.Error(err)
		}
		close(hang)
		if err := Bounded("sync", func() error { return errors.New("disk on fire") }); fmt.Sprint(err) != "sync: disk on fire" {
			t.Error(err)
		}
		if err := Bounded("sync", func() error { return nil }); err != nil {
			t.Error(err)
		}
	})
}

// A child that process 1 is just starting holds copies of its open files.
func TestUnmountWaitsForAChildThatIsBeingStarted(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	child, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("with a file open: %v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { unix.Close(child) })
	if err := Unmount(dir); err != nil {
		t.Fatal(err)
	}
	if err := Unmount(dir); !errors.Is(err, unix.EINVAL) {
		t.Errorf("what is not mounted: %v", err)
	}
}
