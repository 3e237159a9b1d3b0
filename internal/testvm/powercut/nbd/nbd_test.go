package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// A memory is a disk that remembers what was done to it.
type memory struct {
	mu   sync.Mutex
	data []byte
	ops  []Op
	hold chan struct{} // if not nil, each operation waits for it
}

func (m *memory) Size() int64 { return int64(len(m.data)) }

func (m *memory) ReadAt(b []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(b, m.data[off:]), nil
}

func (m *memory) Do(op Op, data []byte) error {
	if m.hold != nil {
		<-m.hold
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops = append(m.ops, op)
	switch op.Kind {
	case Write:
		copy(m.data[op.Offset:], data)
	case Zero, Trim:
		clear(m.data[op.Offset:][:op.Length])
	}
	return nil
}

func (m *memory) done() []Op {
	m.mu.Lock()
	defer m.mu.Unlock()
	ops := slices.Clone(m.ops)
	for i := range ops {
		ops[i].Settled = 0 // how far the client waits for answers is its own affair
	}
	return ops
}

// serve serves a disk of so many bytes on a Unix socket and returns its address for QEMU.
func serve(t *testing.T, size int) (*memory, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{data: make([]byte, size)}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- (&Server{Disk: m}).Run(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return m, "nbd+unix:///?socket=" + filepath.Join(dir, "sock")
}

// tool runs one of qemu-utils.
func tool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s (package qemu-utils; scripts/setup installs it): %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// The real peer: the client that QEMU itself uses.
func TestQEMUWritesAndReads(t *testing.T) {
	const size = 8 << 20
	m, url := serve(t, size)
	if _, err := tool(t, "qemu-io", "-f", "raw", "-t", "none", "-c", "write -P 0xa5 4k 2M", "-c", "flush",
		"-c", "write -f -P 0x5a 512 1k", "-c", "read -P 0xa5 4k 2M", "-c", "read -P 0x5a 512 1k", "-c", "flush", url); err != nil {
		t.Fatal(err)
	}
	want := []Op{
		{Kind: Write, Offset: 4 << 10, Length: MaxRequest},
		{Kind: Write, Offset: 4<<10 + MaxRequest, Length: MaxRequest},
		{Kind: Flush},
		{Kind: Write, FUA: true, Offset: 512, Length: 1 << 10},
		{Kind: Flush},
	}
	got := m.done()
	slices.SortStableFunc(got[:2], func(a, b Op) int { return int(a.Offset - b.Offset) }) // QEMU asks for both at once
	if got = got[:min(len(got), len(want))]; !slices.Equal(got, want) {                   // closing, it flushes again
		t.Errorf("done was %+v\nwant     %+v", got, want)
	}
	if n := bytes.Count(m.data, []byte{0xa5}); n != 2<<20 || !bytes.Equal(m.data[512:1536], bytes.Repeat([]byte{0x5a}, 1<<10)) {
		t.Errorf("%d bytes of the first pattern are on the disk", n)
	}
}

func TestQEMUZeroesAndTrims(t *testing.T) {
	m, url := serve(t, 1<<20)
	if _, err := tool(t, "qemu-io", "-f", "raw", "-t", "none", "-d", "unmap", "-c", "write -P 1 0 64k", "-c", "write -z -u 0 4k",
		"-c", "discard 8k 4k", "-c", "read -P 0 0 4k", "-c", "read -P 0 8k 4k", "-c", "read -P 1 4k 4k", url); err != nil {
		t.Fatal(err)
	}
	got := m.done()
	if want := []Op{{Kind: Write, Length: 64 << 10}, {Kind: Zero, Length: 4 << 10}, {Kind: Trim, Offset: 8 << 10, Length: 4 << 10}}; !slices.Equal(got[:min(3, len(got))], want) {
		t.Errorf("done was %+v", got)
	}
}

func TestQEMUCopiesADisk(t *testing.T) {
	const size = 5<<20 + 512
	m, url := serve(t, size)
	src := filepath.Join(t.TempDir(), "disk")
	b := bytes.Repeat([]byte("gateway "), size/8)
	if err := os.WriteFile(src, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", src, url); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.data, b) {
		t.Error("the disk has other bytes than the file")
	}
	if _, err := tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", src, url); err != nil {
		t.Error(err)
	}
}

func TestQEMUListsTheExport(t *testing.T) {
	_, url := serve(t, 1<<20)
	out, err := tool(t, "qemu-nbd", "--list", "-k", strings.TrimPrefix(url, "nbd+unix:///?socket="))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"exports available: 1", "size:  1048576", "flush", "fua", "trim", "zeroes", "min block: 512", "max block: 1048576"} {
		if !strings.Contains(out, want) {
			t.Errorf("qemu-nbd does not list %q:\n%s", want, out)
		}
	}
}

// bytes of the client's side.
func hello() []byte { return binary.BigEndian.AppendUint32(nil, fixedNewstyle|noZeroes) }

func option(b []byte, code uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint32(b, code)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
}

func ask(b []byte, command, flags uint16, offset uint64, length uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, 7)
	b = binary.BigEndian.AppendUint64(b, offset)
	return append(binary.BigEndian.AppendUint32(b, length), data...)
}

// A peer is a client that says what it is given, and keeps what it hears.
type peer struct {
	io.Reader
	heard bytes.Buffer
}

func (p *peer) Write(b []byte) (int, error) { return p.heard.Write(b) }
func (p *peer) Close() error                { return nil }

// play returns the errors of the replies to what is requested after an EXPORT_NAME.
func play(t *testing.T, d Disk, requests []byte) []uint32 {
	t.Helper()
	p := &peer{Reader: bytes.NewReader(append(option(hello(), optExportName, nil), requests...))}
	if err := (&Server{Disk: d}).Serve(p); err != nil {
		t.Fatal(err)
	}
	b := p.heard.Bytes()[18+10:]
	var errs []uint32
	for len(b) >= 16 {
		errs = append(errs, binary.BigEndian.Uint32(b[4:]))
		b = b[16:]
	}
	return errs
}

func TestARequestThatCannotBeDoneIsRefused(t *testing.T) {
	const size = 1 << 20
	for name, c := range map[string]struct {
		command, flags uint16
		offset         uint64
		length         uint32
		want           uint32
	}{
		"read behind the end":    {cmdRead, 0, size, 512, errInvalid},
		"write behind the end":   {cmdWrite, 0, size - 512, 1024, errNoSpace},
		"zeros behind the end":   {cmdWriteZeroes, 0, size, 512, errNoSpace},
		"the sum overflows":      {cmdTrim, 0, 1<<64 - 512, 1024, errInvalid},
		"half a sector":          {cmdWrite, 0, 256, 512, errInvalid},
		"half a sector's length": {cmdRead, 0, 0, 100, errInvalid},
		"nothing":                {cmdRead, 0, 0, 0, errInvalid},
		"too much to read":       {cmdRead, 0, 0, MaxRequest + 512, errTooLong},
		"too much to write":      {cmdWrite, 0, 0, MaxRequest + 512, errTooLong},
		"a flag nobody offered":  {cmdRead, 1 << 2, 0, 512, errInvalid},
		"a command nobody knows": {99, 0, 0, 512, errInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{data: make([]byte, size)}
			var data []byte
			if c.command == cmdWrite {
				data = make([]byte, c.length)
			}
			b := ask(nil, c.command, c.flags, c.offset, c.length, data)
			b = ask(b, cmdFlush, 0, 0, 0, nil) // what follows is understood
			if got := play(t, m, ask(b, cmdDisconnect, 0, 0, 0, nil)); !slices.Equal(got, []uint32{c.want, 0}) {
				t.Errorf("errors %v, want %d and 0", got, c.want)
			}
			if ops := m.done(); !slices.Equal(ops, []Op{{Kind: Flush}}) {
				t.Errorf("done was %+v", ops)
			}
		})
	}
}

// A flush answers for what was answered before it was asked for, and for nothing beside it.
func TestAFlushAnswersForWhatWasAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{data: make([]byte, 4096), hold: make(chan struct{})}
		client, server := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- (&Server{Disk: m}).Serve(server) }()
		go io.Copy(io.Discard, client)
		send := func(b []byte) {
			if _, err := client.Write(b); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		send(option(hello(), optExportName, nil))
		send(ask(nil, cmdWrite, 0, 0, 512, make([]byte, 512)))
		m.hold <- struct{}{} // done, and answered
		synctest.Wait()
		send(ask(nil, cmdWrite, 0, 512, 512, make([]byte, 512)))
		send(ask(nil, cmdFlush, 0, 0, 0, nil)) // while the second is under way
		close(m.hold)
		synctest.Wait()
		send(ask(nil, cmdFlush, 0, 0, 0, nil))
		send(ask(nil, cmdDisconnect, 0, 0, 0, nil))
		if err := <-ended; err != nil {
			t.Error(err)
		}
		client.Close()
		var settled []int64
		for _, op := range m.ops {
			settled = append(settled, op.Settled)
		}
		if want := []int64{0, 1, 1, 3}; !slices.Equal(settled, want) {
			t.Errorf("settled %v, want %v", settled, want)
		}
	})
}

// FuzzServe: whatever a client says, only whole sectors of the disk are changed.
func FuzzServe(f *testing.F) {
	const size = 64 << 10
	name := []byte{0, 0, 0, 1, 'x', 0, 1, 0, 3}
	seed := option(option(hello(), optList, nil), optGo, name)
	seed = ask(ask(seed, cmdWrite, flagFUA, 512, 512, make([]byte, 512)), cmdRead, 0, 0, 1024, nil)
	f.Add(ask(ask(seed, cmdFlush, 0, 0, 0, nil), cmdDisconnect, 0, 0, 0, nil))
	f.Add(ask(option(hello(), optExportName, nil), cmdTrim, 0, size-512, 512, nil))
	f.Add(ask(option(hello(), optExportName, nil), cmdWriteZeroes, flagNoHole, 0, size, nil))
	f.Add(option(option(hello(), optInfo, name[:5]), optAbort, nil))
	f.Add(option(hello(), 8, make([]byte, maxOption+1)))
	f.Fuzz(func(t *testing.T, said []byte) {
		m := &memory{data: make([]byte, size)}
		p := &peer{Reader: bytes.NewReader(said)}
		(&Server{Disk: m}).Serve(p)
		for _, op := range m.ops {
			if op.Offset < 0 || op.Length < 0 || op.Offset%sector != 0 || op.Length%sector != 0 || op.Offset+op.Length > size {
				t.Fatalf("done was %+v", op)
			}
			if (op.Kind == Flush) != (op.Length == 0) || op.Kind < Write || op.Kind > Flush {
				t.Fatalf("done was %+v", op)
			}
		}
	})
}
