package tenants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
)

// freshFor is how long the keys of a tenant are taken for the newest.
const freshFor = pack.FreshFor

// retryAfter is how long the reason for which a tenant is locked is taken for granted. It
// keeps the requests of many guests from becoming calls of a provider.
const retryAfter = 2 * time.Second

// Memory is where a host remembers the tenants that it saw sealed; package meta's DB.
type Memory interface {
	SetFact(name string, value []byte) error
	Facts(prefix string, fn func(name string, value []byte) error) error
}

// factPrefix begins the names of facts about tenants.
const factPrefix = "tenant/"

// remembered is a fact about a tenant, as JSON.
type remembered struct {
	Domain  uint32 `json:"domain"`
	Keyring uint64 `json:"keyring"`
	Hash    []byte `json:"hash"`  // of the keyring
	Bytes   []byte `json:"bytes"` // the keyring, as the store has it
	SSE     string `json:"sse,omitempty"`
	KMSKey  string `json:"kms_key,omitempty"`
}

// Options configure Tenants. Store is required.
type Options struct {
	Store      objstore.Store
	Providers  []keys.Provider // what opens keyrings here
	SealedOnly bool            // plain tenants are refused
	Now        func() time.Time
	Uptime     func() time.Duration
	Log        *slog.Logger
	Encrypts   bool // the Store encrypts as Encryption says
	// TTL is how long keys are used before the provider is asked again; 0: for ever. If it
	// denies them then, the tenant is locked. A provider that is away changes nothing.
	TTL time.Duration
	// Locked is called when a tenant loses its keys. nil: never.
	Locked func(tenant string, why error)
}

// Tenants has the keys of the tenants of a store.
type Tenants struct {
	o        Options
	keyrings *keys.Keyrings

	encrypt atomic.Pointer[map[string]objstore.Encryption] // by the first two parts of keys

	mu     sync.Mutex
	memory Memory
	byName map[string]*tenant
}

// tenant is what is known of one tenant. It is created when its name is used, and stays.
type tenant struct {
	name   string
	hasher *pack.Hasher
	keys   atomic.Pointer[commitlog.Keys] // nil: not looked up, or locked
	names  atomic.Pointer[commitlog.Keys] // how those of its volumes are hidden; stays when it is locked, as its logs stay where they are
	lent   atomic.Pointer[seal.Domain]    // what others to whom the domain is granted read with; stays when it is locked
	used   atomic.Bool                    // since the last Refresh
	active bool                           // before that one, too; of Refresh
	turn   chan struct{}                  // holds a token while nobody asks the store or a provider

	// The rest is whose turn it is.
	record *Record // nil: none was seen
	seen   *remembered
	ring   *keys.Ring
	asked  time.Duration // when a provider opened the keyring
	sure   time.Duration // when the store last showed that the tenant is plain
	why    error         // it is locked
	tried  time.Duration // when that was found, or the store was asked for newer keys
}

// New returns Tenants without a Memory.
func New(o Options) *Tenants {
	return &Tenants{o: o, byName: map[string]*tenant{}, keyrings: &keys.Keyrings{Store: o.Store, Providers: o.Providers, Now: o.Now}}
}

// Recall loads what a host remembers, and makes m remember from now on. It is called
// before anything is read or written for a tenant.
func (t *Tenants) Recall(m Memory) error {
	t.memory = m
	return m.Facts(factPrefix, func(fact string, value []byte) error {
		r := &remembered{}
		if err := json.Unmarshal(value, r); err != nil || len(r.Hash) != len(keys.Seen{}.Hash) {
			return errs.New(errs.Corrupt, "what this host remembers of %s is unreadable: %s", fact, value)
		}
		e := t.of(strings.TrimPrefix(fact, factPrefix))
		e.seen = r
		e.hasher.Become(pack.NewLockedHasher(lockedError{locked(e.name, "%w", errNotYet)}))
		return nil
	})
}

// errNotYet is why a tenant that a host remembers has no keys after a start.
var errNotYet = errors.New("nobody has needed its keys since the start")

func locked(name, format string, args ...any) error {
	return errs.New(errs.Unavailable, "tenant %q is locked: "+format, append([]any{name}, args...)...)
}

func (t *Tenants) of(name string) *tenant {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byName[name]
	if e == nil {
		e = &tenant{name: name, turn: make(chan struct{}, 1)}
		e.turn <- struct{}{}
		e.hasher = pack.NewHasher(name).Opening(func(ctx context.Context, age time.Duration) error { return t.ready(ctx, e, age) })
		t.byName[name] = e
	}
	return e
}

// Keyed returns a store with the keys for the logs of all tenants.
func (t *Tenants) Keyed(store objstore.Store) objstore.Store { return commitlog.WithKeys(store, t) }

// Keys implements commitlog.KeyRing.
func (t *Tenants) Keys(ctx context.Context, name string) (commitlog.Keys, error) {
	return t.keysOf(ctx, t.of(name))
}

// ForNames implements commitlog.KeyRing. Who knows no provider of keys, and has not seen the
// tenant sealed, takes its names for clear: he could not open what is under hidden ones.
func (t *Tenants) ForNames(ctx context.Context, name string) (commitlog.Keys, error) {
	e := t.of(name)
	if k := e.names.Load(); k != nil {
		return *k, nil
	}
	if len(t.o.Providers) == 0 && t.Plain(name) {
		return commitlog.Keys{}, nil
	}
	return t.keysOf(ctx, e)
}

// Plain implements commitlog.KeyRing.
func (t *Tenants) Plain(name string) bool {
	sealed, _ := t.Sealed(name)
	return !sealed
}

// Hasher returns the hasher of a tenant: always the same, which follows the tenant's keys.
func (t *Tenants) Hasher(name string) *pack.Hasher { return t.of(name).hasher }

// Ready returns nil when the tenant can be read and written: it is plain, or its keys are
// here. It asks for them if it has to.
func (t *Tenants) Ready(ctx context.Context, name string) error {
	_, err := t.Keys(ctx, name)
	return err
}

// Sealed tells whether this process knows that the tenant is sealed, and why it is locked,
// if somebody needed its keys and did not get them. It asks nobody.
func (t *Tenants) Sealed(name string) (sealed bool, why error) {
	e := t.of(name)
	if k := e.keys.Load(); k != nil {
		return k.Domain != nil, nil
	}
	if why = e.hasher.Codec().Locked; errors.Is(why, errNotYet) {
		return true, nil
	}
	return why != nil, why
}

// keysOf returns the tenant's keys; none for a plain one. The error is why it is locked.
func (t *Tenants) keysOf(ctx context.Context, e *tenant) (commitlog.Keys, error) {
	e.used.Store(true)
	if k := e.keys.Load(); k != nil {
		return *k, nil
	}
	if err := e.take(ctx); err != nil {
		return commitlog.Keys{}, err
	}
	defer e.give()
	if k := e.keys.Load(); k != nil {
		return *k, nil
	}
	if e.why != nil && t.o.Uptime()-e.tried < retryAfter {
		return commitlog.Keys{}, e.why
	}
	if err := t.look(ctx, e); err != nil {
		return commitlog.Keys{}, err
	}
	return *e.keys.Load(), nil
}

// SawPlain tells that the newest commit of a volume is plain: so is the tenant, as far as a
// look at its record would tell. (It may be in the middle of a move, which waits for those
// who take it for a plain one.) A commit of the past tells nothing.
func (t *Tenants) SawPlain(name string) {
	e := t.of(name)
	select {
	case <-e.turn:
	default:
		return // somebody is asking
	}
	defer e.give()
	if e.ring != nil || e.seen != nil || e.why != nil || t.o.SealedOnly {
		return
	}
	if e.tried, e.sure = t.o.Uptime(), t.o.Uptime(); e.keys.Load() == nil {
		e.record = &Record{Tenant: name}
		e.keys.Store(&commitlog.Keys{})
	}
}

// Fresh is Ready for who begins the log of a volume, which no mover of a tenant has seen: it
// takes a tenant for a plain one only if the store has shown that within freshFor.
func (t *Tenants) Fresh(ctx context.Context, name string) error {
	e := t.of(name)
	if _, err := t.keysOf(ctx, e); err != nil {
		return err
	}
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.give()
	if e.ring != nil || e.why != nil || t.o.Uptime()-e.sure < freshFor {
		return e.why
	}
	return t.again(ctx, e)
}

// ready is keysOf; it looks for newer keys, unless the store was asked for them so short ago.
// To read, a tenant of which nothing is known is a plain one: what is sealed
// does not open, and then the newest keys are asked for.
func (t *Tenants) ready(ctx context.Context, e *tenant, age time.Duration) error {
	known, renew := e.keys.Load() != nil, age != pack.AnyAge
	if !renew && !known && e.hasher.Codec().Locked == nil {
		return nil
	}
	if _, err := t.keysOf(ctx, e); err != nil || !renew || !known {
		return err
	}
	return t.renew(ctx, e, age)
}

// Renew implements commitlog.KeyRing.
func (t *Tenants) Renew(ctx context.Context, name string) error { return t.renew(ctx, t.of(name), 0) }

// renew looks for newer keys if the store was not asked for so long before the call. If the
// store cannot be asked, those that are here do.
func (t *Tenants) renew(ctx context.Context, e *tenant, after time.Duration) error {
	since := t.o.Uptime() - after
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.give()
	if e.keys.Load() != nil && e.tried <= since {
		t.refresh(ctx, e)
		t.renewGrants(ctx, e, after)
	}
	return e.why
}

// take waits for the turn of a tenant.
func (e *tenant) take(ctx context.Context) error {
	select {
	case <-e.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *tenant) give() { e.turn <- struct{}{} }

// look reads the tenant's record, and opens its keyring.
func (t *Tenants) look(ctx context.Context, e *tenant) error {
	r, err := load(ctx, t.o.Store, e.name)
	switch {
	case errors.Is(err, errs.NotFound):
		r, err = &Record{Tenant: e.name}, nil
	case errs.KindOf(err) == errs.Unavailable && err != nil && e.seen == nil:
		return err // it may be plain
	case errs.KindOf(err) == errs.Unavailable && err != nil && ctx.Err() == nil:
		// Guests whose blocks are on this host need the store for nothing else.
		e.record = &Record{Tenant: e.name, Domain: e.seen.Domain, SSE: e.seen.SSE, KMSKey: e.seen.KMSKey}
		var ring *keys.Ring
		if ring, err = t.keyrings.Saved(ctx, e.seen.Bytes, e.seen.Domain, e.name); err == nil {
			err = t.adopt(e, ring)
		}
	}
	if err == nil && r != nil {
		err = t.accept(ctx, e, r)
	}
	if err != nil && ctx.Err() == nil {
		t.lock(e, err)
		return e.why
	}
	return err
}

// accept takes a record, which may be an empty one, for the truth if it can be.
func (t *Tenants) accept(ctx context.Context, e *tenant, r *Record) error {
	_, isolated, _ := commitlog.ParseDomainName(e.name)
	switch {
	case e.seen != nil && r.Domain == 0:
		return locked(e.name, "this host has seen it sealed, and the store shows no record of that: it lost %s, or hides it; restore it from a backup", recordKey(e.name))
	case r.Domain == 0 && isolated != 0: // never plain
		return locked(e.name, "the store has no record of this domain: it lost %s, or hides it; restore it from a backup", recordKey(e.name))
	case e.seen != nil && r.Domain != e.seen.Domain:
		return errs.New(errs.Corrupt, "tenant %q is locked: the store says that its domain is %08x, and this host has seen %08x: %s was changed", e.name, r.Domain, e.seen.Domain, recordKey(e.name))
	case r.Domain == 0 && t.o.SealedOnly:
		return errs.New(errs.Denied, "tenant %q is not sealed, and this host serves sealed tenants only (sealed-only): glide tenant create %s --key PROVIDER", e.name, e.name)
	case r.Domain == 0:
		e.record = r
		e.tried, e.sure, e.why = t.o.Uptime(), t.o.Uptime(), nil
		e.keys.Store(&commitlog.Keys{})
		return nil
	}
	var seen keys.Seen
	if e.seen != nil {
		seen = keys.Seen{Number: e.seen.Keyring, Hash: [32]byte(e.seen.Hash)}
	}
	ring, err := t.keyrings.Open(ctx, r.Domain, e.name, seen)
	if err != nil {
		return fmt.Errorf("tenant %q: %w", e.name, err)
	}
	e.record = r
	return t.adopt(e, ring)
}

// adopt makes the keys of a ring those of the tenant, after it has remembered them.
func (t *Tenants) adopt(e *tenant, ring *keys.Ring) error {
	k, err := ring.Keys()
	if err == nil {
		err = t.encryptAs(e.record)
	}
	if err != nil {
		return err
	}
	hasher, err := t.hasherOf(ring, k)
	if err != nil {
		return err
	}
	lent, err := ring.Lent()
	if err != nil {
		return err
	}
	seen := ring.Seen()
	if e.seen == nil || e.seen.Keyring != seen.Number {
		r := &remembered{Domain: ring.Domain(), Keyring: seen.Number, Hash: seen.Hash[:], Bytes: ring.Bytes(), SSE: e.record.SSE, KMSKey: e.record.KMSKey}
		value, err := json.Marshal(r)
		if err == nil && t.memory != nil {
			err = t.memory.SetFact(factPrefix+e.name, value)
		}
		if err != nil {
			return err
		}
		e.seen = r
	}
	if e.ring == nil || e.ring.Seen() != seen {
		t.o.Log.Info("the keys of a tenant are here", "tenant", e.name, "keyring", seen.Number, "domain", DomainText(ring.Domain()), "by", ring.OpenedBy())
	}
	e.ring, e.why, e.tried, e.asked = ring, nil, t.o.Uptime(), t.o.Uptime()
	e.hasher.Become(hasher)
	e.lent.Store(lent)
	keys, names := &commitlog.Keys{Domain: k, Keyring: seen.Number, Plain: ring.Plain(), Hidden: ring.Hidden()}, &commitlog.Keys{}
	if keys.Hidden {
		names = keys
	}
	e.keys.Store(keys)
	e.names.Store(names)
	return nil
}

// lockedError is why a tenant is locked. It is seal.ErrLocked as well.
type lockedError struct{ error }

func (l lockedError) Unwrap() error      { return l.error }
func (lockedError) Is(target error) bool { return target == seal.ErrLocked }

// lock takes the tenant's keys away.
func (t *Tenants) lock(e *tenant, why error) {
	why = lockedError{why}
	if e.why == nil || e.why.Error() != why.Error() {
		t.o.Log.Warn("a tenant is locked", "tenant", e.name, "error", why)
	}
	had := e.keys.Load() != nil
	if n := e.names.Load(); n != nil && n.Hidden && errors.Is(why, keys.ErrErased) {
		e.names.Store(nil)
	}
	e.why, e.tried = why, t.o.Uptime()
	e.hasher.Become(pack.NewLockedHasher(why))
	if e.keys.Store(nil); had && t.o.Locked != nil {
		t.o.Locked(e.name, why)
	}
}

// Refresh looks again at the tenants that are used all the time: between the last two calls,
// and since then. Another host may have rotated a keyring, sealed a tenant or erased one.
// Trouble other than that leaves the keys that are here in use.
func (t *Tenants) Refresh(ctx context.Context) {
	t.mu.Lock()
	all := make([]*tenant, 0, len(t.byName))
	for _, e := range t.byName {
		all = append(all, e)
	}
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b *tenant) int { return strings.Compare(a.name, b.name) })
	for _, e := range all {
		was := e.active
		if e.active = e.used.Swap(false); was && e.active && e.keys.Load() != nil {
			_ = t.renew(ctx, e, freshFor)
		}
		t.ask(ctx, e)
	}
}

// ask has a provider open the keyring of a tenant again if it is time. Who denies it, or
// has another key now, locks the tenant.
func (t *Tenants) ask(ctx context.Context, e *tenant) {
	if t.o.TTL == 0 || e.take(ctx) != nil {
		return
	}
	defer e.give()
	if e.ring == nil || e.keys.Load() == nil || t.o.Uptime()-e.asked < t.o.TTL {
		return
	}
	ring, err := t.keyrings.Open(ctx, e.ring.Domain(), e.name, e.ring.Seen())
	switch {
	case err == nil:
		if err = t.adopt(e, ring); err != nil {
			t.o.Log.Warn("the keys of a tenant could not be taken over", "tenant", e.name, "error", err)
		}
	case errors.Is(err, keys.ErrDenied) || errors.Is(err, keys.ErrWrongKey) || errors.Is(err, keys.ErrErased):
		t.lock(e, fmt.Errorf("tenant %q: %w", e.name, err))
	case ctx.Err() == nil:
		t.o.Log.Warn("the provider of a tenant's keys could not be asked again; they stay in use", "tenant", e.name, "error", err)
	}
}

// refresh looks again at one tenant.
func (t *Tenants) refresh(ctx context.Context, e *tenant) {
	err := t.again(ctx, e)
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, keys.ErrErased):
		t.lock(e, err)
	default:
		t.o.Log.Warn("the keys of a tenant could not be looked at again", "tenant", e.name, "error", err)
	}
}

// again asks the store for what is newer, and notes when: what another host writes after the
// call began may be missed.
func (t *Tenants) again(ctx context.Context, e *tenant) error {
	began := t.o.Uptime()
	err := t.newer(ctx, e)
	if e.tried = began; err == nil {
		e.sure = began
	}
	return err
}

func (t *Tenants) newer(ctx context.Context, e *tenant) error {
	if e.ring == nil {
		r, err := load(ctx, t.o.Store, e.name)
		if errors.Is(err, errs.NotFound) || err == nil && r.Domain == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		e.keys.Store(nil) // it became a sealed one: nothing plain from here on
		return t.look(ctx, e)
	}
	ring, err := t.keyrings.Refresh(ctx, e.ring)
	if err != nil || ring.Seen() == e.ring.Seen() {
		return err
	}
	return t.adopt(e, ring)
}
