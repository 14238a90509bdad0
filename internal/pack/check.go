package pack

import (
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/paraglide/glide/internal/errs"
)

// Check checks everything in a whole pack that needs no tenant's key: header, index and
// trailer, that they are those of this identity, and the checksum of every slot. It
// returns the number of slots. Damage is errs.Corrupt.
func Check(id ID, obj []byte) (slots int, err error) {
	x, err := readIndex(id.Domain, obj)
	if err != nil {
		return 0, errs.New(errs.KindOf(err), "%s: %w", id.Key(), err)
	}
	if content := contentID(x.Entries[:x.Blocks]); x.ID != id || content != id.Content {
		return 0, errs.New(errs.Corrupt, "%s: it says that it is %s, and its blocks are those of a pack %x", id.Key(), x.ID.Key(), content)
	}
	for i := range x.Entries {
		e := &x.Entries[i]
		slot := obj[e.Off : e.Off+e.Len]
		s, err := parseSlot(slot)
		if err == nil && s != e.slotHeader {
			err = errs.New(errs.Corrupt, "its index says otherwise: %s", e.describe())
		}
		if err != nil {
			return 0, inPack(e.ref(id), err)
		}
	}
	return len(x.Entries), nil
}

// KindOf returns the kind of a whole slot.
func KindOf(slot []byte) Kind { return Kind(slot[3]) }

// dense is the encoder for slots that must not be longer than they were.
var dense = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(maxRawLen), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
})

// Skippable frames, which zstd decoders pass over (RFC 8878): magic and length come first.
const (
	skipMagic  = 0x184D2A50
	skipHeader = 8
)

// EncodeSlotOf returns a slot of exactly n bytes that holds raw, in the place of a damaged
// one: references say how long a slot is. ok is false if there is none.
func EncodeSlotOf(kind Kind, raw []byte, n int) (slot []byte, ok bool) {
	for _, c := range []Compression{CompressionZstd, CompressionS2, CompressionNone} {
		if slot = EncodeSlot(nil, kind, raw, c); len(slot) == n {
			return slot, true
		}
	}
	// The encoder has changed since. A frame that is shorter is filled up.
	e, err := dense()
	if err != nil {
		return nil, false
	}
	slot = e.EncodeAll(raw, make([]byte, SlotHeaderLen, max(n, SlotHeaderLen)))
	fill := n - len(slot)
	if fill < skipHeader {
		return nil, false
	}
	slot = le.AppendUint32(slot, skipMagic)
	slot = le.AppendUint32(slot, uint32(fill-skipHeader))
	slot = append(slot, make([]byte, fill-skipHeader)...)
	slot[0], slot[1], slot[2], slot[3] = slotMagic, version, byte(EncodingZstd), byte(kind)
	le.PutUint32(slot[12:], uint32(len(raw)))
	le.PutUint32(slot[16:], uint32(n-SlotHeaderLen))
	le.PutUint32(slot[20:], slotChecksum(slot))
	return slot, true
}
