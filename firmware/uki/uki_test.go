package uki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"cloudlink.local/gateway/firmware/debian"
)

// stub returns systemd's stub, the one that images are made with.
func stub(t testing.TB) []byte {
	t.Helper()
	lock, err := debian.ReadLock("../debian.lock")
	if err != nil {
		t.Fatal(err)
	}
	p, ok := lock.Find("systemd-boot-efi")
	if !ok {
		t.Fatal("systemd-boot-efi is not locked")
	}
	dir := filepath.Join("..", "..", "build", "cache", "debian")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	store := debian.Store{Dir: dir, Log: t.Logf}
	_, file, err := store.GetOrNewest(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	const name = "usr/lib/systemd/boot/efi/linuxaa64.efi.stub"
	files, err := debian.Files(file, name)
	if err != nil {
		t.Fatal(err)
	}
	return files[name]
}

// small returns a program of two sections, as short as they get.
func small() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0x600)
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00")
	le.PutUint16(b[68:], machineARM64)
	le.PutUint16(b[70:], 2)   // sections
	le.PutUint16(b[84:], 160) // size of the optional header
	le.PutUint16(b[86:], 0x206)
	opt := b[88:]
	le.PutUint16(opt, magicPE32Plus)
	le.PutUint32(opt[32:], 0x1000)
	le.PutUint32(opt[36:], 0x200)
	le.PutUint32(opt[56:], 0x3000)
	le.PutUint32(opt[60:], 0x200)
	le.PutUint16(opt[68:], 10)
	le.PutUint32(opt[108:], 6)
	for i, name := range []string{".text", ".data"} {
		h := b[88+160+i*sectionHeader:]
		copy(h, name)
		le.PutUint32(h[8:], 0x200)
		le.PutUint32(h[12:], uint32(0x1000*(i+1)))
		le.PutUint32(h[16:], 0x200)
		le.PutUint32(h[20:], uint32(0x200*(i+1)))
	}
	for i := range 0x400 {
		b[0x200+i] = byte(i)
	}
	return b
}

func parts() []Section {
	return []Section{
		{".osrel", []byte("ID=test\n")},
		{".cmdline", []byte("quiet")},
		{".linux", bytes.Repeat([]byte("kernel"), 10000)},
		{".initrd", bytes.Repeat([]byte("initrd!"), 30001)},
	}
}

// What we write must be to other people's readers what objcopy's result is.
func TestBuildsWhatObjcopyBuilds(t *testing.T) {
	base := stub(t)
	ours, err := Build(base, parts())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	our, err := pe.NewFile(bytes.NewReader(ours))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{}
	for _, s := range parts() {
		section := our.Section(s.Name)
		if section == nil {
			t.Fatalf("no section %s", s.Name)
		}
		args = append(args, "--add-section", s.Name+"="+write("s"+s.Name, s.Data),
			"--change-section-vma", s.Name+"="+big.NewInt(int64(section.VirtualAddress)).String())
	}
	theirsFile := filepath.Join(dir, "theirs.efi")
	args = append(args, write("stub.efi", base), theirsFile)
	if out, err := exec.Command("aarch64-linux-gnu-objcopy", args...).CombinedOutput(); err != nil {
		t.Fatalf("aarch64-linux-gnu-objcopy (scripts/setup test installs it): %v\n%s", err, out)
	}
	their, err := pe.Open(theirsFile)
	if err != nil {
		t.Fatal(err)
	}
	defer their.Close()

	for _, f := range []*pe.File{our, their} {
		if len(f.Sections) != 2+len(parts()) {
			t.Errorf("%d sections", len(f.Sections))
		}
		for _, s := range parts() {
			got, err := f.Section(s.Name).Data()
			if err != nil || !bytes.Equal(got[:len(s.Data)], s.Data) {
				t.Errorf("section %s differs (%v)", s.Name, err)
			}
		}
	}
	for i, o := range our.Sections {
		h := their.Sections[i]
		if o.Name != h.Name || o.VirtualAddress != h.VirtualAddress || o.VirtualSize != h.VirtualSize || o.Size != h.Size {
			t.Errorf("section %d: we have %+v, objcopy %+v", i, o.SectionHeader, h.SectionHeader)
		}
	}
	oh, th := our.OptionalHeader.(*pe.OptionalHeader64), their.OptionalHeader.(*pe.OptionalHeader64)
	if oh.SizeOfImage != th.SizeOfImage || oh.AddressOfEntryPoint != th.AddressOfEntryPoint || oh.SizeOfInitializedData != th.SizeOfInitializedData {
		t.Errorf("headers: we have %+v, objcopy %+v", oh, th)
	}
}

func TestSectionsComeBack(t *testing.T) {
	image, err := Build(small(), parts())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Sections(image)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range parts() {
		if got[2+i].Name != s.Name || !bytes.Equal(got[2+i].Data, s.Data) {
			t.Errorf("section %s came back as %q with %d bytes", s.Name, got[2+i].Name, len(got[2+i].Data))
		}
	}
	again, err := Build(small(), parts())
	if err != nil || !bytes.Equal(again, image) {
		t.Errorf("a second build differs (%v)", err)
	}
}

func TestBuildRefuses(t *testing.T) {
	change := func(at int, v ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[at:], v); return b }
	}
	for _, c := range []struct {
		name  string
		stub  func([]byte) []byte
		add   []Section
		notPE bool
	}{
		{name: "nothing", stub: func([]byte) []byte { return nil }, notPE: true},
		{name: "no PE header", stub: change(64, 'X'), notPE: true},
		{name: "another machine", stub: change(68, 0x64, 0x86), notPE: true},
		{name: "cut short", stub: func(b []byte) []byte { return b[:0x2f0] }, notPE: true},
		{name: "PE header far away", stub: change(60, 0xff, 0xff, 0xff, 0xff), notPE: true},
		{name: "32 bit", stub: change(88, 0x0b, 0x01), notPE: true},
		{name: "odd alignment", stub: change(88+32, 3, 0, 0, 0), notPE: true},
		{name: "headers beyond the file", stub: change(88+60, 0, 0, 1, 0), notPE: true},
		{name: "section beyond the file", stub: change(88+160+16, 0, 0, 1, 0), notPE: true},
		{name: "section among headers", stub: change(88+160+20, 0x40, 0), notPE: true},
		{name: "signed", stub: change(88+112+32, 1)},
		{name: "long name", add: []Section{{".much-too-long", []byte{1}}}},
		{name: "name twice", add: []Section{{".text", []byte{1}}}},
		{name: "empty section", add: []Section{{".linux", nil}}},
		{name: "no room", add: make([]Section, 50)},
	} {
		b := small()
		if c.stub != nil {
			b = c.stub(b)
		}
		if c.add == nil {
			c.add = parts()
		}
		_, err := Build(b, c.add)
		if err == nil {
			t.Errorf("%s: built", c.name)
		} else if c.notPE && !errors.Is(err, ErrNotPE) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func signer(t testing.TB) (crypto.Signer, *x509.Certificate) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func TestSignaturesAreGoodToSbverify(t *testing.T) {
	key, cert := signer(t)
	image, err := Build(stub(t), parts())
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Sign(image, key, cert)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Sign(image, key, cert); err != nil || !bytes.Equal(again, signed) {
		t.Errorf("a second signature differs (%v)", err)
	}
	dir := t.TempDir()
	certFile, file := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "linux.efi")
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(b []byte) error {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sbverify", "--cert", certFile, file).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			t.Fatal("sbverify is missing: scripts/setup test installs sbsigntool")
		}
		t.Logf("%s", out)
		return err
	}
	if err := verify(signed); err != nil {
		t.Errorf("sbverify refuses our signature: %v", err)
	}
	changed := bytes.Clone(signed)
	changed[0x20000] ^= 1
	if verify(changed) == nil {
		t.Error("sbverify takes a changed program")
	}
	if _, err := Sign(signed, key, cert); err == nil {
		t.Error("signed twice")
	}
}

func TestSignRefusesGaps(t *testing.T) {
	key, cert := signer(t)
	b := append(small(), make([]byte, 0x200)...)
	binary.LittleEndian.PutUint32(b[88+160+sectionHeader+20:], 0x600) // second section one block on
	if _, err := Sign(b, key, cert); !errors.Is(err, ErrNotPE) {
		t.Errorf("a gap between sections: %v", err)
	}
}

func FuzzBuild(f *testing.F) {
	f.Add(small())
	f.Add(small()[:0x180])
	if whole, err := Build(small(), parts()[:2]); err == nil {
		f.Add(whole)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = Sections(b)
		if p, err := parse(b); err == nil {
			_ = gapless(b, p)
		}
		image, err := Build(b, parts()[:2])
		if err != nil {
			return
		}
		got, err := Sections(image)
		if err != nil {
			t.Fatalf("what was built is not read: %v", err)
		}
		last := got[len(got)-1]
		if last.Name != ".cmdline" || string(last.Data) != "quiet" {
			t.Fatalf("last section came back as %q %q", last.Name, last.Data)
		}
	})
}
