package pack

import (
	"fmt"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/seal"
)

// Limits say when a pack is full.
type Limits struct {
	Blocks int // data slots; 0: DefaultBlocks
	Bytes  int // of data slots; 0: defaultBytes
}

// The limits of packs, and their defaults: 25 incompressible blocks of 128 KiB. A pack
// that is just below its limits can still take a slot of any size, and its index, within
// MaxObject.
const (
	DefaultBlocks = 25
	defaultBytes  = DefaultBlocks * (128<<10 + SlotHeaderLen)
	maxBlocks     = 1 << 14
	maxBytes      = 56 << 20
)

// Validate returns an errs.Invalid error if limits that an operator chose are not valid.
func (l Limits) Validate() error {
	if l.Blocks < 0 || l.Blocks > maxBlocks {
		return errs.New(errs.Invalid, "%d blocks in a pack: 1 to %d are possible", l.Blocks, maxBlocks)
	}
	if l.Bytes < 0 || l.Bytes > maxBytes {
		return errs.New(errs.Invalid, "packs of %d bytes: 1 to %d are possible", l.Bytes, maxBytes)
	}
	return nil
}

// Builder builds a pack, in this order: AddBlock until Full, Seal, AddPage, Finish. A
// call out of order is a bug and panics. A Builder belongs to one goroutine.
type Builder struct {
	limits  Limits
	codec   Codec
	id      ID
	buf     []byte
	entries []indexEntry // of the slots in buf
	blocks  int          // entries[:blocks] are data; the rest are pages
	stage   stage
}

type stage uint8

const (
	filling stage = iota
	sealed
	finished
)

func (s stage) String() string { return [...]string{"filling", "sealed", "finished"}[s] }

// NewBuilder begins a plain pack of a domain with this nonce in its key. The nonce must
// never have been used before, in any domain. Invalid limits are replaced by the nearest valid
// ones.
func NewBuilder(domain uint32, nonce [12]byte, limits Limits) *Builder {
	if limits.Blocks <= 0 {
		limits.Blocks = DefaultBlocks
	}
	if limits.Bytes <= 0 {
		limits.Bytes = defaultBytes
	}
	b := &Builder{limits: Limits{Blocks: min(limits.Blocks, maxBlocks), Bytes: min(limits.Bytes, maxBytes)}}
	b.Reset(domain, nonce)
	return b
}

// Reset begins another plain pack in the memory of the last one, whose finished object
// must no longer be in use.
func (b *Builder) Reset(domain uint32, nonce [12]byte) { b.Begin(Codec{}, domain, nonce) }

// Begin is Reset for a pack of the Codec: with keys it is of their domain, and all of its
// slots are sealed.
func (b *Builder) Begin(c Codec, domain uint32, nonce [12]byte) {
	c.mustWrite()
	id := ID{Domain: domain, Nonce: nonce}
	if c.Domain != nil {
		id.Domain = c.ID()
	}
	b.codec, b.id = c, id
	b.buf = appendHeader(b.buf[:0], c.version())
	b.entries, b.blocks, b.stage = b.entries[:0], 0, filling
}

// AddBlock appends an encoded block. Its place is final. The builder must not be full.
func (b *Builder) AddBlock(hash Hash, slot []byte) {
	b.must(filling)
	if b.Full() {
		panic("pack: a block for a full pack")
	}
	b.add(hash, slot, KindBlock)
	b.blocks++
}

// Full reports whether the pack has as many blocks as it should.
func (b *Builder) Full() bool {
	return b.blocks >= b.limits.Blocks || b.blocks > 0 && len(b.buf)-HeaderLen >= b.limits.Bytes
}

// Blocks returns the number of blocks so far.
func (b *Builder) Blocks() int { return b.blocks }

// SlotsEnd returns where the next slot begins in the object.
func (b *Builder) SlotsEnd() int { return len(b.buf) }

// Len returns the length that the object would have if it were finished now, in bytes.
func (b *Builder) Len() int {
	return len(b.buf) + len(b.entries)*entryLen + b.codec.overhead() + trailerLen
}

// Room returns the length of the largest slot that AddPage still accepts. A longer one
// has to go into another pack.
func (b *Builder) Room() int {
	if len(b.entries) == maxSlots {
		return 0
	}
	return max(0, min(b.maxSlot(), MaxObject-b.Len()-entryLen))
}

// maxSlot is the largest length of a slot. What is copied may be of another suite.
func (b *Builder) maxSlot() int {
	if b.codec.Domain != nil {
		return maxSlotLen + seal.MaxOverhead
	}
	return maxSlotLen
}

// Seal ends the blocks and fixes the pack's identity. A pack without blocks differs from
// others only by its nonce. Seal may be called again.
func (b *Builder) Seal() ID {
	if b.stage == filling {
		var err error
		if b.id.Content, err = b.codec.contentID(b.codec.root(), b.id.Nonce, b.entries); err != nil {
			panic(err) // a domain has the root that it seals with
		}
		b.stage = sealed
	}
	return b.id
}

// contentID returns the part of the identity that comes from the data slots; in a sealed
// pack also from the nonce, and from a root that the domain may lack (seal.ErrNoRoot).
func (c Codec) contentID(root uint32, nonce [12]byte, blocks []indexEntry) (content [12]byte, err error) {
	if c.Domain != nil {
		ids := make([]byte, 0, len(blocks)*len(Hash{}))
		for i := range blocks {
			ids = append(ids, blocks[i].Hash[:]...)
		}
		return c.Domain.PackContent(root, nonce, ids)
	}
	h := blake3.New()
	for i := range blocks {
		_, _ = h.Write(blocks[i].Hash[:])
	}
	copy(content[:], h.Sum(nil))
	return content, nil
}

// Refs returns the references to the blocks, in the order in which they were added. The
// pack must be sealed.
func (b *Builder) Refs() []Ref {
	if b.stage == filling {
		panic("pack: references into a pack that is not sealed")
	}
	refs := make([]Ref, b.blocks)
	for i := range refs {
		refs[i] = b.entries[i].ref(b.id)
	}
	return refs
}

// AddPage appends an encoded map page of at most Room bytes to a sealed pack, and returns
// its reference.
func (b *Builder) AddPage(hash Hash, slot []byte) Ref {
	b.must(sealed)
	if len(slot) > b.Room() {
		panic(fmt.Sprintf("pack: a page of %d bytes where there is room for %d", len(slot), b.Room()))
	}
	b.add(hash, slot, KindPage)
	return b.entries[len(b.entries)-1].ref(b.id)
}

func (b *Builder) add(hash Hash, slot []byte, kind Kind) {
	if len(slot) < SlotHeaderLen || len(slot) > b.maxSlot() || slot[0] != slotMagic || Kind(slot[3]) != kind || slot[1] != b.codec.version() {
		panic(fmt.Sprintf("pack: %d bytes that are no slot of a %s of version %d", len(slot), kind, b.codec.version()))
	}
	b.entries = append(b.entries, indexEntry{Hash: hash, Off: uint32(len(b.buf)), Len: uint32(len(slot)), slotHeader: readSlot(slot).indexed()})
	b.buf = append(b.buf, slot...)
}

// Finish seals the pack if needed, appends the index and the trailer, and returns the
// object. The object belongs to the builder again after Reset.
func (b *Builder) Finish() []byte {
	b.Seal()
	b.must(sealed)
	b.stage = finished
	b.buf = b.codec.appendIndex(b.buf, b.id, b.entries, b.blocks)
	if invariants.Enabled {
		x, err := b.codec.readIndex(b.id.Domain, b.buf)
		invariants.Check(err == nil, "a pack was made that cannot be read: %v", err)
		invariants.Check(x.ID == b.id && x.Blocks == b.blocks && slices.Equal(x.Entries, b.entries), "the index of pack %s is not that of its slots", b.id.Key())
	}
	return b.buf
}

func (b *Builder) must(want stage) {
	if b.stage != want {
		panic(fmt.Sprintf("pack: the builder is %s, not %s", b.stage, want))
	}
}
