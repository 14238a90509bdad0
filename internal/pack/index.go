package pack

import (
	"github.com/paraglide/glide/internal/errs"
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
	Blocks  int          // Entries[:Blocks] are data slots, the rest are map pages
	Entries []indexEntry // in the order of the slots
}

// Ref returns the reference to the i-th slot.
func (x *packIndex) Ref(i int) Ref { return x.Entries[i].ref(x.ID) }

// packTrailer is the content of the last trailerLen bytes of a pack.
type packTrailer struct {
	ID       ID
	IndexOff int64 // in the object
	IndexLen int64 // bytes; Blocks+Pages entries
	Blocks   int   // data slots
	Pages    int   // page slots

	indexCRC uint32
}

func appendHeader(dst []byte) []byte {
	dst = append(dst, headerMagic...)
	dst = le.AppendUint32(dst, version)
	return le.AppendUint32(dst, checksum(dst[len(dst)-12:]))
}

func checkHeader(header []byte) error {
	if string(header[:8]) != headerMagic || le.Uint32(header[12:]) != checksum(header[:12]) {
		return errs.New(errs.Corrupt, "its header is damaged")
	}
	return checkVersion(le.Uint32(header[8:]))
}

func checkVersion(v uint32) error {
	if v != version {
		return errs.New(errs.Unsupported, "the pack's format has version %d, this release knows %d; update Glide", v, version)
	}
	return nil
}

// appendIndex appends the index and the trailer to the slots.
func appendIndex(obj []byte, id ID, entries []indexEntry, blocks int) []byte {
	indexOff := len(obj)
	for i := range entries {
		obj = appendEntry(obj, &entries[i])
	}
	index := obj[indexOff:]
	trailerOff := len(obj)
	for _, v := range []int{indexOff, len(index), blocks, len(entries) - blocks} {
		obj = le.AppendUint32(obj, uint32(v))
	}
	obj = append(obj, id.Content[:]...)
	obj = append(obj, id.Nonce[:]...)
	obj = le.AppendUint32(obj, checksum(index))
	obj = le.AppendUint32(obj, 0)
	obj = le.AppendUint32(obj, version)
	obj = le.AppendUint32(obj, checksum(obj[trailerOff:]))
	return append(obj, trailerMagic...)
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
// trailerLen. Damage is errs.Corrupt; a newer format is errs.Unsupported.
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
	}
	if blocks+pages > maxSlots || t.IndexLen != int64(blocks+pages)*entryLen || t.IndexOff < HeaderLen ||
		t.IndexOff+t.IndexLen+trailerLen != size {
		return packTrailer{}, errs.New(errs.Corrupt, "its trailer has an index of %d+%d slots in %d bytes at %d, in an object of %d",
			blocks, pages, t.IndexLen, t.IndexOff, size)
	}
	return t, nil
}

// parseIndex parses the index to which a trailer points: index is IndexLen bytes from
// IndexOff. The slots that it lists must fill the object without a gap. The errors are
// those of parseTrailer.
func parseIndex(t packTrailer, index []byte) (*packIndex, error) {
	if int64(len(index)) != t.IndexLen || checksum(index) != t.indexCRC {
		return nil, errs.New(errs.Corrupt, "its index is damaged")
	}
	x := &packIndex{ID: t.ID, Blocks: t.Blocks, Entries: make([]indexEntry, t.Blocks+t.Pages)}
	next := int64(HeaderLen)
	for i := range x.Entries {
		e := &x.Entries[i]
		e.read(index[i*entryLen:])
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

func (e *indexEntry) read(b []byte) {
	copy(e.Hash[:], b)
	e.Off, e.Len, e.RawLen, e.CRC = le.Uint32(b[32:]), le.Uint32(b[36:]), le.Uint32(b[40:]), le.Uint32(b[44:])
	e.Kind, e.Encoding, e.KeyID = Kind(b[48]), Encoding(b[49]), le.Uint32(b[52:])
	e.version = version
}

// readIndex parses the index of a whole pack of a domain. The errors are those of
// parseTrailer. It does not check the slots; verifyObject does.
func readIndex(domain uint32, obj []byte) (*packIndex, error) {
	t, err := parseTrailer(domain, obj, int64(len(obj)))
	if err != nil {
		return nil, err
	}
	if err := checkHeader(obj[:HeaderLen]); err != nil {
		return nil, err
	}
	return parseIndex(t, obj[t.IndexOff:t.IndexOff+t.IndexLen])
}
