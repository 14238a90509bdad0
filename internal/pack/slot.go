package pack

import (
	"bytes"
	"fmt"
	"hash/crc32"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/invariants"
)

// slotHeader is the content of a slot's header.
type slotHeader struct {
	Kind     Kind
	Encoding Encoding
	KeyID    uint32 // 0: not encrypted
	RawLen   uint32 // bytes
	CRC      uint32

	version uint8
	ext     int // length of the extension, bytes
}

// EncodeSlot appends to dst a slot that holds raw. It panics unless raw has 1 to
// maxRawLen bytes. If dst has maxSlotLen spare bytes, it seldom allocates. It may be
// called concurrently.
func EncodeSlot(dst []byte, kind Kind, raw []byte, c Compression) []byte {
	if len(raw) == 0 || len(raw) > maxRawLen {
		panic(fmt.Sprintf("pack: a slot of %d raw bytes", len(raw)))
	}
	start := len(dst)
	dst = append(dst, make([]byte, SlotHeaderLen)...)
	body := len(dst)
	dst, encoding := c.compress(dst, raw)
	// A gain of less than a sixteenth is not worth the decoding.
	if encoding != EncodingRaw && len(dst)-body > len(raw)-len(raw)/16 {
		dst, encoding = append(dst[:body], raw...), EncodingRaw
	}
	slot := dst[start:]
	slot[0], slot[1], slot[2], slot[3] = slotMagic, version, byte(encoding), byte(kind)
	le.PutUint32(slot[12:], uint32(len(raw)))
	le.PutUint32(slot[16:], uint32(len(dst)-body))
	le.PutUint32(slot[20:], slotChecksum(slot))
	if invariants.Enabled {
		back, err := DecodeSlot(nil, slot, len(raw))
		invariants.Check(err == nil && bytes.Equal(back, raw), "a slot of %d bytes does not decode to the %d that it was made of: %v", len(slot), len(raw), err)
	}
	return dst
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
		KeyID: le.Uint32(slot[8:]), RawLen: le.Uint32(slot[12:]), CRC: le.Uint32(slot[20:]),
	}
}

// check returns an error if this release cannot have written the slot.
func (s slotHeader) check(slot []byte) error {
	switch {
	case s.version != version:
		return errs.New(errs.Unsupported, "its format has version %d, this release knows %d; update Glide", s.version, version)
	case s.Encoding > EncodingS2 || s.ext != 0:
		return errs.New(errs.Unsupported, "its encoding is %d (with %d bytes of extension), which this release does not know; update Glide",
			uint8(s.Encoding), s.ext)
	case s.KeyID != 0:
		return errs.New(errs.Unsupported, "it is encrypted with key %d, and this release has no encryption; update Glide", s.KeyID)
	case s.Kind != KindBlock && s.Kind != KindPage, slot[5]|slot[6]|slot[7] != 0:
		return errs.New(errs.Unsupported, "its kind is %d (with flags %x), which this release does not know; update Glide",
			uint8(s.Kind), slot[5:8])
	case s.RawLen == 0 || s.RawLen > maxRawLen:
		return errs.New(errs.Corrupt, "it claims %d raw bytes, 1 to %d are possible", s.RawLen, maxRawLen)
	}
	return nil
}

// DecodeSlot verifies the checksum of a whole slot and returns its raw bytes, of which
// there may be at most maxRaw. It uses dst, and overwrites it, if that has the capacity.
// The errors are those of parseSlot. It may be called concurrently.
func DecodeSlot(dst, slot []byte, maxRaw int) ([]byte, error) {
	s, err := parseSlot(slot)
	if err != nil {
		return nil, err
	}
	if int(s.RawLen) > maxRaw {
		return nil, errs.New(errs.Corrupt, "it has %d raw bytes, at most %d were expected", s.RawLen, maxRaw)
	}
	raw, err := expand(dst, slot[SlotHeaderLen:], s.Encoding, int(s.RawLen))
	if invariants.Enabled && err == nil {
		invariants.Check(len(raw) == int(s.RawLen), "%d bytes of a slot that has %d", len(raw), s.RawLen)
	}
	return raw, err
}

// Open is DecodeSlot for bytes that were read from ref's place. It also verifies that
// they are what ref refers to. Errors name the pack and the place.
//
// verified: everything that comes from the store passes through here.
func Open(h *Hasher, ref Ref, slot, dst []byte, maxRaw int) ([]byte, error) {
	if len(slot) != int(ref.Len) {
		return nil, inPack(ref, errs.New(errs.Corrupt, "%d bytes were read", len(slot)))
	}
	raw, err := DecodeSlot(dst, slot, maxRaw)
	if err != nil {
		return nil, inPack(ref, err)
	}
	if err := checkHash(h, ref, raw); err != nil {
		return nil, err
	}
	return raw, nil
}

func checkHash(h *Hasher, ref Ref, raw []byte) error {
	if sum := h.Sum(raw); sum != ref.Hash && !fault.Is("store-not-verified") {
		return inPack(ref, errs.New(errs.Corrupt, "its hash is %s instead of %s", sum, ref.Hash))
	}
	return nil
}

func inPack(ref Ref, err error) error {
	return errs.New(errs.KindOf(err), "%s, slot at %d (%d bytes): %w", ref.Pack.Key(), ref.Off, ref.Len, err)
}
