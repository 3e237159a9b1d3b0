package harness

import (
	"cmp"
	"slices"
)

// Median returns the middle one of values, the upper of two.
func Median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// Round returns x with three decimals, for the line of figures.
func Round(x float64) float64 { return float64(int(x*1000+0.5)) / 1000 }
