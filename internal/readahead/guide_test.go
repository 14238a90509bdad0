package readahead

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/pack"
)

const size = 128 << 10

// host is a host whose blocks come at once.
type host struct {
	blocks map[pack.Hash]int // 1: fetched ahead, 2: read
	marks  map[pack.Hash]int
	credit *Credit

	demanded, ahead, used int
	needed                int // blocks that WillNeed was called for
}

func (h *host) Touch(hash *pack.Hash) int {
	if h.blocks[*hash] == 1 {
		h.used++
		h.credit.Used()
	}
	h.blocks[*hash] = 2
	w := h.marks[*hash]
	delete(h.marks, *hash)
	return w
}

func (h *host) Ahead(refs []pack.Ref, _, window int, credit *Credit) {
	h.credit = credit
	n := 0
	for _, r := range refs {
		if h.blocks[r.Hash] == 0 && n < window && credit.Take() {
			if n++; n == 1 {
				h.marks[r.Hash] = 2 * window
			}
			h.blocks[r.Hash] = 1
			h.ahead++
		}
	}
}

func (h *host) WillNeed(refs []pack.Ref, _ int) { h.needed += len(refs) }

// pages keeps the pages of a map in memory.
type pages map[pack.Hash][]byte

func (p pages) AddPage(_ context.Context, h pack.Hash, page []byte) (pack.Ref, error) {
	p[h] = append([]byte{}, page...)
	return pack.Ref{Hash: h, Len: uint32(len(page))}, nil
}

func (p pages) Page(_ context.Context, ref pack.Ref) ([]byte, error) { return p[ref.Hash], nil }

// newMap returns the map of a volume whose blocks are all different.
func newMap(t *testing.T, blocks uint64) *blockmap.Map {
	t.Helper()
	p := pages{}
	src := blockmap.NewPageCache(16<<20).Source(p, pack.NewHasher("t"))
	m, err := blockmap.New(src, blockmap.Root{}, blocks)
	if err != nil {
		t.Fatal(err)
	}
	edit := m.Edit()
	for i := range blocks {
		ref := pack.Ref{Len: 60 << 10, Off: uint32(i%25) * 60 << 10}
		binary.LittleEndian.PutUint64(ref.Hash[:], i+1)
		binary.LittleEndian.PutUint64(ref.Pack.Nonce[:], i/25+1)
		if err := edit.Set(i, ref); err != nil {
			t.Fatal(err)
		}
	}
	root, err := edit.Publish(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = blockmap.New(src, root, blocks); err != nil {
		t.Fatal(err)
	}
	return m
}

// guest reads blocks of a volume.
func (h *host) read(t *testing.T, g *Guide, m *blockmap.Map, idx uint64) {
	t.Helper()
	ref, err := m.Lookup(t.Context(), idx)
	if err != nil {
		t.Fatal(err)
	}
	if h.blocks[ref.Hash] == 0 {
		h.demanded++
		g.Missed(h, m, idx, size)
		h.blocks[ref.Hash] = 2
	}
	g.Read(h, m, idx, &ref.Hash, size)
}

func newHost() *host { return &host{blocks: map[pack.Hash]int{}, marks: map[pack.Hash]int{}} }

// TestSequential: a guest that reads on waits for the store once, whatever the packs, and
// several such readers do not disturb one another.
func TestSequential(t *testing.T) {
	m, h, g := newMap(t, 4000), newHost(), &Guide{}
	for i := range uint64(1000) {
		h.read(t, g, m, i)
		h.read(t, g, m, 2000+i)
	}
	if h.demanded > 20 {
		t.Errorf("2000 blocks in two rows took %d requests of the guest's own", h.demanded)
	}
	if h.ahead > 2200 {
		t.Errorf("%d blocks came ahead", h.ahead)
	}
}

// TestRandom: a guest that reads here and there gets next to nothing ahead.
func TestRandom(t *testing.T) {
	m, h, g := newMap(t, 100_000), newHost(), &Guide{}
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		h.read(t, g, m, r.Uint64N(100_000))
	}
	if h.ahead > h.demanded/3 {
		t.Errorf("for %d blocks that a guest asked for, %d came that it did not ask for", h.demanded, h.ahead)
	}
}

// TestDirectory: a guest that reads many small files, which lie together but in another
// order, is noticed.
func TestDirectory(t *testing.T) {
	m, h, g := newMap(t, 4000), newHost(), &Guide{}
	r := rand.New(rand.NewPCG(1, 2))
	for dir := range 60 {
		for _, i := range r.Perm(64) {
			h.read(t, g, m, uint64(64*dir+i))
		}
	}
	if h.demanded > 60*64/4 {
		t.Errorf("of %d blocks, %d were asked for by the guest", 60*64, h.demanded)
	}
}

// TestFromTheDisk: what is on the SSD is read ahead for a guest that reads sequentially
// and waits.
func TestFromTheDisk(t *testing.T) {
	m, h, g := newMap(t, 1000), newHost(), &Guide{}
	for i := range uint64(2) {
		g.Sequential(h, m, i*size, size, size, true)
	}
	if g.upTo.Load() != 0 {
		t.Error("two reads in a row count as sequential")
	}
	g.Sequential(h, m, 2*size, size, size, true)
	if g.upTo.Load() != 3*size+aheadBytes {
		t.Errorf("read ahead up to %d", g.upTo.Load())
	}
	g.Sequential(h, m, 500*size, size, size, false)
	if g.run.Load() != 0 {
		t.Error("a read elsewhere is taken for the next one")
	}
}
