package pack

import (
	"bytes"
	"slices"
	"sync"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/seal"
)

// Codec reads and writes packs of one domain: sealed ones, of version 2, with its keys,
// or plain ones, of version 1, without a Domain. The functions of this package that have
// the name of one of its methods are for plain packs. A Codec may be used concurrently.
//
// no-downgrade: with a Domain, everything that is not sealed is errs.Corrupt, and so is
// whatever is sealed in domain 0. What is sealed and cannot be opened is seal.ErrTag
// (corrupt), seal.ErrNoRoot or, without a Domain, seal.ErrLocked (both unavailable).
type Codec struct {
	Domain *seal.Domain
	// Locked is why a domain has no keys here. Then whatever would use them fails with it,
	// and nothing can be written: a bug that tries panics (sealed-home).
	Locked error
}

// ID is the domain of packs that the Codec writes.
func (c Codec) ID() uint32 {
	if c.Domain != nil {
		return c.Domain.ID()
	}
	return 0
}

func (c Codec) mustWrite() {
	if c.Locked != nil {
		panic("pack: written without keys: " + c.Locked.Error())
	}
}

// version is that of what the Codec writes.
func (c Codec) version() uint8 {
	if c.Domain != nil {
		return versionSealed
	}
	return version
}

// overhead is how many bytes longer slots and indexes are than plain ones.
func (c Codec) overhead() int {
	if c.Domain != nil {
		return c.Domain.Overhead()
	}
	return 0
}

// accepts returns why bytes of a version, in a pack of a domain, are not to be read.
func (c Codec) accepts(domain uint32, v uint8) error {
	switch {
	case c.Locked != nil:
		return c.Locked
	case c.Domain != nil && c.Domain.ID() != domain:
		return errs.New(errs.Corrupt, "it is in domain %08x, and the keys are those of domain %08x", domain, c.Domain.ID())
	case c.Domain != nil && v == version:
		return errs.New(errs.Corrupt, "it is not sealed, and everything of domain %08x is", domain)
	case v == versionSealed && domain == 0:
		return errs.New(errs.Corrupt, "it is sealed, and nothing of domain 0 is")
	case v == versionSealed && c.Domain == nil:
		return errs.New(errs.Unavailable, "domain %08x is %w", domain, seal.ErrLocked)
	}
	return nil
}

// purpose is what a slot of the kind is sealed as.
func (k Kind) purpose() seal.Purpose {
	if k == KindPage {
		return seal.Page
	}
	return seal.Block
}

// scratches hold payloads between compressing and sealing. Neither can be done in place.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// EncodeSlot appends to dst a slot that holds raw, which has this hash. It panics unless
// raw has 1 to maxRawLen bytes.
func (c Codec) EncodeSlot(dst []byte, kind Kind, hash Hash, raw []byte, how Compression) []byte {
	c.mustWrite()
	if c.Domain == nil {
		return EncodeSlot(dst, kind, raw, how)
	}
	mustFit(raw)
	payload, encoding := raw, EncodingRaw
	if how != CompressionNone {
		s := scratches.Get().(*[]byte)
		defer scratches.Put(s)
		var small []byte
		var e Encoding
		if small, e = how.compress((*s)[:0], raw); worthwhile(len(small), len(raw)) {
			payload, encoding = small, e
		}
		*s = small
	}
	start := len(dst)
	dst = c.sealSlot(dst, kind, encoding, hash, len(raw), payload)
	if invariants.Enabled {
		back, err := c.decode(nil, dst[start:], c.Domain.ID(), hash, len(raw))
		invariants.Check(err == nil && bytes.Equal(back, raw), "a sealed slot of %d bytes does not open: %v", len(dst)-start, err)
	}
	return dst
}

// sealSlot appends a sealed slot with an encoded payload.
//
// sealed-home: all slots of a sealed domain are made here.
func (c Codec) sealSlot(dst []byte, kind Kind, encoding Encoding, hash Hash, rawLen int, payload []byte) []byte {
	d, start := c.Domain, len(dst)
	dst = slices.Grow(dst, SlotHeaderLen+len(payload)+d.Overhead())
	dst = append(dst, slotMagic, versionSealed, byte(encoding), byte(kind), 0, byte(d.Suite()), 0, 0)
	for _, v := range []uint32{d.Current(), uint32(rawLen), uint32(len(payload) + d.Overhead()), 0} {
		dst = le.AppendUint32(dst, v)
	}
	dst = d.SealSlot(dst, kind.purpose(), hash, dst[start:], payload)
	slot := dst[start:]
	le.PutUint32(slot[20:], slotChecksum(slot))
	return dst
}

// decode returns the raw bytes of a whole slot of a domain, of which there may be at most
// maxRaw. hash is theirs: a sealed slot opens with no other. It uses dst, and overwrites
// it, if that has the capacity.
//
// The checksum comes first, so that damage is told from a wrong key; then the tag, and
// only then is anything decoded (open-then-parse).
func (c Codec) decode(dst, slot []byte, domain uint32, hash Hash, maxRaw int) ([]byte, error) {
	s, err := parseSlot(slot)
	if err != nil {
		return nil, err
	}
	if err := c.accepts(domain, s.version); err != nil {
		return nil, err
	}
	if int(s.RawLen) > maxRaw {
		return nil, errs.New(errs.Corrupt, "it has %d raw bytes, at most %d were expected", s.RawLen, maxRaw)
	}
	var raw []byte
	if s.version == versionSealed {
		raw, err = c.open(dst, slot, s, hash)
	} else {
		raw, err = expand(dst, slot[SlotHeaderLen:], s.Encoding, int(s.RawLen))
	}
	if invariants.Enabled && err == nil {
		invariants.Check(len(raw) == int(s.RawLen), "%d bytes of a slot that has %d", len(raw), s.RawLen)
	}
	return raw, err
}

// open opens and decodes the payload of a sealed slot whose checksum is right.
func (c Codec) open(dst, slot []byte, s slotHeader, hash Hash) ([]byte, error) {
	opened := func(b []byte) ([]byte, error) {
		return c.Domain.OpenSlot(b, s.Kind.purpose(), s.KeyID, s.suite, hash, slot[:SlotHeaderLen], slot[SlotHeaderLen:])
	}
	if s.Encoding == EncodingRaw {
		raw, err := opened(room(dst, int(s.RawLen)))
		if err == nil && len(raw) != int(s.RawLen) {
			return nil, errs.New(errs.Corrupt, "its payload has %d raw bytes instead of %d", len(raw), s.RawLen)
		}
		return raw, err
	}
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	payload, err := opened((*scratch)[:0])
	if err != nil {
		return nil, err
	}
	*scratch = payload
	return expand(dst, payload, s.Encoding, int(s.RawLen))
}
