package host

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/volume"
)

// bootFork forks base on a new host that has nothing, and reads these blocks of the fork.
func bootFork(t *testing.T, b *bed, addr string, data []byte, blocks []int) (*Host, *disk.Disk) {
	t.Helper()
	h := b.host(t.TempDir(), addr)
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: "f-" + addr, Lazy: true}))
	for _, i := range blocks {
		same(t, h, "f-"+addr, uint64(i)<<17, data[i<<17:][:4096])
	}
	d, err := h.disks.Local("f-"+addr, false)
	if err != nil {
		t.Fatal(err)
	}
	return h, d
}

// eventually waits until what is asked for is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("after 5 s, still not: %s", what)
}

// listKey returns the key of the boot list in the store, or "".
func listKey(t *testing.T, b *bed) string {
	t.Helper()
	infos, err := b.store.List(ctx, "t/default/boot/", "", 2)
	if err != nil || len(infos) > 1 {
		t.Fatalf("%v, %v", infos, err)
	}
	if len(infos) == 0 {
		return ""
	}
	return infos[0].Key
}

// everySeventh is a boot that no sequential read-ahead finds.
func everySeventh(n int) (blocks []int) {
	for i := 0; i < n; i += 7 {
		blocks = append(blocks, i)
	}
	return blocks
}

// firstBoot boots a fork of base, of n blocks, on a host that has nothing, until the list
// is in the store.
func firstBoot(t *testing.T, b *bed, data []byte, n int) *Host {
	t.Helper()
	h, d := bootFork(t, b, "b", data, everySeventh(n))
	h.boots.GuestsLeft(d)
	eventually(t, "the list is in the store", func() bool { return listKey(t, b) != "" })
	return h
}

// TestBootList: what the first boot of an image read comes ahead of the second, on
// another host, and blocks that no boot reads any more fall out.
func TestBootList(t *testing.T) {
	b := newBed(t)
	const n = 400
	data := portable(t, b, n<<17)
	h, d := bootFork(t, b, "b", data, everySeventh(n))
	if key := listKey(t, b); key != "" {
		t.Fatalf("the boot is not over, and its list is in the store: %s", key)
	}
	h.boots.GuestsLeft(d)
	eventually(t, "the list is in the store", func() bool { return listKey(t, b) != "" })
	if v := must[api.Volume](t)(h.Show(ctx, "f-b")); v.BootBlocks != 58 || v.BootUsed != 58 {
		t.Errorf("after the first boot: %d blocks, %d used", v.BootBlocks, v.BootUsed)
	}

	// The second boot reads fewer blocks.
	h, d = bootFork(t, b, "c", data, everySeventh(n)[:1])
	name := "f-c"
	eventually(t, "the blocks of the list are here", func() bool {
		m, st := vol(t, h, name).Map(), d.State()
		for _, i := range everySeventh(n) {
			if ref, err := m.Lookup(ctx, uint64(i)); err != nil || !h.disks.Tenant(st.Tenant).Domain.Has(&ref.Hash, 128<<10) {
				return false
			}
		}
		return true
	})
	before := b.count.Counts()
	for _, i := range everySeventh(n)[:50] {
		same(t, h, name, uint64(i)<<17, data[i<<17:][:4096])
	}
	if after := b.count.Counts(); after != before {
		t.Errorf("the second boot asked the store: %+v, %+v before", after, before)
	}
	st := must[api.Stats](t)(h.Stats(ctx, ""))
	if p := st.Prefetch; p.FetchedBytes < p.UsedBytes || p.UsedBytes < 49*128<<10 || p.WastedBytes != 0 || p.BadLists != 0 {
		t.Errorf("of the second boot: %+v", p)
	}
	if v := must[api.Volume](t)(h.Show(ctx, name)); v.BootBlocks != 58 || v.BootUsed != 50 {
		t.Errorf("during the second boot: %d blocks, %d used", v.BootBlocks, v.BootUsed)
	}
	key := listKey(t, b)
	was, err := b.store.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	h.boots.GuestsLeft(d)
	eventually(t, "the list has changed", func() bool {
		now, err := b.store.Get(ctx, key)
		return err == nil && !bytes.Equal(now, was)
	})
	if v := must[api.Volume](t)(b.host(t.TempDir(), "d").Show(ctx, "base")); v.BootBlocks != 50 || v.BootUsed != 50 {
		t.Errorf("of the image, on a host without volumes: %d blocks, %d used", v.BootBlocks, v.BootUsed)
	}
}

// TestBootListOfALivingVolume: a fork that was written, published and woken elsewhere
// still follows the list of its image.
func TestBootListOfALivingVolume(t *testing.T) {
	b := newBed(t)
	data := portable(t, b, 400<<17)
	h := firstBoot(t, b, data, 400)
	fill(t, h, "f-b", 5, 3<<17, 1<<17)
	must[api.Volume](t)(h.Sleep(ctx, "f-b", true, false))

	h = b.host(t.TempDir(), "c")
	must[api.Volume](t)(h.Wake(ctx, "f-b", false, ""))
	same(t, h, "f-b", 0, data[:4096])
	eventually(t, "blocks come ahead", func() bool {
		return must[api.Stats](t)(h.Stats(ctx, "")).Prefetch.FetchedBytes >= 57*128<<10
	})
	if v := must[api.Volume](t)(h.Show(ctx, "f-b")); v.BootBlocks != 58 {
		t.Errorf("%d blocks in the list", v.BootBlocks)
	}
}

// TestBootHere: a boot on a host that has the blocks makes no request. Its list is stored
// with the next publication.
func TestBootHere(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "base", Size: 100 << 17}))
	data := fill(t, h, "base", 1, 0, 100<<17)
	must[api.Flush](t)(h.Flush(ctx, "base"))
	before := b.count.Counts()
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: "f"}))
	same(t, h, "f", 0, data[:50<<17])
	d, err := h.disks.Local("f", false)
	if err != nil {
		t.Fatal(err)
	}
	h.boots.GuestsLeft(d)
	eventually(t, "the boot was recorded", func() bool { return must[api.Volume](t)(h.Show(ctx, "f")).BootBlocks == 50 })
	if after := b.count.Counts(); after != before {
		t.Errorf("a local boot made requests: %+v, %+v before", after, before)
	}
	fill(t, h, "f", 2, 0, 4096)
	must[api.Flush](t)(h.Flush(ctx, "f"))
	if listKey(t, b) == "" {
		t.Error("the list was not stored with the volume")
	}
}

// TestBootElsewhere: another host forks the image, which was only booted where it was
// made. The list is there in time.
func TestBootElsewhere(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "base", Size: 400 << 17}))
	data := fill(t, h, "base", 1, 0, 400<<17)
	must[api.Flush](t)(h.Flush(ctx, "base"))
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: "f"}))
	for _, i := range everySeventh(400) {
		same(t, h, "f", uint64(i)<<17, data[i<<17:][:4096])
	}
	d, err := h.disks.Local("f", false)
	if err != nil {
		t.Fatal(err)
	}
	h.boots.GuestsLeft(d)
	eventually(t, "the boot was recorded", func() bool { return must[api.Volume](t)(h.Show(ctx, "f")).BootBlocks == 58 })
	other := b.host(t.TempDir(), "b")
	must[[]api.Fork](t)(other.Fork(ctx, api.ForkRequest{Source: "base", Name: "g"}))
	same(t, other, "g", 0, data[:4096])
	eventually(t, "the list comes ahead", func() bool {
		return must[api.Stats](t)(other.Stats(ctx, "")).Prefetch.FetchedBytes >= 57*128<<10
	})
}

// TestBadBootList: a list that cannot be used is ignored and counted.
func TestBadBootList(t *testing.T) {
	for what, spoil := range map[string]func(list []byte) []byte{
		"damaged":           func(l []byte) []byte { l[len(l)-1] ^= 1; return l },
		"newer":             func(l []byte) []byte { l[4]++; return l },
		"of absurd size":    func([]byte) []byte { return make([]byte, 20<<20) },
		"of a few bytes":    func([]byte) []byte { return []byte("GLDB") },
		"something else":    func([]byte) []byte { return []byte(strings.Repeat("<html>", 100)) },
		"cut in the middle": func(l []byte) []byte { return l[:len(l)/2] },
	} {
		t.Run(what, func(t *testing.T) {
			b := newBed(t)
			data := portable(t, b, 100<<17)
			firstBoot(t, b, data, 100)
			key := listKey(t, b)
			raw, err := b.store.Get(ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.store.Put(ctx, key, spoil(raw)); err != nil {
				t.Fatal(err)
			}
			h, d := bootFork(t, b, "c", data, everySeventh(100))
			eventually(t, "the list was counted", func() bool { return must[api.Stats](t)(h.Stats(ctx, "")).Prefetch.BadLists == 1 })
			h.boots.GuestsLeft(d)
			eventually(t, "a good list is in the store", func() bool {
				v := must[api.Volume](t)(b.host(t.TempDir(), "x").Show(ctx, "base"))
				return v.BootBlocks == 15
			})
		})
	}
}

// TestBootListNamesWhatIsGone: packs and blocks of the list are missing, and the guest
// does not hear of it.
func TestBootListNamesWhatIsGone(t *testing.T) {
	b := newBed(t)
	data := portable(t, b, 400<<17)
	firstBoot(t, b, data, 400)
	// Another volume claims the list: it is of one block, and its other blocks are holes.
	small := b.host(t.TempDir(), "s")
	must[api.Volume](t)(small.Create(ctx, api.CreateRequest{Name: "small", Size: 128 << 10}))
	want := fill(t, small, "small", 9, 0, 128<<10)
	must[api.Volume](t)(small.Sleep(ctx, "small", true, false))
	list, err := b.store.Get(ctx, listKey(t, b))
	if err != nil {
		t.Fatal(err)
	}
	h := b.host(t.TempDir(), "c")
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "small", Name: "tiny", Lazy: true}))
	st := vol(t, h, "tiny").State()
	if err := b.store.Put(ctx, "t/default/boot/"+st.Root.Ref.Hash.String(), list); err != nil {
		t.Fatal(err)
	}
	same(t, h, "tiny", 0, want)
	eventually(t, "the list was read", func() bool { return must[api.Volume](t)(h.Show(ctx, "tiny")).BootBlocks == 58 })

	// Packs of the image are gone. What is left of it can be read.
	h = b.host(t.TempDir(), "d")
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: "f", Lazy: true}))
	v := vol(t, h, "f")
	first, err := v.Map().Lookup(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	gone := 0
	for _, key := range keysOf(t, b.store, "packs/") {
		if key != first.Pack.Key() && key != v.State().Root.Ref.Pack.Key() {
			gone++
			err = errors.Join(err, b.store.Delete(ctx, key))
		}
	}
	if err != nil || gone == 0 {
		t.Fatal(gone, err)
	}
	same(t, h, "f", 0, data[:4096])
	if err := v.Err(); err != nil || v.State().Mode != volume.Active {
		t.Errorf("the volume is %s, %v", v.State().Mode, err)
	}
}

// TestPrefetchOff: nothing is recorded and nothing comes ahead.
func TestPrefetchOff(t *testing.T) {
	b := newBed(t)
	data := portable(t, b, 100<<17)
	h, err := Open(ctx, Config{Data: t.TempDir(), Store: b.store, Keys: b.keys, Dial: b.dial, Cache: Share{Bytes: 256 << 20}, WALLimit: Share{Bytes: 256 << 20}, NoPrefetch: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close(ctx) })
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: "f", Lazy: true}))
	before := b.count.Counts().Get
	for i := range 10 {
		same(t, h, "f", uint64(i)<<17, data[i<<17:][:4096])
	}
	if n := b.count.Counts().Get - before; n < 10 || n > 13 {
		t.Errorf("10 blocks took %d requests", n)
	}
	if p := must[api.Stats](t)(h.Stats(ctx, "")).Prefetch; p.FetchedBytes != 0 {
		t.Errorf("%+v", p)
	}
}

// TestForkStorm: ten forks of one image, opened together on a host that has nothing and
// read whole, fetch each block once.
func TestForkStorm(t *testing.T) {
	b := newBed(t)
	const n = 400 << 17
	data := portable(t, b, n)
	read := func(addr string, forks int) uint64 {
		h := b.host(t.TempDir(), addr)
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: addr, Count: forks, Lazy: true}))
		done := make(chan bool)
		for i := range forks {
			v := vol(t, h, must[[]api.Volume](t)(h.List(ctx, false))[i].Name)
			go func() {
				ok, p := true, make([]byte, 1<<20)
				for off := 0; ok && off < n; off += len(p) {
					ok = v.ReadAt(p, uint64(off)) == nil && bytes.Equal(p, data[off:][:len(p)])
				}
				done <- ok
			}()
		}
		for range forks {
			if !<-done {
				t.Fatal("a fork read something else")
			}
		}
		return must[api.Stats](t)(h.Stats(ctx, "")).Cache.FetchedBytes
	}
	one, ten := read("one", 1), read("ten", 10)
	if t.Logf("one fork fetched %d bytes, ten fetched %d: %.3f times", one, ten, float64(ten)/float64(one)); float64(ten) > 1.05*float64(one) {
		t.Error("blocks were fetched more than once")
	}
}
