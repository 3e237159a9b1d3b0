package sbom

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloudlink.local/gateway/initramfs"
)

const mitText = `MIT License

Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
`

const bsdText = `Copyright (c) 2015, Somebody
All rights reserved.

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this
   list of conditions and the following disclaimer.

2. Redistributions in binary form must reproduce the above
copyright notice, this list of conditions and the following disclaimer in the
   documentation and/or other materials provided with the distribution.
%
THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND
ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED
WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE
FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
`

const (
	bsdThird = `
* Neither the name of the copyright holder, Some Company Inc., nor the names of its contributors may be
  used to endorse or promote products derived from this software without specific prior written permission.
`
	bsdAdvertising = `
3. All advertising materials mentioning features or use of this software must display the following
   acknowledgement: This product includes software developed by Somebody.
`
	permission = `Copyright © 2020 Somebody <a@example.org>

Permission to use, copy, modify, and/or distribute this software for any
purpose with or without fee is hereby granted%.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH
REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY
AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM
LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR
OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR
PERFORMANCE OF THIS SOFTWARE.
`
	commonsClause = `"Commons Clause" License Condition v1.0: The Software is provided to you by the Licensor under the License,
as defined below, subject to the following condition. Without limiting other conditions in the License, the grant of
rights under the License will not include, and the License does not grant to you, the right to Sell the Software.`
)

func with(t, part string) string { return strings.Replace(t, "%", part, 1) }

func TestDetectsLicences(t *testing.T) {
	apache, err := text("Apache-2.0")
	if err != nil {
		t.Fatal(err)
	}
	terms, _, _ := strings.Cut(apache, "APPENDIX")
	mpl, err := text("MPL-2.0")
	if err != nil {
		t.Fatal(err)
	}
	gpl, err := text("GPL-2.0")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, file, want string }{
		{"MIT", mitText, "MIT"},
		{"MIT on long lines, in another case", strings.ToUpper(strings.ReplaceAll(mitText, "\n", " ")), "MIT"},
		{"MIT as X11 has it", strings.Replace(mitText, "permission notice shall", "permission notice (including the next\nparagraph) shall", 1), "MIT"},
		{"two clauses", with(bsdText, ""), "BSD-2-Clause"},
		{"three clauses", with(bsdText, bsdThird), "BSD-3-Clause"},
		{"ISC", with(permission, ", provided that the above\ncopyright notice and this permission notice appear in all copies"), "ISC"},
		{"zero clauses", with(permission, ""), "0BSD"},
		{"Apache", apache, "Apache-2.0"},
		{"Apache without its appendix", terms, "Apache-2.0"},
		{"Apache with somebody's name", strings.Replace(apache, "[yyyy] [name of copyright owner]", "2020 Somebody", 1), "Apache-2.0"},
		{"MPL", mpl, "MPL-2.0"},
		{"two licences", mitText + "\n----\n" + with(bsdText, bsdThird), "BSD-3-Clause AND MIT"},
		{"the same twice", mitText + mitText, "MIT"},
		{"nothing", "", ""},
		{"a name only", "MIT License", ""},
		{"MIT with a clause more", mitText + commonsClause, ""},
		{"MIT with a word changed", strings.Replace(mitText, "any person", "any employee", 1), ""},
		{"BSD with advertising", with(bsdText, bsdAdvertising+bsdThird), ""},
		{"GPL", gpl, ""},
		{"a choice", "SPDX-License-Identifier: MIT OR GPL-2.0\n\nYou may choose one or the other of the following two licences for it.\n" + mitText + gpl, ""},
	} {
		if got, err := Detect(c.file); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v, want %q", c.what, got, err, c.want)
		}
	}
}

// writeModule makes a module's folder with the given files, by name.
func writeModule(t *testing.T, files map[string]string) initramfs.Module {
	t.Helper()
	m := initramfs.Module{Path: "example.org/m", Dir: t.TempDir()}
	for name, content := range files {
		name = filepath.Join(m.Dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.Packages = []string{filepath.Join(m.Dir, "internal", "used")}
	if err := os.MkdirAll(m.Packages[0], 0o700); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestReadsEveryLicenceOfWhatIsUsed(t *testing.T) {
	m := writeModule(t, map[string]string{
		"LICENSE":                   mitText,
		"NOTICE.txt":                "This product includes\r\nthings.\n\n\n\n",
		"licence.go":                "package m",
		"internal/used/COPYING":     with(bsdText, ""),
		"internal/other/LICENSE.md": with(permission, ""),
	})
	var c Component
	if err := c.readLicences(m, knownLicence{}); err != nil {
		t.Fatal(err)
	}
	if c.Licence != "BSD-2-Clause AND MIT" || len(c.Texts) != 3 || c.Texts[1] != "This product includes\nthings.\n" {
		t.Errorf("licence %q, texts %q", c.Licence, c.Texts)
	}
}

func TestWhatNobodyHasReadStopsTheBuild(t *testing.T) {
	for _, c := range []struct {
		what  string
		files map[string]string
		known knownLicence
	}{
		{"no licence", map[string]string{"README": mitText}, knownLicence{}},
		{"no licence file, though a name is known", map[string]string{"README": mitText}, knownLicence{Licence: "MIT"}},
		{"a changed one", map[string]string{"LICENSE": mitText + commonsClause}, knownLicence{}},
		{"one that is not known beside one that is", map[string]string{"LICENSE": mitText, "internal/LICENSE": commonsClause}, knownLicence{}},
	} {
		var comp Component
		err := comp.readLicences(writeModule(t, c.files), c.known)
		if err == nil || !strings.Contains(err.Error(), "name it in firmware/sbom/known.toml") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v", c.what, err)
		}
	}
	var comp Component
	m := writeModule(t, map[string]string{"LICENSE": mitText + commonsClause})
	if err := comp.readLicences(m, knownLicence{Licence: "Other", Texts: []string{"MPL-2.0"}}); err != nil || comp.Licence != "Other" || len(comp.Texts) != 2 {
		t.Errorf("with known.toml: %q, %d texts, %v", comp.Licence, len(comp.Texts), err)
	}
	if err := comp.fromDebian("nonesuch", "1", known{}); err == nil || !strings.Contains(err.Error(), "source package nonesuch of Debian: read its licence") {
		t.Errorf("an unknown Debian package: %v", err)
	}
}
