package commitlog

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// TestIsolatedElsewhere: an isolated object opens in its own domain only, whatever its header
// says, and one of the tenant's own domain is no isolated one.
func TestIsolatedElsewhere(t *testing.T) {
	own, other := domainWith(t, home, seal.AES256GCM, 2), domainWith(t, home+1, seal.AES256GCM, 2)
	o := sealable(t)["isolated-commit"]
	raw := mustSeal(t, o, own)
	if _, err := DecodeFor(raw, keyOf(o), other); errs.KindOf(err) != errs.Corrupt {
		t.Errorf("opened with other keys: %v", err)
	}
	binary.LittleEndian.PutUint32(raw[56:], home+1)
	resign(raw)
	for _, d := range []*seal.Domain{own, other} {
		if _, err := DecodeFor(raw, keyOf(o), d); errs.KindOf(err) != errs.Corrupt {
			t.Errorf("another domain in its header, opened by %v: %v", d, err)
		}
	}
	binary.LittleEndian.PutUint32(raw[56:], 0)
	resign(raw)
	if _, err := DecodeHeader(raw); errs.KindOf(err) != errs.Corrupt {
		t.Errorf("no domain: %v", err)
	}
	for _, wrong := range []func(*Object){
		func(o *Object) { o.State.Isolated = home + 1 },
		func(o *Object) { o.Domain = home + 1 },
	} {
		bad := *o
		wrong(&bad)
		if _, err := bad.EncodeFor(own); err == nil {
			t.Errorf("%+v is written", bad.State.Identity)
		}
	}
	plain := *sampleObjects(t)["commit"]
	plain.State.Isolated = home
	if _, err := plain.Encode(); err == nil {
		t.Error("a plain object is isolated")
	}
}

// TestIsolatedKeys: each object is read with the keys of the domain that it names, and a commit
// of another domain than the volume's is never sent.
func TestIsolatedKeys(t *testing.T) {
	for name, want := range map[string]string{"commit": "acme", "isolated-commit": "acme+0a0b0c0d"} {
		o := sealable(t)[name]
		raw, asked := mustSeal(t, o, domainWith(t, home, seal.AES256GCM, 2)), ""
		_, err := Read(t.Context(), WithKeys(nil, byName(func(domain string) (Keys, error) {
			asked = domain
			return Keys{Domain: domainWith(t, home, seal.AES256GCM, 2), Keyring: 3}, nil
		})), keyOf(o), raw)
		check(t, err)
		if asked != want {
			t.Errorf("%s is read with the keys of %q, want %q", name, asked, want)
		}
	}
	for _, bad := range []string{"acme+", "acme+0", "acme+00000000", "acme+0A0B0C0D", "acme+0a0b0c0d0", "+0a0b0c0d", "a+b+0a0b0c0d", ""} {
		if _, _, err := ParseDomainName(bad); errs.KindOf(err) != errs.Invalid || err == nil {
			t.Errorf("%q names a domain: %v", bad, err)
		}
	}
	if tenant, n, err := ParseDomainName("acme+0a0b0c0d"); tenant != "acme" || n != home || err != nil {
		t.Error(tenant, n, err)
	}
}

// byName is a KeyRing.
type byName func(domain string) (Keys, error)

func (b byName) Keys(_ context.Context, domain string) (Keys, error) { return b(domain) }
func (byName) Plain(string) bool                                     { return false }
func (byName) Renew(context.Context, string) error                   { return nil }
func (byName) ForNames(context.Context, string) (Keys, error)        { return Keys{}, nil }

// TestIsolatedOwner: who claims an isolated volume writes in its domain, whatever he took it for,
// and sends no commit of another.
func TestIsolatedOwner(t *testing.T) {
	store := newStore()
	keyed := WithKeys(store, byName(func(string) (Keys, error) {
		return Keys{Domain: domainWith(t, home, seal.AES256GCM, 1), Keyring: 3}, nil
	}))
	a := newOwner(t, keyed, "a", 1)
	a.opts.Isolated = home
	s := someState(1)
	s.Isolated = home
	_, err := a.OpenFirst(ctx, s)
	check(t, err)
	s.Isolated = 0
	if _, err := a.Commit(ctx, s); err == nil || errs.KindOf(err) != errs.Internal {
		t.Errorf("a commit of the tenant's own domain: %v", err)
	}
	check(t, a.Release(ctx))
	b := newOwner(t, keyed, "b", 2)
	first, err := b.Claim(ctx, CauseWake, nil)
	check(t, err)
	if first.State.Isolated != home {
		t.Errorf("claimed in domain %08x", first.State.Isolated)
	}
	s.Isolated = home
	_, err = b.Commit(ctx, s)
	check(t, err)
}
