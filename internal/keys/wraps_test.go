package keys_test

import (
	"errors"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/seal"
)

// TestAddAndCheck: a wrap that is added opens the same secrets, and a check tells of each
// wrap whether it opens here.
func TestAddAndCheck(t *testing.T) {
	store := newStore()
	first, second := newKey(t), newKey(t)
	k := keyrings(t, store, first)
	r, err := k.Create(t.Context(), keys.Birth{Domain: domain, Tenant: "acme", Suite: seal.AES256GCM, OneKey: true, Plain: true})
	if err != nil {
		t.Fatal(err)
	}
	recipient, identity := newAge(t)
	added, err := k.Add(t.Context(), r, parse(t, second, recipient))
	if err != nil || len(added.Wraps()) != 3 || !added.Plain() {
		t.Fatalf("%v, %v", added.Wraps(), err)
	}
	if _, err := k.Add(t.Context(), added, parse(t, first)); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a key of the second is not here, and was wrapped for: %v", err)
	}
	k.Providers = parse(t, first, second)
	if _, err := k.Add(t.Context(), added, parse(t, second)); errs.KindOf(err) != errs.Invalid {
		t.Errorf("added twice: %v", err)
	}
	for _, with := range []string{first, second, identity} {
		o, err := keyrings(t, store, with).Open(t.Context(), domain, "acme", keys.Seen{})
		if err != nil || !derive(t, o).DedupSecret().Equal(derive(t, r).DedupSecret()) {
			t.Errorf("%s: %v", with, err)
		}
	}
	tried, err := keyrings(t, store, first, "age:identity=/nonexistent").Check(t.Context(), domain)
	if err != nil || len(tried) != 3 {
		t.Fatalf("%v, %v", tried, err)
	}
	if tried[0].With == nil || tried[0].Err != nil {
		t.Errorf("the first: %+v", tried[0])
	}
	if tried[1].With != nil { // this host has a key, which is for somebody else
		t.Errorf("the second: %+v", tried[1])
	}
	if tried[2].With == nil || !errors.Is(tried[2].Err, keys.ErrAway) {
		t.Errorf("the third: %+v", tried[2])
	}
	// What a host saved opens without the store, for the same tenant and domain only.
	saved, err := k.Saved(t.Context(), added.Bytes(), domain, "acme")
	if err != nil || saved.Seen() != added.Seen() {
		t.Errorf("%v, %v", saved, err)
	}
	for _, wrong := range []struct {
		domain uint32
		tenant string
	}{{domain + 1, "acme"}, {domain, "other"}} {
		if _, err := k.Saved(t.Context(), added.Bytes(), wrong.domain, wrong.tenant); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	moved, err := k.Moved(t.Context(), added)
	if err != nil || moved.Plain() {
		t.Errorf("%v", err)
	}
	if again, err := k.Moved(t.Context(), moved); err != nil || again.Seen() != moved.Seen() {
		t.Errorf("once more: %v", err)
	}
	if err := k.Erase(t.Context(), domain); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Check(t.Context(), domain); !errors.Is(err, keys.ErrErased) {
		t.Errorf("erased: %v", err)
	}
}
