package cache

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/pack"
)

// A new slab is made without the lock that every lookup takes.
func TestSlabIsMadeWithoutTheLock(t *testing.T) {
	var d *disk
	asked := 0
	d, err := openDisk(vfs.NewMem(), "", 1<<30, func(int64) bool {
		asked++
		if !d.mu.TryLock() {
			t.Error("the lock is held while a slab is made")
			return true
		}
		d.mu.Unlock()
		return true
	}, local)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 4096)
	d.put(&pack.Hash{1}, raw)
	size := classOf(len(raw))
	if _, ok := d.class(size).index[keyOf(&pack.Hash{1})]; !ok || asked != 1 || d.bytes != d.slabLen(size) {
		t.Errorf("kept: %v; room was asked for %d times, %d bytes are accounted", ok, asked, d.bytes)
	}
	d.close()
}
