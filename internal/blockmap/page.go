package blockmap

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math/bits"
	"slices"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/pack"
)

const (
	// Fanout is the number of slots of a page.
	Fanout = 64
	// MaxHeight is the largest number of levels: 2^50 blocks, which are 2^62 bytes in
	// blocks of 4 KiB.
	MaxHeight = 9
	// maxBlocks is the largest number of blocks in a map.
	maxBlocks = 1 << 50
	// MaxPageSize is the largest size of a page, in bytes.
	MaxPageSize = headerSize + Fanout*(domainPackSize+entrySize)
	// Magic begins every page.
	Magic = "GM"

	version        = 2 // of a page that names a pack of a domain other than 0
	versionOne     = 1 // of every other page
	slotBits       = 6 // Fanout is 1<<slotBits
	headerSize     = 16
	packSize       = 24           // of a pack in version 1
	domainPackSize = 4 + packSize // of a pack in version 2
	entrySize      = 41
	allSlots       = ^uint64(0)
)

// Page is an encoded page that parsePage has accepted. It must not be modified.
type Page []byte

// Level returns the page's level: 0 if its entries are blocks.
func (p Page) Level() int { return int(p[3]) }

// Len returns the number of present slots, 1 to Fanout.
func (p Page) Len() int { return bits.OnesCount64(p.bitmap()) }

// Ref returns what slot holds, or a hole if it is absent.
func (p Page) Ref(slot int) pack.Ref {
	e := p.entry(slot)
	if e == nil {
		return pack.Ref{}
	}
	return p.decode(e)
}

// All yields the present slots, in order, and what they hold.
func (p Page) All() iter.Seq2[int, pack.Ref] {
	return func(yield func(int, pack.Ref) bool) {
		for m := p.bitmap(); m != 0; m &= m - 1 {
			slot := bits.TrailingZeros64(m)
			if !yield(slot, p.Ref(slot)) {
				return
			}
		}
	}
}

func (p Page) bitmap() uint64 { return binary.LittleEndian.Uint64(p[8:]) }

func (p Page) packs() int { return int(p[4]) }

// packSize returns the size of a pack in the page's table.
func (p Page) packSize() int {
	if p[2] == versionOne {
		return packSize
	}
	return domainPackSize
}

// entries returns where the entries begin.
func (p Page) entries() int { return headerSize + p.packSize()*p.packs() }

// entry returns the encoded entry of slot, or nil if it is absent. It begins with the
// hash.
func (p Page) entry(slot int) []byte {
	m := p.bitmap()
	if m>>slot&1 == 0 {
		return nil
	}
	off := p.entries() + entrySize*rank(m, slot)
	return p[off : off+entrySize]
}

// packID returns the i-th pack of the page's table.
func (p Page) packID(i int) (id pack.ID) {
	p.readID(i, &id)
	return id
}

func (p Page) readID(i int, id *pack.ID) {
	b := p[headerSize+p.packSize()*i:]
	if p[2] != versionOne {
		id.Domain, b = binary.LittleEndian.Uint32(b), b[4:]
	}
	id.Content, id.Nonce = [12]byte(b[:12]), [12]byte(b[12:24])
}

// domain returns the domain of the pack in an entry.
func (p Page) domain(e []byte) uint32 {
	if p[2] == versionOne {
		return 0
	}
	return binary.LittleEndian.Uint32(p[headerSize+domainPackSize*int(e[40]):])
}

func (p Page) decode(e []byte) (ref pack.Ref) {
	copy(ref.Hash[:], e)
	p.readID(int(e[40]), &ref.Pack)
	ref.Off = binary.LittleEndian.Uint32(e[32:])
	ref.Len = binary.LittleEndian.Uint32(e[36:])
	return ref
}

// unpack writes every present slot to its place in refs.
func (p Page) unpack(refs *[Fanout]pack.Ref) {
	for slot, ref := range p.All() {
		refs[slot] = ref
	}
}

// rank returns the number of bits of m below bit slot.
func rank(m uint64, slot int) int { return bits.OnesCount64(m & (1<<slot - 1)) }

// slotOf returns the slot of block idx in the pages of a level.
func slotOf(idx uint64, level int) int { return int(idx >> (slotBits * level) & (Fanout - 1)) }

// span returns the number of blocks below one slot of a page of the level.
func span(level int) uint64 { return 1 << (slotBits * level) }

// parsePage checks that raw is exactly what encodePage writes for some content, and
// returns it as a Page without copying. A page of a newer version is errs.Unsupported;
// any other violation is errs.Corrupt.
func parsePage(raw []byte) (Page, error) {
	if len(raw) < headerSize || string(raw[:2]) != Magic {
		return nil, errs.New(errs.Corrupt, "not a map page (%d bytes)", len(raw))
	}
	if raw[2] > version {
		return nil, errs.New(errs.Unsupported,
			"map page of version %d, this release reads up to %d; use a newer glide", raw[2], version)
	}
	p := Page(raw)
	n, k := p.Len(), p.packs()
	switch {
	case p[2] == 0:
		return nil, errs.New(errs.Corrupt, "map page of version %d", p[2])
	case p.Level() >= MaxHeight:
		return nil, errs.New(errs.Corrupt, "map page of level %d, the greatest is %d", p.Level(), MaxHeight-1)
	case p[5]|p[6]|p[7] != 0:
		return nil, errs.New(errs.Corrupt, "map page with reserved bytes %x", p[5:8])
	case n == 0 || k == 0 || k > n:
		return nil, errs.New(errs.Corrupt, "map page with %d entries in %d packs", n, k)
	case len(p) != p.entries()+entrySize*n:
		return nil, errs.New(errs.Corrupt, "map page of %d bytes with %d entries in %d packs", len(p), n, k)
	}
	if err := p.checkEntries(n, k); err != nil {
		return nil, err
	}
	if invariants.Enabled {
		var refs [Fanout]pack.Ref
		p.unpack(&refs)
		invariants.Check(bytes.Equal(p, assemblePage(p.Level(), &refs)), "a map page of %d entries was accepted that is not as it would be written", n)
	}
	return p, nil
}

// checkEntries checks the pack table and the entries of a page whose length is right.
func (p Page) checkEntries(n, k int) error {
	last := p.packID(0)
	for i := 1; i < k; i++ {
		id := p.packID(i)
		if last.Compare(id) >= 0 {
			return errs.New(errs.Corrupt, "map page whose pack %d is out of order", i)
		}
		last = id
	}
	if p[2] != versionOne && last.Domain == 0 { // the last has the greatest
		return errs.New(errs.Corrupt, "map page of version %d that needs only version %d", p[2], versionOne)
	}
	var used uint64
	for i := range n {
		e := p[p.entries()+entrySize*i:]
		off, length := binary.LittleEndian.Uint32(e[32:]), binary.LittleEndian.Uint32(e[36:])
		if int(e[40]) >= k || !validExtent(off, length) {
			return errs.New(errs.Corrupt, "map page whose entry %d lies at %d+%d of pack %d of %d", i, off, length, e[40], k)
		}
		used |= 1 << e[40]
	}
	if bits.OnesCount64(used) != k {
		return errs.New(errs.Corrupt, "map page with packs that no entry uses")
	}
	return nil
}

// validExtent reports whether a slot of length bytes may lie at off. Set enforces the
// same bound, so that everything written can be read.
func validExtent(off, length uint32) bool {
	return length > 0 && uint64(off)+uint64(length) <= 1<<32
}

// encodePage returns the page that maps each slot to refs[slot], or nil if all are holes.
func encodePage(level int, refs *[Fanout]pack.Ref) Page {
	p := assemblePage(level, refs)
	if invariants.Enabled && p != nil {
		_, err := parsePage(p)
		invariants.Check(err == nil, "a map page was made that cannot be read: %v", err)
		for slot := range refs {
			if !(p.Ref(slot) == refs[slot] || refs[slot].IsHole() && p.Ref(slot).IsHole()) {
				invariants.Fail("slot %d of a map page is %v and was %v", slot, p.Ref(slot), refs[slot])
			}
		}
	}
	return p
}

func assemblePage(level int, refs *[Fanout]pack.Ref) Page {
	var (
		m   uint64
		ids = make([]pack.ID, 0, Fanout)
	)
	for slot := range refs {
		if !refs[slot].IsHole() {
			m |= 1 << slot
			ids = append(ids, refs[slot].Pack)
		}
	}
	if m == 0 {
		return nil
	}
	slices.SortFunc(ids, pack.ID.Compare)
	ids = slices.Compact(ids)
	v, size := byte(versionOne), packSize
	if ids[len(ids)-1].Domain != 0 { // the greatest
		v, size = version, domainPackSize
	}

	p := make(Page, 0, headerSize+size*len(ids)+entrySize*bits.OnesCount64(m))
	p = append(p, Magic...)
	p = append(p, v, byte(level), byte(len(ids)), 0, 0, 0)
	p = binary.LittleEndian.AppendUint64(p, m)
	for i := range ids {
		if v != versionOne {
			p = binary.LittleEndian.AppendUint32(p, ids[i].Domain)
		}
		p = append(p, ids[i].Content[:]...)
		p = append(p, ids[i].Nonce[:]...)
	}
	for ; m != 0; m &= m - 1 {
		ref := &refs[bits.TrailingZeros64(m)]
		i, _ := slices.BinarySearchFunc(ids, ref.Pack, pack.ID.Compare)
		p = append(p, ref.Hash[:]...)
		p = binary.LittleEndian.AppendUint32(p, ref.Off)
		p = binary.LittleEndian.AppendUint32(p, ref.Len)
		p = append(p, byte(i))
	}
	return p
}
