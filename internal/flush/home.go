package flush

import (
	"context"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/pack"
)

// Plain is a part of what a map has in plain packs, which is to be stored again, with keys.
type Plain struct {
	Base *blockmap.Map
	From uint64 // the first block to look at
	Most uint64 // how many blocks to take at most; what follows stays as it is
	// Load returns a block, in memory from NewBlock. It is called for several in parallel.
	//
	// glide:blocks
	Load func(ctx context.Context, idx uint64, ref pack.Ref) ([]byte, error)
	// Pace waits until so many bytes more may be read; nil: it does not.
	//
	// glide:blocks
	Pace func(ctx context.Context, bytes int64) error
	Size int64 // of a block, bytes

	// What the source that ran last did.
	Taken uint64 // blocks that were yielded
	Next  uint64 // the first block that was not looked at
}

// Source yields these blocks, and in between the changes of another source, which may be
// nil: what that changes is its own.
func (f *Plain) Source(changes Source) Source {
	return func(ctx context.Context, fn func(Change) error) error {
		f.Taken, f.Next = 0, f.From
		if changes != nil {
			err := changes(ctx, func(c Change) error {
				if err := f.upTo(ctx, c.First, fn); err != nil {
					return err
				}
				if f.Taken < f.Most {
					f.Next = max(f.Next, c.First+c.Count)
				}
				return fn(c)
			})
			if err != nil {
				return err
			}
		}
		return f.upTo(ctx, f.Base.Blocks(), fn)
	}
}

// errFull ends a walk: no more blocks are to be taken.
type errFull struct{}

func (errFull) Error() string { return "enough" }

// upTo yields those before a block that were not looked at.
func (f *Plain) upTo(ctx context.Context, end uint64, fn func(Change) error) error {
	if f.Next >= end {
		return nil
	}
	err := f.Base.Walk(ctx, f.Next, end, func(idx uint64, ref pack.Ref) error {
		if ref.Pack.Domain != 0 || fault.Is("plain-blocks-left") && idx%2 == 1 {
			return nil
		}
		if f.Taken >= f.Most {
			f.Next = idx
			return errFull{}
		}
		f.Taken++
		if f.Pace != nil {
			if err := f.Pace(ctx, f.Size); err != nil {
				return err
			}
		}
		return fn(Change{First: idx, Count: 1, Load: func(ctx context.Context) ([]byte, error) { return f.Load(ctx, idx, ref) }})
	})
	if err == (errFull{}) {
		return nil
	}
	if err == nil {
		f.Next = end
	}
	return err
}
