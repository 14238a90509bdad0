package inspect

import (
	"cmp"
	"slices"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// sum adds up what one volume, one snapshot, or a host uses.
type sum struct {
	api.Space
	mapped uint64 // bytes of all mapped blocks
	unique uint64 // bytes of the distinct ones
}

// add adds data: alone if nothing else has it, and removed if it goes with this.
func (s *sum) add(raw, stored uint64, alone, removed bool) {
	if alone {
		s.Exclusive += raw
	} else {
		s.Shared += raw
	}
	if removed {
		s.FreedIfRemoved += stored
	}
}

// blocks adds blocks in the store.
func (s *sum) blocks(raw, stored uint64, alone, removed bool) {
	s.unique += raw
	s.Stored += stored
	s.add(raw, stored, alone, removed)
}

// log adds a part of the log.
func (s *sum) log(n uint64, alone, removed bool) {
	s.Dirty += int64(n)
	s.add(n, n, alone, removed)
}

func (s *sum) space() api.Space {
	u := s.Space
	u.DedupRatio, u.CompressionRatio = 1, 1
	if s.unique > 0 {
		u.DedupRatio = float64(s.mapped) / float64(s.unique)
		u.CompressionRatio = float64(s.unique) / float64(s.Stored)
	}
	return u
}

// owner is a volume with its snapshots: they are removed together, so for the figures of
// volumes they are one.
type owner struct {
	sum
	name      string
	snapshots []int // disks
}

// report adds up what the disks of a host use.
type report struct {
	disks    []content
	counted  []int // position among the counted disks → disk
	ownerOf  []int // disk → owner
	owners   []owner
	alone    []sum    // disk → what it uses by itself; only for snapshots
	total    sum      // everything, or what was asked for
	asked    int      // owner; -1: all
	snapshot int      // disk; -1: none was asked for
	with     []uint64 // owner → bytes that it shares with what was asked for

	has []int // scratch: owners
}

func newReport(disks []content, counted int, asked *disk.Disk) *report {
	r := &report{disks: disks, counted: make([]int, counted), ownerOf: make([]int, len(disks)), alone: make([]sum, len(disks)), asked: -1, snapshot: -1}
	byID := map[volume.ID]int{}
	for i := range disks {
		d := &disks[i]
		id := d.ID
		if d.SnapshotOf != (volume.ID{}) {
			id = d.SnapshotOf
		}
		o, ok := byID[id]
		if !ok {
			o = len(r.owners)
			byID[id] = o
			r.owners = append(r.owners, owner{name: disk.Display(d.Tenant, d.Name, "")})
		}
		r.ownerOf[i] = o
		if d.base != nil {
			r.counted[d.position] = i
		}
		if d.SnapshotOf != (volume.ID{}) {
			r.owners[o].snapshots = append(r.owners[o].snapshots, i)
			r.alone[i].Logical = d.Size
		} else {
			r.owners[o].Logical = d.Size
			r.total.Logical += d.Size
		}
		if asked != nil && asked.ID == d.ID {
			r.asked = o
			if d.SnapshotOf != (volume.ID{}) {
				r.snapshot = i
			}
		}
	}
	r.with = make([]uint64, len(r.owners))
	return r
}

// addMapped adds the bytes that the map of a disk maps.
func (r *report) addMapped(d int, n uint64) {
	r.owners[r.ownerOf[d]].mapped += n
	r.alone[d].mapped += n
	r.total.mapped += n
}

// addBlocks adds distinct blocks that the given of the counted disks have.
func (r *report) addBlocks(positions []int, raw, stored uint64) {
	r.each(positions, raw, func(s *sum, alone, removed bool) { s.blocks(raw, stored, alone, removed) })
}

// addLog adds a part of the log that the given of the counted disks have.
func (r *report) addLog(positions []int, n uint64) {
	r.each(positions, n, func(s *sum, alone, removed bool) { s.log(n, alone, removed) })
}

// each calls fn with every sum that data of these disks counts in.
func (r *report) each(positions []int, raw uint64, fn func(s *sum, alone, removed bool)) {
	r.has = r.has[:0]
	asked, askedAlone := false, len(positions) == 1
	for _, p := range positions {
		d := r.counted[p]
		r.has = append(r.has, r.ownerOf[d])
		if r.disks[d].SnapshotOf != (volume.ID{}) {
			fn(&r.alone[d], len(positions) == 1, len(positions) == 1)
		}
		asked = asked || d == r.snapshot
	}
	slices.Sort(r.has)
	r.has = slices.Compact(r.has)
	alone := len(r.has) == 1
	fn(&r.total, alone, true)
	for _, o := range r.has {
		fn(&r.owners[o].sum, alone, alone)
		asked = asked || r.snapshot < 0 && o == r.asked
	}
	if !asked {
		return
	}
	for _, o := range r.has {
		// A snapshot can share data with its own volume, and with the other snapshots.
		if o != r.asked || r.snapshot >= 0 && !askedAlone && r.sharedWithin(positions) {
			r.with[o] += raw
		}
	}
}

// sharedWithin reports whether another disk of the asked owner is among these.
func (r *report) sharedWithin(positions []int) bool {
	return slices.ContainsFunc(positions, func(p int) bool {
		d := r.counted[p]
		return d != r.snapshot && r.ownerOf[d] == r.asked
	})
}

// done returns the report on everything, or on what was asked for.
func (r *report) done(name string) (api.Usage, error) {
	switch {
	case name == "":
		out := api.Usage{Space: r.total.space(), Volumes: make([]api.VolumeUsage, 0, len(r.owners))}
		for i := range r.owners {
			o := &r.owners[i]
			out.Volumes = append(out.Volumes, api.VolumeUsage{Name: o.name, Space: o.space(), Snapshots: r.snapshots(o)})
		}
		slices.SortFunc(out.Volumes, func(a, b api.VolumeUsage) int { return cmp.Compare(a.Name, b.Name) })
		return out, nil
	case r.asked < 0:
		return api.Usage{}, errs.New(errs.NotFound, "%q was removed meanwhile", name)
	}
	out := api.Usage{SharedWith: []api.SharedWith{}}
	if r.snapshot >= 0 {
		out.Space = r.alone[r.snapshot].space()
	} else {
		o := &r.owners[r.asked]
		out.Space, out.Snapshots = o.space(), r.snapshots(o)
	}
	for o, n := range r.with {
		if n > 0 {
			out.SharedWith = append(out.SharedWith, api.SharedWith{Name: r.owners[o].name, Bytes: n})
		}
	}
	slices.SortFunc(out.SharedWith, func(a, b api.SharedWith) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

func (r *report) snapshots(o *owner) []api.SnapshotUsage {
	out := make([]api.SnapshotUsage, 0, len(o.snapshots))
	for _, d := range o.snapshots {
		out = append(out, api.SnapshotUsage{Name: r.disks[d].Snapshot, Space: r.alone[d].space()})
	}
	slices.SortFunc(out, func(a, b api.SnapshotUsage) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
