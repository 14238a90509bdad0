package pack

import (
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// indexEntry is what the index says about one slot.
type indexEntry struct {
	Hash Hash
	Off  uint32 // in the object
	Len  uint32 // of the slot, including its header
	slotHeader
}

func (e *indexEntry) ref(id ID) Ref { return Ref{Hash: e.Hash, Pack: id, Off: e.Off, Len: e.Len} }

// packIndex is the content of a pack.
type packIndex struct {
	ID      ID
	root    uint32       // that the index is sealed with; 0: not sealed
	Blocks  int          // Entries[:Blocks] are data slots, the rest are map pages
	Entries []indexEntry // in the order of the slots
}

// Ref returns the reference to the i-th slot.
func (x *packIndex) Ref(i int) Ref { return x.Entries[i].ref(x.ID) }

// packTrailer is the content of the last trailerLen bytes of a pack.
type packTrailer struct {
	ID       ID
	IndexOff int64 // in the object
	IndexLen int64 // bytes; Blocks+Pages entries, sealed in version 2
	Blocks   int   // data slots
	Pages    int   // page slots

	version  uint32
	root     uint32     // that the index is sealed with; 0: not sealed
	suite    seal.Suite // with which it is; 0: not sealed
	indexCRC uint32
	bound    []byte // the first 40 bytes of the trailer, to which a sealed index is bound
}

func appendHeader(dst []byte, v uint8) []byte {
	dst = append(dst, headerMagic...)
	dst = le.AppendUint32(dst, uint32(v))
	return le.AppendUint32(dst, checksum(dst[len(dst)-12:]))
}

// checkHeader checks the header of a pack whose trailer has a version.
func checkHeader(header []byte, trailer uint32) error {
	if string(header[:8]) != headerMagic || le.Uint32(header[12:]) != checksum(header[:12]) {
		return errs.New(errs.Corrupt, "its header is damaged")
	}
	v := le.Uint32(header[8:])
	if err := checkVersion(v); err != nil {
		return err
	}
	if v != trailer {
		return errs.New(errs.Corrupt, "its header has version %d, its trailer %d", v, trailer)
	}
	return nil
}

func checkVersion(v uint32) error {
	if v != version && v != versionSealed {
		return errs.New(errs.Unsupported, "the pack's format has version %d, this release knows %d; update Glide", v, versionSealed)
	}
	return nil
}

// root is the number of the root that the Codec seals with; 0 if it does not seal.
func (c Codec) root() uint32 {
	if c.Domain == nil {
		return 0
	}
	return c.Domain.Current()
}

// appendIndex appends the index and the trailer to the slots.
func (c Codec) appendIndex(obj []byte, id ID, entries []indexEntry, blocks int) []byte {
	indexOff := len(obj)
	trailer := make([]byte, 0, trailerLen)
	for _, v := range []int{indexOff, len(entries)*entryLen + c.overhead(), blocks, len(entries) - blocks} {
		trailer = le.AppendUint32(trailer, uint32(v))
	}
	trailer = append(append(trailer, id.Content[:]...), id.Nonce[:]...)
	if c.Domain == nil {
		obj = appendEntries(obj, entries)
	} else {
		plain := appendEntries(make([]byte, 0, len(entries)*entryLen), entries)
		obj = c.Domain.SealIndex(obj, id.Content, id.Nonce, trailer, plain)
	}
	for _, v := range []uint32{checksum(obj[indexOff:]), c.root(), uint32(c.version())} {
		trailer = le.AppendUint32(trailer, v)
	}
	trailer = le.AppendUint32(trailer, checksum(trailer))
	return append(append(obj, trailer...), trailerMagic...)
}

func appendEntries(dst []byte, entries []indexEntry) []byte {
	for i := range entries {
		dst = appendEntry(dst, &entries[i])
	}
	return dst
}

func appendEntry(dst []byte, e *indexEntry) []byte {
	dst = append(dst, e.Hash[:]...)
	for _, v := range []uint32{e.Off, e.Len, e.RawLen, e.CRC} {
		dst = le.AppendUint32(dst, v)
	}
	dst = append(dst, byte(e.Kind), byte(e.Encoding), 0, 0)
	return le.AppendUint32(dst, e.KeyID)
}

// parseTrailer parses the trailer of a pack of size bytes. domain is that of the pack's
// key: the pack does not say it. tail is any number of its last bytes, at least
// trailerLen. Damage is errs.Corrupt; a newer format is errs.Unsupported. It needs no keys.
func parseTrailer(domain uint32, tail []byte, size int64) (packTrailer, error) {
	if len(tail) < trailerLen || size < HeaderLen+trailerLen || size > MaxObject || int64(len(tail)) > size {
		return packTrailer{}, errs.New(errs.Corrupt, "an object of %d bytes is no pack (%d to %d are possible)",
			size, HeaderLen+trailerLen, MaxObject)
	}
	b := tail[len(tail)-trailerLen:]
	if string(b[56:]) != trailerMagic || le.Uint32(b[52:]) != checksum(b[:52]) {
		return packTrailer{}, errs.New(errs.Corrupt, "its trailer is damaged")
	}
	if err := checkVersion(le.Uint32(b[48:])); err != nil {
		return packTrailer{}, err
	}
	blocks, pages := uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))
	t := packTrailer{
		ID:       ID{Domain: domain, Content: [12]byte(b[16:28]), Nonce: [12]byte(b[28:40])},
		IndexOff: int64(le.Uint32(b)), IndexLen: int64(le.Uint32(b[4:])),
		Blocks: int(blocks), Pages: int(pages), indexCRC: le.Uint32(b[40:]),
		version: le.Uint32(b[48:]), root: le.Uint32(b[44:]), bound: b[:40],
	}
	if t.version == versionSealed {
		t.suite = suiteOf(t.IndexLen - int64(blocks+pages)*entryLen)
	}
	if blocks+pages > maxSlots || t.IndexLen != int64(blocks+pages)*entryLen+t.overhead() || t.IndexOff < HeaderLen ||
		t.IndexOff+t.IndexLen+trailerLen != size || (t.root != 0) != (t.suite != 0) {
		return packTrailer{}, errs.New(errs.Corrupt, "its trailer has an index of %d+%d slots in %d bytes at %d, in an object of %d",
			blocks, pages, t.IndexLen, t.IndexOff, size)
	}
	return t, nil
}

// suiteOf is the suite of an index that is that much longer than its entries: the trailer
// has no room for its number. 0: there is none.
func suiteOf(extra int64) seal.Suite {
	for _, s := range []seal.Suite{seal.AES256GCM, seal.XChaCha20Poly1305} {
		if extra == int64(s.Overhead()) {
			return s
		}
	}
	return 0
}

// overhead is how much longer the index is than its entries.
func (t *packTrailer) overhead() int64 {
	if t.suite == 0 {
		return 0
	}
	return int64(t.suite.Overhead())
}

// parseIndex opens and parses the index to which a trailer points: index is IndexLen bytes
// from IndexOff. The slots that it lists must fill the object without a gap. The errors
// are those of parseTrailer and of Codec.
func (c Codec) parseIndex(t packTrailer, index []byte) (*packIndex, error) {
	if int64(len(index)) != t.IndexLen || checksum(index) != t.indexCRC {
		return nil, errs.New(errs.Corrupt, "its index is damaged")
	}
	if err := c.accepts(t.ID.Domain, uint8(t.version)); err != nil {
		return nil, err
	}
	if t.suite != 0 {
		var err error
		if index, err = c.Domain.OpenIndex(nil, t.root, t.suite, t.ID.Content, t.ID.Nonce, t.bound, index); err != nil {
			return nil, errs.New(errs.KindOf(err), "its index: %w", err)
		}
	}
	x := &packIndex{ID: t.ID, root: t.root, Blocks: t.Blocks, Entries: make([]indexEntry, t.Blocks+t.Pages)}
	next := int64(HeaderLen)
	for i := range x.Entries {
		e := &x.Entries[i]
		e.read(index[i*entryLen:], uint8(t.version))
		want := KindBlock
		if i >= x.Blocks {
			want = KindPage
		}
		if int64(e.Off) != next || e.Len <= SlotHeaderLen || e.Kind != want || e.RawLen == 0 || e.RawLen > maxRawLen {
			return nil, errs.New(errs.Corrupt, "its index has at %d a %s of %d raw bytes in a slot of %d at %d",
				i, e.Kind, e.RawLen, e.Len, e.Off)
		}
		next += int64(e.Len)
	}
	if next != t.IndexOff {
		return nil, errs.New(errs.Corrupt, "its slots end at %d, its index begins at %d", next, t.IndexOff)
	}
	return x, nil
}

func (e *indexEntry) read(b []byte, v uint8) {
	copy(e.Hash[:], b)
	e.Off, e.Len, e.RawLen, e.CRC = le.Uint32(b[32:]), le.Uint32(b[36:]), le.Uint32(b[40:]), le.Uint32(b[44:])
	e.Kind, e.Encoding, e.KeyID = Kind(b[48]), Encoding(b[49]), le.Uint32(b[52:])
	e.version = v
}

// readIndex opens and parses the index of a whole pack of a domain. The errors are those
// of parseIndex. It does not check the slots; verifyObject does.
func (c Codec) readIndex(domain uint32, obj []byte) (*packIndex, error) {
	t, err := parseTrailer(domain, obj, int64(len(obj)))
	if err != nil {
		return nil, err
	}
	if err := checkHeader(obj[:HeaderLen], t.version); err != nil {
		return nil, err
	}
	return c.parseIndex(t, obj[t.IndexOff:t.IndexOff+t.IndexLen])
}

// indexOf is readIndex for the pack that has this identity.
func (c Codec) indexOf(id ID, obj []byte) (*packIndex, error) {
	x, err := c.readIndex(id.Domain, obj)
	if err == nil && x.ID != id {
		err = errs.New(errs.Corrupt, "it says that it is %s", x.ID.Key())
	}
	if err != nil {
		return nil, errs.New(errs.KindOf(err), "%s: %w", id.Key(), err)
	}
	return x, nil
}
