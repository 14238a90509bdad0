package pack

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/paraglide/glide/internal/errs"
)

// unsealed is the codec of packs that are not sealed.
var unsealed Codec

var nonce = [12]byte{0xa0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 1}

// sample builds a pack and returns it with the raw contents of its slots.
func sample(h *Hasher, blocks, pages int) (ID, []byte, []Ref, [][]byte) {
	b := NewBuilder(0, nonce, Limits{Blocks: blocks + 1})
	var raws [][]byte
	for i := range blocks {
		raw := text(uint64(i), 3000+i)
		if i%3 == 2 {
			raw = noise(uint64(i), 2000+i)
		}
		raws = append(raws, raw)
		b.AddBlock(h.Sum(raw), EncodeSlot(nil, KindBlock, raw, settings[i%2]))
	}
	id := b.Seal()
	refs := b.Refs()
	for i := range pages {
		raw := text(uint64(1000+i), 500)
		raws = append(raws, raw)
		refs = append(refs, b.AddPage(h.Sum(raw), EncodeSlot(nil, KindPage, raw, CompressionZstd)))
	}
	return id, b.Finish(), refs, raws
}

// TestPack reads back in every possible way what a builder made of arbitrary blocks and
// pages.
func TestPack(t *testing.T) {
	h := NewHasher("tenant")
	b := NewBuilder(0, nonce, Limits{})
	rapid.Check(t, func(t *rapid.T) {
		domain := rapid.SampledFrom([]uint32{0, 1, 42, 1<<32 - 1}).Draw(t, "domain")
		b.Reset(domain, [12]byte(rapid.SliceOfN(rapid.Byte(), 12, 12).Draw(t, "nonce")))
		var raws [][]byte
		for !b.Full() && rapid.IntRange(0, 9).Draw(t, "more") > 0 {
			raw := rawBytes(40<<10).Draw(t, "block")
			raws = append(raws, raw)
			b.AddBlock(h.Sum(raw), EncodeSlot(nil, KindBlock, raw, rapid.SampledFrom(settings).Draw(t, "compression")))
		}
		id := b.Seal()
		refs := b.Refs()
		if len(refs) != len(raws) || b.Seal() != id {
			t.Fatalf("%d references to %d blocks", len(refs), len(raws))
		}
		for range rapid.IntRange(0, 3).Draw(t, "pages") {
			// A page can contain what is known only after Seal.
			raw := append([]byte(id.Key()), rawBytes(24<<10).Draw(t, "page")...)
			raws = append(raws, raw)
			refs = append(refs, b.AddPage(h.Sum(raw), EncodeSlot(nil, KindPage, raw, CompressionZstd)))
		}
		want := b.Len()
		obj := b.Finish()
		if len(obj) != want {
			t.Fatalf("%d bytes, %d were foretold", len(obj), want)
		}
		for i, ref := range refs {
			raw, err := Open(h, ref, obj[ref.Off:ref.Off+ref.Len], nil, maxRawLen)
			if err != nil || !bytes.Equal(raw, raws[i]) || ref.Pack != id {
				t.Fatalf("slot %d: %v", i, err)
			}
		}
		x, err := unsealed.readIndex(domain, obj)
		if err != nil || x.ID != id || id.Domain != domain || len(x.Entries) != len(refs) {
			t.Fatalf("%+v, %v", x, err)
		}
		for i, ref := range refs {
			if x.Ref(i) != ref || int(x.Entries[i].RawLen) != len(raws[i]) || (x.Entries[i].Kind == KindBlock) != (i < x.Blocks) {
				t.Fatalf("entry %d: %+v", i, x.Entries[i])
			}
		}
		if err := verifyObject(h, id, obj); err != nil {
			t.Fatal(err)
		}
		if got, err := ParseKey(id.Key()); err != nil || got != id {
			t.Fatalf("%s is %v, %v", id.Key(), got, err)
		}
		if got, ok := ParseID(id.String()); !ok || got != id {
			t.Fatalf("%s is %v", id, got)
		}
	})
}

// TestRangedIndex reads the index as from a store: first the tail, then the rest.
func TestRangedIndex(t *testing.T) {
	h := NewHasher("tenant")
	id, obj, _, _ := sample(h, 10, 2)
	for _, n := range []int{trailerLen, trailerLen + 1, trailerLen + 12*entryLen, len(obj)} {
		tr, err := parseTrailer(0, obj[len(obj)-n:], int64(len(obj)))
		if err != nil || tr.ID != id || tr.Blocks != 10 || tr.Pages != 2 {
			t.Fatalf("a tail of %d: %+v, %v", n, tr, err)
		}
		if _, err := unsealed.parseIndex(tr, obj[tr.IndexOff:tr.IndexOff+tr.IndexLen]); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIdentity checks what the key of a pack depends on.
func TestIdentity(t *testing.T) {
	h := NewHasher("tenant")
	build := func(n byte, page string, blocks ...string) ID {
		b := NewBuilder(0, [12]byte{n}, Limits{})
		for _, raw := range blocks {
			b.AddBlock(h.Sum([]byte(raw)), EncodeSlot(nil, KindBlock, []byte(raw), CompressionNone))
		}
		id := b.Seal()
		b.AddPage(h.Sum([]byte(page)), EncodeSlot(nil, KindPage, []byte(page), CompressionNone))
		b.Finish()
		return id
	}
	id := build(1, "page", "a", "b")
	if got := build(1, "other page", "a", "b"); got != id {
		t.Error("the pages change the identity")
	}
	if got := build(2, "page", "a", "b"); got.Content != id.Content || got == id {
		t.Error("the nonce is not what tells the uploads of one content apart")
	}
	if got := build(1, "page", "b", "a"); got.Content == id.Content {
		t.Error("the order does not change the identity")
	}
	if got := build(1, "page"); got.Content == id.Content {
		t.Error("the blocks do not change the identity")
	}
}

func TestLimits(t *testing.T) {
	h := NewHasher("tenant")
	// fill adds blocks until the pack is full, then pages until no more fit.
	b := NewBuilder(0, nonce, Limits{})
	fill := func(l Limits, raw []byte) (blocks int, obj []byte) {
		next := NewBuilder(0, nonce, l)
		next.buf = append(b.buf[:0], next.buf...) // large allocations are slow under the race detector
		b = next
		slot, hash := EncodeSlot(nil, KindBlock, raw, CompressionNone), h.Sum(raw)
		for !b.Full() {
			b.AddBlock(hash, slot)
		}
		b.Seal()
		page := EncodeSlot(nil, KindPage, noise(1, maxRawLen), CompressionNone)
		for b.Room() >= len(page) {
			b.AddPage(hash, page)
		}
		return b.Blocks(), b.Finish()
	}
	for _, c := range []struct {
		limits Limits
		raw    int
		want   int
	}{
		{Limits{}, 128 << 10, 25},
		{Limits{}, 4 << 10, 25},
		{Limits{}, maxRawLen, 4},
		{Limits{Blocks: 100}, 128 << 10, 25},
		{Limits{Blocks: 100, Bytes: 1 << 20}, 128 << 10, 8},
		{Limits{Blocks: 3}, maxRawLen, 3},
		{Limits{Blocks: 1 << 30, Bytes: 1 << 30}, maxRawLen, 56},
	} {
		blocks, obj := fill(c.limits, noise(1, c.raw))
		if blocks != c.want || len(obj) > MaxObject || len(obj) < MaxObject-2*maxSlotLen {
			t.Errorf("%+v, blocks of %d: %d blocks, %d bytes", c.limits, c.raw, blocks, len(obj))
		}
	}
	if blocks, obj := fill(Limits{Blocks: 1 << 30, Bytes: 1 << 30}, []byte{1}); blocks != maxBlocks || len(obj) > MaxObject {
		t.Errorf("tiny blocks: %d blocks, %d bytes", blocks, len(obj))
	}
	for l, ok := range map[Limits]bool{
		{}: true, {Blocks: 25, Bytes: 1 << 20}: true, {Blocks: -1}: false, {Bytes: -1}: false, {Blocks: maxBlocks + 1}: false, {Bytes: maxBytes + 1}: false,
	} {
		if err := l.Validate(); (err == nil) != ok || err != nil && !errors.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v", l, err)
		}
	}
}

func TestManyPages(t *testing.T) {
	h := NewHasher("tenant")
	b := NewBuilder(0, nonce, Limits{})
	b.Seal()
	page := EncodeSlot(nil, KindPage, []byte{1}, CompressionNone)
	n := 0
	for ; b.Room() > 0; n++ {
		b.AddPage(h.Sum([]byte{1}), page)
	}
	if obj := b.Finish(); n != maxSlots || verifyObject(h, b.Seal(), obj) != nil {
		t.Errorf("%d pages, %v", n, verifyObject(h, b.Seal(), obj))
	}
}

// TestOrder calls the builder's methods in the wrong order.
func TestOrder(t *testing.T) {
	block, page := EncodeSlot(nil, KindBlock, []byte{1}, CompressionNone), EncodeSlot(nil, KindPage, []byte{1}, CompressionNone)
	for name, misuse := range map[string]func(b *Builder){
		"references before the seal": func(b *Builder) { b.Refs() },
		"a page before the seal":     func(b *Builder) { b.AddPage(Hash{}, page) },
		"a block after the seal":     func(b *Builder) { b.Seal(); b.AddBlock(Hash{}, block) },
		"a page as a block":          func(b *Builder) { b.AddBlock(Hash{}, page) },
		"a block as a page":          func(b *Builder) { b.Seal(); b.AddPage(Hash{}, block) },
		"no slot":                    func(b *Builder) { b.AddBlock(Hash{}, []byte("raw bytes, not encoded")) },
		"more than full":             func(b *Builder) { b.AddBlock(Hash{}, block); b.AddBlock(Hash{}, block); b.AddBlock(Hash{}, block) },
		"twice finished":             func(b *Builder) { b.Finish(); b.Finish() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: nothing happened", name)
				}
			}()
			misuse(NewBuilder(0, nonce, Limits{Blocks: 2}))
		}()
	}
}

// TestPackDamage changes every byte of a pack. Every change is detected, and the error
// names the pack.
func TestPackDamage(t *testing.T) {
	h := NewHasher("tenant")
	id, obj, _, _ := sample(h, 2, 1)
	for i := range obj {
		bad := bytes.Clone(obj)
		bad[i] ^= 0x10
		if err := verifyObject(h, id, bad); !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), id.Key()) {
			t.Fatalf("byte %d of %d: %v", i, len(obj), err)
		}
	}
	for n := range obj {
		if err := verifyObject(h, id, obj[:n]); !errors.Is(err, errs.Corrupt) {
			t.Fatalf("cut to %d of %d: %v", n, len(obj), err)
		}
	}
	other := id
	other.Nonce[0]++
	if err := verifyObject(h, other, obj); !errors.Is(err, errs.Corrupt) {
		t.Fatalf("under another key: %v", err)
	}
	if err := verifyObject(NewHasher("other"), id, obj); !errors.Is(err, errs.Corrupt) {
		t.Fatalf("of another tenant: %v", err)
	}
}

// resign makes the checksums of index and trailer valid again.
func resign(obj []byte) []byte {
	tr := obj[len(obj)-trailerLen:]
	off, n := le.Uint32(tr), le.Uint32(tr[4:])
	if uint64(off)+uint64(n) <= uint64(len(obj)) {
		le.PutUint32(tr[40:], checksum(obj[off:off+n]))
	}
	le.PutUint32(tr[52:], checksum(tr[:52]))
	return obj
}

// TestPackHostile reads packs with valid checksums and impossible contents.
func TestPackHostile(t *testing.T) {
	h := NewHasher("tenant")
	id, obj, _, _ := sample(h, 3, 1)
	trailer, index := len(obj)-trailerLen, len(obj)-trailerLen-4*entryLen
	for name, c := range map[string]struct {
		change func(o []byte)
		kind   errs.Kind
	}{
		"a newer trailer":      {func(o []byte) { le.PutUint32(o[trailer+48:], 3) }, errs.Unsupported},
		"a newer header":       {func(o []byte) { le.PutUint32(o[8:], 3); le.PutUint32(o[12:], checksum(o[:12])) }, errs.Unsupported},
		"one sealed end":       {func(o []byte) { le.PutUint32(o[8:], 2); le.PutUint32(o[12:], checksum(o[:12])) }, errs.Corrupt},
		"a root":               {func(o []byte) { le.PutUint32(o[trailer+44:], 1) }, errs.Corrupt},
		"an index before":      {func(o []byte) { le.PutUint32(o[trailer:], 0) }, errs.Corrupt},
		"an index beyond":      {func(o []byte) { le.PutUint32(o[trailer:], 1<<32-1) }, errs.Corrupt},
		"a long index":         {func(o []byte) { le.PutUint32(o[trailer+4:], 1<<32-1) }, errs.Corrupt},
		"many blocks":          {func(o []byte) { le.PutUint32(o[trailer+8:], 1<<32-1) }, errs.Corrupt},
		"many pages":           {func(o []byte) { le.PutUint32(o[trailer+12:], 1<<32-1) }, errs.Corrupt},
		"another split":        {func(o []byte) { le.PutUint32(o[trailer+8:], 2); le.PutUint32(o[trailer+12:], 2) }, errs.Corrupt},
		"a slot elsewhere":     {func(o []byte) { le.PutUint32(o[index+32:], 0) }, errs.Corrupt},
		"an endless slot":      {func(o []byte) { le.PutUint32(o[index+36:], 1<<32-1) }, errs.Corrupt},
		"an empty slot":        {func(o []byte) { le.PutUint32(o[index+36:], 0) }, errs.Corrupt},
		"no raw bytes":         {func(o []byte) { le.PutUint32(o[index+40:], 0) }, errs.Corrupt},
		"other raw bytes":      {func(o []byte) { le.PutUint32(o[index+40:], 17) }, errs.Corrupt},
		"another kind":         {func(o []byte) { o[index+48] = 3 }, errs.Corrupt},
		"another encoding":     {func(o []byte) { o[index+49] ^= 1 }, errs.Corrupt},
		"another key":          {func(o []byte) { o[index+52] = 1 }, errs.Corrupt},
		"another hash":         {func(o []byte) { o[index] ^= 1 }, errs.Corrupt},
		"another hash of page": {func(o []byte) { o[index+3*entryLen] ^= 1 }, errs.Corrupt},
	} {
		bad := bytes.Clone(obj)
		c.change(bad)
		if err := verifyObject(h, id, resign(bad)); errs.KindOf(err) != c.kind {
			t.Errorf("%s: %v (%s)", name, err, errs.KindOf(err))
		}
		var out strings.Builder
		_ = Dump(&out, 0, bad)
	}
}

func TestDump(t *testing.T) {
	h := NewHasher("tenant")
	id, obj, refs, _ := sample(h, 2, 1)
	dump := func(obj []byte) (string, error) {
		var out strings.Builder
		err := Dump(&out, 0, obj)
		return out.String(), err
	}
	out, err := dump(obj)
	if err != nil || !strings.Contains(out, id.Key()) {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, ref := range refs {
		if !strings.Contains(out, fmt.Sprint("  ", ref.Off, " ")) || !strings.Contains(out, ref.Hash.String()) {
			t.Errorf("slot at %d is missing:\n%s", ref.Off, out)
		}
	}
	bad := bytes.Clone(obj)
	bad[refs[1].Off+30] ^= 1
	if out, err := dump(bad); !errors.Is(err, errs.Corrupt) || strings.Count(out, "  ok\n") != 2 || !strings.Contains(out, "its checksum is") {
		t.Errorf("%v\n%s", err, out)
	}
	// Without its end, the slots of a pack can still be dumped.
	cut := obj[:refs[2].Off+5]
	if out, err := dump(cut); !errors.Is(err, errs.Corrupt) || strings.Count(out, "  ok\n") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := dump(nil); !errors.Is(err, errs.Corrupt) {
		t.Error(err)
	}
}
