// Package uki makes unified kernel images: it puts kernel, command line and initramfs as sections
// into systemd's EFI stub. It also signs EFI programs for Secure Boot.
package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// A Section is one named part of the image, such as .linux.
type Section struct {
	Name string // at most 8 bytes
	Data []byte
}

// ErrNotPE says that the bytes are not a 64-bit EFI program for arm64.
var ErrNotPE = errors.New("not an EFI program for arm64")

const (
	machineARM64    = 0xaa64
	magicPE32Plus   = 0x20b
	sectionHeader   = 40 // bytes
	dataDirectories = 112
	certDirectory   = 4 // index of the certificate table among the data directories

	readOnlyData = 0x40000040 // section flags: initialised data, readable
	maxImage     = 1 << 30    // far above any image of ours; keeps sums within 32 bits
)

// A program is where things are in a PE file.
type program struct {
	checksum    int // offset of the optional header's CheckSum
	cert        int // offset of the certificate table's data directory entry
	optional    int // offset of the optional header
	sections    int // offset of the section table
	count       int
	align       uint32 // of sections in memory
	fileAlign   uint32
	sizeHeaders uint32
}

// parse reads the headers of a PE file and checks all that the code here relies on.
func parse(b []byte) (program, error) {
	var p program
	le := binary.LittleEndian
	if len(b) < 64 || b[0] != 'M' || b[1] != 'Z' {
		return p, fmt.Errorf("%w: no MZ header", ErrNotPE)
	}
	if len(b) > maxImage {
		return p, fmt.Errorf("%w: %d bytes are too many", ErrNotPE, len(b))
	}
	pe := int64(le.Uint32(b[60:]))
	if pe < 64 || pe+24 > int64(len(b)) || string(b[pe:pe+4]) != "PE\x00\x00" {
		return p, fmt.Errorf("%w: no PE header", ErrNotPE)
	}
	if m := le.Uint16(b[pe+4:]); m != machineARM64 {
		return p, fmt.Errorf("%w: machine %#x", ErrNotPE, m)
	}
	p.count = int(le.Uint16(b[pe+6:]))
	p.optional = int(pe) + 24
	size := int(le.Uint16(b[pe+20:]))
	p.sections = p.optional + size
	end := p.sections + p.count*sectionHeader
	if size < dataDirectories+(certDirectory+1)*8 || end > len(b) {
		return p, fmt.Errorf("%w: headers are cut short", ErrNotPE)
	}
	opt := b[p.optional:]
	if m := le.Uint16(opt); m != magicPE32Plus {
		return p, fmt.Errorf("%w: optional header %#x", ErrNotPE, m)
	}
	p.align, p.fileAlign = le.Uint32(opt[32:]), le.Uint32(opt[36:])
	for _, a := range []uint32{p.align, p.fileAlign} {
		if a == 0 || a&(a-1) != 0 || a > 1<<16 {
			return p, fmt.Errorf("%w: alignment %#x", ErrNotPE, a)
		}
	}
	p.sizeHeaders = le.Uint32(opt[60:])
	if int64(p.sizeHeaders) > int64(len(b)) || int(p.sizeHeaders) < end {
		return p, fmt.Errorf("%w: SizeOfHeaders %#x", ErrNotPE, p.sizeHeaders)
	}
	if le.Uint32(opt[108:]) <= certDirectory {
		return p, fmt.Errorf("%w: no room for a certificate", ErrNotPE)
	}
	p.checksum = p.optional + 64
	p.cert = p.optional + dataDirectories + certDirectory*8
	return p, nil
}

// Sections returns the sections of a PE file, each with as many bytes as are both in the file and
// in memory.
func Sections(b []byte) ([]Section, error) {
	p, err := parse(b)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	var all []Section
	for i := range p.count {
		h := b[p.sections+i*sectionHeader:]
		name := string(bytes.TrimRight(h[:8], "\x00"))
		size := min(le.Uint32(h[8:]), le.Uint32(h[16:]))
		from := le.Uint32(h[20:])
		if uint64(from)+uint64(size) > uint64(len(b)) {
			return nil, fmt.Errorf("%w: section %q lies outside of the file", ErrNotPE, name)
		}
		all = append(all, Section{name, b[from : from+size]})
	}
	return all, nil
}

// Build returns the stub with the sections added. In memory they follow each other without gaps,
// so the firmware allocates and clears no more than is used.
func Build(stub []byte, add []Section) ([]byte, error) {
	p, err := parse(stub)
	if err != nil {
		return nil, fmt.Errorf("read stub: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint64(stub[p.cert:]) != 0 {
		return nil, errors.New("read stub: it is signed already")
	}
	table := p.sections + p.count*sectionHeader
	if table+len(add)*sectionHeader > int(p.sizeHeaders) {
		return nil, fmt.Errorf("the stub's headers have no room for %d sections", len(add))
	}
	var names []string
	end := p.sizeHeaders  // of the last section in memory
	file := p.sizeHeaders // and in the file
	for i := range p.count {
		h := stub[p.sections+i*sectionHeader:]
		names = append(names, string(bytes.TrimRight(h[:8], "\x00")))
		size, at := le.Uint32(h[8:]), le.Uint32(h[12:])
		raw, from := le.Uint32(h[16:]), le.Uint32(h[20:])
		if uint64(at)+uint64(size) > maxImage || uint64(from)+uint64(raw) > uint64(len(stub)) {
			return nil, fmt.Errorf("%w: section %q lies outside", ErrNotPE, names[i])
		}
		if raw != 0 && from < p.sizeHeaders {
			return nil, fmt.Errorf("%w: section %q lies among the headers", ErrNotPE, names[i])
		}
		end, file = max(end, at+size), max(file, from+raw)
	}

	// Behind the stub's sections are leftovers of its linker. Between sections they would be a gap,
	// and firmware would not find the hash that Secure Boot's signature is over.
	out := pad(slices.Clone(stub[:file]), int(p.fileAlign))
	initialised := le.Uint32(out[p.optional+8:])
	for i, s := range add {
		if len(s.Name) == 0 || len(s.Name) > 8 || slices.Contains(names, s.Name) {
			return nil, fmt.Errorf("section name %q", s.Name)
		}
		names = append(names, s.Name)
		if len(s.Data) == 0 || len(out)+len(s.Data) > maxImage {
			return nil, fmt.Errorf("section %s: %d bytes", s.Name, len(s.Data))
		}
		at, from := alignUp(end, p.align), uint32(len(out))
		out = pad(append(out, s.Data...), int(p.fileAlign))
		h := out[table+i*sectionHeader:][:sectionHeader]
		clear(h) // the linker fills the headers up with anything
		copy(h, s.Name)
		le.PutUint32(h[8:], uint32(len(s.Data)))
		le.PutUint32(h[12:], at)
		le.PutUint32(h[16:], uint32(len(out))-from)
		le.PutUint32(h[20:], from)
		le.PutUint32(h[36:], readOnlyData)
		end = at + uint32(len(s.Data))
		initialised += uint32(len(out)) - from
	}
	le.PutUint16(out[p.optional-24+6:], uint16(p.count+len(add)))
	le.PutUint32(out[p.optional+8:], initialised)            // SizeOfInitializedData
	le.PutUint32(out[p.optional+56:], alignUp(end, p.align)) // SizeOfImage
	setChecksum(out, p)
	return out, nil
}

// setChecksum fills in the headers' checksum: the sum of all 16-bit words but its own, folded, plus
// the length. Firmware ignores it; tools warn where it is wrong.
func setChecksum(b []byte, p program) {
	binary.LittleEndian.PutUint32(b[p.checksum:], 0)
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i])
		if i+1 < len(b) {
			word |= uint32(b[i+1]) << 8
		}
		sum += word
		sum = sum&0xffff + sum>>16
	}
	binary.LittleEndian.PutUint32(b[p.checksum:], sum+uint32(len(b)))
}

func alignUp(n, to uint32) uint32 { return (n + to - 1) &^ (to - 1) }

// pad appends zeros up to the next multiple of to.
func pad(b []byte, to int) []byte {
	return append(b, make([]byte, (to-len(b)%to)%to)...)
}
