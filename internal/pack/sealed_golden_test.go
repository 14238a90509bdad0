package pack

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/paraglide/glide/internal/seal"
)

// goldenSealed builds the pack of goldenPack in a sealed domain.
func goldenSealed(d *seal.Domain) []byte {
	h, raws := NewSealedHasher(d), goldenRaws()
	b := NewBuilder(0, [12]byte{}, Limits{})
	b.Begin(Codec{Domain: d}, 0, [12]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	add := func(i int, kind Kind, how Compression) (Hash, []byte) {
		return h.Sum(raws[i]), h.Codec().EncodeSlot(nil, kind, h.Sum(raws[i]), raws[i], how)
	}
	b.AddBlock(add(0, KindBlock, CompressionZstd))
	b.AddBlock(add(1, KindBlock, CompressionZstd))
	b.Seal()
	b.AddPage(add(2, KindPage, CompressionS2))
	return b.Finish()
}

// masked is a sealed pack without what differs each time: the bytes that are sealed, and
// the checksums over them.
func masked(t *testing.T, obj []byte) []byte {
	t.Helper()
	obj = bytes.Clone(obj)
	tr, err := parseTrailer(home, obj, int64(len(obj)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range scan(obj[:tr.IndexOff]) {
		clear(obj[e.Off+20 : e.Off+e.Len])
	}
	clear(obj[tr.IndexOff : tr.IndexOff+tr.IndexLen])
	trailer := obj[len(obj)-trailerLen:]
	clear(trailer[40:44])
	clear(trailer[52:56])
	return obj
}

// TestGoldenSealed reads sealed packs that an earlier build wrote, and writes them again:
// all but what is sealed has the same bytes. It also opens them by the specification.
func TestGoldenSealed(t *testing.T) {
	for _, suite := range suites {
		d := domainOf(t, home, suite, 3)
		obj := golden(t, fmt.Sprintf("v2-suite%d.pack", suite), func() []byte { return goldenSealed(d) })
		const key = "d/0a0b0c0d/packs/e4/e445d0d99618af545247db81-0102030405060708090a0b0c"
		id, err := ParseKey(key)
		if err != nil {
			t.Fatal(err)
		}
		h, raws := NewSealedHasher(d), goldenRaws()
		if err := verifyObject(h, id, obj); err != nil {
			t.Fatal(err)
		}
		slots, err := h.Codec().Slots(id, obj)
		if err != nil || len(slots) != 3 {
			t.Fatalf("%d slots, %v", len(slots), err)
		}
		for i, s := range slots {
			raw, err := Open(h, Ref{Hash: s.Hash, Pack: id, Off: s.Off, Len: uint32(len(s.Bytes))}, s.Bytes, nil, maxRawLen)
			if err != nil || !bytes.Equal(raw, raws[i]) {
				t.Errorf("slot %d: %v", i, err)
			}
			if s.Bytes[1] != 2 || s.Bytes[5] != byte(suite) || le.Uint32(s.Bytes[8:]) != 3 {
				t.Errorf("slot %d begins with %x", i, s.Bytes[:SlotHeaderLen])
			}
		}
		if got, want := masked(t, goldenSealed(d)), masked(t, obj); !bytes.Equal(got, want) {
			t.Errorf("written again, the pack is\n%x\nwas\n%x", got, want)
		}
		var dump bytes.Buffer
		if err := h.Codec().Dump(&dump, home, obj); err != nil {
			t.Fatal(err)
		}
		if want := golden(t, fmt.Sprintf("v2-suite%d.dump", suite), dump.Bytes); !bytes.Equal(dump.Bytes(), want) {
			t.Errorf("the dump is\n%s\nwas\n%s", dump.Bytes(), want)
		}
		openBySpecification(t, suite, obj)
	}
}

// openBySpecification opens the first slot of a golden pack with nothing but the secrets
// and what docs/formats/pack.md says.
func openBySpecification(t *testing.T, suite seal.Suite, obj []byte) {
	t.Helper()
	root, err := seal.KeyOf(bytes.Repeat([]byte{3}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	slot := obj[HeaderLen:]
	slot = slot[:SlotHeaderLen+le.Uint32(slot[16:])]
	raw := goldenRaws()[0]
	hash := NewSealedHasher(domainOf(t, home, suite, 3)).Sum(raw)
	mac := root.Derive("block", home).MAC(hash[:])
	objectKey, err := seal.KeyOf(mac[:])
	if err != nil {
		t.Fatal(err)
	}
	aad := append(le.AppendUint32([]byte("slot"), home), slot[:20]...)
	payload, err := objectKey.Open(nil, suite, aad, slot[SlotHeaderLen:])
	if err != nil {
		t.Fatal(err)
	}
	if back, err := expand(nil, payload, EncodingZstd, len(raw)); err != nil || !bytes.Equal(back, raw) {
		t.Errorf("the payload is %x, %v", payload, err)
	}
}
