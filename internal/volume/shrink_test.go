package volume

import (
	"bytes"
	"testing"
)

// TestShrinkLog: an idle volume holds no segment in which nothing was written. What it
// wrote is still there, also after a power loss, and it can be written to again.
func TestShrinkLog(t *testing.T) {
	w := newWorld(t, 1, 0)
	w.newDisk()
	w.pool.Settle()
	d := w.disks[0]
	for range 5 {
		data := bytes.Repeat([]byte{7}, testSegment/8)
		for i := range uint64(6) { // so that the next segment is prepared
			w.must(d.v.WriteAt(data, i*testSegment/8))
		}
		data = bytes.Repeat(data, 6)
		w.must(d.v.ShrinkLog())
		if a := d.v.Account(); a.Open != 0 {
			t.Fatalf("%d bytes of segments are open in an idle volume", a.Open)
		}
		got := make([]byte, len(data))
		if w.must(d.v.ReadAt(got, 0)); !bytes.Equal(got, data) {
			t.Fatal("what was written is gone")
		}
	}
}
