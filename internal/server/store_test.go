package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// forgetful is a store that creates objects as often as it is asked to.
type forgetful struct{ objstore.Store }

func (f forgetful) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return f.Put(ctx, key, data)
}

// TestStoreThatAnswersWrongly: nothing is ever created in it.
func TestStoreThatAnswersWrongly(t *testing.T) {
	s := &provedStore{ledger: cost.NewLedger(time.Time{}), url: "mem://", marker: filepath.Join(t.TempDir(), markerFile)}
	s.opts.Wrap = func(s objstore.Store) objstore.Store { return forgetful{s} }
	for range 2 {
		if err := s.PutIfAbsent(t.Context(), "a/b", []byte("x")); !errors.Is(err, errs.Unsupported) {
			t.Fatalf("error: %v", err)
		}
	}
	if _, err := s.Get(t.Context(), "a/b"); !errors.Is(err, errs.NotFound) {
		t.Errorf("it was created: %v", err)
	}
	if _, err := os.Stat(s.marker); err == nil {
		t.Error("it is marked as proved")
	}
	good := &provedStore{ledger: cost.NewLedger(time.Time{}), url: "mem://", marker: s.marker}
	if err := good.PutIfAbsent(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(s.marker); err != nil || string(b) != good.mark() {
		t.Errorf("marker: %q, %v", b, err)
	}
	if _, err := openStore(t.Context(), &config.Config{Data: filepath.Dir(s.marker), Store: "mem://"}, &objstore.Counter{}, cost.NewLedger(time.Time{}), nil); err != nil {
		t.Error(err)
	}
}
