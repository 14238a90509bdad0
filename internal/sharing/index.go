package sharing

import (
	"context"
	"slices"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/pack"
)

// Disk is a disk with its map, as it is to be counted.
type Disk struct {
	ID        [16]byte // never used for another disk
	Map       *blockmap.Map
	BlockSize uint32
}

// Group sums up the distinct blocks that the same disks have.
type Group struct {
	Disks  []int  // positions in the list that was last counted
	Raw    uint64 // bytes of the blocks
	Stored uint64 // bytes that they take in the store
}

// counted is a disk as it was last counted.
type counted struct {
	root     uint32 // node; 0 if the map is empty
	position int    // in the list
	gone     bool   // it is not in the list any more
}

// Index counts the blocks of disks.
type Index struct {
	nodes nodes
	sets  sets

	numbers map[[16]byte]uint32 // of disks
	disks   []counted           // by number
	free    []uint32
	roots   map[uint32]uint32 // node → the set of the disks whose root it is
	list    []uint32          // numbers of the disks, in the order of the list
	read    uint64
}

// New returns an index without disks.
func New() *Index {
	return &Index{nodes: newNodes(), sets: newSets(), numbers: map[[16]byte]uint32{}, roots: map[uint32]uint32{}}
}

// PagesRead returns how many pages of maps were read so far.
func (x *Index) PagesRead() uint64 { return x.read }

// Size estimates the memory that the index takes, in bytes.
func (x *Index) Size() int64 {
	return x.nodes.bytes() + x.sets.bytes + 96*int64(len(x.disks)) + 64*int64(len(x.roots))
}

// Count makes the list the disks that are counted. Their IDs must differ. If a page cannot
// be read, the disks whose maps have it stay as they were last counted, and Count returns
// the error.
func (x *Index) Count(ctx context.Context, list []Disk) error {
	for i := range x.disks {
		x.disks[i].gone = true
	}
	x.list = x.list[:0]
	for i := range list {
		n, ok := x.numbers[list[i].ID]
		if !ok {
			n = place(&x.disks, &x.free, counted{})
			x.numbers[list[i].ID] = n
		}
		x.disks[n].position, x.disks[n].gone = i, false
		x.list = append(x.list, n)
	}
	old := map[uint32][]uint32{} // root → disks that leave it
	for id, n := range x.numbers {
		if d := &x.disks[n]; d.gone {
			x.leave(old, n)
			delete(x.numbers, id)
			*d = counted{}
			x.free = append(x.free, n)
		}
	}
	// A free number is given to no other disk before its old root is forgotten, below.
	err := x.enterAll(ctx, list, old)
	for root, disks := range old {
		x.setRoot(root, func(in []uint32) []uint32 {
			return slices.DeleteFunc(in, func(n uint32) bool { return slices.Contains(disks, n) })
		})
	}
	x.sets.sweep(x.roots)
	if invariants.Enabled {
		x.check()
	}
	return err
}

// leave notes that a disk leaves its root.
func (x *Index) leave(old map[uint32][]uint32, n uint32) {
	if root := x.disks[n].root; root != 0 {
		old[root] = append(old[root], n)
	}
}

// enterAll adds the roots that are new to their disks. It does so for all disks of a root
// at once, because forks are many and share theirs.
func (x *Index) enterAll(ctx context.Context, list []Disk, old map[uint32][]uint32) error {
	byRoot := map[key][]int{}
	var order []key
	for i := range list {
		var k key // of no root
		if root := list[i].Map.Root(); !root.IsHole() {
			k = keyOf(&root.Ref.Hash, ofPage)
		}
		if now := x.disks[x.list[i]].root; x.nodes.all[now].key == k {
			continue
		}
		if byRoot[k] == nil {
			order = append(order, k)
		}
		byRoot[k] = append(byRoot[k], i)
	}
	for _, k := range order {
		root, err := x.enter(ctx, k, byRoot[k], list)
		if err != nil {
			return err
		}
		for _, i := range byRoot[k] {
			x.leave(old, x.list[i])
			x.disks[x.list[i]].root = root
		}
		if x.sets.dead > 1<<12 {
			x.sets.sweep(x.roots)
		}
	}
	return nil
}

// enter gives the root with the key to more disks, by their positions, and reads what of
// its tree the index lacks.
func (x *Index) enter(ctx context.Context, k key, positions []int, list []Disk) (uint32, error) {
	if k == (key{}) {
		return 0, nil
	}
	root := x.nodes.find(k, 0)
	if root == 0 {
		root = x.nodes.add(node{key: k})
		x.sets.mixes[0].nodes++
	}
	more := make([]uint32, len(positions))
	for i, p := range positions {
		more[i] = x.list[p]
	}
	before := slices.Clone(x.sets.all[x.roots[root]].disks)
	x.setRoot(root, func(in []uint32) []uint32 { return append(in, more...) })
	d := &list[positions[0]]
	if err := x.fill(ctx, d); err != nil {
		// This root alone has what was read of it, so that goes as well.
		x.setRoot(root, func([]uint32) []uint32 { return before })
		return 0, err
	}
	x.countBlocks(root)
	return root, nil
}

// setRoot changes the set of the disks whose root a node is. The node goes when nothing
// has it any more.
func (x *Index) setRoot(root uint32, change func(in []uint32) []uint32) {
	was := x.roots[root]
	disks := change(slices.Clone(x.sets.all[was].disks))
	slices.Sort(disks)
	now := x.sets.number(slices.Compact(disks))
	if now == 0 {
		delete(x.roots, root)
	} else {
		x.roots[root] = now
	}
	if was != now {
		x.exchange(root, was, now)
	}
}

// fill reads the pages of a map that the index knows the places of, but not the content.
func (x *Index) fill(ctx context.Context, d *Disk) error {
	known := func(ref pack.Ref) bool {
		return x.nodes.all[x.nodes.find(keyOf(&ref.Hash, ofPage), 0)].page != 0
	}
	return d.Map.WalkPages(ctx, known, func(ref pack.Ref, p blockmap.Page) error {
		x.read++
		n := x.nodes.find(keyOf(&ref.Hash, ofPage), 0)
		disks := x.sets.mixes[x.nodes.all[n].mix].union
		kids := make([]uint32, 0, p.Len())
		for _, r := range p.All() {
			kid := node{key: keyOf(&r.Hash, ofPage)}
			if p.Level() == 0 {
				kid = node{key: keyOf(&r.Hash, ofBlock), raw: d.BlockSize, stored: r.Len}
			}
			k := x.nodes.find(kid.key, kid.stored)
			if k == 0 {
				k = x.nodes.add(kid)
				x.addTo(0, &kid)
			}
			kids = append(kids, k)
			x.exchange(k, 0, disks)
		}
		x.nodes.all[n].page = place(&x.nodes.pages, &x.nodes.freePages, page{kids: kids})
		x.nodes.kids += len(kids)
		return nil
	})
}

// exchange takes a reference by a parent of one set of disks from a node, and gives it one
// by a parent of another set. 0 is none. If that changes the disks that the node belongs
// to, it changes the references to the nodes below.
//
// It is called with one disk, or several, coming or going, never both: then every node
// changes its disks once at most, whatever the number of ways that lead to it.
func (x *Index) exchange(n, loses, gets uint32) {
	nd := &x.nodes.all[n]
	was := nd.mix
	now := x.sets.after(change{was, loses, gets})
	x.takeFrom(was, nd)
	x.addTo(now, nd)
	nd.mix = now
	before, after := x.sets.mixes[was].union, x.sets.mixes[now].union
	if before != after && nd.page != 0 {
		for _, k := range x.nodes.pages[nd.page].kids {
			x.exchange(k, before, after)
		}
	}
	if now == 0 {
		x.takeFrom(0, nd)
		x.nodes.remove(n)
	}
}

func (x *Index) addTo(n uint32, nd *node) {
	m := &x.sets.mixes[n]
	m.nodes++
	m.raw += uint64(nd.raw)
	m.stored += uint64(nd.stored)
}

func (x *Index) takeFrom(n uint32, nd *node) {
	m := &x.sets.mixes[n]
	m.nodes--
	m.raw -= uint64(nd.raw)
	m.stored -= uint64(nd.stored)
}

// countBlocks counts the mapped blocks below a page, where that was not done yet.
func (x *Index) countBlocks(n uint32) uint64 {
	nd := &x.nodes.all[n]
	if nd.page == 0 {
		return 1
	}
	p := &x.nodes.pages[nd.page]
	if p.blocks == 0 {
		for _, k := range p.kids {
			p.blocks += x.countBlocks(k)
		}
	}
	return p.blocks
}

// Mapped returns how many blocks the map of a disk has, equal ones included. The disk is
// given by its position in the list.
func (x *Index) Mapped(position int) uint64 {
	root := x.disks[x.list[position]].root
	return x.nodes.pages[x.nodes.all[root].page].blocks
}

// Groups calls fn for all blocks, grouped by the disks that have them. Several groups can
// have the same disks. fn must not keep the group.
func (x *Index) Groups(fn func(g *Group)) {
	var g Group
	for i := range x.sets.mixes {
		m := &x.sets.mixes[i]
		if m.raw == 0 {
			continue
		}
		g.Disks = g.Disks[:0]
		for _, n := range x.sets.all[m.union].disks {
			g.Disks = append(g.Disks, x.disks[n].position)
		}
		g.Raw, g.Stored = m.raw, m.stored
		fn(&g)
	}
}

// check compares the sums with the nodes.
func (x *Index) check() {
	sums := make([]mix, len(x.sets.mixes))
	unread := 0
	for n := range x.nodes.all {
		if nd := &x.nodes.all[n]; nd.key != (key{}) {
			m := &sums[nd.mix]
			m.nodes, m.raw, m.stored = m.nodes+1, m.raw+uint64(nd.raw), m.stored+uint64(nd.stored)
			if nd.key[len(nd.key)-1] == ofPage && nd.page == 0 {
				unread++
			}
		}
	}
	wrong := 0
	for i := range sums {
		if m := &x.sets.mixes[i]; m.nodes != sums[i].nodes || m.raw != sums[i].raw || m.stored != sums[i].stored {
			wrong++
		}
	}
	if invariants.Enabled {
		invariants.Check(unread == 0, "%d pages of counted maps were not read", unread)
		invariants.Check(wrong == 0, "the sums of %d groups of blocks do not match their blocks", wrong)
	}
}
