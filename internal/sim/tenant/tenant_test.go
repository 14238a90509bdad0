package tenant

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

// TestExposed: what a guest wrote, a plain pack and a plain state are found; random bytes,
// zeros and the objects of a plain tenant are not.
func TestExposed(t *testing.T) {
	store := objstore.NewMem(objstore.Clock{})
	sealed, err := Seal(store, "default")
	if err != nil {
		t.Fatal(err)
	}
	random := seal.NewKey().Append(nil)
	mark := append(append([]byte("head"), bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, repeats)...), random...)
	for _, c := range []struct {
		key  string
		raw  []byte
		seen bool
	}{
		{"d/00000001/packs/00/x", mark, true},
		{"d/00000001/packs/00/x", random, false},
		{"d/00000001/packs/00/x", append(make([]byte, 600), random...), false},
		{"t/default/v/1", []byte(`{"size":4096}`), true},
		{"pins/x", []byte(`{"size":4096}`), false},
		{"packs/01/0102030405060708090a0b0c-0102030405060708090a0b0c", random, true},
	} {
		if err := sealed.Exposed(c.key, c.raw); (err != nil) != c.seen {
			t.Errorf("%s, %x: %v", c.key, c.raw, err)
		}
		if err := Plain(store, "default").Exposed(c.key, c.raw); err != nil {
			t.Errorf("a plain tenant, %s: %v", c.key, err)
		}
	}
}

// TestTrouble: a provider fails for as long as it is told, those of other hosts do not, and
// then it opens what was wrapped.
func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Provider{key: seal.NewKey()}
		kek := seal.NewKey()
		w, err := p.Wrap(t.Context(), 7, kek)
		if err != nil {
			t.Fatal(err)
		}
		other := p.Other()
		p.Trouble(keys.ErrDenied, time.Second)
		if _, err := p.Unwrap(t.Context(), 7, w); !errors.Is(err, keys.ErrDenied) || errs.KindOf(err) != errs.Unavailable {
			t.Errorf("in trouble: %v", err)
		}
		if got, err := other.Unwrap(t.Context(), 7, w); err != nil || !got.Equal(kek) {
			t.Errorf("another host: %v", err)
		}
		time.Sleep(time.Second)
		if got, err := p.Unwrap(t.Context(), 7, w); err != nil || !got.Equal(kek) {
			t.Errorf("afterwards: %v", err)
		}
		if _, err := p.Unwrap(t.Context(), 8, w); err == nil {
			t.Error("the wrap of another domain was opened")
		}
	})
}
