package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// asFirmware has the test binary be the command itself: the exit status counts as well.
const asFirmware = "TEST_AS_FIRMWARE"

func TestMain(m *testing.M) {
	if os.Getenv(asFirmware) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// firmware runs the command and returns what it says and its exit status.
func firmware(t *testing.T, dir string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), asFirmware+"=1", "GORACE=atexit_sleep_ms=0")
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), diag.String(), cmd.ProcessState.ExitCode()
}

// Each mistake gets one line that says what to do, and leaves nothing behind.
func TestMistakes(t *testing.T) {
	const boards = "qemu-virt, uefi-arm64"
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	set := filepath.Join(dir, "new", "set")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)

	for _, c := range []struct {
		args   []string
		status int
		words  []string
	}{
		{[]string{"nonsense"}, 2, []string{`"nonsense"`, "flash", "keys init", "help"}},
		{[]string{"-x"}, 2, []string{`"-x"`, "help"}},
		{[]string{"keys"}, 2, []string{"keys init"}},
		{[]string{"keys", "nonsense"}, 2, []string{`"keys nonsense"`, "keys init"}},
		{[]string{"lock"}, 2, []string{"lock update"}},
		{[]string{"lock", "update", "extra"}, 2, []string{`"extra"`, "lock update -h"}},
		{[]string{"boards", "extra"}, 2, []string{`"extra"`, "boards -h"}},
		{[]string{"boards", "-x"}, 2, []string{"-x", "boards -h"}},

		{[]string{"image"}, 2, []string{"-board", "BOARD=", boards}},
		{[]string{"image", "-board"}, 2, []string{"-board", "image -h"}},
		{[]string{"image", "-board", "nonsense"}, 2, []string{`"nonsense"`, boards}},
		{[]string{"image", "-board", "../board/qemu-virt"}, 2, []string{boards}},
		{[]string{"image", "-x"}, 2, []string{"-x", "image -h"}},
		{[]string{"image", "qemu-virt"}, 2, []string{`"qemu-virt"`, "image -h"}},
		{[]string{"image", "-board", "qemu-virt", "-build-time", "noon"}, 2, []string{`"noon"`, "-build-time", "2026-01-31T00:00:00Z"}},
		{[]string{"image", "-board", "qemu-virt", "-init", "/nowhere"}, 1, []string{"/nowhere", "-init"}},
		{[]string{"image", "-board", "qemu-virt", "-kernel", dir}, 1, []string{dir, "-kernel"}},
		{[]string{"image", "-board", "qemu-virt", "-o", dir}, 1, []string{dir, "empty one"}},
		{[]string{"image", "-board", "qemu-virt", "-o", file}, 1, []string{file, "name another"}},

		{[]string{"run"}, 2, []string{"-board", boards}},
		{[]string{"run", "-board", "nonsense"}, 2, []string{boards}},
		{[]string{"run", "-board", "qemu-virt", "-port", "abc"}, 2, []string{`"abc"`, "-port", "PORT=8080", "1 to 65535"}},
		{[]string{"run", "-board", "qemu-virt", "-port", ""}, 2, []string{"PORT=8080"}},
		{[]string{"run", "-board", "qemu-virt", "-port", "0"}, 2, []string{"PORT=8080"}},
		{[]string{"run", "-board", "qemu-virt", "-port", "65536"}, 2, []string{"PORT=8080"}},
		{[]string{"run", "-board", "qemu-virt", "-memory", "64"}, 2, []string{`"64"`, "-memory 256"}},
		{[]string{"run", "-board", "qemu-virt", "-port", busy, "-check"}, 1, []string{"port " + busy + " is in use", "PORT="}},

		{[]string{"flash"}, 2, []string{"-board", boards}},
		{[]string{"flash", "-board", "nonsense"}, 2, []string{boards}},
		{[]string{"flash", "-board", "qemu-virt"}, 2, []string{"-dev /dev/sdX", "lsblk"}},
		{[]string{"flash", "-board", "qemu-virt", "/dev/nonesuch"}, 2, []string{`"/dev/nonesuch"`, "flash -h"}},
		{[]string{"flash", "-board", "qemu-virt", "-dev", "/dev/nonesuch"}, 1, []string{"/dev/nonesuch", "lsblk"}},
		{[]string{"flash", "-board", "qemu-virt", "-dev", file, "-check"}, 1, []string{"not a disk", "lsblk"}},

		{[]string{"keys", "init"}, 2, []string{"DIR is missing", "keys init DIR"}},
		{[]string{"keys", "init", ""}, 2, []string{"DIR is missing"}},
		{[]string{"keys", "init", set, "another"}, 2, []string{`"another"`}},
		{[]string{"keys", "init", set, "-kind", "development"}, 2, []string{"put -kind before DIR"}},
		{[]string{"keys", "init", "-kind", "toy", set}, 2, []string{`"toy"`, "development or production"}},
		{[]string{"keys", "init", "-secure-boot-key", file, set}, 2, []string{"-secure-boot-cert"}},
		{[]string{"keys", "init", "-secure-boot-key", "/nowhere", "-secure-boot-cert", file, set}, 1, []string{"/nowhere", "PEM"}},
		{[]string{"keys", "init", file}, 1, []string{file, "new folder"}},
		{[]string{"keys", "init", filepath.Join(file, "set")}, 1, []string{file, "new folder"}},
		{[]string{"keys", "init", dir}, 1, []string{dir, "not empty", "new folder"}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			stdout, stderr, status := firmware(t, "", c.args...)
			if status != c.status || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.HasSuffix(stderr, "\n") {
				t.Errorf("exit status %d, want %d and one line of diagnosis; it said:\n%s%s", status, c.status, stdout, stderr)
			}
			for _, word := range c.words {
				if !strings.Contains(stderr, word) {
					t.Errorf("it says nothing of %s: %s", word, stderr)
				}
			}
		})
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file holds %q now (%v)", b, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}

func TestHelp(t *testing.T) {
	elsewhere := t.TempDir()
	for _, c := range []struct {
		args  string
		words string
	}{
		{"help", "keys init DIR"},
		{"-h", "keys init DIR"},
		{"keys -h", "production"},
		{"image -h", "-board NAME"},
		{"run -h", "-port PORT"},
		{"flash -h", "-dev DISK"},
		{"boards -h", "usage: go run ./firmware boards"},
		{"keys init -h", `default "production"`},
		{"lock update -h", "usage: go run ./firmware lock update"},
	} {
		stdout, stderr, status := firmware(t, elsewhere, strings.Fields(c.args)...)
		if status != 0 || stderr != "" || !strings.Contains(stdout, c.words) {
			t.Errorf("%s: exit status %d, want %q in:\n%s%s", c.args, status, c.words, stdout, stderr)
		}
	}
	if stdout, stderr, status := firmware(t, ""); status != 2 || stdout != "" || !strings.HasSuffix(stderr, "\nfirmware: name a command\n") {
		t.Errorf("no command: exit status %d:\n%s%s", status, stdout, stderr)
	}
	if _, stderr, status := firmware(t, elsewhere, "boards"); status != 1 || !strings.Contains(stderr, "source tree") {
		t.Errorf("outside of the tree: exit status %d, %s", status, stderr)
	}
}

func TestKeysInitSaysWhichKindItMade(t *testing.T) {
	for kind, words := range map[string]string{"": "made production keys", "development": "made development keys"} {
		dir := filepath.Join(t.TempDir(), "set")
		args := []string{"keys", "init", dir}
		if kind != "" {
			args = []string{"keys", "init", "-kind", kind, dir}
		}
		_, stderr, status := firmware(t, "", args...)
		if status != 0 || !strings.Contains(stderr, words+" in "+dir) {
			t.Errorf("-kind %q: exit status %d, %s", kind, status, stderr)
		}
	}
}
