package kernel

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The update bundle, the slots and the loader's signature check all pay for each byte.
const maxSize = 7 << 20

func lock(t *testing.T) Lock {
	t.Helper()
	l, err := ReadLock(".")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func config(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open("kernel.config")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := ParseConfig(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fragments(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("config/*.config")
	if err != nil || len(names) == 0 {
		t.Fatalf("no fragments in config/: %v", err)
	}
	return names
}

func sum(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

func TestCommittedKernelIsTheLockedOne(t *testing.T) {
	l := lock(t)
	fi, err := os.Stat("vmlinuz.efi")
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() != l.Size {
		t.Errorf("vmlinuz.efi has %d bytes, the lock says %d", fi.Size(), l.Size)
	}
	if fi.Size() > maxSize {
		t.Errorf("vmlinuz.efi has %d bytes, more than %d", fi.Size(), maxSize)
	}
	if got := sum(t, "vmlinuz.efi"); got != l.SHA256 {
		t.Errorf("vmlinuz.efi has sha256 %s, the lock says %s", got, l.SHA256)
	}
	if got := sum(t, "kernel.config"); got != l.ConfigSHA256 {
		t.Errorf("kernel.config has sha256 %s, the lock says %s", got, l.ConfigSHA256)
	}
	if want := l.Upstream + "-cloudlink"; l.Release != want {
		t.Errorf("release is %q, not %q", l.Release, want)
	}
}

func TestCommittedKernelStartsUnderUEFI(t *testing.T) {
	f, err := os.Open("vmlinuz.efi")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 0x20)
	if _, err := io.ReadFull(f, head); err != nil {
		t.Fatal(err)
	}
	// The EFI_ZBOOT header: a DOS stub, "zimg", and at 0x18 the compression.
	if string(head[:2]) != "MZ" || string(head[4:8]) != "zimg" || string(head[0x18:0x1c]) != "zstd" {
		t.Errorf("vmlinuz.efi is no zstd-compressed EFI image: it starts with % x", head)
	}
}

func TestNoFragmentWasEditedWithoutRebuilding(t *testing.T) {
	l := lock(t)
	var names []string
	for _, name := range fragments(t) {
		base := filepath.Base(name)
		names = append(names, base)
		if got := sum(t, name); got != l.Fragments[base] {
			t.Errorf("%s has sha256 %s, the lock says %q: run make kernel", name, got, l.Fragments[base])
		}
	}
	if locked := slices.Sorted(maps.Keys(l.Fragments)); !slices.Equal(names, locked) {
		t.Errorf("config/ holds %v, the lock %v", names, locked)
	}
}

func TestCommittedConfigurationSatisfiesTheFragments(t *testing.T) {
	var readers []io.Reader
	for _, name := range fragments(t) {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		readers = append(readers, f)
	}
	if err := CheckFragments(config(t), readers...); err != nil {
		t.Error(err)
	}
}

// What the fragments ask for could be edited by mistake; this list is the second opinion.
func TestForbiddenThingsAreOff(t *testing.T) {
	c := config(t)
	for _, name := range strings.Fields(`
		MODULES KEXEC KEXEC_FILE CRASH_DUMP HIBERNATION DEVMEM DEVPORT PROC_KCORE COREDUMP SWAP
		DEBUG_FS KPROBES FTRACE PERF_EVENTS IO_URING USERFAULTFD USER_NS COMPAT BINFMT_MISC
		LEGACY_PTYS LEGACY_TIOCSTI LDISC_AUTOLOAD COMPAT_BRK MAGIC_SYSRQ_SERIAL ACPI_TABLE_UPGRADE
		ACPI_CUSTOM_DSDT EFI_ARMSTUB_DTB_LOADER EFI_CUSTOM_SSDT_OVERLAYS SECURITY_SELINUX_DISABLE`) {
		if v := c["CONFIG_"+name]; v != "" && v != "n" {
			t.Errorf("CONFIG_%s is %s", name, v)
		}
	}
	for _, name := range strings.Fields(`
		RANDOMIZE_BASE STRICT_KERNEL_RWX HARDENED_USERCOPY FORTIFY_SOURCE INIT_STACK_ALL_ZERO
		STACKPROTECTOR_STRONG VMAP_STACK BPF_JIT_ALWAYS_ON BPF_UNPRIV_DEFAULT_OFF PANIC_ON_OOPS
		SECURITY_LOCKDOWN_LSM_EARLY LOCK_DOWN_KERNEL_FORCE_INTEGRITY SECURITY_LANDLOCK SECCOMP_FILTER`) {
		if c["CONFIG_"+name] != "y" {
			t.Errorf("CONFIG_%s is off", name)
		}
	}
}

func TestCheckFragmentsListsEveryUnmetLine(t *testing.T) {
	c, err := ParseConfig(strings.NewReader(`
# Automatically generated file; DO NOT EDIT.
CONFIG_NET=y
CONFIG_LSM="landlock,lockdown"
CONFIG_NR_CPUS=8
# CONFIG_MODULES is not set
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, fragment, want string }{
		{"holds", "# why\nCONFIG_NET=y\nCONFIG_LSM=\"landlock,lockdown\"\n# CONFIG_MODULES is not set\n", ""},
		{"never mentioned is off", "# CONFIG_KEXEC is not set\n", ""},
		{"dropped by Kconfig", "CONFIG_XDP_SOCKETS=y\n", "CONFIG_XDP_SOCKETS is n, not y"},
		{"on but must not be", "# CONFIG_NET is not set\n", "CONFIG_NET is y, not n"},
		{"another number", "CONFIG_NR_CPUS=4\n", "CONFIG_NR_CPUS is 8, not 4"},
		{"all of them", "CONFIG_B=y\nCONFIG_A=y\n", "CONFIG_A is n, not y\nCONFIG_B is n, not y"},
		{"no setting", "NET=y\n", `parse kernel configuration: line 1: "NET=y" is no setting`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := CheckFragments(c, strings.NewReader(tt.fragment)); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
