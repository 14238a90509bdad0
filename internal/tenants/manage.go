package tenants

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/seal"
)

// Birth says what a new tenant is.
type Birth struct {
	Name   string
	Keys   []keys.Provider // for whom its keyring is wrapped; none: it is plain
	OneKey bool            // one provider is enough
	Suite  seal.Suite
	Public bool
	Hidden bool // the names of its volumes are hidden from the store
	SSE    string
	KMSKey string
}

// Create makes a tenant. One that exists, or that has volumes in the store, is
// errs.Exists. The providers of this process must be able to open a sealed one: a mistake
// is found now, and not when something is to be read.
func (t *Tenants) Create(ctx context.Context, b Birth) (Info, error) {
	if !commitlog.ValidName(b.Name) {
		return Info{}, errs.New(errs.Invalid, "the name %.120q of a tenant must have 1 to 100 letters, digits, '.', '_' or '-', and begin with a letter or digit", b.Name)
	}
	if err := b.hides(); err != nil {
		return Info{}, err
	}
	e := t.of(b.Name)
	if err := e.take(ctx); err != nil {
		return Info{}, err
	}
	defer e.give()
	if _, err := load(ctx, t.o.Store, b.Name); !errors.Is(err, errs.NotFound) {
		if err == nil {
			err = errs.New(errs.Exists, "there is a tenant %q already", b.Name)
		}
		return Info{}, err
	}
	r := &Record{Tenant: b.Name, Public: b.Public, Hidden: b.Hidden, SSE: b.SSE, KMSKey: b.KMSKey, CreatedAt: t.o.Now()}
	var ring *keys.Ring
	if len(b.Keys) > 0 {
		if err := t.unused(ctx, b.Name); err != nil {
			return Info{}, err
		}
		var err error
		if ring, err = t.bear(ctx, &b, false); err != nil {
			return Info{}, err
		}
		r.Domain = ring.Domain()
	} else if b.Public {
		return Info{}, errs.New(errs.Invalid, "tenant %q has no keys, which a public tenant needs: name key providers (--key), or have this daemon know some (glide serve --key)", b.Name)
	} else if b.SSE != "" {
		return Info{}, errs.New(errs.Invalid, "tenant %q has no keys, and packs of plain tenants are stored side by side: a tenant that the store is to encrypt with a key of its own needs key providers, too; for all of a store, put sse= into its URL", b.Name)
	}
	if err := t.write(ctx, r); err != nil {
		return Info{}, err
	}
	e.record = r
	if ring == nil {
		return t.info(e), nil
	}
	if err := t.adopt(e, ring); err != nil {
		return Info{}, err
	}
	return t.info(e), nil
}

// hides refuses names that cannot be hidden.
func (b *Birth) hides() error {
	switch {
	case b.Hidden && b.Public:
		return errs.New(errs.Invalid, "tenant %q cannot hide names and be public: who forks an image must find it, and has no key for names", b.Name)
	case b.Hidden && len(b.Keys) == 0:
		return errs.New(errs.Invalid, "tenant %q has no keys, with which names are hidden: name key providers (--key), or have this daemon know some (glide serve --key)", b.Name)
	}
	return nil
}

// unused makes sure that a tenant has nothing in the store.
func (t *Tenants) unused(ctx context.Context, name string) error {
	infos, err := t.o.Store.List(ctx, "t/"+name+"/", "", 1)
	if err == nil && len(infos) > 0 {
		err = errs.New(errs.Exists, "tenant %q has volumes in the store, which are not sealed: glide tenant seal %s --key PROVIDER moves them", name, name)
	}
	return err
}

// bear makes the first keyring of a tenant.
func (t *Tenants) bear(ctx context.Context, b *Birth, plain bool) (*keys.Ring, error) {
	with := *t.keyrings
	with.Providers = b.Keys
	return t.first(ctx, b.SSE, b.KMSKey, func(domain uint32) (string, *keys.Ring, error) {
		ring, err := with.Create(ctx, keys.Birth{Domain: domain, Tenant: b.Name, Suite: b.Suite, OneKey: b.OneKey, Plain: plain, Public: b.Public, Hidden: b.Hidden})
		return b.Name, ring, err
	})
}

// first makes the first keyring of a new domain, and opens it with what this process has.
func (t *Tenants) first(ctx context.Context, sse, kmsKey string, make func(domain uint32) (name string, _ *keys.Ring, _ error)) (*keys.Ring, error) {
	for {
		var n [4]byte
		_, _ = rand.Read(n[:]) // fresh-nonce: never from the generator that was handed in
		domain := binary.LittleEndian.Uint32(n[:])
		if domain == 0 {
			continue
		}
		// The keyring is the first object for which the store proves that it encrypts.
		if err := t.encryptAs(&Record{Domain: domain, SSE: sse, KMSKey: kmsKey}); err != nil {
			return nil, err
		}
		name, ring, err := make(domain)
		if errors.Is(err, errs.Exists) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if _, err := t.keyrings.Open(ctx, domain, name, keys.Seen{}); err != nil {
			return nil, errors.Join(fmt.Errorf("this daemon cannot open what it would seal (glide serve --key): %w", err), t.keyrings.Erase(ctx, domain))
		}
		return ring, nil
	}
}

// write creates the record of a tenant. An answer that was lost may have been a success.
func (t *Tenants) write(ctx context.Context, r *Record) error {
	raw, err := r.encode()
	if err != nil {
		return err
	}
	key := recordKey(r.Tenant)
	if err = t.o.Store.PutIfAbsent(ctx, key, raw); err == nil {
		return nil
	}
	if there, gerr := t.o.Store.Get(ctx, key); gerr == nil && bytes.Equal(there, raw) {
		return nil
	}
	if errors.Is(err, errs.Exists) {
		return errs.New(errs.Exists, "there is a tenant %q already", r.Tenant)
	}
	return err
}

// Info is what is known of a tenant.
type Info struct {
	Record
	Locked   string // why its keys are not here; "" if they are, or it has none
	Moving   bool   // it has plain volumes still (see keys.Ring.Plain)
	Keyring  uint64
	OpenedBy string
	Suite    seal.Suite
	Wraps    []keys.Wrap
	Roots    []keys.Root
}

// info is about a tenant whose turn it is.
func (t *Tenants) info(e *tenant) Info {
	i := Info{Record: Record{Tenant: e.name}}
	if e.record != nil {
		i.Record = *e.record
	}
	if e.why != nil {
		i.Locked = e.why.Error()
	}
	if r := e.ring; r != nil && e.why == nil {
		i.Public, i.Hidden, i.Moving, i.Keyring, i.OpenedBy, i.Suite, i.Wraps, i.Roots = r.Public(), r.Hidden(), r.Plain(), r.Seen().Number, r.OpenedBy(), r.Suite(), r.Wraps(), r.Roots()
	}
	return i
}

// Show returns what is known of a tenant, after it has looked again. One that has no record
// is errs.NotFound, unless it has volumes: then it is a plain one.
func (t *Tenants) Show(ctx context.Context, name string) (Info, error) {
	r, err := load(ctx, t.o.Store, name)
	if errors.Is(err, errs.NotFound) {
		if e := t.of(name); e.seen == nil {
			if err := t.unused(ctx, name); !errors.Is(err, errs.Exists) {
				if err == nil {
					err = errs.New(errs.NotFound, "there is no tenant %q: glide tenant ls lists them", name)
				}
				return Info{}, err
			}
		}
	} else if err != nil {
		return Info{}, err
	}
	e := t.of(name)
	if err := e.take(ctx); err != nil {
		return Info{}, err
	}
	defer e.give()
	if e.ring != nil && e.why == nil {
		t.refresh(ctx, e)
	} else if err := t.look(ctx, e); err != nil && e.why == nil {
		return Info{}, err
	}
	if e.record == nil && r != nil {
		e.record = r
	}
	return t.info(e), nil
}

// change makes the next keyring of a tenant, whose keys must be here.
func (t *Tenants) change(ctx context.Context, name string, make func(*keys.Ring) (*keys.Ring, error)) (Info, error) {
	if _, err := t.Show(ctx, name); err != nil {
		return Info{}, err
	}
	e := t.of(name)
	if err := e.take(ctx); err != nil {
		return Info{}, err
	}
	defer e.give()
	switch {
	case e.why != nil:
		return Info{}, e.why
	case e.ring == nil:
		return Info{}, errs.New(errs.Invalid, "tenant %q is plain and has no keys: glide tenant seal %s --key PROVIDER gives it some", name, name)
	}
	ring, err := make(e.ring)
	if ring != nil {
		if aerr := t.adopt(e, ring); aerr != nil {
			return Info{}, errors.Join(err, aerr)
		}
	}
	return t.info(e), err
}

// Rewrap wraps the tenant's keys for these providers, and for nobody else.
func (t *Tenants) Rewrap(ctx context.Context, name string, to []keys.Provider, oneKey bool) (Info, error) {
	return t.change(ctx, name, func(r *keys.Ring) (*keys.Ring, error) { return t.keyrings.Rewrap(ctx, r, to, oneKey) })
}

// Add wraps the tenant's keys for these providers, too.
func (t *Tenants) Add(ctx context.Context, name string, more []keys.Provider) (Info, error) {
	return t.change(ctx, name, func(r *keys.Ring) (*keys.Ring, error) { return t.keyrings.Add(ctx, r, more) })
}

// Check tries each wrap of the tenant's keyring with what this process has.
func (t *Tenants) Check(ctx context.Context, name string) ([]keys.Attempt, error) {
	r, err := t.sealedRecord(ctx, name)
	if err != nil {
		return nil, err
	}
	return t.keyrings.Check(ctx, r.Domain)
}

// sealedRecord returns the record of a tenant that must be sealed.
func (t *Tenants) sealedRecord(ctx context.Context, name string) (*Record, error) {
	r, err := load(ctx, t.o.Store, name)
	switch {
	case errors.Is(err, errs.NotFound):
		return nil, errs.New(errs.NotFound, "there is no tenant %q with keys: glide tenant ls lists them", name)
	case err == nil && r.Domain == 0:
		return nil, errs.New(errs.Invalid, "tenant %q is plain and has no keys", name)
	}
	return r, err
}

// Rotate begins a new root. What is new is sealed with it, what is there stays as it is. With
// conv, what is new is no more deduplicated with what is there.
func (t *Tenants) Rotate(ctx context.Context, name string, conv bool) (Info, error) {
	return t.change(ctx, name, func(r *keys.Ring) (*keys.Ring, error) { return t.keyrings.Rotate(ctx, r, conv) })
}

// Retire drops the key of an old root. The caller has made sure that nothing is sealed with
// it (package rekey does): what was is lost.
func (t *Tenants) Retire(ctx context.Context, name string, root uint32) (Info, error) {
	return t.change(ctx, name, func(r *keys.Ring) (*keys.Ring, error) { return t.keyrings.Retire(ctx, r, root) })
}

// Erase deletes the keys of a tenant, and of its isolated domains, or those of one isolated
// domain: nothing that it has in the store can be read again, by anybody who has no copy of a
// keyring.
func (t *Tenants) Erase(ctx context.Context, name string) error {
	r, err := t.sealedRecord(ctx, name)
	if err != nil {
		return err
	}
	further, err := t.Isolated(ctx, name)
	for _, x := range further {
		err = errors.Join(err, t.Erase(ctx, x))
	}
	if err != nil {
		return err
	}
	e := t.of(name)
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.give()
	if err := t.keyrings.Erase(ctx, r.Domain); err != nil {
		return err
	}
	e.record = r
	return t.forget(ctx, e)
}

// forget finds out that the keys are gone.
func (t *Tenants) forget(ctx context.Context, e *tenant) error {
	_, err := t.keyrings.Open(ctx, e.record.Domain, e.name, keys.Seen{})
	if !errors.Is(err, keys.ErrErased) {
		return errs.New(errs.Internal, "the keys of tenant %q are still there (%v)", e.name, err)
	}
	t.lock(e, err)
	return nil
}
