package blockmap

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

var ctx = context.Background()

// tb is the part of testing.T, testing.B and rapid.T that these tests need.
type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// fakeStore is a Sink that assigns each page a place in a pack, and a Pages that finds it
// there. It counts both.
type fakeStore struct {
	mu     sync.Mutex
	pages  map[place][]byte
	pack   uint64 // current pack
	off    uint32
	loads  int
	levels [MaxHeight]int // loads by level
	added  int
	bytes  int
	fail   error // what AddPage and Page return

	byContent bool // the hash determines a page's place, so that publications can be compared
}

type place struct {
	id  pack.ID
	off uint32
}

func newStore() *fakeStore { return &fakeStore{pages: map[place][]byte{}} }

func (s *fakeStore) AddPage(_ context.Context, hash pack.Hash, page []byte) (pack.Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return pack.Ref{}, s.fail
	}
	ref := pack.Ref{Hash: hash, Pack: packID(1<<40 + s.pack), Off: s.off, Len: uint32(len(page))}
	if s.byContent {
		ref.Pack, ref.Off = pack.ID{Content: [12]byte(hash[:]), Nonce: [12]byte(hash[12:])}, 0
	}
	s.pages[place{ref.Pack, ref.Off}] = page
	s.off += ref.Len
	s.added++
	s.bytes += len(page)
	return ref, nil
}

func (s *fakeStore) Page(_ context.Context, ref pack.Ref) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, s.fail
	}
	page, ok := s.pages[place{ref.Pack, ref.Off}]
	if !ok {
		return nil, errs.New(errs.NotFound, "no page there")
	}
	s.loads++
	if len(page) > 3 {
		s.levels[min(int(page[3]), MaxHeight-1)]++
	}
	return page, nil
}

// nextPack sends later pages to another pack, and resets the counters.
func (s *fakeStore) nextPack() {
	s.pack++
	s.off, s.loads, s.added, s.bytes, s.levels = 0, 0, 0, 0, [MaxHeight]int{}
}

// cold returns a source with an empty cache.
func (s *fakeStore) cold() *Source { return s.sized(1 << 24) }

func (s *fakeStore) sized(bytes int64) *Source {
	return NewPageCache(bytes).Source(s, pack.NewHasher("test"))
}

func packID(n uint64) (id pack.ID) {
	binary.BigEndian.PutUint64(id.Content[:], n*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id.Nonce[4:], n)
	return id
}

// blockRef returns a reference for block n: 25 blocks per pack.
func blockRef(n uint64) (ref pack.Ref) {
	binary.BigEndian.PutUint64(ref.Hash[:], (n+1)*0xd1342543de82ef95)
	binary.BigEndian.PutUint64(ref.Hash[24:], n)
	ref.Pack, ref.Off, ref.Len = packID(n/25), uint32(n%25)*131072, 50000+uint32(n%1000)
	return ref
}

// scattered returns a reference for block n in a pack of its own.
func scattered(n uint64) pack.Ref {
	ref := blockRef(n)
	ref.Pack = packID(n)
	return ref
}

// inDomain returns a reference to the same place in a domain.
func inDomain(ref pack.Ref, domain uint32) pack.Ref {
	ref.Pack.Domain = domain
	return ref
}

func mustNew(t tb, src *Source, root Root, blocks uint64) *Map {
	t.Helper()
	m, err := New(src, root, blocks)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustPublish(t tb, e *Edit, s *fakeStore) Root {
	t.Helper()
	root, err := e.Publish(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func check(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t tb, err error, kind errs.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want kind %v", err, kind)
	}
}

// filled returns a map in which every block is mapped, published through s in order.
func filled(t tb, s *fakeStore, src *Source, blocks uint64, ref func(uint64) pack.Ref) *Map {
	t.Helper()
	e := mustNew(t, src, Root{}, blocks).Edit()
	for i := range blocks {
		check(t, e.Set(i, ref(i)))
		if i%1000 == 0 {
			check(t, e.PublishBefore(ctx, i, s))
		}
	}
	return mustNew(t, src, mustPublish(t, e, s), blocks)
}
