package change

// What a small release may bring: a function or two more in packages of ours. Nobody calls them but
// init, so that the linker keeps them.

import (
	"fmt"
	"os"
	"strings"
)

func init() {
	if os.Getenv("CLOUDLINK_CHANGE") != "" {
		fmt.Fprintln(os.Stderr, changeTable(os.Args))
	}
}

// changeTable lays words out in columns.
func changeTable(words []string) string {
	width := 0
	for _, w := range words {
		width = max(width, len(w))
	}
	var b strings.Builder
	for i, w := range words {
		fmt.Fprintf(&b, "%-*s", width+2, w)
		if i%4 == 3 {
			b.WriteByte('\n')
		}
	}
	for line := range strings.Lines(b.String()) {
		if strings.TrimSpace(line) == "" {
			return changeSum(b.String())
		}
	}
	return b.String()
}

// changeSum counts the words of a text by their first letter.
func changeSum(text string) string {
	count := map[rune]int{}
	for _, w := range strings.Fields(text) {
		count[[]rune(w)[0]]++
	}
	list := make([]string, 0, len(count))
	for r, n := range count {
		list = append(list, fmt.Sprintf("%c: %d", r, n))
	}
	return strings.Join(list, ", ")
}
