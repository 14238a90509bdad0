package cache

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/datadir"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// # Slab file
//
// A slab holds raw blocks of one size class in slots of that size. All integers
// are little-endian.
//
//	 0  4  magic "GLDS"
//	 4  4  version, 1
//	 8  4  slot size, bytes: a power of two from 4 KiB to 1 MiB
//	12  4  number of slots
//	16  4  CRC32C of bytes 0 to 15
//	64 …   one entry of 48 bytes for each slot:
//	          0 32  hash of the block; all zero: the slot is empty
//	         32  4  length of the block
//	         36  4  CRC32C of bytes 0 to 35
//	         40  8  0
//	…      the slots, from a multiple of 4096 on
//
// Magic, version and checksum stay in place in every version. Nothing in a slab
// is ever synced: an entry may be on the disk before its
// block, or after it is gone. What is read is verified against its hash.
const (
	slabMagic   = "GLDS"
	slabVersion = 1
	slabHeader  = 64
	entrySize   = 48
	minClass    = 4 << 10
	maxClass    = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// disk is the SSD tier: slabs of each size class, grown up to a budget.
type disk struct {
	fs    vfs.FS
	dir   string
	limit int64
	// room tells whether the file system has room for so many bytes more.
	room func(int64) bool

	mu      sync.Mutex
	bytes   int64 // of all slabs
	next    int   // number of the next slab
	classes map[int]*class
}

// class is all slabs of one slot size. Slot n lies in slab n/perSlab. Under disk.mu.
type class struct {
	size    int
	perSlab int
	slabs   []*slab
	keys    []uint64 // by slot; of empty ones anything
	index   map[uint64]uint32
	free    []uint32
	pol     *policy
	busy    map[uint32]int // slots being read or written: not evicted
}

type slab struct {
	path string
	file vfs.File
	base int64 // where the slots begin
}

// slabBytes is about how large a slab is.
const slabBytes = 64 << 20

func openDisk(fs vfs.FS, dir string, limit int64, room func(int64) bool) (*disk, error) {
	d := &disk{fs: fs, dir: dir, limit: limit, room: room, classes: map[int]*class{}}
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
		} // one that the disk does not give, or keeps, is not used
	}
	return d, nil
}

// load takes a slab up again. One that is damaged, or over the budget, is
// removed: it is a cache.
func (d *disk) load(name string) error {
	path := d.fs.PathJoin(d.dir, name)
	f, err := d.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("open the cache: %w", err)
	}
	size, table, err := readSlab(f)
	if errs.KindOf(err) == errs.Unsupported {
		_ = f.Close()
		return fmt.Errorf("%s: %w", path, err)
	}
	if err != nil || d.bytes+slabLen(size) > d.limit {
		_ = f.Close()
		return d.fs.Remove(path)
	}
	c := d.class(size)
	first := uint32(len(c.keys))
	c.addSlab(&slab{path, f, slabBase(c.perSlab)})
	d.bytes += slabLen(size)
	for i := range c.perSlab {
		h, _, ok := decodeEntry(table[i*entrySize:])
		slot := first + uint32(i)
		if _, twice := c.index[keyOf(&h)]; !ok || twice {
			c.free = append(c.free, slot)
			continue
		}
		c.enter(slot, keyOf(&h))
	}
	return nil
}

func readSlab(f io.ReaderAt) (size int, table []byte, err error) {
	head := make([]byte, slabHeader)
	if _, err := f.ReadAt(head, 0); err != nil {
		return 0, nil, err
	}
	if string(head[:4]) != slabMagic {
		return 0, nil, errs.New(errs.Corrupt, "not a slab: no magic at its start")
	}
	if crc32.Checksum(head[:16], castagnoli) != binary.LittleEndian.Uint32(head[16:]) {
		return 0, nil, errs.New(errs.Corrupt, "the slab's header does not match its checksum")
	}
	if v := binary.LittleEndian.Uint32(head[4:]); v > slabVersion {
		return 0, nil, errs.New(errs.Unsupported, "the slab's format is version %d, this program knows up to %d: use a newer glide", v, slabVersion)
	}
	size = int(binary.LittleEndian.Uint32(head[8:]))
	if size == 0 || classOf(size) != size {
		return 0, nil, errs.New(errs.Corrupt, "the slab's slots have %d bytes, which is no size class", size)
	}
	n := perSlab(size)
	if int(binary.LittleEndian.Uint32(head[12:])) != n {
		return 0, nil, errs.New(errs.Corrupt, "the slab has another number of slots than its size class")
	}
	table = make([]byte, n*entrySize)
	if _, err := f.ReadAt(table, slabHeader); err != nil {
		return 0, nil, err
	}
	return size, table, nil
}

func perSlab(size int) int { return max(1, slabBytes/size) }

func slabBase(n int) int64 { return int64(slabHeader+n*entrySize+4095) &^ 4095 }

func slabLen(size int) int64 { return slabBase(perSlab(size)) + int64(perSlab(size))*int64(size) }

// classOf is the slot size for blocks of n bytes, 0 if there is none.
func classOf(n int) int {
	if n <= 0 || n > maxClass {
		return 0
	}
	size := minClass
	for size < n {
		size *= 2
	}
	return size
}

func encodeEntry(h *pack.Hash, n int) []byte {
	b := make([]byte, entrySize)
	copy(b, h[:])
	binary.LittleEndian.PutUint32(b[32:], uint32(n))
	binary.LittleEndian.PutUint32(b[36:], crc32.Checksum(b[:36], castagnoli))
	return b
}

func decodeEntry(b []byte) (h pack.Hash, n int, ok bool) {
	copy(h[:], b)
	n = int(binary.LittleEndian.Uint32(b[32:]))
	ok = h != pack.Hash{} && n > 0 && n <= maxClass && crc32.Checksum(b[:36], castagnoli) == binary.LittleEndian.Uint32(b[36:])
	return h, n, ok
}

func (d *disk) class(size int) *class {
	c := d.classes[size]
	if c == nil {
		c = &class{size: size, perSlab: perSlab(size), index: map[uint64]uint32{}, pol: newPolicy(), busy: map[uint32]int{}}
		d.classes[size] = c
	}
	return c
}

// addSlab makes room for the slots of one more slab; they are not free yet.
func (c *class) addSlab(s *slab) {
	c.slabs = append(c.slabs, s)
	c.keys = append(c.keys, make([]uint64, c.perSlab)...)
	c.pol.grow(len(c.keys))
}

func (c *class) enter(slot uint32, key uint64) {
	c.keys[slot] = key
	c.index[key] = slot
	c.pol.add(slot, key)
}

func (c *class) at(slot uint32) (vfs.File, int64) {
	s := c.slabs[int(slot)/c.perSlab]
	return s.file, s.base + int64(int(slot)%c.perSlab)*int64(c.size)
}

// get reads the block of n bytes into a new slice; nil if it is not here. What
// it returns is not verified.
func (d *disk) get(h *pack.Hash, n int) []byte {
	d.mu.Lock()
	c := d.classes[classOf(n)]
	if c == nil {
		d.mu.Unlock()
		return nil
	}
	slot, ok := c.index[keyOf(h)]
	if !ok {
		d.mu.Unlock()
		return nil
	}
	c.pol.use(slot)
	c.busy[slot]++
	f, off := c.at(slot)
	d.mu.Unlock()
	raw := make([]byte, n)
	_, err := f.ReadAt(raw, off)
	d.done(c, slot)
	if err != nil {
		return nil
	}
	return raw
}

func (d *disk) done(c *class, slot uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.busy[slot]--; c.busy[slot] == 0 {
		delete(c.busy, slot)
	}
}

// forget drops a block that was not what its hash says.
func (d *disk) forget(h *pack.Hash, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.classes[classOf(n)]; c != nil {
		// The slot stays in its queue, and holds nothing that anybody finds.
		delete(c.index, keyOf(h))
	}
}

// put keeps a block; it may not, if everything is in use or the disk fails.
func (d *disk) put(h *pack.Hash, raw []byte) {
	c, slot, ok := d.claim(h, classOf(len(raw)))
	if !ok {
		return
	}
	f, off := c.at(slot)
	_, err := f.WriteAt(raw, off)
	if err == nil {
		_, err = f.WriteAt(encodeEntry(h, len(raw)), slabHeader+int64(int(slot)%c.perSlab)*entrySize)
	}
	d.mu.Lock()
	if err == nil {
		c.enter(slot, keyOf(h))
	} else {
		c.free = append(c.free, slot)
	}
	d.mu.Unlock()
	d.done(c, slot)
}

// claim finds a slot for the block: a free one, one of a new slab, or the one
// that is worth least. The slot is busy until done.
func (d *disk) claim(h *pack.Hash, size int) (*class, uint32, bool) {
	if size == 0 || d.limit <= 0 {
		return nil, 0, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.class(size)
	if _, ok := c.index[keyOf(h)]; ok {
		return nil, 0, false
	}
	if len(c.free) == 0 {
		d.grow(c)
	}
	slot, ok := uint32(0), true
	if n := len(c.free); n > 0 {
		slot, c.free = c.free[n-1], c.free[:n-1]
	} else if slot, ok = c.evict(); !ok {
		return nil, 0, false
	}
	c.busy[slot]++
	return c, slot, true
}

// evict takes a slot that nobody uses right now.
func (c *class) evict() (uint32, bool) {
	for range 8 {
		if c.pol.len() == 0 {
			return 0, false
		}
		slot := c.pol.evict(func(s uint32) uint64 { return c.keys[s] })
		if c.busy[slot] > 0 {
			c.pol.add(slot, c.keys[slot])
			continue
		}
		if at, ok := c.index[c.keys[slot]]; ok && at == slot {
			delete(c.index, c.keys[slot])
		}
		return slot, true
	}
	return 0, false
}

// grow adds a slab if the budget and the disk have room. Called with mu held:
// it happens once in 64 MiB of new blocks.
func (d *disk) grow(c *class) {
	n := slabLen(c.size)
	if d.bytes+n > d.limit || !d.room(n) {
		return
	}
	path := d.fs.PathJoin(d.dir, fmt.Sprintf("%d.slab", d.next))
	f, err := d.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return
	}
	head := make([]byte, slabBase(c.perSlab))
	copy(head, slabMagic)
	binary.LittleEndian.PutUint32(head[4:], slabVersion)
	binary.LittleEndian.PutUint32(head[8:], uint32(c.size))
	binary.LittleEndian.PutUint32(head[12:], uint32(c.perSlab))
	binary.LittleEndian.PutUint32(head[16:], crc32.Checksum(head[:16], castagnoli))
	if _, err := f.WriteAt(head, 0); err != nil {
		_ = f.Close()
		_ = d.fs.Remove(path)
		return
	}
	d.next++
	d.bytes += n
	first := len(c.keys)
	c.addSlab(&slab{path, f, slabBase(c.perSlab)})
	for i := c.perSlab - 1; i >= 0; i-- {
		c.free = append(c.free, uint32(first+i))
	}
}

// missing names the slabs whose files are not in the directory any more.
func (d *disk) missing() []string {
	d.mu.Lock()
	var slabs []*slab
	for _, c := range d.classes {
		slabs = append(slabs, c.slabs...)
	}
	d.mu.Unlock()
	var gone []string
	for _, s := range slabs {
		if datadir.Gone(d.fs, s.path, s.file) {
			gone = append(gone, s.path)
		}
	}
	slices.Sort(gone)
	return gone
}

func (d *disk) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.classes {
		for _, s := range c.slabs {
			_ = s.file.Close()
		}
	}
}
