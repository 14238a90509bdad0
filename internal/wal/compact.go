package wal

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/wal/internal/window"
)

// Compactor copies the live parts of one writer's old segments into new ones. Each copied
// record keeps its sequence number.
type Compactor struct {
	pool   *Pool
	writer Identity
	live   int64 // bytes that are still to come, about
	done   []*Segment
	seg    *Segment
	recs   []Record
	buf    []byte // not written yet; ends at pos
	pos    uint32
	index  uint32
}

// NewCompactor returns a compactor for segments of this writer with about live bytes to
// copy.
func (p *Pool) NewCompactor(writer Identity, live int64) *Compactor {
	return &Compactor{pool: p, writer: writer, live: live}
}

// Add copies a live range. body is its content (empty for a zero record); r.Off and r.Len
// are the range. Add returns the new place.
func (c *Compactor) Add(r Record, body []byte) (extent.Place, error) {
	if r.Zero {
		body = binary.LittleEndian.AppendUint64(nil, r.Len)
	}
	stored := uint32(len(body))
	if !r.Zero {
		stored += c.pool.iv()
	}
	if c.seg != nil && capacity(c.pos+size(stored), c.index+c.pool.longestEntry()) > uint64(c.seg.size) {
		if err := c.end(); err != nil {
			return 0, err
		}
	}
	if c.seg == nil {
		// An eighth for headers and index, which are 56 bytes for each piece.
		need := max(uint64(max(c.live, 0))*9/8, capacity(pageSize+size(stored), c.pool.longestEntry()))
		seg, err := c.pool.take(kindCompacted, c.writer, c.pool.sizeFor(need))
		if err != nil {
			return 0, err
		}
		c.seg, c.pos, c.index, c.recs = seg, pageSize, 0, nil
	}
	r.Pos, r.More, r.Cont, r.sealed = c.pos, false, false, c.seg.cipher != nil && !r.Zero
	if fault.Is("cleaning-forgets-order") {
		r.Seq = 1
	}
	c.recs = append(c.recs, r)
	if r.Zero {
		n := len(c.buf)
		c.buf = append(c.buf, make([]byte, HeaderSize)...)
		c.buf = append(c.buf, body...)
		putHeader(c.buf[n:], stored, flagZero, r.Off, r.Seq, r.Seq)
		sign(c.buf[n:], c.seg.seed)
	} else {
		c.buf = c.seg.appendData(c.buf, c.pos, &r, r.Seq, body)
	}
	for len(c.buf)&3 != 0 {
		c.buf = append(c.buf, 0)
	}
	c.pos += size(stored)
	c.index += c.pool.longestEntry()
	c.live -= int64(len(body))
	c.pool.Stats.Cleaned.Add(uint64(HeaderSize + len(body)))
	if len(c.buf) >= window.Size {
		if err := c.drain(); err != nil {
			return 0, err
		}
	}
	return c.seg.PlaceOf(&r), nil
}

// drain writes the buffer.
func (c *Compactor) drain() error {
	if _, err := c.seg.file.WriteAt(c.buf, int64(c.pos)-int64(len(c.buf))); err != nil {
		return c.pool.diskError("write "+c.seg.name(), err)
	}
	c.buf = c.buf[:0]
	c.seg.keepSums()
	return nil
}

// end finishes the current segment: records, index, trailer, sync.
func (c *Compactor) end() error {
	if err := c.drain(); err != nil {
		return err
	}
	if err := c.seg.writeIndex(encodeIndex(c.recs, c.seg.vectors()), c.pos); err != nil {
		return err
	}
	if fault.Is("cleaning-without-sync") {
		c.seg.end.Store(1)
	} else if err := c.seg.sync(); err != nil {
		return err
	}
	var last uint64
	for i := range c.recs {
		last = max(last, c.recs[i].Seq)
	}
	c.seg.end.Store(last)
	c.seg.trimSums()
	c.done = append(c.done, c.seg)
	c.seg = nil
	return nil
}

// Finish makes everything that was added durable. It returns the segments, each held once
// for the caller.
func (c *Compactor) Finish() ([]*Segment, error) {
	if c.seg != nil {
		if err := c.end(); err != nil {
			return nil, err
		}
	}
	return c.done, nil
}

// Abort discards everything that was written.
func (c *Compactor) Abort() {
	if c.seg != nil {
		c.seg.Release()
	}
	for _, s := range c.done {
		s.Release()
	}
	c.seg, c.done = nil, nil
}

// ReadRecord returns the bytes of a whole record and verifies it. The copy gets a
// checksum of its own, which must not hide damage.
func (s *Segment) ReadRecord(r *Record, buf []byte) ([]byte, error) {
	n := HeaderSize + int(r.payload())
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if err := s.readAt(buf, r.Pos); err != nil {
		return nil, err
	}
	if crc32.Update(s.seed, castagnoli, buf[4:]) != binary.LittleEndian.Uint32(buf) {
		s.bad.Store(true)
		return nil, s.damaged(r)
	}
	if r.sealed {
		body := buf[HeaderSize+ivSize:]
		s.cipher.XOR(body, body, seal.IV(buf[HeaderSize:]), 0)
		return body, nil
	}
	return buf[HeaderSize:], nil
}
