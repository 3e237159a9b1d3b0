// Package notices writes what a licence wants told to whoever has the device: the names, versions and
// licences of others' work in it, the licences' texts, and where the source is to be had.
package notices

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"
	"slices"
	"strings"

	"cloudlink.local/gateway/firmware/sbom"
)

const head = `CloudLink Gateway: software of others

This device runs software that others wrote and gave away under the licences below. CloudLink Gateway
itself is under the Apache License 2.0.
`

// The three years and the words "any third party" are section 3b of GPL-2.0 and 6b of GPL-3.0.
const offer = `The parts named here come with the right to have their source. It is published by Debian:

    apt-get source NAME=VERSION

with the names and versions below, on a Debian system; Debian's snapshot archive keeps old versions. The
configuration and the scripts that this device's kernel and loader are built with are in the source of
CloudLink Gateway, in its folder firmware.

Besides, for at least three years after you got this device or an update of it we give any third party
a complete copy of that source, for no more than the cost of handing it over. Ask whoever you have the
device or the update from.
`

// Write returns the notices, compressed. The same components give the same bytes.
func Write(components []sbom.Component) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("compress notices: %w", err)
	}
	if _, err := io.WriteString(z, Text(components)); err != nil {
		return nil, fmt.Errorf("compress notices: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("compress notices: %w", err)
	}
	return b.Bytes(), nil
}

// Text returns the notices as plain text.
func Text(components []sbom.Component) string {
	components = slices.SortedFunc(slices.Values(components), func(a, b sbom.Component) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	var b strings.Builder
	b.WriteString(head)

	chapter(&b, "Source code")
	b.WriteString(offer)
	for _, c := range components {
		if s := c.Source; s != nil {
			fmt.Fprintf(&b, "\n%s\n    in the image: %s %s\n    source:       apt-get source %s=%s\n",
				s.Upstream, c.Name, c.Version, s.Package, s.Version)
		}
	}

	chapter(&b, "Parts and their licences")
	for _, c := range components {
		fmt.Fprintf(&b, "%s %s\n    %s\n", c.Name, c.Version, c.Licence)
	}

	chapter(&b, "Texts")
	b.WriteString("Each is said once, with all the parts it belongs to.\n")
	var order []string
	of := make(map[string][]string) // text → parts
	for _, c := range components {
		for _, t := range c.Texts {
			if of[t] == nil {
				order = append(order, t)
			}
			if part := c.Name + " " + c.Version; !slices.Contains(of[t], part) {
				of[t] = append(of[t], part)
			}
		}
	}
	for _, t := range order {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s", rule, strings.Join(of[t], "\n"), t)
	}
	return b.String()
}

var rule = strings.Repeat("-", 80)

func chapter(b *strings.Builder, title string) {
	fmt.Fprintf(b, "\n\n%s\n%s\n\n", title, strings.Repeat("=", len(title)))
}
