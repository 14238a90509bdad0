package pack

import (
	"errors"
	"io"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
)

// expected reports whether a reader of untrusted bytes may return this error.
func expected(err error) bool {
	return err == nil || errors.Is(err, errs.Corrupt) || errors.Is(err, errs.Unsupported)
}

// FuzzDecodeSlot decodes slots with arbitrary content and a valid checksum. The decoder
// must neither panic nor return more than it may.
func FuzzDecodeSlot(f *testing.F) {
	for _, c := range settings {
		for _, raw := range [][]byte{{1}, make([]byte, 4096), text(1, 5000), noise(1, 300)} {
			slot := EncodeSlot(nil, KindBlock, raw, c)
			f.Add(slot, 8192, true)
			f.Add(slot[:len(slot)-1], 100, false)
			f.Add(rewrite(slot, func(s []byte) { s[2] = byte(1 + c) }), 8192, true)
		}
	}
	obj := golden(f, "v1.pack", nil)
	f.Add(obj[HeaderLen:], maxRawLen, false)
	f.Fuzz(func(t *testing.T, slot []byte, maxRaw int, sign bool) {
		maxRaw = max(0, min(maxRaw, maxRawLen))
		if sign && len(slot) >= SlotHeaderLen {
			slot = rewrite(slot, func([]byte) {})
		}
		var raw []byte
		var err error
		// The caller limits the output. The decoders, 150 KiB each, are pooled.
		fuzztest.Bound(t, maxRaw, 1<<20, 2, func() { raw, err = DecodeSlot(nil, slot, maxRaw) })
		if !expected(err) {
			t.Fatal(err)
		}
		if err == nil && (len(raw) == 0 || len(raw) > maxRaw) || cap(raw) > maxRaw+overAlloc+1024 {
			t.Fatalf("%d bytes (of %d) where %d are allowed", len(raw), cap(raw), maxRaw)
		}
	})
}

// FuzzReadIndex passes whole packs with valid checksums to everything that reads packs.
func FuzzReadIndex(f *testing.F) {
	h := NewHasher("default")
	obj := golden(f, "v1.pack", nil)
	f.Add(obj, true)
	f.Add(obj[:len(obj)-1], false)
	_, obj, _, _ = sample(h, 4, 2)
	f.Add(obj, true)
	f.Add(obj[len(obj)-trailerLen:], true)
	f.Fuzz(func(t *testing.T, obj []byte, sign bool) {
		if sign && len(obj) >= trailerLen+HeaderLen {
			obj = resign(append([]byte(nil), obj...))
			le.PutUint32(obj[12:], checksum(obj[:12]))
		}
		var x *packIndex
		var err error
		// An entry of 56 bytes becomes an indexEntry of 64.
		fuzztest.Bound(t, len(obj), 0, 4, func() { x, err = unsealed.readIndex(0, obj) })
		if !expected(err) {
			t.Fatal(err)
		}
		if err := Dump(io.Discard, 0, obj); !expected(err) {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		if len(x.Entries)*entryLen > len(obj) {
			t.Fatalf("%d entries in %d bytes", len(x.Entries), len(obj))
		}
		for i := range x.Entries {
			if ref := x.Ref(i); uint64(ref.Off)+uint64(ref.Len) > uint64(len(obj)) {
				t.Fatalf("slot %d is beyond the end", i)
			}
		}
		if err := verifyObject(h, x.ID, obj); !expected(err) {
			t.Fatal(err)
		}
	})
}
