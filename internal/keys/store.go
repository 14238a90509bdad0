package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

const (
	// waitFor is how long a provider may take unless set otherwise.
	waitFor = 10 * time.Second
	// tries bounds how often a change starts again because another one won, and a read
	// because what it had listed was deleted.
	tries = 16
	// tombstone is the name, among the keyrings of a domain, that says it was erased.
	tombstone = "erased"
	digits    = 10
)

func prefix(domain uint32) string { return fmt.Sprintf("keys/%08x/", domain) }

func objectKey(domain uint32, number uint64) string {
	return fmt.Sprintf("%s%0*d", prefix(domain), digits, number)
}

// Keyrings are the keyrings in a store, and what opens them here.
type Keyrings struct {
	Store     objstore.Store
	Providers []Provider       // tried in this order
	Limit     time.Duration    // how long a provider may take; 0 is 10 s
	Now       func() time.Time // for people only
}

func (k *Keyrings) limit() time.Duration {
	if k.Limit > 0 {
		return k.Limit
	}
	return waitFor
}

// Birth says what a new domain is.
type Birth struct {
	Domain uint32
	Tenant string
	Suite  seal.Suite
	OneKey bool // one provider is enough: who loses its key loses the domain
	Plain  bool // the tenant has plain volumes, which are moved
	Public bool // others may fork what it has
	Hidden bool // the names of volumes are hidden from the store
}

// Create makes the first keyring of a domain, wrapped with all providers. They must be
// two, unless OneKey is set. A domain that has a keyring, or was erased, is errs.Exists.
func (k *Keyrings) Create(ctx context.Context, b Birth) (*Ring, error) {
	if err := k.unused(ctx, b.Domain); err != nil {
		return nil, err
	}
	c := &contents{Tenant: b.Tenant, Conv: seal.NewKey().Append(nil), Name: seal.NewKey().Append(nil), Plain: b.Plain, Public: b.Public}
	if b.Hidden {
		c.Names = hiddenNames
	}
	c.rotate(k.Now())
	return k.write(ctx, &draft{domain: b.Domain, number: 1, suite: b.Suite, c: c, wrap: func(kek seal.Key) ([]Wrap, error) {
		return k.wrapAll(ctx, b.Domain, kek, k.Providers, b.OneKey)
	}})
}

// unused makes sure that a number is no domain's.
func (k *Keyrings) unused(ctx context.Context, domain uint32) error {
	number, erased, err := k.newest(ctx, domain)
	if err == nil && (number != 0 || erased) {
		err = errs.New(errs.Exists, "domain %08x has a keyring, or had one: take another number", domain)
	}
	return err
}

// Isolate makes the first keyring of a further domain, called name, that opens for all for
// whom the keyring of a tenant does.
func (k *Keyrings) Isolate(ctx context.Context, of *Ring, domain uint32, name string) (*Ring, error) {
	if err := k.unused(ctx, domain); err != nil {
		return nil, err
	}
	c := &contents{Tenant: name, Conv: seal.NewKey().Append(nil), Name: seal.NewKey().Append(nil)}
	c.rotate(k.Now())
	return k.write(ctx, &draft{domain: domain, number: 1, suite: of.header.Suite, c: c, wrap: func(kek seal.Key) ([]Wrap, error) {
		return k.wrapAs(ctx, of, domain, kek)
	}})
}

// Open opens the keyring that is in force, which must be the tenant's. seen is what
// the host remembers: an older keyring is ErrOld, another one with the same number or after
// it errs.Corrupt. A domain that does not open is ErrAway, ErrDenied, ErrWrongKey or ErrErased.
func (k *Keyrings) Open(ctx context.Context, domain uint32, tenant string, seen Seen) (*Ring, error) {
	for range tries {
		number, erased, err := k.newest(ctx, domain)
		switch {
		case err != nil:
			return nil, err
		case erased:
			return nil, locked(ErrErased, "domain %08x was erased: what it stored cannot be read again", domain)
		case number < seen.Number:
			return nil, &marked{ErrOld, errs.New(errs.Unavailable, "the store shows keyring %d of domain %08x as the newest, and this host has seen %d: "+
				"the store lost the newer ones, or hides them; restore keys/%08x/ from a backup", number, domain, seen.Number, domain)}
		case number == 0:
			return nil, locked(ErrErased, "domain %08x has no keyring: it was deleted without a trace, or the store hides it; restore keys/%08x/ from a backup", domain, domain)
		}
		raw, err := k.Store.Get(ctx, objectKey(domain, number))
		if errors.Is(err, errs.NotFound) {
			continue // wrapped again meanwhile, or erased
		}
		if err != nil {
			return nil, err
		}
		return k.open(ctx, raw, objectKey(domain, number), tenant, seen)
	}
	return nil, errs.New(errs.Busy, "the keyrings of domain %08x come and go; try again", domain)
}

// Saved opens the bytes of a keyring that this host opened before (see Ring.Bytes), without
// the store. There may be a newer one.
func (k *Keyrings) Saved(ctx context.Context, raw []byte, domain uint32, tenant string) (*Ring, error) {
	o, err := decode(raw)
	if err != nil {
		return nil, err
	}
	if o.domain != domain {
		return nil, corrupt("what this host remembers is a keyring of domain %08x, not of %08x", o.domain, domain)
	}
	return k.open(ctx, raw, objectKey(domain, o.number), tenant, Seen{})
}

// Refresh opens the keyring that is in force now, and also checks that its author
// knew the secrets of r. If r is in force still, it is returned, and no provider is asked.
func (k *Keyrings) Refresh(ctx context.Context, r *Ring) (*Ring, error) {
	number, erased, err := k.newest(ctx, r.domain)
	if err == nil && !erased && number == r.number {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	next, err := k.Open(ctx, r.domain, r.Tenant(), r.Seen())
	if err != nil {
		return nil, err
	}
	if !next.c().follows(r.c()) {
		return nil, corrupt("%v was not made from %v: whoever wrote it does not know its secrets", next, r)
	}
	return next, nil
}

// Erased tells whether the domain was erased: a tombstone says so. A domain without keyrings
// may have lost them.
func (k *Keyrings) Erased(ctx context.Context, domain uint32) (bool, error) {
	_, erased, err := k.newest(ctx, domain)
	return erased, err
}

// newest returns the greatest number of the domain's keyrings, 0 if there are none.
func (k *Keyrings) newest(ctx context.Context, domain uint32) (number uint64, erased bool, err error) {
	err = objstore.ListAll(ctx, k.Store, prefix(domain), "", func(in objstore.Info) bool {
		name := strings.TrimPrefix(in.Key, prefix(domain))
		if name == tombstone {
			erased = true
		} else if n, err := strconv.ParseUint(name, 10, 64); err == nil && objectKey(domain, n) == in.Key {
			number = max(number, n)
		}
		return true
	})
	return number, erased, err
}

func (k *Keyrings) open(ctx context.Context, raw []byte, key, tenant string, seen Seen) (*Ring, error) {
	o, err := decode(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	none := [32]byte{}
	switch {
	case objectKey(o.domain, o.number) != key:
		return nil, corrupt("%s is keyring %d of domain %08x", key, o.number, o.domain)
	case o.number == seen.Number && seen.Hash != none && o.hash != seen.Hash,
		o.number == seen.Number+1 && seen.Hash != none && o.prev != seen.Hash:
		return nil, corrupt("%s does not follow from keyring %d, which this host has seen: the store has another history", key, seen.Number)
	}
	c, by, err := k.unwrap(ctx, o)
	if err != nil {
		return nil, err
	}
	if c.Tenant != tenant {
		return nil, corrupt("%s is not a keyring of tenant %q: what says that it is was changed", key, tenant)
	}
	return &Ring{o.domain, o.number, o.hash, o.header, by, raw, func() *contents { return c }}, nil
}

// unwrap tries the providers on the wraps of their kinds.
func (k *Keyrings) unwrap(ctx context.Context, o *object) (*contents, string, error) {
	var attempts []error
	for _, p := range k.Providers {
		for _, w := range o.header.Wraps {
			if w.Kind != p.Kind() {
				continue
			}
			kek, err := limited(ctx, k.limit(), p, func(ctx context.Context) (seal.Key, error) { return p.Unwrap(ctx, o.domain, w) })
			if err == nil {
				var c *contents
				if c, err = o.open(kek); err == nil {
					return c, p.String(), nil
				}
			}
			if ctx.Err() != nil {
				return nil, "", err
			}
			attempts = append(attempts, fmt.Errorf("domain %08x: %w", o.domain, asLocked(err)))
		}
	}
	if len(attempts) == 0 {
		return nil, "", locked(ErrWrongKey, "keyring %d of domain %08x is wrapped for %s, and this host has none of them", o.number, o.domain, names(o.header.Wraps))
	}
	err := worst(attempts)
	if errors.Is(err, ErrWrongKey) {
		err = fmt.Errorf("%w; keyring %d is wrapped for %s", err, o.number, names(o.header.Wraps))
	}
	return nil, "", err
}

func names(wraps []Wrap) string {
	var out []string
	for _, w := range wraps {
		out = append(out, fmt.Sprintf("%.100s", w))
	}
	return strings.Join(out, ", ")
}

// Rewrap wraps the secrets of r for these providers, and for nobody else, in a new keyring,
// and deletes the older ones. Who has a copy of an older one, and could open it, still can.
// oneKey is as in Birth. If only the deletion fails, the new keyring comes with the error;
// calling it again deletes them.
func (k *Keyrings) Rewrap(ctx context.Context, r *Ring, to []Provider, oneKey bool) (*Ring, error) {
	next, err := k.change(ctx, r, func(*Ring, *contents) (bool, error) { return true, nil },
		func(_ *Ring, kek seal.Key) ([]Wrap, error) { return k.wrapAll(ctx, r.domain, kek, to, oneKey) })
	if err != nil {
		return nil, err
	}
	return next, k.deleteOlder(ctx, next)
}

// Add wraps the secrets of r for these providers, too. It deletes nothing.
func (k *Keyrings) Add(ctx context.Context, r *Ring, more []Provider) (*Ring, error) {
	same := k.sameWraps(ctx)
	return k.change(ctx, r, func(*Ring, *contents) (bool, error) { return len(more) > 0, nil }, func(from *Ring, kek seal.Key) ([]Wrap, error) {
		wraps, err := same(from, kek)
		if err != nil {
			return nil, err
		}
		added, err := k.wrapAll(ctx, r.domain, kek, more, true)
		for _, w := range added {
			if slices.ContainsFunc(wraps, func(old Wrap) bool { return old.String() == w.String() }) {
				return nil, errs.New(errs.Invalid, "the keyring is wrapped for %.100s already", w)
			}
		}
		return append(wraps, added...), err
	})
}

// Attempt is what came of opening a keyring by one of its wraps.
type Attempt struct {
	Wrap Wrap
	With Provider // nil: there is none of that kind here
	Err  error    // why it does not open; nil if With is
}

// Check tries every wrap of the keyring that is in force with every provider of its kind: a
// wrap that somebody relies on for the day when another fails may be broken since long.
func (k *Keyrings) Check(ctx context.Context, domain uint32) (list []Attempt, err error) {
	number, erased, err := k.newest(ctx, domain)
	if err != nil {
		return nil, err
	}
	if erased || number == 0 {
		return nil, locked(ErrErased, "domain %08x was erased: it has no keyring", domain)
	}
	raw, err := k.Store.Get(ctx, objectKey(domain, number))
	if err != nil {
		return nil, err
	}
	o, err := decode(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", objectKey(domain, number), err)
	}
	for _, w := range o.header.Wraps {
		tried := Attempt{Wrap: w}
		for _, p := range k.Providers {
			if p.Kind() != w.Kind || tried.With != nil && tried.Err == nil {
				continue
			}
			if raw, is := p.(*rawKey); is && raw.other(w) {
				continue // a key that is for somebody else
			}
			kek, err := limited(ctx, k.limit(), p, func(ctx context.Context) (seal.Key, error) { return p.Unwrap(ctx, domain, w) })
			if err == nil {
				_, err = o.open(kek)
			}
			tried.With, tried.Err = p, err
		}
		list = append(list, tried)
	}
	return list, nil
}

// Rotate begins a new root. Old ones open what was sealed with them. With conv it begins
// another secret for ids, too: what is stored from now on has no id in common with what was.
func (k *Keyrings) Rotate(ctx context.Context, r *Ring, conv bool) (*Ring, error) {
	return k.change(ctx, r, func(_ *Ring, c *contents) (bool, error) {
		if conv {
			return true, c.renew(k.Now())
		}
		c.rotate(k.Now())
		return true, nil
	}, k.sameWraps(ctx))
}

// Retire drops the key of a root, which must not be the current one. The caller has made
// sure that nothing is sealed with it, and what was is lost. It is in older keyrings
// still: Rewrap deletes those.
func (k *Keyrings) Retire(ctx context.Context, r *Ring, root uint32) (*Ring, error) {
	return k.change(ctx, r, func(_ *Ring, c *contents) (bool, error) { return c.retire(root) }, k.sameWraps(ctx))
}

// Moved ends the time in which what the tenant stored before is read: nothing needs it.
func (k *Keyrings) Moved(ctx context.Context, r *Ring) (*Ring, error) {
	return k.change(ctx, r, func(_ *Ring, c *contents) (bool, error) { was := c.Plain; c.Plain = false; return was, nil }, k.sameWraps(ctx))
}

// Allow lets the domain of r open what is of another domain, such as that of public images.
// It is repeated when the other domain has rotated, and writes nothing if nothing is new.
func (k *Keyrings) Allow(ctx context.Context, r, other *Ring) (*Ring, error) {
	g := other.grant()
	return k.change(ctx, r, func(_ *Ring, c *contents) (bool, error) { return c.allow(g), nil }, k.sameWraps(ctx))
}

// Allows tells whether the keyring has a grant of all that another one has now.
func (r *Ring) Allows(other *Ring) bool { return !r.c().clone().allow(other.grant()) }

// grant is what lets others open what is of the domain.
func (r *Ring) grant() grant {
	g := grant{Domain: r.domain, Tenant: r.c().Tenant, Conv: r.c().Conv, OldConv: r.c().OldConv}
	for _, root := range r.c().Roots {
		if root.State != Retired {
			g.Roots = append(g.Roots, root)
		}
	}
	return g
}

// change writes the next keyring. If another change won, it is made again from the
// winner's. edit reports whether there is something to write.
func (k *Keyrings) change(ctx context.Context, r *Ring, edit func(*Ring, *contents) (bool, error), wrap func(*Ring, seal.Key) ([]Wrap, error)) (*Ring, error) {
	for range tries {
		var err error
		if r, err = k.Refresh(ctx, r); err != nil {
			return nil, err
		}
		c := r.c().clone()
		if needed, err := edit(r, c); err != nil || !needed {
			return r, err
		}
		from := r
		next, err := k.write(ctx, &draft{domain: r.domain, number: r.number + 1, prev: r.hash, suite: r.header.Suite, c: c,
			wrap: func(kek seal.Key) ([]Wrap, error) { return wrap(from, kek) }})
		if !errors.Is(err, errs.Exists) {
			return next, err
		}
	}
	return nil, errs.New(errs.Busy, "others change the keyring of domain %08x all the time; try again", r.domain)
}

// draft is a keyring that is to be written.
type draft struct {
	domain uint32
	number uint64
	prev   [32]byte
	suite  seal.Suite
	c      *contents
	wrap   func(kek seal.Key) ([]Wrap, error)
}

// write wraps a new KEK and creates the object. errs.Exists means that another one won.
func (k *Keyrings) write(ctx context.Context, d *draft) (*Ring, error) {
	if err := d.suite.Check(); err != nil {
		return nil, err
	}
	kek := seal.NewKey()
	wraps, err := d.wrap(kek)
	if err != nil {
		return nil, err
	}
	h := header{d.suite, wraps}
	raw, err := encode(d.domain, d.number, d.prev, h, kek, d.c)
	if err != nil {
		return nil, err
	}
	key := objectKey(d.domain, d.number)
	if err := k.Store.PutIfAbsent(ctx, key, raw); err != nil {
		// An answer may have been lost, and the request sent again.
		if there, gerr := k.Store.Get(ctx, key); !errors.Is(err, errs.Exists) || gerr != nil || !bytes.Equal(there, raw) {
			return nil, err
		}
	}
	return &Ring{d.domain, d.number, blake3.Sum256(raw), h, "", raw, func() *contents { return d.c }}, nil
}

// wrapAll wraps the KEK with all of these providers.
func (k *Keyrings) wrapAll(ctx context.Context, domain uint32, kek seal.Key, with []Provider, oneKey bool) ([]Wrap, error) {
	var wraps []Wrap
	for _, p := range with {
		w, err := limited(ctx, k.limit(), p, func(ctx context.Context) (Wrap, error) { return p.Wrap(ctx, domain, kek) })
		if err != nil {
			return nil, fmt.Errorf("domain %08x: %w", domain, err)
		}
		if slices.ContainsFunc(wraps, func(other Wrap) bool { return other.String() == w.String() }) {
			return nil, errs.New(errs.Invalid, "two of the key providers have the same key, %.100s, or are passphrases, of which there can be one", w)
		}
		wraps = append(wraps, w)
	}
	if len(wraps) < 2 && !oneKey {
		return nil, errs.New(errs.Invalid, "a keyring has to be wrapped for two key providers, and has %d: who loses the key of the only one loses all data; "+
			"add one, such as age:RECIPIENT, or ask for one key", len(wraps))
	}
	return wraps, nil
}

// sameWraps wraps the KEK for everybody for whom a keyring is wrapped.
func (k *Keyrings) sameWraps(ctx context.Context) func(*Ring, seal.Key) ([]Wrap, error) {
	return func(r *Ring, kek seal.Key) ([]Wrap, error) { return k.wrapAs(ctx, r, r.domain, kek) }
}

// wrapAs wraps the KEK of a domain for everybody for whom a keyring, maybe of another
// domain, is wrapped.
func (k *Keyrings) wrapAs(ctx context.Context, r *Ring, domain uint32, kek seal.Key) ([]Wrap, error) {
	var with []Provider // who is not concerned need not answer
	for _, p := range k.Providers {
		if slices.ContainsFunc(r.header.Wraps, func(w Wrap) bool { return w.Kind == p.Kind() }) {
			with = append(with, p)
		}
	}
	all, err := k.wrapAll(ctx, domain, kek, with, true)
	if err != nil {
		return nil, err
	}
	var wraps []Wrap
	for _, old := range r.header.Wraps {
		w, err := k.again(ctx, r.domain, domain, kek, old, all)
		if err != nil {
			return nil, err
		}
		wraps = append(wraps, w)
	}
	return wraps, nil
}

// again wraps the KEK for whom the old wrap is, which is of the domain was. Who can be written
// to without a secret of theirs need not be among the providers of this host: age and KMS. Not
// so Vault: its URL would be told this host's token on nothing but the word of the keyring.
func (k *Keyrings) again(ctx context.Context, was, domain uint32, kek seal.Key, old Wrap, all []Wrap) (Wrap, error) {
	for _, w := range all {
		if w.String() != old.String() {
			continue
		}
		if w.Kind == kindPassphrase {
			// There is one name for all passphrases. A wrong one must not replace the right one.
			if err := k.confirm(ctx, was, old); err != nil {
				return Wrap{}, err
			}
		}
		return w, nil
	}
	if old.Kind == kindAge || old.Kind == kindKMS {
		p, err := Parse(old.String())
		if err != nil {
			return Wrap{}, err
		}
		return limited(ctx, k.limit(), p, func(ctx context.Context) (Wrap, error) { return p.Wrap(ctx, domain, kek) })
	}
	return Wrap{}, errs.New(errs.Invalid, "the keyring of domain %08x is wrapped for %.100s, too, which is not among the key providers here: "+
		"add it, or wrap the keyring again without it", was, old)
}

// confirm checks that the passphrase of a provider is the one of a wrap.
func (k *Keyrings) confirm(ctx context.Context, domain uint32, w Wrap) error {
	for _, p := range k.Providers {
		if p.Kind() == w.Kind {
			_, err := limited(ctx, k.limit(), p, func(ctx context.Context) (seal.Key, error) { return p.Unwrap(ctx, domain, w) })
			return err
		}
	}
	return nil
}

// deleteOlder deletes the keyrings before r.
func (k *Keyrings) deleteOlder(ctx context.Context, r *Ring) error {
	var keys []string
	err := objstore.ListAll(ctx, k.Store, prefix(r.domain), "", func(in objstore.Info) bool {
		if in.Key < objectKey(r.domain, r.number) {
			keys = append(keys, in.Key)
		}
		return true
	})
	if err != nil || len(keys) == 0 {
		return err
	}
	return k.Store.DeleteBatch(ctx, keys)
}

// Erase leaves a tombstone in place of the domain's keyrings. It may be repeated, and has to
// be after an error. Copies of a keyring, such as versions that the store keeps, open
// until the keys of its providers are destroyed.
func (k *Keyrings) Erase(ctx context.Context, domain uint32) error {
	note, err := json.Marshal(map[string]any{"format": "glide-erased", "version": 1, "domain": fmt.Sprintf("%08x", domain), "erased_at": k.Now().UTC()})
	if err != nil {
		return err
	}
	// First the tombstone: a host that asks meanwhile is told why.
	if err := k.Store.PutIfAbsent(ctx, prefix(domain)+tombstone, note); err != nil && !errors.Is(err, errs.Exists) {
		return err
	}
	return k.deleteOlder(ctx, &Ring{domain: domain, number: maxNumber + 1})
}
