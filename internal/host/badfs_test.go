package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/volume"
)

// badDisk is a disk of which a part fails from its n-th change on, in one way, until it
// is repaired.
type badDisk struct {
	vfs.FS
	mem     *vfs.MemFS
	changes atomic.Int64
	from    atomic.Int64
	err     error
}

// parts of a disk that fail.
var parts = map[string]func(op errorfs.Op) bool{
	"all":   func(errorfs.Op) bool { return true },
	"log":   func(op errorfs.Op) bool { return strings.Contains(op.Path, "wal") },
	"meta":  func(op errorfs.Op) bool { return strings.Contains(op.Path, "meta") },
	"slabs": func(op errorfs.Op) bool { return strings.Contains(op.Path, "slabs") },
	"names": func(op errorfs.Op) bool {
		return op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpRename || op.Kind == errorfs.OpOpenDir || op.Kind == errorfs.OpReuseForWrite
	},
	"syncs": func(op errorfs.Op) bool {
		return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
	},
}

const neverFails = 1 << 60

func newBadDisk(part string, err error) *badDisk {
	b := &badDisk{mem: vfs.NewCrashableMem(), err: err}
	b.from.Store(neverFails)
	b.FS = errorfs.Wrap(b.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || !parts[part](op) {
			return nil
		}
		if n := b.changes.Add(1); n >= b.from.Load() {
			return fmt.Errorf("%s: %w", op.Path, b.err)
		}
		return nil
	}))
	return b
}

func (b *badDisk) Lock(name string) (io.Closer, error) { return b.mem.Lock(name) }

// badDay is a host on a bad disk, with what must hold for its volume.
type badDay struct {
	t     *testing.T
	disk  *badDisk
	store objstore.Store
	h     *Host
	m     modelDisk
	rng   *rand.Rand
	// sealed: the host seals what it has on its disk.
	sealed bool
	made   map[string]bool // volumes and snapshots whose creation was acknowledged
	n      int
}

const badDaySize = 2 << 20

func newBadDay(t *testing.T, disk *badDisk, seed uint64) *badDay {
	b := &badDay{t: t, disk: disk, rng: rand.New(rand.NewPCG(seed, 7)), made: map[string]bool{}, store: objstore.NewMem(objstore.Clock{}), sealed: seed%2 == 1}
	b.m = modelDisk{name: "v", size: badDaySize, start: make([]byte, badDaySize)}
	b.open(disk)
	must[api.Volume](t)(b.h.Create(ctx, api.CreateRequest{Name: "v", Size: badDaySize}))
	return b
}

func (b *badDay) open(fs vfs.FS) {
	b.t.Helper()
	h, err := Open(ctx, Config{
		Data: "data", FS: fs, Store: b.store, PackBlocks: 2,
		Memory: 1 << 20, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 6 << 20}, RoomWait: 20 * time.Millisecond, Rand: &lockedReader{b: randomSource(b.rng.Uint64())},
		Local: sealedFrom(b.sealed),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.h = h
}

// step does one random thing that a guest or a user does. Whatever the disk does, step
// returns within a bounded time, and an error has a kind that says why.
func (b *badDay) step() {
	b.t.Helper()
	hangs := time.AfterFunc(time.Minute, func() { panic("a step of the host hangs") })
	defer hangs.Stop()
	b.n++
	v := b.h.disks.Find(disk.Name{Tenant: "default", Volume: "v"}).Volume()
	var err error
	switch b.rng.IntN(10) {
	case 0, 1, 2, 3, 4:
		off := uint64(b.rng.IntN(badDaySize/4096-16)) * 4096
		data := random(b.rng.Uint64(), 4096*(1+b.rng.IntN(16)))
		if v == nil {
			return
		}
		// A failed write may be there nevertheless, in part: the guest was told that it
		// failed.
		if err = v.WriteAt(data, off); err == nil {
			b.m.ops = append(b.m.ops, crashOp{off, uint64(len(data)), data})
		} else {
			b.checkReads(v)
		}
	case 5, 6:
		if v == nil {
			return
		}
		n := len(b.m.ops)
		if err = v.Flush(); err == nil {
			b.m.flushed = n
		}
	case 7:
		name := fmt.Sprintf("n%d", b.n)
		if _, err = b.h.Create(ctx, api.CreateRequest{Name: name, Size: 1 << 20}); err == nil {
			b.made[name] = true
		}
	case 8:
		name := fmt.Sprintf("f%d", b.n)
		if _, err = b.h.Fork(ctx, api.ForkRequest{Source: "v", Name: name}); err == nil {
			b.made[name] = true
		}
	case 9:
		n := len(b.m.ops)
		if _, err = b.h.Flush(ctx, "v"); err == nil {
			b.m.flushed = n
		}
	}
	if err != nil && errs.KindOf(err) == errs.Internal && !errors.Is(err, b.disk.err) {
		b.t.Errorf("an error that says nothing of the disk: %v", err)
	}
	if b.n%8 > 0 {
		return
	}
	if _, err := b.h.List(ctx, false); err != nil {
		b.t.Errorf("List: %v", err)
	}
	if _, err := b.h.Doctor(ctx); err != nil {
		b.t.Errorf("Doctor: %v", err)
	}
}

// checkReads reads the acknowledged data, unless the volume says that it failed.
func (b *badDay) checkReads(v *volume.Volume) {
	b.t.Helper()
	got := make([]byte, badDaySize)
	if err := v.ReadAt(got, 0); err != nil {
		if v.Err() == nil {
			b.t.Errorf("a volume that has not failed cannot be read: %v", err)
		}
		return
	}
	if want := b.m.content(len(b.m.ops)); !bytes.Equal(got, want) {
		b.t.Fatalf("a read does not give what was acknowledged: %s", b.m.explain(got, len(b.m.ops)))
	}
}

// mended checks what holds once the disk works: the volume works, or it failed because of
// a failed sync, which a restart repairs; and no acknowledged write is lost.
func (b *badDay) mended() {
	b.t.Helper()
	b.disk.from.Store(neverFails)
	if err := b.h.disks.DB.Revive(); err != nil {
		b.t.Fatalf("the metadata cannot be written on the mended disk: %v", err)
	}
	if v := b.h.disks.Find(disk.Name{Tenant: "default", Volume: "v"}).Volume(); v != nil && v.Err() == nil {
		data := random(1, 8192)
		if err := v.WriteAt(data, 4096); err != nil {
			b.t.Fatalf("no write on the mended disk: %v", err)
		}
		b.m.ops = append(b.m.ops, crashOp{4096, 8192, data})
		if err := v.Flush(); err != nil {
			b.t.Fatalf("no flush on the mended disk: %v", err)
		}
		b.m.flushed = len(b.m.ops)
		b.checkReads(v)
	} else if v != nil && !errors.Is(v.Err(), b.disk.err) {
		b.t.Errorf("the volume failed for another reason than the disk: %v", v.Err())
	}
	must[api.Volume](b.t)(b.h.Create(ctx, api.CreateRequest{Name: "last", Size: 1 << 20}))
	b.made["last"] = true
	b.checkAll("on the mended disk")
	clone := b.disk.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 40, RNG: b.rng})
	_ = b.h.Close(ctx)
	b.open(clone)
	b.checkAll("after a power loss")
	v := b.h.disks.Find(disk.Name{Tenant: "default", Volume: "v"}).Volume()
	if v == nil {
		b.t.Fatal("after a power loss the volume is not open")
	}
	got := make([]byte, badDaySize)
	if err := v.ReadAt(got, 0); err != nil {
		b.t.Fatal(err)
	}
	if b.m.prefix(got, b.m.flushed) < 0 {
		b.t.Fatalf("after a power loss it is no prefix of %d writes, %d flushed: %s", len(b.m.ops), b.m.flushed, b.m.explain(got, b.m.flushed))
	}
	_ = b.h.Close(ctx)
}

// checkAll checks that every volume whose creation was acknowledged exists, and no other.
func (b *badDay) checkAll(when string) {
	b.t.Helper()
	have := map[string]bool{}
	for _, v := range must[[]api.Volume](b.t)(b.h.List(ctx, false)) {
		have[v.Name] = true
		if v.Name != "v" && !b.made[v.Name] {
			b.t.Errorf("%s: volume %s is there, though its making failed", when, v.Name)
		}
	}
	for name := range b.made {
		if !have[name] {
			b.t.Errorf("%s: volume %s is gone", when, name)
		}
	}
}

// Wherever and however the disk begins to fail: the daemon survives, reads still work, no
// acknowledged write is lost, no failed operation takes effect, and everything works
// again when the disk does.
func TestDiskFails(t *testing.T) {
	errnos := []error{syscall.ENOSPC, syscall.EIO, syscall.EDQUOT, syscall.EROFS}
	kinds := slices.Sorted(maps.Keys(parts))
	for i, n := 0, int64(1); n < 220; i, n = i+1, n+1+n/5 {
		for j := range 2 {
			part, err := kinds[(i+3*j)%len(kinds)], errnos[(i/len(kinds)+i+j)%len(errnos)]
			t.Run(fmt.Sprintf("%s from change %d: %v", part, n, err), func(t *testing.T) {
				t.Parallel()
				b := newBadDay(t, newBadDisk(part, err), uint64(n))
				for range 5 {
					b.step()
				}
				b.disk.from.Store(b.disk.changes.Load() + n)
				for range 32 {
					b.step()
				}
				b.mended()
			})
		}
	}
}
