package grub

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloudlink.local/gateway/firmware/debian"
	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/firmware/uki"
	"cloudlink.local/gateway/internal/release"
)

// GRUB's own tool reads the script; what it does is tested in QEMU (internal/testvm).
func TestScriptIsWellFormed(t *testing.T) {
	out, err := exec.Command("grub-script-check", "grub.cfg").CombinedOutput()
	if err != nil {
		t.Errorf("grub-script-check (scripts/setup run installs grub-common): %v\n%s", err, out)
	}
}

// A serial console is often 80 columns wide and knows ASCII only.
func TestMessagesFitTheConsole(t *testing.T) {
	for i, line := range strings.Split(string(script), "\n") {
		for _, c := range line {
			if c > 126 {
				t.Errorf("line %d: %q is not ASCII", i+1, c)
			}
		}
		text, ok := strings.CutPrefix(strings.TrimSpace(line), `echo "`)
		if ok && len(text)-1 > 79 {
			t.Errorf("line %d: %d columns", i+1, len(text)-1)
		}
	}
}

// Commands that no module of ours brings would fail on the device only.
func TestEveryCommandHasItsModule(t *testing.T) {
	dir := modulesDir(t)
	list, err := os.ReadFile(filepath.Join(dir, "command.lst"))
	if err != nil {
		t.Fatal(err)
	}
	module := map[string]string{}
	for _, line := range strings.Split(string(list), "\n") {
		if name, mod, ok := strings.Cut(line, ": "); ok {
			module[strings.TrimPrefix(name, "*")] = mod
		}
	}
	for _, command := range []string{"normal", "regexp", "chainloader", "echo", "boot", "reboot", "load_env", "save_env", "true", "false", "[", "sleep"} {
		found := false
		for _, m := range modules {
			found = found || m == module[command]
		}
		if !found {
			t.Errorf("%s comes from module %q, which is not in the loader", command, module[command])
		}
	}
}

func modulesDir(t *testing.T) string {
	t.Helper()
	lock, err := debian.ReadLock("../debian.lock")
	if err != nil {
		t.Fatal(err)
	}
	p, ok := lock.Find(Package)
	if !ok {
		t.Fatalf("%s is not locked", Package)
	}
	cache := filepath.Join("..", "..", "build", "cache", "debian")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	store := debian.Store{Dir: cache, Log: t.Logf}
	_, file, err := store.GetOrNewest(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := debian.Unpack(file, ModulesDir, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLoaderIsTheSameEveryTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := keys.Init(dir, keys.Options{Kind: release.Development}); err != nil {
		t.Fatal(err)
	}
	set, err := keys.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	modules := modulesDir(t)
	first, err := Build(context.Background(), modules, set.BootPublic)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Build(context.Background(), modules, set.BootPublic)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two builds differ")
	}
	if !bytes.Contains(first, []byte("function start")) || !bytes.Contains(first, set.BootPublic) {
		t.Error("script or key is not in the loader")
	}
	if _, err := uki.Sign(first, set.SecureBoot, set.Certificate); err != nil {
		t.Errorf("the loader cannot be signed: %v", err)
	}
}

func TestErrorsNameTheCure(t *testing.T) {
	if _, err := Build(context.Background(), t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "grub-mkimage") {
		t.Errorf("no modules: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Build(context.Background(), t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "grub-common") {
		t.Errorf("no grub-mkimage: %v", err)
	}
}
