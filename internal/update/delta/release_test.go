package delta_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cloudlink.local/gateway/initramfs"
	"cloudlink.local/gateway/internal/update/delta"
)

// A release in which only our code has changed, made of the init that ships and the kernel that ships:
// published in one process, installed in another one, here and as the device's processor does it.
func TestReleaseThatChangesOnlyOurCode(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	build(t, nil, "-o", path("publish"), "./testdata/device")
	build(t, []string{"GOARCH=arm64"}, "-o", path("device"), "./testdata/device")

	// The changed code stands in a copy of its file, which the compiler is told to take instead.
	const source = "../../../internal/portal/find.go"
	from, err := filepath.Abs(source)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	const before, change = "func openable(", `
func unlike(list []netip.Addr) (n int) {
	for i, a := range list {
		if a.Is4() && i > 0 && a.Less(list[i-1]) { n++ }
	}
	return n
}

`
	const first = "	var all []netip.Addr\n"
	changed := strings.Replace(strings.Replace(string(text), before, change+before, 1), first,
		first+"	if unlike(all) > 2 { return nil }\n", 1)
	if strings.Count(changed, "unlike(") != 2 {
		t.Fatalf("%s is not what it was: change something else in it", source)
	}
	write(t, path("find.go"), []byte(changed))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{from: path("find.go")}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, path("overlay.json"), overlay)

	release := func(name string, flags ...string) []byte {
		arguments := append([]string{"-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", path("init")}, flags...)
		build(t, []string{"GOARCH=arm64"}, append(arguments, "../../../cmd/init")...)
		if err := initramfs.BuildBare(t.Context(), path("init"), path("initramfs")); err != nil {
			t.Fatal(err)
		}
		packed, err := os.ReadFile(path("initramfs"))
		if err != nil {
			t.Fatal(err)
		}
		kernel, err := os.ReadFile("../../../firmware/kernel/vmlinuz.efi")
		if err != nil {
			t.Fatal(err)
		}
		file := delta.Wrap(t, kernel, packed)
		write(t, path(name), file)
		return file
	}
	old := release("old.efi")
	new := release("new.efi", "-overlay", path("overlay.json"))
	if bytes.Equal(old, new) {
		t.Fatal("the change changes nothing")
	}

	execute(t, path("publish"), "make", path("old.efi"), path("new.efi"), path("patch"))
	patch, err := os.Stat(path("patch"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes of patch for %d: %.4f", patch.Size(), len(new), float64(patch.Size())/float64(len(new)))
	if patch.Size()*100 > int64(len(new))*15 {
		t.Errorf("%d bytes of patch for %d", patch.Size(), len(new))
	}
	for name, command := range map[string][]string{"here": {path("publish")}, "arm64": {"qemu-aarch64", path("device")}} {
		most := execute(t, append(command, "apply", path("old.efi"), path("patch"), dir, path("got.efi"))...)
		got, err := os.ReadFile(path("got.efi"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, new) {
			t.Errorf("%s: the result is another", name)
		}
		if name == "arm64" {
			continue // the memory is that of the emulator, too
		}
		kib, err := strconv.Atoi(strings.TrimSpace(most))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d KiB at most", name, kib)
		if kib > 48<<10 {
			t.Errorf("%s: %d KiB of memory, at most 48 MiB wanted", name, kib)
		}
	}
}

func build(t *testing.T, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build"}, args...)...)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %v: %v\n%s", args, err, out)
	}
}

func execute(t *testing.T, command ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s (scripts/setup test installs what is missing)", filepath.Base(command[0]), err, &stderr)
	}
	return string(out)
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
