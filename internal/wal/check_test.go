package wal

import (
	"bytes"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/wal/internal/segfile"
)

func atOnce(int64) error { return nil }

// checkEach damages every byte of a segment in turn, and calls fn with what the check
// finds and the position.
func checkEach(t *testing.T, fs vfs.FS, s *Segment, through uint64, dense [][2]uint32, fn func(pos uint32, c Checked)) {
	t.Helper()
	if c, err := s.Check(through, atOnce); err != nil || len(c.Damage) > 0 || c.Mended > 0 || c.Records == 0 {
		t.Fatalf("an undamaged segment: %+v, %v", c, err)
	}
	step := uint32(1)
	for pos := uint32(0); pos < s.size; pos += step {
		rot(t, fs, s.name(), int64(pos))
		c, err := s.Check(through, atOnce)
		if err != nil {
			t.Fatalf("byte %d: %v", pos, err)
		}
		fn(pos, c)
		if c.Mended == 0 {
			rot(t, fs, s.name(), int64(pos))
		}
		if c, err := s.Check(through, atOnce); err != nil || len(c.Damage) > 0 || c.Mended > 0 {
			t.Fatalf("byte %d was put back: %+v, %v", pos, c, err)
		}
		step = 1
		if !slices.ContainsFunc(dense, func(r [2]uint32) bool { return pos >= r[0] && pos < r[1] }) { // long records, and unused bytes
			step = 331
		}
	}
}

// TestEveryByteOfASegment: each byte that counts is checked; a damaged header and index
// are written again.
func TestEveryByteOfASegment(t *testing.T) {
	fs := vfs.NewMem()
	p := testPool(t, fs)
	l := newTestLog(p, 0)
	l.write(t, 0, bytes.Repeat([]byte{1}, 300))
	if err := l.AppendZero(4096, 1<<30); err != nil {
		t.Fatal(err)
	}
	w := l.write(t, 8192, bytes.Repeat([]byte{2}, 300))[0]
	l.write(t, 20000, bytes.Repeat([]byte{3}, 9000))
	open := p.Segment(w.Place)
	end := open.sums.All()[len(open.sums.All())-1].end()
	open.Hold()
	defer open.Release()
	records := func(pos uint32, c Checked) {
		if pos < segfile.HeaderUsed && (c.Mended != 1 || len(c.Damage) > 0) {
			t.Fatalf("byte %d of the header: %+v", pos, c)
		}
		if pos >= pageSize && pos < end {
			found := false
			for _, d := range c.Damage {
				found = found || d.From <= pos && pos < d.To
			}
			if !found {
				t.Fatalf("byte %d: %+v", pos, c)
			}
		}
	}
	t.Run("open", func(t *testing.T) {
		checkEach(t, fs, open, 0, [][2]uint32{{0, segfile.HeaderUsed + 2}, {pageSize, pageSize + 800}}, records)
	})
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	for p.Segment(w.Place).End() == 0 {
		l.write(t, 0, bytes.Repeat([]byte{4}, 9000))
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	full := open
	page := make([]byte, pageSize)
	_ = full.readAt(page, full.size-pageSize)
	tr, ok := segfile.DecodeTrailer(page, full.incarnation, full.size, HeaderSize)
	if !ok {
		t.Fatal("the segment has no index")
	}
	end = tr.End
	t.Run("full", func(t *testing.T) {
		checkEach(t, fs, full, full.End(), [][2]uint32{{pageSize, pageSize + 40}, {tr.IndexPos, tr.IndexPos + tr.IndexLen}, {full.size - pageSize, full.size - pageSize + 60}}, func(pos uint32, c Checked) {
			records(pos, c)
			index := pos >= tr.IndexPos && pos < tr.IndexPos+tr.IndexLen || pos >= full.size-pageSize && pos < full.size-pageSize+segfile.TrailerUsed
			if index && (c.Mended != 1 || len(c.Damage) > 0) {
				t.Fatalf("byte %d of the index: %+v", pos, c)
			}
		})
	})
}
