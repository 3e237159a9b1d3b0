package data

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/testroot"
)

func TestMain(m *testing.M) { testroot.Main(m) }

const mib = 1 << 20

// emptyImage makes the gzipped file system that takes a damaged one's place.
func emptyImage(t *testing.T) string {
	t.Helper()
	image := testroot.File(t, 32*mib)
	testroot.Run(t, "mkfs.ext4", "-q", "-b", "4096", image)
	testroot.Run(t, "gzip", "-1", image)
	return image + ".gz"
}

// A bench is a disk with a file system in it and everything that Open needs.
type bench struct {
	image string // the device's content
	dir   string // where the partition is opened
	empty string
	log   bytes.Buffer
}

// files are what the test file systems hold.
var files = map[string]string{
	"network/lease.json": `{"address":"192.0.2.7"}`,
	"portal/users.json":  `["admin"]`,
	"log/current.log":    "a line\n",
}

// newBench makes a disk of 200 MiB, with a second block group and so a backup of the superblock.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{image: testroot.File(t, 200*mib), dir: t.TempDir(), empty: emptyImage(t)}
	testroot.Run(t, "mkfs.ext4", "-q", "-b", "4096", b.image)
	b.mounted(t, func(dir string) {
		for name, content := range files {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o640), os.Chown(path, 101, 102)); err != nil {
				t.Fatal(err)
			}
		}
	})
	return b
}

// mounted has the file system mounted while do runs.
func (b *bench) mounted(t *testing.T, do func(dir string)) {
	t.Helper()
	b.look(t, 0, func(device string) {
		dir := t.TempDir()
		if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
		}()
		do(dir)
	})
}

// look has the disk as a block device while do runs.
func (b *bench) look(t *testing.T, flags uint32, do func(device string)) {
	t.Helper()
	t.Run("", func(t *testing.T) { do(testroot.Loop(t, b.image, flags)) })
}

// write changes bytes of the disk.
func (b *bench) write(t *testing.T, at int64, content []byte) {
	t.Helper()
	f, err := os.OpenFile(b.image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, at); err != nil {
		t.Fatal(err)
	}
}

// zero empties the disk.
func (b *bench) zero(t *testing.T) {
	t.Helper()
	if err := errors.Join(os.Truncate(b.image, 0), os.Truncate(b.image, 200*mib)); err != nil {
		t.Fatal(err)
	}
}

// open opens the partition and hands the result to check while it is mounted.
func (b *bench) open(t *testing.T, device string, want machine.DataState, check func(r Result)) {
	t.Helper()
	p := Partition{Device: device, Empty: b.empty, Work: t.TempDir(), Log: slog.New(slog.NewTextHandler(&b.log, nil))}
	r := p.Open(b.dir, time.Minute)
	defer func() {
		if err := unix.Unmount(b.dir, 0); err != nil {
			t.Errorf("nothing was mounted: %v", err)
		}
	}()
	if r.State != want {
		t.Errorf("the data partition is %q, want %q; detail %q\n%s", r.State, want, r.Detail, &b.log)
		return
	}
	if err := os.WriteFile(filepath.Join(b.dir, "written"), []byte("x"), 0o600); err != nil {
		t.Errorf("it takes no files: %v", err)
	}
	d, _ := r.Status(b.dir)
	if d.State != want || d.SizeBytes == 0 {
		t.Errorf("status %+v", d)
	}
	check(r)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), p.Work) {
		t.Errorf("something is left mounted below %s:\n%s", p.Work, mounts)
	}
}

// wantFiles reports which of files are not below dir as they should be.
func wantFiles(t *testing.T, dir string) {
	t.Helper()
	for name, content := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != content {
			t.Errorf("%s: %q, %v; want %q", name, got, err, content)
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Uid != 101 || st.Gid != 102 || st.Mode&0o777 != 0o640 {
			t.Errorf("%s is owned by %d:%d with mode %o, %v", name, st.Uid, st.Gid, st.Mode, err)
		}
	}
}

// asideIn returns the one directory of things set aside below dir.
func asideIn(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, setAside, "*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("set aside: %v, %v", found, err)
	}
	if why, err := os.ReadFile(filepath.Join(found[0], "why.txt")); err != nil || len(why) == 0 {
		t.Errorf("why.txt: %q, %v", why, err)
	}
	return found[0]
}

func ids(r Result, dir string) []condition.ID {
	_, list := r.Status(dir)
	var ids []condition.ID
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return ids
}

func TestAGoodPartitionIsMountedAsItIs(t *testing.T) {
	b := newBench(t)
	b.look(t, 0, func(device string) {
		b.open(t, device, machine.DataOK, func(r Result) {
			wantFiles(t, b.dir)
			if got := ids(r, b.dir); len(got) != 0 || r.Detail != "" {
				t.Errorf("conditions %v, detail %q, want none", got, r.Detail)
			}
		})
	})
	b.look(t, 0, func(device string) { // and again
		b.open(t, device, machine.DataOK, func(Result) { wantFiles(t, b.dir) })
	})
}

func TestAFullPartitionIsMountedAndTold(t *testing.T) {
	b := newBench(t)
	b.mounted(t, func(dir string) {
		f, err := os.Create(filepath.Join(dir, "large"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for size := int64(64 * mib); size >= 4096; {
			if err := unix.Fallocate(int(f.Fd()), 0, fileSize(t, f), size); err != nil {
				size /= 2
			}
		}
	})
	b.look(t, 0, func(device string) {
		p := Partition{Device: device, Empty: b.empty, Work: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
		r := p.Open(b.dir, time.Minute)
		defer unix.Unmount(b.dir, 0)
		if got := ids(r, b.dir); r.State != machine.DataOK || len(got) != 1 || got[0] != condition.DataFull {
			t.Errorf("state %q, conditions %v, want one, data-full", r.State, got)
		}
		wantFiles(t, b.dir)
	})
}

func fileSize(t *testing.T, f *os.File) int64 {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestATornSuperblockIsRepairedFromItsBackup(t *testing.T) {
	for name, tear := range map[string]func(t *testing.T, b *bench){
		"first half":  func(t *testing.T, b *bench) { b.write(t, superStart, make([]byte, 512)) },
		"second half": func(t *testing.T, b *bench) { b.write(t, superStart+512, make([]byte, 512)) },
		"all":         func(t *testing.T, b *bench) { b.write(t, superStart, noise(1024)) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			// What was written and synced before the power failed is in the journal only: the
			// backup does not say that it must be replayed.
			var dirty []byte
			b.mounted(t, func(dir string) {
				f, err := os.Create(filepath.Join(dir, "synced"))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if _, err := f.WriteString("synced"); err != nil {
					t.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					t.Fatal(err)
				}
				if dirty, err = os.ReadFile(b.image); err != nil {
					t.Fatal(err)
				}
			})
			b.write(t, 0, dirty)
			tear(t, b)
			b.look(t, 0, func(device string) {
				b.open(t, device, machine.DataOK, func(Result) {
					wantFiles(t, b.dir)
					if got, err := os.ReadFile(filepath.Join(b.dir, "synced")); err != nil || string(got) != "synced" {
						t.Errorf("the file that was synced has %q, %v", got, err)
					}
				})
			})
			if out := testroot.Run(t, "fsck.ext4", "-fn", b.image); strings.Contains(out, "errors") {
				t.Error(out)
			}
		})
	}
}

func TestADamagedPartitionIsSetAsideAndReplaced(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, b *bench){
		"zeros":   func(t *testing.T, b *bench) { b.zero(t) },
		"garbage": func(t *testing.T, b *bench) { b.write(t, 0, noise(140*mib)) },
		"another kind": func(t *testing.T, b *bench) {
			testroot.Run(t, "mkswap", "-f", b.image)
			b.write(t, 64*mib, noise(136*mib))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			damage(t, b)
			before, err := os.ReadFile(b.image)
			if err != nil {
				t.Fatal(err)
			}
			b.look(t, 0, func(device string) {
				b.open(t, device, machine.DataReplaced, func(r Result) {
					kept, err := os.ReadFile(filepath.Join(asideIn(t, b.dir), "start.gz"))
					if err != nil {
						t.Fatal(err)
					}
					z, err := gzip.NewReader(bytes.NewReader(kept))
					if err != nil {
						t.Fatal(err)
					}
					if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, before[:mib]) {
						t.Errorf("the first MiB was not kept: %d bytes, %v", len(got), err)
					}
					if got := ids(r, b.dir); len(got) != 1 || got[0] != condition.DataReplaced {
						t.Errorf("conditions %v", got)
					}
				})
			})
			if out := testroot.Run(t, "fsck.ext4", "-fn", b.image); strings.Contains(out, "errors") {
				t.Error(out)
			}
			b.look(t, 0, func(device string) { // the next boot
				b.open(t, device, machine.DataOK, func(Result) { asideIn(t, b.dir) })
			})
		})
	}
}

func TestFilesOfADamagedPartitionAreCarriedOver(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, b *bench){
		"group descriptors": func(t *testing.T, b *bench) { b.write(t, 4096, noise(4096)) }, // read with sb=
		"journal": func(t *testing.T, b *bench) { // read with noload
			var first int64
			out := testroot.Run(t, "debugfs", "-R", "bmap <8> 0", b.image)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if _, err := fmt.Sscan(lines[len(lines)-1], &first); err != nil {
				t.Fatalf("place of journal in %q: %v", out, err)
			}
			b.write(t, first*4096, noise(4096))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			damage(t, b)
			b.look(t, 0, func(device string) {
				b.open(t, device, machine.DataReplaced, func(r Result) {
					wantFiles(t, filepath.Join(asideIn(t, b.dir), "files"))
					if !strings.Contains(r.Detail, "3 files") {
						t.Errorf("detail %q", r.Detail)
					}
				})
			})
		})
	}
}

func TestAReadOnlyPartitionIsCopiedToMemory(t *testing.T) {
	b := newBench(t)
	b.look(t, unix.LO_FLAGS_READ_ONLY, func(device string) {
		b.open(t, device, machine.DataReadOnly, func(r Result) {
			wantFiles(t, b.dir)
			if got := ids(r, b.dir); len(got) != 1 || got[0] != condition.DataReadOnly {
				t.Errorf("conditions %v", got)
			}
		})
	})
}

func TestMemoryStandsInForAMissingPartition(t *testing.T) {
	b := newBench(t)
	b.open(t, "", machine.DataMissing, func(r Result) {
		if got := ids(r, b.dir); len(got) != 1 || got[0] != condition.DataMissing {
			t.Errorf("conditions %v", got)
		}
	})
}

func TestAFailingMediumIsNeverErased(t *testing.T) {
	b := newBench(t)
	b.look(t, 0, func(device string) {
		if err := os.Truncate(b.image, 0); err != nil { // the device keeps its size, and cannot read
			t.Fatal(err)
		}
		b.open(t, device, machine.DataFailing, func(r Result) {
			if got := ids(r, b.dir); len(got) != 1 || got[0] != condition.StorageFailing {
				t.Errorf("conditions %v", got)
			}
		})
		if info, err := os.Stat(b.image); err != nil || info.Size() != 0 {
			t.Errorf("it was written to: %d bytes, %v", info.Size(), err)
		}
	})
}

func TestAMediumThatHangsDoesNotHoldUpTheBoot(t *testing.T) {
	outer := testroot.File(t, 300*mib)
	testroot.Run(t, "mkfs.ext4", "-q", outer)
	dir := t.TempDir()
	if err := unix.Mount(testroot.Loop(t, outer, 0), dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	b := newBench(t)
	image := filepath.Join(dir, "disk")
	testroot.Run(t, "cp", "--sparse=always", b.image, image)
	device := testroot.Loop(t, image, 0)

	outside, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	const freeze, thaw = 0xc0045877, 0xc0045878 // FIFREEZE, FITHAW
	if err := unix.IoctlSetInt(int(outside.Fd()), freeze, 0); err != nil {
		t.Fatal(err)
	}
	p := Partition{Device: device, Empty: b.empty, Work: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	r := p.Open(b.dir, 300*time.Millisecond) // the mount wants to write
	err = unix.IoctlSetInt(int(outside.Fd()), thaw, 0)
	defer unix.Unmount(b.dir, 0)
	if r.State != machine.DataFailing || err != nil {
		t.Fatalf("state %q, detail %q, thaw: %v", r.State, r.Detail, err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "written"), []byte("x"), 0o600); err != nil {
		t.Errorf("what stands in takes no files: %v", err)
	}
	testroot.Until(t, "the late mount is gone and the device is free", func() bool {
		f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
		if err == nil {
			f.Close()
		}
		return err == nil
	})
}

func TestAReplacementLeavesNothingOfTheOldFileSystemToComeBack(t *testing.T) {
	b := newBench(t)
	b.write(t, 4096, noise(4096)) // group descriptors; the backup in group 1 is good
	b.look(t, 0, func(device string) { b.open(t, device, machine.DataReplaced, func(Result) {}) })
	b.write(t, superStart, make([]byte, 1024)) // the power fails before the superblock is on the medium
	b.look(t, 0, func(device string) {
		b.open(t, device, machine.DataReplaced, func(Result) {
			if _, err := os.Stat(filepath.Join(b.dir, "portal")); err == nil {
				t.Error("files of the old file system are back")
			}
		})
	})
}

func TestTheDataFileSystemGrows(t *testing.T) {
	if !may(t, unix.CAP_SYS_RESOURCE) {
		t.Skip("this root may not resize file systems (no CAP_SYS_RESOURCE); internal/testvm does it in the image")
	}
	b := newBench(t)
	if err := os.Truncate(b.image, 3<<30); err != nil {
		t.Fatal(err)
	}
	b.look(t, 0, func(device string) {
		b.open(t, device, machine.DataOK, func(r Result) {
			size, err := Grow(t.Context(), device, b.dir)
			if err != nil || size != 3<<30 {
				t.Errorf("grew to %d, %v", size, err)
			}
			if again, err := Grow(t.Context(), device, b.dir); again != 0 || err != nil {
				t.Errorf("then to %d, %v", again, err)
			}
			wantFiles(t, b.dir)
		})
	})
}

func may(t *testing.T, capability int) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		t.Fatal(err)
	}
	return caps[capability/32].Effective&(1<<(capability%32)) != 0
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
