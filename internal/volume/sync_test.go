package volume

import (
	"bytes"
	"testing"

	"github.com/paraglide/glide/internal/crashtest"
)

// TestFailedSync: what a failed fdatasync covered is lost, even if a second call
// succeeds. The flush succeeds only when everything has reached the disk in another way.
// A power loss right after it loses nothing.
func TestFailedSync(t *testing.T) {
	for seed := range 30 {
		w := newWorld(t, uint64(seed), 0)
		w.newDisk()
		w.pool.Settle()
		d := w.disks[0]
		for range 40 {
			w.write(d)
			if w.r.IntN(10) == 0 {
				w.must(d.v.Zero(w.r.Uint64N(testSize/2), 5000))
			}
			if w.r.IntN(8) == 0 {
				w.must(d.v.Flush())
			}
		}
		before := make([]byte, testSize)
		w.must(d.v.ReadAt(before, 0))
		w.fs.FailSyncs.Store(1)
		w.must(d.v.Flush())
		after := make([]byte, testSize)
		w.must(d.v.ReadAt(after, 0))
		if !bytes.Equal(before, after) {
			t.Fatalf("seed %d: the repair changed the content", seed)
		}
		w.mu.Lock()
		c := w.takeCrash("after the failed sync") // crashAt 0: nothing unsynced is kept
		w.mu.Unlock()
		c.disks[d.v.id] = &disk{History: crashtest.History{Start: before}}
		w.recover(c)
	}
}

// TestSyncThatKeepsFailing: if the repair fails too, the volume has failed, and every
// caller gets the error.
func TestSyncThatKeepsFailing(t *testing.T) {
	w := newWorld(t, 1, 0)
	w.newDisk()
	w.pool.Settle()
	d := w.disks[0]
	w.write(d)
	w.fs.FailSyncs.Store(1000)
	if err := d.v.Flush(); err == nil {
		t.Fatal("a flush was acknowledged that reached no disk")
	}
	w.fs.FailSyncs.Store(0)
	if err := d.v.Flush(); err == nil {
		t.Fatal("the volume forgot that it failed")
	}
	if err := d.v.WriteAt([]byte{1}, 0); err == nil {
		t.Fatal("a failed volume takes writes")
	}
}

// TestKillThenPowerLoss: the writes of a killed daemon are in the page cache but not on
// the disk. A flush of the next daemon covers them too (flush-is-durable).
func TestKillThenPowerLoss(t *testing.T) {
	for _, flushed := range []bool{false, true} { // true: something was flushed before
		w := newWorld(t, 4, 0)
		w.newDisk()
		w.pool.Settle()
		d := w.disks[0]
		w.must(d.v.WriteAt(page(1), 0))
		if flushed {
			w.must(d.v.Flush())
		}
		w.must(d.v.WriteAt(page(2), testBlock))
		st := d.v.State()
		w.open() // it opens what the kernel has
		v, err := Open(w.env(), st, false)
		w.must(err)
		w.must(v.Flush())
		w.mu.Lock()
		w.disks = []*disk{{v, crashtest.History{Start: d.Start, Ops: []crashtest.Op{crashtest.Write(0, page(1)), crashtest.Write(testBlock, page(2))}, Durable: 2}}}
		c := w.takeCrash("after the flush") // nothing unsynced is kept
		w.mu.Unlock()
		w.recover(c)
	}
}
