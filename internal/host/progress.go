package host

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/volume"
)

// foldProgress tells whoever waits for the fold of a cut how far it is; nil if
// nobody wants to know.
func foldProgress(ctx context.Context, c *volume.Cut) func(folded uint64) {
	report := api.Progress(ctx)
	if report == nil {
		return nil
	}
	total := dirtyBlockBytes(c)
	return func(folded uint64) { report(min(folded, total), total) }
}

// dirtyBlockBytes is the length of the blocks that a cut's overlay has data for.
func dirtyBlockBytes(c *volume.Cut) (total uint64) {
	size, next := uint64(c.State.BlockSize), uint64(0)
	_ = c.Overlay(func(start, end uint64, zero bool) error { // the function's own error
		if first, last := max(start/size, next), (end-1)/size; !zero && first <= last {
			total += (last - first + 1) * size
			next = last + 1
		}
		return nil
	})
	return total
}

// position tells how far a walk over a volume is, which goes through its log
// first and then through its blocks.
type position struct {
	report    func(done, total uint64) // nil: nobody wants to know
	log, size uint64
	done      uint64
}

func newPosition(ctx context.Context, c *volume.Cut) *position {
	p := &position{report: api.Progress(ctx), size: c.Size()}
	if p.report != nil {
		_ = c.Overlay(func(start, end uint64, zero bool) error {
			if !zero {
				p.log += end - start
			}
			return nil
		})
	}
	return p
}

// read notes that so many bytes more of the log were read.
func (p *position) read(n uint64) {
	if p.done += n; p.report != nil {
		p.report(min(p.done, p.log), p.log+p.size)
	}
}

// at notes that the blocks before the offset were read.
func (p *position) at(off uint64) {
	if p.report != nil {
		p.report(p.log+min(off, p.size), p.log+p.size)
	}
}
