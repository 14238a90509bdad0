package wal

import "hash/crc32"

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

// keepSums makes the queued pieces valid, and the vectors of their records. dropSums
// discards them, and trimSums frees the spare memory once no more will come.
func (s *Segment) keepSums() {
	s.sums.Keep()
	if s.cipher != nil {
		s.cipher.Keep()
	}
}

func (s *Segment) dropSums() {
	s.sums.Drop()
	if s.cipher != nil {
		s.cipher.Drop()
	}
}

func (s *Segment) trimSums() {
	s.sums.Trim()
	if s.cipher != nil {
		s.cipher.Trim()
	}
}

// sum computes the checksum of the record of a write at pos in the segment, and queues
// its pieces. head is what precedes the bytes, body: the header, and the vector of a sealed
// record.
func (s *Segment) sum(pos uint32, off uint64, head, body []byte) uint32 {
	crc := crc32.Update(s.seed, castagnoli, head[4:])
	at, n := pos, len(head)
	for first := true; len(body) > 0; first = false {
		part := body[:min(len(body), pieceBytes-int(off%pieceBytes))]
		crc = crc32.Update(crc, castagnoli, part)
		n += len(part)
		s.sums.Queue(pageSum{at, crc, uint16(n), first})
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
	at, n := r.Pos, uint64(r.head())
	for off, left := r.Off, r.Len; left > 0; {
		part := min(left, pieceBytes-off%pieceBytes)
		n += part
		s.sums.Queue(pageSum{at, 0, uint16(n), off == r.Off})
		at, n = at+uint32(n), 0
		off, left = off+part, left-part
	}
}

// find returns the index of the piece that contains pos, which must lie in a record.
func find(all []pageSum, pos uint32) int {
	lo, hi := 0, len(all) // all[lo].at <= pos, all[hi].at > pos
	for hi-lo > 1 {
		mid := int(uint(lo+hi) >> 1)
		if all[mid].at <= pos {
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
	all := s.sums.All()
	if len(all) == 0 {
		return sp, false
	}
	i := find(all, pos)
	p := &all[i]
	sp.from = p.at
	if p.first {
		sp.before, sp.skip = s.seed, 4
	} else {
		sp.before = all[i-1].sum
	}
	for p.end() < pos+n {
		if i++; i == len(all) {
			return sp, false
		}
		p = &all[i]
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
