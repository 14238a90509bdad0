package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/problem"
)

// Sizes of a segment, bytes. A quarter of the smallest one must hold more than
// a page; offsets in a segment fit 32 bits.
const (
	minSegment = 64 << 10
	maxSegment = 1 << 30
)

// Identity names a volume to the log: 16 random bytes.
type Identity [16]byte

// Segment is one file of the log. What is written in it never changes while
// anybody holds it, but for records being appended by its Log.
type Segment struct {
	pool   *Pool
	file   vfs.File
	fd     int // -1 where the file system has none
	number uint32
	size   uint32

	// Set when the segment is taken for use, constant until it is recycled.
	kind        byte
	incarnation uint64
	writer      Identity
	seed        uint32

	holders atomic.Int32
	logHeld atomic.Bool // one of the holds is that of the Log which writes it
	// begun is set with the first record (whose number is first), end with the last.
	begun atomic.Bool
	first atomic.Uint64
	// end is the last sequence number in a log segment that is full, 0 before.
	end  atomic.Uint64
	full fullSegment // between retire and finish, which follow each other
	// unchecked is set for a segment found at start: its records are verified
	// before the first read of each, until the whole segment was.
	unchecked atomic.Pointer[unchecked]
}

// Ref is how metadata names a segment that a volume needs.
type Ref struct {
	Number      uint32 `json:"n"`
	Incarnation uint64 `json:"inc"`
	// Limit is the last sequence number that belongs to the volume, 0 if all do.
	Limit uint64 `json:"limit,omitempty"`
	// First is the number of its first record, 0 if it had none when this was saved.
	First uint64 `json:"first,omitempty"`
}

// Ref names the segment, all of it.
func (s *Segment) Ref() Ref { return Ref{Number: s.number, Incarnation: s.incarnation} }

// Number is the segment's number, as in its file name.
func (s *Segment) Number() uint32 { return s.number }

// Size is the length of the segment's file in bytes.
func (s *Segment) Size() uint32 { return s.size }

// Writer is the volume that wrote the segment.
func (s *Segment) Writer() Identity { return s.writer }

// Compacted tells whether the segment was made by a Compactor.
func (s *Segment) Compacted() bool { return s.kind == kindCompacted }

// End is the last sequence number of a log segment to which nothing will be
// appended any more, 0 while something may be.
func (s *Segment) End() uint64 { return s.end.Load() }

// Begun tells whether a log segment holds a record.
func (s *Segment) Begun() bool { return s.begun.Load() }

// First is the number of the first record of a log segment that has begun.
func (s *Segment) First() uint64 { return s.first.Load() }

// Holders is how many holds there are, but for that of the log which is not done
// with the segment yet.
func (s *Segment) Holders() int {
	n := int(s.holders.Load())
	if s.logHeld.Load() {
		n--
	}
	return n
}

// releaseLog gives up the log's own hold.
func (s *Segment) releaseLog() {
	s.logHeld.Store(false)
	s.Release()
}

// Hold keeps the segment from being recycled until Release.
func (s *Segment) Hold() { s.holders.Add(1) }

// Release gives up one hold; the last one recycles the segment. No read of the
// segment may be under way on behalf of this holder.
func (s *Segment) Release() {
	if s.holders.Add(-1) == 0 {
		s.pool.recycle(s)
	}
}

// place is where the payload of a record at pos lies.
func (s *Segment) place(pos uint32) extent.Place {
	return extent.Place(uint64(s.number)<<32 | uint64(pos) + HeaderSize)
}

// PlaceOf is where the record's bytes lie; extent.Zero for a zero record.
func (s *Segment) PlaceOf(r *Record) extent.Place {
	if r.Zero {
		return extent.Zero
	}
	return s.place(r.Pos)
}

// NumberOf is the number of the segment in which a place lies.
func NumberOf(p extent.Place) uint32 { return uint32(p >> 32) }

// capacity is where records, index and trailer of the given sizes end.
func capacity(end, index uint32) uint64 {
	return uint64(pageUp(end)) + uint64(pageUp(index)) + pageSize
}

func pageUp(n uint32) uint32 { return (n + pageSize - 1) &^ (pageSize - 1) }

// readAt fills p from the segment's file.
func (s *Segment) readAt(p []byte, pos uint32) error {
	n, err := s.file.ReadAt(p, int64(pos))
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %s at %d: %w", s.name(), pos, err)
}

func (s *Segment) name() string { return s.pool.path(s.number) }

// index is what is known of a segment's records.
type index struct {
	recs    []Record
	end     uint32 // where they end in the file
	trailer bool   // from the index that was written when the segment was full
}

// Index returns the segment's records in the order in which they lie, as far
// as they are whole.
func (s *Segment) Index() ([]Record, error) {
	x, err := s.index()
	return x.recs, err
}

func (s *Segment) index() (index, error) {
	page := make([]byte, pageSize)
	if err := s.readAt(page, s.size-pageSize); err != nil {
		return index{}, err
	}
	if t, ok := decodeTrailer(page, s.incarnation, s.size); ok {
		if recs, ok := s.readIndex(&t); ok {
			return index{recs, t.end, true}, nil
		}
	}
	recs, end, err := s.scan(pageSize)
	return index{recs: recs, end: end}, err
}

// readIndex decodes the index that the trailer describes.
func (s *Segment) readIndex(t *trailer) ([]Record, bool) {
	b := make([]byte, t.indexLen)
	if s.readAt(b, t.indexPos) != nil || crc32.Checksum(b, castagnoli) != t.indexCRC {
		return nil, false
	}
	recs := make([]Record, 0, t.records)
	pos := uint32(pageSize)
	for len(b) >= HeaderSize {
		r, ok := parseHeader(b, MaxPayload)
		if !ok {
			return nil, false
		}
		b = b[HeaderSize:]
		stored := r.payload()
		if r.Zero {
			if len(b) < zeroPayload {
				return nil, false
			}
			r.Len = binary.LittleEndian.Uint64(b)
			b = b[zeroPayload:]
		}
		r.Pos = pos
		if uint64(pos)+uint64(size(stored)) > uint64(t.end) {
			return nil, false
		}
		pos += size(stored)
		recs = append(recs, r)
	}
	return recs, len(b) == 0 && uint32(len(recs)) == t.records
}

// scan reads records from pos on until one is not whole.
func (s *Segment) scan(pos uint32) ([]Record, uint32, error) {
	var recs []Record
	w := window{seg: s}
	for {
		b, err := w.at(pos, HeaderSize)
		if err != nil {
			return nil, 0, err
		}
		r, ok := parseHeader(b, s.size)
		if !ok || uint64(pos)+uint64(size(r.payload())) > uint64(s.size) {
			return recs, pos, nil
		}
		if b, err = w.at(pos, HeaderSize+r.payload()); err != nil {
			return nil, 0, err
		}
		r, ok = checkRecord(b, s.seed)
		if !ok {
			return recs, pos, nil
		}
		if s.kind == kindLog && len(recs) > 0 && r.Seq != recs[len(recs)-1].Seq+1 {
			return recs, pos, nil
		}
		r.Pos = pos
		recs = append(recs, r)
		pos += size(r.payload())
	}
}

// beyond looks for a whole record anywhere behind pos, with a sequence number
// greater than after, and returns the greatest durable mark among those found.
func (s *Segment) beyond(pos uint32, after uint64) (mark uint64, err error) {
	w := window{seg: s}
	for ; uint64(pos)+HeaderSize+4 <= uint64(s.size); pos += 4 {
		b, err := w.at(pos, HeaderSize)
		if err != nil {
			return 0, err
		}
		// A cheap sieve first: the numbers near the one that is missing.
		if seq := binary.LittleEndian.Uint64(b[16:]); seq <= after || seq-after > 1<<28 {
			continue
		}
		r, ok := parseHeader(b, s.size)
		if !ok || uint64(pos)+uint64(size(r.payload())) > uint64(s.size) || r.Durable <= mark {
			continue
		}
		if b, err = w.at(pos, HeaderSize+r.payload()); err != nil {
			return 0, err
		}
		if r, ok := checkRecord(b, s.seed); ok {
			mark = max(mark, r.Durable)
		}
	}
	return mark, nil
}

// window reads a segment forwards in large pieces.
type window struct {
	seg  *Segment
	buf  []byte
	from uint32
}

const windowSize = 1 << 20

// at returns n bytes at pos, or fewer at the end of the segment padded with
// zeros; they are valid until the next call.
func (w *window) at(pos, n uint32) ([]byte, error) {
	if pos >= w.from && uint64(pos)+uint64(n) <= uint64(w.from)+uint64(len(w.buf)) {
		return w.buf[pos-w.from:][:n], nil
	}
	want := max(n, windowSize)
	if uint64(cap(w.buf)) < uint64(want) {
		w.buf = make([]byte, want)
	}
	w.buf = w.buf[:want]
	got := uint32(min(uint64(want), uint64(w.seg.size-min(pos, w.seg.size))))
	if err := w.seg.readAt(w.buf[:got], pos); err != nil {
		w.buf = w.buf[:0]
		return nil, err
	}
	clear(w.buf[got:])
	w.from = pos
	return w.buf[:n], nil
}

// unchecked remembers which records of a segment found at start were verified.
type unchecked struct {
	mu   sync.Mutex
	recs []Record
	good []bool
}

// check verifies every record that [pos, pos+n) of the file touches.
func (s *Segment) check(pos, n uint32) error {
	u := s.unchecked.Load()
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	i := sort.Search(len(u.recs), func(i int) bool { return u.recs[i].Pos > pos }) - 1
	for i = max(i, 0); i < len(u.recs) && u.recs[i].Pos < pos+n; i++ {
		if u.good[i] {
			continue
		}
		r := &u.recs[i]
		b := make([]byte, HeaderSize+r.payload())
		if err := s.readAt(b, r.Pos); err != nil {
			return err
		}
		if got, ok := checkRecord(b, s.seed); !ok || got.Seq != r.Seq || got.Off != r.Off {
			return s.damaged(r)
		}
		u.good[i] = true
	}
	return nil
}

func (s *Segment) damaged(r *Record) error {
	return problem.New(problem.Corrupt, "%s: the record at byte %d (%d bytes written at offset %d of the volume) does not match its checksum", s.name(), r.Pos, r.Len, r.Off)
}

// CheckAll verifies every record of a segment found at start; afterwards reads
// of it cost what reads of fresh segments do.
func (s *Segment) CheckAll() error {
	u := s.unchecked.Load()
	if u == nil {
		return nil
	}
	for i := range u.recs {
		if err := s.check(u.recs[i].Pos, 1); err != nil {
			return err
		}
	}
	s.unchecked.Store(nil)
	return nil
}

// Verify reads every record and reports the first one that does not match its
// checksum. In a segment that is being written it looks at what was there at the
// call.
func (s *Segment) Verify() error {
	recs, err := s.Index()
	if err != nil {
		return err
	}
	var buf []byte
	for i := range recs {
		body, err := s.ReadRecord(&recs[i], buf)
		if err != nil {
			return err
		}
		buf = body[:0]
	}
	return nil
}
