package pack

// Slot is one slot of a pack, as it is stored.
type Slot struct {
	Hash  Hash
	Off   uint32
	Kind  Kind
	Bytes []byte // header and payload; part of the object
}

// Slots returns the slots of a whole pack of the Codec's domain in their order. Of a plain
// pack it decodes each; it does not verify hashes, because it does not know the tenant's key.
// Of a sealed pack it opens the index, for which the keys of structure do, and compares each
// slot's header and checksum with it. It opens no slot: nothing binds a slot to its place, so
// it can be copied as it is. The errors are errs.Corrupt for damage, errs.Unsupported for a
// newer format, and those of Codec.
func (c Codec) Slots(id ID, obj []byte) ([]Slot, error) {
	x, err := c.indexOf(id, obj)
	if err != nil {
		return nil, err
	}
	out := make([]Slot, len(x.Entries))
	var raw []byte
	for i := range x.Entries {
		e := &x.Entries[i]
		if x.root != 0 {
			err = e.compare(obj)
		} else {
			raw, err = c.inspect(raw, x, i, obj)
		}
		if err != nil {
			return nil, inPack(e.ref(id), err)
		}
		out[i] = Slot{Hash: e.Hash, Off: e.Off, Kind: e.Kind, Bytes: obj[e.Off : e.Off+e.Len]}
	}
	return out, nil
}

// SizeWith returns the size of a pack that the Codec writes with that many slots, which have
// that many bytes.
func (c Codec) SizeWith(slots int, bytes int64) int64 {
	return HeaderLen + bytes + int64(slots)*entryLen + int64(c.overhead()) + trailerLen
}
