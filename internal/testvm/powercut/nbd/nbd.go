// Package nbd serves one disk over the network block device protocol (newstyle negotiation, simple
// replies), as QEMU and the tools of qemu-utils speak it. Whoever keeps the disk sees every request
// that changes it in the order in which it is done.
package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// A Kind is what an operation does to the disk.
type Kind uint8

// The kinds.
const (
	Write Kind = 1 + iota
	Zero       // write zeros
	Trim       // what is there is not needed any more
	Flush
)

// String names k.
func (k Kind) String() string {
	if name, ok := map[Kind]string{Write: "write", Zero: "zero", Trim: "trim", Flush: "flush"}[k]; ok {
		return name
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// An Op is an operation that changes the disk, or brings changes to its medium.
type Op struct {
	Kind   Kind
	FUA    bool // on the medium before it is answered
	Offset int64
	Length int64
	// Settled is how many operations had been answered when this one was received: a flush answers
	// for these, and for none that was under way beside it.
	Settled int64
}

// A Disk is what is served. The server calls one method at a time, save for ReadAt of its own reads.
type Disk interface {
	io.ReaderAt
	Size() int64
	// Do does an operation; data are a write's, and no longer good when it returns.
	Do(op Op, data []byte) error
}

// MaxRequest is the most bytes that a client may read or write at once: it bounds the server's memory.
const MaxRequest = 1 << 20

// depth is how many requests are taken in before the first of them is answered.
const depth = 16

// The protocol's numbers (doc/proto.md of the NBD project).
const (
	magicServer     = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicReply      = 0x0003e889045565a9 // to an option
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698 // reply to a request
	fixedNewstyle   = 1 << 0     // handshake flags, the server's and the client's
	noZeroes        = 1 << 1
	optExportName   = 1
	optAbort        = 2
	optList         = 3
	optInfo         = 6
	optGo           = 7
	repAck          = 1
	repServer       = 2
	repInfo         = 3
	repUnsupported  = 1<<31 + 1
	repInvalid      = 1<<31 + 3
	repTooBig       = 1<<31 + 9
	infoExport      = 0
	infoBlockSize   = 3
	cmdRead         = 0
	cmdWrite        = 1
	cmdDisconnect   = 2
	cmdFlush        = 3
	cmdTrim         = 4
	cmdWriteZeroes  = 6
	flagFUA         = 1 << 0 // of a request
	flagNoHole      = 1 << 1
	errIO           = 5 // errors of a reply are Linux's numbers
	errInvalid      = 22
	errNoSpace      = 28
	errTooLong      = 75
	maxOption       = 4096 + 64 // a name, and the list of what is asked about it
	transmission    = 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<6
	sector          = 512
	preferredBlock  = 4096
	optionHeader    = 16
	requestHeader   = 28
	exportNameZeros = 124
)

// A Server serves a disk to one client after the other.
type Server struct {
	Disk Disk

	done    int64        // operations
	settled atomic.Int64 // of these, those that have been answered
}

// Run serves whoever connects to l until ctx ends.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a client: %w", err)
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() }) // ends a blocked read
		err = s.Serve(conn)
		stop()
		conn.Close()
		if d := (*DiskError)(nil); errors.As(err, &d) {
			return err // what it has recorded since is not whole
		}
	}
}

// A DiskError is one of the disk's, not of the client's.
type DiskError struct{ Err error }

func (e *DiskError) Error() string { return "disk: " + e.Err.Error() }

// Unwrap returns the disk's own.
func (e *DiskError) Unwrap() error { return e.Err }

// Serve serves one client until it leaves. A nil error says that it took its leave.
func (s *Server) Serve(conn io.ReadWriteCloser) error {
	s.settled.Store(s.done) // of the client before nobody waits for an answer
	attached, err := s.negotiate(conn)
	if err != nil || !attached {
		return err
	}
	requests := make(chan request, depth)
	var reading sync.WaitGroup
	var readErr error
	reading.Go(func() {
		defer close(requests)
		readErr = s.read(conn, requests)
	})
	var answerErr error
	for r := range requests {
		if answerErr == nil {
			if answerErr = s.answer(conn, r); answerErr != nil {
				conn.Close() // ends the reader
			}
		}
	}
	reading.Wait()
	return errors.Join(answerErr, readErr)
}

// negotiate comes to transmission, or to the client's leave.
func (s *Server) negotiate(conn io.ReadWriter) (attached bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("negotiate: %w", err)
		}
	}()
	hello := binary.BigEndian.AppendUint64(nil, magicServer)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, fixedNewstyle|noZeroes)
	if _, err := conn.Write(hello); err != nil {
		return false, err
	}
	var flags [4]byte
	if _, err := io.ReadFull(conn, flags[:]); err != nil {
		return false, err
	}
	client := binary.BigEndian.Uint32(flags[:])
	if client&^(fixedNewstyle|noZeroes) != 0 || client&fixedNewstyle == 0 {
		return false, fmt.Errorf("the client's flags %#x: want fixed newstyle", client)
	}
	for {
		option, data, err := readOption(conn)
		if err != nil {
			return false, err
		}
		switch option {
		case optExportName: // the old way: no reply but the export itself
			b := s.export(nil)
			if client&noZeroes == 0 {
				b = append(b, make([]byte, exportNameZeros)...)
			}
			_, err := conn.Write(b)
			return err == nil, err
		case optAbort:
			return false, reply(conn, option, repAck, nil)
		case optList:
			err = errors.Join(reply(conn, option, repServer, make([]byte, 4)), reply(conn, option, repAck, nil))
		case optInfo, optGo:
			if !legalInfo(data) {
				err = reply(conn, option, repInvalid, nil)
				break
			}
			sizes := binary.BigEndian.AppendUint16(nil, infoBlockSize)
			for _, n := range []uint32{sector, preferredBlock, MaxRequest} {
				sizes = binary.BigEndian.AppendUint32(sizes, n)
			}
			err = errors.Join(
				reply(conn, option, repInfo, s.export(binary.BigEndian.AppendUint16(nil, infoExport))),
				reply(conn, option, repInfo, sizes),
				reply(conn, option, repAck, nil))
			if err == nil && option == optGo {
				return true, nil
			}
		default:
			code := uint32(repUnsupported)
			if data == nil {
				code = repTooBig
			}
			err = reply(conn, option, code, nil)
		}
		if err != nil {
			return false, err
		}
	}
}

// export appends the disk's size and what can be asked of it. Whatever name the client gives, it is
// this disk.
func (s *Server) export(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(s.Disk.Size()))
	return binary.BigEndian.AppendUint16(b, transmission)
}

// readOption reads an option. Data is nil if there was too much of it.
func readOption(r io.Reader) (option uint32, data []byte, err error) {
	var h [optionHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	if magic := binary.BigEndian.Uint64(h[:]); magic != magicOption {
		return 0, nil, fmt.Errorf("an option begins with %#x", magic)
	}
	option, n := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
	if n > maxOption {
		_, err := io.CopyN(io.Discard, r, int64(n))
		if option == optExportName && err == nil {
			err = errors.New("the export's name is too long") // there is no reply to say so
		}
		return option, nil, err
	}
	data = make([]byte, n)
	_, err = io.ReadFull(r, data)
	return option, data, err
}

// legalInfo says whether the data of INFO and GO are a name and the list of what is asked about it. All
// that there is is told, whatever is asked.
func legalInfo(data []byte) bool {
	if len(data) < 6 {
		return false
	}
	name := binary.BigEndian.Uint32(data)
	if uint64(name) > uint64(len(data)-6) {
		return false
	}
	rest := data[4+name:]
	return len(rest)-2 == 2*int(binary.BigEndian.Uint16(rest))
}

func reply(w io.Writer, option, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicReply)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := w.Write(append(b, data...))
	return err
}

// A request is one as it came in.
type request struct {
	command, flags uint16
	handle         uint64
	offset         uint64
	length         uint32
	data           []byte
	settled        int64
	err            uint32 // what is wrong with it
}

// read takes requests in until the client leaves.
func (s *Server) read(conn io.Reader, requests chan<- request) error {
	for {
		var h [requestHeader]byte
		if _, err := io.ReadFull(conn, h[:]); err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		r, err := parseRequest(h, uint64(s.Disk.Size()))
		if err != nil {
			return err
		}
		if r.command == cmdDisconnect {
			return nil
		}
		if r.command == cmdWrite && r.err == errTooLong {
			if _, err := io.CopyN(io.Discard, conn, int64(r.length)); err != nil {
				return fmt.Errorf("read request: %w", err)
			}
		} else if r.command == cmdWrite {
			r.data = make([]byte, r.length)
			if _, err := io.ReadFull(conn, r.data); err != nil {
				return fmt.Errorf("read request: %w", err)
			}
		}
		r.settled = s.settled.Load()
		requests <- r
	}
}

// parseRequest reads a request's header and finds out whether it can be done. An error says that nothing
// after it can be understood.
func parseRequest(h [requestHeader]byte, size uint64) (request, error) {
	if magic := binary.BigEndian.Uint32(h[:]); magic != magicRequest {
		return request{}, fmt.Errorf("a request begins with %#x", magic)
	}
	r := request{
		flags: binary.BigEndian.Uint16(h[4:]), command: binary.BigEndian.Uint16(h[6:]),
		handle: binary.BigEndian.Uint64(h[8:]), offset: binary.BigEndian.Uint64(h[16:]), length: binary.BigEndian.Uint32(h[24:]),
	}
	moves := r.command == cmdRead || r.command == cmdWrite
	switch r.command {
	case cmdRead, cmdWrite, cmdTrim, cmdWriteZeroes:
		switch {
		case moves && r.length > MaxRequest:
			r.err = errTooLong
		case r.flags&^(flagFUA|flagNoHole) != 0 || r.length == 0 || r.offset%sector != 0 || r.length%sector != 0:
			r.err = errInvalid
		case r.offset > size || uint64(r.length) > size-r.offset:
			r.err = errInvalid
			if r.command == cmdWrite || r.command == cmdWriteZeroes {
				r.err = errNoSpace
			}
		}
	case cmdFlush, cmdDisconnect:
	default:
		r.err = errInvalid
	}
	return r, nil
}

// kinds of the commands that change something.
var kinds = map[uint16]Kind{cmdWrite: Write, cmdWriteZeroes: Zero, cmdTrim: Trim, cmdFlush: Flush}

// answer does what is requested and says so. An error ends the connection.
func (s *Server) answer(w io.Writer, r request) error {
	b := binary.BigEndian.AppendUint32(nil, magicSimple)
	kind, changes := kinds[r.command]
	var failed error
	switch {
	case r.err != 0:
		changes = false
	case changes:
		op := Op{Kind: kind, Settled: r.settled}
		if kind != Flush {
			op.FUA, op.Offset, op.Length = r.flags&flagFUA != 0, int64(r.offset), int64(r.length)
		}
		failed = s.Disk.Do(op, r.data)
		s.done++
	default:
		r.data = make([]byte, r.length)
		_, failed = s.Disk.ReadAt(r.data, int64(r.offset))
	}
	if failed != nil {
		r.err = errIO
		failed = &DiskError{failed}
	}
	b = binary.BigEndian.AppendUint32(b, r.err)
	b = binary.BigEndian.AppendUint64(b, r.handle)
	if r.command == cmdRead && r.err == 0 {
		b = append(b, r.data...)
	}
	if changes {
		s.settled.Add(1) // before the client can know, and ask for a flush
	}
	_, err := w.Write(b)
	return errors.Join(failed, err)
}
