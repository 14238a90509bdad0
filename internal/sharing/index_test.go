package sharing

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/pack"
)

var ctx = context.Background()

// shelf keeps the pages of maps in memory.
type shelf struct {
	pages map[uint32][]byte // by offset
	loads int
	fails int // loads until one fails; 0: none does
}

var errLoad = errors.New("the page cannot be read")

func (s *shelf) AddPage(_ context.Context, hash pack.Hash, page []byte) (pack.Ref, error) {
	off := uint32(len(s.pages)) * 8192
	s.pages[off] = page
	return pack.Ref{Hash: hash, Pack: pack.ID{Content: [12]byte{1}}, Off: off, Len: uint32(len(page))}, nil
}

func (s *shelf) Page(_ context.Context, ref pack.Ref) ([]byte, error) {
	s.loads++
	if s.fails > 0 {
		if s.fails--; s.fails == 0 {
			return nil, errLoad
		}
	}
	return s.pages[ref.Off], nil
}

type bed struct {
	t     *testing.T
	shelf *shelf
	src   *blockmap.Source
}

func newBed(t *testing.T) *bed {
	s := &shelf{pages: map[uint32][]byte{}}
	return &bed{t, s, blockmap.NewPageCache(0).Source(s, pack.NewHasher("t"))} // no page stays in the cache
}

const blockSize = 4096

func (b *bed) empty(blocks uint64) *blockmap.Map {
	return b.edit(nil, blocks, func(*blockmap.Edit) {})
}

// edit returns a changed copy of a map.
func (b *bed) edit(m *blockmap.Map, blocks uint64, change func(*blockmap.Edit)) *blockmap.Map {
	b.t.Helper()
	if m == nil {
		var err error
		if m, err = blockmap.New(b.src, blockmap.Root{}, blocks); err != nil {
			b.t.Fatal(err)
		}
	}
	e := m.Edit()
	if err := e.Grow(blocks); err != nil {
		b.t.Fatal(err)
	}
	change(e)
	root, err := e.Publish(ctx, b.shelf)
	if err != nil {
		b.t.Fatal(err)
	}
	m, err = blockmap.New(b.src, root, blocks)
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

func (b *bed) set(e *blockmap.Edit, idx, content uint64, length uint32) {
	b.t.Helper()
	r := pack.Ref{Pack: pack.ID{Content: [12]byte{2}}, Off: 5, Len: length}
	binary.BigEndian.PutUint64(r.Hash[:], content*0x9e3779b97f4a7c15+1)
	if err := e.Set(idx, r); err != nil {
		b.t.Fatal(err)
	}
}

func id(n uint64) (out [16]byte) {
	binary.BigEndian.PutUint64(out[:], n+1)
	return out
}

type totals struct{ raw, stored uint64 }

// full counts the disks from their maps alone.
func full(t *testing.T, list []Disk) (map[string]totals, []uint64) {
	t.Helper()
	type block struct {
		hash pack.Hash
		n    uint32
	}
	owners := map[block][]int{}
	mapped := make([]uint64, len(list))
	for i, d := range list {
		if err := d.Map.Walk(ctx, 0, d.Map.Blocks(), func(_ uint64, r pack.Ref) error {
			mapped[i]++
			k := block{r.Hash, r.Len}
			if o := owners[k]; len(o) == 0 || o[len(o)-1] != i {
				owners[k] = append(o, i)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	out := map[string]totals{}
	for k, o := range owners {
		s := out[fmt.Sprint(o)]
		out[fmt.Sprint(o)] = totals{s.raw + blockSize, s.stored + uint64(k.n)}
	}
	return out, mapped
}

// differs says where an index and a full count of the disks differ.
func differs(t *testing.T, x *Index, list []Disk) string {
	t.Helper()
	want, mapped := full(t, list)
	got := map[string]totals{}
	x.Groups(func(g *Group) {
		d := slices.Sorted(slices.Values(g.Disks))
		s := got[fmt.Sprint(d)]
		got[fmt.Sprint(d)] = totals{s.raw + g.Raw, s.stored + g.Stored}
	})
	if !maps.Equal(got, want) {
		return fmt.Sprintf("the index has %v, a full count %v", got, want)
	}
	for i := range list {
		if n := x.Mapped(i); n != mapped[i] {
			return fmt.Sprintf("disk %d has %d mapped blocks in the index, %d in its map", i, n, mapped[i])
		}
	}
	return ""
}

// history changes disks at random, and counts them after each step.
func history(t *testing.T, seed uint64, steps int, check func(x *Index, list []Disk) bool) {
	r := rand.New(rand.NewPCG(seed, 3))
	b, x := newBed(t), New()
	var list []Disk
	next := uint64(0)
	for range steps {
		switch k := len(list); {
		case k == 0 || r.IntN(8) == 0:
			list = append(list, Disk{id(next), b.empty(1 + r.Uint64N(9000)), blockSize})
			next++
		case r.IntN(3) == 0: // a fork or a snapshot, at another place in the list
			d := list[r.IntN(k)]
			d.ID = id(next)
			next++
			list = slices.Insert(list, r.IntN(k), d)
		case r.IntN(5) == 0:
			i := r.IntN(k)
			list = slices.Delete(list, i, i+1)
		case r.IntN(6) == 0: // rollback
			list[r.IntN(k)].Map = list[r.IntN(k)].Map
		default:
			d := &list[r.IntN(k)]
			blocks := d.Map.Blocks()
			if r.IntN(6) == 0 { // resize
				blocks += r.Uint64N(300_000)
			}
			d.Map = b.edit(d.Map, blocks, func(e *blockmap.Edit) {
				for range r.IntN(60) {
					idx := r.Uint64N(min(blocks, 1+r.Uint64N(10_000)))
					switch r.IntN(6) {
					case 0:
						e.ZeroRange(idx, min(blocks, idx+r.Uint64N(200)))
					default: // one content can have two encodings
						b.set(e, idx, r.Uint64N(40), 100+r.Uint32N(2))
					}
				}
			})
		}
		if r.IntN(6) == 0 {
			b.shelf.fails = 1 + r.IntN(4)
		}
		err := x.Count(ctx, list)
		b.shelf.fails = 0
		if err != nil && !errors.Is(err, errLoad) {
			t.Fatal(err)
		} else if err != nil {
			if err := x.Count(ctx, list); err != nil {
				t.Fatalf("after a failed read: %v", err)
			}
		}
		if !check(x, list) {
			return
		}
	}
	if err := x.Count(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if x.nodes.used != 0 || x.nodes.kids != 0 || len(x.roots) != 0 || len(x.sets.numbers) != 1 || len(x.sets.mixNumbers) != 1 || x.sets.bytes != 0 {
		t.Fatalf("seed %d: an index of no disks has %d nodes, %d roots, %d sets and %d mixes", seed, x.nodes.used, len(x.roots), len(x.sets.numbers), len(x.sets.mixNumbers))
	}
}

// TestIndexEqualsFullCount: after every step of random histories, and after reads that
// fail, the index says the same as a full count.
func TestIndexEqualsFullCount(t *testing.T) {
	for seed := range uint64(60) {
		history(t, seed, 60, func(x *Index, list []Disk) bool {
			if d := differs(t, x, list); d != "" {
				t.Fatalf("seed %d: %s", seed, d)
			}
			return true
		})
	}
}

// TestHistoriesFindMistakes: the histories above find an index that does not follow.
func TestHistoriesFindMistakes(t *testing.T) {
	for what, harm := range map[string]func(x *Index, list []Disk) error{
		"a disk's change is not applied": func(x *Index, list []Disk) error { return x.Count(ctx, list[:len(list)-1]) },
		"a disk's map is the old one": func(x *Index, list []Disk) error {
			old := slices.Clone(list)
			old[0].Map = old[len(old)-1].Map
			return x.Count(ctx, old)
		},
	} {
		found := false
		for seed := uint64(0); seed < 20 && !found; seed++ {
			history(t, seed, 30, func(x *Index, list []Disk) bool {
				if len(list) < 2 || list[0].Map.Root() == list[len(list)-1].Map.Root() {
					return true
				}
				if err := harm(x, list); err != nil {
					t.Fatal(err)
				}
				if len(x.list) == len(list) {
					found = differs(t, x, list) != ""
				} else {
					x.list = append(x.list, x.list[0])
					found = differs(t, x, list) != ""
				}
				return false
			})
		}
		if !found {
			t.Errorf("%s, and no history shows it", what)
		}
	}
}

// TestCountReadsWhatChanged: of a large map, one changed block costs a page for each
// level, and a fork, a removal and no change at all cost none.
func TestCountReadsWhatChanged(t *testing.T) {
	const blocks = 100_000
	b, x := newBed(t), New()
	m := b.edit(nil, blocks, func(e *blockmap.Edit) {
		for i := range uint64(blocks) {
			b.set(e, i, i, 1000)
		}
	})
	list := []Disk{{id(0), m, blockSize}}
	step := func(what string, want int) {
		t.Helper()
		before, read := b.shelf.loads, x.PagesRead()
		if err := x.Count(ctx, list); err != nil {
			t.Fatal(err)
		}
		if got := int(x.PagesRead() - read); got != want || b.shelf.loads-before > want {
			t.Errorf("%s: %d pages were read and %d loaded, want %d", what, got, b.shelf.loads-before, want)
		}
	}
	leaves := (blocks + blockmap.Fanout - 1) / blockmap.Fanout
	inner := (leaves + blockmap.Fanout - 1) / blockmap.Fanout
	step("the first time", leaves+inner+1)
	step("no change", 0)
	for i := range uint64(1000) {
		list = append(list, Disk{id(1 + i), m, blockSize})
	}
	step("a thousand forks", 0)
	list[7].Map = b.edit(m, blocks, func(e *blockmap.Edit) { b.set(e, 54_321, 1<<40, 1000) })
	step("one block", 3)
	if d := differs(t, x, list[:0]); d == "" {
		t.Error("nothing is counted")
	}
	shared := uint64(0)
	x.Groups(func(g *Group) {
		if len(g.Disks) == len(list) {
			shared += g.Raw
		}
	})
	if shared != (blocks-1)*blockSize {
		t.Errorf("all forks share %d bytes, want %d", shared, (blocks-1)*blockSize)
	}
	list = list[:3]
	step("removed forks", 0)
	if d := differs(t, x, list); d != "" {
		t.Error(d)
	}
	if per := x.Size() / blocks; per > 64 {
		t.Errorf("a block takes %d bytes", per)
	}
}
