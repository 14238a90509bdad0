// Package section is the data section of a commit: the byte ranges of a volume that it
// changes, and the places of whole blocks. docs/formats/commit.md has its bytes.
package section

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/paraglide/glide/internal/commitlog/internal/frame"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

const (
	minBlockSize = 4 << 10
	maxBlockSize = 1 << 20
	maxSize      = 1 << 62 // bytes of a volume

	dataHeaderSize = 8 // before the body
	bodyHeaderSize = 8 // before the ranges
	rangeSize      = 16
	zeroRun        = 1 << 63 // in the length of a range without payload
	blockRun       = 1 << 63 // in the offset of a block range
	maxSlot        = maxBlockSize + 4096

	encodingRaw  = 0
	encodingZstd = 1
	domainPlaces = 2 // added to the encoding if the places of blocks have domains

	// maxExpansion bounds how much larger zstd data can become when it is decoded: a
	// block of at most 128 KiB takes at least a header of 3 bytes and one byte. Data
	// that claims more is refused before memory is allocated.
	maxExpansion = 128 << 10 / 4
)

// Range is a run of bytes of a volume that a data commit changes.
type Range struct {
	Off  uint64 // bytes from the volume's start
	Len  uint64 // bytes, at least 1
	Data []byte // Len bytes; nil if the run becomes zeros, or is a block
	// Block is where the store has the content, if the run is exactly one whole, aligned
	// block of the volume; else nil.
	Block *pack.Ref
}

// The coders are shared: EncodeAll and DecodeAll may be called concurrently, and
// the buffers of a coder are expensive to create.
var (
	encoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	})
	decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		// The decoded data must fit the given buffer, whose size comes from the header
		// and was checked.
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(frame.MaxData), zstd.WithDecodeAllCapLimit(true))
	})
)

// Encode returns the data section for the ranges, which are in order and do not
// overlap. A section of more than frame.MaxData bytes, compressed or not, is errs.Invalid:
// the caller must split its cut into several commits.
func Encode(ranges []Range) ([]byte, error) {
	size, n, place := bodyHeaderSize+rangeSize*len(ranges), 0, placeLen(ranges)
	var blocks uint64 // bytes in blocks
	for _, r := range ranges {
		size += len(r.Data)
		if r.Block != nil {
			size, n, blocks = size+place, n+1, blocks+min(r.Len, frame.MaxData)
		}
	}
	if uint64(size)+blocks > frame.MaxData-dataHeaderSize {
		return nil, errs.New(errs.Invalid, "a data commit of %d bytes; at most %d are possible", uint64(size)+blocks, frame.MaxData-dataHeaderSize)
	}
	if i := firstBad(ranges); i >= 0 {
		return nil, errs.New(errs.Invalid, "range %d of a data commit, %d+%d with %d bytes, is bad or out of order",
			i, ranges[i].Off, ranges[i].Len, len(ranges[i].Data))
	}
	return compress(encodeBody(ranges, size), n, place)
}

// placeLen is the length of the places of blocks. They have domains if one of the packs
// is in another than 0.
func placeLen(ranges []Range) int {
	if slices.ContainsFunc(ranges, func(r Range) bool { return r.Block != nil && r.Block.Pack.Domain != 0 }) {
		return pack.DomainRefLen
	}
	return pack.RefLen
}

func encodeBody(ranges []Range, size int) []byte {
	place := placeLen(ranges)
	body := make([]byte, bodyHeaderSize, size)
	binary.LittleEndian.PutUint32(body, uint32(len(ranges)))
	for _, r := range ranges {
		length := r.Len
		off := r.Off
		switch {
		case r.Block != nil:
			off |= blockRun
		case r.Data == nil:
			length |= zeroRun
		}
		body = binary.LittleEndian.AppendUint64(body, off)
		body = binary.LittleEndian.AppendUint64(body, length)
	}
	for _, r := range ranges {
		if body = append(body, r.Data...); r.Block != nil {
			body = r.Block.Append(body, place)
		}
	}
	return body
}

// compress puts the header before the body, which has n block ranges with places of a
// length, and is compressed if that saves bytes.
func compress(body []byte, n, place int) ([]byte, error) {
	enc, err := encoder()
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	section := make([]byte, dataHeaderSize, dataHeaderSize+len(body))
	binary.LittleEndian.PutUint64(section, uint64(n)<<8|uint64(len(body))<<32)
	if place == pack.DomainRefLen {
		section[0] = domainPlaces
	}
	if small := enc.EncodeAll(body, section); len(small) < dataHeaderSize+len(body) {
		small[0] |= encodingZstd
		return small, nil
	}
	return append(section[:dataHeaderSize], body...), nil
}

// Decode reads a data section. The ranges may share its memory. A section that
// Encode could not have written is errs.Corrupt.
func Decode(section []byte) ([]Range, error) {
	body, err := decompress(section)
	if err != nil {
		return nil, err
	}
	if len(body) < bodyHeaderSize || binary.LittleEndian.Uint32(body[4:]) != 0 {
		return nil, errs.New(errs.Corrupt, "data section without a header")
	}
	n := uint64(binary.LittleEndian.Uint32(body))
	if n > uint64(len(body)-bodyHeaderSize)/rangeSize {
		return nil, errs.New(errs.Corrupt, "data section of %d bytes with %d ranges", len(body), n)
	}
	table, payload := body[bodyHeaderSize:bodyHeaderSize+n*rangeSize], body[bodyHeaderSize+n*rangeSize:]
	ranges, place := make([]Range, n), pack.RefLen
	if HasDomains(section) {
		place = pack.DomainRefLen
	}
	size, found := uint64(len(body)), uint64(0)
	for i := range ranges {
		r := Range{Off: binary.LittleEndian.Uint64(table[i*rangeSize:]), Len: binary.LittleEndian.Uint64(table[i*rangeSize+8:])}
		switch {
		case r.Off&blockRun != 0 && len(payload) >= place:
			r.Off, r.Block, payload = r.Off&^blockRun, pack.ReadRef(payload[:place]), payload[place:]
			size, found = size+min(r.Len, frame.MaxData), found+1
		case r.Len&zeroRun != 0:
			r.Len &^= zeroRun
		case r.Off&blockRun == 0 && r.Len <= uint64(len(payload)):
			r.Data, payload = payload[:r.Len:r.Len], payload[r.Len:]
		default:
			return nil, errs.New(errs.Corrupt, "data section whose range %d has no payload", i)
		}
		ranges[i] = r
	}
	if i := firstBad(ranges); i >= 0 || len(payload) > 0 || found != Blocks(section) || size > frame.MaxData-dataHeaderSize || place != placeLen(ranges) {
		return nil, errs.New(errs.Corrupt, "data section of %d bytes with a bad range (%d), %d blocks instead of %d, domains that are all 0, or bytes left over (%d)",
			size, i, found, Blocks(section), len(payload))
	}
	return ranges, nil
}

// HasDomains tells whether the places of blocks in a data section have domains, according
// to its header.
func HasDomains(section []byte) bool {
	return len(section) >= dataHeaderSize && section[0]&domainPlaces != 0
}

// Blocks is how many block ranges a data section has, according to its header.
func Blocks(section []byte) uint64 {
	if len(section) < dataHeaderSize {
		return 0
	}
	return uint64(binary.LittleEndian.Uint32(section) >> 8)
}

// Size is how many bytes a data section stands for, according to its header: its decoded
// size, and that of the blocks that it names.
func Size(section []byte, blockSize uint32) uint64 {
	if len(section) < dataHeaderSize {
		return uint64(len(section))
	}
	return min(uint64(binary.LittleEndian.Uint32(section[4:]))+Blocks(section)*uint64(blockSize), frame.MaxData)
}

func decompress(section []byte) ([]byte, error) {
	if len(section) < dataHeaderSize || len(section) > frame.MaxData {
		return nil, errs.New(errs.Corrupt, "data section of %d bytes with a bad header", len(section))
	}
	size, body := binary.LittleEndian.Uint32(section[4:]), section[dataHeaderSize:]
	switch encoding := section[0] &^ domainPlaces; {
	case size > frame.MaxData-dataHeaderSize:
		return nil, errs.New(errs.Corrupt, "data section of %d bytes decoded, at most %d are possible", size, frame.MaxData-dataHeaderSize)
	case encoding == encodingRaw:
	case encoding == encodingZstd:
		dec, err := decoder()
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		if uint64(size) > uint64(len(body))*maxExpansion {
			return nil, errs.New(errs.Corrupt, "data section of %d bytes cannot have %d decoded", len(body), size)
		}
		if body, err = dec.DecodeAll(body, make([]byte, 0, size)); err != nil {
			return nil, errs.New(errs.Corrupt, "data section: %w", err)
		}
	default:
		return nil, errs.New(errs.Corrupt, "data section of encoding %d", section[0])
	}
	if len(body) != int(size) {
		return nil, errs.New(errs.Corrupt, "data section of %d bytes decoded, not %d", len(body), size)
	}
	return body, nil
}

// firstBad is the index of the first range that is empty, overlaps or precedes the
// previous one, ends beyond every volume, has data of a wrong length, or is a block that
// cannot be one; -1 if there is none.
func firstBad(ranges []Range) int {
	end := uint64(0)
	for i, r := range ranges {
		bad := r.Len == 0 || r.Len > maxSize || r.Off < end || r.Off > maxSize-r.Len || r.Data != nil && uint64(len(r.Data)) != r.Len
		if b := r.Block; bad || b != nil && (r.Data != nil || b.IsHole() || b.Len > maxSlot || b.Pack.IsZero() ||
			r.Len < minBlockSize || r.Len > maxBlockSize || bits.OnesCount64(r.Len) != 1 || r.Off%r.Len != 0) {
			return i
		}
		end = r.Off + r.Len
	}
	return -1
}
