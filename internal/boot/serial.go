package boot

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"cloudlink.local/gateway/internal/safefile"
)

// Serial returns the device's serial number: the one its maker gave it; else the one kept in file;
// else one made now, of the first Ethernet port's address or of chance: fresh, which KeepSerial is for.
func Serial(sys, file string) (serial string, fresh bool) {
	for _, path := range []string{"class/dmi/id/product_serial", "firmware/devicetree/base/serial-number"} {
		if b, err := os.ReadFile(filepath.Join(sys, path)); err == nil {
			if s := cleanSerial(string(b)); s != "" {
				return s, false
			}
		}
	}
	if b, err := safefile.Read(file, 100); err == nil {
		if s := cleanSerial(string(b)); s != "" {
			return s, false
		}
	}
	s := cleanSerial(strings.ReplaceAll(firstMAC(sys), ":", ""))
	if s == "" {
		var b [6]byte
		rand.Read(b[:]) // never fails
		s = hex.EncodeToString(b[:])
	}
	return strings.ToUpper(s), true
}

// KeepSerial writes a fresh serial number to file, for the next start.
func KeepSerial(file, serial string) error {
	if err := renameio.WriteFile(file, []byte(serial+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep serial number: %w", err)
	}
	return nil
}

// maxSerial is the most characters a serial number has.
const maxSerial = 32

// cleanSerial keeps letters, digits and dashes of what a firmware, or whoever can write to it,
// says; "" if that is no serial number but one of the usual ways to say that there is none.
func cleanSerial(raw string) string {
	var b strings.Builder
	digits := false
	for _, c := range raw {
		switch {
		case c >= '1' && c <= '9':
			digits = true
			fallthrough
		case c == '0', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-':
			if b.Len() < maxSerial {
				b.WriteRune(c)
			}
		}
	}
	s := strings.Trim(b.String(), "-")
	if !digits || len(s) < 3 || strings.HasPrefix("01234567890", s) || strings.HasPrefix("1234567890", s) {
		return "" // "To be filled by O.E.M.", "0000", "123456789"
	}
	return s
}

// firstMAC returns the address of the Ethernet port that the kernel found first.
func firstMAC(sys string) string {
	entries, err := os.ReadDir(filepath.Join(sys, "class/net"))
	if err != nil {
		return ""
	}
	best, mac := 0, ""
	for _, e := range entries {
		dir := filepath.Join(sys, "class/net", e.Name())
		if readTrim(dir, "type") != "1" { // ARPHRD_ETHER
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "device")); errors.Is(err, os.ErrNotExist) {
			continue // made by software, with an address of chance
		}
		index := 0
		fmt.Sscan(readTrim(dir, "ifindex"), &index)
		if address := readTrim(dir, "address"); index > 0 && (mac == "" || index < best) && address != "00:00:00:00:00:00" {
			best, mac = index, address
		}
	}
	return mac
}

func readTrim(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name)) // what cannot be read is not there
	return strings.TrimSpace(string(b))
}
