package installation

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

var ctx = context.Background()

func url(name string) string {
	if name == "" {
		return "s3://bucket/prefix"
	}
	return "s3://bucket/prefix?installation=" + name
}

func wantError(t *testing.T, err error, k errs.Kind, text string) {
	t.Helper()
	if err == nil || errs.KindOf(err) != k || !strings.Contains(err.Error(), text) {
		t.Errorf("%v, want one of kind %s with %q", err, k, text)
	}
}

// TestOneInstallation: a store is of whoever named it first; others, and those without a
// name, are refused.
func TestOneInstallation(t *testing.T) {
	s := objstore.NewMem(objstore.Clock{})
	for _, name := range []string{"", "", "prod", "prod"} {
		if err := Prove(ctx, s, url(name)); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
	}
	wantError(t, Prove(ctx, s, url("staging")), errs.Invalid, `belongs to the installation "prod", not to "staging"`)
	wantError(t, Prove(ctx, s, url("")), errs.Invalid, "installation=prod")
	wantError(t, Prove(ctx, s, url("a/b")), errs.Invalid, "installation=")
}

// TestTwoAtOnce: of two installations that take one store at the same time, one has it.
func TestTwoAtOnce(t *testing.T) {
	for range 20 {
		s := objstore.NewMem(objstore.Clock{})
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i, name := range []string{"a", "b"} {
			wg.Go(func() { errs[i] = Prove(ctx, s, url(name)) })
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("%v", errs)
		}
	}
}

// TestDamage: an object of which any bit is changed lets nobody in.
func TestDamage(t *testing.T) {
	s := objstore.NewMem(objstore.Clock{})
	if err := Prove(ctx, s, url("prod")); err != nil {
		t.Fatal(err)
	}
	raw, err := s.Get(ctx, Key)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(raw) * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		if name, err := decode(raw); !errors.Is(err, errs.Corrupt) {
			t.Errorf("bit %d: %q, %v", bit, name, err)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
	for n := range raw {
		if name, err := decode(raw[:n]); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%d bytes: %q, %v", n, name, err)
		}
	}
}
