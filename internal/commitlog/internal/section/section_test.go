package section

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"github.com/paraglide/glide/internal/commitlog/internal/frame"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/pack"
)

func TestDataRoundTrip(t *testing.T) {
	random := make([]byte, 5000)
	for i := range random {
		random[i] = byte(i * i >> 3)
	}
	for _, ranges := range [][]Range{
		{},
		{{0, 1, []byte{0}, nil}},
		{{0, 5000, random, nil}, {5000, 10, nil, nil}, {1 << 40, 4096, make([]byte, 4096), nil}},
		{{maxSize - 1, 1, []byte{9}, nil}},
		{{0, maxSize, nil, nil}},
		{{0, 4096, nil, someRef(1)}},
		{{0, 5000, random, nil}, {1 << 20, 1 << 20, nil, someRef(1)}, {2 << 20, 1, []byte{1}, nil}, {3 << 20, 1 << 20, nil, someRef(2)}, {4 << 20, 9, nil, nil}},
		{{maxSize - 4096, 4096, nil, someRef(1)}},
	} {
		section, err := Encode(ranges)
		check(t, err)
		back, err := Decode(section)
		check(t, err)
		if !reflect.DeepEqual(back, ranges) {
			t.Errorf("%v came back as %v", ranges, back)
		}
	}
	pages, err := Encode([]Range{{0, 1 << 20, make([]byte, 1<<20), nil}})
	check(t, err)
	if len(pages) > 1000 {
		t.Errorf("1 MiB of zeros takes %d bytes", len(pages))
	}
}

func TestDataRefuses(t *testing.T) {
	for name, ranges := range map[string][]Range{
		"empty range":  {{0, 0, nil, nil}},
		"wrong length": {{0, 5, []byte{1}, nil}},
		"overlap":      {{0, 10, nil, nil}, {9, 10, nil, nil}},
		"order":        {{10, 10, nil, nil}, {0, 10, nil, nil}},
		"beyond":       {{maxSize, 1, nil, nil}},
		"overflow":     {{1<<64 - 1, 2, nil, nil}},
		"huge":         {{0, 1 << 63, nil, nil}},
		"too much":     {{0, frame.MaxData, make([]byte, frame.MaxData), nil}},
		"half a block": {{4096, 8192, nil, someRef(1)}},
		"small block":  {{0, 2048, nil, someRef(1)}},
		"large block":  {{0, 2 << 20, nil, someRef(1)}},
		"odd block":    {{0, 12288, nil, someRef(1)}},
		"both":         {{0, 4096, make([]byte, 4096), someRef(1)}},
		"hole":         {{0, 4096, nil, &pack.Ref{Pack: someRef(1).Pack}}},
		"no pack":      {{0, 4096, nil, &pack.Ref{Len: 100}}},
		"huge slot":    {{0, 4096, nil, &pack.Ref{Len: 2 << 20, Pack: someRef(1).Pack}}},
		"too many":     manyBlocks(32),
	} {
		_, err := Encode(ranges)
		t.Run(name, func(t *testing.T) { wantKind(t, err, errs.Invalid) })
	}
	section, err := Encode([]Range{{0, 8, []byte("12345678"), nil}, {100, 8, nil, nil}})
	check(t, err)
	for i := range section {
		bad := bytes.Clone(section)
		bad[i] ^= 0x80
		if _, err := Decode(bad); err == nil && i < dataHeaderSize+bodyHeaderSize {
			t.Errorf("accepted with byte %d changed", i)
		}
		_, err := Decode(section[:i])
		wantKind(t, err, errs.Corrupt)
	}
	wantKind(t, errOf(Decode(append(section, 0))), errs.Corrupt)
}

// manyBlocks is n MiB of blocks.
func manyBlocks(n int) (ranges []Range) {
	for i := range n {
		ranges = append(ranges, Range{uint64(i) << 20, 1 << 20, nil, someRef(byte(i))})
	}
	return ranges
}

// TestBlockRangesAreRefused: a section with block ranges that are cut short, are not as
// many as the header says, or stand for too many bytes.
func TestBlockRangesAreRefused(t *testing.T) {
	section, err := Encode(append(manyBlocks(3), Range{4 << 20, 1, []byte{9}, nil}))
	check(t, err)
	for i := range section {
		wantKind(t, errOf(Decode(section[:i])), errs.Corrupt)
	}
	for _, n := range []byte{0, 2, 4, 255} {
		bad := bytes.Clone(section)
		bad[1] = n
		wantKind(t, errOf(Decode(bad)), errs.Corrupt)
	}
	many := manyBlocks(33)
	section, err = compress(encodeBody(many, 1<<13), len(many), pack.RefLen)
	check(t, err)
	wantKind(t, errOf(Decode(section)), errs.Corrupt)
}

// TestDataThatExpands: a small section makes the reader take no more memory
// than it may become, and one that lies about it none.
func TestDataThatExpands(t *testing.T) {
	section, err := Encode([]Range{{0, 16 << 20, make([]byte, 16<<20), nil}})
	check(t, err)
	if _, err := Decode(section); err != nil {
		t.Fatal(err)
	}
	for _, size := range []uint32{16, 16<<20 - 1, frame.MaxData - dataHeaderSize} {
		binary.LittleEndian.PutUint32(section[4:], size)
		fuzztest.Bound(t, int(size), 4<<20, 2, func() { _, err = Decode(section) })
		wantKind(t, err, errs.Corrupt)
	}
	short := append(bytes.Clone(section[:dataHeaderSize]), section[dataHeaderSize:][:20]...)
	fuzztest.Bound(t, len(short), 0, 64, func() { _, err = Decode(short) })
	wantKind(t, err, errs.Corrupt)
}

func FuzzDecode(f *testing.F) {
	for _, ranges := range [][]Range{{}, {{0, 8, []byte("12345678"), nil}, {100, 8, nil, nil}}, {{0, 1 << 16, make([]byte, 1<<16), nil}}, manyBlocks(3), domainRanges()} {
		section, err := Encode(ranges)
		check(f, err)
		f.Add(section)
	}
	f.Fuzz(func(t *testing.T, section []byte) {
		var ranges []Range
		var err error
		// A table entry of 16 bytes becomes a Range of 48, and the 64 or 68 bytes of a
		// block's place become 80. What is compressed may
		// become 32,768 times as much (a block of 128 KiB in 4 bytes), as the
		// header has to say beforehand, up to frame.MaxData; the decoder has 4 MiB of its own.
		times := uint64(4)
		if len(section) > 0 && section[0]&^domainPlaces == encodingZstd {
			times = 4 * maxExpansion
		}
		fuzztest.Bound(t, min(len(section), frame.MaxData/maxExpansion), 4<<20, times, func() { ranges, err = Decode(section) })
		if err != nil {
			return
		}
		again, err := Encode(ranges)
		check(t, err)
		back, err := Decode(again)
		check(t, err)
		if !reflect.DeepEqual(back, ranges) {
			t.Errorf("%v came back as %v", ranges, back)
		}
	})
}

// TestDomainPlaces: the places of blocks have domains if and only if one is not 0.
func TestDomainPlaces(t *testing.T) {
	ranges := domainRanges()
	section, err := Encode(ranges)
	check(t, err)
	if section[0] != domainPlaces|encodingZstd || !HasDomains(section) {
		t.Errorf("the section begins with %x", section[:dataHeaderSize])
	}
	back, err := Decode(section)
	check(t, err)
	if !reflect.DeepEqual(back, ranges) {
		t.Errorf("%v came back as %v", ranges, back)
	}
	body := encodeBody(ranges, 1<<10)
	if want := bodyHeaderSize + len(ranges)*rangeSize + 8 + 3*pack.DomainRefLen; len(body) != want {
		t.Errorf("the body has %d bytes, want %d", len(body), want)
	}
	at := bodyHeaderSize + len(ranges)*rangeSize + 8 // the places
	if got := body[at : at+4]; !bytes.Equal(got, []byte{4, 3, 2, 1}) {
		t.Errorf("the first place begins with %x", got)
	}
	sealed := func(body []byte, n, place int) []byte {
		section, err := compress(body, n, place)
		check(t, err)
		return section
	}
	all0 := bytes.Clone(body)
	for i := range 3 {
		copy(all0[at+i*pack.DomainRefLen:], make([]byte, 4))
	}
	plain := encodeBody(manyBlocks(3), 1<<10)
	raw := append([]byte{domainPlaces, 3, 0, 0, byte(len(body)), byte(len(body) >> 8), 0, 0}, body...)
	_, err = Decode(raw) // not compressed
	check(t, err)
	for name, bad := range map[string][]byte{
		"all in domain 0":      sealed(all0, 3, pack.DomainRefLen),
		"no domains":           sealed(plain, 3, pack.DomainRefLen),
		"domains unannounced":  sealed(body, 3, pack.RefLen),
		"a place cut short":    sealed(body[:len(body)-1], 3, pack.DomainRefLen),
		"a place too many":     sealed(append(bytes.Clone(body), body[len(body)-pack.DomainRefLen:]...), 3, pack.DomainRefLen),
		"no blocks":            sealed(encodeBody([]Range{{Off: 0, Len: 9}}, 1<<10), 0, pack.DomainRefLen),
		"another bit":          append([]byte{4 | domainPlaces}, raw[1:]...),
		"domain without ID":    sealed(noPack(body, at), 3, pack.DomainRefLen),
		"header of fewer":      append([]byte{domainPlaces, 2}, raw[2:]...),
		"nothing but a header": {domainPlaces, 0, 0, 0, 0, 0, 0, 0},
	} {
		_, err := Decode(bad)
		t.Run(name, func(t *testing.T) { wantKind(t, err, errs.Corrupt) })
	}
	wantKind(t, errOf(Encode([]Range{{Off: 0, Len: 4096, Block: &pack.Ref{Len: 100, Pack: pack.ID{Domain: 1}}}})), errs.Invalid)
}

// noPack is the body with a place that has a domain, and no content or nonce.
func noPack(body []byte, at int) []byte {
	b := bytes.Clone(body)
	clear(b[at+4+32 : at+4+32+24])
	return b
}

// someRef is a place in the store that differs with n.
func someRef(n byte) *pack.Ref {
	ref := pack.Ref{Off: uint32(n) << 12, Len: 4000 + uint32(n)}
	for i := range ref.Hash {
		ref.Hash[i] = n + byte(i)
	}
	for i := range ref.Pack.Content {
		ref.Pack.Content[i], ref.Pack.Nonce[i] = 0xc0+n, 0xd0+n
	}
	return &ref
}

// domainRef is someRef in a domain.
func domainRef(n byte, domain uint32) *pack.Ref {
	ref := someRef(n)
	ref.Pack.Domain = domain
	return ref
}

// domainRanges name packs of three domains, one of them 0.
func domainRanges() []Range {
	return []Range{
		{Off: 4096, Len: 8, Data: []byte("01234567")}, {Off: 1 << 17, Len: 1 << 17, Block: domainRef(1, 0x01020304)},
		{Off: 1 << 18, Len: 1 << 17, Block: someRef(1)}, {Off: 3 << 17, Len: 1 << 17, Block: domainRef(2, 0x2a)}, {Off: 1 << 20, Len: 1 << 29},
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err error, kind errs.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want kind %v", err, kind)
	}
}

func errOf[T any](_ T, err error) error { return err }
