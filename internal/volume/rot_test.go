package volume

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
)

// rot flips a byte in the log under the open volume.
func (w *world) rot(seg string, at int64) {
	w.t.Helper()
	f, err := w.mem.OpenReadWrite(seg, vfs.WriteCategoryUnspecified)
	w.must(err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	w.must(err)
	b[0] ^= 0x20
	_, err = f.WriteAt(b, at)
	w.must(err)
}

// place returns where the log has the data written at off.
func (w *world) place(v *Volume, off uint64) (seg string, at int64) {
	w.t.Helper()
	e := v.tree.Range(nil, off, off+1)
	if len(e) != 1 {
		w.t.Fatalf("%d pieces at %d", len(e), off)
	}
	s := w.pool.Segment(e[0].Place)
	return w.mem.PathJoin("wal", fmt.Sprintf("%d.seg", s.Number())), int64(uint32(e[0].Place))
}

func corrupt(t *testing.T, what string, err error, seg string) {
	t.Helper()
	if errs.KindOf(err) != errs.Corrupt || !strings.Contains(err.Error(), seg) {
		t.Errorf("%s: %v", what, err)
	}
}

func page(b byte) []byte { return bytes.Repeat([]byte{b}, testBlock) }

// rotten returns a world with a volume whose log has a damaged page at 2*testBlock and
// mostly dead segments.
func rotten(t *testing.T) (w *world, v *Volume, seg string, found *[]error) {
	w = newWorld(t, 1, 0)
	w.newDisk()
	w.pool.Settle()
	v = w.disks[0].v
	found = new([]error)
	v.env.Damaged = func(_ *Volume, err error) { *found = append(*found, err) }
	for i := range 6 {
		w.must(v.WriteAt(page(byte(i+1)), uint64(i)*testBlock))
	}
	for range 80 { // until there are full segments that are nearly all dead
		w.must(v.WriteAt(page(9), 20*testBlock))
	}
	w.must(v.Flush())
	seg, at := w.place(v, 2*testBlock)
	w.rot(seg, at+1000)
	return w, v, seg, found
}

// TestRotIsNotCopied: a page that rots in the log is not folded, shipped or cleaned, and
// a fork's readers do not get it as if it were intact. Other pages are still there, and a
// rewritten page is intact (verified).
func TestRotIsNotCopied(t *testing.T) {
	w, v, seg, found := rotten(t)
	b := make([]byte, testBlock)
	corrupt(t, "read", v.ReadAt(b, 2*testBlock), seg)
	c, err := v.Cut()
	w.must(err)
	corrupt(t, "fold", c.ReadAt(context.Background(), b, 2*testBlock), seg)
	kids, err := c.Fork(&State{ID: ID{5}, Name: "child", Tenant: "default", Mode: Active})
	w.must(err)
	c.Release()
	corrupt(t, "read of a fork", kids[0].ReadAt(b, 2*testBlock), seg)
	if len(*found) != 2 || v.Damage() == nil || kids[0].Damage() == nil {
		t.Errorf("told of: %v", *found)
	}
	for _, v := range []*Volume{v, kids[0]} {
		for i := range 6 {
			if i != 2 {
				w.must(v.ReadAt(b, uint64(i)*testBlock))
				if !bytes.Equal(b, page(byte(i+1))) {
					t.Errorf("page %d is another", i)
				}
			}
		}
	}
	w.must(v.WriteAt(page(77), 2*testBlock))
	w.must(v.ReadAt(b, 2*testBlock))
	if !bytes.Equal(b, page(77)) || v.Damage() != nil || kids[0].Damage() == nil {
		t.Errorf("written again: %v; of the fork: %v", v.Damage(), kids[0].Damage())
	}
}

// TestCleaningLeavesRotAlone: a copy would give a damaged record a valid checksum.
func TestCleaningLeavesRotAlone(t *testing.T) {
	w, v, seg, found := rotten(t)
	clean := func() (errs []error) {
		for _, vs := range FindVictims([]*Volume{v}, 0.7, 8) {
			if _, err := Clean(w.pool, vs); err != nil {
				errs = append(errs, err)
			}
		}
		return errs
	}
	errs := clean()
	if len(errs) != 1 || len(*found) != 1 {
		t.Fatalf("cleaning: %v; told of: %v", errs, *found)
	}
	corrupt(t, "cleaning", errs[0], seg)
	if errs = clean(); len(errs) != 0 {
		t.Errorf("a damaged segment is cleaned again and again: %v", errs)
	}
	b := make([]byte, testBlock)
	corrupt(t, "read", v.ReadAt(b, 2*testBlock), seg)
	w.must(v.ReadAt(b, 3*testBlock))
	if !bytes.Equal(b, page(4)) {
		t.Error("a whole page is another after cleaning")
	}
}

// TestCleaningNeedsAllRecords: the index of a segment and one of its records are damaged.
// A scan of the records ends there, but the records after it are not dead.
func TestCleaningNeedsAllRecords(t *testing.T) {
	w, v, seg, _ := rotten(t)
	v.log.Rotate()
	w.must(v.Flush())
	w.rot(seg, testSegment-4096+9)
	var errs []error
	for _, vs := range FindVictims([]*Volume{v}, 0.7, 8) {
		if _, err := Clean(w.pool, vs); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) != 1 {
		t.Fatalf("cleaning: %v", errs)
	}
	corrupt(t, "cleaning", errs[0], seg)
	b := make([]byte, testBlock)
	for i := range 6 {
		if err := v.ReadAt(b, uint64(i)*testBlock); i != 2 && (err != nil || !bytes.Equal(b, page(byte(i+1)))) {
			t.Errorf("page %d: %v", i, err)
		}
	}
}

// contentOf returns the content of the changed ranges, without those that became zeros.
func contentOf(t *testing.T, c *Changes) (content []byte, err error) {
	c.Runs(func(off, length uint64, zero bool) {
		if zero || err != nil {
			return
		}
		p := make([]byte, length)
		err = c.ReadAt(t.Context(), p, off)
		content = append(content, p...)
	})
	return content, err
}

// TestRotIsNotShipped: damaged data is not sent with the changes either.
func TestRotIsNotShipped(t *testing.T) {
	w := newWorld(t, 1, 0)
	w.newDisk()
	v := w.disks[0].v
	v.resetChanges(newChanges())
	v.env.Uptime = func() time.Duration { return 1 }
	w.must(v.WriteAt(page(1), 0))
	w.must(v.WriteAt(page(2), testBlock))
	seg, at := w.place(v, testBlock)
	w.rot(seg, at+4095)
	c, err := v.TakeChanges()
	w.must(err)
	defer c.Release()
	_, err = contentOf(t, c)
	corrupt(t, "shipping", err, seg)
	v.ReturnChanges(c)
	w.must(v.WriteAt(page(3), testBlock))
	again, err := v.TakeChanges()
	w.must(err)
	defer again.Release()
	got, err := contentOf(t, again)
	w.must(err)
	if !bytes.Equal(got, append(page(1), page(3)...)) {
		t.Errorf("%d bytes were shipped after the page was written again", len(got))
	}
}

// TestRotIsNotWrittenAgain: a sync fails, and the data that it covered has rotted. It
// cannot be rewritten, and the volume says where.
func TestRotIsNotWrittenAgain(t *testing.T) {
	w := newWorld(t, 1, 0)
	w.newDisk()
	v := w.disks[0].v
	for i := range 3 {
		w.must(v.WriteAt(page(byte(i+1)), uint64(i)*testBlock))
	}
	seg, at := w.place(v, testBlock)
	w.rot(seg, at+7)
	w.fs.FailSyncs.Store(1)
	err := v.Flush()
	if err == nil || !strings.Contains(err.Error(), seg) {
		t.Errorf("flush: %v", err)
	}
	if v.Err() == nil || !strings.Contains(v.Err().Error(), seg) {
		t.Errorf("the volume goes on: %v", v.Err())
	}
}
