package inspect

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

// position tracks the progress of a walk over a volume, first through its log and then
// through its blocks.
type position struct {
	report    func(done, total uint64) // nil: no caller asked for it
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

// read reports that n more bytes of the log were read.
func (p *position) read(n uint64) {
	if p.done += n; p.report != nil {
		p.report(min(p.done, p.log), p.log+p.size)
	}
}

// at reports that the blocks before the offset were read.
func (p *position) at(off uint64) {
	if p.report != nil {
		p.report(p.log+min(off, p.size), p.log+p.size)
	}
}

// maxDamaged is how many damaged places one call lists.
const maxDamaged = 100

// Verify reads all of a volume and checks the log against its checksums and every block
// against its hash. With cold, it reads blocks from the store even if a tier has them.
func (in *Inspector) Verify(ctx context.Context, name string, cold bool) (api.Verify, error) {
	n, err := disk.ParseName(name, true)
	if err != nil {
		return api.Verify{}, err
	}
	out := api.Verify{Name: n.String(), Cold: cold, Damaged: []string{}}
	c, done, err := in.CutOf(ctx, n)
	if err != nil {
		return out, err
	}
	defer done()
	damaged := func(what string, err error) error {
		if k := errs.KindOf(err); k != errs.Corrupt && k != errs.NotFound {
			return err // it could not be checked
		}
		if len(out.Damaged) < maxDamaged {
			out.Damaged = append(out.Damaged, what+": "+err.Error())
		}
		return nil
	}
	pos := newPosition(ctx, c)
	if err := in.verifyLog(ctx, c, &out, pos, damaged); err != nil {
		return out, err
	}
	if g := disk.Generation(c.State.Published); cold && n.Snapshot == "" && !g.IsZero() {
		// The commit is what any other host would find the volume by.
		if err := in.verifyCommit(ctx, n, g, &out, damaged); err != nil {
			return out, err
		}
	}
	t := in.disks.Tenant(disk.DomainName(&c.State))
	size := int(c.State.BlockSize)
	base := c.Base()
	if cold {
		if base, err = in.storedMap(t, base); err != nil {
			return out, err
		}
	}
	err = base.Walk(ctx, 0, base.Blocks(), func(idx uint64, r pack.Ref) error {
		var err error
		if cold {
			_, err = t.Domain.FetchStored(ctx, &r, size)
		} else {
			_, err = t.Domain.Block(ctx, &r, size)
		}
		pos.at((idx + 1) * uint64(size))
		out.Blocks++
		out.Bytes += uint64(size)
		if err != nil {
			return damaged(fmt.Sprintf("block %d", idx), err)
		}
		return nil
	})
	if err != nil {
		err = damaged("block map", err)
	}
	if d := in.disks.Find(n); err == nil && cold && len(out.Damaged) == 0 && d != nil && d.HoldsState() {
		err = d.Update(func(s *volume.State) { s.VerifiedAt = in.disks.Now().UTC().Truncate(time.Second) })
	}
	return out, err
}

// verifyCommit reads a commit from the store, with the data commits that it rests on and
// the blocks that they name.
func (in *Inspector) verifyCommit(ctx context.Context, n disk.Name, g commitlog.Generation, out *api.Verify, damaged func(string, error) error) error {
	o, err := commitlog.Load(ctx, in.disks.Store, n.Log(), g)
	if err != nil {
		return damaged("commit", err)
	}
	var unchecked error
	err = commitlog.Replay(ctx, in.disks.Store, o, func(ranges []commitlog.Range) error {
		for _, r := range ranges {
			if r.Block == nil {
				continue
			}
			out.Blocks++
			out.Bytes += r.Len
			if _, err := in.disks.Tenant(o.State.DomainName()).Domain.FetchStored(ctx, r.Block, int(r.Len)); err != nil {
				if unchecked = damaged(fmt.Sprintf("block of a data commit at byte %d", r.Off), err); unchecked != nil {
					return unchecked
				}
			}
		}
		return nil
	})
	if err == nil || unchecked != nil {
		return unchecked
	}
	return damaged("data commits", err)
}

// coldPages bounds the memory for the pages of a map that is read from the store, in
// bytes.
const coldPages = 4 << 20

// storedMap returns a map that is read from the store, regardless of the pages that this
// host has.
func (in *Inspector) storedMap(t *disk.Tenant, m *blockmap.Map) (*blockmap.Map, error) {
	loader := in.disks.Cache.Pages(noPagesKept{})
	return blockmap.New(blockmap.NewPageCache(coldPages).Source(loader.For(t.Hasher), t.Hasher), m.Root(), m.Blocks())
}

// noPagesKept is a page store that keeps nothing.
type noPagesKept struct{}

func (noPagesKept) Page(pack.Hash) ([]byte, error) { return nil, nil }

func (noPagesKept) AddPage(pack.Hash, []byte) error { return nil }

// verifyLog reads and checks the log ranges that the overlay points at.
func (in *Inspector) verifyLog(ctx context.Context, c *volume.Cut, out *api.Verify, pos *position, damaged func(string, error) error) error {
	for _, s := range c.Segments() {
		if err := s.Verify(); err != nil {
			if err := damaged("log", err); err != nil {
				return err
			}
		}
	}
	buf := make([]byte, 1<<20)
	return c.Overlay(func(start, end uint64, zero bool) error {
		for off := start; off < end && !zero; off += uint64(len(buf)) {
			n := min(uint64(len(buf)), end-off)
			out.Bytes += n
			pos.read(n)
			if err := c.ReadAt(ctx, buf[:n], off); err != nil {
				if err := damaged("offset "+strconv.FormatUint(off, 10), err); err != nil {
					return err
				}
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	})
}
