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
	x, err := readIndex(id.Domain, obj)
	if err != nil {
		return errs.New(errs.KindOf(err), "%s: %w", id.Key(), err)
	}
	if x.ID != id {
		return errs.New(errs.Corrupt, "%s: it says that it is %s", id.Key(), x.ID.Key())
	}
	if content := contentID(x.Entries[:x.Blocks]); content != id.Content {
		return errs.New(errs.Corrupt, "%s: its blocks are those of a pack %x", id.Key(), content)
	}
	var raw []byte
	for i := range x.Entries {
		e := &x.Entries[i]
		ref := e.ref(id)
		if raw, err = e.inspect(raw, obj); err != nil {
			return inPack(ref, err)
		}
		if err := checkHash(h, ref, raw); err != nil {
			return err
		}
	}
	return nil
}

// Dump writes the content of a pack of a domain as text, and returns the first error that
// it finds. If the index cannot be read, it goes from slot to slot. It does not verify
// hashes, because it does not know the tenant's key.
func Dump(w io.Writer, domain uint32, obj []byte) error {
	x, err := readIndex(domain, obj)
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if err != nil {
		_, _ = fmt.Fprintf(out, "pack\t%v\nbytes\t%d\n\n", err, len(obj))
		x = &packIndex{Entries: scan(obj)}
	} else {
		_, _ = fmt.Fprintf(out, "pack\t%s\nversion\t%d\nbytes\t%d\nblocks\t%d\npages\t%d\n\n",
			x.ID.Key(), version, len(obj), x.Blocks, len(x.Entries)-x.Blocks)
	}
	_, _ = fmt.Fprintf(out, "slot\tkind\toffset\tlength\traw\tencoding\tkey\tcrc32c\thash\tstate\n")
	var raw []byte
	for i := range x.Entries {
		e := &x.Entries[i]
		state := "ok"
		data, serr := e.inspect(raw, obj)
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

// inspect decodes the slot of an entry and compares slot and entry.
func (e *indexEntry) inspect(dst, obj []byte) ([]byte, error) {
	slot := obj[e.Off : e.Off+e.Len]
	raw, err := DecodeSlot(dst, slot, maxRawLen)
	if err == nil && readSlot(slot) != e.slotHeader {
		err = errs.New(errs.Corrupt, "its index says otherwise: %s", e.describe())
	}
	return raw, err
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
		entries = append(entries, indexEntry{Off: uint32(off), Len: uint32(length), slotHeader: s})
		off += int(length)
	}
	return entries
}

func (e *indexEntry) describe() string {
	return fmt.Sprintf("%s of %d raw bytes, %s, key %d, checksum %08x", e.Kind, e.RawLen, e.Encoding, e.KeyID, e.CRC)
}
