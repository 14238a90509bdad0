package reach

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// plain is the scope of a store with one plain tenant.
func plain(store objstore.Store) *Scope { return &Scope{Store: store, Tenants: []string{"default"}} }

// forest makes block maps without blocks: a mark does not read these.
type forest struct {
	t      *testing.T
	store  objstore.Store
	hasher *pack.Hasher
	source *blockmap.Source
	nonces uint64
	b      *pack.Builder
	pages  int // made
}

func newForest(t *testing.T, store objstore.Store) *forest {
	h := pack.NewHasher("default")
	return &forest{t: t, store: store, hasher: h, source: blockmap.NewPageCache(16<<20).Source(cache.StorePages(store).For(h), h)}
}

// AddPage adds a page to the pack that is being filled.
func (f *forest) AddPage(ctx context.Context, hash pack.Hash, page []byte) (pack.Ref, error) {
	slot := pack.EncodeSlot(nil, pack.KindPage, page, pack.CompressionZstd)
	if f.b != nil && (f.b.Room() < len(slot) || f.b.Len() > 4<<20) {
		f.finish()
	}
	if f.b == nil {
		f.nonces++
		var nonce [12]byte
		binary.BigEndian.PutUint64(nonce[:], f.nonces)
		f.b = pack.NewBuilder(0, nonce, pack.Limits{})
		f.b.Seal()
	}
	f.pages++
	return f.b.AddPage(hash, slot), nil
}

func (f *forest) finish() {
	if f.b == nil {
		return
	}
	id := f.b.Seal()
	if err := f.store.PutIfAbsent(f.t.Context(), id.Key(), f.b.Finish()); err != nil {
		f.t.Fatal(err)
	}
	f.b = nil
}

// block is a block of a volume, as an import or a fold places it: 25 in a pack. Like a hash, it
// does not compress.
func block(volume, i uint64) (ref pack.Ref) {
	hash, id := rand.New(rand.NewPCG(volume, i)), rand.New(rand.NewPCG(^volume, i/25))
	for k := 0; k < len(ref.Hash); k += 8 {
		binary.LittleEndian.PutUint64(ref.Hash[k:], hash.Uint64())
	}
	for k := 0; k < len(ref.Pack.Content); k += 4 {
		binary.LittleEndian.PutUint32(ref.Pack.Content[k:], id.Uint32())
	}
	binary.LittleEndian.PutUint64(ref.Pack.Nonce[:], volume)
	ref.Len = 60<<10 + uint32(hash.IntN(4<<10))
	ref.Off = pack.HeaderLen + uint32(i%25)*(64<<10)
	return ref
}

func (f *forest) edit(root blockmap.Root, blocks uint64) *blockmap.Edit {
	m, err := blockmap.New(f.source, root, blocks)
	if err != nil {
		f.t.Fatal(err)
	}
	return m.Edit()
}

// set sets blocks of an edit to those of a volume.
func (f *forest) set(e *blockmap.Edit, volume, from, to uint64) {
	for i := from; i < to; i++ {
		if err := e.Set(i, block(volume, i)); err != nil {
			f.t.Fatal(err)
		}
		if i%(1<<16) == 0 {
			if err := e.PublishBefore(f.t.Context(), i, f); err != nil {
				f.t.Fatal(err)
			}
		}
	}
}

// commit publishes the map as the first commit of a volume.
func (f *forest) commit(name string, e *blockmap.Edit) blockmap.Root {
	f.t.Helper()
	root, err := e.Publish(f.t.Context(), f)
	if err != nil {
		f.t.Fatal(err)
	}
	f.finish()
	o := commitlog.Object{
		Generation: commitlog.Generation{Epoch: 1, Number: 1}, Kind: commitlog.First,
		State: commitlog.State{
			Identity: commitlog.Identity{ID: commitlog.VolumeID{1}, Tenant: "default", Name: name, Owner: commitlog.Host{ID: "host"}, Time: time.Unix(1, 0), Cause: "flush"},
			Size:     e.Blocks() << 17, BlockSize: 128 << 10, Durability: "local", Root: root, Seq: 1,
		},
	}
	raw, err := o.Encode()
	if err == nil {
		err = f.store.PutIfAbsent(f.t.Context(), o.State.Volume().Key(o.Generation), raw)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return root
}

// gets counts requests and bytes.
type gets struct {
	objstore.Store
	n, bytes atomic.Int64
}

func (g *gets) Get(ctx context.Context, key string) ([]byte, error) {
	b, err := g.Store.Get(ctx, key)
	g.n.Add(1)
	g.bytes.Add(int64(len(b)))
	return b, err
}

func (g *gets) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	g.n.Add(1)
	g.bytes.Add(n)
	return g.Store.GetRange(ctx, key, off, n)
}

// TestMarkReadsSharedPagesOnce marks 1,000 forks of an image of 10 GiB, each of which has
// written a hundredth of it: what they share costs no more than in one of them. Without
// GLIDE_LONG there are 100 forks.
func TestMarkReadsSharedPagesOnce(t *testing.T) {
	forks := uint64(100)
	if os.Getenv("GLIDE_LONG") != "" {
		forks = 1000
	}
	const blocks, run = 10 << 30 >> 17, 16 // files of 2 MiB
	f := newForest(t, objstore.NewMem(objstore.Clock{}))
	e := f.edit(blockmap.Root{}, blocks)
	f.set(e, 0, 0, blocks)
	base := f.commit("base", e)
	one := f.pages
	r := rand.New(rand.NewPCG(1, 2))
	for n := range forks {
		e := f.edit(base, blocks)
		for range blocks / 100 / run {
			at := r.Uint64N(blocks/run) * run
			for i := at; i < at+run; i++ {
				if err := e.Set(i, block(n+1, i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		f.commit(fmt.Sprintf("fork-%d", n), e)
	}
	g := &gets{Store: f.store}
	m := newMark(plain(g), nil)
	began := time.Now()
	if _, err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	commits := int(forks) + 1
	read := int(m.used) - commits
	bound := float64(one)*1.2 + float64(f.pages-one)
	t.Logf("an image of %d pages, %d forks with %d of their own: %d pages read, %.3f times all; %d GETs besides those of commits, %d MiB; %v",
		one, forks, f.pages-one, read, float64(read)/float64(f.pages), g.n.Load()-int64(commits), g.bytes.Load()>>20, took.Round(time.Millisecond))
	if float64(read) > bound || float64(g.n.Load()-int64(commits)) > bound {
		t.Errorf("%.0f are right", bound)
	}
	if len(m.walked) != f.pages {
		t.Errorf("%d pages are marked, %d there are", len(m.walked), f.pages)
	}
}

// TestMarkMemory marks ten million blocks, which are 1.2 TiB, in 512 MB; without GLIDE_LONG,
// half a million in a twentieth of it, and 16 MiB.
func TestMarkMemory(t *testing.T) {
	blocks, most := uint64(500_000), uint64(512e6/20+16<<20)
	if os.Getenv("GLIDE_LONG") != "" {
		blocks, most = 10_000_000, 512e6
	}
	store, err := objstore.Open(t.Context(), "file://"+t.TempDir(), objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	func() {
		f := newForest(t, store)
		e := f.edit(blockmap.Root{}, blocks)
		f.set(e, 0, 0, blocks)
		f.commit("big", e)
	}()
	defer debug.SetGCPercent(debug.SetGCPercent(50)) // as in the daemon
	runtime.GC()
	before := heapInUse()
	ctx, stop := context.WithCancel(t.Context())
	peak := make(chan uint64)
	go func() {
		top := uint64(0)
		for ctx.Err() == nil {
			top = max(top, heapInUse())
			time.Sleep(2 * time.Millisecond)
		}
		peak <- top
	}()
	m := newMark(plain(store), nil)
	began := time.Now()
	_, err = m.Run(t.Context())
	took := time.Since(began)
	stop()
	top := <-peak
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	after := heapInUse()
	slots := 0
	for _, l := range m.packs {
		slots += len(l.slots)
	}
	t.Logf("%d blocks in %d packs: %d MiB of heap at most, %d MiB in the end, %d MiB before; %v, %.2f µs a block", blocks, len(m.packs),
		top>>20, after>>20, before>>20, took.Round(time.Millisecond), float64(took.Microseconds())/float64(blocks))
	if uint64(slots) < blocks {
		t.Errorf("%d slots are marked", slots)
	}
	if top > most {
		t.Errorf("%d MiB are right", most>>20)
	}
	runtime.KeepAlive(m)
}

// heapInUse is HeapInuse, without stopping the world.
func heapInUse() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() + s[1].Value.Uint64()
}
