package wal

import (
	"hash/crc32"
	"sync/atomic"
)

// Bytes rot under a running program too, and a record's checksum alone is no
// help to a read of a page in the middle of it. So a segment's records are kept
// in memory as pieces of a page, each with what the record's checksum had become
// at its end: that is computed anyway when the record is written. Every read of
// the log, for whomever, reads whole pieces and goes from the sum before the
// first one to the sum behind the last one.
//
// A piece is 12 bytes: 3 MiB for a GiB of log.

// pieceBytes is how much of the volume a piece holds, at most; pieces end at
// multiples of it, as what guests read does.
const pieceBytes = 4096

// pageSum is a part of a record. The first one of each begins with the header.
type pageSum struct {
	at    uint32 // in the file
	sum   uint32 // the checksum of the record through the piece's end
	n     uint16 // bytes
	first bool
}

func (p *pageSum) end() uint32 { return p.at + uint32(p.n) }

// pageSums are those of a segment's records, in the order in which they lie. Of
// zero records, which are not read, there are none. One goroutine at a time adds
// to them; what n counts does not change.
type pageSums struct {
	all    []pageSum
	n      atomic.Int32
	queued int32 // behind n, of records that are not written yet
}

// leastSums is the room to begin with: a page.
const leastSums = 340

// room returns the list with room for one more; readers of the old one are not disturbed.
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

// queuePiece notes a piece of a record that is not written yet.
func (s *Segment) queuePiece(p pageSum) {
	l := s.room()
	l.all[l.n.Load()+l.queued] = p
	l.queued++
}

// keepSums makes those count that are queued, dropSums forgets them.
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

// trimSums gives back the room for more, once no more will come.
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

// sum is the checksum of the record of a write at pos in the segment, whose
// pieces are queued.
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

// layout queues the pieces of a record found in a segment, without their sums.
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

// find is the index of the piece that has the byte at pos, which belongs to a record.
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

// span is how a stretch of one record is verified: the bytes that belong to its
// first piece and lie before it, and to its last piece and lie behind it, are
// read too.
type span struct {
	from, to uint32 // of the pieces, in the file
	before   uint32 // the checksum before the first one
	want     uint32 // and behind the last one
	skip     int    // bytes at from that are the checksum itself
}

// span is that of [pos, pos+n) in the file; ok is false if the segment has no
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

// matches tells whether what was read is what was written.
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
