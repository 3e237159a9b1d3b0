package delta

import (
	"index/suffixarray"
)

// shortest is the least that two stretches must have in common to be found. Shorter finds cost more
// in steps than they save, and the index is asked for this much at every byte that is new.
const shortest = 16

// diff appends to script the steps that make new of old. This is Colin Percival's bsdiff: a stretch
// is taken from a place of the old data that it resembles, not equals, and the patch has the
// differences, byte by byte. Where code has only moved they are zeros with a few addresses between
// that all differ by the same, and that compresses well.
func diff(script, old, new []byte) []byte {
	index := suffixarray.New(old)
	var (
		scan, found, length int // new[scan:] is like old[found:] for so long
		done, from          int // new[:done] is written; what follows is like old[from:]
		last                int // where the last step ended in old
	)
	for scan < len(new) {
		scan += length
		found, length, scan = nextMatch(index, old, new, scan, from-done)
		// All between the last match and this one goes to one of the two, or is new.
		forward := resemblance(old[from:], new[done:scan], false)
		backward := 0
		if scan < len(new) {
			backward = resemblance(old[:found], new[done:scan], true)
		}
		if overlap := forward + backward - (scan - done); overlap > 0 {
			split := bestSplit(new[done+forward-overlap:][:overlap],
				old[from+forward-overlap:], old[found-backward:])
			forward -= overlap - split
			backward -= split
		}
		add, copy := new[done:done+forward], new[done+forward:scan-backward]
		if len(add)+len(copy) > 0 {
			script = appendStep(script, step{int64(from - last), int64(len(add)), int64(len(copy))})
			for i := range add {
				script = append(script, add[i]-old[from+i])
			}
			script = append(script, copy...)
			last = from + forward
		}
		done, from = scan-backward, found-backward
	}
	return script
}

// nextMatch looks from scan on for a stretch of new that old has at another place than shift, which
// says where the last match lies, and has there with clearly more equal bytes. At the end there is none.
func nextMatch(index *suffixarray.Index, old, new []byte, scan, shift int) (found, length, at int) {
	same := func(i int) int { // 1 if the last match goes on at new[i]
		if o := i + shift; o >= 0 && o < len(old) && old[o] == new[i] {
			return 1
		}
		return 0
	}
	score := 0 // equal bytes of new[scan:counted] if the last match goes on
	for counted := scan; scan < len(new); scan++ {
		found, length = longest(index, old, new[scan:])
		for ; counted < scan+max(length, 1); counted++ {
			score += same(counted)
		}
		if length == score && length > 0 { // the same match: go on behind it
			scan, score, counted = scan+length-1, 0, scan+length
			continue
		}
		if length > score+8 {
			return found, length, scan
		}
		score -= same(scan)
	}
	return 0, 0, len(new)
}

// longest returns where old has the longest beginning of b, and its length.
func longest(index *suffixarray.Index, old, b []byte) (at, length int) {
	for step, try := 1, shortest; try <= len(b) && length < len(b); try = min(length+step, len(b)) {
		if hits := index.Lookup(b[:try], 1); hits != nil {
			at, length = hits[0], try
			length += commonPrefix(old[at+length:], b[length:])
			step *= 2
			continue
		}
		if step == 1 {
			break
		}
		step = 1
	}
	return at, length
}

func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// resemblance returns how long the beginnings of old and new, or their ends, are more alike than not.
func resemblance(old, new []byte, ends bool) (length int) {
	score, best := 0, 0 // equal bytes less unequal ones
	for i := range min(len(old), len(new)) {
		equal := old[i] == new[i]
		if ends {
			equal = old[len(old)-1-i] == new[len(new)-1-i]
		}
		if equal {
			score++
		} else {
			score--
		}
		if score > best {
			best, length = score, i+1
		}
	}
	return length
}

// bestSplit returns how much of b is better taken from left, and the rest from right.
func bestSplit(b, left, right []byte) (at int) {
	score, best := 0, 0
	for i := range b {
		if b[i] == left[i] {
			score++
		}
		if b[i] == right[i] {
			score--
		}
		if score > best {
			best, at = score, i+1
		}
	}
	return at
}
