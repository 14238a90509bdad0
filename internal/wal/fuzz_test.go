package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/fuzztest"
)

// FuzzIndex gives recovery an index and a trailer with arbitrary content and valid
// checksums.
func FuzzIndex(f *testing.F) {
	good := trailer{end: 2 * pageSize, indexPos: 2 * pageSize, records: 2, firstSeq: 1, lastSeq: 2}
	recs := encodeIndex([]Record{{Seq: 1, Off: 0, Len: 1000, Pos: pageSize}, {Seq: 2, Off: 1 << 40, Len: 1 << 50, Zero: true}})
	good.indexLen = uint32(len(recs))
	f.Add(good.encode()[:footerUsed], recs)
	for _, bad := range []trailer{
		{end: pageSize, indexPos: pageSize, records: 1 << 31, indexLen: 28}, {end: 1 << 31, indexPos: 1 << 31, records: 1, indexLen: 1 << 31},
	} {
		f.Add(bad.encode()[:footerUsed], recs)
	}
	f.Fuzz(func(t *testing.T, foot, index []byte) {
		fs := vfs.NewMem()
		l := newTestLog(testPool(t, fs), 0)
		l.write(t, 0, bytes.Repeat([]byte{1}, 5000))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		file, err := fs.OpenReadWrite("wal/0.seg", vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		foot = append(bytes.Clone(foot), make([]byte, footerUsed)...)[:footerUsed]
		copy(foot, magicFooter)
		binary.LittleEndian.PutUint16(foot[4:], formatNow)
		binary.LittleEndian.PutUint64(foot[8:], l.refs[0].Incarnation)
		pos, n := binary.LittleEndian.Uint32(foot[24:]), binary.LittleEndian.Uint32(foot[28:])
		if uint64(pos)+uint64(n) <= minSegment {
			b := make([]byte, n)
			copy(b, index)
			if _, err := file.WriteAt(b, int64(pos)); err != nil {
				t.Fatal(err)
			}
			binary.LittleEndian.PutUint32(foot[48:], crc32.Checksum(b, castagnoli))
		}
		binary.LittleEndian.PutUint32(foot[52:], crc32.Checksum(foot[:52], castagnoli))
		if _, err := file.WriteAt(foot, minSegment-pageSize); err != nil {
			t.Fatal(err)
		}
		// A segment of 64 KiB; see FuzzSegment.
		fuzztest.Bound(t, minSegment, 4<<20, 16, func() { _, _ = l.recoverAll(t, fs, 0) })
	})
}

// FuzzHeader decodes arbitrary first pages of segments, with and without a valid
// checksum.
func FuzzHeader(f *testing.F) {
	h := header{kind: kindLog, incarnation: 5, number: 1, size: minSegment}
	f.Add(h.encode()[:headerUsed], true)
	f.Add(h.encode()[:headerUsed-1], false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign && len(b) >= headerUsed {
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
		}
		var h header
		var err error
		fuzztest.Bound(t, len(b), 0, 16, func() { h, err = decodeHeader(b) })
		if err == nil && (h.size < minSegment || h.size > maxSegment) {
			t.Errorf("a segment of %d bytes was accepted", h.size)
		}
	})
}
