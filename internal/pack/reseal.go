package pack

import (
	"github.com/paraglide/glide/internal/errs"
)

// Reseal returns a slot of the Codec's domain under its current root: opened, and sealed
// again without anything being decoded. hash is that of its raw bytes. A slot that is under
// that root already is returned as it is. The length stays, because references say it: one
// of another suite is errs.Unsupported.
func (c Codec) Reseal(slot []byte, hash Hash) ([]byte, error) {
	c.mustWrite()
	s, err := parseSlot(slot)
	if err != nil {
		return nil, err
	}
	if err := c.accepts(c.ID(), s.version); err != nil {
		return nil, err
	}
	if s.KeyID == c.root() {
		return slot, nil
	}
	if s.suite != c.Domain.Suite() {
		return nil, errs.New(errs.Unsupported, "a slot of suite %s cannot be sealed again with %s in the same place", s.suite, c.Domain.Suite())
	}
	payload, err := c.Domain.OpenSlot(nil, s.Kind.purpose(), s.KeyID, s.suite, hash, slot[:SlotHeaderLen], slot[SlotHeaderLen:])
	if err != nil {
		return nil, err
	}
	return c.sealSlot(nil, s.Kind, s.Encoding, hash, int(s.RawLen), payload), nil
}

// Roots returns the numbers of the oldest and the newest root with which something of a
// pack is sealed, its index or a slot; zeros if it is not sealed. end is the end of an
// object of this size: if it is not long enough, need is how many bytes are.
func (c Codec) Roots(id ID, end []byte, size int64) (oldest, newest uint32, need int64, err error) {
	t, err := parseTrailer(id.Domain, end, size)
	if err != nil || t.suite == 0 {
		return 0, 0, 0, err
	}
	if need = size - t.IndexOff; need > int64(len(end)) {
		return 0, 0, need, nil
	}
	x, err := c.parseIndex(t, end[int64(len(end))-need:][:t.IndexLen])
	if err != nil {
		return 0, 0, 0, errs.New(errs.KindOf(err), "%s: %w", id.Key(), err)
	}
	oldest, newest = t.root, t.root
	for i := range x.Entries {
		oldest, newest = min(oldest, x.Entries[i].KeyID), max(newest, x.Entries[i].KeyID)
	}
	return oldest, newest, 0, nil
}
