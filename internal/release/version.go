package release

import (
	"fmt"
	"strings"

	"golang.org/x/mod/semver"
)

// maxVersion is more than a version of `git describe` has: it must fit in file names and on the console.
const maxVersion = 80

// CheckVersion says whether v is a version: a semantic version (semver.org) without the v. It is safe
// wherever it is shown or used as a name.
func CheckVersion(v string) error {
	// The library takes v1 and v1.2 as well.
	core, _, _ := strings.Cut(v, "+")
	core, _, _ = strings.Cut(core, "-")
	if len(v) > maxVersion || strings.Count(core, ".") != 2 || !semver.IsValid("v"+v) {
		if len(v) > maxVersion {
			v = v[:maxVersion] + "…"
		}
		return fmt.Errorf("version %q: want MAJOR.MINOR.PATCH, such as 1.2.3, 1.3.0-rc.1 or 1.2.4-dev.5+gabc1234", v)
	}
	return nil
}

// Compare returns -1 where version a is older than b, 1 where it is newer, else 0. What follows a plus
// says how it was built and does not count. Images between two tags are called after the next one, with
// the number of commits: 1.2.3 < 1.2.4-dev.9 < 1.2.4-dev.10 < 1.2.4.
func Compare(a, b string) (int, error) {
	for _, v := range []string{a, b} {
		if err := CheckVersion(v); err != nil {
			return 0, err
		}
	}
	return semver.Compare("v"+a, "v"+b), nil
}
