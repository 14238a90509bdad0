package flush

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// TestStore stores blocks without a map: every one is where Store says, those that the
// store has are not uploaded, and a fold of the same blocks uploads none of them.
func TestStore(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		b := newBench(t, 200)
		end := b.session.Begin()
		b.fold(one(0, content(1)), one(1, content(2)))
		disk := make([]byte, 200*blockSize) // in it blocks 7 of 8 that differ, zeros, and some of few kinds
		var indexes []uint64
		for idx := range uint64(200) {
			raw := content(100 + r.Uint64())
			switch r.IntN(8) {
			case 0:
				raw = content(1 + r.Uint64N(4))
			case 1:
				clear(raw)
			}
			copy(disk[idx*blockSize:], raw)
			if r.IntN(3) > 0 {
				indexes = append(indexes, idx)
			}
		}
		src := BlockSource(indexes, blockSize, func(_ context.Context, p []byte, off uint64) error {
			copy(p, disk[off:])
			return nil
		})
		res, err := Store(ctx, b.session, src, b.options())
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Blocks) != len(indexes) || len(res.Reused) != 0 {
			t.Fatalf("%d of %d blocks have places, and packs %v have to be pinned", len(res.Blocks), len(indexes), res.Reused)
		}
		distinct := map[pack.Hash]bool{}
		var changes []Change
		for _, idx := range indexes {
			want, got := disk[idx*blockSize:][:blockSize], make([]byte, blockSize)
			if ref := res.Blocks[idx]; !ref.IsHole() {
				distinct[ref.Hash] = true
				if got, err = b.Page(ctx, ref); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("seed %d: block %d is not what was stored", seed, idx)
			}
			changes = append(changes, one(idx, bytes.Clone(want)))
		}
		if res.New > uint64(len(distinct)) {
			t.Errorf("%d blocks were uploaded, %d are different", res.New, len(distinct))
		}
		if again := b.fold(changes...); again.New != 0 {
			t.Errorf("the fold uploaded %d blocks again", again.New)
		}
		end(ctx)
		b.restart() // whose packs the next session has to pin
		res, err = Store(ctx, b.session, src, b.options())
		if err != nil {
			t.Fatal(err)
		}
		if res.New != 0 || len(res.Reused) == 0 {
			t.Errorf("another session uploads %d blocks, and pins %d packs", res.New, len(res.Reused))
		}
	}
}

// TestStoreIsComplete: Store returns an error if an upload failed, and nothing that it
// returns without one is missing.
func TestStoreIsComplete(t *testing.T) {
	b := newBench(t, 200)
	lost := errs.New(errs.Unavailable, "lost")
	puts := 0
	b.store = failing{b.store, func() error {
		if puts++; puts == 3 {
			return lost
		}
		return nil
	}}
	b.restart()
	opts := b.options()
	opts.Uploads = 1
	var changes []Change
	for idx := range uint64(200) {
		changes = append(changes, one(idx, content(idx)))
	}
	if _, err := Store(ctx, b.session, list(changes), opts); !errors.Is(err, lost) {
		t.Errorf("Store returned %v", err)
	}
}

// failing is a store whose puts may fail.
type failing struct {
	objstore.Store
	put func() error
}

func (f failing) Put(ctx context.Context, key string, b []byte) error {
	if err := f.put(); err != nil {
		return err
	}
	return f.Store.Put(ctx, key, b)
}
