package powercut

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"

	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/testvm/powercut/nbd"
)

// A Mode is what the cut leaves of what was not flushed.
type Mode string

// The modes.
const (
	Prefix    Mode = "prefix"    // all of it
	Reordered Mode = "reordered" // any of the writes
	Torn      Mode = "torn"      // any of their sectors, and of the write under way
)

// A Point is one power cut. The same point always leaves the same disk.
type Point struct {
	After int // so many operations were done
	Mode  Mode
	Seed  uint64
}

func (p Point) String() string {
	if p.Mode == Prefix {
		return fmt.Sprintf("%d-%s", p.After, p.Mode)
	}
	return fmt.Sprintf("%d-%s-%d", p.After, p.Mode, p.Seed)
}

// flushed returns how many of the first n operations are on the medium, whatever happens: those that had
// been answered when the last flush was asked for.
func (r *Recording) flushed(n int) int {
	for i := n - 1; i >= 0; i-- {
		if r.Ops[i].Kind == nbd.Flush {
			return int(r.Ops[i].Settled)
		}
	}
	return 0
}

// reach returns the operations of which the point may leave something: those before first are whole.
func (r *Recording) reach(p Point) (first, end int) {
	switch p.Mode {
	case Prefix:
		return p.After, p.After
	case Torn:
		return r.flushed(p.After), min(p.After+1, len(r.Ops)) // one more is under way
	}
	return r.flushed(p.After), p.After
}

// Make writes the disk as the point leaves it to path.
func (r *Recording) Make(path string, p Point) error {
	if err := qemu.CopyDisk(path, r.base, 0); err != nil {
		return fmt.Errorf("make disk of %v: %w", p, err)
	}
	disk, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("make disk of %v: %w", p, err)
	}
	defer disk.Close()
	log, err := os.Open(r.log)
	if err != nil {
		return fmt.Errorf("make disk of %v: %w", p, err)
	}
	defer log.Close()
	first, end := r.reach(p)
	for _, part := range r.leaves(p, first, end) {
		var data []byte
		op := r.Ops[part.op]
		if op.Kind == nbd.Write {
			data = make([]byte, part.length)
			if _, err := log.ReadAt(data, r.data[part.op]+part.from); err != nil {
				return fmt.Errorf("make disk of %v: operation %d: %w", p, part.op, err)
			}
		}
		op.Offset, op.Length = op.Offset+part.from, part.length
		if err := apply(disk, op, data); err != nil {
			return fmt.Errorf("make disk of %v: operation %d: %w", p, part.op, err)
		}
	}
	return disk.Close()
}

// A part is a piece of an operation, in bytes.
type part struct {
	op           int
	from, length int64
}

// leaves returns what is on the medium, in the order of being written. A later write of the same sector
// that is left out leaves the earlier one's content: any content since the flush can be there.
func (r *Recording) leaves(p Point, first, end int) []part {
	random := rand.New(rand.NewPCG(p.Seed, uint64(p.After)))
	// How much of it the disk had written by then: nothing, all, or anything between.
	kept := []float64{0, 0.25, 0.5, 0.75, 0.95}[random.IntN(5)]
	var parts []part
	for i := range end {
		op := r.Ops[i]
		whole := part{i, 0, op.Length}
		switch {
		case op.Length == 0:
		case i < first || op.FUA && i < p.After:
			parts = append(parts, whole)
		case p.Mode == Torn && (i == p.After || random.IntN(2) == 0):
			parts = append(parts, tear(whole, random)...)
		case i < p.After && random.Float64() < kept:
			parts = append(parts, whole)
		}
	}
	return parts
}

// tear leaves some sectors of an operation: its beginning, its end, or any.
func tear(p part, random *rand.Rand) []part {
	sectors := p.length / Sector
	some := random.Int64N(sectors+1) * Sector
	switch random.IntN(3) {
	case 0:
		p.length = some
	case 1:
		p.from, p.length = p.from+some, p.length-some
	default:
		var parts []part
		for at := range sectors {
			if random.IntN(2) == 0 {
				parts = append(parts, part{p.op, p.from + at*Sector, Sector})
			}
		}
		return parts
	}
	if p.length == 0 {
		return nil
	}
	return []part{p}
}

// Points returns every cut while the operations from the one to before the other are done: each left
// whole, torn while it is under way, and with what was not flushed by then written in any order.
func (r *Recording) Points(from, to int, seed uint64) []Point {
	random := rand.New(rand.NewPCG(seed, uint64(from)))
	var points []Point
	for n := from; n < to; n++ {
		if r.Ops[n].Kind == nbd.Flush {
			continue // it changes nothing
		}
		points = append(points, Point{n, Torn, random.Uint64()}, Point{After: n + 1, Mode: Prefix})
		if r.flushed(n+1) < n { // there is more than one
			points = append(points, Point{n + 1, Reordered, random.Uint64()})
		}
	}
	return points
}

// Sample returns n of the points, or all if there are no more: some of each class, the first of them of
// each in turn. Classes are those of the operation before the cut, or under way.
func (l *Layout) Sample(r *Recording, points []Point, n int, seed uint64) []Point {
	if n >= len(points) {
		return points
	}
	random := rand.New(rand.NewPCG(seed, 0))
	of := map[string][]Point{}
	for _, i := range random.Perm(len(points)) {
		class := l.ClassAt(r, points[i])
		of[class] = append(of[class], points[i])
	}
	classes := slices.SortedFunc(maps.Keys(of), func(a, b string) int { return cmp.Or(len(of[a])-len(of[b]), cmp.Compare(a, b)) })
	var sample []Point
	for len(sample) < n {
		for _, class := range classes {
			if len(of[class]) > 0 && len(sample) < n {
				sample, of[class] = append(sample, of[class][0]), of[class][1:]
			}
		}
	}
	return sample
}

// ClassAt is the class of the operation that the cut hits.
func (l *Layout) ClassAt(r *Recording, p Point) string {
	if p.Mode == Torn {
		return l.Class(r.Ops[p.After])
	}
	return l.Class(r.Ops[p.After-1])
}
