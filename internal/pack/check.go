package pack

import (
	"errors"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// Check checks everything in a whole pack of the Codec's domain that needs no tenant's key:
// header, index and trailer, that they are those of this identity, and the checksum of every
// slot. It returns the number of slots. Damage is errs.Corrupt. Without keys it does not see
// what is in the index of a sealed pack, and whether somebody changed the pack.
func (c Codec) Check(id ID, obj []byte) (slots int, err error) {
	x, err := c.indexOf(id, obj)
	if c.Domain == nil && errors.Is(err, seal.ErrLocked) {
		x, err = outline(id, obj)
	} else if err == nil {
		err = c.checkContent(x)
	}
	if err != nil {
		return 0, err
	}
	return x.check(obj)
}

// check checks the checksum of every slot, and returns their number.
func (x *packIndex) check(obj []byte) (slots int, err error) {
	for i := range x.Entries {
		if err := x.Entries[i].compare(obj); err != nil {
			return 0, inPack(x.Ref(i), err)
		}
	}
	return len(x.Entries), nil
}

// outline is an index made from the slots of a sealed pack, whose own is sealed, sound
// and parsed by indexOf up to there. It has no hashes.
func outline(id ID, obj []byte) (*packIndex, error) {
	t, err := parseTrailer(id.Domain, obj, int64(len(obj)))
	if err != nil || t.ID != id {
		return nil, errs.New(errs.Corrupt, "%s: it says that it is %s", id.Key(), t.ID.Key())
	}
	x := &packIndex{ID: id, root: t.root, Blocks: t.Blocks, Entries: scan(obj[:t.IndexOff])}
	end := int64(HeaderLen)
	for i := range x.Entries {
		e := &x.Entries[i]
		if end += int64(e.Len); (e.Kind == KindBlock) != (i < x.Blocks) || e.version != versionSealed {
			return nil, inPack(x.Ref(i), errs.New(errs.Corrupt, "a %s of version %d at %d, of %d blocks", e.Kind, e.version, i, x.Blocks))
		}
	}
	if end != t.IndexOff || len(x.Entries) != t.Blocks+t.Pages {
		return nil, errs.New(errs.Corrupt, "%s: it has %d slots up to %d, and claims %d up to %d", id.Key(), len(x.Entries), end, t.Blocks+t.Pages, t.IndexOff)
	}
	return x, nil
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

// EncodeSlotOf returns a slot of exactly n bytes that holds raw, which has this hash, in the
// place of a damaged one: references say how long a slot is. ok is false if there is none.
func (c Codec) EncodeSlotOf(kind Kind, hash Hash, raw []byte, n int) (slot []byte, ok bool) {
	for _, how := range []Compression{CompressionZstd, CompressionS2, CompressionNone} {
		if slot = c.EncodeSlot(nil, kind, hash, raw, how); len(slot) == n {
			return slot, true
		}
	}
	// The encoder has changed since. A frame that is shorter is filled up.
	e, err := dense()
	if err != nil {
		return nil, false
	}
	slot = e.EncodeAll(raw, make([]byte, SlotHeaderLen, max(n, SlotHeaderLen)))
	fill := n - len(slot) - c.overhead()
	if fill < skipHeader {
		return nil, false
	}
	slot = le.AppendUint32(slot, skipMagic)
	slot = le.AppendUint32(slot, uint32(fill-skipHeader))
	slot = append(slot, make([]byte, fill-skipHeader)...)
	if c.Domain != nil {
		return c.sealSlot(nil, kind, EncodingZstd, hash, len(raw), slot[SlotHeaderLen:]), true
	}
	putHeader(slot, kind, EncodingZstd, len(raw))
	return slot, true
}
