package pack

import (
	"context"
	"sync"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// payloads are buffers for payloads of slots while they are sealed again.
var payloads = sync.Pool{New: func() any { return new([]byte) }}

// Reseal appends a slot of the Codec's domain under its current root: opened, and sealed
// again without anything being decoded. hash is that of its raw bytes. A slot that is under
// that root already is copied. The length stays, because references say it: one of another
// suite is errs.Unsupported.
func (c Codec) Reseal(dst, slot []byte, hash Hash) ([]byte, error) {
	c.mustWrite()
	s, err := parseSlot(slot)
	if err != nil {
		return nil, err
	}
	if err := c.accepts(c.ID(), s.version); err != nil {
		return nil, err
	}
	if s.KeyID == c.root() {
		return append(dst, slot...), nil
	}
	if s.suite != c.Domain.Suite() {
		return nil, errs.New(errs.Unsupported, "a slot of suite %s cannot be sealed again with %s in the same place", s.suite, c.Domain.Suite())
	}
	buf := payloads.Get().(*[]byte)
	defer payloads.Put(buf)
	payload, err := c.Domain.OpenSlot((*buf)[:0], s.Kind.purpose(), s.KeyID, s.suite, hash, slot[:SlotHeaderLen], slot[SlotHeaderLen:])
	if err != nil {
		return nil, err
	}
	*buf = payload
	return c.sealSlot(dst, s.Kind, s.Encoding, hash, int(s.RawLen), payload), nil
}

// tailBytes is what is read of the end of a pack: the index of most is in it.
const tailBytes = 16 << 10

// OldestRoot returns the smallest number of a root with which something of a stored pack is
// sealed, its index or a slot; 0 if it is not sealed. size is that of the object.
func (c Codec) OldestRoot(ctx context.Context, store objstore.Store, id ID, size int64) (uint32, error) {
	for n := min(int64(tailBytes), size); ; {
		end, err := store.GetRange(ctx, id.Key(), size-n, n)
		if err != nil {
			return 0, err
		}
		t, err := parseTrailer(id.Domain, end, size)
		if err == nil && t.ID != id {
			err = errs.New(errs.Corrupt, "it says that it is %s", t.ID.Key())
		}
		if err == nil && t.suite != 0 && size-t.IndexOff > n {
			n = size - t.IndexOff
			continue
		}
		root := uint32(0)
		if err == nil && t.suite != 0 {
			root, err = c.oldestIn(t, end[n-(size-t.IndexOff):][:t.IndexLen])
		}
		if err != nil {
			return 0, errs.New(errs.KindOf(err), "%s: %w", id.Key(), err)
		}
		return root, nil
	}
}

// oldestIn returns the smallest root of a trailer and of the slots in its index.
func (c Codec) oldestIn(t packTrailer, index []byte) (uint32, error) {
	x, err := c.parseIndex(t, index)
	if err != nil {
		return 0, err
	}
	root := t.root
	for i := range x.Entries {
		root = min(root, x.Entries[i].KeyID)
	}
	return root, nil
}
