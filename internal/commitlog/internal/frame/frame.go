// Package frame is the bytes of a commit around its two sections: header, lengths,
// checksum, and, in sealed objects, the sealing of the sections. docs/formats/commit.md
// has them. What the sections mean is package commitlog's.
package frame

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// Bounds on the sections of an object, and the places in its header that matter elsewhere.
const (
	MaxState   = 1 << 20  // bytes of JSON
	MaxData    = 32 << 20 // bytes
	HeaderSize = 56
	CRCAt      = HeaderSize - 4

	// Sealed is the version of objects whose sections are sealed in the tenant's own domain.
	// Those before are plain.
	Sealed = 5
	// Isolated is that of objects sealed in another domain of the tenant, whose number
	// follows the header.
	Isolated   = 6
	domainSize = 4

	// sealing is the most that sealing adds to a section: 24 bytes before it, nonce and tag.
	sealing = 24 + seal.MaxOverhead

	magic         = "GLDC"
	flagReleased  = 1 << 0
	flagTombstone = 1 << 1
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Header is what stands in clear before the sections, also of a sealed object: owners are
// fenced and logs are listed without keys.
type Header struct {
	Version             uint16
	Kind                uint8
	Released, Tombstone bool
	Epoch, Number       uint64
	Mark                [16]byte
	Ahead               uint32
	Domain              uint32 // of version Isolated; else 0
}

// Frame is an object whose checksum is right.
type Frame struct {
	Header
	State, Data []byte // of a sealed object, as they are stored until Open
	raw         []byte
}

// Encode returns the bytes of a plain object.
func (h *Header) Encode(state, data []byte) []byte {
	raw := h.begin(len(state), len(data))
	return sign(append(append(raw, state...), data...))
}

// EncodeSealed returns the bytes of an object, for its key in the store only, whose
// sections are sealed. There is no section of no data.
//
// sealed-once: each call uses other nonces, so the result is kept to be sent again.
func (h *Header) EncodeSealed(d *seal.Domain, key string, state, data []byte) []byte {
	more, dataLen := d.SectionOverhead(), 0
	if len(data) > 0 {
		dataLen = len(data) + more
	}
	raw := h.begin(len(state)+more, dataLen)
	header := raw[:CRCAt]
	if h.Version == Isolated {
		raw = le.AppendUint32(raw, h.Domain)
	}
	raw = d.SealSection(raw, seal.State, key, header, state)
	if len(data) > 0 {
		raw = d.SealSection(raw, seal.Data, key, header, data)
	}
	return sign(raw)
}

// begin returns the header, without checksum, with room for the sections.
func (h *Header) begin(stateLen, dataLen int) []byte {
	raw := make([]byte, HeaderSize, HeaderSize+domainSize+stateLen+dataLen)
	copy(raw, magic)
	le.PutUint16(raw[4:], h.Version)
	raw[6] = h.Kind
	if h.Released {
		raw[7] |= flagReleased
	}
	if h.Tombstone {
		raw[7] |= flagTombstone
	}
	le.PutUint64(raw[8:], h.Epoch)
	le.PutUint64(raw[16:], h.Number)
	copy(raw[24:], h.Mark[:])
	le.PutUint32(raw[40:], h.Ahead)
	le.PutUint32(raw[44:], uint32(stateLen))
	le.PutUint32(raw[48:], uint32(dataLen))
	return raw
}

func sign(raw []byte) []byte {
	le.PutUint32(raw[CRCAt:], Checksum(raw))
	return raw
}

// Checksum covers everything but its own four bytes.
func Checksum(raw []byte) uint32 {
	return crc32.Update(crc32.Checksum(raw[:CRCAt], castagnoli), castagnoli, raw[HeaderSize:])
}

// IsSealed tells whether the bytes of an object say that it is sealed.
func IsSealed(raw []byte) bool { return len(raw) >= HeaderSize && sealed(le.Uint16(raw[4:])) }

// Domain is the domain that an object says it is isolated in; 0: in none.
func Domain(raw []byte) uint32 {
	if len(raw) < HeaderSize+domainSize || le.Uint16(raw[4:]) != Isolated {
		return 0
	}
	return le.Uint32(raw[HeaderSize:])
}

func sealed(version uint16) bool { return version == Sealed || version == Isolated }

// OldestRoot is the smallest number of a root with which a section is sealed; 0 of a plain
// object. Nothing proves it.
func (f *Frame) OldestRoot() uint32 {
	root := uint32(0)
	for _, section := range [][]byte{f.State, f.Data} {
		if sealed(f.Version) && len(section) >= 4 && (root == 0 || le.Uint32(section) < root) {
			root = le.Uint32(section)
		}
	}
	return root
}

// Decode reads an object's frame, whose sections share the memory of raw. A version that
// this release does not know is errs.Unsupported; anything that cannot have been encoded
// is errs.Corrupt. It needs no keys.
func Decode(raw []byte) (*Frame, error) {
	if len(raw) < HeaderSize || string(raw[:4]) != magic {
		return nil, errs.New(errs.Corrupt, "not a commit (%d bytes)", len(raw))
	}
	v := le.Uint16(raw[4:])
	if v > Isolated {
		return nil, errs.New(errs.Unsupported, "commit of version %d, this release reads up to %d; use a newer glide", v, Isolated)
	}
	most, begin := uint32(0), HeaderSize
	if sealed(v) {
		most = sealing
	}
	if v == Isolated {
		begin += domainSize
	}
	stateLen, dataLen := le.Uint32(raw[44:]), le.Uint32(raw[48:])
	if stateLen > MaxState+most || dataLen > MaxData+most || len(raw) != begin+int(stateLen)+int(dataLen) {
		return nil, errs.New(errs.Corrupt, "commit of %d bytes with %d of state and %d of data", len(raw), stateLen, dataLen)
	}
	if sum := Checksum(raw); sum != le.Uint32(raw[CRCAt:]) {
		return nil, errs.New(errs.Corrupt, "commit with checksum %08x, its bytes have %08x", raw[CRCAt:HeaderSize], sum)
	}
	flags := raw[7]
	if flags&^(flagReleased|flagTombstone) != 0 {
		return nil, errs.New(errs.Corrupt, "commit with flags %#x", flags)
	}
	domain := uint32(0)
	if v == Isolated {
		if domain = le.Uint32(raw[HeaderSize:]); domain == 0 {
			return nil, errs.New(errs.Corrupt, "commit of no domain")
		}
	}
	sections := raw[begin:]
	return &Frame{
		Header: Header{
			Version: v, Kind: raw[6], Released: flags&flagReleased != 0, Tombstone: flags&flagTombstone != 0,
			Epoch: le.Uint64(raw[8:]), Number: le.Uint64(raw[16:]), Mark: [16]byte(raw[24:40]), Ahead: le.Uint32(raw[40:]), Domain: domain,
		},
		State: sections[:stateLen], Data: sections[stateLen:], raw: raw,
	}, nil
}

// Open opens the sections of an object that has this key in the store, with the keys of
// its domain.
//
// no-downgrade: with a domain, a plain object is errs.Corrupt. A sealed one without is
// seal.ErrLocked, of kind errs.Unavailable; the other errors are those of package seal.
func (f *Frame) Open(d *seal.Domain, key string) (err error) {
	switch sealed := sealed(f.Version); {
	case sealed && d == nil:
		return errs.New(errs.Unavailable, "commit is %w", seal.ErrLocked)
	case !sealed && d != nil:
		return errs.New(errs.Corrupt, "commit that is not sealed, and those of domain %08x are", d.ID())
	case !sealed:
		return nil
	case f.Domain != 0 && f.Domain != d.ID():
		return errs.New(errs.Corrupt, "commit of domain %08x, opened with the keys of %08x", f.Domain, d.ID())
	}
	state, err := d.OpenSection(nil, seal.State, key, f.raw[:CRCAt], f.State)
	data := f.Data
	if err == nil && len(data) > 0 {
		data, err = d.OpenSection(nil, seal.Data, key, f.raw[:CRCAt], data)
	}
	if err != nil {
		return errs.New(errs.KindOf(err), "commit: %w", err)
	}
	if len(state) > MaxState || len(data) > MaxData || len(data) == 0 && len(f.Data) > 0 {
		return errs.New(errs.Corrupt, "commit with %d bytes of state and %d of data", len(state), len(data))
	}
	f.State, f.Data = state, data
	return nil
}
