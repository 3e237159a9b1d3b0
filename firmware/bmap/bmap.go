// Package bmap writes a disk image's block map: the list of blocks that have to be written to a disk,
// each range with its SHA-256, in the format 2.0 of Debian's bmaptool.
package bmap

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"
)

// BlockSize is the unit of the maps that Create makes.
const BlockSize = 4096

// A Map says which blocks of an image to write.
type Map struct {
	ImageSize int64
	BlockSize int64
	Ranges    []Range // in order, apart from each other
}

// A Range is a run of blocks.
type Range struct {
	First, Last int64 // blocks; Last belongs to it
	SHA256      [sha256.Size]byte
}

// Bytes returns where r lies in the image, which may end within the last block.
func (m *Map) Bytes(r Range) (start, end int64) {
	return r.First * m.BlockSize, min((r.Last+1)*m.BlockSize, m.ImageSize)
}

// Mapped is the number of bytes that the map has written.
func (m *Map) Mapped() (n int64) {
	for _, r := range m.Ranges {
		start, end := m.Bytes(r)
		n += end - start
	}
	return n
}

// Create maps a GPT disk image: every block that is not zero, and every zero block that means
// something (the file systems' own tables and the files' contents), since a disk holds old bytes
// wherever none are written. It looks at the image's bytes alone, never at the holes that the host's
// file system knows: so the map is the same everywhere.
func Create(image io.ReaderAt, size int64) (*Map, error) {
	keep, err := meaningful(image, size)
	if err != nil {
		return nil, fmt.Errorf("map blocks: %w", err)
	}
	m := &Map{ImageSize: size, BlockSize: BlockSize}
	var (
		h   hash.Hash
		buf = make([]byte, 256*BlockSize)
	)
	for pos := int64(0); pos < size; pos += int64(len(buf)) {
		chunk := buf[:min(int64(len(buf)), size-pos)]
		if _, err := image.ReadAt(chunk, pos); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("map blocks: %w", err)
		}
		for n := pos / BlockSize; len(chunk) > 0; n++ {
			block := chunk[:min(BlockSize, len(chunk))]
			chunk = chunk[len(block):]
			for len(keep) > 0 && keep[0].end <= n*BlockSize {
				keep = keep[1:]
			}
			kept := len(keep) > 0 && keep[0].start < (n+1)*BlockSize
			if !kept && bytes.Equal(block, zeros[:len(block)]) {
				continue
			}
			last := len(m.Ranges) - 1
			if last < 0 || m.Ranges[last].Last != n-1 {
				if last >= 0 {
					h.Sum(m.Ranges[last].SHA256[:0])
				}
				h = sha256.New()
				m.Ranges = append(m.Ranges, Range{First: n})
				last++
			}
			m.Ranges[last].Last = n
			h.Write(block)
		}
	}
	if last := len(m.Ranges) - 1; last >= 0 {
		h.Sum(m.Ranges[last].SHA256[:0])
	}
	return m, nil
}

var zeros [BlockSize]byte

// noSum stands where the file's own checksum goes while that is computed.
var noSum = strings.Repeat("0", 2*sha256.Size)

// Encode returns m as bmaptool's XML.
func (m *Map) Encode() []byte {
	var blocks int64
	for _, r := range m.Ranges {
		blocks += r.Last - r.First + 1
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<?xml version="1.0" ?>
<!-- The blocks of a disk image that have to be written to a disk; the others may keep what they hold.
     bmaptool copy IMAGE DISK finds this file beside the image and checks every range. -->
<bmap version="2.0">
    <ImageSize> %d </ImageSize>
    <BlockSize> %d </BlockSize>
    <BlocksCount> %d </BlocksCount>
    <MappedBlocksCount> %d </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <!-- of this file, with zeros here -->
    <BmapFileChecksum> %s </BmapFileChecksum>
    <BlockMap>
`, m.ImageSize, m.BlockSize, (m.ImageSize+m.BlockSize-1)/m.BlockSize, blocks, noSum)
	for _, r := range m.Ranges {
		which := fmt.Sprint(r.First)
		if r.Last != r.First {
			which += fmt.Sprintf("-%d", r.Last)
		}
		fmt.Fprintf(&b, "        <Range chksum=\"%x\"> %s </Range>\n", r.SHA256, which)
	}
	b.WriteString("    </BlockMap>\n</bmap>\n")
	sum := fmt.Sprintf("%x", sha256.Sum256(b.Bytes()))
	return bytes.Replace(b.Bytes(), []byte(noSum), []byte(sum), 1)
}

// ErrDamaged says that a block map is not what Encode or bmaptool wrote.
var ErrDamaged = errors.New("damaged block map: build the image again")

// Decode reads a block map and checks it against its own checksum.
func Decode(b []byte) (*Map, error) {
	var x struct {
		Version      string `xml:"version,attr"`
		ImageSize    string
		BlockSize    string
		ChecksumType string
		Sum          string `xml:"BmapFileChecksum"`
		Ranges       []struct {
			Sum    string `xml:"chksum,attr"`
			Blocks string `xml:",chardata"`
		} `xml:"BlockMap>Range"`
	}
	if err := xml.Unmarshal(b, &x); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if x.Version != "2.0" || strings.TrimSpace(x.ChecksumType) != "sha256" {
		return nil, fmt.Errorf("%w: version %q with %q", ErrDamaged, x.Version, x.ChecksumType)
	}
	sum := strings.TrimSpace(x.Sum)
	if len(sum) != len(noSum) || fmt.Sprintf("%x", sha256.Sum256(bytes.Replace(b, []byte(sum), []byte(noSum), 1))) != sum {
		return nil, fmt.Errorf("%w: checksum", ErrDamaged)
	}
	m := &Map{}
	var err1, err2 error
	m.ImageSize, err1 = number(x.ImageSize)
	m.BlockSize, err2 = number(x.BlockSize)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if m.BlockSize < 512 || m.BlockSize > 1<<20 || m.ImageSize > 1<<50 {
		return nil, fmt.Errorf("%w: %d bytes in blocks of %d", ErrDamaged, m.ImageSize, m.BlockSize)
	}
	next := int64(0)
	for _, xr := range x.Ranges {
		first, last, isRange := strings.Cut(xr.Blocks, "-")
		if !isRange {
			last = first
		}
		var r Range
		r.First, err1 = number(first)
		r.Last, err2 = number(last)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		sum, err := hex.DecodeString(xr.Sum)
		if err != nil || copy(r.SHA256[:], sum) != len(r.SHA256) || len(sum) != len(r.SHA256) {
			return nil, fmt.Errorf("%w: range %q has checksum %q", ErrDamaged, xr.Blocks, xr.Sum)
		}
		if r.First < next || r.Last < r.First || r.Last > (m.ImageSize-1)/m.BlockSize {
			return nil, fmt.Errorf("%w: range %q", ErrDamaged, xr.Blocks)
		}
		next = r.Last + 1
		m.Ranges = append(m.Ranges, r)
	}
	if m.ImageSize == 0 && len(m.Ranges) > 0 {
		return nil, fmt.Errorf("%w: blocks of nothing", ErrDamaged)
	}
	return m, nil
}

func number(s string) (int64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%w: %q is no number", ErrDamaged, s)
	}
	return int64(n), nil
}

// A span is a range of bytes.
type span struct{ start, end int64 }

// merge sorts spans and joins those that touch.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	var merged []span
	for _, s := range spans {
		if last := len(merged) - 1; last >= 0 && s.start <= merged[last].end {
			merged[last].end = max(merged[last].end, s.end)
		} else if s.start < s.end {
			merged = append(merged, s)
		}
	}
	return merged
}
