package inspect

import (
	"bytes"
	"context"
	"slices"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

// DiffPage is the granularity of reported differences, in bytes.
const DiffPage = 4096

// differ compares two cuts. It does not read blocks whose references are equal, nor
// blocks that no overlay touches and neither map has.
type differ struct {
	a, b     *volume.Cut
	out      *api.Diff
	suspects map[uint64]struct{} // blocks whose content has to be compared
}

func (d *differ) run(ctx context.Context) error {
	size := uint64(d.a.State.BlockSize)
	if size != uint64(d.b.State.BlockSize) {
		return errs.New(errs.Invalid, "%q has blocks of %d bytes and %q of %d: they share none", d.out.A, size, d.out.B, d.b.State.BlockSize)
	}
	d.suspects = map[uint64]struct{}{}
	note := func(idx uint64, _, _ pack.Ref) error {
		d.suspects[idx] = struct{}{}
		return nil
	}
	if err := blockmap.Diff(ctx, d.a.Base(), d.b.Base(), note); err != nil {
		return err
	}
	for _, c := range []*volume.Cut{d.a, d.b} {
		if err := d.touched(ctx, c, size); err != nil {
			return err
		}
	}
	if err := d.sharedBelow(ctx, size); err != nil {
		return err
	}
	idxs := make([]uint64, 0, len(d.suspects))
	for idx := range d.suspects {
		idxs = append(idxs, idx)
	}
	slices.Sort(idxs)
	for _, idx := range idxs {
		if err := d.compare(ctx, idx, size); err != nil {
			return err
		}
	}
	d.sizes()
	return nil
}

// touched adds the blocks to suspects that an overlay may have made different. A
// discarded range can differ only in its first and last block and in blocks that one of
// the maps has.
func (d *differ) touched(ctx context.Context, c *volume.Cut, size uint64) error {
	return c.Overlay(func(start, end uint64, zero bool) error {
		first, last := start/size, (end-1)/size
		if !zero {
			for idx := first; idx <= last; idx++ {
				d.suspects[idx] = struct{}{}
			}
			return nil
		}
		d.suspects[first], d.suspects[last] = struct{}{}, struct{}{}
		for _, m := range []*blockmap.Map{d.a.Base(), d.b.Base()} {
			if err := m.Walk(ctx, first, last+1, func(idx uint64, _ pack.Ref) error {
				d.suspects[idx] = struct{}{}
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// sharedBelow counts the blocks that both maps have and no overlay touched.
func (d *differ) sharedBelow(ctx context.Context, size uint64) error {
	return d.a.Base().Walk(ctx, 0, d.a.Base().Blocks(), func(idx uint64, _ pack.Ref) error {
		if _, ok := d.suspects[idx]; !ok {
			d.out.SharedBytes += size
		}
		return nil
	})
}

// compare reads one block of both cuts and compares its pages.
func (d *differ) compare(ctx context.Context, idx, size uint64) error {
	end := min(d.a.Size(), d.b.Size())
	off := idx * size
	if off >= end {
		return nil // sizes reports this part
	}
	n := min(size, end-off)
	x, y := make([]byte, n), make([]byte, n)
	if err := d.a.ReadAt(ctx, x, off); err != nil {
		return err
	}
	if err := d.b.ReadAt(ctx, y, off); err != nil {
		return err
	}
	for p := uint64(0); p < n; p += DiffPage {
		q := min(p+DiffPage, n)
		if !bytes.Equal(x[p:q], y[p:q]) {
			d.add(off+p, q-p)
		} else if !isZero(x[p:q]) {
			d.out.SharedBytes += q - p
		}
	}
	return nil
}

// sizes adds the part that only the larger cut has.
func (d *differ) sizes() {
	if a, b := d.a.Size(), d.b.Size(); a != b {
		d.add(min(a, b), max(a, b)-min(a, b))
	}
}

func (d *differ) add(off, n uint64) {
	d.out.DifferentBytes += n
	if k := len(d.out.Ranges); k > 0 && d.out.Ranges[k-1].Offset+d.out.Ranges[k-1].Length == off {
		d.out.Ranges[k-1].Length += n
		return
	}
	d.out.Ranges = append(d.out.Ranges, api.Range{Offset: off, Length: n})
}

// Diff returns where two volumes differ and how much they share.
func (in *Inspector) Diff(ctx context.Context, a, b string) (api.Diff, error) {
	out := api.Diff{A: a, B: b, Ranges: []api.Range{}}
	ca, doneA, err := in.cutNamed(ctx, a)
	if err != nil {
		return out, err
	}
	defer doneA()
	cb, doneB, err := in.cutNamed(ctx, b)
	if err != nil {
		return out, err
	}
	defer doneB()
	d := differ{a: ca, b: cb, out: &out}
	return out, d.run(ctx)
}

// isZero reports whether all bytes are zero.
func isZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
