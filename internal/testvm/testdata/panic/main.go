// Command panic is a process 1 that ends at once: the kernel panics and the machine resets.
package main

import (
	"fmt"
	"os"
)

func main() {
	if console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		fmt.Fprintln(console, "this system is broken: process 1 ends")
	}
}
