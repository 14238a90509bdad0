package volume

import (
	"bytes"
	"encoding/json"
	"sync"
	"testing"

	"github.com/paraglide/glide/internal/crashtest"
	"github.com/paraglide/glide/internal/errs"
)

// TestForkThatWasNotAcknowledged: the power is lost when a fork's record is durable and
// the log of its parent is not. The fork is gone, whatever the parent later does with the
// numbers of the cut (prefix).
func TestForkThatWasNotAcknowledged(t *testing.T) {
	w := newWorld(t, 4, 0)
	w.newDisk()
	w.pool.Settle()
	d := w.disks[0]
	w.must(d.v.WriteAt(page(1), 0))
	w.must(d.v.Flush())
	w.must(d.v.WriteAt(page(2), testBlock))
	w.must(d.v.WriteAt(page(3), 2*testBlock))
	d.Ops = []crashtest.Op{crashtest.Write(0, page(1)), crashtest.Write(testBlock, page(2)), crashtest.Write(2*testBlock, page(3))}
	d.Durable = 1
	child := State{ID: ID{9}, Name: "child", Tenant: "default", Mode: Active}
	var c *crash
	saved := make(chan bool)
	save := d.v.env.Save
	d.v.env.Save = func(sts ...*State) error {
		err := save(sts...)
		if sts[0].ID == child.ID {
			close(saved)
		}
		return err
	}
	var once sync.Once
	watch := func() {
		once.Do(func() {
			<-saved // the sync of the log takes longer than that of the metadata
			w.mu.Lock()
			defer w.mu.Unlock()
			c = w.takeCrash("before the sync") // nothing unsynced is kept
		})
	}
	w.fs.BeforeSync.Store(&watch)
	cut, err := d.v.Cut()
	w.must(err)
	_, err = cut.Fork(&child)
	w.must(err)
	cut.Release()
	var st State
	w.must(json.Unmarshal(c.states[child.ID], &st))
	if st.Unsynced != d.v.id || st.Floor != 3 {
		t.Fatalf("the record says %v, %d", st.Unsynced, st.Floor)
	}
	c.unborn[child.ID] = &disk{History: crashtest.History{Start: d.Content(3)}}
	early := c.states[child.ID]
	w.recover(c)
	if len(w.disks) != 1 || w.states[child.ID] != nil {
		t.Fatalf("%d volumes: the fork that was not acknowledged is there", len(w.disks))
	}
	// The parent reuses the numbers.
	d = w.disks[0]
	for i := range 4 {
		w.record(d, crashtest.Write(uint64(4+i)*testBlock, page(byte(50+i))))
		w.must(d.v.WriteAt(page(byte(50+i)), uint64(4+i)*testBlock))
	}
	w.must(d.v.Flush())
	d.Durable = 4
	// Even if the removal of its record was lost, it is not mistaken for a complete fork.
	st = State{}
	w.must(json.Unmarshal(early, &st))
	if v, err := Open(w.env(), st, false); errs.KindOf(err) != errs.Corrupt || err == nil {
		b := make([]byte, testBlock)
		_ = v.ReadAt(b, 4*testBlock)
		t.Errorf("a fork of what was lost opens (%v), and has page(50): %v", err, bytes.Equal(b, page(50)))
	}
	w.mu.Lock()
	c = w.takeCrash("the second time")
	w.mu.Unlock()
	w.recover(c)
	if len(w.disks) != 1 {
		t.Errorf("%d volumes after the second power loss", len(w.disks))
	}
}

// TestForkOverAFailedSync: the log must be rewritten while a fork waits for it. The
// fork's record then no longer matches the log, and must not remain.
func TestForkOverAFailedSync(t *testing.T) {
	w := newWorld(t, 4, 0)
	w.newDisk()
	w.pool.Settle()
	d := w.disks[0]
	w.must(d.v.WriteAt(page(1), 0))
	w.fs.FailSyncs.Store(1)
	cut, err := d.v.Cut()
	w.must(err)
	child := State{ID: ID{9}, Name: "child", Tenant: "default", Mode: Active}
	_, err = cut.Fork(&child)
	cut.Release()
	if errs.KindOf(err) != errs.Unavailable || w.states[child.ID] != nil {
		t.Fatalf("fork: %v; its record is there: %v", err, w.states[child.ID] != nil)
	}
	cut, err = d.v.Cut() // another cut can be forked
	w.must(err)
	kids, err := cut.Fork(&child)
	w.must(err)
	cut.Release()
	b := make([]byte, testBlock)
	w.must(kids[0].ReadAt(b, 0))
	if !bytes.Equal(b, page(1)) {
		t.Error("the fork has other bytes")
	}
}
