package trust

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloudlink.local/gateway/internal/release"
)

type jsonRaw = json.RawMessage

func sum256(b []byte) [32]byte { return sha256.Sum256(b) }

var quiet = slog.New(slog.DiscardHandler)

func TestFloorOnlyRises(t *testing.T) {
	c := &Client{Dir: filepath.Join(t.TempDir(), "trust"), Log: quiet}
	if c.Floor() != "" || c.Allowed("0.0.1") != nil {
		t.Errorf("a new device has the floor %q", c.Floor())
	}
	for _, step := range [][2]string{{"", ""}, {"1.2.0", "1.2.0"}, {"1.1.0", "1.2.0"}, {"1.10.0", "1.10.0"}, {"1.2.0", "1.10.0"}, {"", "1.10.0"}} {
		if err := c.RaiseFloor(step[0]); err != nil || c.Floor() != step[1] {
			t.Errorf("raised to %q it is %q (%v)", step[0], c.Floor(), err)
		}
	}
	if err := c.Allowed("1.9.0"); ReasonOf(err) != BelowFloor {
		t.Errorf("below it: %v", err)
	}
	if err := c.Allowed("1.10.0"); err != nil {
		t.Errorf("at it: %v", err)
	}
	if err := c.RaiseFloor("high"); err == nil {
		t.Error("no version is a floor")
	}
}

// Between any two writes the power may go.
func TestRecordThatIsCut(t *testing.T) {
	old, next := record{Serial: 4, Root: 1, Timestamp: 7, Floor: "1.0.0"}, record{Serial: 5, Root: 2, Timestamp: 8, Floor: "1.1.0"}
	encode := func(r record) []byte {
		b, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name       string
		file, copy []byte // nil for none
		want       record
	}{
		{"before", encode(old), encode(old), old},
		{"the copy is torn", encode(old), encode(next)[:50], old},
		{"the copy is written", encode(old), encode(next), next},
		{"the file is torn", encode(next)[:50], encode(next), next},
		{"after", encode(next), encode(next), next},
		{"the first copy", nil, encode(next), next},
		{"the first", nil, nil, record{}},
		{"nothing good", []byte("x"), []byte{}, record{}},
	} {
		dir := t.TempDir()
		for name, b := range map[string][]byte{recordFile: c.file, recordCopy: c.copy} {
			if b != nil {
				write(t, filepath.Join(dir, name), b)
			}
		}
		write(t, filepath.Join(dir, ".floors.json123"), []byte("on its way"))
		got := loadRecord(dir, quiet)
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		tidy(dir)
		if err := got.save(dir); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{recordFile, recordCopy} {
			if r, err := parseRecord(readFile(t, filepath.Join(dir, name))); err != nil || r != got {
				t.Errorf("%s: %s has %+v: %v", c.name, name, r, err)
			}
		}
		if entries, _ := filepath.Glob(filepath.Join(dir, ".*")); len(entries) > 0 {
			t.Errorf("%s: left behind: %v", c.name, entries)
		}
	}
}

// asWriter has the test binary raise the floor for ever.
const asWriter = "TEST_AS_WRITER"

func writeFloors() {
	c := &Client{Dir: os.Getenv(asWriter), Log: quiet}
	for n := 1; ; n++ {
		floor := fmt.Sprintf("0.0.%d", n)
		if err := c.RaiseFloor(floor); err != nil {
			panic(err)
		}
		fmt.Println(floor)
	}
}

// A process that is killed loses nothing that it has said.
func TestWriterIsKilled(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for kill := range 20 {
		dir := filepath.Join(t.TempDir(), "trust")
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), asWriter+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said, lines := "", bufio.NewScanner(out)
		for range kill + 1 {
			if !lines.Scan() {
				t.Fatal("it has ended by itself")
			}
			said = lines.Text()
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it has said meanwhile
			said = lines.Text()
		}
		cmd.Wait() // it was killed
		c := &Client{Dir: dir, Log: quiet}
		if n, err := release.Compare(c.Floor(), said); err != nil || n < 0 {
			t.Errorf("it said %s, and the floor is %q (%v)", said, c.Floor(), err)
		}
	}
}

// A record is what was saved, or damaged.
func FuzzRecord(f *testing.F) {
	b, err := record{Serial: 1, Root: 2, Timestamp: 3, Snapshot: 4, Targets: 5, Keys: "abc", Floor: "1.2.3"}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("\n"))
	body := `{"root":-1}`
	f.Add(fmt.Appendf(nil, "%x\n%s\n", sum256([]byte(body)), body))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		again, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseRecord(again); err != nil || back != r {
			t.Errorf("%+v is read back as %+v: %v", r, back, err)
		}
		if min(r.Root, r.Timestamp, r.Snapshot, r.Targets) < 0 || r.Floor != "" && release.CheckVersion(r.Floor) != nil {
			t.Errorf("%+v is taken", r)
		}
	})
}

// Whatever is sent in the place of one of the files, nothing is offered but what was signed.
func FuzzCheck(f *testing.F) {
	w := fuzzWorld(f)
	names := []string{"2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"}
	for i, name := range names {
		f.Add(byte(i), w.files[name])
	}
	f.Add(byte(3), []byte(`{"signed":{"_type":"targets","targets":{"x":null}},"signatures":[]}`))
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		name := names[int(which)%len(names)]
		files := map[string][]byte{}
		for n, b := range w.files {
			files[n] = b
		}
		files[name] = b
		c := &Client{Root: w.root, Dir: "/dev/null/nowhere", Source: fuzzSource(files), Now: w.now, Log: quiet} // writes nothing
		offer, err := c.Check(t.Context(), w.device)
		if err == nil && offer.Full.SHA256 != w.sum {
			t.Errorf("offered %+v", offer)
		}
		if err != nil && (ReasonOf(err) == "" || strings.Contains(err.Error(), "\n")) {
			t.Errorf("an error without a reason, or of several lines: %v", err)
		}
		// The checks of the form stand before the library, which ends the program on some of these.
		for _, check := range []func([]byte) error{
			func(b []byte) error { _, err := read(b, checkRoot); return err },
			func(b []byte) error { _, err := read(b, checkTimestamp); return err },
			func(b []byte) error { _, err := read(b, checkSnapshot); return err },
			func(b []byte) error { _, err := read(b, checkTargets); return err },
		} {
			if err := check(b); err != nil && ReasonOf(err) == "" {
				t.Errorf("no reason: %v", err)
			}
		}
		if checkJSON(b) == nil && !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
			t.Errorf("%q is taken for an object", b)
		}
	})
}
