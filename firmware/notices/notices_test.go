package notices

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"cloudlink.local/gateway/firmware/sbom"
)

var parts = []sbom.Component{
	{Name: "zeta", Version: "2", Licence: "MIT", Texts: []string{"Copyright Z\nMIT text\n", "shared\n"}},
	{Name: "linux", Version: "6.12.1", Licence: "GPL-2.0-only WITH Linux-syscall-note", Texts: []string{"GPL\n"},
		Source: &sbom.Source{Package: "linux-6.12", Version: "6.12.1-1", Upstream: "Linux, https://www.kernel.org/"}},
	{Name: "alpha", Version: "1", Licence: "ISC", Texts: []string{"shared\n"}},
}

func TestSaysEveryPartEveryTextAndWhereTheSourceIs(t *testing.T) {
	got := Text(parts)
	for _, want := range []string{
		"source:       apt-get source linux-6.12=6.12.1-1\n",
		"Linux, https://www.kernel.org/\n    in the image: linux 6.12.1\n",
		"three years",
		"alpha 1\n    ISC\nlinux 6.12.1\n    GPL-2.0-only WITH Linux-syscall-note\nzeta 2\n    MIT\n",
		rule + "\nalpha 1\nzeta 2\n\nshared\n",
		rule + "\nzeta 2\n\nCopyright Z\nMIT text\n",
		rule + "\nlinux 6.12.1\n\nGPL\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it does not say %q:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "shared\n"); n != 1 {
		t.Errorf("a text that two parts have is there %d times", n)
	}
}

func TestTheOrderOfPartsDoesNotMatter(t *testing.T) {
	one, err := Write(parts)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Write([]sbom.Component{parts[2], parts[0], parts[1]})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("other bytes")
	}
	z, err := gzip.NewReader(bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if string(plain) != Text(parts) {
		t.Error("what is compressed is another text")
	}
}
