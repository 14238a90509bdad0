package inspect

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/sharing"
	"github.com/paraglide/glide/internal/volume"
)

const (
	// keepFor is how long the index of blocks is kept after it was last asked for.
	keepFor = 10 * time.Minute
	// keepBytes bounds the index that is kept: about 1.2 million distinct blocks, which
	// are 150 GiB in blocks of 128 KiB. A larger one is dropped after every answer, so the
	// next one is counted from the start.
	keepBytes = 64 << 20
)

// usages keeps the index of blocks between calls.
type usages struct {
	turn     chan struct{} // held while the fields below are used
	index    *sharing.Index
	asked    bool // since dropUsages last looked
	dropping bool // dropUsages runs
}

// Usage returns what a volume, a snapshot, or everything on this host uses. It is exact
// over this host's volumes. It reads the pages of block maps that have changed since the
// last call.
func (in *Inspector) Usage(ctx context.Context, name string) (api.Usage, error) {
	var asked *disk.Disk
	if name != "" {
		var err error
		if asked, err = in.disks.Local(name, true); err != nil {
			return api.Usage{}, err
		}
		st := asked.State()
		if err := in.disks.Tenants.Ready(ctx, disk.DomainName(&st)); err != nil {
			return api.Usage{}, err
		}
	}
	u := &in.usages
	select {
	case u.turn <- struct{}{}:
		defer func() { <-u.turn }()
	case <-ctx.Done():
		return api.Usage{}, ctx.Err()
	}
	disks, places := in.content(ctx)
	counted := make([]sharing.Disk, 0, len(disks))
	for i := range disks {
		if m := disks[i].base; m != nil {
			disks[i].position = len(counted)
			counted = append(counted, sharing.Disk{ID: disks[i].ID, Map: m, BlockSize: disks[i].BlockSize})
		}
	}
	if u.index == nil {
		u.index = sharing.New()
	}
	x := u.index
	if err := x.Count(ctx, counted); err != nil {
		return api.Usage{}, err
	}
	if x.Size() > keepBytes {
		u.index = nil
	} else if u.asked = true; !u.dropping {
		u.dropping = true
		in.disks.BG.Go(in.dropUsages)
	}
	r := newReport(disks, len(counted), asked)
	for i := range disks {
		if d := &disks[i]; d.base != nil {
			r.addMapped(i, x.Mapped(d.position)*uint64(d.BlockSize))
		}
	}
	x.Groups(func(g *sharing.Group) { r.addBlocks(g.Disks, g.Raw, g.Stored) })
	eachPart(places, r.addLog)
	return r.done(name)
}

// dropUsages drops the index when nobody has asked for it for a while.
func (in *Inspector) dropUsages() {
	u := &in.usages
	for {
		err := clock.Pause(in.disks.Ctx, keepFor)
		u.turn <- struct{}{}
		if !u.asked || err != nil {
			u.index, u.dropping = nil, false
			<-u.turn
			return
		}
		u.asked = false
		<-u.turn
	}
}

// content is a disk with what it has: a map, nil if it is not counted, and under position
// where it is among those that are.
type content struct {
	volume.State
	base     *blockmap.Map
	position int
}

// placed is a range of the log that the overlay of a counted disk points at.
type placed struct {
	start, end uint64
	position   int
}

// content returns all disks of this host with their maps, and what their overlays point
// at. A failed or fenced disk is not counted, and none of a locked tenant.
func (in *Inspector) content(ctx context.Context) (disks []content, places []placed) {
	n := 0
	for _, d := range in.disks.All() {
		c := content{State: d.State()}
		if in.disks.Tenants.Ready(ctx, disk.DomainName(&c.State)) != nil {
			disks = append(disks, c)
			continue
		}
		m, err := in.baseOf(d, &c.State, func(place, length uint64) { places = append(places, placed{place, place + length, n}) })
		if err == nil {
			c.base = m
			n++
		}
		disks = append(disks, c)
	}
	return disks, places
}

// baseOf returns the map of a disk, and calls fn for the ranges of the log that its overlay
// points at. A sleeping disk without a log is not opened: that would cost time, and would
// claim one that was released.
func (in *Inspector) baseOf(d *disk.Disk, st *volume.State, fn func(place, length uint64)) (*blockmap.Map, error) {
	if st.Mode == volume.Asleep && (st.Released || len(st.Segments) == 0) {
		return blockmap.New(in.disks.Tenant(disk.DomainName(st)).Pages, st.Root, st.RootBlocks)
	}
	v, closeAgain, err := d.OpenForRead()
	if err != nil {
		return nil, err
	}
	defer closeAgain()
	c, err := v.Cut()
	if err != nil {
		return nil, err
	}
	defer c.Release()
	c.Places(fn)
	return c.Base(), nil
}

// eachPart calls fn for the parts of the log that ranges cover, with the disks whose
// ranges cover it. Between two neighbouring ends of ranges these are the same.
func eachPart(places []placed, fn func(disks []int, n uint64)) {
	type edge struct {
		at       uint64
		position int
		delta    int
	}
	edges := make([]edge, 0, 2*len(places))
	for _, p := range places {
		edges = append(edges, edge{p.start, p.position, 1}, edge{p.end, p.position, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	open := map[int]int{} // disk → how many of its ranges cover the part
	var disks []int
	for i, e := range edges {
		if open[e.position] += e.delta; open[e.position] == 0 {
			delete(open, e.position)
		}
		if i+1 == len(edges) || len(open) == 0 || edges[i+1].at == e.at {
			continue
		}
		disks = disks[:0]
		for d := range open {
			disks = append(disks, d)
		}
		fn(disks, edges[i+1].at-e.at)
	}
}
