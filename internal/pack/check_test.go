package pack

import (
	"bytes"
	"testing"

	"github.com/paraglide/glide/internal/errs"
)

// TestCheckFindsEveryByte: whichever byte of a pack is changed, Check tells.
func TestCheckFindsEveryByte(t *testing.T) {
	b := NewBuilder(0, [12]byte{1}, Limits{})
	h := NewHasher("default")
	for i := range 3 {
		raw := bytes.Repeat([]byte{byte(i), 7}, 300)
		b.AddBlock(h.Sum(raw), EncodeSlot(nil, KindBlock, raw, CompressionZstd))
	}
	id := b.Seal()
	page := bytes.Repeat([]byte("page"), 20)
	b.AddPage(h.Sum(page), EncodeSlot(nil, KindPage, page, CompressionNone))
	obj := bytes.Clone(b.Finish())
	if n, err := (Codec{}).Check(id, obj); n != 4 || err != nil {
		t.Fatalf("%d slots, %v", n, err)
	}
	for i := range obj {
		obj[i] ^= 4
		if _, err := (Codec{}).Check(id, obj); errs.KindOf(err) != errs.Corrupt && errs.KindOf(err) != errs.Unsupported {
			t.Fatalf("byte %d: %v", i, err)
		}
		obj[i] ^= 4
	}
	if _, err := (Codec{}).Check(id, obj[:len(obj)-1]); errs.KindOf(err) != errs.Corrupt {
		t.Fatalf("a byte less: %v", err)
	}
}

// TestASlotAsLongAsItWas: a slot that another encoder made, and that was longer, can be
// replaced by one of its length.
func TestASlotAsLongAsItWas(t *testing.T) {
	raw := bytes.Repeat([]byte("all work and no play "), 500)
	for _, c := range []Compression{CompressionZstd, CompressionS2, CompressionNone} {
		was := len(EncodeSlot(nil, KindBlock, raw, c))
		for _, n := range []int{was, was + 100} {
			slot, ok := (Codec{}).EncodeSlotOf(KindBlock, Hash{}, raw, n)
			if !ok || len(slot) != n {
				t.Fatalf("%s, %d bytes: %d, %v", c, n, len(slot), ok)
			}
			if back, err := DecodeSlot(nil, slot, len(raw)); err != nil || !bytes.Equal(back, raw) || KindOf(slot) != KindBlock {
				t.Fatalf("%s, %d bytes: %v", c, n, err)
			}
		}
	}
	if _, ok := (Codec{}).EncodeSlotOf(KindBlock, Hash{}, raw, 30); ok {
		t.Fatal("no slot is that short")
	}
}
