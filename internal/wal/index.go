package wal

import (
	"encoding/binary"
	"hash/crc32"
)

// fullSegment is what finish needs to know of a segment that has just become full.
type fullSegment struct {
	index []byte // the headers of its records
	end   uint32 // where they end
}

// finish writes the index and the trailer of a full segment after it was synced.
func (s *Segment) finish() error {
	f := s.full
	s.full = fullSegment{}
	if len(f.index) == 0 {
		return nil
	}
	return s.writeIndex(f.index, f.end)
}

// writeIndex writes an index, and the trailer that makes it valid.
func (s *Segment) writeIndex(index []byte, end uint32) error {
	t := trailer{
		incarnation: s.incarnation, end: end, indexPos: pageUp(end), indexLen: uint32(len(index)),
		firstSeq: 1<<64 - 1, indexCRC: crc32.Checksum(index, castagnoli),
	}
	for b := index; len(b) >= HeaderSize; t.records++ {
		seq := binary.LittleEndian.Uint64(b[16:])
		t.firstSeq, t.lastSeq = min(t.firstSeq, seq), max(t.lastSeq, seq)
		skip := HeaderSize
		if binary.LittleEndian.Uint32(b[4:])&flagZero != 0 {
			skip += zeroPayload
		}
		b = b[skip:]
	}
	if _, err := s.file.WriteAt(index, int64(t.indexPos)); err != nil {
		return s.pool.diskError("write the index of "+s.name(), err)
	}
	if _, err := s.file.WriteAt(t.encode(), int64(s.size-pageSize)); err != nil {
		return s.pool.diskError("write the trailer of "+s.name(), err)
	}
	return nil
}

func encodeIndex(recs []Record) []byte {
	index := make([]byte, 0, len(recs)*HeaderSize)
	for i := range recs {
		r := &recs[i]
		var h [HeaderSize + zeroPayload]byte
		var flags uint32
		if r.Zero {
			flags |= flagZero
		}
		if r.More {
			flags |= flagMore
		}
		if r.Cont {
			flags |= flagContinue
		}
		putHeader(h[:], r.payload(), flags, r.Off, r.Seq, r.Durable)
		n := HeaderSize
		if r.Zero {
			binary.LittleEndian.PutUint64(h[HeaderSize:], r.Len)
			n += zeroPayload
		}
		index = append(index, h[:n]...)
	}
	return index
}
