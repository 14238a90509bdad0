package hardware

import (
	"bytes"
	"maps"
	"slices"
	"sync"

	"github.com/paraglide/glide/internal/sim/dice"
)

const (
	pageSize = 4096
	// SectorSize is what a crash leaves whole.
	SectorSize = 512
)

// disk is what is under a host's file system: it keeps, beside what the host
// sees, what would be there after the power went. Pages of files and entries of
// directories that were not synced are kept, lost or, pages, torn.
type disk struct {
	mu   sync.Mutex
	root *node
}

// node is a file or a directory.
type node struct {
	// A file: its pages as the host sees them, nil for one of zeros. A page that
	// is not in dirty is never written in place: other disks may have it too.
	pages [][]byte
	size  int64
	// dirty has, for each page that was written since the last sync began, what it
	// was then; syncing has that for the syncs under way, the oldest first, and
	// lost for pages which a failed sync gave up.
	dirty, lost map[int][]byte
	syncing     []*syncing
	durable     int64 // the size on the disk

	// A directory: its entries, and what they were made by since its last sync,
	// in order; a crash keeps a beginning of that.
	entries map[string]*node
	synced  map[string]*node
	changes []func(map[string]*node)
}

// syncing is a sync under way: what is written meanwhile is not part of it.
type syncing struct {
	dirty map[int][]byte
	size  int64
}

func newFile() *node { return &node{dirty: map[int][]byte{}} }

func newDir() *node { return &node{entries: map[string]*node{}, synced: map[string]*node{}} }

func newDisk() *disk { return &disk{root: newDir()} }

func (n *node) isDir() bool { return n.entries != nil }

// change makes a change to a directory.
func (n *node) change(do func(map[string]*node)) {
	do(n.entries)
	n.changes = append(n.changes, do)
}

var zeroPage [pageSize]byte

// page makes page i one that can be written in place.
func (n *node) page(i int) []byte {
	for len(n.pages) <= i {
		n.pages = append(n.pages, nil)
	}
	if _, ok := n.dirty[i]; ok && n.pages[i] != nil {
		return n.pages[i]
	}
	n.touch(i)
	p := make([]byte, pageSize)
	copy(p, n.pages[i])
	n.pages[i] = p
	return p
}

// touch notes that page i differs from what is on the disk.
func (n *node) touch(i int) {
	if _, ok := n.dirty[i]; ok {
		return
	}
	if old, ok := n.lost[i]; ok {
		n.dirty[i] = old
		delete(n.lost, i)
		return
	}
	n.dirty[i] = n.pages[i]
}

func (n *node) writeAt(b []byte, off int64) {
	n.size = max(n.size, off+int64(len(b)))
	for len(b) > 0 {
		i, at := int(off/pageSize), int(off%pageSize)
		k := min(len(b), pageSize-at)
		if k == pageSize && bytes.Equal(b[:k], zeroPage[:]) {
			for len(n.pages) <= i {
				n.pages = append(n.pages, nil)
			}
			n.touch(i)
			n.pages[i] = nil
		} else {
			copy(n.page(i)[at:], b[:k])
		}
		b, off = b[k:], off+int64(k)
	}
}

func (n *node) readAt(b []byte, off int64) int {
	if off >= n.size {
		return 0
	}
	b = b[:min(int64(len(b)), n.size-off)]
	total := len(b)
	for len(b) > 0 {
		i, at := int(off/pageSize), int(off%pageSize)
		k := min(len(b), pageSize-at)
		if i < len(n.pages) && n.pages[i] != nil {
			copy(b[:k], n.pages[i][at:])
		} else {
			clear(b[:k])
		}
		b, off = b[k:], off+int64(k)
	}
	return total
}

// beginSync begins to make a file durable.
func (n *node) beginSync() *syncing {
	if n.isDir() {
		return nil
	}
	s := &syncing{n.dirty, n.size}
	n.dirty = map[int][]byte{}
	n.syncing = append(n.syncing, s)
	return s
}

// endSync makes durable what was there when the sync began, and all that syncs
// begun before it were to.
func (n *node) endSync(s *syncing) {
	if n.isDir() {
		n.settle()
		return
	}
	if i := slices.Index(n.syncing, s); i >= 0 {
		n.syncing = n.syncing[i+1:]
		n.durable = s.size
	}
}

// settle makes the entries of a directory durable.
func (n *node) settle() { n.synced, n.changes = maps.Clone(n.entries), nil }

// failSync is what a disk that cannot write does: what was to be written is given
// up, the host goes on seeing it, and the next sync succeeds without it.
func (n *node) failSync(s *syncing) {
	i := slices.Index(n.syncing, s)
	if i < 0 {
		return
	}
	if n.lost == nil {
		n.lost = map[int][]byte{}
	}
	for p, old := range s.dirty {
		if _, again := n.dirty[p]; again {
			n.dirty[p] = old // it is written anew
		} else if _, ok := n.lost[p]; !ok {
			n.lost[p] = old
		}
	}
	n.syncing = slices.Delete(n.syncing, i, i+1)
}

// crash is the disk as it is found when the power comes back. keep is the share,
// in percent, of what was not synced that had reached the disk by chance; at 100
// it is the process that died, and the machine kept all of it.
func (d *disk) crash(keep int, r *dice.Dice) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := map[*node]*node{}
	return &disk{root: d.root.crash(keep, r, seen)}
}

func (n *node) crash(keep int, r *dice.Dice, seen map[*node]*node) *node {
	if c := seen[n]; c != nil {
		return c
	}
	if n.isDir() {
		c := newDir()
		seen[n] = c
		entries := maps.Clone(n.synced)
		kept := len(n.changes)
		if keep < 100 && kept > 0 {
			if kept = 0; keep > 0 {
				kept = r.N(len(n.changes) + 1)
			}
		}
		for _, do := range n.changes[:kept] {
			do(entries)
		}
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			c.entries[name] = entries[name].crash(keep, r, seen)
		}
		c.settle()
		return c
	}
	c := newFile()
	seen[n] = c
	c.pages = slices.Clone(n.pages)
	c.size = n.size
	if keep == 100 && len(n.lost) == 0 {
		n.share(c)
		return c
	}
	if keep < 100 && n.size != n.durable && (keep == 0 || r.N(100) >= keep) {
		c.size = n.durable
	}
	for _, old := range n.unsynced() {
		c.pages[old.page] = tear(n.pages[old.page], old.was, keep, r)
	}
	for i, old := range n.lost {
		c.pages[i] = old
	}
	c.durable = c.size
	return c
}

// unsynced lists the pages that are not durable, with what is on the disk.
func (n *node) unsynced() (out []was) {
	old := map[int][]byte{}
	for i := len(n.syncing); i >= 0; i-- { // the oldest counts
		m := n.dirty
		if i < len(n.syncing) {
			m = n.syncing[i].dirty
		}
		maps.Copy(old, m)
	}
	for _, i := range slices.Sorted(maps.Keys(old)) {
		out = append(out, was{i, old[i]})
	}
	return out
}

type was struct {
	page int
	was  []byte
}

// share makes the pages that could be written in place the copy's own.
func (n *node) share(c *node) {
	for i := range n.dirty {
		c.pages[i] = bytes.Clone(n.pages[i])
	}
	c.durable = c.size
}

// tear is what is left of a page that was being written: the new one, the old
// one, or some sectors of each.
func tear(now, old []byte, keep int, r *dice.Dice) []byte {
	switch {
	case keep == 100:
		return bytes.Clone(now)
	case keep == 0 || r.N(100) >= keep:
		return old
	case r.N(4) > 0:
		return bytes.Clone(now)
	}
	p := make([]byte, pageSize)
	copy(p, old)
	if now == nil {
		now = zeroPage[:]
	}
	for s := 0; s < pageSize; s += SectorSize {
		if r.N(2) == 0 {
			copy(p[s:s+SectorSize], now[s:])
		}
	}
	return p
}

// rot changes one bit of what is durable in a file.
func (n *node) rot(r *dice.Dice) bool {
	if len(n.pages) == 0 || len(n.syncing) > 0 {
		return false
	}
	for range 20 {
		i := r.N(len(n.pages))
		if _, dirty := n.dirty[i]; dirty || n.pages[i] == nil {
			continue
		}
		p := bytes.Clone(n.pages[i])
		p[r.N(pageSize)] ^= 1 << r.N(8)
		n.pages[i] = p
		return true
	}
	return false
}
