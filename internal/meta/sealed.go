package meta

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// # Sealed metadata
//
// The format is 2, or 3 until every value is sealed that was written before there was a key.
// The dedup index (keys d/) and the format itself are as in format 1. Of all other keys the
// values are
//
//	 0  4  magic "GLDV"
//	 4 12  with which keys it is sealed, as package seal stores it
//	16  …  nonce, ciphertext and tag of the value; the key is additional data
//
// Names of facts may have names of volumes, so in place of the name the key of a fact has
// the name's HMAC, and the sealed value begins with the length of the name, u16 big-endian,
// and the name.
const (
	formatSealed  = 2
	formatSealing = 3

	valueMagic = "GLDV"
	valueHead  = len(valueMagic) + seal.MarkSize

	formatKey = "h/format"
	// keysFact is a fact that opens with the right keys only.
	keysFact = "local-key"
)

// values seals the values of the database and opens them, or leaves them as they are.
type values struct {
	local *seal.Local
	// strict: what is not sealed is damaged. Set by Open, and constant afterwards.
	strict bool
}

// covers reports whether the value of a key is sealed.
func (v *values) covers(key []byte) bool {
	return v.local != nil && string(key) != formatKey && !bytes.HasPrefix(key, []byte("d/"))
}

// hides reports whether the key is a fact's whose name is hidden.
func (v *values) hides(key []byte) bool { return v.covers(key) && bytes.HasPrefix(key, []byte("h/")) }

// stored returns the key under which the database has the value of a key.
func (v *values) stored(key []byte) []byte {
	if !v.hides(key) {
		return key
	}
	return append([]byte("h/"), v.local.HideName(string(key[len("h/"):]))...)
}

// seal returns what the database has, under the key stored, for a key and its value.
func (v *values) seal(stored, key, value []byte) []byte {
	if !v.covers(key) {
		return value
	}
	if v.hides(key) {
		name := key[len("h/"):]
		value = append(append(binary.BigEndian.AppendUint16(nil, uint16(len(name))), name...), value...)
	}
	b := append(make([]byte, 0, valueHead+len(value)+seal.MaxOverhead), valueMagic...)
	return v.local.SealValue(v.local.Mark().Append(b), stored, value)
}

// open is the inverse of seal: it returns the key and the value of what the database has.
// Errors are those of the keys, and errs.Corrupt.
func (v *values) open(stored, raw []byte) (key, value []byte, err error) {
	if !v.covers(stored) || !isSealed(raw) && !v.strict {
		return stored, append([]byte{}, raw...), nil
	}
	if !isSealed(raw) {
		return nil, nil, errs.New(errs.Corrupt, "the value of %q is not sealed, though all are", stored)
	}
	mark, ok := seal.ReadMark(raw[len(valueMagic):])
	if !ok {
		return nil, nil, errs.New(errs.Corrupt, "the value of %q does not say with which keys it is sealed", stored)
	}
	if err := v.local.Check(mark); err != nil {
		return nil, nil, err
	}
	value, err = v.local.OpenValue([]byte{}, mark.Root, mark.Suite, stored, raw[valueHead:])
	if err != nil {
		return nil, nil, fmt.Errorf("the value of %q: %w", stored, err)
	}
	if !v.hides(stored) {
		return stored, value, nil
	}
	if len(value) < 2 || len(value) < 2+int(binary.BigEndian.Uint16(value)) {
		return nil, nil, errs.New(errs.Corrupt, "the fact %q has no name", stored)
	}
	name, value := value[2:][:binary.BigEndian.Uint16(value)], value[2+int(binary.BigEndian.Uint16(value)):]
	return append([]byte("h/"), name...), value, nil
}

func isSealed(raw []byte) bool {
	return len(raw) >= valueHead && string(raw[:len(valueMagic)]) == valueMagic
}

// beginSealed prepares the metadata for its keys: format is its format, 0 of new metadata. What
// is plain and should be sealed is sealed now. Without keys, sealed metadata is refused.
func (m *DB) beginSealed(format uint32) error {
	as := func(format uint32) pair { return pair{formatKey, binary.BigEndian.AppendUint32(nil, format)} }
	switch {
	case m.vals.local == nil && format == 0:
		return m.save([]pair{as(formatVersion)})
	case m.vals.local == nil && format != formatVersion:
		return fmt.Errorf("the metadata in %s: %w", m.opts.Dir, m.vals.local.Check(seal.Mark{Domain: 1}))
	case m.vals.local == nil:
		return nil
	case format == 0 || format == formatVersion:
		now := uint32(formatSealing)
		if format == 0 {
			now = formatSealed
		}
		if err := m.save([]pair{as(now), {"h/" + keysFact, []byte{1}}}); err != nil {
			return fmt.Errorf("the metadata cannot be sealed: %w", err)
		}
		format = now
	}
	if known, err := m.Fact(keysFact); err != nil || known == nil {
		if err == nil || errs.KindOf(err) == errs.Corrupt {
			err = errs.New(errs.Unavailable, "it does not open with the key of this data directory (%w)", seal.ErrLocked)
		}
		return fmt.Errorf("the metadata in %s: %w", m.opts.Dir, err)
	}
	if format == formatSealing {
		if err := m.sealOld(as(formatSealed)); err != nil {
			return fmt.Errorf("the metadata cannot be sealed: %w", err)
		}
	}
	m.vals.strict = true
	return nil
}

// sealOld seals all values that are plain, and lets the database drop the files that have
// them. It can be interrupted, and continues at the next start.
func (m *DB) sealOld(done pair) error {
	in := m.in
	if in.readOnly {
		return m.Err()
	}
	in.fence.setHurry(true) // a full disk is an error, and not waited for
	if err := in.run(func() error { return sealAll(in.db, m.vals) }); err != nil {
		return m.describe(err)
	}
	if err := m.save([]pair{done}); err != nil {
		return err
	}
	// Only an opened database gives up the files of its log that it would use again.
	if err := in.close(); err != nil {
		return m.describe(err)
	}
	m.in = nil
	return m.begin()
}

// sealBatch is how many bytes of values are sealed at once.
const sealBatch = 1 << 20

func sealAll(db *pebble.DB, v *values) error {
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	defer func() { _ = it.Close() }()
	b := db.NewBatch()
	defer func() { _ = b.Close() }()
	for ok := it.First(); ok; ok = it.Next() {
		key, raw := it.Key(), it.Value()
		if !v.covers(key) || isSealed(raw) {
			continue
		}
		stored := v.stored(key)
		if !bytes.Equal(stored, key) {
			if err := b.Delete(key, nil); err != nil {
				return err
			}
		}
		if err := b.Set(stored, v.seal(stored, key, raw), nil); err != nil {
			return err
		}
		if b.Len() < sealBatch {
			continue
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			return err
		}
		b.Reset()
	}
	if err := it.Close(); err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return err
	}
	if err := db.Flush(); err != nil {
		return err
	}
	return db.Compact(context.Background(), []byte{0}, []byte{0xff}, false)
}
