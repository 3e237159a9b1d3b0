// Init is the smallest user space there is: it does nothing, and never ends.
package main

func main() { select {} }
