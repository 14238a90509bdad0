package commitlog_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

// TestSealedLogFromOutside does what hosts, collectors and listings do with a sealed log:
// write it, replace a seal by its stub, and see without keys what it is.
func TestSealedLogFromOutside(t *testing.T) {
	ctx, vol := t.Context(), commitlog.Volume{Tenant: "acme", Name: "db"}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := seal.New(seal.Secrets{
		Domain: 5, Suite: seal.AES256GCM, Current: 1, Conv: seal.NewKey(), Roots: map[uint32]seal.Key{1: seal.NewKey()},
	})
	must(err)
	now := func() time.Time { return time.Unix(1e9, 0) }
	mem := objstore.NewMem(objstore.Clock{Now: now})
	store := commitlog.WithKeys(mem, ring{commitlog.Keys{Domain: d, Keyring: 1}})
	o, err := commitlog.New(commitlog.Options{
		Store: store, Volume: vol, Host: commitlog.Host{ID: "host"}, Rand: rand.NewChaCha8([32]byte{}), Now: now,
		Uptime: func() time.Duration { return 0 }, Pause: func(context.Context, time.Duration) error { return nil },
	})
	must(err)
	_, err = o.OpenFirst(ctx, commitlog.State{
		Identity: commitlog.Identity{ID: commitlog.VolumeID{1}, Cause: commitlog.CauseCreate},
		Size:     1 << 20, BlockSize: 4096, Durability: "local", CreatedAt: now(),
	})
	must(err)
	must(o.Roll(ctx))

	sealed := commitlog.Generation{Epoch: 1, Number: 2}
	key := vol.Key(sealed)
	raw, err := mem.Get(ctx, key)
	must(err)
	head, err := commitlog.DecodeHeader(raw)
	must(err)
	if head.Kind != commitlog.Seal || head.Generation != sealed {
		t.Errorf("in clear it says %+v", head)
	}
	if _, err := commitlog.Decode(raw); !errors.Is(err, seal.ErrLocked) {
		t.Errorf("without keys: %v", err)
	}
	obj, err := commitlog.DecodeFor(raw, key, d)
	must(err)
	stub, err := obj.Stub().EncodeFor(d)
	must(err)
	must(mem.Put(ctx, key, stub))
	tip, err := commitlog.Newest(ctx, store, vol)
	must(err)
	if tip.Generation != (commitlog.Generation{Epoch: 2, Number: 1}) || tip.State.Prev != obj.Hash {
		t.Errorf("the tip is %s, after %s", tip.Generation, tip.State.Prev)
	}
}

// ring has the keys of every tenant.
type ring struct{ keys commitlog.Keys }

func (r ring) Keys(context.Context, string) (commitlog.Keys, error)     { return r.keys, nil }
func (r ring) ForNames(context.Context, string) (commitlog.Keys, error) { return r.keys, nil }
func (ring) Plain(string) bool                                          { return false }
func (ring) Renew(context.Context, string) error                        { return nil }
