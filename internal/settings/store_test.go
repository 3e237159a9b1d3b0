package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// withMTU returns valid settings that can be told apart.
func withMTU(mtu int) Settings {
	s := full()
	s.Network.WAN.MTU = mtu
	return s.Clone()
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, s Settings) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// files returns what is in dir, by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			found[e.Name()] = e.Type().String()
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name()] = string(b)
	}
	return found
}

func save(t *testing.T, s *Store, settings Settings) {
	t.Helper()
	if err := s.Save(settings); err != nil {
		t.Fatal(err)
	}
}

func TestStoreOfANewDevice(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		s, origin := Open(dir)
		if want := (Origin{Source: FromDefault}); !reflect.DeepEqual(origin, want) {
			t.Errorf("%+v", origin)
		}
		if !reflect.DeepEqual(s.Get(), Default()) {
			t.Errorf("%+v", s.Get())
		}
	}
}

func TestSavedSettingsAreThereAgain(t *testing.T) {
	dir := t.TempDir()
	s, _ := Open(dir)
	for _, mtu := range []int{1300, 1400, 1500} {
		save(t, s, withMTU(mtu))
		again, origin := Open(dir)
		if want := (Origin{Source: FromFile, Version: Version}); !reflect.DeepEqual(origin, want) {
			t.Errorf("%+v", origin)
		}
		if !reflect.DeepEqual(again.Get(), withMTU(mtu)) || !reflect.DeepEqual(s.Get(), withMTU(mtu)) {
			t.Errorf("%+v", again.Get())
		}
	}
	found := files(t, dir)
	if len(found) != 2 || !strings.Contains(found[fileName], "1500") || !strings.Contains(found[copyName], "1400") {
		t.Errorf("%q", found)
	}
	info, err := os.Stat(filepath.Join(dir, fileName))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestTheSameIsNotWrittenAgain(t *testing.T) {
	dir := t.TempDir()
	s, _ := Open(dir)
	stat := func() os.FileInfo {
		t.Helper()
		info, err := os.Stat(filepath.Join(dir, fileName))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	save(t, s, withMTU(1400))
	save(t, s, withMTU(1401))
	first, all := stat(), files(t, dir)
	for range 100 {
		save(t, s, withMTU(1401))
	}
	if !os.SameFile(first, stat()) || !reflect.DeepEqual(files(t, dir), all) {
		t.Errorf("it was written again: %v", files(t, dir))
	}
	s, _ = Open(dir) // nor by the next process
	save(t, s, withMTU(1401))
	if !os.SameFile(first, stat()) {
		t.Error("it was written again")
	}
	write(t, dir, fileName, "damaged")
	save(t, s, withMTU(1401))
	if got := files(t, dir)[fileName]; got != all[fileName] {
		t.Errorf("the file is %q", got)
	}
	os.Remove(filepath.Join(dir, fileName))
	save(t, s, withMTU(1401))
	if got := files(t, dir)[fileName]; got != all[fileName] {
		t.Errorf("the file is %q", got)
	}
}

func TestGetAndSaveShareNothingWithTheCaller(t *testing.T) {
	s, _ := Open(t.TempDir())
	mine := withMTU(1300)
	save(t, s, mine)
	mine.Network.WAN.DNS[0] = addr("192.0.2.99")
	got := s.Get()
	got.Clock.Servers[0] = "changed"
	got.Network.WAN.Routes[0].Router = addr("192.0.2.99")
	if !reflect.DeepEqual(s.Get(), withMTU(1300)) {
		t.Errorf("%+v", s.Get())
	}
}

func TestSaveRefusesWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	s, _ := Open(dir)
	save(t, s, withMTU(1300))
	before := files(t, dir)
	err := s.Save(withMTU(5))
	if got := summary(t, err); got != "network.wan.mtu mtu-range" {
		t.Errorf("%v", err)
	}
	if !reflect.DeepEqual(files(t, dir), before) || !reflect.DeepEqual(s.Get(), withMTU(1300)) {
		t.Error("it was saved")
	}
}

func TestADamagedFileMeansTheCopyThenTheDefaults(t *testing.T) {
	good := text(t, withMTU(1300))
	for name, damage := range map[string]string{
		"empty":        "",
		"zeros":        strings.Repeat("\x00", 4096),
		"torn":         good[:len(good)/2],
		"foreign":      `{"hello":"world"}`,
		"unknown key":  strings.Replace(good, `"vlan"`, `"vlan2"`, 1),
		"a bad value":  strings.Replace(good, `"vlan":7`, `"vlan":70000`, 1),
		"oversized":    good + strings.Repeat(" ", maxSize),
		"flipped byte": strings.Replace(good, `"mtu":1300`, "\"mtu\":1\xb300", 1),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, fileName, damage)
			s, origin := Open(dir)
			if origin.Source != FromDefault || len(origin.Problems) != 2 || !strings.HasPrefix(origin.Problems[0].Error(), "read settings.json: ") {
				t.Errorf("without a copy: %+v", origin)
			}
			if !reflect.DeepEqual(s.Get(), Default()) {
				t.Errorf("%+v", s.Get())
			}

			write(t, dir, copyName, good)
			before := files(t, dir)
			s, origin = Open(dir)
			if origin.Source != FromCopy || origin.Version != Version || len(origin.Problems) != 1 {
				t.Errorf("with a copy: %+v", origin)
			}
			if !reflect.DeepEqual(s.Get(), withMTU(1300)) {
				t.Errorf("%+v", s.Get())
			}
			if !reflect.DeepEqual(files(t, dir), before) {
				t.Error("Open changed the files")
			}

			// The damaged file does not become the copy.
			save(t, s, withMTU(1400))
			if found := files(t, dir); len(found) != 2 || found[copyName] != good || !strings.Contains(found[fileName], "1400") {
				t.Errorf("%q", found)
			}

			write(t, dir, fileName, damage)
			write(t, dir, copyName, damage)
			s, origin = Open(dir)
			if origin.Source != FromDefault || len(origin.Problems) != 2 || !reflect.DeepEqual(s.Get(), Default()) {
				t.Errorf("both damaged: %+v", origin)
			}
			save(t, s, withMTU(1400))
		})
	}
}

func TestAMissingFileMeansTheCopy(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, copyName, text(t, withMTU(1300)))
	s, origin := Open(dir)
	if origin.Source != FromCopy || len(origin.Problems) != 1 || !errors.Is(origin.Problems[0], fs.ErrNotExist) || s.Get().Network.WAN.MTU != 1300 {
		t.Errorf("%+v", origin)
	}
}

func TestOnlyRegularFilesAreRead(t *testing.T) {
	for name, c := range map[string]struct {
		put  func(path string) error
		want string
	}{
		"symbolic link": {func(path string) error {
			target := filepath.Join(t.TempDir(), "elsewhere")
			if err := os.WriteFile(target, []byte(text(t, withMTU(1300))), 0o600); err != nil {
				return err
			}
			return os.Symlink(target, path)
		}, "read settings.json: it is a symbolic link: put the file itself in its place"},
		"pipe": {func(path string) error { return unix.Mkfifo(path, 0o600) },
			"read settings.json: it is no regular file: remove it"},
		"folder": {func(path string) error { return os.Mkdir(path, 0o700) },
			"read settings.json: it is no regular file: remove it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.put(filepath.Join(dir, fileName)); err != nil {
				t.Fatal(err)
			}
			write(t, dir, copyName, text(t, withMTU(1400)))
			s, origin := Open(dir)
			if origin.Source != FromCopy || len(origin.Problems) != 1 || origin.Problems[0].Error() != c.want || s.Get().Network.WAN.MTU != 1400 {
				t.Errorf("%+v", origin)
			}
			if err := s.Save(withMTU(1500)); name == "folder" {
				if want := "save settings, the old ones stay: replace settings.json: file exists"; fmt.Sprint(err) != want {
					t.Errorf("%v, want %s", err, want)
				}
				if found := files(t, dir); len(found) != 2 {
					t.Errorf("%q", found)
				}
				return
			} else if err != nil {
				t.Fatal(err)
			}
			// It is the link that was replaced, not what it led to.
			if info, err := os.Lstat(filepath.Join(dir, fileName)); err != nil || !info.Mode().IsRegular() {
				t.Errorf("%v %v", info.Mode(), err)
			}
		})
	}
}

func TestAFileOfNewerFirmwareIsLeftAloneUntilSave(t *testing.T) {
	dir := t.TempDir()
	newer := `{"version":9,"wifi":true,"network":{"wan":{"mtu":1300,"ipv4":{"method":"pppoe"}}}}`
	write(t, dir, fileName, newer)
	s, origin := Open(dir)
	if origin.Source != FromFile || origin.Version != 9 || len(origin.Problems) != 1 ||
		origin.Problems[0].Error() != "network.wan.ipv4.method: there is no method “pppoe”: choose one of these: dhcp, static, off" {
		t.Errorf("%+v", origin)
	}
	want := Default()
	want.Network.WAN.MTU = 1300
	if !reflect.DeepEqual(s.Get(), want) {
		t.Errorf("%+v", s.Get())
	}
	if found := files(t, dir); !reflect.DeepEqual(found, map[string]string{fileName: newer}) {
		t.Errorf("%q", found)
	}
	save(t, s, withMTU(1400))
	if found := files(t, dir); found[copyName] != newer || !strings.Contains(found[fileName], `"version": 1`) {
		t.Errorf("%q", found)
	}
}

func TestWhatAPowerCutLeavesIsRemoved(t *testing.T) {
	dir := t.TempDir()
	s, _ := Open(dir)
	save(t, s, withMTU(1300))
	save(t, s, withMTU(1400))

	// Between the copy and the file: both names are of one file, and the new one is lying about.
	if err := os.Remove(filepath.Join(dir, copyName)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{copyName, linkName} {
		if err := os.Link(filepath.Join(dir, fileName), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, ".settings.json123456", `{"ver`)
	write(t, dir, "other", "not ours")
	s, origin := Open(dir)
	if origin.Source != FromFile || s.Get().Network.WAN.MTU != 1400 {
		t.Errorf("%+v", origin)
	}
	for _, mtu := range []int{1500, 1600} {
		save(t, s, withMTU(mtu))
		found := files(t, dir)
		if len(found) != 3 || !strings.Contains(found[fileName], fmt.Sprint(mtu)) || !strings.Contains(found[copyName], fmt.Sprint(mtu-100)) {
			t.Errorf("%q", found)
		}
	}
}

// small mounts a file system of so many bytes.
func small(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount tmpfs: %v", err)
		}
	})
	return dir
}

func TestOnAFullDiskTheOldSettingsStay(t *testing.T) {
	dir := small(t, "size=64k")
	s, _ := Open(dir)
	save(t, s, withMTU(1300))
	save(t, s, withMTU(1400))
	before := files(t, dir)
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	for size := 64 << 10; size > 0; {
		if _, err := ballast.Write(bytes.Repeat([]byte{1}, size)); err != nil {
			size /= 2
		}
	}
	refused := func() {
		t.Helper()
		err := s.Save(withMTU(1500))
		if want := "save settings, the old ones stay: write settings.json: no space left on device"; fmt.Sprint(err) != want || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%v, want %s", err, want)
		}
		if s.Get().Network.WAN.MTU != 1400 {
			t.Error("Get has what was not saved")
		}
		found := files(t, dir)
		delete(found, "ballast")
		if !reflect.DeepEqual(found, before) {
			t.Errorf("the files were %q and are %q", before, found)
		}
		again, origin := Open(dir)
		if origin.Source != FromFile || again.Get().Network.WAN.MTU != 1400 {
			t.Errorf("%+v", origin)
		}
	}
	refused()
	refused()
	if err := ballast.Truncate(0); err != nil {
		t.Fatal(err)
	}
	save(t, s, withMTU(1500))
}

func TestWhereTheCopyCannotBeKeptTheOldSettingsStay(t *testing.T) {
	dir := small(t, "nr_inodes=4") // the folder, the file, the copy and the new file: not one more link
	s, _ := Open(dir)
	save(t, s, withMTU(1300))
	save(t, s, withMTU(1400))
	before := files(t, dir)
	err := s.Save(withMTU(1500))
	if want := "save settings, the old ones stay: keep the settings before as settings.json.good: no space left on device"; fmt.Sprint(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
	if found := files(t, dir); !reflect.DeepEqual(found, before) || s.Get().Network.WAN.MTU != 1400 {
		t.Errorf("%q", found)
	}
}

func TestAReadOnlyMediumIsSaid(t *testing.T) {
	dir := small(t, "size=64k")
	s, _ := Open(dir)
	save(t, s, withMTU(1300))
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	err := s.Save(withMTU(1400))
	if want := "save settings, the old ones stay: create settings.json: read-only file system"; fmt.Sprint(err) != want || !errors.Is(err, unix.EROFS) {
		t.Errorf("%v, want %s", err, want)
	}
	if s.Get().Network.WAN.MTU != 1300 {
		t.Error("Get has what was not saved")
	}
}

func TestSavesAndGetsAtOnce(t *testing.T) {
	dir := t.TempDir()
	s, _ := Open(dir)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 5 {
				if err := s.Save(withMTU(1300 + 10*i + j)); err != nil {
					t.Error(err)
				}
				if err := s.Get().Check(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	again, origin := Open(dir)
	if origin.Source != FromFile || len(origin.Problems) > 0 || !reflect.DeepEqual(again.Get(), s.Get()) {
		t.Errorf("%+v", origin)
	}
}
