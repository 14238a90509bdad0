package wal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/wal/internal/cipher"
	"github.com/paraglide/glide/internal/wal/internal/segfile"
)

var update = flag.Bool("update", false, "rewrite golden files")

// testPool is a pool in memory whose incarnations are 1, 2, 3 …
func testPool(t testing.TB, fs vfs.FS) *Pool {
	t.Helper()
	if err := fs.MkdirAll("wal", 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := openPool(fs)
	if err != nil {
		t.Fatal(err)
	}
	return p // left open, as after a crash
}

func openPool(fs vfs.FS) (*Pool, error) {
	var n atomic.Uint64
	return Open(Options{FS: fs, Dir: "wal", SegmentBytes: minSegment, Local: local, Rand: func() uint64 { return n.Add(1) }})
}

// testLog is a log, and the sources that its volume's metadata would list.
type testLog struct {
	*Log
	mu   sync.Mutex
	refs []Ref
}

func newTestLog(p *Pool, last uint64) *testLog {
	l := &testLog{}
	l.Log = NewLog(p, Identity{7}, last, func(s *Segment) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.refs = append(l.refs, s.Ref())
		return nil
	})
	return l
}

func frame(b []byte) []byte { return append(make([]byte, HeaderSize), b...) }

func (l *testLog) write(t testing.TB, off uint64, b []byte) []Written {
	t.Helper()
	w, err := l.Append([]uint64{off}, [][]byte{frame(b)})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// recoverAll opens the directory again and recovers the log.
func (l *testLog) recoverAll(t testing.TB, fs vfs.FS, used uint64) (Recovered, error) {
	t.Helper()
	p, err := openPool(fs)
	if err != nil {
		return Recovered{}, err
	}
	defer p.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	var src []Source
	for _, r := range l.refs {
		s, err := p.Claim(r)
		if err != nil {
			return Recovered{}, err
		}
		src = append(src, Source{Segment: s, Limit: r.Limit, First: r.First})
	}
	return p.Recover(Identity{7}, src, 0, 0, used, false)
}

// TestGoldenSegment pins the format: the bytes that this program writes must be readable
// by every later one.
func TestGoldenSegment(t *testing.T) {
	withKey(t, nil) // TestSealedSegment has the other form
	fs := vfs.NewMem()
	p := testPool(t, fs)
	l := newTestLog(p, 41)
	l.write(t, 4096, []byte("hello, log"))
	if err := l.AppendZero(1<<40, 3<<30); err != nil {
		t.Fatal(err)
	}
	l.write(t, 512, bytes.Repeat([]byte{0xab}, 31))
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	l.write(t, 0, []byte{1})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Open("wal/0.seg")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, minSegment)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	got := hex.Dump(b[:64]) + hex.Dump(b[pageSize:pageSize+192])
	const golden = "testdata/segment.hex"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the format changed:\n%s", got)
	}
	path := filepath.Join(t.TempDir(), "0.seg")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Dump(&out, path); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"volume 07", "42", "1099511627776", "zero"} {
		if !bytes.Contains(out.Bytes(), []byte(s)) {
			t.Errorf("the dump lacks %q:\n%s", s, out.String())
		}
	}
}

// TestTornTailOrDamage: a bad record after every durable mark ends the log. A bad record
// below a mark is damage to acknowledged data, and the log does not open (prefix).
func TestTornTailOrDamage(t *testing.T) {
	build := func(sync bool) (*vfs.MemFS, *testLog, []Written) {
		fs := vfs.NewMem()
		l := newTestLog(testPool(t, fs), 0)
		var all []Written
		for i := range 10 {
			all = append(all, l.write(t, uint64(i)*4096, bytes.Repeat([]byte{byte(i + 1)}, 4096))...)
			if sync && i == 6 {
				if err := l.Sync(); err != nil {
					t.Fatal(err)
				}
			}
		}
		return fs, l, all
	}
	flip := func(fs vfs.FS, w Written) {
		f, err := fs.OpenReadWrite("wal/0.seg", vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xee}, int64(uint32(w.Place))+100); err != nil {
			t.Fatal(err)
		}
	}
	fs, l, all := build(false)
	flip(fs, all[4])
	rec, err := l.recoverAll(t, fs, 0)
	if err != nil || rec.Last != 4 || len(rec.Entries) != 4 {
		t.Fatalf("a torn tail: %d entries, last %d, %v", len(rec.Entries), rec.Last, err)
	}
	fs, l, all = build(true)
	flip(fs, all[4])
	if _, err = l.recoverAll(t, fs, 0); errs.KindOf(err) != errs.Corrupt {
		t.Fatalf("damage below a mark: %v", err)
	}
	fs, l, all = build(true)
	flip(fs, all[9])
	if rec, err = l.recoverAll(t, fs, 0); err != nil || rec.Last != 9 {
		t.Fatalf("a torn last record: %d, %v", rec.Last, err)
	}
	// The metadata knows that seven writes were durable: so an empty log is damage too.
	fs, l, all = build(false)
	flip(fs, all[0])
	l.mu.Lock()
	l.refs[0].First = 1
	l.mu.Unlock()
	if _, err = l.recoverAll(t, fs, 7); errs.KindOf(err) != errs.Corrupt {
		t.Fatalf("damage to the first record: %v", err)
	}
}

func TestDamagedHeaderIsFound(t *testing.T) {
	fs := vfs.NewMem()
	l := newTestLog(testPool(t, fs), 0)
	l.write(t, 0, []byte("x"))
	f, err := fs.OpenReadWrite("wal/0.seg", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0x5a}, 9); err != nil {
		t.Fatal(err)
	}
	if _, err := l.recoverAll(t, fs, 0); errs.KindOf(err) != errs.Corrupt {
		t.Fatal(err)
	}
}

// TestCloseWritesTheIndex: this includes a log that is already synced, which Close has no
// reason to sync again.
func TestCloseWritesTheIndex(t *testing.T) {
	for _, synced := range []bool{true, false} {
		fs := vfs.NewMem()
		l := newTestLog(testPool(t, fs), 0)
		l.write(t, 0, []byte("x"))
		if synced {
			if err := l.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		p, err := openPool(fs)
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.Claim(l.refs[0])
		if err != nil {
			t.Fatal(err)
		}
		if x, err := s.index(); err != nil || !x.trailer || len(x.recs) != 1 {
			t.Errorf("synced before: %v: %+v, %v", synced, x, err)
		}
		p.Close()
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	l := newTestLog(testPool(t, fs), 0)
	l.write(t, 0, []byte("x"))
	f, err := fs.OpenReadWrite("wal/0.seg", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	open := func(header []byte) error {
		t.Helper()
		if _, err := f.WriteAt(header, 0); err != nil {
			t.Fatal(err)
		}
		p, err := Open(Options{FS: fs, Dir: "wal", Local: local, Rand: func() uint64 { return 1 }})
		if err == nil {
			p.Close()
		}
		return err
	}
	header := make([]byte, segfile.HeaderUsed)
	if _, err := f.ReadAt(header, 0); err != nil {
		t.Fatal(err)
	}
	header[4] = 3
	// Without a valid checksum it is damage, which affects one volume, not the host.
	if err := open(header); err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(header[40:], crc32.Checksum(header[:40], castagnoli))
	if err := open(header); errs.KindOf(err) != errs.Unsupported {
		t.Fatal(err)
	}
}

// TestDamageInAFullSegmentIsNotServed: with an index, recovery does not read the records.
// So each record is verified before its first read.
func TestDamageInAFullSegmentIsNotServed(t *testing.T) {
	fs := vfs.NewMem()
	l := newTestLog(testPool(t, fs), 0)
	w := append([]Written(nil), l.write(t, 0, bytes.Repeat([]byte{1}, 8192))...)
	w = append(w, l.write(t, 8192, bytes.Repeat([]byte{2}, 8192))...)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenReadWrite("wal/0.seg", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{9}, int64(uint32(w[0].Place))+5000); err != nil {
		t.Fatal(err)
	}
	p := testPool(t, fs)
	s, err := p.Claim(l.refs[0])
	if err != nil {
		t.Fatal(err)
	}
	rec, err := p.Recover(Identity{7}, []Source{{Segment: s}}, 0, 0, 0, false)
	if err != nil || len(rec.Entries) != 2 {
		t.Fatalf("%d entries, %v", len(rec.Entries), err)
	}
	b := make([]byte, 100)
	read := func(e Entry) error {
		return p.ReadExtents(b, e.Off, []extent.Extent{{Start: e.Off, End: e.Off + 100, Place: e.Place}})
	}
	if err := read(rec.Entries[0]); errs.KindOf(err) != errs.Corrupt {
		t.Fatalf("a damaged record was served: %v", err)
	}
	if err := read(rec.Entries[1]); err != nil || b[0] != 2 {
		t.Fatalf("%v, %d", err, b[0])
	}
	if err := s.CheckAll(); errs.KindOf(err) != errs.Corrupt {
		t.Fatal(err)
	}
}

func FuzzRecord(f *testing.F) {
	rec := frame([]byte("seed"))
	putHeader(rec, 4, 0, 4096, 9, 3)
	sign(rec, 77)
	f.Add(rec, uint32(77), false)
	f.Add(append(rec, make([]byte, 16)...), uint32(77), true)
	f.Add([]byte{}, uint32(0), false)
	f.Fuzz(func(t *testing.T, b []byte, seed uint32, sealed bool) {
		iv := uint32(0)
		if sealed {
			iv = ivSize
		}
		var r Record
		var ok bool
		fuzztest.Bound(t, len(b), 0, 1, func() { r, ok = checkRecord(b, seed, iv) })
		if !ok {
			return
		}
		// A record that validates was written in this form.
		again := encodeIndex([]Record{r}, make([]cipher.Vector, 1))[:HeaderSize]
		copy(again, b[:4])
		binary.LittleEndian.PutUint32(again[24:], binary.LittleEndian.Uint32(b[24:]))
		if !bytes.Equal(again, b[:HeaderSize]) {
			t.Fatalf("%x became %x", b[:HeaderSize], again)
		}
	})
}

func FuzzSegment(f *testing.F) {
	f.Add([]byte("junk"), uint16(0))
	f.Add(bytes.Repeat([]byte{0xff}, 300), uint16(4096))
	f.Fuzz(func(t *testing.T, junk []byte, at uint16) {
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
		junk = junk[:min(len(junk), minSegment-int(at))]
		if _, err := file.WriteAt(junk, int64(at)); err != nil {
			t.Fatal(err)
		}
		// Any error is allowed. A scan reads the segment, of 64 KiB here, through a
		// window of a MiB. A record of 28 bytes takes 150 bytes in the index and the
		// entries.
		fuzztest.Bound(t, minSegment, 4<<20, 16, func() { _, _ = l.recoverAll(t, fs, 0) })
	})
}
