package wal

import (
	"bytes"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
)

// growingPool returns a pool whose logs start with segments of 64 KiB, which grow up to 1
// MiB.
func growingPool(t testing.TB, fs vfs.FS, limit int64) *Pool {
	t.Helper()
	if err := fs.MkdirAll("wal", 0o755); err != nil {
		t.Fatal(err)
	}
	var n atomic.Uint64
	p, err := Open(Options{FS: fs, Dir: "wal", SegmentBytes: 1 << 20, FirstBytes: minSegment, Limit: limit, Local: local, Rand: func() uint64 { return n.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sizes returns the sizes of the log's segments, in the order in which they were
// attached.
func (l *testLog) sizes(p *Pool) (out []uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.refs {
		out = append(out, (*p.table.Load())[r.Number].Size()>>10)
	}
	return out
}

// TestSegmentsGrow: a log starts small, and each new segment is as long as all before it
// together.
func TestSegmentsGrow(t *testing.T) {
	fs := vfs.NewMem()
	p := growingPool(t, fs, 0)
	p.Settle()
	l := newTestLog(p, 0)
	b := make([]byte, 4096)
	l.write(t, 0, b)
	if _, files := p.Used(); files != minSegment {
		t.Errorf("%d bytes of log for one write of 4 KiB", files)
	}
	for i := range uint64(800) { // 3.2 MiB
		l.write(t, i*4096, b)
	}
	want := []uint32{64, 64, 128, 256, 512, 1024, 1024}
	got := l.sizes(p)
	if len(got) < len(want) {
		t.Fatalf("segments of %v KiB", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("segments of %v KiB, want %v", got, want)
		}
	}
	var sum int64
	for _, kib := range got {
		sum += int64(kib) << 10
	}
	if used, files := p.Used(); used != sum || files != sum {
		t.Errorf("%d and %d bytes are accounted for, there are %d", used, files, sum)
	}
	if err := l.Shrink(); err != nil {
		t.Fatal(err)
	}
	n := len(l.sizes(p))
	l.write(t, 0, b)
	if got := l.sizes(p); got[n] != 64 {
		t.Errorf("after an idle time its next segment has %d KiB", got[n])
	}
}

// TestLongWritesIntoShortSegments writes lengths from 1 byte to several segments in
// any order, and recovers all of it.
func TestLongWritesIntoShortSegments(t *testing.T) {
	for seed := range uint64(20) {
		fs := vfs.NewMem()
		p := growingPool(t, fs, 0)
		p.Settle()
		l := newTestLog(p, 0)
		r := rand.New(rand.NewPCG(seed, 1))
		disk := make([]byte, 8<<20)
		for range 40 {
			n := 1 + r.IntN(1<<r.IntN(22))
			off := r.IntN(len(disk) - n)
			b := bytes.Repeat([]byte{byte(1 + r.IntN(255))}, n)
			copy(disk[off:], b)
			var at uint64
			for _, w := range l.write(t, uint64(off), b) {
				at += w.Len
			}
			if at != uint64(n) {
				t.Fatalf("seed %d: %d of %d bytes were written", seed, at, n)
			}
			if r.IntN(4) == 0 {
				if err := l.Sync(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
		l.indexing.Wait() // background work would change the files during the copy
		l.Log.mu.Lock()
		l.dropReserved()
		l.Log.mu.Unlock()
		rec, err := l.recoverAll(t, fs, l.Last())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if rec.Last != l.Last() {
			t.Fatalf("seed %d: recovered through %d of %d", seed, rec.Last, l.Last())
		}
	}
}

// The log's limit counts bytes: many short segments fit where only a few long ones would.
func TestLimitCountsBytes(t *testing.T) {
	p := growingPool(t, vfs.NewMem(), 1<<20)
	p.Settle()
	for i := range 16 {
		l := newTestLog(p, 0)
		l.write(t, 0, []byte{byte(i)})
	}
	l := newTestLog(p, 0)
	if _, err := l.Append([]uint64{0}, [][]byte{frame([]byte{1})}); errs.KindOf(err) != errs.NoSpace {
		t.Errorf("the seventeenth segment of 64 KiB in 1 MiB: %v", err)
	}
}

// Little live data is copied to a short segment.
func TestCompactedSize(t *testing.T) {
	p := growingPool(t, vfs.NewMem(), 0)
	p.Settle()
	for live, want := range map[int64]int64{1: 64 << 10, 60 << 10: 128 << 10, 300 << 10: 512 << 10, 1 << 20: 1 << 20, 1<<20 + 1: 1<<20 + 64<<10} {
		if got := p.CompactedBytes(live); got != want {
			t.Errorf("%d live bytes take %d, want %d", live, got, want)
		}
	}
	c := p.NewCompactor(Identity{7}, 8192)
	for i := range uint64(2) {
		if _, err := c.Add(Record{Seq: i + 1, Off: i * 4096, Len: 4096}, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	segs, err := c.Finish()
	if err != nil || len(segs) != 1 || segs[0].Size() != minSegment {
		t.Errorf("%d segments, %v", len(segs), err)
	}
}

// TestSizesRefused: sizes that do not fit together are refused.
func TestSizesRefused(t *testing.T) {
	for _, first := range []uint32{1, 4096, minSegment + 4096, 3 * minSegment, 2 << 20} {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("wal", 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{FS: fs, Dir: "wal", SegmentBytes: 1 << 20, FirstBytes: first}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("first segments of %d bytes: %v", first, err)
		}
	}
}
