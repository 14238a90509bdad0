package pack

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/paraglide/glide/internal/errs"
)

// verifyObject checks a whole pack: that it has this identity (but for the domain, which
// is in its key only), that each slot decodes to
// the bytes of its hash, and that index and slots agree. Damage is an errs.Corrupt error
// that names the pack and the place.
func verifyObject(h *Hasher, id ID, obj []byte) error {
	x, err := h.Codec().indexOf(id, obj)
	if err == nil {
		err = h.Codec().checkContent(x)
	}
	if err != nil {
		return err
	}
	var raw []byte
	for i := range x.Entries {
		e := &x.Entries[i]
		ref := e.ref(id)
		if raw, err = h.Codec().inspect(raw, x, i, obj); err != nil {
			return inPack(ref, err)
		}
		if err := checkHash(h, ref, raw); err != nil {
			return err
		}
	}
	return nil
}

// checkContent checks that the name of a pack is that of its blocks.
func (c Codec) checkContent(x *packIndex) error {
	content, err := c.contentID(x.root, x.ID.Nonce, x.Entries[:x.Blocks])
	if err == nil && content != x.ID.Content {
		err = errs.New(errs.Corrupt, "its blocks are those of a pack %x", content)
	}
	if err != nil {
		return errs.New(errs.KindOf(err), "%s: %w", x.ID.Key(), err)
	}
	return nil
}

// Dump writes the content of a plain pack of a domain as text, and returns the first error
// that it finds. If the index cannot be read, as that of a sealed pack, it goes from slot
// to slot. It does not verify hashes, because it does not know the tenant's key.
func Dump(w io.Writer, domain uint32, obj []byte) error { return Codec{}.Dump(w, domain, obj) }

// Dump is Dump for packs of the Codec's domain.
func (c Codec) Dump(w io.Writer, domain uint32, obj []byte) error {
	x, err := c.readIndex(domain, obj)
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if err != nil {
		_, _ = fmt.Fprintf(out, "pack\t%v\nbytes\t%d\n\n", err, len(obj))
		x = &packIndex{ID: ID{Domain: domain}, Entries: scan(obj)}
	} else {
		_, _ = fmt.Fprintf(out, "pack\t%s\nversion\t%d\nbytes\t%d\nblocks\t%d\npages\t%d\n\n",
			x.ID.Key(), c.version(), len(obj), x.Blocks, len(x.Entries)-x.Blocks)
	}
	_, _ = fmt.Fprintf(out, "slot\tkind\toffset\tlength\traw\tencoding\tkey\tcrc32c\thash\tstate\n")
	var raw []byte
	for i := range x.Entries {
		e := &x.Entries[i]
		state := "ok"
		data, serr := c.inspect(raw, x, i, obj)
		if serr != nil {
			state = serr.Error()
			err = cmp.Or(err, errs.New(errs.KindOf(serr), "slot %d at %d: %w", i, e.Off, serr))
		} else {
			raw = data
		}
		_, _ = fmt.Fprintf(out, "%d\t%s\t%d\t%d\t%d\t%s\t%d\t%08x\t%s\t%s\n",
			i, e.Kind, e.Off, e.Len, e.RawLen, e.Encoding, e.KeyID, e.CRC, e.Hash, state)
	}
	return cmp.Or(out.Flush(), err)
}

// inspect decodes the i-th slot of an index and compares slot and entry.
func (c Codec) inspect(dst []byte, x *packIndex, i int, obj []byte) ([]byte, error) {
	e := &x.Entries[i]
	raw, err := c.decode(dst, obj[e.Off:e.Off+e.Len], x.ID.Domain, e.Hash, maxRawLen)
	if err == nil {
		err = e.compare(obj)
	}
	return raw, err
}

// compare checks that the slot of an entry is undamaged, and the one that the entry says.
func (e *indexEntry) compare(obj []byte) error {
	s, err := parseSlot(obj[e.Off : e.Off+e.Len])
	if err == nil && s.indexed() != e.slotHeader {
		err = errs.New(errs.Corrupt, "its index says otherwise: %s", e.describe())
	}
	return err
}

// scan finds the slots by their headers alone, one after the other. Their hashes stay
// unknown.
func scan(obj []byte) []indexEntry {
	var entries []indexEntry
	for off := HeaderLen; len(obj)-off >= SlotHeaderLen && obj[off] == slotMagic; {
		s := readSlot(obj[off:])
		length := uint64(SlotHeaderLen) + uint64(s.ext) + uint64(le.Uint32(obj[off+16:]))
		if length > uint64(len(obj)-off) {
			break
		}
		entries = append(entries, indexEntry{Off: uint32(off), Len: uint32(length), slotHeader: s.indexed()})
		off += int(length)
	}
	return entries
}

func (e *indexEntry) describe() string {
	return fmt.Sprintf("%s of %d raw bytes, %s, key %d, checksum %08x", e.Kind, e.RawLen, e.Encoding, e.KeyID, e.CRC)
}
