package reserve

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

func TestReserve(t *testing.T) {
	var full error
	mem := vfs.NewMem()
	disk := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpRemove {
			return full
		}
		return nil
	}))
	opts := Options{FS: disk, Dir: "data/reserve", Pieces: 3, Bytes: 300 << 10}
	r, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	left := func(want int64) {
		t.Helper()
		if left, of := r.Left(); left != want*opts.Bytes || of != 3*opts.Bytes {
			t.Fatalf("%d of %d bytes are left, want %d pieces", left, of, want)
		}
	}
	left(0)
	if r.Give() {
		t.Error("gave what was never made")
	}
	if err := r.Fill(); err != nil {
		t.Fatal(err)
	}
	left(3)
	st, err := mem.Stat("data/reserve/room-2")
	if err != nil || st.Size() != opts.Bytes {
		t.Fatalf("a piece has %v bytes, %v", st, err)
	}
	for _, full = range []error{syscall.ENOSPC, syscall.EDQUOT} {
		if !r.Give() {
			t.Error("gave nothing")
		}
		if err := r.Fill(); !IsFull(err) {
			t.Errorf("Fill on a full disk: %v", err)
		}
	}
	left(1)
	if r, err = Open(opts); err != nil { // after a restart on the full disk
		t.Fatal(err)
	}
	left(1)
	full = nil
	if err := r.Fill(); err != nil {
		t.Fatal(err)
	}
	left(3)
	for range 3 {
		if !r.Give() {
			t.Error("gave nothing")
		}
	}
	if _, err := mem.Stat("data/reserve/room-0"); r.Give() || !errors.Is(err, fs.ErrNotExist) {
		t.Error("pieces are left")
	}
}

// Pieces take room on a real disk, so that removing them gives it back.
func TestPiecesTakeRoom(t *testing.T) {
	dir := t.TempDir()
	r, err := Open(Options{FS: vfs.Default, Dir: dir + "/reserve", Pieces: 2, Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Fill(); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		var st syscall.Stat_t
		if err := syscall.Stat(r.path(i), &st); err != nil || st.Blocks*512 < 1<<20 {
			t.Errorf("piece %d takes %d blocks, %v", i, st.Blocks, err)
		}
	}
	if r, err = Open(Options{FS: vfs.Default, Dir: dir + "/reserve", Pieces: 3, Bytes: 1 << 20, Keep: 1 << 62}); err != nil {
		t.Fatal(err)
	}
	if err := r.Fill(); !IsFull(err) {
		t.Errorf("Fill took what is to stay free: %v", err)
	}
}
