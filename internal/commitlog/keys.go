package commitlog

import (
	"slices"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog/internal/section"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

// Keys seal and open the objects of a tenant's logs.
type Keys struct {
	Domain  *seal.Domain
	Keyring uint64 // the number of the keyring that they are from
}

// WithKeys returns the store for the logs of a tenant that seals: with it, the functions
// of this package and Owners write sealed objects and read nothing else. keys is called
// for every object, so a rotation counts from the next one. Its error, why the tenant is
// locked, is that of the call; nothing is sent then. It is called concurrently, and under
// the locks of Owners: it must not wait.
func WithKeys(store objstore.Store, keys func() (Keys, error)) objstore.Store {
	return &keyedStore{store, keys}
}

type keyedStore struct {
	objstore.Store
	keys func() (Keys, error)
}

// keysOf returns the keys for what is in a store; none for plain objects.
func keysOf(store objstore.Store) (Keys, error) {
	s, ok := store.(*keyedStore)
	if !ok {
		return Keys{}, nil
	}
	k, err := s.keys()
	if err == nil && k.Domain == nil {
		err = errs.New(errs.Unavailable, "commits of this tenant are %w", seal.ErrLocked)
	}
	return k, err
}

// names tells whether the state has what only sealed objects have.
func (s *State) names() bool {
	return s.Prev != ObjectHash{} || s.Keyring != 0 || len(s.Domains) > 0
}

// roots calls fn with the root, and those of the snapshots.
func (s *State) roots(fn func(blockmap.Root)) {
	fn(s.Root)
	for i := range s.Snapshots {
		fn(s.Snapshots[i].Root)
	}
}

// allNamed tells whether Domains is in order and has those of all roots.
func (s *State) allNamed() bool {
	ok := len(s.Domains) <= maxDomains && slices.IsSorted(s.Domains) && len(slices.Compact(slices.Clone(s.Domains))) == len(s.Domains)
	s.roots(func(r blockmap.Root) {
		if _, found := slices.BinarySearch(s.Domains, r.Ref.Pack.Domain); !r.IsHole() && !found {
			ok = false
		}
	})
	return ok
}

// name adds to Domains those of all roots, of a data section, and others.
func (s *State) name(data []byte, others ...uint32) error {
	list := append(slices.Clone(s.Domains), others...)
	s.roots(func(r blockmap.Root) {
		if !r.IsHole() {
			list = append(list, r.Ref.Pack.Domain)
		}
	})
	if section.Blocks(data) > 0 {
		ranges, err := DecodeData(data)
		if err != nil {
			return err
		}
		for _, r := range ranges {
			if r.Block != nil {
				list = append(list, r.Block.Pack.Domain)
			}
		}
	}
	slices.Sort(list)
	s.Domains = slices.Compact(list)
	return nil
}

// before is the hash of the object before a place, as far as the Owner knows it.
func (o *Owner) before(at Generation) ObjectHash {
	last := o.newest()
	switch {
	case at.Number == 1 && at.Epoch == o.closed.at.Epoch+1:
		return o.closed.hash
	case last != nil && last.Generation.Next() == at:
		return last.Hash
	}
	return ObjectHash{}
}

// newest is the last object that was sent, or else took effect; nil before all.
func (o *Owner) newest() *Object {
	if n := len(o.flights); n > 0 {
		return o.flights[n-1].object
	}
	return o.tip
}

// sealing fills in what only sealed objects have.
func (o *Owner) sealing(k Keys, obj *Object, prev ObjectHash) error {
	s := &obj.State
	s.Prev, s.Keyring, obj.Domain = prev, k.Keyring, k.Domain.ID()
	if obj.Bare() {
		return nil
	}
	others := []uint32{k.Domain.ID()}
	if last := o.newest(); last != nil && len(s.DataCommits) > 0 {
		others = append(others, last.State.Domains...) // those data commits may name them
	}
	return s.name(obj.Data, others...)
}
