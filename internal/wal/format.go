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
// Index and trailer are written when the segment is full or its volume goes to sleep.
// Without a valid trailer, recovery finds the records by scanning.
//
// # Header
//
//	 0  4  magic "GLDW"
//	 4  2  version, 1
//	 6  1  kind: 0 spare, 1 log, 2 compacted
//	 7  1  0
//	 8  8  incarnation: random, new at each use of the file
//	16 16  identity of the volume that writes
//	32  4  segment number, as in the file's name
//	36  4  size of the file, bytes
//	40  4  CRC32C of bytes 0 to 39
//
// Magic, version and checksum keep their places in every version: a damaged byte must not
// look like the work of a newer program, which stops the whole host.
//
// # Record
//
//	 0  4  CRC32C of bytes 4 to the end, seeded with the incarnation, so that a
//	       recycled segment's old records do not validate
//	 4  4  bits 0–25 payload length; bit 26 zero record; bit 27 more: the write goes on in the next record;
//	       bit 28 continuation: it began in an earlier one
//	 8  8  offset on the volume, bytes
//	16  8  sequence number
//	24  4  behind: the sequence number less the one through which the log was
//	       known durable when the record was written; all ones if that is more
//	28  …  the bytes written; of a zero record, 8 bytes: the length of the range
//
// The header is as long as that of an NBD request, so that a received request becomes a
// record in place.
//
// # Trailer
//
//	 0  4  magic "GLDF"
//	 4  2  version, 1
//	 6  2  0
//	 8  8  incarnation
//	16  4  number of records
//	20  4  end of the records, bytes from the start of the file
//	24  4  position of the index
//	28  4  length of the index, bytes
//	32  8  first sequence number
//	40  8  last sequence number
//	48  4  CRC32C of the index
//	52  4  CRC32C of bytes 0 to 51
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

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
)

const (
	// HeaderSize is the length of a record's header.
	HeaderSize = 28
	// maxPayload bounds a record's payload: the longest NBD write.
	maxPayload = 32 << 20

	pageSize    = 4096
	formatNow   = 1
	magicHeader = "GLDW"
	magicFooter = "GLDF"
	headerUsed  = 44
	footerUsed  = 56

	lengthMask   = 1<<26 - 1
	flagZero     = 1 << 26
	flagMore     = 1 << 27
	flagContinue = 1 << 28
	flagsKnown   = flagZero | flagMore | flagContinue | lengthMask

	zeroPayload = 8
	farBehind   = 1<<32 - 1
)

// Kinds of segments.
const (
	kindSpare     = 0
	kindLog       = 1
	kindCompacted = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

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
}

// size returns the space that a record with this payload length takes.
func size(payload uint32) uint32 { return (HeaderSize + payload + 3) &^ 3 }

// payload returns the length of the record's payload in its segment.
func (r *Record) payload() uint32 {
	if r.Zero {
		return zeroPayload
	}
	return uint32(r.Len)
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
// valid record has such a header in a segment with room for limit bytes of payload. The
// length of a zero record's range is in its payload.
func parseHeader(h []byte, limit uint32) (r Record, ok bool) {
	word := binary.LittleEndian.Uint32(h[4:])
	length := word & lengthMask
	if word&^flagsKnown != 0 || length == 0 || length > limit || length > maxPayload {
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
	if r.Zero && length != zeroPayload || r.Seq == 0 {
		return r, false
	}
	if behind := uint64(binary.LittleEndian.Uint32(h[24:])); behind != farBehind && behind <= r.Seq {
		r.Durable = r.Seq - behind
	}
	return r, true
}

// checkRecord decodes the record at the start of b and verifies its checksum.
func checkRecord(b []byte, seed uint32) (r Record, ok bool) {
	if len(b) < HeaderSize {
		return r, false
	}
	r, ok = parseHeader(b, uint32(min(len(b)-HeaderSize, maxPayload)))
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

// header is the decoded page 0.
type header struct {
	kind        byte
	incarnation uint64
	writer      [16]byte
	number      uint32
	size        uint32
}

func (h *header) encode() []byte {
	b := make([]byte, pageSize)
	copy(b, magicHeader)
	binary.LittleEndian.PutUint16(b[4:], formatNow)
	b[6] = h.kind
	binary.LittleEndian.PutUint64(b[8:], h.incarnation)
	copy(b[16:], h.writer[:])
	binary.LittleEndian.PutUint32(b[32:], h.number)
	binary.LittleEndian.PutUint32(b[36:], h.size)
	binary.LittleEndian.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
	return b
}

func decodeHeader(b []byte) (h header, err error) {
	if len(b) < headerUsed || string(b[:4]) != magicHeader {
		return h, errs.New(errs.Corrupt, "not a log segment: no magic at its start")
	}
	if binary.LittleEndian.Uint32(b[40:]) != crc32.Checksum(b[:40], castagnoli) {
		return h, errs.New(errs.Corrupt, "the segment's header does not match its checksum")
	}
	if v := binary.LittleEndian.Uint16(b[4:]); v > formatNow {
		return h, errs.New(errs.Unsupported, "the segment's format is version %d, this program knows up to %d: use a newer glide", v, formatNow)
	}
	h = header{
		kind:        b[6],
		incarnation: binary.LittleEndian.Uint64(b[8:]),
		number:      binary.LittleEndian.Uint32(b[32:]),
		size:        binary.LittleEndian.Uint32(b[36:]),
	}
	copy(h.writer[:], b[16:])
	if h.size < minSegment || h.size > maxSegment || h.size%pageSize != 0 {
		return h, errs.New(errs.Corrupt, "the segment's header gives a size of %d bytes", h.size)
	}
	return h, nil
}

// trailer is the decoded last page.
type trailer struct {
	incarnation       uint64
	records           uint32
	end               uint32
	indexPos          uint32
	indexLen          uint32
	firstSeq, lastSeq uint64
	indexCRC          uint32
}

func (t *trailer) encode() []byte {
	b := make([]byte, pageSize)
	copy(b, magicFooter)
	binary.LittleEndian.PutUint16(b[4:], formatNow)
	binary.LittleEndian.PutUint64(b[8:], t.incarnation)
	binary.LittleEndian.PutUint32(b[16:], t.records)
	binary.LittleEndian.PutUint32(b[20:], t.end)
	binary.LittleEndian.PutUint32(b[24:], t.indexPos)
	binary.LittleEndian.PutUint32(b[28:], t.indexLen)
	binary.LittleEndian.PutUint64(b[32:], t.firstSeq)
	binary.LittleEndian.PutUint64(b[40:], t.lastSeq)
	binary.LittleEndian.PutUint32(b[48:], t.indexCRC)
	binary.LittleEndian.PutUint32(b[52:], crc32.Checksum(b[:52], castagnoli))
	return b
}

// decodeTrailer decodes a trailer. ok is true only if it belongs to this incarnation and
// fits a segment of this size.
func decodeTrailer(b []byte, incarnation uint64, segment uint32) (t trailer, ok bool) {
	if len(b) < footerUsed || string(b[:4]) != magicFooter ||
		binary.LittleEndian.Uint16(b[4:]) != formatNow ||
		binary.LittleEndian.Uint32(b[52:]) != crc32.Checksum(b[:52], castagnoli) {
		return t, false
	}
	t = trailer{
		incarnation: binary.LittleEndian.Uint64(b[8:]),
		records:     binary.LittleEndian.Uint32(b[16:]),
		end:         binary.LittleEndian.Uint32(b[20:]),
		indexPos:    binary.LittleEndian.Uint32(b[24:]),
		indexLen:    binary.LittleEndian.Uint32(b[28:]),
		firstSeq:    binary.LittleEndian.Uint64(b[32:]),
		lastSeq:     binary.LittleEndian.Uint64(b[40:]),
		indexCRC:    binary.LittleEndian.Uint32(b[48:]),
	}
	ok = t.incarnation == incarnation && t.end >= pageSize && t.end <= t.indexPos &&
		uint64(t.indexPos)+uint64(t.indexLen) <= uint64(segment-pageSize) &&
		uint64(t.records)*HeaderSize <= uint64(t.indexLen)
	return t, ok
}
