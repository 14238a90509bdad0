package e2e

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/api"
)

// everyFile lists the files below a directory.
func everyFile(t *testing.T, dir string) (paths []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			paths = append(paths, p)
		}
		return err
	}))
	if len(paths) == 0 {
		t.Fatalf("there is no file in %s", dir)
	}
	return paths
}

// flip damages one byte of a file.
func flip(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	must(t, err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b, off)
	must(t, err)
	must(t, f.Close())
}

// flipWhere damages a byte of what, in every file below the directory that
// holds it, and returns their paths.
func flipWhere(t *testing.T, dir string, what []byte) (paths []string) {
	t.Helper()
	for _, p := range everyFile(t, dir) {
		b, err := os.ReadFile(p)
		must(t, err)
		if i := bytes.Index(b, what); i >= 0 {
			flip(t, p, int64(i+len(what)/2))
			paths = append(paths, p)
		}
	}
	if len(paths) == 0 {
		t.Fatalf("no file in %s holds the bytes", dir)
	}
	return paths
}

// flipPages damages every page of a block map in the packs of a store, found
// through their indexes (docs/formats/pack.md).
func flipPages(t *testing.T, store string) {
	t.Helper()
	pages := 0
	for _, p := range everyFile(t, filepath.Join(store, "packs")) {
		b, err := os.ReadFile(p)
		must(t, err)
		trailer := b[len(b)-64:]
		index := b[binary.LittleEndian.Uint32(trailer):][:binary.LittleEndian.Uint32(trailer[4:])]
		for ; len(index) >= 56; index = index[56:] {
			if off, n := binary.LittleEndian.Uint32(index[32:]), binary.LittleEndian.Uint32(index[36:]); index[48] == 2 {
				flip(t, p, int64(off+n/2))
				pages++
			}
		}
	}
	if pages == 0 {
		t.Fatal("the store holds no page of a block map")
	}
}

// readFails wants a read to fail with EIO.
func (d *daemon) readFails(t *testing.T, export string, off uint64) {
	t.Helper()
	c := d.dial(export)
	defer c.Close()
	isEIO(t, c.Read(make([]byte, page), off))
}

// verifyFinds wants glide verify to exit with 1 and to name what is damaged.
func (d *daemon) verifyFinds(t *testing.T, contains string, args ...string) {
	t.Helper()
	r := d.try(append([]string{"verify"}, args...)...)
	if r.Code != 1 || !strings.Contains(r.Out+r.Err, contains) {
		t.Errorf("glide verify %v: exit %d\n%s%s(want 1, and %q)", args, r.Code, r.Out, r.Err, contains)
	}
}

// damaged are two daemons of one store: a with v, flushed, and an untouched
// volume beside it, and b with a fork w of v.
type damaged struct {
	a, b  *daemon
	store string
	data  []byte // of v and w, from 0 on
}

func newDamaged(t *testing.T) *damaged {
	d := &damaged{store: t.TempDir(), data: pattern(1<<20, 2)}
	d.a, d.b = newDaemon(t, "file://"+d.store), newDaemon(t, "file://"+d.store)
	d.a.start()
	d.b.start()
	d.a.do("create", "v", "--size", "64M")
	d.a.do("create", "beside", "--size", "64M")
	d.a.write("v", d.data, 0)
	d.a.do("flush", "v")
	d.b.do("fork", "v", "w")
	return d
}

// othersGoOn: whatever happened to v and w, the daemons and the volumes beside
// them work.
func (d *damaged) othersGoOn(t *testing.T) {
	t.Helper()
	for _, x := range []*daemon{d.a, d.b} {
		if x.try("show", "beside").Code != 0 {
			x.do("create", "beside", "--size", "64M")
		}
		x.write("beside", d.data, 1<<20)
		x.holds("beside", d.data, 1<<20)
		x.do("fork", "beside", "f")
		x.do("rm", "f")
	}
	d.a.do("flush", "beside")
}

// TestCorruptPack: damage in the store is found by its hash, never served, and
// mended from another copy where there is one.
func TestCorruptPack(t *testing.T) {
	d := newDamaged(t)
	// A host that happened to upload the same blocks has a copy of its own.
	c := newDaemon(t, "file://"+d.store)
	c.start()
	c.do("create", "same", "--size", "64M")
	c.write("same", d.data, 0)
	before := everyFile(t, filepath.Join(d.store, "packs"))
	c.do("flush", "same")
	c.do("fork", "v", "w2")
	c.stop()
	must(t, os.RemoveAll(filepath.Join(c.data, "slabs")))
	c.start()
	for _, p := range before {
		for off := int64(60); off < 1<<20; off += 64 << 10 {
			flip(t, p, off)
		}
	}
	d.b.readFails(t, "w", 0)
	d.b.verifyFinds(t, "packs/", "w")
	d.b.verifyFinds(t, "packs/", "w", "--cold")
	d.b.write("w", []byte("the rest of it works"), 32<<20)
	refused(t, d.b.try("export", "w", filepath.Join(t.TempDir(), "w.raw")), 1, "packs/")
	// The owner still has the blocks on its SSD, and c in another pack.
	d.a.holds("v", d.data, 0)
	d.a.do("verify", "v")
	d.a.verifyFinds(t, "packs/", "v", "--cold")
	c.holds("w2", d.data, 0)
	d.othersGoOn(t)
}

// TestCorruptPage: a damaged page of a block map.
func TestCorruptPage(t *testing.T) {
	d := newDamaged(t)
	flipPages(t, d.store)
	d.b.readFails(t, "w", 0)
	d.b.verifyFinds(t, "packs/", "w")
	refused(t, d.b.try("df", "w"), 1, "packs/")
	refused(t, d.b.try("diff", "w", "v"), 1, "")
	d.b.write("w", d.data, 0) // over what cannot be read
	d.b.holds("w", d.data, 0)
	refused(t, d.b.try("flush", "w"), 1, "packs/")
	d.b.holds("w", d.data, 0)
	// The owner has the pages, after a restart too.
	d.a.stop()
	d.a.start()
	d.a.holds("v", d.data, 0)
	d.a.do("verify", "v")
	d.a.verifyFinds(t, "packs/", "v", "--cold")
	d.othersGoOn(t)
}

// TestCorruptCommit: a damaged commit is refused by name.
func TestCorruptCommit(t *testing.T) {
	d := newDamaged(t)
	for _, p := range everyFile(t, filepath.Join(d.store, "t", "default", "volumes", "v")) {
		st, err := os.Stat(p)
		must(t, err)
		flip(t, p, st.Size()/2)
	}
	const object = "/volumes/v/log/"
	for _, verb := range [][]string{{"fork", "v", "x"}, {"wake", "v"}, {"wake", "v", "--force"}, {"log", "v"}, {"fork", "v", "x", "--at", "1h"}} {
		refused(t, d.b.try(verb...), 1, object)
	}
	d.a.verifyFinds(t, object, "v", "--cold")
	d.a.write("v", []byte("the owner goes on"), 0)
	d.a.do("flush", "v") // and makes a commit that is whole
	d.b.do("fork", "v", "x")
	d.b.holds("x", []byte("the owner goes on"), 0)
	d.b.holds("w", d.data, 0)
	// A process of its own finds the tip first, and must not take the damage for an end.
	d.a.stop()
	for _, p := range everyFile(t, filepath.Join(d.store, "t", "default", "volumes", "v")) {
		st, err := os.Stat(p)
		must(t, err)
		flip(t, p, st.Size()/3)
	}
	d.a.start()
	d.a.write("v", []byte("once more"), 0)
	refused(t, d.a.try("flush", "v"), 1, object)
	d.a.holds("v", []byte("once more"), 0)
	d.othersGoOn(t)
}

// TestCorruptSlab: a damaged SSD tier is repaired from the store; if that is
// damaged too, it is an error.
func TestCorruptSlab(t *testing.T) {
	d := newDamaged(t)
	d.a.stop()
	slab := flipWhere(t, filepath.Join(d.a.data, "slabs"), d.data[4096:8192])
	d.a.start()
	d.a.holds("v", d.data, 0)
	if r := d.a.try("doctor"); r.Code != 1 || !strings.Contains(r.Out, "damaged") {
		t.Errorf("doctor: exit %d\n%s", r.Code, r.Out)
	}
	d.a.do("verify", "v", "--cold")
	d.a.stop()
	// What was repaired stays so. Damage another block, there and in the store.
	at := d.data[256<<10:][:4096]
	flipWhere(t, filepath.Join(d.a.data, "slabs"), at)
	flipWhere(t, filepath.Join(d.store, "packs"), at)
	d.a.start()
	d.a.holds("v", d.data[:128<<10], 0)
	d.a.readFails(t, "v", 256<<10)
	d.a.verifyFinds(t, "packs/", "v")
	// A slab that is no slab any more is dropped.
	d.a.stop()
	flip(t, slab[0], 5) // its version
	d.a.start()
	d.a.holds("v", d.data[:128<<10], 0)
	d.othersGoOn(t)
}

// state is a volume's state, and why.
func (d *daemon) state(name string) (state, reason string) {
	d.tb.Helper()
	var v api.Volume
	d.json(&v, "show", name)
	return v.State, v.Reason
}

// TestCorruptLog: damage to acknowledged data in the log is an error that says
// where, not other bytes, and not the end of the log.
func TestCorruptLog(t *testing.T) {
	for _, killed := range []bool{false, true} {
		d := newDamaged(t)
		first, second, third := pattern(64<<10, 3), pattern(64<<10, 4), pattern(64<<10, 5)
		d.a.write("v", first, 8<<20)
		d.a.write("v", second, 9<<20)
		d.a.write("v", third, 10<<20)
		if killed {
			d.a.kill()
		} else {
			d.a.stop()
		}
		seg := flipWhere(t, filepath.Join(d.a.data, "wal"), second[:4096])
		d.a.start()
		state, reason := d.a.state("v")
		if killed {
			// No index was written: the records behind the damage say that it was acknowledged.
			if state != "failed" || !strings.Contains(reason, seg[0]) {
				t.Errorf("after a kill the volume is %s: %s", state, reason)
			}
			refused(t, d.a.try("wake", "v"), 1, seg[0])
			refused(t, d.a.try("flush", "v"), 1, seg[0])
			refused(t, d.a.try("verify", "v"), 1, seg[0])
			refused(t, d.a.try("fork", "v", "g"), 1, seg[0])
			d.othersGoOn(t)
			d.a.do("wake", "v", "--force") // the prefix before the damage
			d.a.holds("v", first, 8<<20)
			d.a.holds("v", make([]byte, 64<<10), 9<<20)
			d.a.holds("v", make([]byte, 64<<10), 10<<20)
		} else {
			if state != "active" {
				t.Errorf("the volume is %s: %s", state, reason)
			}
			d.a.holds("v", first, 8<<20)
			d.a.holds("v", third, 10<<20)
			d.a.readFails(t, "v", 9<<20)
			d.a.verifyFinds(t, seg[0], "v")
			refused(t, d.a.try("flush", "v"), 1, seg[0])
			refused(t, d.a.try("export", "v", filepath.Join(t.TempDir(), "v.raw")), 1, seg[0])
			if !strings.Contains(d.a.log.String(), "its log is damaged") {
				t.Error("the daemon's log does not tell of it")
			}
			d.a.write("v", second, 9<<20) // written again it is whole
			d.a.holds("v", second, 9<<20)
			d.othersGoOn(t)
		}
		d.a.do("flush", "v")
		d.a.holds("v", d.data, 0)
	}
}

// forget makes the kernel read a file from the disk again.
func forget(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	must(t, f.Sync())
	must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	must(t, f.Close())
}

// TestLogRotsUnderALiveDaemon: what the disk does to acknowledged data while the
// daemon runs is an error for the guest, and goes nowhere: not into a flush, nor
// an export, nor what a policy ships. What is written again is whole.
func TestLogRotsUnderALiveDaemon(t *testing.T) {
	d := newDamaged(t)
	d.a.do("create", "c", "--size", "64M", "--durability", "continuous", "--rpo", "10m")
	first, second, third := pattern(64<<10, 3), pattern(64<<10, 4), pattern(64<<10, 5)
	for i, vol := range []string{"v", "c"} {
		second := pattern(64<<10, 40+i)
		d.a.write(vol, first, 8<<20)
		d.a.write(vol, second, 9<<20)
		d.a.write(vol, third, 10<<20)
		seg := flipWhere(t, filepath.Join(d.a.data, "wal"), second[8192:12288])
		// A fold and an export read what is in memory, and do not trust it.
		refused(t, d.a.try("flush", vol), 1, seg[0])
		refused(t, d.a.try("export", vol, filepath.Join(t.TempDir(), "v.raw")), 1, seg[0])
		forget(t, seg[0])
		d.a.readFails(t, vol, 9<<20+8192)
		d.a.holds(vol, second[:8192], 9<<20) // the rest of the same write is good
		d.a.holds(vol, second[12288:], 9<<20+12288)
		d.a.holds(vol, first, 8<<20)
		d.a.holds(vol, third, 10<<20)
		d.a.verifyFinds(t, seg[0], vol)
		if state, reason := d.a.state(vol); state != "active" || !strings.Contains(reason, "its log is damaged") || !strings.Contains(reason, seg[0]) {
			t.Errorf("%s is %s: %s", vol, state, reason)
		}
		if r := d.a.try("doctor"); r.Code != 1 || !strings.Contains(r.Out, seg[0]) {
			t.Errorf("doctor: exit %d\n%s", r.Code, r.Out)
		}
		if r := d.a.try("events"); !strings.Contains(r.Out, "its log is damaged") || !strings.Contains(r.Out, seg[0]) {
			t.Errorf("events:\n%s", r.Out)
		}
		d.a.do("fork", vol, vol+"-fork")
		d.a.readFails(t, vol+"-fork", 9<<20+8192)
		d.b.do("fork", vol, vol+"-elsewhere", "--lazy")
		d.b.holds(vol+"-elsewhere", make([]byte, 64<<10), 9<<20) // nothing of it was published
	}
	for _, vol := range []string{"v", "c"} {
		d.a.write(vol, second, 9<<20)
		d.a.holds(vol, second, 9<<20)
		d.a.do("flush", vol)
		if state, reason := d.a.state(vol); state != "active" || reason != "" {
			t.Errorf("written again, %s is %s: %s", vol, state, reason)
		}
	}
	d.b.do("fork", "c", "whole")
	d.b.holds("whole", second, 9<<20)
	d.othersGoOn(t)
}

// TestCorruptSegmentHeader: a segment whose first page is damaged.
func TestCorruptSegmentHeader(t *testing.T) {
	d := newDamaged(t)
	more := pattern(64<<10, 3)
	d.a.write("v", more, 8<<20)
	d.a.stop()
	for _, p := range everyFile(t, filepath.Join(d.a.data, "wal")) {
		b, err := os.ReadFile(p)
		must(t, err)
		if bytes.Contains(b, more[:4096]) {
			flip(t, p, 4) // its version
		}
	}
	d.a.start()
	if state, reason := d.a.state("v"); state != "failed" || !strings.Contains(reason, "wal/") {
		t.Errorf("the volume is %s: %s", state, reason)
	}
	refused(t, d.a.try("wake", "v"), 1, "wal/")
	d.othersGoOn(t)
	d.a.do("wake", "v", "--force")
	d.a.holds("v", d.data, 0) // what was published
}

// TestCorruptMetadata: a data directory whose own records are damaged is
// refused with one line, or opened; never a panic.
func TestCorruptMetadata(t *testing.T) {
	d := newDaemon(t, "")
	d.start()
	d.do("create", "v", "--size", "64M")
	d.write("v", pattern(1<<20, 1), 0)
	d.do("flush", "v")
	d.stop()
	host := filepath.Join(d.data, "host.json")
	whole, err := os.ReadFile(host)
	must(t, err)
	for _, b := range []string{"", "{", `{"version":1}`, `[]`, `{"version":"x","id":"y"}`, "\x00\x00\x00\x00"} {
		must(t, os.WriteFile(host, []byte(b), 0o600))
		refused(t, run(t, "", d.args()...), 1, "host.json")
	}
	must(t, os.WriteFile(host, whole, 0o600))
	meta := filepath.Join(d.data, "meta")
	saved := filepath.Join(t.TempDir(), "meta")
	must(t, os.CopyFS(saved, os.DirFS(meta)))
	for _, p := range everyFile(t, saved) {
		st, err := os.Stat(p)
		must(t, err)
		if st.Size() == 0 {
			continue
		}
		for _, off := range []int64{0, st.Size() / 2, st.Size() - 1} {
			must(t, os.RemoveAll(meta))
			must(t, os.CopyFS(meta, os.DirFS(saved)))
			flip(t, filepath.Join(meta, filepath.Base(p)), off)
			d.log.Reset()
			if err := d.tryStart(); err == nil {
				d.kill()
			} else if text := d.log.String(); strings.Contains(text, "goroutine") || !strings.Contains(text, meta) || d.proc.ExitCode() != 1 {
				t.Errorf("%s at %d: exit %d\n%s", filepath.Base(p), off, d.proc.ExitCode(), text)
			}
		}
	}
}
