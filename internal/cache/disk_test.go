package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// onDisk returns a stock whose blocks are all in an SSD tier on a real file system.
func onDisk(t testing.TB, blocks int) (*stock, *Cache, *Domain, string) {
	t.Helper()
	s, dir := newStock(t, blocks), t.TempDir()
	c, err := Open(Options{FS: vfs.Default, Dir: dir, Memory: 4 << 20, Disk: 1 << 30, Local: local, Store: s.store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	d := c.Domain("t", s.hasher, nil)
	for i := range s.refs {
		s.want(t, d, i)
	}
	return s, c, d, filepath.Join(dir, "0.slab")
}

// TestReadRanges reads every kind of range, with and without waiting for the disk.
func TestReadRanges(t *testing.T) {
	s, c, d, _ := onDisk(t, 4)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		off := r.IntN(size)
		n := 1 + r.IntN(size-off)
		switch i % 4 {
		case 0:
			off, n = off&^4095, 4096
		case 1:
			off, n = off&^511, 512
		case 2:
			off, n = 0, size
		}
		b, p := r.IntN(len(s.refs)), make([]byte, n)
		if i%2 == 0 {
			if err := read(d, &s.refs[b], size, p, off); err != nil {
				t.Fatal(err)
			}
		} else if !d.TryRead(&s.refs[b].Hash, size, p, off) {
			t.Fatalf("bytes %d to %d of block %d are not in memory", off, off+n, b)
		}
		if !bytes.Equal(p, s.raw[b][off:off+n]) {
			t.Fatalf("bytes %d to %d of block %d are wrong", off, off+n, b)
		}
	}
	if n := s.count.Counts().Get; n != 4 || c.Stats.Repaired.Load() != 0 {
		t.Errorf("%d requests, %d repairs", n, c.Stats.Repaired.Load())
	}
}

// A read from the page cache does not allocate.
func TestTryReadAllocatesNothing(t *testing.T) {
	s, _, d, _ := onDisk(t, 1)
	p := make([]byte, 4096)
	for _, off := range []int{0, 8192, 512} {
		if n := testing.AllocsPerRun(100, func() {
			if !d.TryRead(&s.refs[0].Hash, size, p, off) {
				t.Fatal("it is not in memory")
			}
		}); n > 0 {
			t.Errorf("%v allocations of a read at %d", n, off)
		}
	}
}

// patch overwrites bytes of a file.
func patch(t testing.TB, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// flip changes a bit of a file.
func flip(t testing.TB, path string, off int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	patch(t, path, off, []byte{b[off] ^ 1})
}

// verified: a page that rotted is never served, but other pages of its block are. A read
// of the page gets the block from the store, and after that the page is intact again.
func TestPageRot(t *testing.T) {
	s, c, d, path := onDisk(t, 2)
	h := &s.refs[0].Hash
	at, ok := c.disk.find(h, size)
	if !ok {
		t.Fatal("it is not there")
	}
	at.done()
	flip(t, path, at.at()+int64(at.stored(5*4096))+7)
	p := make([]byte, 4096)
	if !d.TryRead(h, size, p, 4*4096) || !bytes.Equal(p, s.raw[0][4*4096:5*4096]) {
		t.Error("a good page is not served")
	}
	for _, r := range [][2]int{{5 * 4096, 4096}, {5*4096 + 512, 512}, {0, size}} {
		if d.TryRead(h, size, make([]byte, r[1]), r[0]) {
			t.Errorf("bytes %v of a damaged page are served", r)
		}
	}
	if err := read(d, &s.refs[0], size, p, 5*4096); err != nil || !bytes.Equal(p, s.raw[0][5*4096:6*4096]) {
		t.Errorf("it is not repaired: %v", err)
	}
	if n, gets := c.Stats.Repaired.Load(), s.count.Counts().Get; n != 1 || gets != 3 {
		t.Errorf("%d repairs, %d requests", n, gets)
	}
	if !d.TryRead(h, size, p, 5*4096) || !bytes.Equal(p, s.raw[0][5*4096:6*4096]) {
		t.Error("it was not written again")
	}
}

// A page that lies at the place of another page, of its own block or of another, is not
// accepted, although its bytes are intact.
func TestPagesAreBoundToTheirPlace(t *testing.T) {
	s, c, d, path := onDisk(t, 2)
	at, _ := c.disk.find(&s.refs[0].Hash, size)
	at.done()
	patch(t, path, at.at(), s.raw[0][4096:8192])
	patch(t, path, at.at()+2*4096, s.raw[1][2*4096:3*4096])
	p := make([]byte, 4096)
	for _, off := range []int{0, 2 * 4096} {
		if d.TryRead(&s.refs[0].Hash, size, p, off) {
			t.Errorf("the page at %d is another's", off)
		}
	}
	// Zeros, which a disk may return for lost data, do not pass for the block's pages
	// either.
	zero := make([]byte, size)
	patch(t, path, at.at(), zero)
	if d.TryRead(&s.refs[0].Hash, size, p, 3*4096) {
		t.Error("zeros are served")
	}
}

// Two blocks with the same key: the tier compares whole hashes.
func TestSameKey(t *testing.T) {
	s, _, d, _ := onDisk(t, 1)
	other := s.refs[0].Hash
	other[31] ^= 1
	p := make([]byte, 4096)
	if d.TryRead(&other, size, p, 0) || d.cache.disk.read(&other, size, p, 0, true) != absent {
		t.Error("a block is served for another with the same key")
	}
}

// Entries that do not fit into memory are read from the file, and verified.
func TestEntriesFromTheFile(t *testing.T) {
	s, c, d, path := onDisk(t, 3)
	at, _ := c.disk.find(&s.refs[0].Hash, size)
	at.done()
	at.table = nil
	for i := range s.refs {
		p := make([]byte, 4096)
		if !d.TryRead(&s.refs[i].Hash, size, p, 4096) || !bytes.Equal(p, s.raw[i][4096:8192]) {
			t.Errorf("block %d is not served", i)
		}
	}
	patch(t, path, at.entryAt()+entryHead-4, []byte{1, 2, 3, 4})
	if got := c.disk.read(&s.refs[0].Hash, size, make([]byte, 4096), 4096, true); got != damaged {
		t.Errorf("an entry that does not match its checksum: %v", got)
	}
	s.want(t, d, 0)
}

// TestOtherSlabs: a slab of an older version, a damaged one and a truncated one are
// removed, and the cache fills again. A slab of a newer version is refused.
func TestOtherSlabs(t *testing.T) {
	sign := func(b []byte) []byte {
		binary.LittleEndian.PutUint32(b[16:], crc32.Checksum(b[:16], castagnoli))
		return b
	}
	for name, change := range map[string]func(b []byte) []byte{
		"older version": func(b []byte) []byte { b[4] = 1; return sign(b) },
		"bad checksum":  func(b []byte) []byte { b[8] ^= 1; return b },
		"no magic":      func(b []byte) []byte { b[0] = 'X'; return b },
		"cut short":     func(b []byte) []byte { return b[:100] },
		"empty":         func([]byte) []byte { return nil },
		"other slots":   func(b []byte) []byte { b[12]++; return sign(b) },
		"newer version": func(b []byte) []byte { b[4] = 9; return sign(b) },
	} {
		t.Run(name, func(t *testing.T) {
			s, c, _, path := onDisk(t, 1)
			c.Close()
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, change(b), 0o600); err != nil {
				t.Fatal(err)
			}
			again, err := Open(Options{FS: vfs.Default, Dir: filepath.Dir(path), Disk: 1 << 30, Local: local, Store: s.store})
			if name == "newer version" {
				if !errors.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "newer glide") {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
			s.want(t, again.Domain("t", s.hasher, nil), 0)
		})
	}
}

// A full tier keeps working: readers use blocks while other callers reuse slots, and
// every byte that is returned is right.
func TestEvictionBesideReaders(t *testing.T) {
	s, dir := newStock(t, 600), t.TempDir()
	c, err := Open(Options{FS: vfs.Default, Dir: dir, Disk: layout{local: local}.slabLen(size), Local: local, Store: s.store}) // room for 512
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d := c.Domain("t", s.hasher, nil)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			p := make([]byte, 8192)
			for range 2000 {
				i, off := r.IntN(len(s.refs)), r.IntN(size/4096-1)*4096
				if r.IntN(2) == 0 && !d.TryRead(&s.refs[i].Hash, size, p, off) {
					continue
				} else if err := read(d, &s.refs[i], size, p, off); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(p, s.raw[i][off:off+len(p)]) {
					t.Errorf("block %d is wrong at %d", i, off)
					return
				}
			}
		})
	}
	wg.Wait()
	if c.Stats.Repaired.Load() != 0 {
		t.Errorf("%d repairs of a healthy disk", c.Stats.Repaired.Load())
	}
}

// TestGoldenEntry pins the bytes of an entry: docs/formats/slab.md has them.
func TestGoldenEntry(t *testing.T) {
	h := pack.Hash{}
	for i := range h {
		h[i] = byte(i)
	}
	raw := bytes.Repeat([]byte("glide"), 2000)[:8192]
	b := make([]byte, entrySize(8192))
	encodeEntry(b, &h, raw)
	const want = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f00200000"
	if got := hex.EncodeToString(b); !strings.HasPrefix(got, want) || len(b) != 48 {
		t.Errorf("%s", got)
	} else if sums := got[len(want):]; sums != goldenSums {
		t.Errorf("checksums %s, want %s", sums, goldenSums)
	}
	if got, n, ok := decodeEntry(b); !ok || got != h || n != 8192 || !matches(b, &h, 0, raw) || matches(b, &h, 0, raw[4096:]) {
		t.Error("it does not read what it wrote")
	}
}

// The entry's checksum, and those of its two pages.
const goldenSums = "0afd031b9eb13b9e0348a9b3"

func BenchmarkTryRead(b *testing.B) {
	s, _, d, _ := onDisk(b, 64)
	for _, n := range []int{4096, 16384, size} {
		b.Run(sizeName(n), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			for i := range b.N {
				if !d.TryRead(&s.refs[i%64].Hash, size, p, i*n%size) {
					b.Fatal("it is not in memory")
				}
			}
		})
	}
}

func sizeName(n int) string { return map[int]string{4096: "4k", 16384: "16k", size: "128k"}[n] }

// Blocks that come while the tier makes room for them wait for it: they are neither
// refused nor do they push out others.
func TestPutsWaitForANewSlab(t *testing.T) {
	s := newStock(t, 8)
	slow := func(int64) bool { time.Sleep(20 * time.Millisecond); return true }
	d, err := openDisk(vfs.Default, t.TempDir(), 1<<30, slow, local)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	var wg sync.WaitGroup
	for i := range s.refs {
		wg.Go(func() {
			if !d.put(&s.refs[i].Hash, s.raw[i]) {
				t.Errorf("block %d was not taken, and there is room", i)
			}
		})
	}
	wg.Wait()
}

// read reads a block as a guest does.
func read(d *Domain, ref *pack.Ref, size int, p []byte, off int) error {
	if d.ReadLocal(&ref.Hash, size, p, off) {
		return nil
	}
	return d.Fetch(context.Background(), ref, size, p, off)
}
