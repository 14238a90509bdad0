package flush

import (
	"context"

	"github.com/paraglide/glide/internal/volume"
)

// CutSource yields the blocks that a cut's overlay touches, with their content in the
// cut. A block that was partly written is merged with the block below. Runs of whole zero
// blocks stay runs, so that a discarded disk folds in O(log size).
func CutSource(c *volume.Cut) Source {
	return func(_ context.Context, fn func(Change) error) error {
		w := cutWalk{cut: c, fn: fn, size: uint64(c.State.BlockSize)}
		return c.Overlay(w.extent)
	}
}

// BlockSource yields whole blocks of a disk, by index in ascending order. read must read
// from a cut.
func BlockSource(indexes []uint64, size uint32, read func(ctx context.Context, p []byte, off uint64) error) Source {
	return func(_ context.Context, fn func(Change) error) error {
		for _, idx := range indexes {
			load := func(ctx context.Context) ([]byte, error) {
				raw := NewBlock(int(size))
				return raw, read(ctx, raw, idx*uint64(size))
			}
			if err := fn(Change{First: idx, Count: 1, Load: load}); err != nil {
				return err
			}
		}
		return nil
	}
}

type cutWalk struct {
	cut  *volume.Cut
	fn   func(Change) error
	size uint64
	next uint64 // the first block that has not been yielded yet
}

// extent processes one range of the overlay.
func (w *cutWalk) extent(start, end uint64, zero bool) error {
	first, last := max(start/w.size, w.next), (end-1)/w.size
	if zero {
		// Blocks that lie entirely within the range are holes. The last block of the disk
		// may be short.
		from, to := max((start+w.size-1)/w.size, w.next), end/w.size
		if end == w.cut.Size() {
			to = last + 1
		}
		if from < to {
			if err := w.blocks(first, from); err != nil {
				return err
			}
			if err := w.fn(Change{First: from, Count: to - from}); err != nil {
				return err
			}
			w.next = to
			first = to
		}
	}
	return w.blocks(first, last+1)
}

// blocks yields the blocks [from, to) one by one.
func (w *cutWalk) blocks(from, to uint64) error {
	for idx := max(from, w.next); idx < to; idx++ {
		load := func(ctx context.Context) ([]byte, error) {
			raw := NewBlock(int(w.size))
			n := min(w.size, w.cut.Size()-idx*w.size)
			return raw, w.cut.ReadAt(ctx, raw[:n], idx*w.size)
		}
		if err := w.fn(Change{First: idx, Count: 1, Load: load}); err != nil {
			return err
		}
		w.next = idx + 1
	}
	return nil
}
