// Package tenantstest makes sealed tenants for tests. With GLIDE_SEALED=1 in the
// environment, tests that ask Sealed run with every tenant of theirs sealed; with
// GLIDE_SEALED=hidden, sealed tenants of tests have the names of their volumes hidden, too.
package tenantstest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/sealed"
	"github.com/paraglide/glide/internal/tenants"
)

// Sealed tells whether the tenants of tests that can have either are to be sealed.
func Sealed() bool { return os.Getenv("GLIDE_SEALED") != "" }

// Key returns a provider with a new key in a file.
func Key(tb testing.TB) keys.Provider {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "key")
	b := make([]byte, seal.KeySize)
	_, _ = rand.Read(b)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	p, err := keys.Parse("file:" + path)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// sharedName is the variable that has the key of Shared.
const sharedName = "GLIDE_KEY_OF_TESTS"

// Shared is a provider that is the same for all tests of a process.
var Shared = sync.OnceValue(func() keys.Provider {
	err := os.Setenv(sharedName, hex.EncodeToString(seal.NewKey().Append(nil)))
	p, perr := keys.Parse("env:" + sharedName)
	if err = errors.Join(err, perr); err != nil {
		panic(err)
	}
	return p
})

// New returns the tenants of a store, as a process with these providers sees them.
func New(store objstore.Store, with ...keys.Provider) *tenants.Tenants {
	began := time.Now()
	return tenants.New(tenants.Options{
		Store: store, Providers: with, Now: time.Now, Uptime: func() time.Duration { return time.Since(began) }, Log: slog.New(slog.DiscardHandler),
	})
}

// Create makes sealed tenants with one key.
func Create(tb testing.TB, store objstore.Store, key keys.Provider, names ...string) {
	tb.Helper()
	create(tb, store, key, os.Getenv("GLIDE_SEALED") == "hidden", names...)
}

// CreateHidden makes sealed tenants that hide names, with one key.
func CreateHidden(tb testing.TB, store objstore.Store, key keys.Provider, names ...string) {
	tb.Helper()
	create(tb, store, key, true, names...)
}

func create(tb testing.TB, store objstore.Store, key keys.Provider, hidden bool, names ...string) {
	tb.Helper()
	t := New(store, key)
	for _, name := range names {
		if _, err := t.Create(context.Background(), tenants.Birth{Name: name, Keys: []keys.Provider{key}, OneKey: true, Suite: seal.AES256GCM, Hidden: hidden}); err != nil {
			tb.Fatal(err)
		}
	}
}

// Move makes a tenant that has plain volumes one that is being moved into a domain.
func Move(tb testing.TB, store objstore.Store, key keys.Provider, name string) {
	tb.Helper()
	const domain = 0x00c0ffee
	rings := &keys.Keyrings{Store: store, Providers: []keys.Provider{key}, Now: time.Now}
	_, err := rings.Create(context.Background(), keys.Birth{Domain: domain, Tenant: name, Suite: seal.AES256GCM, OneKey: true, Plain: true})
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := sealed.Marshal(map[string]any{"format": "glide-tenant", "version": 1, "tenant": name, "domain": tenants.DomainText(domain), "moving": true, "created_at": time.Now().UTC()})
	if err == nil {
		err = store.PutIfAbsent(context.Background(), tenants.Prefix+name, raw)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// Publish changes a tenant's record as one who can write to the store could: it says that the
// tenant is public.
func Publish(tb testing.TB, store objstore.Store, name string) {
	tb.Helper()
	raw, err := store.Get(context.Background(), tenants.Prefix+name)
	if err != nil {
		tb.Fatal(err)
	}
	body, _, err := sealed.Open(raw)
	if err != nil {
		tb.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil {
		tb.Fatal(err)
	}
	fields["public"] = true
	if raw, err = sealed.Marshal(fields); err == nil {
		err = store.Put(context.Background(), tenants.Prefix+name, raw)
	}
	if err != nil {
		tb.Fatal(err)
	}
}
