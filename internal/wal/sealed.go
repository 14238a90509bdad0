package wal

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/wal/internal/cipher"
)

// ivSize is the length of a sealed record's vector in bytes. Records are encrypted into
// memory of the log's own, because a failed append is repeated with the same frames.
const ivSize = uint32(cipher.Size)

// iv returns the length of the vectors in new segments: 0, or ivSize.
func (p *Pool) iv() uint32 {
	if p.opts.Local == nil {
		return 0
	}
	return ivSize
}

// longestEntry returns the length of the longest entry in the index of a new segment.
func (p *Pool) longestEntry() uint32 { return HeaderSize + max(zeroPayload, p.iv()) }

// iv returns the length of the vectors in the segment.
func (s *Segment) iv() uint32 {
	if s.cipher == nil {
		return 0
	}
	return ivSize
}

// vectors returns the vectors of the segment's records.
func (s *Segment) vectors() []cipher.Vector {
	if s.cipher == nil {
		return nil
	}
	return s.cipher.All()
}

// hasVector reports whether the record at pos, of which b are the first bytes, has the
// vector with which it will be decrypted.
func (s *Segment) hasVector(b []byte, pos uint32) bool {
	if s.cipher == nil {
		return true
	}
	v, ok := s.cipher.Of(pos)
	return ok && v.At == pos && seal.IV(b[HeaderSize:]) == v.IV
}

// appendData appends the record of a write to b, for this position of the segment.
func (s *Segment) appendData(b []byte, pos uint32, r *Record, durable uint64, body []byte) []byte {
	n, head := len(b), HeaderSize+int(s.iv())
	b = slices.Grow(b, head+len(body))[:n+head+len(body)]
	h, data := b[n:n+head], b[n+head:]
	if s.cipher != nil {
		s.cipher.Seal(h[HeaderSize:], data, body, pos)
	} else {
		copy(data, body)
	}
	putHeader(h, uint32(head-HeaderSize+len(body)), r.flags(), r.Off, r.Seq, durable)
	binary.LittleEndian.PutUint32(h, s.sum(pos, r.Off, h, data))
	return b
}

// sealedBytes is the length of the memory into which a log usually encrypts.
const sealedBytes = 1 << 20

var sealedPool = sync.Pool{New: func() any { return new([sealedBytes]byte) }}

// freeSealed gives the memory back. Nothing may be queued.
func (l *Log) freeSealed() {
	if cap(l.sealed) == sealedBytes {
		sealedPool.Put((*[sealedBytes]byte)(l.sealed[:sealedBytes]))
	}
	l.sealed = nil
}

// sealInto encrypts a write for the end of the queue. What was queued before does not move.
func (l *Log) sealInto(body []byte) (head, data []byte) {
	n := int(HeaderSize+ivSize) + len(body)
	switch {
	case len(l.sealed)+n <= cap(l.sealed):
	case n > sealedBytes:
		l.sealed = make([]byte, 0, n)
	default:
		l.sealed = sealedPool.Get().(*[sealedBytes]byte)[:0]
	}
	at := len(l.sealed)
	l.sealed = l.sealed[:at+n]
	head, data = l.sealed[at:at+int(HeaderSize+ivSize)], l.sealed[at+int(HeaderSize+ivSize):]
	l.cur.cipher.Seal(head[HeaderSize:], data, body, l.pos+l.queued)
	return head, data
}
