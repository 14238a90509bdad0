package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/paraglide/glide/internal/wal/internal/segfile"
)

// Checked is what Check found in a segment.
type Checked struct {
	Records int
	Bytes   int64
	Damage  []*Damage
	Mended  int // damaged headers and indexes that were written again
}

// Check reads all that a segment in use holds on the disk. through is the number through
// which it has records, 0 if that is not known. pace is told what was read; it may wait,
// and its error ends the check. The caller holds the segment.
func (s *Segment) Check(through uint64, pace func(bytes int64) error) (c Checked, err error) {
	page := make([]byte, pageSize)
	if err := s.readAt(page, 0); err != nil {
		return c, err
	}
	want := s.header()
	if h, err := segfile.DecodeHeader(page); err != nil || h != want {
		if _, err := s.file.WriteAt(want.Encode(), 0); err != nil {
			return c, s.pool.diskError("write the header of "+s.name(), err)
		}
		c.Mended++
	}
	known := uint32(0) // where the records end that this process wrote or found
	if all := s.sums.All(); len(all) > 0 {
		known = all[len(all)-1].end()
	}
	x, err := s.index()
	if err == nil && !x.trailer {
		err = s.checkScanned(&c, x, known, max(through, s.End()), pace)
	}
	if err != nil || !x.trailer {
		return c, err
	}
	w, _ := s.window(), s.strays.Add(1)
	for i := range x.recs {
		r := &x.recs[i]
		n := HeaderSize + r.payload()
		b, err := w.At(r.Pos, n)
		if err = errors.Join(err, pace(int64(n))); err != nil {
			return c, err
		}
		if got, ok := checkRecord(b, s.seed, s.iv()); !ok || got.Seq != r.Seq || got.Off != r.Off || got.Len != r.Len {
			c.add(s.damaged(r), r.Seq)
		}
		c.Records, c.Bytes = c.Records+1, c.Bytes+int64(n)
	}
	return c, nil
}

// checkScanned continues a check of a segment without a valid index, of which x was
// scanned. Its records reach at least to the position known, and to the number through.
func (s *Segment) checkScanned(c *Checked, x index, known uint32, through uint64, pace func(bytes int64) error) (err error) {
	all := x
	for {
		c.Records, c.Bytes = c.Records+len(x.recs), c.Bytes+int64(x.end)
		if err = pace(int64(x.end)); err != nil {
			return err
		}
		last := (&part{index: x}).last()
		if x.end >= known && (s.kind == kindCompacted || last >= through || c.Damage != nil) {
			break
		}
		next := s.recordAfter(x.end)
		if c.add(s.mismatch(x.end, next), 0); next >= known {
			return nil
		}
		if x, err = s.scan(next); err != nil {
			return err
		}
	}
	page := make([]byte, pageSize)
	if err = s.readAt(page, s.size-pageSize); err != nil || s.logHeld.Load() || c.Damage != nil {
		return err
	}
	old := crc32.Checksum(page[:52], castagnoli) == binary.LittleEndian.Uint32(page[52:]) && binary.LittleEndian.Uint64(page[8:]) != s.incarnation
	if old || string(page[:segfile.TrailerUsed]) == string(make([]byte, segfile.TrailerUsed)) {
		return nil // the host stopped before it was written
	} else if s.kind == kindCompacted || len(all.recs) == 0 {
		c.add(s.mismatch(pageSize, s.size), 0) // only the index knows how many records there must be
		return nil
	}
	c.Mended++
	return s.writeIndex(encodeIndex(all.recs, all.ivs), all.end)
}

func (c *Checked) add(err error, seq uint64) {
	if d := (*Damage)(nil); errors.As(err, &d) {
		d.Seq, c.Damage = seq, append(c.Damage, d)
	}
}

// recordAfter returns where the next known record behind pos begins, or else where they end.
func (s *Segment) recordAfter(pos uint32) uint32 {
	end := s.size
	for _, p := range s.sums.All() {
		if p.at > pos && p.first {
			return p.at
		} else if p.end() > pos {
			end = p.end()
		}
	}
	return end
}
