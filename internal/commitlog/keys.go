package commitlog

import (
	"context"
	"errors"
	"slices"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog/internal/frame"
	"github.com/paraglide/glide/internal/commitlog/internal/section"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

// Keys seal and open the objects of a tenant's logs. Without a Domain they are for plain
// ones.
type Keys struct {
	Domain  *seal.Domain
	Keyring uint64 // the number of the keyring that they are from
	// Plain objects are read, too: the tenant is being moved into its domain. Otherwise
	// one among sealed objects is ErrPlain (no-downgrade).
	Plain bool
	// Hidden: the keys of objects have the names of volumes hidden.
	Hidden bool
}

// ErrPlain (errs.Corrupt): an object of a sealed tenant is from before it was, or forged.
var ErrPlain = errors.New("plain")

// KeyRing has the keys of domains, by their names (see DomainName). Its methods are called
// concurrently.
type KeyRing interface {
	// Keys returns the keys of a domain, or why it is locked. It is called for every object
	// that is written, under the locks of Owners: for a domain that it was asked for before
	// it must not wait.
	Keys(ctx context.Context, domain string) (Keys, error)
	// ForNames is Keys for who needs to know how names are hidden: none for clear ones. It
	// may know more than Keys of a tenant that is locked.
	ForNames(ctx context.Context, tenant string) (Keys, error)
	// Plain tells whether the tenant may be a plain one, as far as is known without
	// asking anybody.
	Plain(tenant string) bool
	// Renew looks for newer keys of a domain: an object is sealed with a root that those
	// here lack.
	Renew(ctx context.Context, domain string) error
}

// WithKeys returns the store with the keys of its tenants: with it, the functions of this
// package and Owners read and write sealed objects of those that have keys. A rotation
// counts from the next object. If keys are missing the call fails with the reason, and
// nothing is sent.
func WithKeys(store objstore.Store, keys KeyRing) objstore.Store { return &keyedStore{store, keys} }

type keyedStore struct {
	objstore.Store
	keys KeyRing
}

// keysOf returns the keys with which a domain's objects are written to a store; none for
// plain ones.
func keysOf(ctx context.Context, store objstore.Store, domain string) (Keys, error) {
	if s, ok := store.(*keyedStore); ok {
		return s.keys.Keys(ctx, domain)
	}
	return Keys{}, nil
}

// DomainOf is the name of the domain in which an object of a tenant says that it is. It looks
// at the header only, and needs no keys.
func DomainOf(tenant string, raw []byte) string { return DomainName(tenant, frame.Domain(raw)) }

// Read is DecodeFor with the keys that the store has for the object with this key, where it
// must belong.
func Read(ctx context.Context, store objstore.Store, key string, raw []byte) (*Object, error) {
	log, g, err := ParseKey(key)
	if err != nil {
		return nil, err
	}
	o, err := open(ctx, store, log.Tenant, key, raw)
	if err == nil {
		err = o.belongs(ctx, store, log, g)
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

// open is Read for the object of a tenant, wherever it belongs. As long as nothing says that the tenant is sealed, nobody is asked about a
// plain object: a store that forged it would forge the answer. A keyring that is newer than the one here is looked for: it may grant more.
func open(ctx context.Context, store objstore.Store, tenant, key string, raw []byte) (*Object, error) {
	s, ok := store.(*keyedStore)
	if !ok || !frame.IsSealed(raw) && s.keys.Plain(tenant) {
		return DecodeFor(raw, key, nil)
	}
	domain := DomainOf(tenant, raw)
	for again := false; ; again = true {
		k, err := s.keys.Keys(ctx, domain)
		if err != nil {
			return nil, err
		}
		if k.Domain != nil && !frame.IsSealed(raw) {
			if o, err := DecodeFor(raw, key, nil); k.Plain {
				return o, err
			} else if err != nil { // whatever version it says: who has no keys cannot fence
				return nil, errs.New(errs.Corrupt, "tenant %q is sealed, and this is not: %v", tenant, err)
			}
			return nil, errs.New(errs.Corrupt, "it is %w, and tenant %q is sealed: it is from before that, or was put there by somebody else", ErrPlain, tenant)
		}
		o, err := DecodeFor(raw, key, k.Domain)
		late := k.Domain == nil && errors.Is(err, seal.ErrLocked) // another host sealed the tenant
		if again || !late && !errors.Is(err, seal.ErrNoRoot) && (err != nil || o.State.Keyring <= k.Keyring) {
			return o, err
		}
		if rerr := s.keys.Renew(ctx, domain); rerr != nil && err != nil {
			return nil, rerr
		}
	}
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
	others, last := []uint32{k.Domain.ID()}, o.newest()
	if last != nil && len(s.DataCommits) > 0 { // those may name them; what is plain, the state names itself
		others = append(others, slices.DeleteFunc(slices.Clone(last.State.Domains), func(d uint32) bool { return d == 0 })...)
	}
	if k.Plain && len(s.Domains) == 0 && (last == nil || last.NamesPlain()) { // it may go on with what was there
		others = append(others, 0)
	}
	return s.name(obj.Data, others...)
}

// NamesPlain tells whether the object is plain, or may name what is.
func (o *Object) NamesPlain() bool { return o.Domain == 0 || slices.Contains(o.State.Domains, 0) }
