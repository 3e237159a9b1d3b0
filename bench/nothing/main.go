// Command nothing is the floor of the boot benchmark: a process 1 that says it is there and waits.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(console, "nothing: process 1 is up")
	for {
		time.Sleep(time.Hour) // not select{}: with nothing else running that is a deadlock, and ends
	}
}
