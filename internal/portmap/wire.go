package portmap

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"slices"
	"time"
)

// errForeign is an answer to something that we have not asked.
var errForeign = errors.New("not an answer to our question")

// askNTP asks a time server for its time, and does not look at it.
func askNTP(conn net.Conn) error {
	question := make([]byte, 48)
	question[0] = 4<<3 | 3   // version 4, client
	rand.Read(question[40:]) // the time at which we sent it, as far as the server cares
	return exchange(conn, question, answersNTP)
}

// answersNTP says whether answer is a server's to question (RFC 5905 §7.3). A server that has no
// time yet, or asks us to come less often, has answered.
func answersNTP(question, answer []byte) bool {
	return len(answer) >= 48 && answer[0]&7 == 4 && slices.Equal(answer[24:32], question[40:48])
}

const stunCookie = 0x2112A442

// askSTUN asks a STUN server for our address, and does not look at it.
func askSTUN(conn net.Conn) error {
	question := make([]byte, 20)
	binary.BigEndian.PutUint16(question, 0x0001) // binding request without attributes
	binary.BigEndian.PutUint32(question[4:], stunCookie)
	rand.Read(question[8:])
	return exchange(conn, question, answersSTUN)
}

// answersSTUN says whether answer is a server's to question (RFC 8489 §5). An error response comes
// from a STUN server, too.
func answersSTUN(question, answer []byte) bool {
	if len(answer) < 20 {
		return false
	}
	kind := binary.BigEndian.Uint16(answer)
	length := int(binary.BigEndian.Uint16(answer[2:]))
	return (kind == 0x0101 || kind == 0x0111) && length == len(answer)-20 && slices.Equal(answer[4:20], question[4:20])
}

// exchange sends question up to three times, a second apart, for UDP loses packets, until answers likes
// what comes back.
func exchange(conn net.Conn, question []byte, answers func(question, answer []byte) bool) error {
	buf := make([]byte, 1500)
	foreign := false
	var err error
	for range patience / time.Second {
		if _, err = conn.Write(question); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(time.Second))
		for {
			var n int
			if n, err = conn.Read(buf); err != nil {
				break
			}
			if answers(question, buf[:n]) {
				return nil
			}
			foreign = true // the answer may still follow
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	if foreign {
		return errForeign
	}
	return err
}
