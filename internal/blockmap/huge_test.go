package blockmap

import (
	"context"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// pageFile keeps pages in a file, in packs of less than 1 GiB.
type pageFile struct {
	f    *os.File
	size int64
}

const pagesTogether = 1 << 30

func (s *pageFile) AddPage(_ context.Context, hash pack.Hash, page []byte) (pack.Ref, error) {
	if s.size%pagesTogether+int64(len(page)) > pagesTogether {
		s.size += pagesTogether - s.size%pagesTogether
	}
	ref := pack.Ref{Hash: hash, Pack: packID(1<<40 + uint64(s.size/pagesTogether)), Off: uint32(s.size % pagesTogether), Len: uint32(len(page))}
	_, err := s.f.WriteAt(page, s.size)
	s.size += int64(len(page))
	return ref, err
}

func (s *pageFile) Page(_ context.Context, ref pack.Ref) ([]byte, error) {
	for chunk := int64(0); chunk*pagesTogether < s.size; chunk++ {
		if ref.Pack == packID(1<<40+uint64(chunk)) {
			page := make([]byte, ref.Len)
			_, err := s.f.ReadAt(page, chunk*pagesTogether+int64(ref.Off))
			return page, err
		}
	}
	return nil, errs.New(errs.NotFound, "no page there")
}

// TestHugeMap builds the map of a hundred million blocks, which are 12 TiB, in the order
// of an import; without GLIDE_LONG, of three million. The memory does not grow
// with the map, and neither do lookups or an edit of a few blocks.
func TestHugeMap(t *testing.T) {
	blocks := uint64(3_000_000)
	if os.Getenv("GLIDE_LONG") != "" {
		blocks = 100_000_000
	}
	f, err := os.CreateTemp(t.TempDir(), "pages")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	s := &pageFile{f: f}
	src := NewPageCache(16<<20).Source(s, pack.NewHasher("test"))
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse)
	}
	before, most := heap(), int64(0)

	began := time.Now()
	e := mustNew(t, src, Root{}, blocks).Edit()
	for i := range blocks {
		if err := e.Set(i, blockRef(i)); err != nil {
			t.Fatal(err)
		}
		if i%4096 == 4095 {
			if err := e.PublishBefore(t.Context(), i+1, s); err != nil {
				t.Fatal(err)
			}
		}
		if i%(blocks/4) == blocks/4-1 {
			most = max(most, heap()-before)
		}
	}
	root, err := e.Publish(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	built := time.Since(began)

	m := mustNew(t, src, root, blocks)
	r := rand.New(rand.NewPCG(1, 2))
	const lookups = 20_000
	began = time.Now()
	for range lookups {
		i := r.Uint64N(blocks)
		if ref, err := m.Lookup(t.Context(), i); err != nil || ref != blockRef(i) {
			t.Fatalf("block %d: %+v, %v", i, ref, err)
		}
	}
	looked := time.Since(began)
	most = max(most, heap()-before)

	began = time.Now()
	edit, size := m.Edit(), s.size
	changed := map[uint64]bool{}
	for range 10 {
		i := r.Uint64N(blocks)
		changed[i] = true
		if err := edit.Set(i, scattered(i)); err != nil {
			t.Fatal(err)
		}
	}
	if root, err = edit.Publish(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	edited, m := time.Since(began), mustNew(t, src, root, blocks)
	for i := range changed {
		if ref, err := m.Lookup(t.Context(), i); err != nil || ref != scattered(i) {
			t.Fatalf("block %d after the edit: %+v, %v", i, ref, err)
		}
	}
	t.Logf("%d blocks: built in %v (%.0f ns each, %.1f bytes of pages each), %.1f µs a random lookup, 10 changed blocks published in %v as %d bytes, %.1f MiB of heap",
		blocks, built, float64(built.Nanoseconds())/float64(blocks), float64(size)/float64(blocks), float64(looked.Microseconds())/lookups, edited, s.size-size, float64(most)/(1<<20))
	if most > 64<<20 {
		t.Errorf("%d MiB of heap: at most 64 are right, whatever the map's size", most>>20)
	}
	if s.size-size > 10*64<<10 {
		t.Errorf("10 changed blocks made %d bytes of pages", s.size-size)
	}
}
