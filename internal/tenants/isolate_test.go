package tenants

import (
	"errors"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/seal"
)

// TestIsolate: a further domain is found by its name in another process, opens for all for whom
// its tenant's keyring does, and shares no secret with it.
func TestIsolate(t *testing.T) {
	b := newBed(t)
	first, second := b.key("first", 1), b.key("second", 2)
	p := b.process(nil, first, second)
	if _, err := p.Create(ctx, Birth{Name: "acme", Keys: []keys.Provider{first, second}, Suite: seal.XChaCha20Poly1305}); err != nil {
		t.Fatal(err)
	}
	domain, err := p.Isolate(ctx, "acme")
	if err != nil {
		t.Fatal(err)
	}
	name := commitlog.DomainName("acme", domain)
	for _, only := range []keys.Provider{first, second} {
		q := b.process(nil, only)
		own, err := q.Keys(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		home, err := q.Keys(ctx, "acme")
		if err != nil {
			t.Fatal(err)
		}
		if own.Domain.ID() != domain || own.Domain.Suite() != seal.XChaCha20Poly1305 || own.Plain {
			t.Errorf("%+v", own)
		}
		if own.Domain.DedupSecret().Equal(home.Domain.DedupSecret()) {
			t.Error("it names blocks as its tenant does")
		}
	}
	info, err := p.Show(ctx, name)
	if err != nil || len(info.Wraps) != 2 || info.Domain != domain {
		t.Errorf("%+v, %v", info, err)
	}
	list, err := p.Isolated(ctx, "acme")
	if err != nil || len(list) != 1 || list[0] != name {
		t.Errorf("%q, %v", list, err)
	}
	if others, err := p.Isolated(ctx, "acm"); err != nil || len(others) > 0 {
		t.Errorf("of another tenant: %q, %v", others, err)
	}
	if err := errors.Join(p.Drop(ctx, "acme", domain), p.Ready(ctx, "acme")); err != nil {
		t.Error(err)
	}
	if list, err = p.Isolated(ctx, ""); err != nil || len(list) != 0 {
		t.Errorf("left: %q, %v", list, err)
	}
}

// TestIsolatedForgery: who can write to the store moves no record or keyring from one domain to
// another, and takes none away unnoticed.
func TestIsolatedForgery(t *testing.T) {
	b := newBed(t)
	key := b.key("k", 1)
	p, memory := b.process(nil, key), facts{}
	b.create(p, "acme", key)
	b.create(p, "evil", key)
	names := map[string]string{}
	for _, tenant := range []string{"acme", "evil"} {
		domain, err := p.Isolate(ctx, tenant)
		if err != nil {
			t.Fatal(err)
		}
		names[tenant] = commitlog.DomainName(tenant, domain)
	}
	if err := b.process(memory, key).Ready(ctx, names["acme"]); err != nil {
		t.Fatal(err)
	}
	_, number, _ := strings.Cut(names["evil"], "+")
	record, err := b.store.Get(ctx, Prefix+names["evil"])
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := (&Record{Tenant: names["acme"], Domain: p.of(names["evil"]).record.Domain}).encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(names["acme"], wrong); errs.KindOf(err) != errs.Corrupt {
		t.Errorf("a record of another domain: %v", err)
	}
	for what, to := range map[string]string{"another tenant's": "acme+" + number, "another domain's": names["acme"]} {
		if err := b.store.Put(ctx, Prefix+to, record); err != nil {
			t.Fatal(err)
		}
		if err := b.process(nil, key).Ready(ctx, to); errs.KindOf(err) != errs.Corrupt {
			t.Errorf("%s record: %v", what, err)
		}
	}
	// The same domain under the name of another tenant: the keyring says whose it is.
	forged, err := (&Record{Tenant: "acme+" + number, Domain: p.of(names["evil"]).record.Domain}).encode()
	if err == nil {
		err = b.store.Put(ctx, Prefix+"acme+"+number, forged)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := b.process(nil, key).Ready(ctx, "acme+"+number); errs.KindOf(err) != errs.Corrupt {
		t.Errorf("another tenant's keyring: %v", err)
	}
	if err := b.drop(Prefix + names["acme"]); err != nil {
		t.Fatal(err)
	}
	if err := b.process(memory, key).Ready(ctx, names["acme"]); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "hides it") {
		t.Errorf("a record that is gone: %v", err)
	}
	if err := b.process(nil, key).Ready(ctx, names["acme"]); err == nil {
		t.Error("a domain without a record is a plain tenant")
	}
}
