package host

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
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
	for _, in := range infosOf(t, store, prefix) {
		keys = append(keys, in.Key)
	}
	return keys
}

// infosOf lists the objects below a prefix; packs/ are the packs of all domains.
func infosOf(t *testing.T, store objstore.Store, prefix string) (list []objstore.Info) {
	t.Helper()
	under := prefix
	if prefix == "packs/" {
		under = ""
	}
	err := objstore.ListAll(ctx, store, under, "", func(in objstore.Info) bool {
		if prefix != "packs/" || isPack(in.Key) {
			list = append(list, in)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
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
