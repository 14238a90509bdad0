package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/wal/internal/segfile"
)

// FuzzIndex gives recovery an index and a trailer with arbitrary content and valid
// checksums.
func FuzzIndex(f *testing.F) {
	good := segfile.Trailer{End: 2 * pageSize, IndexPos: 2 * pageSize, Records: 2, FirstSeq: 1, LastSeq: 2}
	recs := encodeIndex([]Record{{Seq: 1, Off: 0, Len: 1000, Pos: pageSize}, {Seq: 2, Off: 1 << 40, Len: 1 << 50, Zero: true}}, nil)
	good.IndexLen = uint32(len(recs))
	f.Add(good.Encode()[:segfile.TrailerUsed], recs)
	for _, bad := range []segfile.Trailer{
		{End: pageSize, IndexPos: pageSize, Records: 1 << 31, IndexLen: 28}, {End: 1 << 31, IndexPos: 1 << 31, Records: 1, IndexLen: 1 << 31},
	} {
		f.Add(bad.Encode()[:segfile.TrailerUsed], recs)
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
		foot = append(bytes.Clone(foot), make([]byte, segfile.TrailerUsed)...)[:segfile.TrailerUsed]
		copy(foot, "GLDF")
		binary.LittleEndian.PutUint16(foot[4:], 1)
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
	h := header{Kind: kindLog, Incarnation: 5, Number: 1, Size: minSegment}
	f.Add(h.Encode()[:segfile.HeaderUsed], true)
	h.Seal = seal.Mark{Domain: 7, Root: 1, Suite: seal.AES256GCM}
	f.Add(h.Encode()[:64], true)
	f.Add(h.Encode()[:segfile.HeaderUsed-1], false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign && len(b) >= segfile.HeaderUsed {
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
		}
		var h header
		var err error
		fuzztest.Bound(t, len(b), 0, 16, func() { h, err = segfile.DecodeHeader(b) })
		if err == nil && (h.Size < minSegment || h.Size > maxSegment) {
			t.Errorf("a segment of %d bytes was accepted", h.Size)
		}
	})
}
