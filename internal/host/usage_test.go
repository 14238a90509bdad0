package host

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/inspect"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// small opens a host on an in-memory file system.
func small(t *testing.T, store objstore.Store, fs vfs.FS) *Host {
	t.Helper()
	h, err := Open(ctx, Config{
		Data: "data", FS: fs, Store: store, Memory: 1 << 20, Cache: Share{Bytes: 64 << 20}, WALLimit: Share{Bytes: 64 << 20}, PackBlocks: 2,
		Keys: []keys.Provider{tenantstest.Shared()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close(ctx) })
	return h
}

func wantUsage(t *testing.T, h *Host, name string, want api.Space) api.Space {
	t.Helper()
	got := must[api.Usage](t)(h.Usage(ctx, name)).Space
	got.DedupRatio, got.CompressionRatio = 0, 0
	stored := got.Stored
	if want.Stored == 0 {
		got.Stored = 0
	}
	if got != want {
		t.Fatalf("usage of %q\n got %+v\nwant %+v", name, got, want)
	}
	got.Stored = stored
	return got
}

const kib = 1 << 10

// TestUsageOfForks: dirty data that forks share counts as shared. What only one volume
// has is what its removal frees.
func TestUsageOfForks(t *testing.T) {
	h := small(t, objstore.NewMem(objstore.Clock{}), vfs.NewMem())
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	wantUsage(t, h, "v", api.Space{Logical: mib})
	fill(t, h, "v", 1, 0, 64*kib)
	wantUsage(t, h, "v", api.Space{Logical: mib, Dirty: 64 * kib, Exclusive: 64 * kib, FreedIfRemoved: 64 * kib})
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "f"}))
	for _, n := range []string{"v", "f"} {
		wantUsage(t, h, n, api.Space{Logical: mib, Dirty: 64 * kib, Shared: 64 * kib})
	}
	fill(t, h, "f", 2, 0, 16*kib) // over a part of the shared data, which then is v's own
	wantUsage(t, h, "f", api.Space{Logical: mib, Dirty: 64 * kib, Shared: 48 * kib, Exclusive: 16 * kib, FreedIfRemoved: 16 * kib})
	wantUsage(t, h, "v", api.Space{Logical: mib, Dirty: 64 * kib, Shared: 48 * kib, Exclusive: 16 * kib, FreedIfRemoved: 16 * kib})
	wantUsage(t, h, "", api.Space{Logical: 2 * mib, Dirty: 80 * kib, Shared: 48 * kib, Exclusive: 32 * kib, FreedIfRemoved: 80 * kib})
	// A snapshot belongs to its volume: their removal frees the data of both.
	must[api.Snapshot](t)(h.Snapshot(ctx, "f", "s", ""))
	if err := vol(t, h, "f").Zero(0, mib); err != nil {
		t.Fatal(err)
	}
	wantUsage(t, h, "f", api.Space{Logical: mib, Dirty: 64 * kib, Shared: 48 * kib, Exclusive: 16 * kib, FreedIfRemoved: 16 * kib})
	if err := h.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	wantUsage(t, h, "f", api.Space{Logical: mib, Dirty: 64 * kib, Exclusive: 64 * kib, FreedIfRemoved: 64 * kib})
}

// TestUsageOfPublished: blocks in the store count once for each owner, and removal frees
// exactly what usage said.
func TestUsageOfPublished(t *testing.T) {
	h := small(t, objstore.NewMem(objstore.Clock{}), vfs.NewMem())
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	fill(t, h, "v", 1, 0, 512*kib) // 4 blocks
	must[api.Flush](t)(h.Flush(ctx, "v"))
	all := must[api.Usage](t)(h.Usage(ctx, "v"))
	wantUsage(t, h, "v", api.Space{Logical: mib, Exclusive: 512 * kib, Stored: all.Stored, FreedIfRemoved: all.Stored})
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "f"}))
	wantUsage(t, h, "f", api.Space{Logical: mib, Shared: 512 * kib, Stored: all.Stored})
	fill(t, h, "f", 2, 0, 128*kib)
	fill(t, h, "f", 2, 512*kib, 128*kib) // the same block twice
	must[api.Flush](t)(h.Flush(ctx, "f"))
	f := must[api.Usage](t)(h.Usage(ctx, "f"))
	if f.Exclusive != 128*kib || f.Shared != 384*kib || f.Dirty != 0 || f.DedupRatio != 5.0/4 {
		t.Fatalf("%+v", f)
	}
	before := must[api.Usage](t)(h.Usage(ctx, ""))
	v := must[api.Usage](t)(h.Usage(ctx, "v"))
	if v.Exclusive != 128*kib || v.FreedIfRemoved == 0 || v.FreedIfRemoved >= v.Stored {
		t.Fatalf("%+v", v)
	}
	if err := h.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	after := must[api.Usage](t)(h.Usage(ctx, ""))
	if before.Stored-after.Stored != v.FreedIfRemoved {
		t.Fatalf("removal freed %d of %d bytes, %d were promised", before.Stored-after.Stored, before.Stored, v.FreedIfRemoved)
	}
}

// TestDiff: for random content, diff reports the same as a comparison of all bytes.
func TestDiff(t *testing.T) {
	const size = mib + 3*512 // the last block, and the last page, are short
	for seed := range uint64(12) {
		h := small(t, objstore.NewMem(objstore.Clock{}), vfs.NewMem())
		r := rand.New(rand.NewPCG(seed, 5))
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "a", Size: size}))
		images := map[string][]byte{"a": make([]byte, size)}
		step := func(name string) {
			n := 1 + r.Uint64N(200*kib)
			off := r.Uint64N(size - n)
			b := images[name]
			switch r.IntN(6) {
			case 0:
				clear(b[off : off+n])
				if err := vol(t, h, name).Zero(off, n); err != nil {
					t.Fatal(err)
				}
			case 1:
				must[api.Flush](t)(h.Flush(ctx, name))
			case 2: // the same content as the other volume: not a difference
				copy(b[off:off+n], images["a"][off:off+n])
				if err := vol(t, h, name).WriteAt(b[off:off+n], off); err != nil {
					t.Fatal(err)
				}
			default:
				copy(b[off:], fill(t, h, name, r.Uint64(), off, n))
			}
		}
		for range 8 {
			step("a")
		}
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "a", Name: "b"}))
		images["b"] = bytes.Clone(images["a"])
		for range 10 {
			step([]string{"a", "b"}[r.IntN(2)])
		}
		d := must[api.Diff](t)(h.Diff(ctx, "a", "b"))
		want := map[uint64]bool{}
		for p := uint64(0); p < size; p += inspect.DiffPage {
			if q := min(p+inspect.DiffPage, size); !bytes.Equal(images["a"][p:q], images["b"][p:q]) {
				want[p] = true
			}
		}
		var sum, end uint64
		for _, g := range d.Ranges {
			if g.Offset%inspect.DiffPage != 0 || g.Offset < end || g.Length == 0 {
				t.Fatalf("seed %d: odd range %+v", seed, g)
			}
			end = g.Offset + g.Length
			sum += g.Length
			for p := g.Offset; p < end; p += inspect.DiffPage {
				if !want[p] {
					t.Fatalf("seed %d: page %d does not differ", seed, p)
				}
				delete(want, p)
			}
		}
		if len(want) > 0 || sum != d.DifferentBytes {
			t.Fatalf("seed %d: %d pages differ and were not told; %d of %d bytes", seed, len(want), sum, d.DifferentBytes)
		}
		if same := must[api.Diff](t)(h.Diff(ctx, "b", "b")); len(same.Ranges) != 0 || same.DifferentBytes != 0 {
			t.Fatalf("seed %d: a volume differs from itself: %+v", seed, same)
		}
		_ = h.Close(ctx)
	}
}

// TestVerifyFindsDamageInAPack. verified.
func TestVerifyFindsDamageInAPack(t *testing.T) {
	store := objstore.NewMem(objstore.Clock{})
	h := small(t, store, vfs.NewMem())
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	data := fill(t, h, "v", 1, 0, 512*kib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	if v := must[api.Verify](t)(h.Verify(ctx, "v", true)); v.Blocks != 4 || len(v.Damaged) != 0 {
		t.Fatalf("%+v", v)
	}
	var ref pack.Ref
	if err := vol(t, h, "v").Map().Walk(ctx, 2, 3, func(_ uint64, r pack.Ref) error { ref = r; return nil }); err != nil {
		t.Fatal(err)
	}
	obj, err := store.Get(ctx, ref.Pack.Key())
	if err != nil {
		t.Fatal(err)
	}
	obj[ref.Off+ref.Len/2] ^= 4
	if err := store.Put(ctx, ref.Pack.Key(), obj); err != nil {
		t.Fatal(err)
	}
	if v := must[api.Verify](t)(h.Verify(ctx, "v", true)); v.Blocks != 4 || len(v.Damaged) != 1 || !strings.HasPrefix(v.Damaged[0], "block 2: ") {
		t.Fatalf("%+v", v)
	}
	// A host without tiers gives its guest an error, not wrong bytes.
	other := small(t, store, vfs.NewMem())
	must[[]api.Fork](t)(other.Fork(ctx, api.ForkRequest{Source: "v", Name: "f", Lazy: true}))
	got := make([]byte, 128*kib)
	if err := vol(t, other, "f").ReadAt(got, 256*kib); err == nil {
		t.Fatal("a damaged block was read")
	}
	if err := vol(t, other, "f").ReadAt(got, 0); err != nil || !bytes.Equal(got, data[:128*kib]) {
		t.Fatalf("an undamaged block cannot be read: %v", err)
	}
}

// TestVerifyFindsDamageInTheLog: after a restart, in a volume that otherwise works.
// verified.
func TestVerifyFindsDamageInTheLog(t *testing.T) {
	fs, store := vfs.NewMem(), objstore.NewMem(objstore.Clock{})
	h := small(t, store, fs)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	data := fill(t, h, "v", 1, 0, 64*kib)
	fill(t, h, "v", 2, 512*kib, 64*kib)
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if !flipIn(t, fs, "data/wal", data[1000:1064]) {
		t.Fatal("the log does not hold what was written")
	}
	h = small(t, store, fs)
	v, err := h.Verify(ctx, "v", false)
	if err == nil && len(v.Damaged) == 0 {
		t.Fatalf("a flipped bit in the log was not found: %+v", v)
	}
	got := make([]byte, 64*kib)
	x, err := h.disks.Local("v", false)
	if err != nil {
		t.Fatal(err)
	}
	if open := x.Volume(); open != nil {
		if err := open.ReadAt(got, 0); err == nil {
			t.Fatal("damaged bytes were read")
		}
	}
}

// flipIn flips one bit of what, in the file of the directory that contains it.
func flipIn(t *testing.T, fs vfs.FS, dir string, what []byte) bool {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		f, err := fs.OpenReadWrite(fs.PathJoin(dir, n), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, st.Size())
		_, _ = f.ReadAt(b, 0)
		i := bytes.Index(b, what)
		if i >= 0 {
			if _, err := f.WriteAt([]byte{b[i] ^ 1}, int64(i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if i >= 0 {
			return true
		}
	}
	return false
}
