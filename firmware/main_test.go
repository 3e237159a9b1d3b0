package main

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/firmware/publish"
	"cloudlink.local/gateway/firmware/publish/publishtest"
	"cloudlink.local/gateway/internal/release"
)

// asFirmware has the test binary be the command itself: the exit status counts as well.
const asFirmware = "TEST_AS_FIRMWARE"

func TestMain(m *testing.M) {
	if os.Getenv(asFirmware) != "" {
		main()
		return
	}
	publishtest.Main(m)
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
		{[]string{"nonsense"}, 2, []string{`"nonsense"`, "flash", "keys init", "publish", "repo renew", "serve", "help"}},
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
		{[]string{"keys", "init", "-threshold", "root=3/2", set}, 2, []string{`"root=3/2"`, "2/3"}},
		{[]string{"keys", "init", "-threshold", "mirror=1/2", set}, 2, []string{`"mirror"`, "timestamp"}},

		{[]string{"keys", "rotate"}, 2, []string{"ROLE is missing", "keys rotate ROLE"}},
		{[]string{"keys", "rotate", "mirror"}, 2, []string{`"mirror"`, "targets", "timestamp"}},
		{[]string{"keys", "rotate", "-keys", dir, "targets"}, 1, []string{filepath.Join(dir, "keyset.json"), "-keys", "keys init"}},
		{[]string{"keys", "rotate", "-root", "/nowhere", "targets"}, 2, []string{"/nowhere", "-root", "no such folder"}},
		{[]string{"keys", "rotate", "-threshold", "x", "targets"}, 2, []string{"-threshold", "2/3"}},
		{[]string{"keys", "renew", "now"}, 2, []string{`"now"`, "keys renew -h"}},
		{[]string{"keys", "renew", "-keys", dir}, 1, []string{"keyset.json", "-keys"}},

		{[]string{"publish"}, 2, []string{"-board", boards}},
		{[]string{"publish", "-board", "nonsense"}, 2, []string{boards}},
		{[]string{"publish", "-board", "qemu-virt", "-image", dir}, 2, []string{"-board", "-image", "not both"}},
		{[]string{"publish", "-board", "qemu-virt", "-rollout", "120"}, 2, []string{`"120"`, "0 to 100"}},
		{[]string{"publish", "-board", "qemu-virt", "-deltas", "-1"}, 2, []string{`"-1"`, "-deltas 3"}},
		{[]string{"publish", "-board", "qemu-virt", "-notes-de", "/nowhere"}, 2, []string{"/nowhere", "-notes-de", "no such file"}},
		{[]string{"publish", "-board", "qemu-virt", "-keys", dir}, 1, []string{"keyset.json", "-keys"}},

		{[]string{"repo"}, 2, []string{"repo list", "repo renew", "repo withdraw"}},
		{[]string{"repo", "nonsense"}, 2, []string{`"repo nonsense"`, "repo withdraw"}},
		{[]string{"repo", "list", "extra"}, 2, []string{`"extra"`}},
		{[]string{"repo", "renew", "-days", "0"}, 2, []string{`"0"`, "-days 30"}},
		{[]string{"repo", "renew", "-keys", dir}, 1, []string{"keyset.json", "-keys"}},
		{[]string{"repo", "withdraw", "-board", "qemu-virt"}, 2, []string{"VERSION is missing"}},
		{[]string{"repo", "withdraw", "1.0.0"}, 2, []string{"-board", boards}},
		{[]string{"serve", "-repo", dir}, 1, []string{dir, "no repository", "-repo"}},
		{[]string{"serve", dir}, 2, []string{"serve -h"}},
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
		{"keys rotate -h", "-root FOLDER"},
		{"keys renew -h", "-keys FOLDER"},
		{"publish -h", "-security-floor VERSION"},
		{"repo -h", "repo withdraw"},
		{"repo list -h", "-repo FOLDER"},
		{"repo renew -h", "default 30"},
		{"repo withdraw -h", "VERSION"},
		{"serve -h", "-listen ADDRESS"},
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

// From a key set and an image to a repository that is served, and what its keeper does later.
func TestRepositoryOnTheCommandLine(t *testing.T) {
	r := publishtest.New(t) // for its key set and images
	dir := t.TempDir()
	notes := map[string]string{"de": "Sicherer.\r\n", "en": "Safer.\n"}
	for language, text := range notes {
		if err := os.WriteFile(filepath.Join(dir, language), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(want string, args ...string) string {
		t.Helper()
		words, flags := 1, []string{"-keys", r.KeyDir}
		if args[0] != "publish" {
			words = 2
		}
		if args[0] != "keys" {
			flags = append(flags, "-repo", r.Dir)
		}
		args = slices.Insert(args, words, flags...)
		stdout, stderr, status := firmware(t, "", args...)
		if status != 0 || !strings.Contains(stderr, want) {
			t.Fatalf("%s: exit status %d, want %q in:\n%s", strings.Join(args, " "), status, want, stderr)
		}
		return stdout
	}
	run("root metadata 2", "keys", "renew") // the set is made for a fixed time
	run("1.0.0 is published to stable, 100 %", "publish", "-image", r.Image("1.0.0", nil))
	run("1.1.0 is published to beta, 10 %", "publish", "-image", r.Image("1.1.0", nil), "-channel", "beta", "-rollout", "10",
		"-minimum-from", "1.0.0", "-security-floor", "1.0.0",
		"-notes-de", filepath.Join(dir, "de"), "-notes-en", filepath.Join(dir, "en"))
	list := run("", "repo", "list")
	for _, want := range []string{"1.1.0", "beta  10 %, from 1.0.0, floor 1.0.0", "stable 100 %", "timestamp is good until"} {
		if !strings.Contains(list, want) {
			t.Errorf("the list says nothing of %q:\n%s", want, list)
		}
	}
	r.Now = time.Now()
	l, err := publish.List(r.Options())
	if err != nil || len(l.Releases) != 2 || l.Releases[0].Notes["de"] != "Sicherer." {
		t.Errorf("%+v, %v", l.Releases, err)
	}
	run("targets has new keys", "keys", "rotate", "targets")
	run("devices believe", "repo", "renew", "-days", "14")
	run("1.0.0 is withdrawn", "repo", "withdraw", "-board", "qemu-virt", "1.0.0")
	if list := run("", "repo", "list"); strings.Contains(list, " 1.0.0 ") {
		t.Errorf("it is listed still:\n%s", list)
	}
	image := r.Image("1.2.0", func(m *release.Manifest) { m.Keys = release.Production })
	if _, stderr, status := firmware(t, "", "publish", "-image", image, "-keys", r.KeyDir, "-repo", r.Dir); status != 1 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("an image of other keys: exit status %d, %s", status, stderr)
	}

	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "serve", "-repo", r.Dir, "-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), asFirmware+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(strings.TrimSpace(url) + "metadata/timestamp.json")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	resp.Body.Close()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
}
