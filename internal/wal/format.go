// Package wal is the write-ahead log on the host's SSD: fixed-size segment
// files that hold, in order, exactly the bytes that guests wrote.
//
// # Segment file
//
// A segment belongs to one volume at a time and is recycled afterwards. All
// integers are little-endian.
//
//	page 0      header, 4096 bytes
//	4096 …      records, each at a multiple of 4; the rest of the last page of every append is zero
//	…           index: the record headers again (with the payloads of zero records), at a multiple of 4096
//	last 4096   trailer
//
// Package segfile has the bytes of header and trailer.
//
// Index and trailer are written when the segment is full or its volume goes to sleep.
// Without a valid trailer, recovery finds the records by scanning.
//
// # Record
//
//	 0  4  CRC32C of bytes 4 to the end, seeded with the incarnation, so that a
//	       recycled segment's old records do not validate
//	 4  4  bits 0–25 payload length, with the vector of a sealed one; bit 26 zero record; bit 27 more: the write goes on in the next record;
//	       bit 28 continuation: it began in an earlier one
//	 8  8  offset on the volume, bytes
//	16  8  sequence number
//	24  4  behind: the sequence number less the one through which the log was
//	       known durable when the record was written; all ones if that is more
//	28  …  the bytes written; of a zero record, 8 bytes: the length of the range
//
// In a sealed segment the payload is 16 random bytes, the initialization vector, and what
// was written, encrypted with AES-256-CTR: see sealed.go. The checksum is that of these
// bytes, and the index has the vectors behind the headers. Zero records hold nothing of
// guests, and are as in a plain segment.
//
// The header is as long as that of an NBD request, so that a received request becomes a
// record in place.
//
// In a log segment, sequence numbers rise by one from record to record. A compacted
// segment holds the live parts of older segments of one writer, in any order. They keep
// their numbers, so several records may share a number.
//
// # Locks
//
// Log.mu serializes appends. It is held over the pwrite, which copies into the page
// cache, and comes before Pool.mu. Log.syncMu guards only the group of waiting flushes;
// it is held over no I/O.
package wal

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/wal/internal/segfile"
)

const (
	// HeaderSize is the length of a record's header.
	HeaderSize = 28
	// maxPayload bounds a record's payload: the longest NBD write.
	maxPayload = 32 << 20

	pageSize = segfile.PageSize

	lengthMask   = 1<<26 - 1
	flagZero     = 1 << 26
	flagMore     = 1 << 27
	flagContinue = 1 << 28
	flagsKnown   = flagZero | flagMore | flagContinue | lengthMask

	zeroPayload = 8
	farBehind   = 1<<32 - 1
)

// Kinds and sizes of segments, and what else wal shares with package segfile.
const (
	kindSpare     = segfile.Spare
	kindLog       = segfile.Log
	kindCompacted = segfile.Compacted
	minSegment    = segfile.MinSize
	maxSegment    = segfile.MaxSize
)

type header = segfile.Header

var castagnoli = segfile.Castagnoli

// seedOf returns the CRC from which a record's checksum starts.
func seedOf(incarnation uint64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], incarnation)
	return crc32.Checksum(b[:], castagnoli)
}

// Record is one decoded record header.
type Record struct {
	Seq     uint64
	Off     uint64 // on the volume
	Len     uint64 // bytes of the range; a zero record's payload is shorter
	Durable uint64 // when the record was written, the log was known durable through this number
	Pos     uint32 // position of the record in its segment
	Zero    bool   // the range reads as zeros
	More    bool   // the write continues in the record with the next number
	Cont    bool   // the write began in an earlier record
	sealed  bool   // a vector precedes its bytes in the segment
}

// size returns the space that a record with this payload length takes.
func size(payload uint32) uint32 { return (HeaderSize + payload + 3) &^ 3 }

// payload returns the length of the record's payload in its segment.
func (r *Record) payload() uint32 {
	if r.Zero {
		return zeroPayload
	}
	return r.head() - HeaderSize + uint32(r.Len)
}

// head returns the length of what precedes the record's bytes in its segment.
func (r *Record) head() uint32 {
	if r.sealed {
		return HeaderSize + ivSize
	}
	return HeaderSize
}

// flags returns the flags in the record's header.
func (r *Record) flags() (flags uint32) {
	if r.Zero {
		flags |= flagZero
	}
	if r.More {
		flags |= flagMore
	}
	if r.Cont {
		flags |= flagContinue
	}
	return flags
}

// putHeader fills h except for the checksum.
func putHeader(h []byte, length, flags uint32, off, seq, durable uint64) {
	behind := seq - durable
	if behind > farBehind {
		behind = farBehind
	}
	binary.LittleEndian.PutUint32(h[4:], length|flags)
	binary.LittleEndian.PutUint64(h[8:], off)
	binary.LittleEndian.PutUint64(h[16:], seq)
	binary.LittleEndian.PutUint32(h[24:], uint32(behind))
}

// sign writes the checksum of a record that is contiguous in memory.
func sign(rec []byte, seed uint32) {
	binary.LittleEndian.PutUint32(rec, crc32.Update(seed, castagnoli, rec[4:]))
}

// parseHeader decodes a record header and does not check its checksum. ok is false if no
// valid record has such a header in a segment with room for limit bytes of payload, which
// begin with iv bytes of vector. The length of a zero record's range is in its payload.
func parseHeader(h []byte, limit, iv uint32) (r Record, ok bool) {
	word := binary.LittleEndian.Uint32(h[4:])
	length := word & lengthMask
	if word&^flagsKnown != 0 || length == 0 || length > limit || length > maxPayload+iv {
		return r, false
	}
	r = Record{
		Off:  binary.LittleEndian.Uint64(h[8:]),
		Seq:  binary.LittleEndian.Uint64(h[16:]),
		Len:  uint64(length),
		Zero: word&flagZero != 0,
		More: word&flagMore != 0,
		Cont: word&flagContinue != 0,
	}
	if !r.Zero {
		r.sealed, r.Len = iv > 0, r.Len-uint64(iv)
	}
	if r.Zero && length != zeroPayload || !r.Zero && length <= iv || r.Seq == 0 {
		return r, false
	}
	if behind := uint64(binary.LittleEndian.Uint32(h[24:])); behind != farBehind && behind <= r.Seq {
		r.Durable = r.Seq - behind
	}
	return r, true
}

// checkRecord decodes the record at the start of b and verifies its checksum.
func checkRecord(b []byte, seed, iv uint32) (r Record, ok bool) {
	if len(b) < HeaderSize {
		return r, false
	}
	r, ok = parseHeader(b, uint32(min(len(b)-HeaderSize, maxPayload+int(ivSize))), iv)
	if !ok {
		return r, false
	}
	end := HeaderSize + int(r.payload())
	if crc32.Update(seed, castagnoli, b[4:end]) != binary.LittleEndian.Uint32(b) && !fault.Is("torn-record-counts") {
		return r, false
	}
	if r.Zero {
		r.Len = binary.LittleEndian.Uint64(b[HeaderSize:])
	}
	return r, true
}
