package wal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/seal/sealtest"
	"github.com/paraglide/glide/internal/wal/internal/segfile"
)

// local is the key of the pools that tests open. All tests run without and with one.
var local *seal.Local

func TestMain(m *testing.M) { os.Exit(sealtest.Both(m, &local)) }

// withKey makes the test's pools sealed.
func withKey(t testing.TB, l *seal.Local) {
	before := local
	local = l
	t.Cleanup(func() { local = before })
}

// onDisk returns all files of a file system's log directory.
func onDisk(t testing.TB, fs vfs.FS) (all []byte) {
	t.Helper()
	names, err := fs.List("wal")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b := make([]byte, minSegment)
		f, err := fs.Open("wal/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// TestSealedSegment: the format is pinned. Vectors are random, so the rest is compared, and
// what the records decrypt to; package seal pins the key stream.
func TestSealedSegment(t *testing.T) {
	withKey(t, sealtest.Local("host-1"))
	fs := vfs.NewMem()
	l := newTestLog(testPool(t, fs), 41)
	first, second := []byte("hello, log"), bytes.Repeat([]byte{0xab}, 31)
	l.write(t, 4096, first)
	if err := l.AppendZero(1<<40, 3<<30); err != nil {
		t.Fatal(err)
	}
	l.write(t, 512, second)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b := onDisk(t, fs)
	if got, want := hex.EncodeToString(b[:64]), "474c4457"+"0200"+"01"+"00"+"0100000000000000"+"07000000000000000000000000000000"+"00000000"+"00000100"+"e993e6cb"+
		"4d3c2b1a"+"01000000"+"01000000"+"6eb1589d"+"00000000"; got != want {
		t.Errorf("the header is\n%s, not\n%s", got, want)
	}
	pos := pageSize
	for i, rec := range []struct {
		head  string // without its checksum
		plain []byte
	}{
		{"1a000000" + "0010000000000000" + "2a00000000000000" + "01000000", first},
		{"08000004" + "0000000000010000" + "2b00000000000000" + "02000000", nil},
		{"2f000000" + "0002000000000000" + "2c00000000000000" + "03000000", second},
	} {
		if got := hex.EncodeToString(b[pos+4 : pos+HeaderSize]); got != rec.head {
			t.Errorf("record %d has the header %s, not %s", i, got, rec.head)
		}
		if rec.plain == nil {
			if got := hex.EncodeToString(b[pos+HeaderSize : pos+HeaderSize+8]); got != "000000c000000000" {
				t.Errorf("the zero record has %s", got)
			}
			pos += HeaderSize + 8
			continue
		}
		got := make([]byte, len(rec.plain))
		seg, err := local.Segment(1, 1, 0, [16]byte{7})
		if err != nil {
			t.Fatal(err)
		}
		seg.XOR(got, b[pos+HeaderSize+16:][:len(got)], seal.IV(b[pos+HeaderSize:]), 0)
		if !bytes.Equal(got, rec.plain) {
			t.Errorf("record %d decrypts to %q", i, got)
		}
		pos += int(size(16 + uint32(len(rec.plain))))
	}
}

// TestNothingIsPlain: neither appends, nor a copy after a failed sync, nor cleaning leave
// what a guest wrote in a file.
func TestNothingIsPlain(t *testing.T) {
	for _, l := range []*seal.Local{nil, sealtest.Local("host-1")} {
		withKey(t, l)
		mark := []byte("what a guest wrote, and nobody else may read")
		fs := vfs.NewMem()
		p := testPool(t, fs)
		log := newTestLog(p, 0)
		seg := p.Segment(log.write(t, 0, mark)[0].Place)
		if err := log.Sync(); err != nil {
			t.Fatal(err)
		}
		log.write(t, 4096, bytes.Repeat(mark, 1000)) // several records
		if _, err := log.Rewrite(); err != nil {
			t.Fatal(err)
		}
		recs, err := seg.Index(1)
		if err != nil {
			t.Fatal(err)
		}
		body, err := seg.ReadRecord(&recs[0], nil)
		if err != nil || !bytes.Equal(body, mark) {
			t.Fatalf("%q, %v", body, err)
		}
		c := p.NewCompactor(Identity{7}, 100)
		to, err := c.Add(Record{Seq: 1, Off: 0, Len: uint64(len(mark))}, body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Finish(); err != nil {
			t.Fatal(err)
		}
		part := make([]byte, 9)
		e := []extent.Extent{{Start: 5, End: 14, Place: to.After(5)}}
		if err := p.ReadExtents(part, 5, e); err != nil || string(part) != string(mark[5:14]) {
			t.Fatalf("%q, %v", part, err)
		}
		if plain := bytes.Contains(onDisk(t, fs), mark[:16]); plain == (l != nil) {
			t.Errorf("with the key %v: plain %v", l, plain)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// failsOnce fails the write with this number, after it was half done.
type failsOnce struct {
	vfs.FS
	n *int
}

func (f failsOnce) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return failingWrite{file, f.n}, err
}

type failingWrite struct {
	vfs.File
	n *int
}

func (f failingWrite) WriteAt(p []byte, off int64) (int, error) {
	if *f.n--; *f.n == 0 {
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, errors.New("no")
	}
	return f.File.WriteAt(p, off)
}

// TestAFailedAppendIsEncryptedAgain: the frame is as it was, and the next attempt, at the
// same position and with the same number, has another vector: what both leave on the disk
// says nothing of the difference of their bytes.
func TestAFailedAppendIsEncryptedAgain(t *testing.T) {
	withKey(t, sealtest.Local("host-1"))
	fails := 0
	fs := vfs.NewMem()
	log := newTestLog(testPool(t, failsOnce{fs, &fails}), 0)
	log.write(t, 0, []byte("so that there is a segment"))
	body := bytes.Repeat([]byte("again "), 1000)
	f := frame(body)
	fails = 1
	if _, err := log.Append([]uint64{4096}, [][]byte{f}); err == nil {
		t.Fatal("the write did not fail")
	}
	if !bytes.Equal(f[HeaderSize:], body) {
		t.Fatal("the frame was changed")
	}
	pos := pageSize + int(size(16+26))
	first := onDisk(t, fs)[pos+HeaderSize:][:500]
	w, err := log.Append([]uint64{4096}, [][]byte{f})
	if err != nil || uint32(w[0].Place) != uint32(pos)+HeaderSize+ivSize {
		t.Fatalf("%+v, %v", w, err)
	}
	second := onDisk(t, fs)[pos+HeaderSize:][:500]
	same := 0
	for i := range first {
		if first[i] == second[i] {
			same++
		}
	}
	if same > 20 || bytes.Equal(first[:16], second[:16]) {
		t.Errorf("%d of %d bytes are the same", same, len(first))
	}
	got := make([]byte, len(body))
	if err := log.pool.ReadExtents(got, 4096, []extent.Extent{{Start: 4096, End: 4096 + uint64(len(body)), Place: w[0].Place}}); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("read back wrong: %v", err)
	}
}

// TestEveryRange: any range of any record, in memory or not, decrypts alone.
func TestEveryRange(t *testing.T) {
	withKey(t, sealtest.Local("host-1"))
	for _, on := range []string{"memory", "disk"} {
		fs, dir := vfs.FS(vfs.NewMem()), "wal"
		if on == "disk" {
			fs, dir = vfs.Default, t.TempDir()
		} else if err := fs.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		p := poolIn(t, fs, dir)
		log := newTestLog(p, 0)
		rng := rand.New(rand.NewPCG(1, 2))
		want, tree := make([]byte, 1<<20), extent.New()
		for range 200 {
			n := 1 + rng.IntN(20000)
			off := rng.IntN(len(want) - n)
			for i := range want[off : off+n] {
				want[off+i] = byte(rng.Uint32())
			}
			for _, w := range log.write(t, uint64(off), want[off:off+n]) {
				tree.Set(w.Off, w.Off+w.Len, w.Place, nil)
			}
		}
		for range 2000 {
			n := 1 + rng.IntN(9000)
			off := rng.IntN(len(want) - n)
			for name, read := range map[string]func([]byte, uint64, []extent.Extent) error{
				"served": p.ServeExtents, "verified": p.ReadExtents,
				"tried": func(b []byte, off uint64, e []extent.Extent) error {
					if on == "disk" && !p.TryServeExtents(b, off, e) {
						return errors.New("it is not in memory")
					} else if on == "memory" {
						return p.ServeExtents(b, off, e)
					}
					return nil
				},
			} {
				for _, e := range tree.Range(nil, uint64(off), uint64(off+n)) {
					got := make([]byte, e.Len())
					if err := read(got, e.Start, []extent.Extent{e}); err != nil || !bytes.Equal(got, want[e.Start:e.End]) {
						t.Fatalf("on %s, %s: [%d, %d): %v", on, name, e.Start, e.End, err)
					}
				}
			}
		}
	}
}

// TestSwitchedOn: plain segments stay readable, and their files are not used again; what is
// written from then on is sealed. Switched off again, the log is refused.
func TestSwitchedOn(t *testing.T) {
	withKey(t, nil)
	fs := vfs.NewMem()
	p := testPool(t, fs)
	mark := []byte("written before there was a key")
	kept, gone := newTestLog(p, 0), newTestLog(p, 0)
	w := kept.write(t, 0, mark)[0]
	gone.write(t, 0, []byte("of a volume that is removed"))
	for _, l := range []*testLog{kept, gone} {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p.Close()

	local = sealtest.Local("host-1")
	p, err := openPool(fs)
	if err != nil {
		t.Fatal(err)
	}
	seg, err := p.Claim(kept.refs[0])
	if err != nil {
		t.Fatal(err)
	}
	p.Settle()
	if bytes.Contains(onDisk(t, fs), []byte("a volume that is removed")) {
		t.Error("the file of a plain segment is kept for another use")
	}
	if _, err := p.Recover(Identity{7}, []Source{{Segment: seg}}, 0, 0, 0, false); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(mark))
	if err := p.ReadExtents(got, 0, []extent.Extent{{Start: 0, End: w.Len, Place: w.Place}}); err != nil || !bytes.Equal(got, mark) {
		t.Fatalf("what was plain reads as %q: %v", got, err)
	}
	log := newTestLog(p, 1)
	log.write(t, 0, []byte("written with a key"))
	seg.Release()
	if b := onDisk(t, fs); bytes.Contains(b, []byte("written with")) || bytes.Contains(b, mark) {
		t.Error("plain bytes are on the disk")
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	p.Close()

	for _, l := range []*seal.Local{nil, sealtest.Other("host-1")} {
		local = l
		if _, err := openPool(fs); !errors.Is(err, seal.ErrLocked) || errs.KindOf(err) != errs.Unavailable {
			t.Errorf("opened with %v: %v", l, err)
		}
	}
	local = sealtest.Local("host-2") // another host's, of the same domain
	p, err = openPool(fs)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
}

// TestPlainIsNotTakenForSealed: a segment whose header was replaced by a plain one is not
// read as the volume's data. What names the segment, in the metadata, says that it is sealed.
func TestPlainIsNotTakenForSealed(t *testing.T) {
	withKey(t, sealtest.Local("host-1"))
	fs := vfs.NewMem()
	log := newTestLog(testPool(t, fs), 0)
	log.write(t, 0, []byte("secret"))
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenReadWrite("wal/0.seg", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, pageSize)
	if _, err := f.ReadAt(page, 0); err != nil {
		t.Fatal(err)
	}
	h, err := segfile.DecodeHeader(page)
	if err != nil {
		t.Fatal(err)
	}
	h.Seal = seal.Mark{}
	if _, err := f.WriteAt(h.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := log.recoverAll(t, fs, 1); errs.KindOf(err) != errs.Corrupt {
		t.Errorf("a sealed segment became plain: %v", err)
	}
}

// TestWrongIndex: if an index has another vector than the record, and a right checksum, the
// record is damage, and not other bytes.
func TestWrongIndex(t *testing.T) {
	withKey(t, sealtest.Local("host-1"))
	fs := vfs.NewMem()
	log := newTestLog(testPool(t, fs), 0)
	w := log.write(t, 0, []byte("secret"))[0]
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := openPool(fs)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s, err := p.Claim(log.refs[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Recover(Identity{7}, []Source{{Segment: s}}, 0, 0, 0, false); err != nil {
		t.Fatal(err)
	}
	s.vectors()[0].IV[3] ^= 1
	b := make([]byte, w.Len)
	if err := p.ReadExtents(b, 0, []extent.Extent{{Start: 0, End: w.Len, Place: w.Place}}); errs.KindOf(err) != errs.Corrupt {
		t.Fatalf("%q, %v", b, err)
	}
}

// TestFlippedVectors: a vector that differs from the one in the index is damage, and not
// other bytes.
func TestFlippedVectors(t *testing.T) {
	withKey(t, sealtest.Local("host-1"))
	for bit := range 128 {
		fs := vfs.NewMem()
		log := newTestLog(testPool(t, fs), 0)
		w := log.write(t, 0, []byte("secret"))[0]
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		rot(t, fs, "wal/0.seg", int64(pageSize+HeaderSize+bit/8))
		p, err := openPool(fs)
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.Claim(log.refs[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Recover(Identity{7}, []Source{{Segment: s}}, 0, 0, 0, false); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, w.Len)
		if err := p.ServeExtents(b, 0, []extent.Extent{{Start: 0, End: w.Len, Place: w.Place}}); errs.KindOf(err) != errs.Corrupt {
			t.Fatalf("bit %d: %q, %v", bit, b, err)
		}
		p.Close()
	}
}
