package pack

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew (only for a new version of the format)")

// goldenRaws are the contents of the slots in the golden pack: two blocks and a
// page.
func goldenRaws() [][]byte {
	return [][]byte{
		bytes.Repeat([]byte("Glide "), 100),
		[]byte("raw"),
		bytes.Repeat([]byte{0, 0, 0, 1}, 64),
	}
}

func golden(t testing.TB, name string, made func() []byte) []byte {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, made(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// goldenPack builds the pack from encoded slots.
func goldenPack(slots [][]byte) []byte {
	h, raws := NewHasher("default"), goldenRaws()
	b := NewBuilder(0, [12]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, Limits{})
	b.AddBlock(h.Sum(raws[0]), slots[0])
	b.AddBlock(h.Sum(raws[1]), slots[1])
	b.Seal()
	b.AddPage(h.Sum(raws[2]), slots[2])
	return b.Finish()
}

// TestGolden reads a pack that an earlier build wrote, and writes it again. The bytes of
// the format must not change, though the output of an encoder may.
func TestGolden(t *testing.T) {
	raws := goldenRaws()
	obj := golden(t, "v1.pack", func() []byte {
		return goldenPack([][]byte{
			EncodeSlot(nil, KindBlock, raws[0], CompressionZstd),
			EncodeSlot(nil, KindBlock, raws[1], CompressionZstd),
			EncodeSlot(nil, KindPage, raws[2], CompressionS2),
		})
	})
	const key = "packs/65/65ea8a83081ed58bc32eacf3-0102030405060708090a0b0c"
	id, err := ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHasher("default")
	if err := verifyObject(h, id, obj); err != nil {
		t.Fatal(err)
	}
	x, err := unsealed.readIndex(0, obj)
	if err != nil || len(x.Entries) != 3 || x.Blocks != 2 {
		t.Fatalf("%+v, %v", x, err)
	}
	var slots [][]byte
	for i, want := range []Encoding{EncodingZstd, EncodingRaw, EncodingS2} {
		e := x.Entries[i]
		slot := obj[e.Off : e.Off+e.Len]
		slots = append(slots, slot)
		raw, err := Open(h, x.Ref(i), slot, nil, maxRawLen)
		if err != nil || !bytes.Equal(raw, raws[i]) || e.Encoding != want {
			t.Errorf("slot %d: %s, %v", i, e.Encoding, err)
		}
	}
	if again := goldenPack(slots); !bytes.Equal(again, obj) {
		t.Errorf("written again, the pack is\n%x\nwas\n%x", again, obj)
	}
	if raw := EncodeSlot(nil, KindBlock, raws[1], CompressionNone); !bytes.Equal(raw, slots[1]) {
		t.Errorf("a raw slot is %x, was %x", raw, slots[1])
	}
	// The domain is in the key, and not in the pack.
	inDomain := id
	inDomain.Domain = 0x2a
	if err := verifyObject(h, inDomain, obj); err != nil {
		t.Error(err)
	}
	var dump bytes.Buffer
	if err := Dump(&dump, 0, obj); err != nil {
		t.Fatal(err)
	}
	if want := golden(t, "v1.dump", dump.Bytes); !bytes.Equal(dump.Bytes(), want) {
		t.Errorf("the dump is\n%s\nwas\n%s", dump.Bytes(), want)
	}
}
