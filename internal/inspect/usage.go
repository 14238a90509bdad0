package inspect

import (
	"cmp"
	"context"
	"slices"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

// owned describes one block: which volumes have it and what it takes.
type owned struct {
	owner  int // the first volume that was seen to have it
	shared bool
	mine   bool // a volume in question has it
	raw    uint32
	stored uint32
}

// usage adds up what this host's volumes use. A volume and its snapshots count as one
// owner, because they are removed together.
type usage struct {
	in     *Inspector
	ask    volume.ID // the volume in question; zero: all of them
	owners map[volume.ID]int
	blocks map[pack.Hash]*owned
	places []placed
	out    api.Usage
	// mapped bytes of the volumes in question, before deduplication
	mapped uint64
}

// placed is a range of the log that an overlay points at.
type placed struct {
	start, end uint64
	owner      int
}

// Usage returns what a volume, or all volumes of this host, use. It is exact over this
// host's volumes. It walks the block maps of all of them.
func (in *Inspector) Usage(ctx context.Context, name string) (api.Usage, error) {
	u := usage{in: in, owners: map[volume.ID]int{}, blocks: map[pack.Hash]*owned{}}
	if name != "" {
		d, err := in.disks.Local(name, false)
		if err != nil {
			return api.Usage{}, err
		}
		u.ask = d.ID
	}
	for _, d := range in.disks.All() {
		if err := u.disk(ctx, d); err != nil {
			return api.Usage{}, err
		}
	}
	u.sumBlocks()
	u.sumLog()
	return u.out, nil
}

// disk adds one disk.
func (u *usage) disk(ctx context.Context, d *disk.Disk) error {
	st := d.State()
	id := st.ID
	if st.SnapshotOf != (volume.ID{}) {
		id = st.SnapshotOf
	}
	owner, ok := u.owners[id]
	if !ok {
		owner = len(u.owners)
		u.owners[id] = owner
	}
	asked := u.ask == (volume.ID{}) || u.ask == id
	if asked && st.SnapshotOf == (volume.ID{}) {
		u.out.Logical += st.Size
	}
	base, done, err := u.open(d, &st, owner)
	if err != nil {
		return nil // a failed or fenced disk is not counted
	}
	defer done()
	return base.Walk(ctx, 0, base.Blocks(), func(_ uint64, r pack.Ref) error {
		b := u.blocks[r.Hash]
		if b == nil {
			b = &owned{owner: owner, raw: st.BlockSize, stored: r.Len}
			u.blocks[r.Hash] = b
		}
		b.shared = b.shared || b.owner != owner
		if asked {
			b.mine = true
			u.mapped += uint64(st.BlockSize)
		}
		return nil
	})
}

// open returns the map of a disk and collects the ranges of the log that its overlay
// points at. A released disk is entirely in the store, and is not opened, because waking
// it would claim it.
func (u *usage) open(d *disk.Disk, st *volume.State, owner int) (*blockmap.Map, func(), error) {
	if st.Released && st.Mode == volume.Asleep {
		m, err := blockmap.New(u.in.disks.Tenant(st.Tenant).Pages, st.Root, st.Blocks())
		return m, func() {}, err
	}
	v, closeAgain, err := d.OpenForRead()
	if err != nil {
		return nil, nil, err
	}
	c, err := v.Cut()
	if err != nil {
		closeAgain()
		return nil, nil, err
	}
	c.Places(func(place, length uint64) { u.places = append(u.places, placed{place, place + length, owner}) })
	return c.Base(), func() {
		c.Release()
		closeAgain()
	}, nil
}

// sumBlocks adds up the blocks in the store.
func (u *usage) sumBlocks() {
	var unique uint64
	for _, b := range u.blocks {
		if !b.mine {
			continue
		}
		unique += uint64(b.raw)
		u.out.Stored += uint64(b.stored)
		if b.shared {
			u.out.Shared += uint64(b.raw)
		} else {
			u.out.Exclusive += uint64(b.raw)
		}
		if !b.shared || u.ask == (volume.ID{}) {
			u.out.FreedIfRemoved += uint64(b.stored)
		}
	}
	u.out.DedupRatio, u.out.CompressionRatio = 1, 1
	if unique > 0 {
		u.out.DedupRatio = float64(u.mapped) / float64(unique)
		u.out.CompressionRatio = float64(unique) / float64(u.out.Stored)
	}
}

// sumLog adds up the ranges of the log. Between two neighbouring ends of ranges, the set
// of owners is constant.
func (u *usage) sumLog() {
	type edge struct {
		at    uint64
		owner int
		delta int
	}
	edges := make([]edge, 0, 2*len(u.places))
	for _, p := range u.places {
		edges = append(edges, edge{p.start, p.owner, 1}, edge{p.end, p.owner, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	asked, all := -1, u.ask == (volume.ID{})
	if !all {
		asked = u.owners[u.ask]
	}
	open := map[int]int{}
	for i, e := range edges {
		if open[e.owner] += e.delta; open[e.owner] == 0 {
			delete(open, e.owner)
		}
		if i+1 == len(edges) || len(open) == 0 {
			continue
		}
		n := edges[i+1].at - e.at
		_, mine := open[asked]
		if !mine && !all {
			continue
		}
		u.out.Dirty += int64(n)
		if len(open) > 1 {
			u.out.Shared += n
		} else {
			u.out.Exclusive += n
		}
		if len(open) == 1 || all {
			u.out.FreedIfRemoved += n
		}
	}
}
