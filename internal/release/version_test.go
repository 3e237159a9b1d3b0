package release

import (
	"slices"
	"strings"
	"testing"
)

func TestVersionsAreOrdered(t *testing.T) {
	ascending := [][]string{ // what is in one row is equally new
		{"0.0.0-dev", "0.0.0-dev+dirty"},
		{"0.0.0-dev.9+gabc1234", "0.0.0-dev.9+g0000000.dirty"},
		{"0.0.0-dev.10+gabc1234"},
		{"0.0.0-dev.1000+gabc1234"},
		{"0.0.0"},
		{"1.2.3", "1.2.3+dirty"},
		{"1.2.4-dev.4+gabc1234", "1.2.4-dev.4+gabc1234.dirty"},
		{"1.2.4-dev.12+gabc1234"},
		{"1.2.4"},
		{"1.2.10"},
		{"1.10.0-rc.1"},
		{"1.10.0-rc.1.dev.3+gabc1234"},
		{"1.10.0-rc.2"},
		{"1.10.0"},
		{"10.0.0"},
		{"10.0.99999999999999999999999999"},
	}
	for i, low := range ascending {
		for j, high := range ascending {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			for _, a := range low {
				for _, b := range high {
					if got, err := Compare(a, b); err != nil || got != want {
						t.Errorf("Compare(%s, %s) = %d, %v; want %d", a, b, got, err, want)
					}
				}
			}
		}
	}
}

func TestWhatIsNoVersion(t *testing.T) {
	for _, v := range []string{
		"", "1", "1.2", "v1.2.3", "1.2.3.4", "1.2.3 4", "1.2.3/..", "1.2.3\n", "01.2.3", "1.2.3-01", "1.2.3-",
		"1.2.3+", "1.2.3_4", "1.2.ü", "-1.2.3", "1-2.3.4", "1.2.3-" + strings.Repeat("a", 80),
	} {
		if CheckVersion(v) == nil {
			t.Errorf("version %q is taken", v)
		}
		for _, pair := range [][2]string{{v, "1.0.0"}, {"1.0.0", v}} {
			if _, err := Compare(pair[0], pair[1]); err == nil {
				t.Errorf("%q is compared", pair)
			}
		}
	}
}

// Whatever they are, versions have one order.
func FuzzCompare(f *testing.F) {
	f.Add("1.2.3", "1.2.4-dev.4+gabc1234", "1.2.4")
	f.Add("0.0.0-dev", "v1.2.3", "1.2.3-a.b.1+x")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		all := []string{a, b, c}
		for _, v := range all {
			if CheckVersion(v) != nil {
				if _, err := Compare(v, "1.0.0"); err == nil {
					t.Errorf("%q is no version and is compared", v)
				}
				return
			}
			if strings.ContainsAny(v, "/\\ \n\x00%_") || len(v) > maxVersion {
				t.Errorf("%q is a version", v)
			}
		}
		compare := func(x, y string) int {
			n, err := Compare(x, y)
			if err != nil {
				t.Errorf("Compare(%q, %q): %v", x, y, err)
			}
			return n
		}
		slices.SortFunc(all, compare)
		if compare(all[0], all[2]) > 0 || compare(all[2], all[0]) < 0 || compare(a, a) != 0 {
			t.Errorf("no order in %q", all)
		}
	})
}
