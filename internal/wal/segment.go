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
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/wal/internal/cipher"
	"github.com/paraglide/glide/internal/wal/internal/growing"
	"github.com/paraglide/glide/internal/wal/internal/segfile"
	"github.com/paraglide/glide/internal/wal/internal/window"
)

// Identity identifies a volume to the log: 16 random bytes.
type Identity [16]byte

// Segment is one file of the log. While anything holds it, its content never changes,
// except that its Log appends records.
type Segment struct {
	pool   *Pool
	file   vfs.File
	fd     int // -1 if the file system has none
	number uint32
	size   uint32

	// Set when the segment is taken for use, and constant until it is recycled.
	kind        byte
	incarnation uint64
	writer      Identity
	seed        uint32
	cipher      *cipher.Cipher // nil: the records are plain

	// old says that the file may have plaintext of an earlier use, and that this host seals
	// what it writes. Such a file is not used again.
	old bool

	holders atomic.Int32
	logHeld atomic.Bool // one of the holds is that of the Log that writes the segment
	// begun is set with the first record, whose number is first.
	begun atomic.Bool
	first atomic.Uint64
	// end is the last sequence number of a full log segment, 0 before.
	end  atomic.Uint64
	full fullSegment // set between retire and finish
	bad  atomic.Bool // see Damaged
	// strays and reading show whether the bytes in memory are as written: see memory.go.
	strays   atomic.Uint64
	reading  atomic.Int32
	verified atomic.Uint64 // bytes verified for guests since the whole segment was verified
	// sums are the checksums by which reads of the records are verified.
	sums growing.List[pageSum]
	// unchecked is set for a segment found at the start. Each record is verified before
	// its first read, until the whole segment was verified.
	unchecked atomic.Pointer[unchecked]
}

func (s *Segment) setFile(f vfs.File) {
	s.file = f
	if fd := f.Fd(); fd != vfs.InvalidFd {
		s.fd = int(fd)
	}
}

func (s *Segment) use(h *header, c *cipher.Cipher) {
	s.kind, s.incarnation, s.writer, s.cipher = h.Kind, h.Incarnation, h.Writer, c
	s.begun.Store(false)
	s.end.Store(0)
	s.bad.Store(false)
	s.strays.Store(0)
	s.verified.Store(0)
	s.seed = seedOf(h.Incarnation)
}

// header returns the segment's header.
func (s *Segment) header() header {
	h := header{Kind: s.kind, Incarnation: s.incarnation, Writer: s.writer, Number: s.number, Size: s.size}
	if s.cipher != nil {
		h.Seal = s.cipher.Mark
	}
	return h
}

// Ref names a segment that a volume needs, in metadata.
type Ref struct {
	Number      uint32 `json:"n"`
	Incarnation uint64 `json:"inc"`
	// Limit is the last sequence number that belongs to the volume; 0: all do.
	Limit uint64 `json:"limit,omitempty"`
	// First is the number of the first record; 0: there was none when this was saved.
	First uint64 `json:"first,omitempty"`
	// Sealed says that its records are: a plain one must not take its place.
	Sealed bool `json:"sealed,omitempty"`
}

// Ref names the whole segment.
func (s *Segment) Ref() Ref {
	return Ref{Number: s.number, Incarnation: s.incarnation, Sealed: s.cipher != nil}
}

// Number returns the segment's number, as in its file name.
func (s *Segment) Number() uint32 { return s.number }

// Size returns the length of the segment's file in bytes.
func (s *Segment) Size() uint32 { return s.size }

// Writer returns the volume that wrote the segment.
func (s *Segment) Writer() Identity { return s.writer }

// Compacted reports whether a Compactor made the segment.
func (s *Segment) Compacted() bool { return s.kind == kindCompacted }

// End returns the last sequence number of a log segment that is complete, or 0 while
// records may still be appended.
func (s *Segment) End() uint64 { return s.end.Load() }

// Begun reports whether a log segment holds a record.
func (s *Segment) Begun() bool { return s.begun.Load() }

// First returns the number of the first record of a log segment that has begun.
func (s *Segment) First() uint64 { return s.first.Load() }

// Holders returns the number of holds, without that of a log that still works on the
// segment.
func (s *Segment) Holders() int {
	n := int(s.holders.Load())
	if s.logHeld.Load() {
		n--
	}
	return n
}

// releaseLog releases the log's own hold.
func (s *Segment) releaseLog() {
	s.logHeld.Store(false)
	s.Release()
}

// Hold keeps the segment from being recycled until Release.
func (s *Segment) Hold() { s.holders.Add(1) }

// Release drops one hold. Dropping the last one recycles the segment. No read on behalf
// of this holder may be in progress.
func (s *Segment) Release() {
	if s.holders.Add(-1) == 0 {
		s.pool.recycle(s)
	}
}

// place returns the place of the payload of a record at pos.
func (s *Segment) place(pos uint32) extent.Place {
	return extent.Place(uint64(s.number)<<32 | uint64(pos) + uint64(HeaderSize+s.iv()))
}

// PlaceOf returns the place of the record's bytes, or extent.Zero for a zero record.
func (s *Segment) PlaceOf(r *Record) extent.Place {
	if r.Zero {
		return extent.Zero
	}
	return s.place(r.Pos)
}

// NumberOf returns the number of the segment in which a place lies.
func NumberOf(p extent.Place) uint32 { return uint32(p >> 32) }

// capacity returns the size of a segment with records, index and trailer of these sizes.
func capacity(end, index uint32) uint64 {
	return uint64(pageUp(end)) + uint64(pageUp(index)) + pageSize
}

func pageUp(n uint32) uint32 { return (n + pageSize - 1) &^ (pageSize - 1) }

// readAt fills p from the segment's file, and reads from the disk if needed.
func (s *Segment) readAt(p []byte, pos uint32) error {
	if s.fd >= 0 && len(p) > 0 {
		iov := [1]unix.Iovec{{Base: unsafe.SliceData(p), Len: uint64(len(p))}}
		if ok, _ := s.readMemory(iov[:], pos, uint32(len(p))); ok {
			return nil
		}
	}
	s.strays.Add(1)
	return s.readQuietly(p, pos)
}

// readQuietly is readAt for callers that count strays themselves.
func (s *Segment) readQuietly(p []byte, pos uint32) error {
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

// index is what is known about a segment's records.
type index struct {
	recs    []Record
	ivs     []cipher.Vector // of the sealed ones
	end     uint32          // end of the records in the file
	trailer bool            // true if it comes from the index that was written when the segment became full
}

// Index returns the records of a complete segment in the order of their positions: all of
// them, at least through the given number. If the segment's own index and a record are
// damaged, that is an error, because the records after the damage would look as if they
// did not exist.
func (s *Segment) Index(through uint64) ([]Record, error) {
	x, err := s.index()
	if err != nil || x.trailer {
		return x.recs, err
	}
	if n := len(x.recs); s.kind == kindCompacted || n == 0 || x.recs[n-1].Seq < through {
		s.bad.Store(true)
		return nil, s.damage(x.end, s.size, 0, 0, fmt.Sprintf("neither its index nor all of its records from byte %d on can be read", x.end))
	}
	return x.recs, nil
}

// Damaged reports whether cleaning found that a part of the segment cannot be copied.
// Such a segment stays as it is.
func (s *Segment) Damaged() bool { return s.bad.Load() }

func (s *Segment) index() (index, error) {
	page := make([]byte, pageSize)
	if err := s.readAt(page, s.size-pageSize); err != nil {
		return index{}, err
	}
	if t, ok := segfile.DecodeTrailer(page, s.incarnation, s.size, HeaderSize); ok {
		if x, ok := s.readIndex(&t); ok {
			return x, nil
		}
	}
	return s.scan(pageSize)
}

// readIndex decodes the index to which the trailer points.
func (s *Segment) readIndex(t *segfile.Trailer) (x index, ok bool) {
	b := make([]byte, t.IndexLen)
	if s.readAt(b, t.IndexPos) != nil || crc32.Checksum(b, castagnoli) != t.IndexCRC {
		return x, false
	}
	x = index{recs: make([]Record, 0, t.Records), end: t.End, trailer: true}
	pos := uint32(pageSize)
	for len(b) >= HeaderSize {
		r, ok := parseHeader(b, maxPayload+s.iv(), s.iv())
		if !ok {
			return x, false
		}
		b = b[HeaderSize:]
		stored := r.payload()
		if r.Zero {
			if len(b) < zeroPayload {
				return x, false
			}
			r.Len = binary.LittleEndian.Uint64(b)
			b = b[zeroPayload:]
		} else if r.sealed {
			if len(b) < int(ivSize) {
				return x, false
			}
			x.ivs = append(x.ivs, cipher.Vector{At: pos, IV: seal.IV(b)})
			b = b[ivSize:]
		}
		r.Pos = pos
		if uint64(pos)+uint64(size(stored)) > uint64(t.End) {
			return x, false
		}
		pos += size(stored)
		x.recs = append(x.recs, r)
	}
	return x, len(b) == 0 && uint32(len(x.recs)) == t.Records
}

// scan reads records from pos on until one is not whole.
func (s *Segment) scan(pos uint32) (x index, err error) {
	s.strays.Add(1)
	w := s.window()
	for {
		x.end = pos
		b, err := w.At(pos, HeaderSize)
		if err != nil {
			return index{}, err
		}
		r, ok := parseHeader(b, s.size, s.iv())
		if !ok || uint64(pos)+uint64(size(r.payload())) > uint64(s.size) {
			return x, nil
		}
		if b, err = w.At(pos, HeaderSize+r.payload()); err != nil {
			return index{}, err
		}
		r, ok = checkRecord(b, s.seed, s.iv())
		if !ok {
			return x, nil
		}
		if s.kind == kindLog && len(x.recs) > 0 && r.Seq != x.recs[len(x.recs)-1].Seq+1 {
			return x, nil
		}
		r.Pos = pos
		x.recs = append(x.recs, r)
		if r.sealed {
			x.ivs = append(x.ivs, cipher.Vector{At: pos, IV: seal.IV(b[HeaderSize:])})
		}
		pos += size(r.payload())
	}
}

// beyond looks for whole records anywhere after pos with a sequence number greater than
// after. It returns the greatest durable mark of those that it finds.
func (s *Segment) beyond(pos uint32, after uint64) (mark uint64, err error) {
	s.strays.Add(1)
	w := s.window()
	for ; uint64(pos)+HeaderSize+4 <= uint64(s.size); pos += 4 {
		b, err := w.At(pos, HeaderSize)
		if err != nil {
			return 0, err
		}
		// First a cheap filter: sequence numbers near the missing one.
		if seq := binary.LittleEndian.Uint64(b[16:]); seq <= after || seq-after > 1<<28 {
			continue
		}
		r, ok := parseHeader(b, s.size, s.iv())
		if !ok || uint64(pos)+uint64(size(r.payload())) > uint64(s.size) || r.Durable <= mark {
			continue
		}
		if b, err = w.At(pos, HeaderSize+r.payload()); err != nil {
			return 0, err
		}
		if r, ok := checkRecord(b, s.seed, s.iv()); ok {
			mark = max(mark, r.Durable)
		}
	}
	return mark, nil
}

// window returns a window on the segment. Its user counts the strays.
func (s *Segment) window() window.Window {
	return window.Window{Read: s.readQuietly, End: s.size}
}

// unchecked records which records of a segment found at the start were verified, so that
// their pieces have sums.
type unchecked struct {
	mu    sync.Mutex // held while a record is read
	recs  []Record   // without zero records
	first []int32    // index of each record's first piece
	good  []bool
}

// adopt registers the records that recovery found in the segment, unverified.
func (s *Segment) adopt(x *index) {
	if !s.sums.Empty() {
		return // this process wrote the segment, or adopted it before
	}
	recs := x.recs
	if s.cipher != nil {
		for _, iv := range x.ivs {
			s.cipher.Queue(iv)
		}
	}
	u := &unchecked{recs: make([]Record, 0, len(recs)), first: make([]int32, 0, len(recs))}
	for i := range recs {
		if recs[i].Zero {
			continue
		}
		u.recs, u.first = append(u.recs, recs[i]), append(u.first, s.sums.Queued())
		s.layout(&recs[i])
	}
	u.good = make([]bool, len(u.recs))
	s.keepSums()
	s.trimSums()
	s.unchecked.Store(u)
}

// check verifies every record that overlaps [pos, pos+n) of the file.
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
		s.strays.Add(1)
		if err := s.checkRecord(u, i); err != nil {
			return err
		}
	}
	return nil
}

// checkRecord verifies record i and sets the sums of its pieces. Under u.mu.
func (s *Segment) checkRecord(u *unchecked, i int) error {
	r, all := &u.recs[i], s.sums.All()
	end := r.Pos + HeaderSize + r.payload()
	crc, want := s.seed, uint32(0)
	var buf []byte
	for k, pos := int(u.first[i]), r.Pos; pos < end; k++ {
		p := &all[k]
		if len(buf) < int(p.n) {
			// Long records are read in parts that end at the ends of pieces.
			last := k
			for all[last].end() < end && all[last+1].end()-pos <= window.Size {
				last++
			}
			buf = make([]byte, all[last].end()-pos)
			if err := s.readQuietly(buf, pos); err != nil {
				return err
			}
		}
		b := buf[:p.n]
		if p.first {
			got, ok := parseHeader(b, maxPayload+s.iv(), s.iv())
			if !ok || got.Seq != r.Seq || got.Off != r.Off || got.payload() != r.payload() || !s.hasVector(b, r.Pos) {
				return s.damaged(r)
			}
			want, b = binary.LittleEndian.Uint32(b), b[4:]
		}
		crc = crc32.Update(crc, castagnoli, b)
		if !u.good[i] { // once it is set, others use the sums
			p.sum = crc
		} else if p.sum != crc {
			return s.damaged(r)
		}
		pos, buf = p.end(), buf[p.n:]
	}
	if crc != want {
		return s.damaged(r)
	}
	u.good[i] = true
	return nil
}

func (s *Segment) damaged(r *Record) error {
	return s.mismatchAt(r.Pos, r.Pos+HeaderSize+r.payload(), r.Off, r.Len)
}

// CheckAll verifies every record of a segment found at the start, and returns the first
// error. If there is none, reads of the segment then cost as much as those of fresh
// segments.
func (s *Segment) CheckAll() (first error) {
	u := s.unchecked.Load()
	if u == nil {
		return nil
	}
	done := s.verifying()
	for i := range u.recs {
		u.mu.Lock()
		err := s.checkRecord(u, i)
		u.mu.Unlock()
		if err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		return first
	}
	s.unchecked.Store(nil)
	if !done() { // guests read meanwhile; now it is in memory, and this is fast
		return s.Verify()
	}
	return nil
}

// Verify reads every record that was in the segment at the call, and returns the first
// damage.
func (s *Segment) Verify() error {
	if err := s.CheckAll(); err != nil {
		return err
	}
	if s.sums.Empty() {
		return nil
	}
	done := s.verifying()
	all := s.sums.All()
	w, crc := s.window(), uint32(0)
	for i := range all {
		p := &all[i]
		b, err := w.At(p.at, uint32(p.n))
		if err != nil {
			return err
		}
		if p.first {
			crc, b = s.seed, b[4:]
		}
		if crc32.Update(crc, castagnoli, b) != p.sum {
			return s.mismatch(p.at, p.end())
		}
		crc = p.sum
	}
	done()
	return nil
}
