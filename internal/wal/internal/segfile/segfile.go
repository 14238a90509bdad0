// Package segfile is the two pages that frame a file of the log: its header and its
// trailer. All integers are little-endian.
//
// # Header
//
//	 0  4  magic "GLDW"
//	 4  2  version: 1 plain, 2 sealed
//	 6  1  kind: 0 spare, 1 log, 2 compacted
//	 7  1  0
//	 8  8  incarnation: random, new at each use of the file
//	16 16  identity of the volume that writes
//	32  4  segment number, as in the file's name
//	36  4  size of the file, bytes
//	40  4  CRC32C of bytes 0 to 39
//	44 12  version 2: with which keys the records are sealed, as package seal stores it
//	56  4  version 2: CRC32C of bytes 44 to 55
//
// Magic, version and checksum keep their places in every version: a damaged byte must not
// look like the work of a newer program, which stops the whole host.
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
package segfile

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// PageSize is the length of the header and of the trailer, bytes.
const PageSize = 4096

// Sizes of a segment in bytes. A quarter of the smallest one must hold more than a page.
// Positions in a segment fit 32 bits.
const (
	MinSize = 64 << 10
	MaxSize = 1 << 30
)

// Kinds of segments.
const (
	Spare     = 0
	Log       = 1
	Compacted = 2
)

const (
	plain       = 1
	sealed      = 2
	magicHeader = "GLDW"
	magicFooter = "GLDF"
	markAt      = 44
	markEnd     = markAt + seal.MarkSize

	// HeaderUsed is how much of a plain segment's first page is not zero, bytes.
	HeaderUsed = 44
	// TrailerUsed is how much of the trailer's page is not zero, bytes.
	TrailerUsed = 56
)

// Castagnoli is the table of every checksum of the log.
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is the decoded page 0.
type Header struct {
	Kind        byte
	Incarnation uint64
	Writer      [16]byte
	Number      uint32
	Size        uint32
	Seal        seal.Mark // zero: the records are plain
}

// Encode returns the page.
func (h *Header) Encode() []byte {
	b := make([]byte, PageSize)
	copy(b, magicHeader)
	binary.LittleEndian.PutUint16(b[4:], plain)
	b[6] = h.Kind
	binary.LittleEndian.PutUint64(b[8:], h.Incarnation)
	copy(b[16:], h.Writer[:])
	binary.LittleEndian.PutUint32(b[32:], h.Number)
	binary.LittleEndian.PutUint32(b[36:], h.Size)
	if h.Seal != (seal.Mark{}) {
		binary.LittleEndian.PutUint16(b[4:], sealed)
		h.Seal.Append(b[markAt:markAt])
		binary.LittleEndian.PutUint32(b[markEnd:], crc32.Checksum(b[markAt:markEnd], Castagnoli))
	}
	binary.LittleEndian.PutUint32(b[40:], crc32.Checksum(b[:40], Castagnoli))
	return b
}

// DecodeHeader decodes the start of a segment. Errors are errs.Corrupt, and
// errs.Unsupported of a newer version.
func DecodeHeader(b []byte) (h Header, err error) {
	if len(b) < HeaderUsed || string(b[:4]) != magicHeader {
		return h, errs.New(errs.Corrupt, "not a log segment: no magic at its start")
	}
	if binary.LittleEndian.Uint32(b[40:]) != crc32.Checksum(b[:40], Castagnoli) {
		return h, errs.New(errs.Corrupt, "the segment's header does not match its checksum")
	}
	version := binary.LittleEndian.Uint16(b[4:])
	if version > sealed {
		return h, errs.New(errs.Unsupported, "the segment's format is version %d, this program knows up to %d: use a newer glide", version, sealed)
	}
	h = Header{
		Kind:        b[6],
		Incarnation: binary.LittleEndian.Uint64(b[8:]),
		Number:      binary.LittleEndian.Uint32(b[32:]),
		Size:        binary.LittleEndian.Uint32(b[36:]),
	}
	copy(h.Writer[:], b[16:])
	if version == sealed {
		var ok bool
		if len(b) < markEnd+4 {
			return h, errs.New(errs.Corrupt, "a segment of %d bytes has no whole header", len(b))
		}
		if h.Seal, ok = seal.ReadMark(b[markAt:]); !ok || binary.LittleEndian.Uint32(b[markEnd:]) != crc32.Checksum(b[markAt:markEnd], Castagnoli) {
			return h, errs.New(errs.Corrupt, "what the segment's header says of its keys does not match its checksum")
		}
	}
	if h.Size < MinSize || h.Size > MaxSize || h.Size%PageSize != 0 {
		return h, errs.New(errs.Corrupt, "the segment's header gives a size of %d bytes", h.Size)
	}
	return h, nil
}

// Trailer is the decoded last page.
type Trailer struct {
	Incarnation       uint64
	Records           uint32
	End               uint32
	IndexPos          uint32
	IndexLen          uint32
	FirstSeq, LastSeq uint64
	IndexCRC          uint32
}

// Encode returns the page.
func (t *Trailer) Encode() []byte {
	b := make([]byte, PageSize)
	copy(b, magicFooter)
	binary.LittleEndian.PutUint16(b[4:], 1)
	binary.LittleEndian.PutUint64(b[8:], t.Incarnation)
	binary.LittleEndian.PutUint32(b[16:], t.Records)
	binary.LittleEndian.PutUint32(b[20:], t.End)
	binary.LittleEndian.PutUint32(b[24:], t.IndexPos)
	binary.LittleEndian.PutUint32(b[28:], t.IndexLen)
	binary.LittleEndian.PutUint64(b[32:], t.FirstSeq)
	binary.LittleEndian.PutUint64(b[40:], t.LastSeq)
	binary.LittleEndian.PutUint32(b[48:], t.IndexCRC)
	binary.LittleEndian.PutUint32(b[52:], crc32.Checksum(b[:52], Castagnoli))
	return b
}

// DecodeTrailer decodes a trailer. ok is true only if it belongs to this incarnation and
// fits a segment of this size. record is the least length of a record in the index, bytes.
func DecodeTrailer(b []byte, incarnation uint64, segment, record uint32) (t Trailer, ok bool) {
	if len(b) < TrailerUsed || string(b[:4]) != magicFooter ||
		binary.LittleEndian.Uint16(b[4:]) != 1 ||
		binary.LittleEndian.Uint32(b[52:]) != crc32.Checksum(b[:52], Castagnoli) {
		return t, false
	}
	t = Trailer{
		Incarnation: binary.LittleEndian.Uint64(b[8:]),
		Records:     binary.LittleEndian.Uint32(b[16:]),
		End:         binary.LittleEndian.Uint32(b[20:]),
		IndexPos:    binary.LittleEndian.Uint32(b[24:]),
		IndexLen:    binary.LittleEndian.Uint32(b[28:]),
		FirstSeq:    binary.LittleEndian.Uint64(b[32:]),
		LastSeq:     binary.LittleEndian.Uint64(b[40:]),
		IndexCRC:    binary.LittleEndian.Uint32(b[48:]),
	}
	ok = t.Incarnation == incarnation && t.End >= PageSize && t.End <= t.IndexPos &&
		uint64(t.IndexPos)+uint64(t.IndexLen) <= uint64(segment-PageSize) &&
		uint64(t.Records)*uint64(record) <= uint64(t.IndexLen)
	return t, ok
}
