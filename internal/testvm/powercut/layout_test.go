package powercut

import (
	"os"
	"path/filepath"
	"testing"

	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/testvm"
	"cloudlink.local/gateway/internal/testvm/powercut/nbd"
	vmupdate "cloudlink.local/gateway/internal/testvm/update"
)

// The host's tools say where things lie.
func TestALayoutIsThatOfTheImage(t *testing.T) {
	const size = 512 << 20
	vm := testvm.New(t, testvm.Options{Image: filepath.Join(vmupdate.Release(t, before), "cloudlink.img"), Size: size})
	want := map[string]bootenv.Env{bootenv.File: {Confirmed: bootenv.B}, bootenv.Backup: {Confirmed: bootenv.A, Trial: bootenv.B, Tries: 3}}
	for name, e := range want {
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		vm.Disk.WriteFile("esp", name, b)
	}
	l, err := NewLayout(vm.Disk.Path())
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.Open(vm.Disk.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	for i, name := range []string{bootenv.File, bootenv.Backup} {
		b := make([]byte, bootenv.Size)
		if _, err := disk.ReadAt(b, l.env[i]); err != nil {
			t.Fatal(err)
		}
		if got, err := bootenv.Parse(b); err != nil || got != want[name] {
			t.Errorf("where %s should be is %+v (%v), want %+v", name, got, err, want[name])
		}
		if got := l.Class(nbd.Op{Kind: nbd.Write, Offset: l.env[i] - 3072, Length: 4096}); got != "environment" {
			t.Errorf("a write over %s is of class %s", name, got)
		}
	}
	at := func(label string) int64 { start, _ := vm.Disk.Partition(label); return start }
	for _, c := range []struct {
		offset int64
		want   string
	}{
		{0, "partition table"}, {at("esp"), "esp"}, {at("slot-a"), "slot-a tables"}, {at("slot-b") + Sector, "slot-b tables"},
		{at("slot-b") + 1<<20, "slot-b files"}, {at("data") - Sector, "slot-b files"}, {at("data"), "data"},
		{size - 1<<20, "data"}, {size - Sector, "partition table"}, // the data partition grows to there
	} {
		if got := l.Class(nbd.Op{Kind: nbd.Write, Offset: c.offset, Length: Sector}); got != c.want {
			t.Errorf("a write at %d is of class %s, want %s", c.offset, got, c.want)
		}
	}
}
