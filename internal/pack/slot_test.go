package pack

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/paraglide/glide/internal/errs"
)

var settings = []Compression{CompressionZstd, CompressionS2, CompressionNone}

// noise returns incompressible bytes.
func noise(seed uint64, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(data)
	return data
}

// text returns bytes that compress about as well as program text.
func text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString([]string{"func ", "return ", "if err != nil {\n", "0x", "package ", "\t"}[r.IntN(6)])
		b.WriteByte(byte(r.IntN(256)))
	}
	return b.Bytes()[:n]
}

// rawBytes draws content of the kinds that blocks have.
func rawBytes(maxLen int) *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		n := rapid.IntRange(1, maxLen).Draw(t, "length")
		seed := rapid.Uint64().Draw(t, "seed")
		raw := text(seed, n)
		switch rapid.IntRange(0, 3).Draw(t, "content") {
		case 0:
			raw = noise(seed, n)
		case 1:
			raw = bytes.Repeat([]byte{byte(seed)}, n)
		case 2:
			copy(raw[n/2:], noise(seed, n)[n/2:])
		}
		return raw
	})
}

func TestSlotRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rawBytes(64<<10).Draw(t, "raw")
		c := rapid.SampledFrom(settings).Draw(t, "compression")
		kind := rapid.SampledFrom([]Kind{KindBlock, KindPage}).Draw(t, "kind")
		before := rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "before")
		out := EncodeSlot(bytes.Clone(before), kind, raw, c)
		if !bytes.HasPrefix(out, before) {
			t.Fatal("what was in dst is gone")
		}
		slot := out[len(before):]
		if len(slot) > SlotHeaderLen+len(raw) {
			t.Fatalf("%d raw bytes became %d", len(raw), len(slot))
		}
		s, err := parseSlot(slot)
		if err != nil || s.Kind != kind || int(s.RawLen) != len(raw) || s.KeyID != 0 {
			t.Fatalf("%+v, %v", s, err)
		}
		dst := make([]byte, rapid.IntRange(0, 2*len(raw)).Draw(t, "room"))
		got, err := DecodeSlot(dst, slot, len(raw))
		if err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("%d bytes back, %v", len(got), err)
		}
		if cap(dst) >= len(raw) && &got[0] != &dst[0] {
			t.Fatal("the room offered was not used")
		}
		if _, err := DecodeSlot(nil, slot, len(raw)-1); !errors.Is(err, errs.Corrupt) {
			t.Fatalf("more raw bytes than expected: %v", err)
		}
	})
}

func TestSlotEncodings(t *testing.T) {
	for _, c := range []struct {
		raw     []byte
		setting Compression
		want    Encoding
	}{
		{make([]byte, 128<<10), CompressionZstd, EncodingZstd},
		{text(1, maxRawLen), CompressionZstd, EncodingZstd},
		{text(1, 128<<10), CompressionS2, EncodingS2},
		{text(1, 128<<10), CompressionNone, EncodingRaw},
		{noise(1, 128<<10), CompressionZstd, EncodingRaw},
		{noise(1, maxRawLen), CompressionS2, EncodingRaw},
		{append(make([]byte, 6<<10), noise(1, 122<<10)...), CompressionZstd, EncodingRaw}, // saves less than 1/16
		{append(make([]byte, 10<<10), noise(1, 118<<10)...), CompressionZstd, EncodingZstd},
		{[]byte{7}, CompressionZstd, EncodingRaw},
	} {
		slot := EncodeSlot(nil, KindBlock, c.raw, c.setting)
		if s, err := parseSlot(slot); err != nil || s.Encoding != c.want {
			t.Errorf("%d bytes with %s became %s in %d bytes, %v; want %s", len(c.raw), c.setting, s.Encoding, len(slot), err, c.want)
		}
	}
	for _, n := range []int{0, maxRawLen + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a slot of %d bytes was made", n)
				}
			}()
			EncodeSlot(nil, KindBlock, make([]byte, n), CompressionNone)
		}()
	}
}

// TestSlotDamage changes every byte of slots. Every change is detected.
func TestSlotDamage(t *testing.T) {
	for _, c := range settings {
		slot := EncodeSlot(nil, KindBlock, text(3, 600), c)
		for i := range slot {
			bad := bytes.Clone(slot)
			bad[i] ^= 0x41
			if _, err := DecodeSlot(nil, bad, maxRawLen); !errors.Is(err, errs.Corrupt) {
				t.Fatalf("%s, byte %d: %v", c, i, err)
			}
		}
		for n := range slot {
			if _, err := DecodeSlot(nil, slot[:n], maxRawLen); !errors.Is(err, errs.Corrupt) {
				t.Fatalf("%s, cut to %d: %v", c, n, err)
			}
		}
	}
}

// rewrite changes a slot and makes its checksum valid again, as a newer release or an
// attacker would.
func rewrite(slot []byte, change func(slot []byte)) []byte {
	slot = bytes.Clone(slot)
	change(slot)
	le.PutUint32(slot[20:], slotChecksum(slot))
	return slot
}

// TestSlotNewer reads slots of later releases. The error distinguishes them from damage
// and says what to do.
func TestSlotNewer(t *testing.T) {
	slot := EncodeSlot(nil, KindBlock, text(4, 5000), CompressionZstd)
	for name, c := range map[string]struct {
		change func(s []byte)
		says   string
	}{
		"version":   {func(s []byte) { s[1] = 3 }, "version 3"},
		"encoding":  {func(s []byte) { s[2] = 3 }, "encoding is 3"},
		"kind":      {func(s []byte) { s[3] = 9 }, "kind is 9"},
		"extension": {func(s []byte) { s[4] = 32; le.PutUint32(s[16:], le.Uint32(s[16:])-32) }, "32 bytes of extension"},
		"flags":     {func(s []byte) { s[6] = 1 }, "flags 000100"},
		"suite":     {func(s []byte) { s[5] = 1 }, "flags 010000"},
		"key":       {func(s []byte) { le.PutUint32(s[8:], 7) }, "key 7"},
	} {
		_, err := DecodeSlot(nil, rewrite(slot, c.change), maxRawLen)
		if !errors.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "update Glide") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSlotHostile reads slots with valid checksums and wrong contents.
func TestSlotHostile(t *testing.T) {
	for _, setting := range settings {
		slot := EncodeSlot(nil, KindBlock, text(4, 5000), setting)
		for name, change := range map[string]func(s []byte){
			"shorter than it is":        func(s []byte) { le.PutUint32(s[12:], 4999) },
			"longer than it is":         func(s []byte) { le.PutUint32(s[12:], 5001) },
			"longer than anything":      func(s []byte) { le.PutUint32(s[12:], maxRawLen+1) },
			"as long as can be":         func(s []byte) { le.PutUint32(s[12:], 1<<32-1) },
			"empty":                     func(s []byte) { le.PutUint32(s[12:], 0) },
			"garbage in zstd":           func(s []byte) { s[2] = byte(EncodingZstd); copy(s[SlotHeaderLen:], noise(1, 50)) },
			"garbage in s2":             func(s []byte) { s[2] = byte(EncodingS2); copy(s[SlotHeaderLen:], noise(1, 50)) },
			"the length of s2 is a lie": func(s []byte) { s[2] = byte(EncodingS2); copy(s[SlotHeaderLen:], "\xff\xff\xff\xff\x0f") },
		} {
			if _, err := DecodeSlot(nil, rewrite(slot, change), maxRawLen); !errors.Is(err, errs.Corrupt) {
				t.Errorf("%s, %s: %v", setting, name, err)
			}
		}
	}
}

func TestOpen(t *testing.T) {
	h := NewHasher("tenant")
	raw := text(5, 10_000)
	slot := EncodeSlot(nil, KindBlock, raw, CompressionZstd)
	ref := Ref{Hash: h.Sum(raw), Pack: ID{Content: [12]byte{0xab}, Nonce: [12]byte{1}}, Off: 4711, Len: uint32(len(slot))}
	if got, err := Open(h, ref, slot, nil, maxRawLen); err != nil || !bytes.Equal(got, raw) {
		t.Fatal(err)
	}
	other := ref
	other.Hash[0]++
	for name, err := range map[string]error{
		"another hash":   second(Open(h, other, slot, nil, maxRawLen)),
		"another tenant": second(Open(NewHasher("other"), ref, slot, nil, maxRawLen)),
		"short read":     second(Open(h, ref, slot[:len(slot)-1], nil, maxRawLen)),
		"damage":         second(Open(h, ref, append(bytes.Clone(slot[:len(slot)-1]), slot[len(slot)-1]^1), nil, maxRawLen)),
	} {
		if !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), ref.Pack.Key()) || !strings.Contains(err.Error(), "4711") {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer := rewrite(slot, func(s []byte) { s[2] = 3 })
	if _, err := Open(h, ref, newer, nil, maxRawLen); errs.KindOf(err) != errs.Unsupported {
		t.Errorf("a newer slot: %v", err)
	}
}

func second[A any](_ A, err error) error { return err }

// TestSlotConcurrent runs all coders concurrently.
func TestSlotConcurrent(t *testing.T) {
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			var slot, got []byte
			for i := range uint64(30) {
				raw := text(g*100+i, 1000+int(i)*1000)
				slot = EncodeSlot(slot[:0], KindBlock, raw, settings[i%3])
				var err error
				if got, err = DecodeSlot(got, slot, maxRawLen); err != nil || !bytes.Equal(got, raw) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestCompressionNames(t *testing.T) {
	for _, c := range settings {
		if got, err := ParseCompression(c.String()); err != nil || got != c {
			t.Errorf("%s: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCompression("lz4"); !errors.Is(err, errs.Invalid) {
		t.Error(err)
	}
}
