package host

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// slots reads pages and blocks from the store only. No tier, index or map of a host can
// hide that one is missing.
type slots struct {
	store  objstore.Store
	hasher *pack.Hasher
}

// Page implements blockmap.Pages.
func (s slots) Page(ctx context.Context, ref pack.Ref) ([]byte, error) {
	if _, err := s.hasher.Ready(ctx); err != nil {
		return nil, err
	}
	raw, err := forward.Follow(s.store).GetRange(ctx, ref.Pack.Key(), int64(ref.Off), int64(ref.Len))
	if err != nil {
		return nil, err
	}
	return pack.Open(s.hasher, ref, raw, nil, 1<<20)
}

// imageOf reads everything that a map in the store holds: published-is-complete.
func imageOf(store objstore.Store, hasher *pack.Hasher, root blockmap.Root, size uint64, blockSize uint32) ([]byte, error) {
	s := slots{store, hasher}
	m, err := blockmap.New(blockmap.NewPageCache(1<<20).Source(s, s.hasher), root, (size+uint64(blockSize)-1)/uint64(blockSize))
	if err != nil {
		return nil, err
	}
	image := make([]byte, size)
	err = m.Walk(ctx, 0, m.Blocks(), func(idx uint64, ref pack.Ref) error {
		raw, err := s.Page(ctx, ref)
		if err == nil {
			copy(image[idx*uint64(blockSize):], raw)
		}
		return err
	})
	return image, err
}

// published reads the newest commit of a volume, and its snapshots, from the store.
// Everything that it names must be there (published-is-complete). For a name that the
// store does not know, or a removed one, the error is errs.NotFound.
func published(store objstore.Store, name string) (*commitlog.Object, []byte, error) {
	n, err := disk.ParseName(name, false)
	if err != nil {
		return nil, nil, err
	}
	known := tenantstest.New(store, tenantstest.Shared())
	store = known.Keyed(store)
	tip, err := commitlog.Newest(ctx, store, n.Log())
	if err != nil {
		return nil, nil, err
	}
	if tip.Tombstone {
		return tip, nil, errs.New(errs.NotFound, "%q was removed", name)
	}
	s := &tip.State
	for _, snap := range s.Snapshots {
		if _, err := imageOf(store, known.Hasher(n.Tenant), snap.Root, snap.Size, s.BlockSize); err != nil {
			return tip, nil, errors.Join(fmt.Errorf("published-is-complete: %s@%s of commit %s", name, snap.Name, tip.Generation), incomplete(err))
		}
	}
	image, err := imageOf(store, known.Hasher(n.Tenant), s.Root, s.Size, s.BlockSize)
	if err != nil {
		return tip, nil, errors.Join(fmt.Errorf("published-is-complete: commit %s of %s", tip.Generation, name), incomplete(err))
	}
	err = commitlog.Replay(ctx, store, tip, func(ranges []commitlog.Range) error {
		for _, r := range ranges {
			if r.Block != nil {
				raw, err := slots{store, known.Hasher(n.Tenant)}.Page(ctx, *r.Block)
				if err != nil {
					return err
				}
				copy(image[r.Off:], raw)
			} else if r.Data == nil {
				clear(image[r.Off : r.Off+r.Len])
			} else {
				copy(image[r.Off:], r.Data)
			}
		}
		return nil
	})
	if err != nil {
		return tip, nil, errors.Join(fmt.Errorf("published-is-complete: data commits of %s of %s", tip.Generation, name), incomplete(err))
	}
	return tip, image, nil
}

// incomplete makes the error of a missing pack differ from that of a missing volume.
func incomplete(err error) error { return errs.New(errs.Corrupt, "%v", err) }

// entropy is a Config.Rand that is deterministic for a seed.
func entropy(seed uint64) io.Reader { return &lockedReader{b: randomSource(seed)} }
