package wal

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/paraglide/glide/internal/wal/internal/cipher"
	"github.com/paraglide/glide/internal/wal/internal/segfile"
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
	t := segfile.Trailer{
		Incarnation: s.incarnation, End: end, IndexPos: pageUp(end), IndexLen: uint32(len(index)),
		FirstSeq: 1<<64 - 1, IndexCRC: crc32.Checksum(index, castagnoli),
	}
	for b := index; len(b) >= HeaderSize; t.Records++ {
		seq := binary.LittleEndian.Uint64(b[16:])
		t.FirstSeq, t.LastSeq = min(t.FirstSeq, seq), max(t.LastSeq, seq)
		skip := HeaderSize + s.iv()
		if binary.LittleEndian.Uint32(b[4:])&flagZero != 0 {
			skip = HeaderSize + zeroPayload
		}
		b = b[skip:]
	}
	if _, err := s.file.WriteAt(index, int64(t.IndexPos)); err != nil {
		return s.pool.diskError("write the index of "+s.name(), err)
	}
	if _, err := s.file.WriteAt(t.Encode(), int64(s.size-pageSize)); err != nil {
		return s.pool.diskError("write the trailer of "+s.name(), err)
	}
	return nil
}

// encodeIndex returns the index of records. ivs are the vectors of those that are sealed.
func encodeIndex(recs []Record, ivs []cipher.Vector) []byte {
	index := make([]byte, 0, len(recs)*HeaderSize+len(ivs)*int(ivSize))
	for i := range recs {
		r := &recs[i]
		n := len(index)
		index = append(index, make([]byte, HeaderSize)...)
		putHeader(index[n:], r.payload(), r.flags(), r.Off, r.Seq, r.Durable)
		switch {
		case r.Zero:
			index = binary.LittleEndian.AppendUint64(index, r.Len)
		case r.sealed:
			index = append(index, ivs[0].IV[:]...)
			ivs = ivs[1:]
		}
	}
	return index
}
