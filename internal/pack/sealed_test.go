package pack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/seal"
)

const home = 0x0a0b0c0d

// domainOf is a domain with the roots 1 to n, and seals with the last.
func domainOf(t testing.TB, id uint32, suite seal.Suite, n int) *seal.Domain {
	t.Helper()
	key := func(b byte) seal.Key {
		k, err := seal.KeyOf(bytes.Repeat([]byte{b}, seal.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	s := seal.Secrets{Domain: id, Suite: suite, Roots: map[uint32]seal.Key{}, Current: uint32(n), Conv: key(0xcc)}
	for i := 1; i <= n; i++ {
		s.Roots[uint32(i)] = key(byte(i))
	}
	d, err := seal.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var suites = []seal.Suite{seal.AES256GCM, seal.XChaCha20Poly1305}

// sealedSample is sample for a sealed domain.
func sealedSample(d *seal.Domain, blocks, pages int) (*Hasher, ID, []byte, []Ref, [][]byte) {
	h := NewSealedHasher(d)
	b := NewBuilder(0, [12]byte{}, Limits{Blocks: blocks + 1})
	b.Begin(Codec{Domain: d}, 0, nonce)
	var raws [][]byte
	for i := range blocks {
		raw := text(uint64(i), 3000+i)
		if i%3 == 2 {
			raw = noise(uint64(i), 2000+i)
		}
		raws = append(raws, raw)
		b.AddBlock(h.Sum(raw), h.Codec().EncodeSlot(nil, KindBlock, h.Sum(raw), raw, settings[i%3]))
	}
	id := b.Seal()
	refs := b.Refs()
	for i := range pages {
		raw := append([]byte(id.Key()), text(uint64(1000+i), 500)...)
		raws = append(raws, raw)
		refs = append(refs, b.AddPage(h.Sum(raw), h.Codec().EncodeSlot(nil, KindPage, h.Sum(raw), raw, CompressionZstd)))
	}
	want := b.Len()
	obj := b.Finish()
	if len(obj) != want {
		panic(fmt.Sprintf("%d bytes, %d were foretold", len(obj), want))
	}
	return h, id, obj, refs, raws
}

func slotOf(obj []byte, ref Ref) []byte { return obj[ref.Off : ref.Off+ref.Len] }

func TestSealedPack(t *testing.T) {
	for _, suite := range suites {
		for _, blocks := range []int{0, 1, 7} {
			d := domainOf(t, home, suite, 2)
			h, id, obj, refs, raws := sealedSample(d, blocks, 2)
			if id.Domain != home || !strings.HasPrefix(id.Key(), "d/0a0b0c0d/packs/") {
				t.Fatalf("the pack is %s", id.Key())
			}
			var bytesOfSlots int64
			for i, ref := range refs {
				raw, err := Open(h, ref, slotOf(obj, ref), nil, maxRawLen)
				if err != nil || !bytes.Equal(raw, raws[i]) || ref.Pack != id {
					t.Fatalf("slot %d: %v", i, err)
				}
				bytesOfSlots += int64(ref.Len)
			}
			x, err := Codec{Domain: d}.readIndex(home, obj)
			if err != nil || x.ID != id || x.root != 2 || x.Blocks != blocks || len(x.Entries) != len(refs) {
				t.Fatalf("%+v, %v", x, err)
			}
			for i, ref := range refs {
				if x.Ref(i) != ref || x.Entries[i].KeyID != 2 {
					t.Fatalf("entry %d: %+v", i, x.Entries[i])
				}
			}
			if err := verifyObject(h, id, obj); err != nil {
				t.Fatal(err)
			}
			if n := (Codec{Domain: d}).SizeWith(len(refs), bytesOfSlots); n != int64(len(obj)) || n != (Codec{}).SizeWith(len(refs), bytesOfSlots)+int64(suite.Overhead()) {
				t.Fatalf("%d bytes were foretold, there are %d", n, len(obj))
			}
			if n, err := (Codec{Domain: d}).Check(id, obj); err != nil || n != len(refs) {
				t.Fatalf("%d slots, %v", n, err)
			}
			if n, err := (Codec{}).Check(id, obj); err != nil || n != len(refs) { // without keys
				t.Fatalf("%d slots, %v", n, err)
			}
			if err := (Codec{Domain: d}).Dump(io.Discard, home, obj); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSealedSlotsAreLonger by what sealing costs, and no more.
func TestSealedSlotsAreLonger(t *testing.T) {
	for _, suite := range suites {
		c := Codec{Domain: domainOf(t, home, suite, 1)}
		for _, raw := range [][]byte{{7}, text(1, 5000), noise(1, 5000), make([]byte, maxRawLen), noise(2, maxRawLen)} {
			for _, how := range settings {
				plainSlot, slot := EncodeSlot(nil, KindBlock, raw, how), c.EncodeSlot([]byte("before"), KindBlock, Hash{1}, raw, how)
				if len(slot) != len("before")+len(plainSlot)+suite.Overhead() || !bytes.HasPrefix(slot, []byte("before")) {
					t.Errorf("%d bytes with %s are a slot of %d, and sealed of %d", len(raw), how, len(plainSlot), len(slot))
				}
				dst := make([]byte, 0, len(raw))
				back, err := c.decode(dst, slot[6:], home, Hash{1}, len(raw))
				if err != nil || !bytes.Equal(back, raw) || &back[0] != &dst[:1][0] {
					t.Errorf("%d bytes with %s: %v", len(raw), how, err)
				}
				if _, err := c.decode(nil, slot[6:], home, Hash{1}, len(raw)-1); !errors.Is(err, errs.Corrupt) {
					t.Errorf("more raw bytes than expected: %v", err)
				}
			}
		}
	}
}

// TestSealedAgainDiffers: nonces are never used again, and packs of equal blocks have
// other names, without the nonces in their keys being the reason.
func TestSealedAgainDiffers(t *testing.T) {
	c := Codec{Domain: domainOf(t, home, seal.AES256GCM, 1)}
	seen := map[string]bool{}
	for range 100 {
		nonce := c.EncodeSlot(nil, KindBlock, Hash{}, []byte("same"), CompressionNone)[SlotHeaderLen:][:12]
		if seen[string(nonce)] {
			t.Fatalf("the nonce %x came twice", nonce)
		}
		seen[string(nonce)] = true
	}
	b := NewBuilder(0, nonce, Limits{})
	b.Begin(Codec{Domain: c.Domain}, 0, [12]byte{1})
	one := b.Seal()
	b.Begin(Codec{Domain: c.Domain}, 0, [12]byte{2})
	if two := b.Seal(); one.Content == two.Content {
		t.Error("the content in the name of a sealed pack tells which packs are equal")
	}
	_, keyed, _, _, _ := sealedSample(c.Domain, 2, 0)
	if unkeyed, _, _, _ := sample(NewSealedHasher(c.Domain), 2, 0); keyed.Content == unkeyed.Content {
		t.Error("the content is an unkeyed hash of the ids")
	}
}

// TestSealedSlotDamage flips every bit of a sealed slot. As it is, that is damage; with a
// checksum that is right, the tag finds it.
func TestSealedSlotDamage(t *testing.T) {
	for _, suite := range suites {
		d := domainOf(t, home, suite, 1)
		h, _, obj, refs, _ := sealedSample(d, 1, 1)
		for _, ref := range refs {
			good := slotOf(obj, ref)
			for i := range 8 * len(good) {
				bad := bytes.Clone(good)
				bad[i/8] ^= 1 << (i % 8)
				if _, err := Open(h, ref, bad, nil, maxRawLen); errs.KindOf(err) != errs.Corrupt || errors.Is(err, seal.ErrTag) || !strings.Contains(err.Error(), ref.Pack.Key()) {
					t.Fatalf("bit %d of byte %d: %v", i%8, i/8, err)
				}
				if at := i / 8; at < 20 || at >= SlotHeaderLen {
					_, err := Open(h, ref, rewrite(bad, func([]byte) {}), nil, maxRawLen)
					switch {
					case err == nil:
						t.Fatalf("bit %d of byte %d was not noticed", i%8, at)
					case at >= SlotHeaderLen && !errors.Is(err, seal.ErrTag):
						t.Fatalf("bit %d of byte %d of the payload: %v", i%8, at, err)
					case at >= 8 && at < 12 && !errors.Is(err, seal.ErrNoRoot) && errs.KindOf(err) != errs.Corrupt:
						t.Fatalf("another root: %v", err)
					}
				}
			}
		}
	}
}

// TestSealedPackDamage is TestSealedSlotDamage for a whole pack and its index.
func TestSealedPackDamage(t *testing.T) {
	d := domainOf(t, home, seal.AES256GCM, 1)
	h, id, obj, _, _ := sealedSample(d, 2, 1)
	tr, err := parseTrailer(home, obj, int64(len(obj)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(obj) {
		bad := bytes.Clone(obj)
		bad[i/8] ^= 1 << (i % 8)
		for name, err := range map[string]error{"keys": verifyObject(h, id, bad), "no keys": errOf((Codec{}).Check(id, bad)), "structure": errOf(h.Codec().Check(id, bad))} {
			if errs.KindOf(err) != errs.Corrupt || errors.Is(err, seal.ErrTag) || !strings.Contains(err.Error(), id.Key()) {
				t.Fatalf("%s: bit %d of byte %d of %d: %v", name, i%8, i/8, len(obj), err)
			}
		}
		at := int64(i / 8)
		if at >= tr.IndexOff && at < tr.IndexOff+tr.IndexLen {
			if _, err := h.Codec().Slots(id, resign(bad)); !errors.Is(err, seal.ErrTag) {
				t.Fatalf("bit %d of byte %d of the index: %v", i%8, at, err)
			}
		}
		// resign makes the checksum of the index, at 40, anew.
		if in := at - int64(len(obj)-trailerLen); in >= 0 && in < 48 && in/4 != 10 {
			if err := verifyObject(h, id, resign(bad)); err == nil {
				t.Fatalf("bit %d of byte %d of the trailer was not noticed", i%8, at)
			}
		}
	}
	for n := range obj {
		if err := verifyObject(h, id, obj[:n]); errs.KindOf(err) != errs.Corrupt {
			t.Fatalf("cut to %d of %d: %v", n, len(obj), err)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

// TestWrongKeys: what is in order does not open with another domain's keys, for another
// id, as another kind, or under another pack's name; and says that this is no damage.
func TestWrongKeys(t *testing.T) {
	d, other := domainOf(t, home, seal.AES256GCM, 1), domainOf(t, home+1, seal.AES256GCM, 1)
	h, id, obj, refs, raws := sealedSample(d, 2, 1)
	c := h.Codec()
	slot := slotOf(obj, refs[0])
	moved := refs[1]
	moved.Off, moved.Len = refs[0].Off, refs[0].Len
	if _, err := Open(h, moved, slot, nil, maxRawLen); !errors.Is(err, seal.ErrTag) || errs.KindOf(err) != errs.Corrupt {
		t.Errorf("under another block's id: %v", err)
	}
	foreign := refs[0]
	foreign.Pack.Domain++
	if _, err := Open(NewSealedHasher(other), foreign, slot, nil, maxRawLen); !errors.Is(err, seal.ErrTag) {
		t.Errorf("in another domain: %v", err)
	}
	if _, err := Open(NewSealedHasher(other), refs[0], slot, nil, maxRawLen); errs.KindOf(err) != errs.Corrupt {
		t.Errorf("in a domain that is not granted: %v", err)
	}
	if _, err := c.decode(nil, rewrite(slot, func(s []byte) { s[3] = byte(KindPage) }), home, refs[0].Hash, maxRawLen); !errors.Is(err, seal.ErrTag) {
		t.Errorf("as a page: %v", err)
	}
	// The tag is the writer's, the hash the content's.
	lie := c.EncodeSlot(nil, KindBlock, refs[1].Hash, raws[0], CompressionZstd)
	at := refs[1]
	at.Len = uint32(len(lie))
	if _, err := Open(h, at, lie, nil, maxRawLen); errs.KindOf(err) != errs.Corrupt || errors.Is(err, seal.ErrTag) {
		t.Errorf("other content under an id: %v", err)
	}
	renamed := id
	renamed.Nonce[0]++
	bad := bytes.Clone(obj)
	copy(bad[len(bad)-trailerLen+28:], renamed.Nonce[:])
	if _, err := c.Slots(renamed, resign(bad)); !errors.Is(err, seal.ErrTag) {
		t.Errorf("under another pack's name: %v", err)
	}
	if _, err := c.Slots(renamed, obj); errs.KindOf(err) != errs.Corrupt || errors.Is(err, seal.ErrTag) {
		t.Errorf("under another key: %v", err)
	}
	newer := domainOf(t, home, seal.AES256GCM, 2)
	_, id2, obj2, refs2, _ := sealedSample(newer, 1, 0)
	if _, err := Open(h, refs2[0], slotOf(obj2, refs2[0]), nil, maxRawLen); !errors.Is(err, seal.ErrNoRoot) || errs.KindOf(err) != errs.Unavailable {
		t.Errorf("of a newer root: %v", err)
	}
	for name, err := range map[string]error{"slots": errOf(c.Slots(id2, obj2)), "check": errOf(c.Check(id2, obj2)), "all": verifyObject(h, id2, obj2)} {
		if !errors.Is(err, seal.ErrNoRoot) || errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s of a newer root: %v", name, err)
		}
	}
}

// TestNoDowngrade: what should be sealed is not read if it is not, and the other way
// round. Without keys, what is sealed is locked.
func TestNoDowngrade(t *testing.T) {
	d := domainOf(t, home, seal.AES256GCM, 1)
	h, id, obj, refs, raws := sealedSample(d, 1, 0)
	slot := slotOf(obj, refs[0])
	corrupt := func(name string, err error) {
		t.Helper()
		if errs.KindOf(err) != errs.Corrupt || errors.Is(err, seal.ErrTag) {
			t.Errorf("%s: %v", name, err)
		}
	}
	locked := func(name string, err error) {
		t.Helper()
		if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, seal.ErrLocked) {
			t.Errorf("%s: %v", name, err)
		}
	}
	open := EncodeSlot(nil, KindBlock, raws[0], CompressionZstd)
	ref := refs[0]
	ref.Len = uint32(len(open))
	_, err := Open(h, ref, open, nil, maxRawLen)
	corrupt("a plain slot in a sealed domain", err)

	in0 := refs[0]
	in0.Pack.Domain = 0
	_, err = Open(NewHasher("t"), in0, slot, nil, maxRawLen)
	corrupt("a sealed slot in domain 0", err)
	_, err = DecodeSlot(nil, slot, maxRawLen)
	corrupt("a sealed slot in domain 0", err)
	_, err = Open(NewHasher("t"), refs[0], slot, nil, maxRawLen)
	locked("a slot", err)

	plainID, plainObj, _, _ := sample(NewHasher("t"), 2, 1)
	plainID.Domain = home
	_, err = h.Codec().Slots(plainID, plainObj)
	corrupt("a plain pack in a sealed domain", err)
	_, err = h.Codec().Check(plainID, plainObj)
	corrupt("a plain pack in a sealed domain", err)
	_, err = (Codec{}).Slots(id, obj)
	locked("slots", err)
	inZero := id
	inZero.Domain = 0
	_, err = (Codec{}).Slots(inZero, obj)
	corrupt("a sealed pack in domain 0", err)
	_, err = (Codec{}).Check(inZero, obj)
	corrupt("a sealed pack in domain 0", err)
	elsewhere := id
	elsewhere.Domain++
	for _, other := range []ID{inZero, elsewhere} {
		_, err = h.Codec().Slots(other, obj)
		corrupt("a pack under another domain", err)
		_, err = h.Codec().decode(nil, slot, other.Domain, refs[0].Hash, maxRawLen)
		corrupt("a slot under another domain", err)
	}

	b := NewBuilder(home, nonce, Limits{})
	for name, misuse := range map[string]func(){
		"a plain slot in a sealed pack": func() { b.Begin(Codec{Domain: d}, 0, nonce); b.AddBlock(refs[0].Hash, open) },
		"a sealed slot in a plain pack": func() { b.Reset(home, nonce); b.AddBlock(refs[0].Hash, slot) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: nothing happened", name)
				}
			}()
			misuse()
		}()
	}
}

// TestGrants: only granted domains open, each with its own keys.
func TestGrants(t *testing.T) {
	d, public := domainOf(t, home, seal.AES256GCM, 1), domainOf(t, 77, seal.XChaCha20Poly1305, 1)
	mine, theirs, old := NewSealedHasher(d), NewSealedHasher(public), NewHasher("t")
	all := mine.Granting(theirs, old)
	_, _, obj, refs, raws := sealedSample(public, 1, 0)
	if raw, err := Open(all, refs[0], slotOf(obj, refs[0]), nil, maxRawLen); err != nil || !bytes.Equal(raw, raws[0]) {
		t.Error(err)
	}
	_, obj, refs, raws = sample(old, 1, 0)
	if raw, err := Open(all, refs[0], slotOf(obj, refs[0]), nil, maxRawLen); err != nil || !bytes.Equal(raw, raws[0]) {
		t.Error(err)
	}
	if all.Sum(raws[0]) != mine.Sum(raws[0]) || all.Sum(raws[0]) == theirs.Sum(raws[0]) || mine.Sum(raws[0]) == old.Sum(raws[0]) {
		t.Error("ids are not those of the hasher's own domain")
	}
	for h, want := range map[*Hasher]bool{all: true, mine: false, theirs: true} {
		if id := theirs.Sum(raws[0]); h.Names(&id, raws[0]) != want {
			t.Errorf("an id of a domain is taken for one: %v, want %v", !want, want)
		}
	}
	for _, c := range []struct {
		h      *Hasher
		domain uint32
		ok     bool
	}{
		{mine, home, true}, {mine, 0, false}, {mine, 77, false}, {all, home, true}, {all, 0, true}, {all, 77, true}, {all, 78, false},
		{old, 0, true}, {old, 9, true}, {old.Granting(), 0, true}, {old.Granting(), 9, false}, {old.Granting(theirs), 77, true},
		{mine.Granting(theirs).Granting(old), 77, true}, {mine.Granting(theirs).Granting(old), 0, true},
	} {
		if _, err := c.h.In(c.domain); (err == nil) != c.ok || err != nil && errs.KindOf(err) != errs.Corrupt {
			t.Errorf("domain %d: %v, want %v", c.domain, err, c.ok)
		}
	}
}

// TestSealedSlotsAreCopied into a pack under a newer root, as compaction does, without
// being opened; and forks share them.
func TestSealedSlotsAreCopied(t *testing.T) {
	d, rotated := domainOf(t, home, seal.XChaCha20Poly1305, 1), domainOf(t, home, seal.AES256GCM, 2)
	_, id, obj, _, raws := sealedSample(d, 3, 1)
	slots, err := Codec{Domain: rotated}.Slots(id, obj)
	if err != nil || len(slots) != 4 {
		t.Fatalf("%d slots, %v", len(slots), err)
	}
	b := NewBuilder(0, nonce, Limits{})
	b.Begin(Codec{Domain: rotated}, 0, [12]byte{9})
	h, refs := NewSealedHasher(rotated), []Ref(nil)
	for _, s := range []Slot{slots[2], slots[0]} {
		b.AddBlock(s.Hash, s.Bytes)
	}
	to := b.Seal()
	refs = append(b.Refs(), b.AddPage(slots[3].Hash, slots[3].Bytes))
	copied := b.Finish()
	for i, from := range []int{2, 0, 3} {
		raw, err := Open(h, refs[i], slotOf(copied, refs[i]), nil, maxRawLen)
		if err != nil || !bytes.Equal(raw, raws[from]) || !bytes.Equal(slotOf(copied, refs[i]), slots[from].Bytes) {
			t.Errorf("slot %d: %v", from, err)
		}
	}
	if err := verifyObject(h, to, copied); err != nil {
		t.Error(err)
	}
}

// TestASealedSlotAsLongAsItWas is TestASlotAsLongAsItWas.
func TestASealedSlotAsLongAsItWas(t *testing.T) {
	raw := bytes.Repeat([]byte("all work and no play "), 500)
	c := Codec{Domain: domainOf(t, home, seal.AES256GCM, 1)}
	for _, how := range settings {
		was := len(c.EncodeSlot(nil, KindPage, Hash{3}, raw, how))
		for _, n := range []int{was, was + 100} {
			slot, ok := c.EncodeSlotOf(KindPage, Hash{3}, raw, n)
			if !ok || len(slot) != n {
				t.Fatalf("%s, %d bytes: %d, %v", how, n, len(slot), ok)
			}
			if back, err := c.decode(nil, slot, home, Hash{3}, len(raw)); err != nil || !bytes.Equal(back, raw) || KindOf(slot) != KindPage {
				t.Fatalf("%s, %d bytes: %v", how, n, err)
			}
		}
	}
	if _, ok := c.EncodeSlotOf(KindBlock, Hash{3}, raw, 60); ok {
		t.Fatal("no slot is that short")
	}
}

// TestCanary: what is in blocks and pages is not in a sealed pack, nor are their ids.
func TestCanary(t *testing.T) {
	const mark = "CANARY-0123456789-abcdefghijklmnopqrstuvwxyz-CANARY-0123456789ab"
	for _, suite := range suites {
		d := domainOf(t, home, suite, 1)
		h := NewSealedHasher(d)
		b := NewBuilder(0, nonce, Limits{})
		b.Begin(Codec{Domain: d}, 0, nonce)
		var ids []Hash
		for i, how := range settings {
			raw := append(noise(uint64(i), 100), mark...)
			ids = append(ids, h.Sum(raw))
			b.AddBlock(h.Sum(raw), h.Codec().EncodeSlot(nil, KindBlock, h.Sum(raw), raw, how))
		}
		b.Seal()
		page := []byte(mark)
		ids = append(ids, h.Sum(page))
		b.AddPage(h.Sum(page), h.Codec().EncodeSlot(nil, KindPage, h.Sum(page), page, CompressionZstd))
		obj := b.Finish()
		if bytes.Contains(obj, []byte("CANARY")) {
			t.Errorf("%s: the blocks can be read", suite)
		}
		for _, id := range ids {
			if bytes.Contains(obj, id[:8]) {
				t.Errorf("%s: an id can be read", suite)
			}
		}
	}
}

// TestSealedDump: with keys a dump shows the index, without them what the headers say.
func TestSealedDump(t *testing.T) {
	d := domainOf(t, home, seal.AES256GCM, 1)
	h, id, obj, refs, _ := sealedSample(d, 2, 1)
	var open, shut strings.Builder
	if err := h.Codec().Dump(&open, home, obj); err != nil || strings.Count(open.String(), "  ok\n") != 3 || !strings.Contains(open.String(), refs[0].Hash.String()) {
		t.Errorf("%v\n%s", err, &open)
	}
	err := Dump(&shut, home, obj)
	if !errors.Is(err, seal.ErrLocked) || strings.Count(shut.String(), "locked") != 4 || strings.Contains(shut.String(), refs[0].Hash.String()) || strings.Contains(shut.String(), id.Key()) {
		t.Errorf("%v\n%s", err, &shut)
	}
}

// FuzzOpenSealed opens slots with arbitrary bytes and a valid checksum.
func FuzzOpenSealed(f *testing.F) {
	c := Codec{Domain: domainOf(f, home, seal.AES256GCM, 1)}
	x := Codec{Domain: domainOf(f, home, seal.XChaCha20Poly1305, 1)}
	for _, how := range settings {
		f.Add(c.EncodeSlot(nil, KindBlock, Hash{}, text(1, 5000), how), 8192, true)
		f.Add(x.EncodeSlot(nil, KindPage, Hash{}, noise(1, 50), how), 8192, false)
	}
	f.Fuzz(func(t *testing.T, slot []byte, maxRaw int, sign bool) {
		maxRaw = max(0, min(maxRaw, maxRawLen))
		if sign && len(slot) >= SlotHeaderLen {
			slot = rewrite(slot, func([]byte) {})
		}
		var raw []byte
		var err error
		// The caller limits the output; the payload is opened into as much as it has.
		fuzztest.Bound(t, maxRaw+len(slot), 1<<20, 3, func() { raw, err = c.decode(nil, slot, home, Hash{}, maxRaw) })
		if !expected(err) && !errors.Is(err, seal.ErrNoRoot) {
			t.Fatal(err)
		}
		if err == nil && (len(raw) == 0 || len(raw) > maxRaw) {
			t.Fatalf("%d bytes where %d are allowed", len(raw), maxRaw)
		}
	})
}

// FuzzSealedIndex passes whole packs with valid checksums to everything that reads sealed
// packs, with keys and without.
func FuzzSealedIndex(f *testing.F) {
	d := domainOf(f, home, seal.AES256GCM, 1)
	h, id, obj, _, _ := sealedSample(d, 3, 2)
	f.Add(obj, true)
	f.Add(obj[:len(obj)-1], false)
	_, _, small, _, _ := sealedSample(d, 0, 0)
	f.Add(small, true)
	f.Fuzz(func(t *testing.T, obj []byte, sign bool) {
		if sign && len(obj) >= trailerLen+HeaderLen {
			obj = resign(append([]byte(nil), obj...))
			le.PutUint32(obj[12:], checksum(obj[:12]))
		}
		known := func(err error) bool {
			return expected(err) || errors.Is(err, seal.ErrNoRoot) || errors.Is(err, seal.ErrLocked)
		}
		var err error
		// An entry of 56 bytes, opened, becomes an indexEntry of 80; a slot of 25 does.
		fuzztest.Bound(t, len(obj), 0, 16, func() { _, err = h.Codec().readIndex(home, obj) })
		if !known(err) {
			t.Fatal(err)
		}
		for _, err := range []error{errOf(h.Codec().Slots(id, obj)), errOf((Codec{}).Check(id, obj)), errOf(h.Codec().Check(id, obj)), verifyObject(h, id, obj)} {
			if !known(err) {
				t.Fatal(err)
			}
		}
		for _, c := range []Codec{h.Codec(), {}} {
			if err := c.Dump(io.Discard, home, obj); !known(err) {
				t.Fatal(err)
			}
		}
	})
}
