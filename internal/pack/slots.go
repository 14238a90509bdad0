package pack

import "github.com/paraglide/glide/internal/errs"

// Slot is one slot of a pack, as it is stored.
type Slot struct {
	Hash  Hash
	Off   uint32
	Kind  Kind
	Bytes []byte // header and payload; part of the object
}

// Slots returns the slots of a whole pack in their order, after it has decoded each. It
// does not verify hashes, because it does not know the tenant's key. The errors are
// errs.Corrupt for damage, errs.Unsupported for a newer format.
func Slots(id ID, obj []byte) ([]Slot, error) {
	x, err := readIndex(id.Domain, obj)
	if err != nil {
		return nil, errs.New(errs.KindOf(err), "%s: %w", id.Key(), err)
	}
	if x.ID != id {
		return nil, errs.New(errs.Corrupt, "%s: it says that it is %s", id.Key(), x.ID.Key())
	}
	out := make([]Slot, len(x.Entries))
	var raw []byte
	for i := range x.Entries {
		e := &x.Entries[i]
		if raw, err = e.inspect(raw, obj); err != nil {
			return nil, inPack(e.ref(id), err)
		}
		out[i] = Slot{Hash: e.Hash, Off: e.Off, Kind: e.Kind, Bytes: obj[e.Off : e.Off+e.Len]}
	}
	return out, nil
}

// SizeWith returns the size of a pack with that many slots, which have that many bytes.
func SizeWith(slots int, bytes int64) int64 {
	return HeaderLen + bytes + int64(slots)*entryLen + trailerLen
}
