package cache

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/cache/internal/s3fifo"
	"github.com/paraglide/glide/internal/datadir"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
)

// disk is the SSD tier: slabs of each size class, which grow up to a budget.
type disk struct {
	layout
	fs    vfs.FS
	dir   string
	limit int64
	// room reports whether the file system has room for that many more bytes.
	//
	// glide:blocks
	room func(int64) bool

	mu      sync.Mutex // glide:nonblocking
	grown   sync.Cond  // of mu: a class is not growing any more
	bytes   int64      // of all slabs
	tables  int64      // of the slabs' tables in memory
	next    int        // number of the next slab
	classes [sizeClasses]*class
}

// sizeClasses is how many slot sizes there are.
const sizeClasses = 9 // 4 KiB to 1 MiB

// maxTables bounds the slab tables in memory, in bytes: enough for about 48 GiB of blocks
// of 128 KiB. Entries beyond that are read together with their blocks.
const maxTables = 64 << 20

// class is all slabs of one slot size. Slot n is in slab n/perSlab. Under disk.mu.
type class struct {
	size    int
	perSlab int
	slabs   []*slab
	keys    []uint64 // by slot; undefined for empty slots
	index   map[uint64]uint32
	free    []uint32
	pol     *s3fifo.Policy
	growing bool // a slab is being created
}

// slab is one file of slots.
type slab struct {
	layout
	path string
	file vfs.File
	fd   int   // -1: the file is not a kernel file
	size int   // of the blocks in its slots, at most
	base int64 // position of the first slot

	// table has the entries, or is nil if they are read from the file. A slot's entry
	// changes only while the slot is in no index. The user of the slot makes the change.
	table []byte
	// inUse counts the readers and writers of each slot. It increases only under disk.mu.
	// Eviction holds that lock too, and does not evict a slot in use.
	inUse []atomic.Int32
}

// slabBytes is the approximate size of a slab.
const slabBytes = 64 << 20

func (l layout) newSlab(path string, f vfs.File, size int, table []byte) *slab {
	s := &slab{layout: l, path: path, file: f, fd: -1, size: size, base: l.slabBase(size), table: table, inUse: make([]atomic.Int32, perSlab(size))}
	if fd := f.Fd(); fd != vfs.InvalidFd {
		s.fd = int(fd)
	}
	return s
}

func openDisk(fs vfs.FS, dir string, limit int64, room func(int64) bool, local *seal.Local) (*disk, error) {
	d := &disk{layout: layout{local: local}, fs: fs, dir: dir, limit: limit, room: room}
	d.grown.L = &d.mu
	names, err := fs.List(dir)
	if err != nil {
		return nil, fmt.Errorf("list the cache directory: %w", err)
	}
	for _, name := range names {
		base, ok := strings.CutSuffix(name, ".slab")
		n, err := strconv.Atoi(base)
		if !ok || err != nil {
			continue
		}
		d.next = max(d.next, n+1)
		if err := d.load(name); errs.KindOf(err) == errs.Unsupported && err != nil {
			return nil, err
		} // a slab is not used if the disk cannot open or remove it
	}
	return d, nil
}

// load opens a slab of an earlier run. A slab that is damaged, of an older version, or
// of another form or with other keys, or over the budget is removed: it is only a cache.
func (d *disk) load(name string) error {
	path := d.fs.PathJoin(d.dir, name)
	f, err := d.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("open the cache: %w", err)
	}
	size, how, table, err := readSlab(f)
	if errs.KindOf(err) == errs.Unsupported {
		_ = f.Close()
		return fmt.Errorf("%s: %w", path, err)
	}
	if err != nil || how.mark != d.local.Mark() || d.bytes+d.slabLen(size) > d.limit {
		_ = f.Close()
		return d.fs.Remove(path)
	}
	l, err := d.of(how)
	if err != nil {
		_ = f.Close()
		return err
	}
	c := d.class(size)
	first := uint32(len(c.keys))
	c.addSlab(l.newSlab(path, f, size, d.keepTable(table)))
	d.bytes += d.slabLen(size)
	for i := range c.perSlab {
		h, _, ok := d.decodeEntry(table[i*d.entrySize(size):][:d.entrySize(size)], size)
		slot := first + uint32(i)
		if _, twice := c.index[keyOf(&h)]; !ok || twice {
			c.free = append(c.free, slot)
			continue
		}
		c.enter(slot, keyOf(&h))
	}
	return nil
}

// keepTable returns the table if memory has room for it, or nil.
func (d *disk) keepTable(table []byte) []byte {
	if d.tables+int64(len(table)) > maxTables {
		return nil
	}
	d.tables += int64(len(table))
	return table
}

func classIndex(size int) int { return bits.TrailingZeros(uint(size / minClass)) }

func (d *disk) class(size int) *class {
	c := d.classes[classIndex(size)]
	if c == nil {
		c = &class{size: size, perSlab: perSlab(size), index: map[uint64]uint32{}, pol: s3fifo.New()}
		d.classes[classIndex(size)] = c
	}
	return c
}

// addSlab makes room for the slots of one more slab. They are not free yet.
func (c *class) addSlab(s *slab) {
	c.slabs = append(c.slabs, s)
	c.keys = append(c.keys, make([]uint64, c.perSlab)...)
	c.pol.Grow(len(c.keys))
}

func (c *class) enter(slot uint32, key uint64) {
	c.keys[slot] = key
	c.index[key] = slot
	c.pol.Add(slot, key)
}

// place is a slot in use. Its user must call done.
type place struct {
	*slab
	i int // number in the slab
}

func (p place) done() { p.inUse[p.i].Add(-1) }

// at returns the position of the slot in the file.
func (p place) at() int64 { return p.base + int64(p.i)*int64(p.stored(p.size)) }

// entryAt returns the position of the slot's entry in the file.
func (p place) entryAt() int64 { return slabHeader + int64(p.i)*int64(p.entrySize(p.size)) }

// use marks a slot as in use. Under disk.mu.
func (c *class) use(slot uint32) place {
	s := c.slabs[int(slot)/c.perSlab]
	p := place{s, int(slot) % c.perSlab}
	if invariants.Enabled {
		within := int(slot) < len(c.keys) && p.size == c.size && p.at()+int64(p.stored(p.size)) <= p.slabLen(c.size)
		invariants.Check(within, "a slot does not lie in its slab")
	}
	s.inUse[p.i].Add(1)
	return p
}

// find returns the slot that may hold a block of n bytes: its key matches. The block
// becomes more valuable.
func (d *disk) find(h *pack.Hash, n int) (place, bool) { return d.look(h, n, true) }

// peek is find for a reader that does not make the block more valuable.
func (d *disk) peek(h *pack.Hash, n int) (place, bool) { return d.look(h, n, false) }

func (d *disk) look(h *pack.Hash, n int, use bool) (place, bool) {
	size := classOf(n)
	if size == 0 {
		return place{}, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.classes[classIndex(size)]
	if c == nil {
		return place{}, false
	}
	slot, ok := c.index[keyOf(h)]
	if !ok {
		return place{}, false
	}
	if invariants.Enabled {
		invariants.Check(c.keys[slot] == keyOf(h), "a slot holds another block than the one that is looked up")
	}
	if use {
		c.pol.Use(slot)
	}
	return c.use(slot), true
}

// forget drops a block that did not match its page checksums.
func (d *disk) forget(h *pack.Hash, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if size := classOf(n); size != 0 {
		if c := d.classes[classIndex(size)]; c != nil {
			// The slot stays in its queue, but no lookup finds it.
			delete(c.index, keyOf(h))
		}
	}
}

// put adds a block, which must match its hash, and reports whether the tier has it now.
// It does not if all slots are in use or the disk fails.
func (d *disk) put(h *pack.Hash, raw []byte) bool {
	c, slot, p, state := d.claim(h, classOf(len(raw)))
	if state != claimed {
		return state == present
	}
	defer p.done()
	buf := scratchPool.Get().(*scratch)
	defer scratchPool.Put(buf)
	entry := buf.entry[:p.entrySize(p.size)]
	p.encodeEntry(entry, h, raw)
	stored := p.seal(buf.pages, h, raw)
	if p.local != nil {
		buf.pages = stored
	}
	_, err := p.file.WriteAt(stored, p.at())
	if err == nil {
		_, err = p.file.WriteAt(entry, p.entryAt())
	}
	if p.table != nil {
		copy(p.table[p.i*len(entry):], entry)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		c.free = append(c.free, slot)
		return false
	}
	c.enter(slot, keyOf(h))
	return true
}

// Results of claim.
type claimState int

const (
	noRoom  claimState = iota
	present            // the block is here already
	claimed
)

// claim finds a slot for a block: a free one, one of a new slab, or the least valuable
// one. The slot is in use, and in no index.
func (d *disk) claim(h *pack.Hash, size int) (*class, uint32, place, claimState) {
	if size == 0 || d.limit <= 0 {
		return nil, 0, place{}, noRoom
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.class(size)
	for len(c.free) == 0 && c.growing {
		d.grown.Wait() // rather than push out what there is about to be room for
	}
	if len(c.free) == 0 {
		if _, ok := c.index[keyOf(h)]; !ok {
			d.grow(c)
		}
	}
	if _, ok := c.index[keyOf(h)]; ok {
		return nil, 0, place{}, present
	}
	slot, ok := uint32(0), true
	if n := len(c.free); n > 0 {
		slot, c.free = c.free[n-1], c.free[:n-1]
	} else if slot, ok = c.evict(); !ok {
		return nil, 0, place{}, noRoom
	}
	return c, slot, c.use(slot), claimed
}

// evict removes a slot from the index that is not in use.
func (c *class) evict() (uint32, bool) {
	for range 8 {
		if c.pol.Len() == 0 {
			return 0, false
		}
		slot := c.pol.Evict(func(s uint32) uint64 { return c.keys[s] })
		if c.slabs[int(slot)/c.perSlab].inUse[int(slot)%c.perSlab].Load() > 0 {
			c.pol.Add(slot, c.keys[slot])
			continue
		}
		if at, ok := c.index[c.keys[slot]]; ok && at == slot {
			delete(c.index, c.keys[slot])
		}
		return slot, true
	}
	return 0, false
}

// grow adds a slab if the budget and the disk have room. It is called with mu held, and
// creates the file without it.
func (d *disk) grow(c *class) {
	n := d.slabLen(c.size)
	if d.bytes+n > d.limit {
		return
	}
	c.growing = true
	d.bytes += n
	path := d.fs.PathJoin(d.dir, fmt.Sprintf("%d.slab", d.next))
	d.next++
	d.mu.Unlock()
	var f vfs.File
	l, err := d.fresh()
	if err == nil && d.room(n) {
		f = l.createSlab(d.fs, path, c.size)
	}
	d.mu.Lock()
	c.growing = false
	defer d.grown.Broadcast()
	if f == nil {
		d.bytes -= n
		return
	}
	first := len(c.keys)
	c.addSlab(l.newSlab(path, f, c.size, d.keepTable(make([]byte, c.perSlab*d.entrySize(c.size)))))
	for i := c.perSlab - 1; i >= 0; i-- {
		c.free = append(c.free, uint32(first+i))
	}
}

// createSlab creates a slab of empty slots. It returns nil if the disk does not permit
// it.
func (l layout) createSlab(fs vfs.FS, path string, size int) vfs.File {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil
	}
	head := make([]byte, l.slabBase(size))
	copy(head, l.slabHead(size))
	if _, err := f.WriteAt(head, 0); err != nil {
		_ = f.Close()
		_ = fs.Remove(path)
		return nil
	}
	return f
}

// missing returns the names of slabs whose files are gone from the directory.
func (d *disk) missing() []string {
	var gone []string
	for _, s := range d.slabs() {
		if datadir.Gone(d.fs, s.path, s.file) {
			gone = append(gone, s.path)
		}
	}
	slices.Sort(gone)
	return gone
}

// slabs returns all slabs.
func (d *disk) slabs() []*slab {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []*slab
	for _, c := range d.classes {
		if c != nil {
			all = append(all, c.slabs...)
		}
	}
	return all
}

func (d *disk) close() {
	for _, s := range d.slabs() {
		_ = s.file.Close()
	}
}
