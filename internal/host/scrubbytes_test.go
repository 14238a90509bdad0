package host

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

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
			// A host has its keyrings open, and the records of their tenants.
			kept := strings.HasPrefix(key, "keys/") || strings.HasPrefix(key, "tenants/")
			if kept && (got.Repaired != 1 || len(got.Lost) > 0) {
				t.Fatalf("%s, byte %d: %+v", key, at, got)
			}
			if isPack(key) && (got.Repaired != got.Damaged || len(got.Lost) > 0) {
				t.Fatalf("%s, byte %d: %+v", key, at, got)
			}
			if !isPack(key) && got.Repaired+len(got.Lost) != 1 {
				t.Fatalf("%s, byte %d: %+v", key, at, got)
			}
			if isPack(key) || kept {
				if again := must[api.Scrub](t)(h.Scrub(ctx, api.ScrubRequest{StoreOnly: true})); again.Damaged != 0 {
					t.Fatalf("%s, byte %d: %+v after the repair", key, at, again)
				}
			}
			if at%64 == 0 || step > 1 && at%(5*step) == 0 {
				p := elsewhere(t, b, len(want))
				if p != nil && !bytes.Equal(p, want) || p == nil && (isPack(key) || kept) {
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
		if isPack(key) || kind == "t" || kind == "keys" || kind == "tenants" || strings.HasPrefix(key, "gc/") && !strings.HasSuffix(key, "/flags") {
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
