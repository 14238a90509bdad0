// Package nbdtest has what tests of an NBD server or client need: a device in
// memory that can be slow, cold or broken on demand, and an exporter of such.
package nbdtest

import (
	"sync"
	"sync/atomic"

	"github.com/paraglide/glide/nbd"
)

const (
	chunkSize = 64 << 10 // what is allocated together, in bytes
	pageSize  = 4 << 10  // what a hole is made of, in bytes
)

// The flags of base:allocation.
const (
	Hole = 1
	Zero = 2
)

// Memory is a sparse device in memory. Pages that were never written, or were
// punched, are holes. In any context but base:allocation a page has flag 1 if it
// is not a hole.
type Memory struct {
	// Cold makes TryReadAt refuse.
	Cold atomic.Bool
	// Hook, if set, is called before each operation with its range. It may
	// block; an error that it returns is the operation's. Set it before use.
	Hook func(op nbd.Op, off, length uint64) error

	// Batches counts the calls of WriteFrames, Flushes those of Flush,
	// Prefetched the bytes of Prefetch, and Served those that were read.
	Batches, Flushes, Prefetched, Served atomic.Int64

	size atomic.Uint64

	mu     sync.RWMutex
	chunks map[uint64]*chunk
}

type chunk struct {
	present uint16 // a bit for each page
	data    [chunkSize]byte
}

// NewMemory returns a device without data.
func NewMemory(size uint64) *Memory {
	m := &Memory{chunks: make(map[uint64]*chunk)}
	m.size.Store(size)
	return m
}

// Size returns the size of the device.
func (m *Memory) Size() uint64 { return m.size.Load() }

// Resize changes the size of the device.
func (m *Memory) Resize(size uint64) { m.size.Store(size) }

func (m *Memory) hook(op nbd.Op, off, length uint64) error {
	if m.Hook == nil {
		return nil
	}
	return m.Hook(op, off, length)
}

// ReadAt implements nbd.Device.
func (m *Memory) ReadAt(p []byte, off uint64) error {
	if err := m.hook(nbd.OpRead, off, uint64(len(p))); err != nil {
		return err
	}
	m.copyOut(p, off)
	return nil
}

// TryReadAt implements nbd.Device.
func (m *Memory) TryReadAt(p []byte, off uint64) bool {
	if m.Cold.Load() {
		return false
	}
	m.copyOut(p, off)
	return true
}

func (m *Memory) copyOut(p []byte, off uint64) {
	m.Served.Add(int64(len(p)))
	m.mu.RLock()
	defer m.mu.RUnlock()
	for len(p) > 0 {
		at := off % chunkSize
		n := min(chunkSize-at, uint64(len(p)))
		if c := m.chunks[off/chunkSize]; c != nil {
			copy(p[:n], c.data[at:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

// WriteFrames implements nbd.Device. It destroys all that it may.
func (m *Memory) WriteFrames(offs []uint64, frames [][]byte) error {
	m.Batches.Add(1)
	for i, frame := range frames {
		for j := range nbd.Headroom {
			frame[j] = 0xee
		}
		p := frame[nbd.Headroom:]
		if err := m.hook(nbd.OpWrite, offs[i], uint64(len(p))); err != nil {
			return err
		}
		m.copyIn(p, offs[i])
	}
	return nil
}

func (m *Memory) copyIn(p []byte, off uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(p) > 0 {
		at := off % chunkSize
		n := min(chunkSize-at, uint64(len(p)))
		c := m.chunks[off/chunkSize]
		if c == nil {
			c = new(chunk)
			m.chunks[off/chunkSize] = c
		}
		copy(c.data[at:], p[:n])
		c.present |= pages(at, at+n-1)
		p, off = p[n:], off+n
	}
}

// pages returns the bits of the pages from that of byte first to that of byte last.
func pages(first, last uint64) uint16 {
	return uint16(1<<(last/pageSize+1) - 1<<(first/pageSize))
}

// Zero implements nbd.Device.
func (m *Memory) Zero(off, length uint64, punch bool) error {
	op := nbd.OpZero
	if punch {
		op = nbd.OpTrim
	}
	if err := m.hook(op, off, length); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for length > 0 {
		at := off % chunkSize
		n := min(chunkSize-at, length)
		c := m.chunks[off/chunkSize]
		switch {
		case punch && n == chunkSize:
			delete(m.chunks, off/chunkSize)
		case punch && c != nil:
			clear(c.data[at : at+n])
			first, end := (at+pageSize-1)/pageSize, (at+n)/pageSize
			if first < end {
				c.present &^= pages(first*pageSize, end*pageSize-1)
			}
		case !punch:
			if c == nil {
				c = new(chunk)
				m.chunks[off/chunkSize] = c
			}
			clear(c.data[at : at+n])
			c.present |= pages(at, at+n-1)
		}
		off, length = off+n, length-n
	}
	return nil
}

// Flush implements nbd.Device.
func (m *Memory) Flush() error {
	m.Flushes.Add(1)
	return m.hook(nbd.OpFlush, 0, 0)
}

// Prefetch implements nbd.Device.
func (m *Memory) Prefetch(_, length uint64) { m.Prefetched.Add(int64(length)) }

// Extents implements nbd.Device.
func (m *Memory) Extents(dst []nbd.Extent, context string, off, length uint64) ([]nbd.Extent, error) {
	if err := m.hook(nbd.OpStatus, off, length); err != nil {
		return nil, err
	}
	present, absent := uint32(1), uint32(0)
	if context == "base:allocation" {
		present, absent = 0, Hole|Zero
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	first := len(dst)
	for length > 0 {
		c := m.chunks[off/chunkSize]
		unit := uint64(pageSize)
		if c == nil {
			unit = chunkSize
		}
		n := min(unit-off%unit, length)
		flags := absent
		if c != nil && c.present&pages(off%chunkSize, off%chunkSize) != 0 {
			flags = present
		}
		if last := len(dst) - 1; last >= first && dst[last].Flags == flags {
			dst[last].Length += n
		} else {
			dst = append(dst, nbd.Extent{Length: n, Flags: flags})
		}
		off, length = off+n, length-n
	}
	return dst, nil
}
