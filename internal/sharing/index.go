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
	roots   map[uint32]uint32                     // node → the set of the disks whose root it is
	list    []uint32                              // numbers of the disks, in the order of the list
	pending [blockmap.MaxHeight]map[uint32][]swap // by the level of the page
	emptied []uint32                              // nodes that had no references, at some time in apply
	read    uint64
}

// swap is a change of the references to a node: it loses one from a parent of one set of
// disks, and gets one from a parent of another; 0 is none.
type swap struct{ loses, gets uint32 }

// New returns an index without disks.
func New() *Index {
	x := &Index{nodes: newNodes(), sets: newSets(), numbers: map[[16]byte]uint32{}, roots: map[uint32]uint32{}}
	for level := range x.pending {
		x.pending[level] = map[uint32][]swap{}
	}
	return x
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
	m := moves{leave: map[uint32][]uint32{}, join: map[uint32][]uint32{}}
	for id, n := range x.numbers {
		if d := &x.disks[n]; d.gone {
			m.from(d.root, n)
			delete(x.numbers, id)
			*d = counted{}
			x.free = append(x.free, n) // given to another disk by the next Count at the earliest
		}
	}
	err := x.enterAll(ctx, list, &m)
	x.apply(&m)
	x.sets.sweep(x.roots, nil)
	if invariants.Enabled {
		x.check()
	}
	return err
}

// moves are the disks that leave a root, and those that join one.
type moves struct{ leave, join map[uint32][]uint32 }

func (m *moves) from(root, disk uint32) {
	if root != 0 {
		m.leave[root] = append(m.leave[root], disk)
	}
}

func (m *moves) to(root, disk uint32) {
	if root != 0 {
		m.join[root] = append(m.join[root], disk)
	}
}

// enterAll reads what the index lacks of the disks' maps, and notes which disks move to
// other roots.
func (x *Index) enterAll(ctx context.Context, list []Disk, m *moves) error {
	for i := range list {
		d := &x.disks[x.list[i]]
		var k key // of no root
		ref := list[i].Map.Root().Ref
		if !ref.IsHole() {
			k = keyOf(&ref.Hash, ofPage)
		}
		if x.nodes.all[d.root].key == k {
			continue
		}
		root := x.nodes.find(k, 0)
		if root == 0 && !ref.IsHole() {
			var err error
			if root, err = x.fill(ctx, &list[i], k); err != nil {
				return err
			}
		}
		m.from(d.root, x.list[i])
		m.to(root, x.list[i])
		d.root = root
	}
	return nil
}

// fill reads the pages of a map that the index does not hold, and returns the root. What is
// new has no references yet: apply adds those.
func (x *Index) fill(ctx context.Context, d *Disk, root key) (uint32, error) {
	var fresh []uint32
	add := func(nd node) uint32 {
		n := x.nodes.add(nd)
		fresh = append(fresh, n)
		x.addTo(0, &x.nodes.all[n])
		return n
	}
	n := add(node{key: root})
	known := func(ref pack.Ref) bool {
		return x.nodes.all[x.nodes.find(keyOf(&ref.Hash, ofPage), 0)].page != 0
	}
	err := d.Map.WalkPages(ctx, known, func(ref pack.Ref, p blockmap.Page) error {
		x.read++
		kids := make([]uint32, 0, p.Len())
		for _, r := range p.All() {
			kid := node{key: keyOf(&r.Hash, ofPage)}
			if p.Level() == 0 {
				kid = node{key: keyOf(&r.Hash, ofBlock), raw: d.BlockSize, stored: r.Len}
			}
			k := x.nodes.find(kid.key, kid.stored)
			if k == 0 {
				k = add(kid)
			}
			kids = append(kids, k)
		}
		at := x.nodes.find(keyOf(&ref.Hash, ofPage), 0)
		x.nodes.all[at].page = place(&x.nodes.pages, &x.nodes.freePages, page{kids: kids, level: p.Level()})
		x.nodes.kids += len(kids)
		return nil
	})
	if err != nil {
		for _, n := range fresh {
			x.takeFrom(0, &x.nodes.all[n])
			x.nodes.remove(n)
		}
		return 0, err
	}
	x.countBlocks(n)
	return n, nil
}

// apply moves disks between roots, and then goes down the trees as far as that changes who
// has what. It does so level by level: when a page is reached, all pages above it are done,
// so that every page is visited once, however many roots have changed.
func (x *Index) apply(m *moves) {
	for root := range m.leave {
		x.setRoot(root, m)
	}
	for root := range m.join {
		if m.leave[root] == nil {
			x.setRoot(root, m)
		}
	}
	for level := len(x.pending) - 1; level >= 0; level-- {
		for n, swaps := range x.pending[level] {
			delete(x.pending[level], n)
			x.change(n, swaps)
			if x.sets.dead > maxDead {
				x.sets.sweep(x.roots, x.pending[:level+1])
			}
		}
	}
	// A block can lose its references before it gets others.
	for _, n := range x.emptied {
		if nd := &x.nodes.all[n]; nd.mix == 0 && nd.key != (key{}) {
			x.takeFrom(0, nd)
			x.nodes.remove(n)
		}
	}
	x.emptied = x.emptied[:0]
}

// maxDead is how many mixes are added before those that no node has are looked for.
const maxDead = 1 << 14

// setRoot changes the set of the disks whose root a node is.
func (x *Index) setRoot(root uint32, m *moves) {
	was := x.roots[root]
	leave := m.leave[root]
	slices.Sort(leave)
	disks := slices.DeleteFunc(slices.Clone(x.sets.all[was].disks), func(n uint32) bool {
		_, found := slices.BinarySearch(leave, n)
		return found
	})
	disks = append(disks, m.join[root]...)
	slices.Sort(disks)
	now := x.sets.number(slices.Compact(disks))
	if now == 0 {
		delete(x.roots, root)
	} else {
		x.roots[root] = now
	}
	if was != now {
		x.exchange(root, swap{was, now})
	}
}

// exchange changes a reference to a node: that to a block at once, that to a page when its
// level is reached.
func (x *Index) exchange(n uint32, s swap) {
	if p := x.nodes.all[n].page; p != 0 {
		at := x.pending[x.nodes.pages[p].level]
		at[n] = append(at[n], s)
		return
	}
	x.change(n, []swap{s})
}

// change changes the references to a node, and those to the nodes below it if it belongs to
// other disks then.
func (x *Index) change(n uint32, swaps []swap) {
	nd := &x.nodes.all[n]
	was := nd.mix
	now := x.sets.after(was, swaps)
	x.takeFrom(was, nd)
	x.addTo(now, nd)
	nd.mix = now
	if nd.page != 0 {
		p := &x.nodes.pages[nd.page]
		before, after := x.sets.mixes[was].union, x.sets.mixes[now].union
		if !p.linked {
			before, p.linked = 0, true
		}
		if before != after {
			for _, k := range p.kids {
				x.exchange(k, swap{before, after})
			}
		}
	}
	if now == 0 {
		x.emptied = append(x.emptied, n)
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
