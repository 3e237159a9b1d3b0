package uki

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// What follows is Authenticode: a PKCS #7 signature over the hash of the program, in the program's
// certificate table. There is no signing time in it, so that the same input gives the same bytes.

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidPEImageData   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
)

type indirectData struct {
	Data struct {
		Type  asn1.ObjectIdentifier
		Value struct {
			Flags asn1.BitString
			File  asn1.RawValue
		}
	}
	Digest struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue // in [0]
}

type signerInfo struct {
	Version int
	Issuer  struct {
		Name   asn1.RawValue
		Serial asn1.RawValue
	}
	DigestAlgorithm     pkix.AlgorithmIdentifier
	Attributes          asn1.RawValue
	EncryptionAlgorithm pkix.AlgorithmIdentifier
	EncryptedDigest     []byte
}

type signedData struct {
	Version          int
	DigestAlgorithms []pkix.AlgorithmIdentifier `asn1:"set"`
	Content          contentInfo
	Certificates     asn1.RawValue
	SignerInfos      []signerInfo `asn1:"set"`
}

// Sign returns the EFI program with a signature for Secure Boot by an RSA key and its certificate.
func Sign(prog []byte, key crypto.Signer, cert *x509.Certificate) ([]byte, error) {
	p, err := parse(prog)
	if err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint64(prog[p.cert:]) != 0 {
		return nil, errors.New("the program is signed already")
	}
	if err := gapless(prog, p); err != nil {
		return nil, err
	}
	out := pad(bytes.Clone(prog), 8)
	pkcs7, err := authenticode(imageHash(out, p), key, cert)
	if err != nil {
		return nil, fmt.Errorf("sign for Secure Boot: %w", err)
	}
	table := make([]byte, 8, 8+len(pkcs7))
	table = pad(append(table, pkcs7...), 8)
	binary.LittleEndian.PutUint32(table, uint32(len(table)))
	binary.LittleEndian.PutUint16(table[4:], 0x0200) // revision
	binary.LittleEndian.PutUint16(table[6:], 0x0002) // PKCS #7
	binary.LittleEndian.PutUint32(out[p.cert:], uint32(len(out)))
	binary.LittleEndian.PutUint32(out[p.cert+4:], uint32(len(table)))
	out = append(out, table...)
	setChecksum(out, p)
	return out, nil
}

// gapless wants the sections to follow each other in the file. Only then is the hash by sections,
// which is the firmware's, that of the whole file.
func gapless(b []byte, p program) error {
	type span struct{ from, size uint32 }
	var spans []span
	for i := range p.count {
		h := b[p.sections+i*sectionHeader:]
		if s := (span{binary.LittleEndian.Uint32(h[20:]), binary.LittleEndian.Uint32(h[16:])}); s.size != 0 {
			spans = append(spans, s)
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	end := uint64(p.sizeHeaders)
	for _, s := range spans {
		if uint64(s.from) != end {
			return fmt.Errorf("%w: a gap in the file before byte %d", ErrNotPE, s.from)
		}
		end += uint64(s.size)
	}
	if end > uint64(len(b)) {
		return fmt.Errorf("%w: sections end behind the file", ErrNotPE)
	}
	return nil
}

// imageHash hashes an unsigned program without what signing changes: the checksum and the place of
// the certificate table.
func imageHash(b []byte, p program) []byte {
	h := sha256.New()
	h.Write(b[:p.checksum])
	h.Write(b[p.checksum+4 : p.cert])
	h.Write(b[p.cert+8:])
	return h.Sum(nil)
}

// authenticode returns the PKCS #7 signature over a program's hash.
func authenticode(imageHash []byte, key crypto.Signer, cert *x509.Certificate) ([]byte, error) {
	sha := pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
	var indirect indirectData
	indirect.Data.Type = oidPEImageData
	indirect.Data.Value.Flags = asn1.BitString{}
	// SpcLink, a file name that nobody reads: [0] { [2] { [0] "" } }
	indirect.Data.Value.File = asn1.RawValue{FullBytes: []byte{0xa0, 4, 0xa2, 2, 0x80, 0}}
	indirect.Digest.Algorithm = sha
	indirect.Digest.Digest = imageHash
	content, err := asn1.Marshal(indirect)
	if err != nil {
		return nil, err
	}
	var inner asn1.RawValue // what is signed is the content without its own tag and length
	if _, err := asn1.Unmarshal(content, &inner); err != nil {
		return nil, err
	}
	digest := sha256.Sum256(inner.Bytes)

	attributes, err := signedAttributes(digest[:])
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(attributes) // as a SET, though it stands as [0] in the structure
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}

	serial, err := asn1.Marshal(cert.SerialNumber)
	if err != nil {
		return nil, err
	}
	signer := signerInfo{
		Version:             1,
		DigestAlgorithm:     sha,
		Attributes:          asn1.RawValue{FullBytes: append([]byte{0xa0}, attributes[1:]...)},
		EncryptionAlgorithm: pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue},
		EncryptedDigest:     signature,
	}
	signer.Issuer.Name = asn1.RawValue{FullBytes: cert.RawIssuer}
	signer.Issuer.Serial = asn1.RawValue{FullBytes: serial}
	signed, err := asn1.Marshal(signedData{
		Version:          1,
		DigestAlgorithms: []pkix.AlgorithmIdentifier{sha},
		Content:          contentInfo{oidIndirectData, explicit(content)},
		Certificates:     explicit(cert.Raw),
		SignerInfos:      []signerInfo{signer},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{oidSignedData, explicit(signed)})
}

// signedAttributes returns the SET that the key signs: the content's type and digest.
func signedAttributes(digest []byte) ([]byte, error) {
	var set []attribute
	for _, a := range []struct {
		oid   asn1.ObjectIdentifier
		value any
	}{{oidContentType, oidIndirectData}, {oidMessageDigest, digest}} {
		value, err := asn1.Marshal(a.value)
		if err != nil {
			return nil, err
		}
		set = append(set, attribute{a.oid, []asn1.RawValue{{FullBytes: value}}})
	}
	return asn1.MarshalWithParams(set, "set")
}

// explicit wraps encoded bytes in [0].
func explicit(b []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: b}
}
