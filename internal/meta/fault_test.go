package meta

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// breakable is a disk that fails from its n-th change of a file on, until it is
// mended.
type breakable struct {
	vfs.FS
	mem     *vfs.MemFS
	changes atomic.Int64
	from    atomic.Int64 // 0: never
	mended  atomic.Bool
	err     error
}

func newBreakable(err error) *breakable {
	b := &breakable{mem: vfs.NewCrashableMem(), err: err}
	b.wrap()
	return b
}

func (b *breakable) wrap() {
	b.FS = errorfs.Wrap(b.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		n, from := b.changes.Add(1), b.from.Load()
		if from != 0 && n >= from && !b.mended.Load() {
			return fmt.Errorf("change %d of %s: %w", n, op.Path, b.err)
		}
		return nil
	}))
}

func (b *breakable) Lock(name string) (io.Closer, error) { return b.mem.Lock(name) }

// model is what the metadata must hold.
type model map[string][]byte

func (m model) check(t *testing.T, db *DB, when string) {
	t.Helper()
	have := model{}
	if err := db.Volumes(func(r Record) error { have[r.ID] = r.Value; return nil }); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	for id, want := range m {
		if !bytes.Equal(have[id], want) {
			t.Errorf("%s: %s is %.20q, want %.20q", when, id, have[id], want)
		}
	}
	for id := range have {
		if m[id] == nil {
			t.Errorf("%s: %s is there, though it was never stored", when, id)
		}
	}
}

// change makes a few changes, some of them large, and notes those that were
// acknowledged. Nothing may take long.
func (m model) change(t *testing.T, db *DB, rng *rand.Rand, steps int) {
	t.Helper()
	for i := range steps {
		id, value := fmt.Sprintf("v%d", rng.IntN(8)), []byte(fmt.Sprintf("%d-%d", i, rng.Uint64()))
		if rng.IntN(4) == 0 {
			value = nil
		}
		took := make(chan struct{})
		timer := time.AfterFunc(20*time.Second, func() {
			select {
			case <-took:
			default:
				panic("a call of the metadata hangs")
			}
		})
		switch rng.IntN(4) {
		case 0:
			if err := db.SaveVolumesSoon(Record{id, value}); err != nil {
				t.Fatalf("a save that need not be durable: %v", err)
			}
			m[id] = value
		case 1:
			if err := db.AddBlocks("t", []pack.Ref{{Hash: pack.Hash{byte(i)}}}); err != nil {
				t.Fatal(err)
			}
			if err := db.AddPage(pack.Hash{byte(i)}, make([]byte, 300<<10)); err != nil {
				t.Fatal(err)
			}
		default:
			other := fmt.Sprintf("w%d", rng.IntN(3))
			if err := db.SaveVolumes(Record{id, value}, Record{other, value}); err == nil {
				m[id], m[other] = value, value
			} else if k := errs.KindOf(err); k != errs.NoSpace && k != errs.Unavailable {
				t.Fatalf("a save failed with an error of kind %s: %v", k, err)
			}
		}
		close(took)
		timer.Stop()
	}
}

// Wherever a disk begins to fail, and with whatever error: reads go on, a save
// that fails has no effect, one that was acknowledged has, and when the disk works
// again everything does, also after a power loss.
func TestDiskFails(t *testing.T) {
	errnos := []error{syscall.ENOSPC, syscall.EIO, syscall.EDQUOT, syscall.EROFS}
	for n := int64(1); n < 160; n += 1 + n/24 {
		err := errnos[n%4]
		t.Run(fmt.Sprintf("change %d: %v", n, err), func(t *testing.T) {
			t.Parallel()
			disk := newBreakable(err)
			must(t, disk.MkdirAll("meta", 0o700))
			told := make(chan error, 100)
			db, err := Open(Options{Local: local, FS: disk, Dir: "meta", Changed: func(err error) { told <- err }})
			must(t, err)
			rng := rand.New(rand.NewPCG(uint64(n), 1))
			m := model{}
			m.change(t, db, rng, 10)
			disk.from.Store(disk.changes.Load() + n)
			m.change(t, db, rng, 60)
			m.check(t, db, "while the disk fails")
			disk.mended.Store(true)
			must(t, db.Revive())
			must(t, db.Err())
			m.check(t, db, "after the disk was mended")
			m.change(t, db, rng, 20)
			must(t, db.SetFact("last", []byte("x")))
			clone := disk.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
			m.check(t, db, "when it went on")
			must(t, db.Close())
			again, err := Open(Options{Local: local, FS: clone, Dir: "meta"})
			must(t, err)
			m.check(t, again, "after a power loss")
			must(t, again.Close())
			if len(told) > 0 && <-told == nil {
				t.Error("Changed was told first that it goes on")
			}
		})
	}
}

// A start on a full or read-only disk reads what there is, and goes on when it can.
func TestOpenOnBadDisk(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
		disk := newBreakable(errno)
		must(t, disk.MkdirAll("meta", 0o700))
		db, err := Open(Options{Local: local, FS: disk, Dir: "meta"})
		must(t, err)
		must(t, db.SaveVolumes(Record{"v", []byte("x")}))
		must(t, db.Close())
		disk.from.Store(1)
		db, err = Open(Options{Local: local, FS: disk, Dir: "meta"})
		must(t, err)
		model{"v": []byte("x")}.check(t, db, "on the bad disk")
		if err := db.SaveVolumes(Record{"w", []byte("x")}); err == nil || db.Err() == nil {
			t.Errorf("%v: a save gives %v, and Err %v", errno, err, db.Err())
		}
		disk.mended.Store(true)
		must(t, db.SaveVolumes(Record{"w", []byte("x")})) // without being asked to
		must(t, db.Close())
	}
}

// What takes the place of the database while the daemon runs is not it.
func TestVanished(t *testing.T) {
	disk := newBreakable(syscall.EIO)
	must(t, disk.MkdirAll("meta", 0o700))
	db, err := Open(Options{Local: local, FS: disk, Dir: "meta"})
	must(t, err)
	must(t, db.SaveVolumes(Record{"v", []byte("x")}))
	disk.from.Store(1)
	if db.SaveVolumes(Record{"v", []byte("y")}) == nil {
		t.Fatal("saved")
	}
	disk.mended.Store(true)
	must(t, disk.mem.Rename("meta", "elsewhere"))
	if err := db.Revive(); err == nil {
		t.Fatal("revived without its directory")
	}
	must(t, disk.MkdirAll("meta", 0o700))
	if err := db.Revive(); err == nil {
		t.Fatal("revived as an empty database")
	}
	must(t, disk.mem.RemoveAll("meta"))
	must(t, disk.mem.Rename("elsewhere", "meta"))
	must(t, db.Revive())
	model{"v": []byte("x")}.check(t, db, "when it was back")
	must(t, db.Close())
}

// A full disk takes what is kept for it, and a file that Pebble makes for itself takes none.
func TestGive(t *testing.T) {
	disk := newBreakable(syscall.ENOSPC)
	must(t, disk.MkdirAll("meta", 0o700))
	given := 0
	db, err := Open(Options{Local: local, FS: disk, Dir: "meta", Give: func() bool {
		given++
		disk.mended.Store(true)
		return true
	}})
	must(t, err)
	disk.from.Store(disk.changes.Load() + 1)
	must(t, db.SaveVolumes(Record{"v", []byte("x")}))
	if given != 1 {
		t.Errorf("%d pieces were given", given)
	}
	must(t, db.Err())
	must(t, db.Close())
}

func TestCompactionsWaitForRoom(t *testing.T) {
	disk := newBreakable(syscall.ENOSPC)
	f := newFence(disk, func() bool { t.Error("a compaction took what is kept"); return false })
	disk.from.Store(1)
	made := make(chan struct{})
	go func() {
		defer close(made)
		_, _ = f.Create("table", compaction)
	}()
	select {
	case <-made:
		t.Fatal("it was made on a full disk")
	case <-time.After(20 * time.Millisecond):
	}
	if f.err() != nil {
		t.Fatal("the instance failed")
	}
	disk.mended.Store(true)
	f.nudge()
	<-made
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A panic of Pebble's fails the instance, and nothing else.
func TestPanic(t *testing.T) {
	in := &instance{vals: &values{}, fence: newFence(vfs.NewMem(), nil)}
	err := in.run(func() error { panic("no") })
	if err == nil || !errors.Is(in.fence.err(), err) {
		t.Errorf("run gives %v", err)
	}
}

// A start meets a disk that fails from any of its changes on.
func TestOpenFailsHalfway(t *testing.T) {
	for n := int64(1); n < 40; n++ {
		disk := newBreakable(syscall.ENOSPC)
		must(t, disk.MkdirAll("meta", 0o700))
		db, err := Open(Options{Local: local, FS: disk, Dir: "meta"})
		must(t, err)
		m := model{}
		for i := range 30 {
			id := fmt.Sprint("v", i)
			m[id] = bytes.Repeat([]byte{byte(i)}, 1000)
			must(t, db.SaveVolumes(Record{id, m[id]}))
		}
		// The daemon is killed: the log of the database has to be replayed.
		disk.mem = disk.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		again := newBreakable(syscall.ENOSPC)
		again.mem = disk.mem
		again.wrap()
		again.from.Store(n)
		db, err = Open(Options{Local: local, FS: again, Dir: "meta"})
		if err != nil {
			t.Fatalf("change %d: %v", n, err)
		}
		m.check(t, db, fmt.Sprintf("open at change %d", n))
		again.mended.Store(true)
		must(t, db.Revive())
		must(t, db.SaveVolumes(Record{"w", []byte("x")}))
		m["w"] = []byte("x")
		m.check(t, db, "mended")
		must(t, db.Close())
	}
}

// noCompactions is a file system that has no room for the files of compactions.
type noCompactions struct{ vfs.FS }

func (n noCompactions) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if c == compaction {
		return nil, syscall.ENOSPC
	}
	return n.FS.Create(name, c)
}

// TestOpenWaitsForNoCompaction: a database that has much to compact is opened on a full
// disk. Pebble's Open waits for compactions that it has begun.
func TestOpenWaitsForNoCompaction(t *testing.T) {
	fs := vfs.NewCrashableMem()
	must(t, fs.MkdirAll("meta", 0o700))
	db, err := Open(Options{Local: local, FS: fs, Dir: "meta"})
	must(t, err)
	must(t, db.Close())
	p, err := pebble.Open("meta", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatVirtualSSTables, DisableAutomaticCompactions: true})
	must(t, err)
	for i := range 10 { // tables that overlap
		must(t, p.Set([]byte("m/0"), []byte{byte(i)}, nil))
		must(t, p.Set([]byte("m/1"), []byte{byte(i)}, nil))
		must(t, p.Flush())
	}
	must(t, p.Close())
	for range 20 { // whether the compaction begins before Open waits is a matter of luck
		opened := make(chan error, 1)
		go func() {
			db, err := Open(Options{Local: local, FS: noCompactions{fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})}, Dir: "meta"})
			if err == nil {
				err = db.Close()
			}
			opened <- err
		}()
		select {
		case err := <-opened:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the database is not open after 10 s")
		}
	}
}
