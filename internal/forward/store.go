package forward

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

const (
	// maxKnown bounds how many packs' forwards a Store remembers. With 25 slots each it
	// is a few megabytes.
	maxKnown = 4096
	// MaxHops bounds a chain of forwards. Compaction makes forwards past the packs that it
	// replaces, so that chains have one or two; many more are a circle.
	MaxHops = 32
)

// Store is a store whose packs are where they went: reading a range of a pack that is
// gone reads the copies of its slots. It may be used concurrently.
type Store struct {
	objstore.Store

	mu    sync.Mutex // guards known; held over no I/O
	known map[pack.ID][]*Forward
}

// Follow returns a store that follows the forwards in s.
func Follow(s objstore.Store) *Store {
	return &Store{Store: s, known: map[pack.ID][]*Forward{}}
}

func (s *Store) remembered(id pack.ID) []*Forward {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[id]
}

// of returns the forwards of a pack. If there is one, it is remembered: the pack is gone
// for good.
func (s *Store) of(ctx context.Context, id pack.ID) ([]*Forward, error) {
	fs, err := Of(ctx, s.Store, id)
	if err != nil || len(fs) == 0 {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.known {
		if len(s.known) < maxKnown {
			break
		}
		delete(s.known, k)
	}
	s.known[id] = fs
	return fs, nil
}

// GetRange reads a part of an object. Of a pack that is gone it reads the slots of which
// all is in the range, from where they went; other bytes are zero.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	id, err := pack.ParseKey(key)
	if err != nil {
		return s.Store.GetRange(ctx, key, off, n)
	}
	return s.slots(ctx, id, off, n, 0)
}

func (s *Store) slots(ctx context.Context, id pack.ID, off, n int64, hops int) ([]byte, error) {
	fs := s.remembered(id)
	if fs == nil {
		data, err := s.Store.GetRange(ctx, id.Key(), off, n)
		if !errors.Is(err, errs.NotFound) {
			return data, err
		}
		var lerr error
		if fs, lerr = s.of(ctx, id); lerr != nil {
			return nil, lerr
		}
		if len(fs) == 0 {
			return nil, err
		}
	}
	if hops == MaxHops {
		return nil, errs.New(errs.Corrupt, "pack %s was forwarded %d times: its forwards are a circle", id, hops)
	}
	data, err := s.follow(ctx, id, fs, off, n, hops)
	if errors.Is(err, errs.NotFound) {
		// There may be more forwards by now.
		if fs, err = s.of(ctx, id); err == nil {
			data, err = s.follow(ctx, id, fs, off, n, hops)
		}
	}
	return data, err
}

func (s *Store) follow(ctx context.Context, id pack.ID, fs []*Forward, off, n int64, hops int) ([]byte, error) {
	out, found := make([]byte, n), false
	for _, f := range fs {
		for _, run := range f.runs(off, n) {
			data, err := s.slots(ctx, f.To, run.to, run.n, hops+1)
			if errors.Is(err, errs.NotFound) && len(fs) > 1 {
				continue // another copy may have it
			}
			if err != nil {
				return nil, err
			}
			copy(out[run.off-off:], data)
			found = true
		}
	}
	if !found {
		return nil, errs.New(errs.NotFound, "pack %s was compacted, and what is asked for at byte %d is not among what was kept", id, off)
	}
	return out, nil
}

// run is a row of slots that are neighbours in both packs.
type run struct{ off, to, n int64 }

// runs returns the slots of which all is in a range.
func (f *Forward) runs(off, n int64) (out []run) {
	i, _ := slices.BinarySearchFunc(f.Slots, off, func(s Slot, off int64) int { return int(int64(s.Off) - off) })
	for _, s := range f.Slots[i:] {
		r := run{int64(s.Off), int64(s.To), int64(s.Len)}
		if r.off+r.n > off+n {
			break
		}
		if last := len(out) - 1; last >= 0 && out[last].off+out[last].n == r.off && out[last].to+out[last].n == r.to {
			out[last].n += r.n
			continue
		}
		out = append(out, r)
	}
	return out
}

// Copies returns where the slot of a reference went, if its own place is damaged: every
// copy, through all forwards. It asks the store.
func (s *Store) Copies(ctx context.Context, ref pack.Ref) ([]pack.Ref, error) {
	var out []pack.Ref
	seen := map[pack.ID]bool{ref.Pack: true}
	for queue := []pack.Ref{ref}; len(queue) > 0 && len(seen) <= MaxHops; queue = queue[1:] {
		fs, err := Of(ctx, s.Store, queue[0].Pack)
		if err != nil {
			return out, err
		}
		for _, f := range fs {
			if c, ok := f.Ref(queue[0]); ok && !seen[c.Pack] {
				seen[c.Pack] = true
				out, queue = append(out, c), append(queue, c)
			}
		}
	}
	return out, nil
}
