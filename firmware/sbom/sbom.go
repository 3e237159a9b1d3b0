// Package sbom lists what an image is made of, with versions, checksums and licences, and writes the
// list as a CycloneDX bill of materials. A licence that nobody has read stops the build.
package sbom

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"

	"cloudlink.local/gateway/internal/release"
)

// Encode returns the bill of materials as CycloneDX 1.6 JSON. The same image gives the same bytes.
func Encode(r release.Release, components []Component) ([]byte, error) {
	product := purl("generic", r.Product, r.Version)
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: r.BuildTime.UTC().Format(time.RFC3339),
		Component: &cyclonedx.Component{
			BOMRef: product, Type: cyclonedx.ComponentTypeFirmware, Name: r.Product, Version: r.Version, PackageURL: product,
			Licenses:   licences("Apache-2.0"),
			Properties: &[]cyclonedx.Property{{Name: "cloudlink:board", Value: r.Board}, {Name: "cloudlink:keys", Value: string(r.Keys)}},
		},
	}
	var (
		list []cyclonedx.Component
		refs []string
	)
	for _, c := range components {
		out := cyclonedx.Component{
			BOMRef: c.PURL, Type: c.Type, Name: c.Name, Version: c.Version, PackageURL: c.PURL, Licenses: licences(c.Licence),
		}
		if c.SHA256 != "" {
			out.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: c.SHA256}}
		}
		var properties []cyclonedx.Property
		for _, u := range c.UsedBy {
			properties = append(properties, cyclonedx.Property{Name: "cloudlink:used-by", Value: u})
		}
		if s := c.Source; s != nil {
			properties = append(properties, cyclonedx.Property{Name: "cloudlink:debian-source", Value: s.Package + "=" + s.Version})
		}
		if len(properties) > 0 {
			out.Properties = &properties
		}
		list = append(list, out)
		refs = append(refs, c.PURL)
	}
	bom.Components = &list
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: product, Dependencies: &refs}}

	b, err := encode(bom)
	if err != nil {
		return nil, err
	}
	bom.SerialNumber = serial(b)
	return encode(bom)
}

func encode(bom *cyclonedx.BOM) ([]byte, error) {
	var b bytes.Buffer
	e := cyclonedx.NewBOMEncoder(&b, cyclonedx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := e.EncodeVersion(bom, cyclonedx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("encode SBOM: %w", err)
	}
	return b.Bytes(), nil
}

// serial makes the document's UUID (version 8, RFC 9562 section 5.8) of its content.
func serial(content []byte) string {
	u := sha256.Sum256(content)
	u[6] = u[6]&0x0F | 0x80
	u[8] = u[8]&0x3F | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// licences writes an SPDX id, an expression of several, or words that are neither.
func licences(l string) *cyclonedx.Licenses {
	switch {
	case strings.Contains(l, " AND ") || strings.Contains(l, " OR ") || strings.Contains(l, " WITH "):
		return &cyclonedx.Licenses{{Expression: l}}
	case strings.Contains(l, " "):
		return &cyclonedx.Licenses{{License: &cyclonedx.License{Name: l}}}
	}
	return &cyclonedx.Licenses{{License: &cyclonedx.License{ID: l}}}
}
