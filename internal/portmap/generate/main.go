// Command generate writes the port table into the Markdown file that it is given.
package main

import (
	"fmt"
	"os"

	"cloudlink.local/gateway/internal/portmap"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "generate: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("name the Markdown file: generate README.md")
	}
	file, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	if file, err = portmap.Replace(file); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return os.WriteFile(args[0], file, 0o644)
}
