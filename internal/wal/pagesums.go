package wal

import (
	"hash/crc32"
	"sync/atomic"
)

// Bytes can rot while the program runs, and a record's checksum alone does not help a
// read of a page in the middle of the record. So the records of a segment are kept in
// memory as pieces of at most a page. Each piece has the value that the record's checksum
// had reached at the piece's end; it is computed anyway when the record is written. Every
// read of the log reads whole pieces, and computes from the sum before the first piece to
// the sum after the last.
//
// A piece takes 12 bytes: 3 MiB per GiB of log.

// pieceBytes is the maximum length of a piece on the volume. Pieces end at multiples of
// it, because guests' reads do.
const pieceBytes = 4096

// pageSum is a piece of a record. The first piece of a record begins with its header.
type pageSum struct {
	at    uint32 // position in the file
	sum   uint32 // checksum of the record through the end of the piece
	n     uint16 // length in bytes
	first bool
}

func (p *pageSum) end() uint32 { return p.at + uint32(p.n) }

// pageSums are the pieces of a segment's records, in the order of their positions. Zero
// records have none, because they are not read. One goroutine at a time adds pieces. The
// first n of them do not change.
type pageSums struct {
	all    []pageSum
	n      atomic.Int32
	queued int32 // number of pieces after n, for records that are not written yet
}

// leastSums is the initial capacity: a page of memory.
const leastSums = 340

// room returns the list with capacity for one more piece. Readers of the old list are not
// disturbed.
func (s *Segment) room() *pageSums {
	l := s.sums.Load()
	if l == nil {
		l = &pageSums{all: make([]pageSum, leastSums)}
		s.sums.Store(l)
	}
	n := l.n.Load() + l.queued
	if int(n) == len(l.all) {
		more := &pageSums{all: make([]pageSum, 2*len(l.all)), queued: l.queued}
		copy(more.all, l.all)
		more.n.Store(l.n.Load())
		s.sums.Store(more)
		l = more
	}
	return l
}

// queuePiece adds a piece of a record that is not written yet.
func (s *Segment) queuePiece(p pageSum) {
	l := s.room()
	l.all[l.n.Load()+l.queued] = p
	l.queued++
}

// keepSums makes the queued pieces valid. dropSums discards them.
func (s *Segment) keepSums() {
	if l := s.sums.Load(); l != nil {
		l.n.Add(l.queued)
		l.queued = 0
	}
}

func (s *Segment) dropSums() {
	if l := s.sums.Load(); l != nil {
		l.queued = 0
	}
}

// trimSums frees the spare capacity once no more pieces will come.
func (s *Segment) trimSums() {
	l := s.sums.Load()
	if l == nil {
		return
	}
	n := l.n.Load()
	less := &pageSums{all: make([]pageSum, n)}
	copy(less.all, l.all)
	less.n.Store(n)
	s.sums.Store(less)
}

// sum computes the checksum of the record of a write at pos in the segment, and queues
// its pieces.
func (s *Segment) sum(pos uint32, off uint64, head, body []byte) uint32 {
	crc := crc32.Update(s.seed, castagnoli, head[4:HeaderSize])
	at, n := pos, HeaderSize
	for first := true; len(body) > 0; first = false {
		part := body[:min(len(body), pieceBytes-int(off%pieceBytes))]
		crc = crc32.Update(crc, castagnoli, part)
		n += len(part)
		s.queuePiece(pageSum{at, crc, uint16(n), first})
		at, n = at+uint32(n), 0
		off, body = off+uint64(len(part)), body[len(part):]
	}
	return crc
}

// layout queues the pieces of a record that was found in a segment, without sums.
func (s *Segment) layout(r *Record) {
	if r.Zero {
		return
	}
	at, n := r.Pos, uint64(HeaderSize)
	for off, left := r.Off, r.Len; left > 0; {
		part := min(left, pieceBytes-off%pieceBytes)
		n += part
		s.queuePiece(pageSum{at, 0, uint16(n), off == r.Off})
		at, n = at+uint32(n), 0
		off, left = off+part, left-part
	}
}

// find returns the index of the piece that contains pos, which must lie in a record.
func (l *pageSums) find(pos uint32) int {
	lo, hi := 0, int(l.n.Load()) // all[lo].at <= pos, all[hi].at > pos
	for hi-lo > 1 {
		mid := int(uint(lo+hi) >> 1)
		if l.all[mid].at <= pos {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// span says how to verify a range of one record. Verification also reads the bytes of the
// first piece before the range, and those of the last piece after it.
type span struct {
	from, to uint32 // range of the pieces in the file
	before   uint32 // checksum before the first piece
	want     uint32 // checksum after the last piece
	skip     int    // bytes at from that are the stored checksum itself
}

// span returns the span of [pos, pos+n) in the file. ok is false if the segment has no
// such record.
func (s *Segment) span(pos, n uint32) (sp span, ok bool) {
	l := s.sums.Load()
	if l == nil || l.n.Load() == 0 {
		return sp, false
	}
	i := l.find(pos)
	p := &l.all[i]
	sp.from = p.at
	if p.first {
		sp.before, sp.skip = s.seed, 4
	} else {
		sp.before = l.all[i-1].sum
	}
	for last := int(l.n.Load()) - 1; p.end() < pos+n; p = &l.all[i] {
		if i++; i > last {
			return sp, false
		}
	}
	sp.to, sp.want = p.end(), p.sum
	return sp, pos >= sp.from
}

// matches reports whether the bytes that were read are those that were written.
func (sp *span) matches(head, body, tail []byte) bool {
	crc := sp.before
	if len(head) > 0 {
		crc = crc32.Update(crc, castagnoli, head[sp.skip:])
	}
	crc = crc32.Update(crc, castagnoli, body)
	if len(tail) > 0 {
		crc = crc32.Update(crc, castagnoli, tail)
	}
	return crc == sp.want
}
