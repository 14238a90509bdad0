// Package forward is where the slots of a pack went: compaction copies the live ones into
// another pack, repair the good ones. References stay as they are; readers that find a
// pack missing, or a slot damaged, follow its forwards (see Store).
//
// A forward is one immutable object for each pair of packs, created if absent:
//
//	forwards/<domain>/<name of the old pack>/<name of the new pack>
//
// A pack can have several, as the copies of its slots may be in several packs. The new
// pack is there before the forward, and the old one is deleted after it.
// docs/formats/forward.md has the bytes, docs/protocols.md the rules.
package forward

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/sealed"
)

const (
	prefix  = "forwards/"
	format  = "glide-forward"
	version = 1
)

// Slot is where one slot went.
type Slot struct {
	Off uint32 // in the old pack
	Len uint32
	To  uint32 // offset in the new pack
}

// MarshalJSON writes an array of three numbers: there are many slots.
func (s Slot) MarshalJSON() ([]byte, error) { return json.Marshal([3]uint32{s.Off, s.Len, s.To}) }

// UnmarshalJSON is the inverse of MarshalJSON.
func (s *Slot) UnmarshalJSON(b []byte) error {
	var a [3]uint32
	err := json.Unmarshal(b, &a)
	s.Off, s.Len, s.To = a[0], a[1], a[2]
	return err
}

// Forward says that slots of From have copies in To.
type Forward struct {
	From, To pack.ID
	Slots    []Slot // by Off
}

// dir is the prefix of the keys of a pack's forwards.
func dir(id pack.ID) string { return fmt.Sprintf("%s%08x/%s/", prefix, id.Domain, id) }

// Key returns the key of the object.
func (f *Forward) Key() string { return dir(f.From) + f.To.String() }

// ParseKey returns the packs of a forward. ok is false for any other key.
func ParseKey(key string) (from, to pack.ID, ok bool) {
	rest, ok := strings.CutPrefix(key, prefix)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return from, to, false
	}
	from, ok1 := pack.ParseID(parts[1])
	to, ok2 := pack.ParseID(parts[2])
	f := Forward{From: from, To: to}
	return from, to, ok1 && ok2 && f.Key() == key
}

type wire struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	From    string `json:"from"`
	To      string `json:"to"`
	Slots   []Slot `json:"slots"`
}

func (f *Forward) check() error {
	end := uint64(pack.HeaderLen)
	if len(f.Slots) == 0 || f.From == f.To || f.From.Domain != f.To.Domain {
		return errs.New(errs.Corrupt, "it forwards %d slots of pack %s to pack %s", len(f.Slots), f.From, f.To)
	}
	for _, s := range f.Slots {
		if uint64(s.Off) < end || s.Len == 0 || s.To < pack.HeaderLen || max(uint64(s.Off), uint64(s.To))+uint64(s.Len) > pack.MaxObject {
			return errs.New(errs.Corrupt, "it forwards %d bytes at %d to %d", s.Len, s.Off, s.To)
		}
		end = uint64(s.Off) + uint64(s.Len)
	}
	return nil
}

// Decode reads a forward. Damage is errs.Corrupt, a newer version errs.Unsupported.
func Decode(key string, raw []byte) (*Forward, error) {
	var w wire
	body, is, err := sealed.Open(raw)
	if err == nil {
		err = json.Unmarshal(body, &w)
	}
	switch {
	case err != nil:
		return nil, errs.New(errs.Corrupt, "%s is no forward: %w", key, err)
	case w.Format != format || w.Version < 1 || !is:
		return nil, errs.New(errs.Corrupt, "%s is no forward: it has format %.40q, version %d, and a seal: %v", key, w.Format, w.Version, is)
	case w.Version > version:
		return nil, errs.New(errs.Unsupported, "%s is of a newer version of glide: use that version here too", key)
	}
	f := &Forward{Slots: w.Slots}
	var ok1, ok2 bool
	f.From, ok1 = pack.ParseID(w.From)
	f.To, ok2 = pack.ParseID(w.To)
	if !ok1 || !ok2 || f.Key() != key {
		return nil, errs.New(errs.Corrupt, "%s is the forward of %.60q to %.60q", key, w.From, w.To)
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return f, nil
}

// Encode returns the object.
func (f *Forward) Encode() ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, errs.New(errs.Invalid, "no such forward can be: %w", err)
	}
	return sealed.Marshal(wire{format, version, f.From.String(), f.To.String(), f.Slots})
}

// Create creates the object, or finds it created. The new pack must be stored, and must
// be announced until Create returns. Slots are sorted.
func Create(ctx context.Context, store objstore.Store, f Forward) error {
	slices.SortFunc(f.Slots, func(a, b Slot) int { return cmp.Compare(a.Off, b.Off) })
	raw, err := f.Encode()
	if err != nil {
		return err
	}
	err = store.PutIfAbsent(ctx, f.Key(), raw)
	if errors.Is(err, errs.Exists) {
		return nil // a pair of packs has one forward: the new pack was made for it
	}
	return err
}

// Of reads the forwards of a pack.
func Of(ctx context.Context, store objstore.Store, id pack.ID) ([]*Forward, error) {
	return list(ctx, store, dir(id))
}

func list(ctx context.Context, store objstore.Store, under string) (out []*Forward, err error) {
	var keys []string
	err = objstore.ListAll(ctx, store, under, "", func(in objstore.Info) bool { keys = append(keys, in.Key); return true })
	if err != nil {
		return nil, err
	}
	var damaged error
	for _, k := range keys {
		f, err := Read(ctx, store, k)
		switch {
		case errors.Is(err, errs.NotFound): // collected meanwhile
		case errors.Is(err, errs.Corrupt):
			damaged = err // another may have the slot
		case err != nil:
			return nil, err
		default:
			out = append(out, f)
		}
	}
	if len(out) > 0 {
		damaged = nil
	}
	return out, damaged
}

// Read reads one forward.
func Read(ctx context.Context, store objstore.Store, key string) (*Forward, error) {
	raw, err := store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return Decode(key, raw)
}

// Each calls fn with the packs of every forward in the store, by the names of the old
// ones.
func Each(ctx context.Context, store objstore.Store, fn func(from, to pack.ID, in objstore.Info)) error {
	return objstore.ListAll(ctx, store, prefix, "", func(in objstore.Info) bool {
		if from, to, ok := ParseKey(in.Key); ok {
			fn(from, to, in)
		}
		return true
	})
}

// find returns the slot that begins at off, nil if it is not forwarded.
func (f *Forward) find(off uint32) *Slot {
	i, ok := slices.BinarySearchFunc(f.Slots, off, func(s Slot, off uint32) int { return cmp.Compare(s.Off, off) })
	if !ok {
		return nil
	}
	return &f.Slots[i]
}

// Ref returns where the slot of ref went, if this forward has it.
func (f *Forward) Ref(ref pack.Ref) (pack.Ref, bool) {
	s := f.find(ref.Off)
	if s == nil || s.Len != ref.Len || ref.Pack != f.From {
		return pack.Ref{}, false
	}
	ref.Pack, ref.Off = f.To, s.To
	return ref, true
}

// Past returns a forward from the old pack of f to the new one of next, which continues f:
// of the slots that both have.
func (f *Forward) Past(next *Forward) Forward {
	out := Forward{From: f.From, To: next.To}
	for _, s := range f.Slots {
		if n := next.find(s.To); n != nil && n.Len == s.Len {
			out.Slots = append(out.Slots, Slot{Off: s.Off, Len: s.Len, To: n.To})
		}
	}
	return out
}
