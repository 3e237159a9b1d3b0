package console

// maxLine is more than anybody has to type here.
const maxLine = 32

// An editor makes lines of what is typed. It takes bytes as they come, from a person, a script, a
// line with noise on it: what is no printable ASCII character is left out.
type editor struct {
	line   []byte
	lastCR bool // a line feed that follows belongs to it
	escape int  // within a sequence that a key sent: 1 after ESC, 2 after ESC [, 3 after ESC O
}

// Keys with a meaning.
const (
	keyInterrupt = 0x03 // Ctrl-C
	keyBackspace = 0x08
	keyKill      = 0x15 // Ctrl-U
	keyQuit      = 0x1c // Ctrl-\, for a shell's commands
	keyEscape    = 0x1b
	keyDelete    = 0x7f
)

// feed takes a byte and returns what to print; done says that line is a whole one.
func (e *editor) feed(b byte) (echo, line string, done bool) {
	afterCR := e.lastCR
	e.lastCR = b == '\r'
	switch e.escape {
	case 1:
		e.escape = 0
		switch b {
		case '[':
			e.escape = 2
			return "", "", false
		case 'O':
			e.escape = 3
			return "", "", false
		}
	case 2: // ends with a letter or the like
		if b >= 0x20 && b < 0x40 {
			return "", "", false
		}
		e.escape = 0
		if b >= 0x40 && b < keyDelete {
			return "", "", false
		}
	case 3:
		e.escape = 0
		if b >= 0x40 && b < keyDelete {
			return "", "", false
		}
	}
	switch {
	case b == '\n' && afterCR:
		return "", "", false
	case b == keyInterrupt: // never mind what was typed
		e.line = e.line[:0]
		return "\n", "", true
	case b == '\r' || b == '\n':
		line = string(e.line)
		e.line = e.line[:0]
		return "\n", line, true
	case b == keyBackspace || b == keyDelete:
		if len(e.line) == 0 {
			return "", "", false
		}
		e.line = e.line[:len(e.line)-1]
		return "\b \b", "", false
	case b == keyKill:
		for range e.line {
			echo += "\b \b"
		}
		e.line = e.line[:0]
		return echo, "", false
	case b == keyEscape:
		e.escape = 1
		return "", "", false
	case b < 0x20 || b > 0x7e || len(e.line) == maxLine:
		return "", "", false
	}
	e.line = append(e.line, b)
	return string(b), "", false
}
