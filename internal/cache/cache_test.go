package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal/sealtest"
)

const size = 128 << 10

// stock is a store with packs of blocks, at most 100 in each.
type stock struct {
	store  objstore.Store
	count  *objstore.Counter
	hasher *pack.Hasher
	refs   []pack.Ref
	raw    [][]byte
	key    string // of the first pack
}

func newStock(t testing.TB, blocks int) *stock {
	t.Helper()
	s := &stock{count: &objstore.Counter{}, hasher: pack.NewHasher("t")}
	s.store = objstore.Count(objstore.NewMem(objstore.Clock{}), s.count)
	r := rand.NewChaCha8([32]byte{1})
	for n := byte(1); blocks > 0; n++ {
		some := min(blocks, 100)
		blocks -= some
		s.addPack(t, n, some, r)
	}
	return s
}

func (s *stock) addPack(t testing.TB, number byte, blocks int, r *rand.ChaCha8) {
	t.Helper()
	b := pack.NewBuilder(0, [12]byte{number}, pack.Limits{Blocks: blocks, Bytes: 50 << 20})
	for range blocks {
		raw := make([]byte, size)
		_, _ = r.Read(raw)
		s.raw = append(s.raw, raw)
		b.AddBlock(s.hasher.Sum(raw), pack.EncodeSlot(nil, pack.KindBlock, raw, pack.CompressionNone))
	}
	id := b.Seal()
	s.refs = append(s.refs, b.Refs()...)
	if s.key == "" {
		s.key = id.Key()
	}
	if err := s.store.Put(context.Background(), id.Key(), bytes.Clone(b.Finish())); err != nil {
		t.Fatal(err)
	}
}

func (s *stock) open(t testing.TB, fs vfs.FS, memory, disk int64) (*Cache, *Domain) {
	t.Helper()
	if err := fs.MkdirAll("slabs", 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := Open(Options{FS: fs, Dir: "slabs", Memory: memory, Disk: disk, Local: local, Store: s.store})
	if err != nil {
		t.Fatal(err)
	}
	return c, c.Domain("t", s.hasher, nil)
}

func (s *stock) want(t testing.TB, d *Domain, i int) {
	t.Helper()
	raw, err := d.Block(context.Background(), &s.refs[i], size)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, s.raw[i]) {
		t.Fatalf("block %d is wrong", i)
	}
}

func TestTiersAndRestart(t *testing.T) {
	s, fs := newStock(t, 20), vfs.NewMem()
	c, d := s.open(t, fs, 4<<20, 1<<30)
	for i := range s.refs {
		s.want(t, d, i)
		s.want(t, d, i)
	}
	if n := s.count.Counts().Get; n != 20 {
		t.Fatalf("%d fetches of 20 blocks", n)
	}
	c.Close()
	_, d = s.open(t, fs, 4<<20, 1<<30) // the SSD tier survives
	for i := range s.refs {
		s.want(t, d, i)
	}
	if n := s.count.Counts().Get; n != 20 {
		t.Fatalf("%d fetches after a restart", n)
	}
}

// verified: a block that rotted on the SSD is fetched again, and one that rotted in the
// store is an error. Neither is served.
func TestRot(t *testing.T) {
	s, fs := newStock(t, 2), vfs.NewMem()
	c, d := s.open(t, fs, 0, 1<<30)
	s.want(t, d, 0)
	f, err := fs.OpenReadWrite("slabs/0.slab", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1, 2, 3}, layout{local: local}.slabBase(size)+777); err != nil {
		t.Fatal(err)
	}
	s.want(t, d, 0)
	if n := c.Stats.Repaired.Load(); n != 1 {
		t.Fatalf("%d repairs", n)
	}
	obj, err := s.store.Get(context.Background(), s.key)
	if err != nil {
		t.Fatal(err)
	}
	obj[s.refs[1].Off+1000] ^= 1
	if err := s.store.Put(context.Background(), s.key, obj); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Block(context.Background(), &s.refs[1], size); errs.KindOf(err) != errs.Corrupt {
		t.Fatal(err)
	}
}

func TestOneFetchForManyReaders(t *testing.T) {
	for range 50 { // readers arrive before, during and after the fetch
		s := newStock(t, 4)
		_, d := s.open(t, vfs.NewMem(), 64<<20, 0)
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() { s.want(t, d, i%4) })
		}
		wg.Wait()
		if n := s.count.Counts().Get; n != 4 {
			t.Fatalf("%d fetches of 4 blocks", n)
		}
	}
}

func TestPrefetchTakesNeighboursTogether(t *testing.T) {
	s := newStock(t, 16)
	_, d := s.open(t, vfs.NewMem(), 64<<20, 0)
	d.Prefetch(s.refs, size)
	for i := range s.refs {
		s.want(t, d, i)
	}
	if n := s.count.Counts().Get; n > 2 {
		t.Fatalf("%d requests for 16 neighbours", n)
	}
}

// FuzzSlab opens slabs with arbitrary content. With signed, the header's checksum is
// valid.
func FuzzSlab(f *testing.F) {
	head := make([]byte, slabHeader+2*entrySize(minClass))
	copy(head, slabMagic)
	binary.LittleEndian.PutUint32(head[4:], slabVersion)
	binary.LittleEndian.PutUint32(head[8:], minClass)
	binary.LittleEndian.PutUint32(head[12:], uint32(perSlab(minClass)))
	encodeEntry(head[slabHeader:][:entrySize(minClass)], &pack.Hash{1}, make([]byte, 4096))
	f.Add(head, true)
	f.Add([]byte(slabMagic), false)
	f.Add(layout{local: sealtest.Local("host-1")}.slabHead(minClass), true)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("slabs", 0o755); err != nil {
			t.Fatal(err)
		}
		file, err := fs.Create("slabs/0.slab", vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if sign && len(b) >= 20 {
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint32(b[16:], crc32.Checksum(b[:16], castagnoli))
		}
		for _, piece := range []struct {
			b   []byte
			off int64
		}{{make([]byte, 1<<20), 0}, {b, 0}} { // the table for the smallest slots takes most of a MiB
			if _, err := file.WriteAt(piece.b, piece.off); err != nil {
				t.Fatal(err)
			}
		}
		// A slab has at most 16,384 slots. Its table takes 48 bytes per slot, and so does
		// the state that is kept.
		fuzztest.Bound(t, len(b), 8<<20, 1, func() {
			d, err := openDisk(fs, "slabs", 1<<30, func(int64) bool { return true }, local)
			if err == nil {
				d.close()
			}
		})
	})
}
