package tenant

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/tenants"
)

// Tenant is a tenant as the model sees it: plain, or sealed with keys that it always has.
type Tenant struct {
	name     string
	store    objstore.Store   // with the tenant's keys
	plain    *pack.Hasher     // nil: it is sealed
	known    *tenants.Tenants // nil: it is plain
	home     uint32           // its domain; 0: it is plain
	provider *Provider        // nil: it is plain
}

// Plain returns a tenant without keys.
func Plain(store objstore.Store, name string) *Tenant {
	return &Tenant{name: name, store: store, plain: pack.NewHasher(name)}
}

// Seal makes a sealed tenant in the store. Its domain and keys are new, from crypto/rand.
func Seal(store objstore.Store, name string) (*Tenant, error) {
	provider := &Provider{key: seal.NewKey()}
	known := Known(store, provider)
	in, err := known.Create(context.Background(), tenants.Birth{Name: name, Keys: []keys.Provider{provider}, OneKey: true, Suite: seal.AES256GCM})
	return &Tenant{name: name, store: known.Keyed(store), known: known, home: in.Domain, provider: provider}, err
}

// Known returns the tenants of a store, as a process sees them that has this way to the
// keys; nil for the way to those of a plain tenant, which is nil.
func Known(store objstore.Store, provider *Provider) *tenants.Tenants {
	if provider == nil {
		return nil
	}
	began := time.Now()
	return tenants.New(tenants.Options{
		Store: store, Providers: []keys.Provider{provider}, Log: slog.New(slog.DiscardHandler),
		Now: time.Now, Uptime: func() time.Duration { return time.Since(began) },
	})
}

// Provider returns a way to the keys for a host; nil if the tenant is plain.
func (t *Tenant) Provider() *Provider {
	if t.provider == nil {
		return nil
	}
	return t.provider.Other()
}

// Store is the store with the tenant's keys: package commitlog reads commits from it.
func (t *Tenant) Store() objstore.Store { return t.store }

// Home is the tenant's domain; 0: it is plain.
func (t *Tenant) Home() uint32 { return t.home }

// Hasher is that of a domain of the tenant's, which may be an isolated one.
func (t *Tenant) Hasher(domain uint32) *pack.Hasher {
	switch {
	case t.plain != nil:
		return t.plain
	case domain == t.home:
		return t.known.Hasher(t.name)
	}
	return t.known.Hasher(commitlog.DomainName(t.name, domain))
}

// Sealed tells whether the tenant has keys.
func (t *Tenant) Sealed() bool { return t.provider != nil }

// Decode opens an object of a log that has this key.
func (t *Tenant) Decode(key string, raw []byte) (*commitlog.Object, error) {
	return commitlog.Read(context.Background(), t.store, key, raw)
}

// Exposed tells what an object that a host sends has in clear of a sealed tenant; nil if it
// has nothing, or the tenant is plain. sealed-home.
func (t *Tenant) Exposed(key string, raw []byte) error {
	if !t.Sealed() {
		return nil
	}
	if id, err := pack.ParseKey(key); err == nil && id.Domain == 0 {
		return errs.New(errs.Internal, "it is a plain pack")
	}
	if strings.HasPrefix(key, "t/") && bytes.Contains(raw, []byte(`"size"`)) {
		return errs.New(errs.Internal, "it has a state in clear")
	}
	if at := pattern(raw); at >= 0 {
		return errs.New(errs.Internal, "at byte %d it has %x, which a guest wrote", at, raw[at:at+8])
	}
	return nil
}

// repeats is how often the 8 bytes that fill a sector of a simulated guest must follow one
// another to be found. By chance ciphertext has that once in 2^192 places.
const repeats = 4

// pattern returns where 8 bytes that are not zeros are repeated, -1 if nowhere.
func pattern(raw []byte) int {
	run := 0 // bytes that are equal to that 8 before them
	for i := 8; i < len(raw); i++ {
		if run++; raw[i] != raw[i-8] {
			run = 0
		}
		if run >= 8*(repeats-1) {
			if at := i + 1 - 8*repeats; binary.LittleEndian.Uint64(raw[at:]) != 0 {
				return at
			}
		}
	}
	return -1
}
