package portmap

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// What stands around the table in a Markdown file. It is replaced by `go generate ./internal/portmap`.
const (
	Begin = "<!-- ports: made by go generate ./internal/portmap -->"
	End   = "<!-- ports: end -->"
)

// Markdown returns the table in English, as the README shows it.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| | direction | protocol, ports | other end | purpose | opened by |\n|---|---|---|---|---|---|\n")
	for _, r := range Table {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.Requirement, r.Direction.Text().EN,
			strings.TrimSpace(strings.ToUpper(string(r.Protocol))+" "+r.Ports.String()), r.Peer.EN, r.Purpose.EN, r.Opened.Text().EN)
	}
	return b.String()
}

// Replace returns file with the table of today between its marks.
func Replace(file []byte) ([]byte, error) {
	head, rest, ok := bytes.Cut(file, []byte(Begin+"\n"))
	_, tail, ended := bytes.Cut(rest, []byte(End+"\n"))
	if !ok || !ended {
		return nil, errors.New("find the marks of the port table: put these two lines where it belongs:\n" + Begin + "\n" + End)
	}
	return []byte(string(head) + Begin + "\n\n" + Markdown() + "\n" + End + "\n" + string(tail)), nil
}
