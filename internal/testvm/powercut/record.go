// Package powercut records every write and flush of a machine to its disk, and makes the disk as a power
// cut at any of them could leave it: what was flushed, and of the rest whatever a disk's cache may have
// written, in any order, down to single sectors. Its tests cut an update of the built image in that way.
package powercut

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/testvm/powercut/nbd"
)

// Sector is what a disk writes whole or not at all.
const Sector = 512

// An entry is an operation as it stands in the log, before a write's data.
type entry struct {
	Kind    nbd.Kind
	FUA     bool
	_       [6]byte
	Offset  int64
	Length  int64
	Settled int64
}

var entrySize = binary.Size(entry{})

// A Recorder serves a disk to QEMU and logs what is done to it. Memory holds one request at a time,
// however long it records.
type Recorder struct {
	Base string // the disk as it was in the beginning

	dir  string
	disk *os.File
	size int64
	log  *os.File
	stop func()
	err  chan error

	mu   sync.Mutex // guards what follows
	done int        // operations that are in the log
}

// Record begins to serve the disk image at path. The log and the socket are in dir, whose name is short:
// a socket's may have some hundred bytes.
func Record(path, dir string) (r *Recorder, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("record %s: %w", path, err)
		}
	}()
	r = &Recorder{Base: filepath.Join(dir, "base.img"), dir: dir, err: make(chan error, 1)}
	if err := qemu.CopyDisk(r.Base, path, 0); err != nil {
		return nil, err
	}
	if r.disk, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if r.size, err = r.disk.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(err, r.disk.Close())
	}
	if r.log, err = os.Create(r.logPath()); err != nil {
		return nil, errors.Join(err, r.disk.Close())
	}
	l, err := net.Listen("unix", filepath.Join(dir, "disk"))
	if err != nil {
		return nil, errors.Join(err, r.disk.Close(), r.log.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.err <- (&nbd.Server{Disk: r}).Run(ctx, l) }()
	return r, nil
}

func (r *Recorder) logPath() string { return filepath.Join(r.dir, "log") }

// URL is the disk's address for QEMU.
func (r *Recorder) URL() string { return "nbd+unix:///?socket=" + filepath.Join(r.dir, "disk") }

// Size implements nbd.Disk, as do ReadAt and Do.
func (r *Recorder) Size() int64 { return r.size }

// ReadAt reads the disk.
func (r *Recorder) ReadAt(b []byte, off int64) (int, error) { return r.disk.ReadAt(b, off) }

// Do logs an operation and does it. Nothing is synced: it is the machine's power that is cut, not ours.
func (r *Recorder) Do(op nbd.Op, data []byte) error {
	b, err := binary.Append(nil, binary.LittleEndian, entry{Kind: op.Kind, FUA: op.FUA, Offset: op.Offset, Length: op.Length, Settled: op.Settled})
	if err != nil {
		return err
	}
	if _, err := r.log.Write(append(b, data...)); err != nil {
		return err
	}
	if err := apply(r.disk, op, data); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
	return nil
}

// Done is how many operations have been done so far.
func (r *Recorder) Done() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done
}

// Close ends the recording; the machine must be off.
func (r *Recorder) Close() error {
	r.stop()
	return errors.Join(<-r.err, r.disk.Close(), r.log.Close())
}

// apply does an operation.
func apply(disk *os.File, op nbd.Op, data []byte) error {
	switch op.Kind {
	case nbd.Write:
		_, err := disk.WriteAt(data, op.Offset)
		return err
	case nbd.Zero, nbd.Trim: // what was trimmed reads as zeros
		zeros := make([]byte, min(op.Length, 1<<20))
		for n := int64(0); n < op.Length; n += int64(len(zeros)) {
			if _, err := disk.WriteAt(zeros[:min(int64(len(zeros)), op.Length-n)], op.Offset+n); err != nil {
				return err
			}
		}
	}
	return nil
}

// A Recording is what has been recorded so far.
type Recording struct {
	Ops []nbd.Op

	base, log string
	data      []int64 // where in the log each operation's data are
}

// Recording reads the log up to the operation that was done last.
func (r *Recorder) Recording() (*Recording, error) {
	done := r.Done()
	rec, err := openLog(r.logPath(), r.Base, done)
	if err != nil {
		return nil, fmt.Errorf("read recording: %w", err)
	}
	return rec, nil
}

// openLog reads the first n operations of a log.
func openLog(path, base string, n int) (*Recording, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rec := &Recording{base: base, log: path}
	in := bufio.NewReader(f)
	pos := int64(0)
	for range n {
		var e entry
		if err := binary.Read(in, binary.LittleEndian, &e); err != nil {
			return nil, fmt.Errorf("operation %d: %w", len(rec.Ops), err)
		}
		pos += int64(entrySize)
		rec.Ops = append(rec.Ops, nbd.Op{Kind: e.Kind, FUA: e.FUA, Offset: e.Offset, Length: e.Length, Settled: e.Settled})
		rec.data = append(rec.data, pos)
		if e.Kind == nbd.Write {
			if _, err := in.Discard(int(e.Length)); err != nil {
				return nil, fmt.Errorf("operation %d: %w", len(rec.Ops), err)
			}
			pos += e.Length
		}
	}
	return rec, nil
}
