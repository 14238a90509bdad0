package volume

import (
	"bytes"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/crashtest"
)

// TestZerosAfterTheCut: zeros that are made while a cut is folded are not mistaken for
// zeros of the cut. Data that was written in between is in the log, and in a data commit.
// Without the zeros it would reappear after a crash, or on the host that opens the volume
// next. prefix.
func TestZerosAfterTheCut(t *testing.T) {
	w := newWorld(t, 1, 0)
	w.newDisk()
	v := w.disks[0].v
	v.env.Uptime = func() time.Duration { return time.Second }
	w.must(v.WriteAt(make([]byte, 4*testBlock), 0))
	w.must(v.Zero(0, 2*testBlock))
	c, err := v.BeginFoldTracking()
	w.must(err)
	w.must(v.WriteAt([]byte("written while it is folded"), 100))
	sent, err := v.TakeChanges()
	w.must(err)
	w.must(v.Zero(50, testBlock))
	m, err := blockmap.New(v.env.Pages, blockmap.Root{}, c.State.Blocks()) // it has zeros, as the cut does
	w.must(err)
	w.must(c.Sync()) // nothing that could be lost is published here
	w.must(v.Published(c, m, nil))
	v.EndFold(c)
	sent.Release()

	var dirty []uint64
	next := uint64(0)
	w.must(v.Extents(t.Context(), DirtyPages, 0, 4*testBlock, func(n uint64, flagged bool) error {
		if flagged {
			dirty = append(dirty, next, n)
		}
		next += n
		return nil
	}))
	if len(dirty) != 2 || dirty[0] != 50 || dirty[1] != testBlock {
		t.Errorf("the log has to keep %v, want [50 %d]", dirty, testBlock)
	}
	sent, err = v.TakeChanges()
	w.must(err)
	defer sent.Release()
	zeros := uint64(0)
	sent.Runs(func(off, n uint64, zero bool) {
		if off == 50 && zero {
			zeros = n
		}
	})
	if zeros != testBlock {
		t.Errorf("%d zeros are sent, want %d", zeros, testBlock)
	}
}

// TestZerosOutliveCleaning: the same, but with a segment that is cleaned and a power
// loss. prefix.
func TestZerosOutliveCleaning(t *testing.T) {
	w := newWorld(t, 1, 0)
	w.newDisk()
	w.pool.Settle()
	v := w.disks[0].v
	const half = testSize / 2
	fill := func(at uint64, segments int) { // make the log longer by this many segments
		for n := len(v.Uses()) + segments; len(v.Uses()) < n; {
			w.must(v.WriteAt(bytes.Repeat([]byte{9}, testBlock), at))
			at = half + (at+testBlock)%half
		}
	}
	w.must(v.WriteAt(bytes.Repeat([]byte{1}, testBlock), 0))
	w.must(v.Zero(0, testBlock))
	c, err := v.BeginFold()
	w.must(err)
	w.must(c.Sync())
	w.must(v.WriteAt([]byte("must not come back"), 100))
	w.must(v.WriteAt(bytes.Repeat([]byte{2}, testSegment/2), testBlock)) // stays live, and keeps its segment
	fill(half, 1)
	w.must(v.Zero(0, testBlock))
	fill(half, 3)
	fill(half, 3)
	m, err := blockmap.New(v.env.Pages, blockmap.Root{}, c.State.Blocks())
	w.must(err)
	w.must(v.Published(c, m, nil))
	v.EndFold(c)
	w.must(v.Flush())
	cleaned := 0
	for again := true; again; {
		again = false
		for _, vs := range FindVictims([]*Volume{v}, 0.3, 4) {
			done, err := Clean(w.pool, vs)
			w.must(err)
			if again = again || done; done {
				cleaned += len(vs.Segments)
			}
		}
	}
	if cleaned < 2 {
		t.Fatalf("%d segments were cleaned", cleaned)
	}
	w.must(v.Flush())
	before := make([]byte, testSize)
	w.must(v.ReadAt(before, 0))
	w.mu.Lock()
	crash := w.takeCrash("after cleaning")
	w.mu.Unlock()
	crash.disks[v.id] = &disk{History: crashtest.History{Start: before}}
	w.recover(crash)
}

// TestRepairDuringFold: a failed sync makes the volume rewrite data while an earlier cut
// is being published. That data keeps its place in the log. prefix.
func TestRepairDuringFold(t *testing.T) {
	w := newWorld(t, 1, 0)
	w.newDisk()
	w.pool.Settle()
	d := w.disks[0]
	v := d.v
	want := bytes.Repeat([]byte{3}, testSize)
	for i := range uint64(4) { // two segments
		w.must(v.WriteAt(want[:8*testBlock], i*8*testBlock))
	}
	w.fs.FailSyncs.Store(1) // the sync of the cut
	w.foldWith(d, func() {})
	for range 8 { // the log is reused
		w.must(v.WriteAt(bytes.Repeat([]byte{4}, 8*testBlock), 32*testBlock))
		w.must(v.Flush())
	}
	got := make([]byte, 32*testBlock)
	w.must(v.ReadAt(got, 0))
	if !bytes.Equal(got, want[:len(got)]) {
		t.Fatal("other bytes are there than were written")
	}
	w.foldWith(d, func() {})
	if v.Dirty() {
		t.Error("the next fold leaves something in the log")
	}
	w.must(v.ReadAt(got, 0))
	if !bytes.Equal(got, want[:len(got)]) {
		t.Fatal("after the next fold, other bytes are there than were written")
	}
}
