package pack

import (
	"bytes"
	"fmt"
	"hash/crc32"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/seal"
)

// slotHeader is the content of a slot's header.
type slotHeader struct {
	Kind     Kind
	Encoding Encoding
	KeyID    uint32 // the number of the root that it is sealed with; 0: not sealed
	RawLen   uint32 // bytes
	CRC      uint32

	version uint8
	ext     int        // length of the extension, bytes
	suite   seal.Suite // 0: not sealed. Not in the index
}

// indexed is the header as the index has it.
func (s slotHeader) indexed() slotHeader {
	s.suite = 0
	return s
}

// EncodeSlot appends to dst a slot that holds raw. It panics unless raw has 1 to
// maxRawLen bytes. If dst has maxSlotLen spare bytes, it seldom allocates. It may be
// called concurrently.
func EncodeSlot(dst []byte, kind Kind, raw []byte, c Compression) []byte {
	mustFit(raw)
	start := len(dst)
	dst = append(dst, make([]byte, SlotHeaderLen)...)
	body := len(dst)
	dst, encoding := c.compress(dst, raw)
	if encoding != EncodingRaw && !worthwhile(len(dst)-body, len(raw)) {
		dst, encoding = append(dst[:body], raw...), EncodingRaw
	}
	slot := dst[start:]
	putHeader(slot, kind, encoding, len(raw))
	if invariants.Enabled {
		back, err := DecodeSlot(nil, slot, len(raw))
		invariants.Check(err == nil && bytes.Equal(back, raw), "a slot of %d bytes does not decode to the %d that it was made of: %v", len(slot), len(raw), err)
	}
	return dst
}

// mustFit panics unless a slot can hold raw.
func mustFit(raw []byte) {
	if len(raw) == 0 || len(raw) > maxRawLen {
		panic(fmt.Sprintf("pack: a slot of %d raw bytes", len(raw)))
	}
}

// worthwhile tells whether n encoded bytes are few enough in place of raw ones: a gain of
// less than a sixteenth is not worth the decoding.
func worthwhile(n, raw int) bool { return n <= raw-raw/16 }

// putHeader writes the header of a plain slot, whose payload is there, into its place.
func putHeader(slot []byte, kind Kind, encoding Encoding, rawLen int) {
	slot[0], slot[1], slot[2], slot[3] = slotMagic, version, byte(encoding), byte(kind)
	le.PutUint32(slot[12:], uint32(rawLen))
	le.PutUint32(slot[16:], uint32(len(slot)-SlotHeaderLen))
	le.PutUint32(slot[20:], slotChecksum(slot))
}

// slotChecksum returns the checksum of all bytes of the slot except the checksum itself.
func slotChecksum(slot []byte) uint32 {
	return crc32.Update(checksum(slot[:20]), castagnoli, slot[SlotHeaderLen:])
}

// parseSlot checks that slot is one whole, undamaged slot, and returns its header. Damage
// is errs.Corrupt; a slot of a newer release is errs.Unsupported.
func parseSlot(slot []byte) (slotHeader, error) {
	if len(slot) < SlotHeaderLen || slot[0] != slotMagic {
		return slotHeader{}, errs.New(errs.Corrupt, "it is no slot")
	}
	s := readSlot(slot)
	if want := uint64(SlotHeaderLen) + uint64(s.ext) + uint64(le.Uint32(slot[16:])); want != uint64(len(slot)) {
		return slotHeader{}, errs.New(errs.Corrupt, "it has %d bytes and claims %d", len(slot), want)
	}
	if got := slotChecksum(slot); got != s.CRC && !fault.Is("store-not-verified") {
		return slotHeader{}, errs.New(errs.Corrupt, "its checksum is %08x instead of %08x", got, s.CRC)
	}
	return s, s.check(slot)
}

// readSlot reads the header of a valid slot.
func readSlot(slot []byte) slotHeader {
	return slotHeader{
		version: slot[1], Encoding: Encoding(slot[2]), Kind: Kind(slot[3]), ext: int(slot[4]),
		suite: seal.Suite(slot[5]), KeyID: le.Uint32(slot[8:]), RawLen: le.Uint32(slot[12:]), CRC: le.Uint32(slot[20:]),
	}
}

// check returns an error if this release cannot have written the slot.
func (s slotHeader) check(slot []byte) error {
	switch {
	case s.version != version && s.version != versionSealed:
		return errs.New(errs.Unsupported, "its format has version %d, this release knows %d; update Glide", s.version, versionSealed)
	case s.Encoding > EncodingS2 || s.ext != 0:
		return errs.New(errs.Unsupported, "its encoding is %d (with %d bytes of extension), which this release does not know; update Glide",
			uint8(s.Encoding), s.ext)
	case s.version == version && s.KeyID != 0:
		return errs.New(errs.Unsupported, "it is encrypted with key %d, in a version that has no encryption; update Glide", s.KeyID)
	case s.version == versionSealed && s.KeyID == 0:
		return errs.New(errs.Corrupt, "it is sealed, with no root")
	case s.Kind != KindBlock && s.Kind != KindPage, slot[6]|slot[7] != 0, s.version == version && s.suite != 0:
		return errs.New(errs.Unsupported, "its kind is %d (with flags %x), which this release does not know; update Glide",
			uint8(s.Kind), slot[5:8])
	case s.RawLen == 0 || s.RawLen > maxRawLen:
		return errs.New(errs.Corrupt, "it claims %d raw bytes, 1 to %d are possible", s.RawLen, maxRawLen)
	}
	return nil
}

// DecodeSlot verifies the checksum of a whole slot of domain 0 and returns its raw bytes,
// of which there may be at most maxRaw. It uses dst, and overwrites it, if that has the
// capacity. Damage, also a sealed slot, is errs.Corrupt; a slot of a newer release is
// errs.Unsupported. It may be called concurrently.
func DecodeSlot(dst, slot []byte, maxRaw int) ([]byte, error) {
	return Codec{}.decode(dst, slot, 0, Hash{}, maxRaw)
}

// Open decodes bytes that were read from ref's place, as DecodeSlot does, and verifies
// that they are what ref refers to. h is the tenant's: it has the keys of the domains that
// the tenant may read, and the errors of Codec and Hasher.In are those of Open, too.
// Errors name the pack and the place.
//
// verified: everything that comes from the store passes through here.
func Open(h *Hasher, ref Ref, slot, dst []byte, maxRaw int) ([]byte, error) {
	if len(slot) != int(ref.Len) {
		return nil, inPack(ref, errs.New(errs.Corrupt, "%d bytes were read", len(slot)))
	}
	h, err := h.In(ref.Pack.Domain)
	if err != nil {
		return nil, inPack(ref, err)
	}
	raw, err := h.Codec().decode(dst, slot, ref.Pack.Domain, ref.Hash, maxRaw)
	if err != nil {
		return nil, inPack(ref, err)
	}
	if err := checkHash(h, ref, raw); err != nil {
		return nil, err
	}
	return raw, nil
}

func checkHash(h *Hasher, ref Ref, raw []byte) error {
	if !h.Matches(ref.Hash, raw) && !fault.Is("store-not-verified") {
		return inPack(ref, errs.New(errs.Corrupt, "its hash is %s instead of %s", h.Sum(raw), ref.Hash))
	}
	return nil
}

func inPack(ref Ref, err error) error {
	return errs.New(errs.KindOf(err), "%s, slot at %d (%d bytes): %w", ref.Pack.Key(), ref.Off, ref.Len, err)
}
