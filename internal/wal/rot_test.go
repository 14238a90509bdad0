package wal

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/wal/internal/vectored"
)

// rot flips a byte in a segment's file while it is open.
func rot(t testing.TB, fs vfs.FS, path string, pos int64) {
	t.Helper()
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, pos); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, pos); err != nil {
		t.Fatal(err)
	}
}

// machines runs a test on both kinds of file systems: with file descriptors and without.
func machines(t *testing.T, run func(t *testing.T, fs vfs.FS, dir string)) {
	t.Run("memory", func(t *testing.T) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("wal", 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, fs, "wal")
	})
	t.Run("disk", func(t *testing.T) { run(t, vfs.Default, diskDir(t)) })
}

// diskDir returns a directory on a disk: an in-memory file system has nothing to drop
// from its cache.
func diskDir(t *testing.T) string {
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type != unix.TMPFS_MAGIC {
		return dir
	}
	dir, err := os.MkdirTemp(".", "disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// drop makes the kernel drop a segment from its page cache.
func drop(t *testing.T, s *Segment) {
	t.Helper()
	if s.fd < 0 {
		return
	}
	if err := s.file.Sync(); err != nil {
		t.Fatal(err)
	}
	// The kernel keeps a page that another processor still has on its list of new ones.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := unix.Fadvise(s.fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		if !inMemory(t, s) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the kernel keeps pages of the segment in memory")
		}
	}
}

// inMemory reports whether any page of the segment is in the page cache. It reads none.
func inMemory(t *testing.T, s *Segment) bool {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(s.fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(m) }()
	page := os.Getpagesize()
	resident := make([]byte, (len(m)+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&resident[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, r := range resident {
		if r&1 != 0 {
			return true
		}
	}
	return false
}

func poolIn(t *testing.T, fs vfs.FS, dir string) *Pool {
	t.Helper()
	var n uint64
	p, err := Open(Options{FS: fs, Dir: dir, SegmentBytes: 1 << 20, Local: local, Rand: func() uint64 { n++; return n }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// stretches are the positions at which a record with n bytes of payload is damaged,
// relative to the payload.
func stretches(n int) []int { return []int{4 - HeaderSize, -1, 0, n / 2, n - 1} }

// TestRotUnderALiveLog: damage to a record after it was written is detected by every read
// of the damaged bytes (verified), and by no other read: the rest of a long record is
// still readable.
func TestRotUnderALiveLog(t *testing.T) {
	machines(t, func(t *testing.T, fs vfs.FS, dir string) {
		p := poolIn(t, fs, dir)
		l := newTestLog(p, 0)
		for i, n := range []int{1, 512, 4095, 4096, 4097, 128 << 10} {
			for _, off := range []uint64{1 << 30, 1<<30 + 512} {
				for _, at := range stretches(n) {
					data := bytes.Repeat([]byte{byte(i + 1)}, n)
					w := l.write(t, off, data)[0]
					l.write(t, 0, []byte("a neighbour"))
					seg := p.Segment(w.Place)
					rot(t, fs, seg.name(), int64(uint32(w.Place))+int64(at))
					what := fmt.Sprintf("%d bytes at %d, damaged at %d", n, off, at)
					// The whole record, and every part that contains the damage.
					for _, r := range [][2]int{{0, n}, {max(at, 0), max(at, 0) + 1}, {max(at, 0) &^ 511, min(n, max(at, 0)&^511+512)}} {
						drop(t, seg)
						e := extent.Extent{Start: off + uint64(r[0]), End: off + uint64(r[1]), Place: w.Place.After(uint64(r[0]))}
						b := make([]byte, e.Len())
						err := p.ServeExtents(b, e.Start, []extent.Extent{e})
						if errs.KindOf(err) != errs.Corrupt || !strings.Contains(err.Error(), seg.name()) {
							t.Fatalf("%s: a read of [%d, %d): %v", what, r[0], r[1], err)
						}
						if p.TryServeExtents(b, e.Start, []extent.Extent{e}) {
							t.Fatalf("%s: [%d, %d) was served from memory", what, r[0], r[1])
						}
					}
					rot(t, fs, seg.name(), int64(uint32(w.Place))+int64(at)) // undo the damage
				}
			}
		}
	})
}

// TestWhatIsCopiedIsVerifiedInMemoryToo: a guest's read of recent data takes it from
// memory unverified. Data that is copied is verified, wherever it is.
func TestWhatIsCopiedIsVerifiedInMemoryToo(t *testing.T) {
	machines(t, func(t *testing.T, fs vfs.FS, dir string) {
		p := poolIn(t, fs, dir)
		l := newTestLog(p, 0)
		data := bytes.Repeat([]byte{1}, 64<<10)
		w := l.write(t, 0, data)[0]
		seg := p.Segment(w.Place)
		e := []extent.Extent{{Start: 0, End: w.Len, Place: w.Place}}
		b := make([]byte, w.Len)
		if !p.TryServeExtents(b, 0, e) || !bytes.Equal(b, data) || seg.strays.Load() != 0 && seg.fd >= 0 {
			t.Fatal("what was just written is not in memory")
		}
		rot(t, fs, seg.name(), int64(uint32(w.Place))+9000)
		if err := p.ReadExtents(b, 0, e); errs.KindOf(err) != errs.Corrupt {
			t.Fatalf("read to be copied: %v", err)
		}
		if _, err := seg.ReadRecord(&Record{Off: 0, Len: w.Len, Pos: uint32(w.Place) - HeaderSize}, nil); errs.KindOf(err) != errs.Corrupt {
			t.Fatalf("record to be copied: %v", err)
		}
		if err := seg.Verify(); errs.KindOf(err) != errs.Corrupt {
			t.Fatalf("verify: %v", err)
		}
	})
}

// TestVerifiedSegmentsAreTrustedAgain: once something came from the disk, guests' reads
// are verified until the whole segment was.
func TestVerifiedSegmentsAreTrustedAgain(t *testing.T) {
	p := poolIn(t, vfs.Default, diskDir(t))
	l := newTestLog(p, 0)
	w := l.write(t, 0, bytes.Repeat([]byte{1}, 64<<10))[0]
	seg := p.Segment(w.Place)
	e := []extent.Extent{{Start: 0, End: w.Len, Place: w.Place}}
	b := make([]byte, w.Len)
	drop(t, seg)
	// The kernel may fetch it before it looks for it: it is served then, but verified.
	if _ = p.TryServeExtents(b, 0, e); seg.trusted() {
		t.Fatal("what was dropped is trusted")
	}
	if err := p.ServeExtents(b, 0, e); err != nil || seg.trusted() {
		t.Fatalf("one read made the segment trusted (%v), %v", seg.trusted(), err)
	}
	if err := seg.Verify(); err != nil || !seg.trusted() {
		t.Fatalf("all of it was verified: trusted %v, %v", seg.trusted(), err)
	}
	// The same happens in the background, after guests have read much of it.
	p.Settle()
	drop(t, seg)
	for n := 0; n < 1000 && !seg.trusted(); n++ {
		for range 1 << 20 / len(b) {
			if err := p.ServeExtents(b, 0, e); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond)
	}
	if !seg.trusted() {
		t.Fatal("the segment is not verified by itself")
	}
	// Another read that strays during the verification spoils it.
	done := seg.verifying()
	drop(t, seg)
	_ = p.TryServeExtents(b, 0, e)
	if done() || seg.trusted() {
		t.Fatal("a read that strayed was forgotten")
	}
	// A read from memory is verified if another read is in progress.
	seg.strays.Store(0)
	seg.reading.Add(1)
	rot(t, vfs.Default, seg.name(), int64(uint32(w.Place))+9000)
	if err := p.ServeExtents(b, 0, e); errs.KindOf(err) != errs.Corrupt {
		t.Fatalf("a read that was not alone: %v", err)
	}
	seg.reading.Add(-1)
}

// TestKernelThatCannotTell: where the kernel cannot say what is in memory, every read of a
// guest is verified, and nothing is verified in the background for nothing.
func TestKernelThatCannotTell(t *testing.T) {
	defer func(tells func() bool) { vectored.Tells = tells }(vectored.Tells)
	vectored.Tells = func() bool { return false }
	p := poolIn(t, vfs.Default, diskDir(t))
	l := newTestLog(p, 0)
	w := l.write(t, 0, bytes.Repeat([]byte{1}, 64<<10))[0]
	seg := p.Segment(w.Place)
	e := []extent.Extent{{Start: 0, End: w.Len, Place: w.Place}}
	b := make([]byte, w.Len)
	for range 100 {
		if err := p.ServeExtents(b, 0, e); err != nil || seg.trusted() || seg.verified.Load() != 0 {
			t.Fatalf("trusted %v, %d bytes counted, %v", seg.trusted(), seg.verified.Load(), err)
		}
	}
	rot(t, vfs.Default, seg.name(), int64(uint32(w.Place))+9000)
	if err := p.ServeExtents(b, 0, e); errs.KindOf(err) != errs.Corrupt {
		t.Fatalf("a read of damage: %v", err)
	}
}

// TestRotStaysWithItsPiece: one bad byte does not make a whole long record unreadable.
func TestRotStaysWithItsPiece(t *testing.T) {
	machines(t, func(t *testing.T, fs vfs.FS, dir string) {
		p := poolIn(t, fs, dir)
		l := newTestLog(p, 0)
		data := bytes.Repeat([]byte("sixteen bytes..."), 8<<10)
		w := l.write(t, 8192, data)[0]
		rot(t, fs, p.Segment(w.Place).name(), int64(uint32(w.Place))+20000)
		for at := 0; at < len(data); at += 4096 {
			e := extent.Extent{Start: 8192 + uint64(at), End: 8192 + uint64(at) + 4096, Place: w.Place.After(uint64(at))}
			b := make([]byte, 4096)
			err := p.ReadExtents(b, e.Start, []extent.Extent{e})
			if bad := at <= 20000 && 20000 < at+4096; bad != (err != nil) || !bad && !bytes.Equal(b, data[at:at+4096]) {
				t.Errorf("page at %d: %v", at, err)
			}
		}
	})
}

// TestReadsOfManyPieces: whatever pieces of whatever records a read needs, it gets what
// was written. So does a read of a reopened log.
func TestReadsOfManyPieces(t *testing.T) {
	machines(t, func(t *testing.T, fs vfs.FS, dir string) {
		p := poolIn(t, fs, dir)
		l := newTestLog(p, 0)
		tree, model := extent.New(), make([]byte, 1<<20)
		r := uint32(1)
		next := func(n int) int { r = r*1664525 + 1013904223; return int(r>>8) % n }
		for i := range 400 {
			n, off := 1+next(9000), 0
			switch i % 5 {
			case 0:
				n = 1 + next(100)
			case 1:
				n = 100000
			}
			off = next(len(model) - n)
			data := bytes.Repeat([]byte{byte(i%255 + 1)}, n)
			copy(model[off:], data)
			for _, w := range l.write(t, uint64(off), data) {
				tree.Set(w.Off, w.Off+w.Len, w.Place, nil)
			}
		}
		got := make([]byte, len(model))
		check := func(p *Pool) {
			t.Helper()
			for range 300 {
				off := next(len(model))
				n := 1 + next(min(200000, len(model)-off))
				clear(got)
				ext := tree.Range(nil, uint64(off), uint64(off+n))
				if err := p.ReadExtents(got[off:off+n], uint64(off), ext); err != nil {
					t.Fatal(err)
				}
				for _, e := range ext {
					if !bytes.Equal(got[e.Start:e.End], model[e.Start:e.End]) {
						t.Fatalf("bytes %d to %d differ", e.Start, e.End)
					}
				}
			}
		}
		check(p)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		check(p)
		again := poolIn(t, fs, dir)
		var src []Source
		for _, ref := range l.refs {
			s, err := again.Claim(ref)
			if err != nil {
				t.Fatal(err)
			}
			src = append(src, Source{Segment: s})
		}
		if _, err := again.Recover(Identity{7}, src, 0, 0, 0, false); err != nil {
			t.Fatal(err)
		}
		check(again)
		for _, s := range src {
			if err := s.Segment.CheckAll(); err != nil {
				t.Fatal(err)
			}
		}
		check(again)
	})
}

// TestIncompleteIndexIsRefused: cleaning relies on the index of a segment. If the index
// and a record are damaged, the scan that replaces the index ends early. What lies after
// that must not be taken for dead.
func TestIncompleteIndexIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	p := testPool(t, fs)
	l := newTestLog(p, 0)
	w := append([]Written(nil), l.write(t, 0, bytes.Repeat([]byte{1}, 4096))...)
	w = append(w, l.write(t, 4096, bytes.Repeat([]byte{2}, 4096))...)
	seg := p.Segment(w[0].Place)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if recs, err := seg.Index(2); err != nil || len(recs) != 2 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	rot(t, fs, seg.name(), int64(seg.Size())-pageSize+9) // the trailer
	if recs, err := seg.Index(2); err != nil || len(recs) != 2 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	rot(t, fs, seg.name(), int64(uint32(w[1].Place)))
	if _, err := seg.Index(2); errs.KindOf(err) != errs.Corrupt {
		t.Fatalf("an index that lacks a record: %v", err)
	}
}
