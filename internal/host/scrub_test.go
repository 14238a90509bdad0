package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/scrub"
	"github.com/paraglide/glide/internal/volume"
)

// scrubbed scrubs a host and compares the counts; -1: any number.
func scrubbed(t *testing.T, h *Host, r api.ScrubRequest, damaged, repaired, lost int) api.Scrub {
	t.Helper()
	got, err := h.Scrub(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	if damaged >= 0 && got.Damaged != damaged || repaired >= 0 && got.Repaired != repaired || len(got.Lost) != lost || got.Lost == nil {
		for _, e := range must[[]api.Event](t)(h.Events(ctx, 0, 0)) {
			t.Log(e.Message)
		}
		t.Fatalf("%+v, want %d damaged, %d repaired and %d lost", got, damaged, repaired, lost)
	}
	return got
}

// flip changes one bit of an object in the store.
func flip(t *testing.T, store objstore.Store, key string, at int) {
	t.Helper()
	raw := must[[]byte](t)(store.Get(ctx, key))
	raw[at] ^= 0x20
	if err := store.Put(ctx, key, raw); err != nil {
		t.Fatal(err)
	}
}

func keysOf(t *testing.T, store objstore.Store, prefix string) (keys []string) {
	t.Helper()
	if err := objstore.ListAll(ctx, store, prefix, "", func(in objstore.Info) bool { keys = append(keys, in.Key); return true }); err != nil {
		t.Fatal(err)
	}
	return keys
}

// scrubBed is a bed with a host "a" that has published a volume "v" of blocks of 4 KiB.
func scrubBed(t *testing.T, blocks int) (*bed, *Host, []byte) {
	t.Helper()
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	want := fill(t, h, "v", 1, 0, uint64(blocks)*4096)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	return b, h, want
}

// elsewhere returns what a host without any copies reads of a volume, nil if it cannot.
func elsewhere(t *testing.T, b *bed, n int) []byte {
	t.Helper()
	h := b.host(t.TempDir(), "elsewhere")
	defer func() { _ = h.Close(ctx) }()
	x, err := h.Export(ctx, "v")
	if err != nil {
		return nil
	}
	defer x.Close()
	p := make([]byte, n)
	if err := x.ReadAt(ctx, p, 0); err != nil {
		return nil
	}
	return p
}

// TestScrubOfAWholeStore: nothing is damaged, and all of it was read.
func TestScrubOfAWholeStore(t *testing.T) {
	b, h, _ := scrubBed(t, 8)
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	fill(t, h, "kid", 3, 8192, 4096)
	if err := b.store.Put(ctx, "foreign/object", []byte("not Glide's")); err != nil {
		t.Fatal(err)
	}
	got := scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
	if got.Blocks < 2*8 || got.Bytes < 2*8*4096 {
		t.Errorf("checked %+v", got)
	}
	_, err := h.Scrub(ctx, api.ScrubRequest{StoreOnly: true, LocalOnly: true})
	wantKind(t, err, errs.Invalid)
}

// TestEveryByteOfAStore: whichever byte of the store is changed, a scrub finds it, and
// repairs it if there is a copy. A host without copies reads right bytes or none.
func TestEveryByteOfAStore(t *testing.T) {
	b, h, want := scrubBed(t, 3)
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	keep := map[string][]byte{}
	for _, key := range keysOf(t, b.store, "") {
		keep[key] = must[[]byte](t)(b.store.Get(ctx, key))
	}
	for key, raw := range keep {
		step := 1
		if len(raw) > 2048 {
			step = 37
		}
		for at := 0; at < len(raw); at += step {
			flip(t, b.store, key, at)
			got := must[api.Scrub](t)(h.Scrub(ctx, api.ScrubRequest{StoreOnly: true}))
			if got.Damaged == 0 {
				t.Fatalf("%s, byte %d: not found", key, at)
			}
			if strings.HasPrefix(key, "packs/") && (got.Repaired != got.Damaged || len(got.Lost) > 0) {
				t.Fatalf("%s, byte %d: %+v", key, at, got)
			}
			if !strings.HasPrefix(key, "packs/") && got.Repaired+len(got.Lost) != 1 {
				t.Fatalf("%s, byte %d: %+v", key, at, got)
			}
			if strings.HasPrefix(key, "packs/") {
				if again := must[api.Scrub](t)(h.Scrub(ctx, api.ScrubRequest{StoreOnly: true})); again.Damaged != 0 {
					t.Fatalf("%s, byte %d: %+v after the repair", key, at, again)
				}
			}
			if at%64 == 0 || step > 1 && at%(5*step) == 0 {
				p := elsewhere(t, b, len(want))
				if p != nil && !bytes.Equal(p, want) || p == nil && strings.HasPrefix(key, "packs/") {
					t.Fatalf("%s, byte %d: another host read %d bytes, and other ones", key, at, len(p))
				}
			}
			for _, k := range keysOf(t, b.store, "") {
				if keep[k] == nil {
					_ = b.store.Delete(ctx, k)
				}
			}
			if err := b.store.Put(ctx, key, raw); err != nil {
				t.Fatal(err)
			}
			// The dedup index names the new pack, which this test has removed.
			if err := h.disks.DB.AddBlocks("default", refsOf(t, h, "v")); err != nil {
				t.Fatal(err)
			}
		}
	}
	scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
}

// bootList returns the bytes of a boot list of one block.
func bootList() []byte {
	b := append([]byte("GLDB"), 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
	table := crc32.MakeTable(crc32.Castagnoli)
	block := make([]byte, 8)
	return append(binary.LittleEndian.AppendUint32(b, crc32.Update(crc32.Checksum(b, table), table, block)), block...)
}

// TestEveryByteOfSmallObjects: pins, forwards, a collector's flag list and boot lists.
func TestEveryByteOfSmallObjects(t *testing.T) {
	b, h, _ := scrubBed(t, 3)
	b.retention = time.Nanosecond
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	fill(t, h, "v", 5, 0, 4096)
	must[api.Flush](t)(h.Flush(ctx, "v")) // pins what kid needs
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "gone", Size: mib, BlockSize: 4096}))
	fill(t, h, "gone", 6, 0, 4096)
	must[api.Flush](t)(h.Flush(ctx, "gone"))
	if err := h.Remove(ctx, "gone", false); err != nil {
		t.Fatal(err)
	}
	runRound(t, b.store, time.Hour)
	root := vol(t, h, "v").State().Root.Ref.Hash.String()
	if err := b.store.Put(ctx, "t/default/boot/"+root, bootList()); err != nil {
		t.Fatal(err)
	}
	r := refsOf(t, h, "v")[0]
	flip(t, b.store, r.Pack.Key(), int(r.Off)+30)
	scrubbed(t, h, api.ScrubRequest{StoreOnly: true}, 1, 1, 0)
	found := map[string]int{}
	for _, key := range keysOf(t, b.store, "") {
		kind, _, _ := strings.Cut(key, "/")
		if strings.Contains(key, "/boot/") {
			kind = "boot"
		}
		if kind == "packs" || kind == "t" || strings.HasPrefix(key, "gc/") && !strings.HasSuffix(key, "/flags") {
			continue
		}
		found[kind]++
		raw := must[[]byte](t)(b.store.Get(ctx, key))
		for at := range raw {
			if kind == "boot" && at >= 4 && at < 8 {
				continue // a newer version may have written it
			}
			flip(t, b.store, key, at)
			got := must[api.Scrub](t)(h.Scrub(ctx, api.ScrubRequest{StoreOnly: true}))
			if got.Damaged != 1 || got.Repaired+len(got.Lost) != 1 || (kind == "boot" || kind == "forwards") != (got.Repaired == 1) {
				t.Fatalf("%s, byte %d: %+v", key, at, got)
			}
			if err := b.store.Put(ctx, key, raw); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, kind := range []string{"pins", "forwards", "gc", "boot"} {
		if found[kind] == 0 {
			t.Errorf("there was no object of %s", kind)
		}
	}
	scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
}

// refsOf returns the references of a volume's map.
func refsOf(t *testing.T, h *Host, name string) (refs []pack.Ref) {
	t.Helper()
	c := must[*volume.Cut](t)(vol(t, h, name).Cut())
	defer c.Release()
	err := c.Base().Walk(ctx, 0, c.Base().Blocks(), func(_ uint64, r pack.Ref) error { refs = append(refs, r); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return refs
}

// TestPackMissingOrTruncated: the tier of the host has all of it.
func TestPackMissingOrTruncated(t *testing.T) {
	for _, what := range []string{"missing", "truncated", "empty"} {
		t.Run(what, func(t *testing.T) {
			b, h, want := scrubBed(t, 8)
			key := keysOf(t, b.store, "packs/")[0]
			raw := must[[]byte](t)(b.store.Get(ctx, key))
			switch what {
			case "missing":
				if err := b.store.Delete(ctx, key); err != nil {
					t.Fatal(err)
				}
			case "truncated":
				if err := b.store.Put(ctx, key, raw[:len(raw)/2]); err != nil {
					t.Fatal(err)
				}
			default:
				if err := b.store.Put(ctx, key, nil); err != nil {
					t.Fatal(err)
				}
			}
			got := scrubbed(t, h, api.ScrubRequest{StoreOnly: true}, -1, -1, 0)
			if got.Damaged == 0 || got.Repaired != got.Damaged {
				t.Fatalf("%+v", got)
			}
			if len(keysOf(t, b.store, "forwards/")) != 1 || len(keysOf(t, b.store, "packs/")) < 1 {
				t.Fatal("no forward leads to a new pack")
			}
			if p := elsewhere(t, b, len(want)); !bytes.Equal(p, want) {
				t.Fatal("another host does not read what was repaired")
			}
			scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
			// The collector takes nothing that is needed, and no pin is left.
			for range 3 {
				runRound(t, b.store, 0)
			}
			if p := elsewhere(t, b, len(want)); !bytes.Equal(p, want) {
				t.Fatal("after a collection, another host does not read what was repaired")
			}
			scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
		})
	}
}

// TestSlotDamagedAndStoreGood: the block comes again.
func TestSlotDamagedAndStoreGood(t *testing.T) {
	_, h, want := scrubBed(t, 4)
	rotSlabs(t, h, want[4096:4096+64])
	got := scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 1, 1, 0)
	if got.Lost == nil {
		t.Error("lost is null")
	}
	scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 0, 0, 0)
	r := refsOf(t, h, "v")
	for i := range r {
		if !h.disks.Tenant("default").Domain.Has(&r[i].Hash, 4096) {
			t.Errorf("block %d is not on the host again", i)
		}
	}
}

// rotSlabs changes a byte of a block in the slabs of a host, where it finds the content.
func rotSlabs(t *testing.T, h *Host, content []byte) {
	t.Helper()
	dir := filepath.Join(h.cfg.Data, "slabs")
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
		rotFile(t, filepath.Join(dir, e.Name()), content)
	}
}

// rotFile changes a byte of a file, if it has the content.
func rotFile(t *testing.T, path string, content []byte) {
	t.Helper()
	raw := must[[]byte](t)(os.ReadFile(path))
	at := bytes.Index(raw, content)
	if at < 0 {
		return
	}
	f := must[*os.File](t)(os.OpenFile(path, os.O_RDWR, 0))
	defer f.Close()
	if _, err := f.WriteAt([]byte{^raw[at]}, int64(at)); err != nil {
		t.Fatal(err)
	}
}

// TestBothDamaged: what nothing has is lost, with the volumes that need it and their
// ranges.
func TestBothDamaged(t *testing.T) {
	b, h, want := scrubBed(t, 4)
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "snap", ""))
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	fill(t, h, "kid", 9, 0, 8192)
	must[api.Flush](t)(h.Flush(ctx, "kid"))
	for _, r := range refsOf(t, h, "v")[1:3] {
		flip(t, b.store, r.Pack.Key(), int(r.Off)+30)
	}
	rotSlabs(t, h, want[4096:4096+64])
	got := scrubbed(t, h, api.ScrubRequest{}, 3, 1, 2) // one slot, and two of the pack, of which the tier has one
	ranges := []api.Range{{Offset: 4096, Length: 4096}}
	for _, l := range got.Lost {
		if !slices.Equal(l.Volumes, []string{"v", "v@snap"}) && !slices.Equal(l.Volumes, []string{"kid", "v", "v@snap"}) || !slices.Equal(l.Ranges, ranges) {
			t.Errorf("%+v", l)
		}
	}
	if got.Lost[1].Key != "slabs/0.slab" || got.Lost[0].Key != refsOf(t, h, "v")[1].Pack.Key() {
		t.Errorf("%+v", got.Lost)
	}
	events := must[[]api.Event](t)(h.Events(ctx, 0, 0))
	if !slices.ContainsFunc(events, func(e api.Event) bool {
		return e.Volume == "v" && strings.Contains(e.Message, "lost 4096 bytes at 4096")
	}) {
		t.Errorf("no event tells: %v", events)
	}
	// The same content written later is stored again.
	for _, content := range [][]byte{make([]byte, 4096), want[4096:8192]} {
		if err := vol(t, h, "v").WriteAt(content, 4096); err != nil {
			t.Fatal(err)
		}
		must[api.Flush](t)(h.Flush(ctx, "v"))
	}
	x := must[api.Verify](t)(h.Verify(ctx, "v", true))
	if len(x.Damaged) > 0 {
		t.Errorf("written again, and still damaged: %v", x.Damaged)
	}
}

// TestPeerHasACopy: a damaged pack is repaired from the SSD of another host.
func TestPeerHasACopy(t *testing.T) {
	b := newBed(t)
	b.exchange = true
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	want := fill(t, h, "v", 1, 0, 4*4096)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	other := b.host(t.TempDir(), "b")
	must[[]api.Fork](t)(other.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	r := refsOf(t, h, "v")[0]
	flip(t, b.store, r.Pack.Key(), int(r.Off)+30)
	scrubbed(t, other, api.ScrubRequest{StoreOnly: true}, 1, 1, 0)
	if p := elsewhere(t, b, len(want)); !bytes.Equal(p, want) {
		t.Fatal("another host does not read what was repaired")
	}
}

// TestMapPageInTheMetadata: a page that does not match its hash comes again.
func TestMapPageInTheMetadata(t *testing.T) {
	_, h, _ := scrubBed(t, 4)
	root := vol(t, h, "v").State().Root.Ref.Hash
	page := must[[]byte](t)(h.disks.DB.Page(root))
	if page == nil {
		t.Fatal("the metadata has no page")
	}
	for at := range page {
		bad := bytes.Clone(page)
		bad[at] ^= 1
		if err := h.disks.DB.AddPage(root, bad); err != nil {
			t.Fatal(err)
		}
		scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 1, 1, 0)
		if back := must[[]byte](t)(h.disks.DB.Page(root)); !bytes.Equal(back, page) {
			t.Fatalf("byte %d: the page is not there again", at)
		}
	}
}

// TestEverySlotOfTheTier: entries, blocks and the header of a slab.
func TestEverySlotOfTheTier(t *testing.T) {
	_, h, want := scrubBed(t, 4)
	path := filepath.Join(h.cfg.Data, "slabs", "0.slab")
	raw := must[[]byte](t)(os.ReadFile(path))
	f := must[*os.File](t)(os.OpenFile(path, os.O_RDWR, 0))
	defer f.Close()
	rot := func(at int) {
		now := make([]byte, 1)
		if _, err := f.ReadAt(now, int64(at)); err != nil {
			t.Fatal(err)
		}
		now[0] ^= 1
		if _, err := f.WriteAt(now, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(at int) {
		t.Helper()
		rot(at)
		scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 1, 1, 0)
		same(t, h, "v", 0, want)
		scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 0, 0, 0)
	}
	for at := range 64 {
		check(at)
	}
	for i := range 4 {
		r := refsOf(t, h, "v")[i]
		entry := bytes.Index(raw, r.Hash[:])
		for at := entry; at < entry+44; at += 3 {
			check(at)
		}
		for k := 0; k < 4096; k += 300 {
			now := must[[]byte](t)(os.ReadFile(path)) // a block that came again is in another slot
			block := bytes.Index(now, want[i*4096:(i+1)*4096])
			check(block + k)
		}
	}
}

// TestDamagedLog: what was not published is lost, with its ranges; what was published the
// store has; what is not needed any more nobody has lost.
func TestDamagedLog(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	old := fill(t, h, "v", 1, 0, 4096)
	want := fill(t, h, "v", 2, 8192, 4096)
	fill(t, h, "v", 3, 0, 4096) // old is not needed any more
	if err := vol(t, h, "v").Flush(); err != nil {
		t.Fatal(err)
	}
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 0, 0, 0)
	rotLog := func(content []byte) {
		dir := filepath.Join(h.cfg.Data, "wal")
		for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
			rotFile(t, filepath.Join(dir, e.Name()), content)
		}
	}
	rotLog(old[:64])
	scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 1, 1, 0)
	rotLog(want[:64])
	got := scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 2, 1, 1)
	if l := got.Lost[0]; !slices.Equal(l.Volumes, []string{"kid", "v"}) || !slices.Equal(l.Ranges, []api.Range{{Offset: 8192, Length: 4096}}) || !strings.HasPrefix(l.Key, "wal/") {
		t.Errorf("%+v", l)
	}
	if why := must[api.Volume](t)(h.Show(ctx, "v")).Reason; !strings.Contains(why, "damaged") {
		t.Errorf("show: %q", why)
	}
	// The guest's write of these ranges makes them whole.
	for _, name := range []string{"v", "kid"} {
		if err := vol(t, h, name).WriteAt(want, 8192); err != nil {
			t.Fatal(err)
		}
	}
	scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 2, 2, 0)
	if why := must[api.Volume](t)(h.Show(ctx, "v")).Reason; why != "" {
		t.Errorf("written again, and still %q", why)
	}
}

// scrubGate is a store that calls a hook before each request.
type scrubGate struct {
	objstore.Store
	hook func(op, key string) error
	data func(key string, raw []byte) // may change it; nil: nothing does
}

func (g *scrubGate) Get(ctx context.Context, key string) ([]byte, error) {
	if err := g.hook("get", key); err != nil {
		return nil, err
	}
	raw, err := g.Store.Get(ctx, key)
	if err == nil && g.data != nil {
		g.data(key, raw)
	}
	return raw, err
}

func (g *scrubGate) List(ctx context.Context, prefix, after string, n int) ([]objstore.Info, error) {
	if err := g.hook("list", prefix); err != nil {
		return nil, err
	}
	return g.Store.List(ctx, prefix, after, n)
}

// gatedBed is scrubBed with a gate before the store.
func gatedBed(t *testing.T) (*bed, *Host, *scrubGate, []byte) {
	t.Helper()
	b := newBed(t)
	g := &scrubGate{Store: b.store, hook: func(string, string) error { return nil }}
	b.store = g
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	want := fill(t, h, "v", 1, 0, 4*4096)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	return b, h, g, want
}

// TestScrubBesideACollection: a pack that was deleted after the walk is no damage if
// nothing refers to it any more.
func TestScrubBesideACollection(t *testing.T) {
	b, h, g, _ := gatedBed(t)
	b.retention = time.Nanosecond
	fill(t, h, "v", 2, 0, 4*4096)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	packs := keysOf(t, b.store, "packs/")
	var once atomic.Bool
	g.hook = func(op, key string) error {
		if op == "get" && strings.HasPrefix(key, "packs/") && !once.Swap(true) {
			if err := h.Remove(ctx, "v", false); err != nil {
				t.Error(err)
			}
			if err := h.publisher.Session.Rotate(ctx); err != nil {
				t.Error(err)
			}
			for range 3 {
				runRound(t, b.store, 0)
			}
		}
		return nil
	}
	scrubbed(t, h, api.ScrubRequest{StoreOnly: true}, 0, 0, 0)
	if left := keysOf(t, b.store, "packs/"); !once.Load() || len(left) >= len(packs) {
		t.Errorf("%d packs of %d are left: nothing was collected meanwhile", len(left), len(packs))
	}
}

// TestStoreDown: a store that does not answer is an error, and nothing is damaged.
func TestStoreDown(t *testing.T) {
	_, h, g, want := gatedBed(t)
	for _, op := range []string{"list", "get"} {
		g.hook = func(o, _ string) error {
			if o == op {
				return errs.New(errs.Unavailable, "the store is down")
			}
			return nil
		}
		got, err := h.Scrub(ctx, api.ScrubRequest{})
		if wantKind(t, err, errs.Unavailable); got.Damaged != 0 || len(got.Lost) != 0 {
			t.Errorf("%s: %+v", op, got)
		}
	}
	// Nor is what cannot be fetched again just now lost.
	g.hook = func(string, string) error { return nil }
	rotSlabs(t, h, want[:64])
	scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 1, 1, 0)
}

// TestScrubCancelled ends soon, with the caller's error, and another can run.
func TestScrubCancelled(t *testing.T) {
	_, h, g, _ := gatedBed(t)
	cctx, cancel := context.WithCancel(ctx)
	g.hook = func(op, key string) error {
		if op == "get" && strings.HasPrefix(key, "packs/") {
			cancel()
		}
		return nil
	}
	if _, err := h.Scrub(cctx, api.ScrubRequest{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	g.hook = func(string, string) error { return nil }
	scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
}

// TestVerifiedAt: a cold verify that found everything whole is remembered.
func TestVerifiedAt(t *testing.T) {
	b := newBed(t)
	dir := t.TempDir()
	h := b.host(dir, "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	fill(t, h, "v", 1, 0, 4*4096)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[api.Verify](t)(h.Verify(ctx, "v", false))
	if at := must[api.Volume](t)(h.Show(ctx, "v")).VerifiedAt; !at.IsZero() {
		t.Errorf("verified at %s, from the cache", at)
	}
	must[api.Verify](t)(h.Verify(ctx, "v", true))
	at := must[api.Volume](t)(h.Show(ctx, "v")).VerifiedAt
	if at.IsZero() {
		t.Error("not verified")
	}
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	if kid := must[api.Volume](t)(h.Show(ctx, "kid")).VerifiedAt; !kid.IsZero() {
		t.Error("a fork was never verified itself")
	}
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h = b.host(dir, "a")
	if again := must[api.Volume](t)(h.Show(ctx, "v")).VerifiedAt; !again.Equal(at) {
		t.Errorf("verified at %s, after a restart at %s", at, again)
	}
	r := refsOf(t, h, "v")[0]
	flip(t, b.store, r.Pack.Key(), int(r.Off)+30)
	if v := must[api.Verify](t)(h.Verify(ctx, "v", true)); len(v.Damaged) == 0 {
		t.Error("the damage was not found")
	}
}

// TestBackgroundScrub checks this host at its rate, and asks the store for nothing.
func TestBackgroundScrub(t *testing.T) {
	b, h, _ := scrubBed(t, 64)
	s := scrub.New(h.disks, h.pins, h.boots, scrub.Rates{Disk: 256 << 10})
	before := requestsOf(b)
	began := time.Now()
	got := must[api.Scrub](t)(s.Pass(ctx))
	took := time.Since(began)
	if after := requestsOf(b); after != before {
		t.Errorf("%d store requests", after-before)
	}
	least := time.Duration(float64(got.Bytes)/float64(256<<10)*float64(time.Second)) - time.Second
	if got.Blocks < 64 || took < least {
		t.Errorf("%d bytes in %s: at 256K a second that takes %s", got.Bytes, took, least)
	}
	if v := must[api.Scrub](t)(scrub.New(h.disks, h.pins, h.boots, scrub.Rates{Store: 1 << 20}).Pass(ctx)); v.Blocks == 0 || requestsOf(b) == before {
		t.Errorf("%+v: the store was not read", v)
	}
}

func requestsOf(b *bed) uint64 {
	n := b.count.Counts()
	return n.Put + n.Get + n.List + n.Head + n.Delete
}

// TestAskedWhileInTheBackground: a pass in the background, which may take hours, gives way.
func TestAskedWhileInTheBackground(t *testing.T) {
	_, h, _ := scrubBed(t, 64)
	s := scrub.New(h.disks, h.pins, h.boots, scrub.Rates{Disk: 1000})
	ended := make(chan error, 1)
	go func() {
		_, err := s.Pass(ctx)
		ended <- err
	}()
	time.Sleep(50 * time.Millisecond)
	if v := must[api.Scrub](t)(s.Scrub(ctx, api.ScrubRequest{})); v.Blocks < 2*64 {
		t.Errorf("%+v", v)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestDamagedLogOfASleepingVolume: nothing of it is in memory.
func TestDamagedLogOfASleepingVolume(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	want := fill(t, h, "v", 2, 8192, 4096)
	must[api.Volume](t)(h.Sleep(ctx, "v", false, false))
	scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 0, 0, 0)
	dir := filepath.Join(h.cfg.Data, "wal")
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
		rotFile(t, filepath.Join(dir, e.Name()), want[:64])
	}
	got := scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 1, 0, 1)
	if l := got.Lost[0]; !slices.Equal(l.Volumes, []string{"v"}) || !strings.HasPrefix(l.Key, "wal/") {
		t.Errorf("%+v", l)
	}
}

// TestPublishedLog: what a policy has shipped is in the store, and that is said.
func TestPublishedLog(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096, Durability: volume.Sync}))
	want := fill(t, h, "v", 2, 8192, 512)
	if err := vol(t, h, "v").Flush(); err != nil {
		t.Fatal(err)
	}
	must[api.Flush](t)(h.Barrier(ctx, "v", vol(t, h, "v").Last()))
	scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
	dir := filepath.Join(h.cfg.Data, "wal")
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
		rotFile(t, filepath.Join(dir, e.Name()), want[:64])
	}
	scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 1, 0, 0)
	events := must[[]api.Event](t)(h.Events(ctx, 0, 0))
	if !slices.ContainsFunc(events, func(e api.Event) bool { return e.Volume == "v" && strings.Contains(e.Message, "glide rollback v 1.") }) {
		t.Errorf("no event says that the store has it: %v", events)
	}
}

// TestTenantsAreScrubbed: hashes are keyed by the tenant.
func TestTenantsAreScrubbed(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	for _, name := range []string{"one/v", "two/v"} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: mib, BlockSize: 4096}))
		fill(t, h, name, 7, 0, 4*4096)
		must[api.Flush](t)(h.Flush(ctx, name))
	}
	scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
	r := refsOf(t, h, "two/v")[2]
	flip(t, b.store, r.Pack.Key(), int(r.Off)+30)
	scrubbed(t, h, api.ScrubRequest{}, 1, 1, 0)
	other := b.host(t.TempDir(), "b")
	scrubbed(t, other, api.ScrubRequest{StoreOnly: true}, 0, 0, 0)
	r = refsOf(t, h, "one/v")[2]
	flip(t, b.store, r.Pack.Key(), int(r.Off)+30)
	got := scrubbed(t, other, api.ScrubRequest{StoreOnly: true}, 1, 0, 1)
	if l := got.Lost[0]; !slices.Equal(l.Volumes, []string{"one/v"}) || !slices.Equal(l.Ranges, []api.Range{{Offset: 8192, Length: 4096}}) {
		t.Errorf("%+v", l)
	}
}

// TestLargeStoreIsWalkedInParts: as many references as fit are in memory at a time.
func TestLargeStoreIsWalkedInParts(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	for i := range uint64(8) {
		fill(t, h, "v", i+1, i*40960, 40960)
		must[api.Flush](t)(h.Flush(ctx, "v"))
	}
	all := scrubbed(t, h, api.ScrubRequest{StoreOnly: true}, 0, 0, 0)
	s := scrub.New(h.disks, h.pins, h.boots, scrub.Rates{})
	s.Most = 30
	got := must[api.Scrub](t)(s.Scrub(ctx, api.ScrubRequest{StoreOnly: true}))
	if got.Blocks != all.Blocks || got.Bytes != all.Bytes || got.Damaged != 0 {
		t.Errorf("in parts %+v, at once %+v", got, all)
	}
	for _, key := range keysOf(t, b.store, "packs/") {
		flip(t, b.store, key, 60)
	}
	if got = must[api.Scrub](t)(s.Scrub(ctx, api.ScrubRequest{StoreOnly: true})); got.Damaged < 8 || got.Repaired != got.Damaged {
		t.Errorf("every pack is damaged: %+v", got)
	}
	if got = must[api.Scrub](t)(s.Scrub(ctx, api.ScrubRequest{})); got.Damaged != 0 {
		t.Errorf("after the repair: %+v", got)
	}
}

// TestDamagedOnItsWay: what is whole when it is read again is no damage.
func TestDamagedOnItsWay(t *testing.T) {
	_, h, g, _ := gatedBed(t)
	var once atomic.Bool
	g.data = func(key string, raw []byte) {
		if strings.HasPrefix(key, "packs/") && !once.Swap(true) {
			raw[100] ^= 1
		}
	}
	scrubbed(t, h, api.ScrubRequest{StoreOnly: true}, 0, 0, 0)
	if !once.Load() {
		t.Error("no pack was read")
	}
}

// TestScrubBesideEverything: while volumes are written, published, forked and removed, and
// rounds of collection pass, nothing is damaged.
func TestScrubBesideEverything(t *testing.T) {
	b := newBed(t)
	b.retention = time.Nanosecond
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096, Durability: volume.Continuous}))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := vol(t, h, "v").WriteAt(random(i%7, 40960), i%16*40960); err != nil {
				t.Error(err)
			}
			if _, err := h.Flush(ctx, "v"); err != nil && errs.KindOf(err) != errs.Unavailable && errs.KindOf(err) != errs.Busy {
				t.Error(err)
			}
			if i%3 == 0 {
				_, _ = h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"})
			} else if i%3 == 2 {
				_ = h.Remove(ctx, "kid", false)
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = h.publisher.Session.Rotate(ctx)
			if _, err := gc.Run(ctx, gc.Options{Store: b.store, By: "test", Retention: time.Nanosecond}); err != nil {
				t.Log(err) // it stops when a root vanishes, and goes on later
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	runs := 0
	for began := time.Now(); time.Since(began) < 2*time.Second; runs++ {
		if got := must[api.Scrub](t)(h.Scrub(ctx, api.ScrubRequest{})); got.Damaged != 0 {
			for _, e := range must[[]api.Event](t)(h.Events(ctx, 0, 0)) {
				t.Log(e.Message)
			}
			t.Errorf("%+v", got)
			break
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d scrubs", runs)
}
