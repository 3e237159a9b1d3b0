package keys

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/binary"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Of RFC 4880: algorithms, signature subpackets, packet tag.
const (
	pgpRSA         = 1
	pgpSHA512      = 10
	subpacketTime  = 2
	subpacketIssue = 16
	tagSignature   = 0xc2 // new packet format
)

// Sign returns a detached OpenPGP signature of data, in the form that GRUB reads: version 4, one
// packet, the issuer's key id outside of the hashed part (GRUB looks nowhere else, and a library
// puts it inside). Its time is given, so that the same input gives the same bytes. SHA-512 because
// a 64-bit processor computes it faster than SHA-256, and GRUB has it in plain C only.
func (s *BootSigner) Sign(data []byte, when time.Time) ([]byte, error) {
	hashed := []byte{5, subpacketTime}
	hashed = binary.BigEndian.AppendUint32(hashed, uint32(when.Unix()))
	unhashed := []byte{9, subpacketIssue}
	unhashed = binary.BigEndian.AppendUint64(unhashed, s.entity.PrimaryKey.KeyId)

	body := []byte{4, 0, pgpRSA, pgpSHA512} // version, type: of a binary document
	body = binary.BigEndian.AppendUint16(body, uint16(len(hashed)))
	body = append(body, hashed...)

	h := sha512.New()
	h.Write(data)
	h.Write(body)
	h.Write(binary.BigEndian.AppendUint32([]byte{4, 0xff}, uint32(len(body))))
	sum := h.Sum(nil)
	key := s.entity.PrivateKey.PrivateKey.(*rsa.PrivateKey) // parseBootKey and newBootKey saw to it
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA512, sum)
	if err != nil {
		return nil, err
	}
	for signature[0] == 0 { // an OpenPGP number has no leading zeros
		signature = signature[1:]
	}
	bits := len(signature) * 8
	for top := signature[0]; top < 0x80; top <<= 1 {
		bits--
	}

	body = binary.BigEndian.AppendUint16(body, uint16(len(unhashed)))
	body = append(body, unhashed...)
	body = append(body, sum[:2]...)
	body = binary.BigEndian.AppendUint16(body, uint16(bits))
	body = append(body, signature...)
	return appendPacket(nil, tagSignature, body), nil
}

// Verify says whether sig is this key's signature of data.
func (s *BootSigner) Verify(data, sig []byte) error {
	_, err := openpgp.CheckDetachedSignature(openpgp.EntityList{s.entity}, bytes.NewReader(data), bytes.NewReader(sig), nil)
	return err
}

// appendPacket appends a packet whose length has five bytes: GRUB 2.06 misreads the two-byte form.
func appendPacket(b []byte, tag byte, body []byte) []byte {
	b = append(b, tag, 255)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

// reframe writes all packets in r with five-byte lengths.
func reframe(r io.Reader) ([]byte, error) {
	var out []byte
	for packets := packet.NewOpaqueReader(r); ; {
		p, err := packets.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = appendPacket(out, 0xc0|p.Tag, p.Contents)
	}
}
