package host

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/nbd"
)

// foldNow folds a volume, whatever its policy.
func foldNow(t *testing.T, h *Host, name string) {
	t.Helper()
	d, err := h.disks.Local(name, false)
	if err != nil {
		t.Fatal(err)
	}
	d.Op.Lock()
	defer d.Op.Unlock()
	if _, err := h.publisher.Publish(ctx, d, commitlog.CauseFold, func(*commitlog.State) {}); err != nil {
		t.Fatal(err)
	}
}

// unfolded is how many data commits the newest commit of a volume names, its own included,
// and the bytes that they count for.
func unfolded(t *testing.T, b *bed, name string) (count, bytes uint64) {
	t.Helper()
	tip, err := commitlog.Newest(ctx, b.logs(), commitlog.Volume{Tenant: "default", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	s := tip.Carry()
	return s.Unfolded()
}

// TestBulkIsUploadedOnce: what is written in a row goes into packs once. The fold of its
// data commits uploads only the map, even by another process, and a data commit counts for
// the blocks that it names.
func TestBulkIsUploadedOnce(t *testing.T) {
	for _, policy := range []string{"sync", "continuous"} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprint(policy, " ", restarted), func(t *testing.T) {
				b := newBed(t)
				dir := t.TempDir()
				h := b.host(dir, "a")
				must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 32 << 20, Durability: policy, RPOms: 5000}))
				dev := guest(t, h, "v")
				before := b.count.Counts()
				const total, first = 20 << 20, 4096 // so that no write fills whole blocks only
				want := random(1, total)
				for at := 0; at < total; at += 1 << 20 {
					if err := guestWrite(dev, first+uint64(at), want[at:at+1<<20]); err != nil {
						t.Fatal(err)
					}
				}
				if err := dev.Flush(); err != nil {
					t.Fatal(err)
				}
				must[api.Flush](t)(h.Flush(ctx, "v"))
				if count, bytes := unfolded(t, b, "v"); bytes < total || bytes > total*11/10+count<<10 {
					t.Errorf("%d data commits count for %d bytes, %d were written", count, bytes, total)
				}
				if restarted {
					if err := h.Close(ctx); err != nil {
						t.Fatal(err)
					}
					h = b.host(dir, "a")
				}
				foldNow(t, h, "v")
				if count, bytes := unfolded(t, b, "v"); count != 0 {
					t.Errorf("%d data commits of %d bytes are not folded", count, bytes)
				}
				if up := b.count.Counts().Sub(before).BytesUp; up > total*11/10 {
					t.Errorf("%d bytes were written, and %d uploaded", total, up)
				}
				_, image, err := published(b.store, "v")
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(image[first:][:total], want) {
					t.Error("the store has other bytes than were written")
				}
			})
		}
	}
}

// TestSmallFlushIsOneRequest: blocks that are together smaller than the threshold go with
// the data commit; larger ones take packs, and the data commit after them.
func TestSmallFlushIsOneRequest(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 32 << 20, Durability: "sync"}))
	dev := guest(t, h, "v")
	for i, c := range []struct{ size, puts int }{{4 << 10, 1}, {128 << 10, 1}, {1<<20 - 128<<10, 1}, {1 << 20, 3}, {4 << 10, 1}, {1 << 20, 2}} {
		if err := guestWrite(dev, uint64(i)<<20, random(uint64(i), c.size)); err != nil {
			t.Fatal(err)
		}
		before := b.count.Counts()
		if err := dev.Flush(); err != nil {
			t.Fatal(err)
		}
		// The first pack of a session is announced by a pin.
		if n := b.count.Counts().Sub(before).Put; n != uint64(c.puts) {
			t.Errorf("the flush of %d bytes cost %d puts, want %d", c.size, n, c.puts)
		}
	}
}

// unreliable is a store whose puts of packs, or of commits, fail for a while.
type unreliable struct {
	objstore.Store
	packs, commits atomic.Bool
}

var errUnreliable = errs.New(errs.Unavailable, "the store is out of order")

func (u *unreliable) Put(ctx context.Context, key string, b []byte) error {
	if u.packs.Load() && isPack(key) {
		return errUnreliable
	}
	return u.Store.Put(ctx, key, b)
}

func (u *unreliable) PutIfAbsent(ctx context.Context, key string, b []byte) error {
	if u.commits.Load() && strings.Contains(key, "/log/") {
		return errUnreliable
	}
	return u.Store.PutIfAbsent(ctx, key, b)
}

// TestBothPaths: bytes and blocks, overwritten by one another and by zeros in every order,
// while the store fails now and then, volumes are folded, and the host restarts. After each
// flush the store has the volume, and another host that takes over reads it.
func TestBothPaths(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testBothPaths(t, seed) })
	}
}

func testBothPaths(t *testing.T, seed uint64) {
	const size, block = 1 << 20, 16 << 10
	r := rand.New(rand.NewPCG(seed, 9))
	b := newBed(t)
	u := &unreliable{Store: b.store}
	b.store, b.bulk = u, 1
	dir := t.TempDir()
	start := func() (*Host, nbd.Acknowledger) {
		h := b.host(dir, "a")
		return h, guest(t, h, "v")
	}
	h := b.host(dir, "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: size, BlockSize: block, Durability: "sync"}))
	dev := guest(t, h, "v")
	image := make([]byte, size)
	for i := range uint64(120) {
		off, n := r.Uint64N(size/block)*block, (1+r.Uint64N(4))*block
		if r.IntN(2) == 0 {
			off, n = r.Uint64N(size/512)*512, (1+r.Uint64N(100))*512
		}
		n = min(n, size-off)
		if r.IntN(6) == 0 {
			if err := dev.Zero(off, n, true); err != nil {
				t.Fatal(err)
			}
			clear(image[off : off+n])
		} else {
			p := random(seed<<8|i, int(n))
			if r.IntN(6) == 0 { // a block that is there already
				copy(p, image[off/block*block:][:block])
			}
			if err := guestWrite(dev, off, p); err != nil {
				t.Fatal(err)
			}
			copy(image[off:], p)
		}
		switch k := r.IntN(16); k {
		case 0, 1:
			broken := []*atomic.Bool{&u.packs, &u.commits}[k]
			broken.Store(true)
			time.AfterFunc(time.Duration(r.IntN(30))*time.Millisecond, func() { broken.Store(false) })
		case 2:
			u.packs.Store(false)
			u.commits.Store(false)
			foldNow(t, h, "v")
		case 3:
			if err := h.Close(ctx); err != nil {
				t.Fatal(err)
			}
			h, dev = start()
		}
		if r.IntN(3) > 0 {
			continue
		}
		if err := dev.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, got, err := published(b.store, "v"); err != nil || string(got) != string(image) {
			t.Fatalf("step %d: the store has not what was flushed (%v)", i, err)
		}
	}
	if err := dev.Flush(); err != nil {
		t.Fatal(err)
	}
	delete(b.peers, "a")
	h2 := b.host(t.TempDir(), "b")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	same(t, h2, "v", 0, image)
	foldNow(t, h2, "v")
	same(t, h2, "v", 0, image)
}

// TestBulkWithoutPacks: if blocks cannot be put into packs although the store answers, here
// because a newer release collects garbage, they go as bytes.
func TestBulkWithoutPacks(t *testing.T) {
	b := newBed(t)
	dir := t.TempDir()
	h := b.host(dir, "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "sync"}))
	p := random(1, 2<<20)
	write := func(off uint64) {
		t.Helper()
		dev := guest(t, h, "v")
		if err := guestWrite(dev, off, p); err != nil {
			t.Fatal(err)
		}
		if err := dev.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write(0)
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h = b.host(dir, "a") // in another session, so the packs must be pinned and checked
	if err := b.store.Put(ctx, "gc/rounds/"+b.domain()+"/1", []byte("?")); err != nil {
		t.Fatal(err)
	}
	before := b.count.Counts()
	write(4 << 20)
	if up := b.count.Counts().Sub(before).BytesUp; up < 2<<20 {
		t.Errorf("%d bytes were uploaded", up)
	}
	_, got, err := published(b.store, "v")
	if err != nil || !bytes.Equal(got[:2<<20], p) || !bytes.Equal(got[4<<20:6<<20], p) {
		t.Fatalf("the store has not what was flushed (%v)", err)
	}
}

// TestLostPackOfADataCommit: a data commit names a block whose pack is gone or damaged. The
// volume cannot be opened elsewhere, and the error says which commit and why.
func TestLostPackOfADataCommit(t *testing.T) {
	for _, damage := range []string{"gone", "damaged"} {
		t.Run(damage, func(t *testing.T) {
			b := newBed(t)
			h := b.host(t.TempDir(), "a")
			must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "sync"}))
			dev := guest(t, h, "v")
			if err := guestWrite(dev, 0, random(1, 2<<20)); err != nil {
				t.Fatal(err)
			}
			if err := dev.Flush(); err != nil {
				t.Fatal(err)
			}
			packs := keysOf(t, b.store, "packs/")
			if len(packs) == 0 {
				t.Fatal("no packs")
			}
			for _, key := range packs {
				raw, err := b.store.Get(ctx, key)
				if err != nil {
					t.Fatal(err)
				}
				for i := 100; i < len(raw); i += 1000 {
					raw[i] ^= 1
				}
				if damage == "gone" {
					err = b.store.Delete(ctx, key)
				} else {
					err = b.store.Put(ctx, key, raw)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			tip := must[*commitlog.Object](t)(commitlog.Newest(ctx, b.logs(), disk.Name{Tenant: "default", Volume: "v"}.Log()))
			if v := must[api.Verify](t)(h.Verify(ctx, "v", true)); len(v.Damaged) != 16 || !strings.Contains(v.Damaged[0], "data commit at byte 0") {
				t.Errorf("verify --cold finds %q", v.Damaged)
			}
			delete(b.peers, "a")
			h2 := b.host(t.TempDir(), "b")
			_, err := h2.Wake(ctx, "v", true, "")
			wantKind(t, err, errs.Corrupt)
			if want := "data commit " + tip.Generation.String() + " of "; !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "packs/") {
				t.Errorf("the error does not name the commit and the pack: %v", err)
			}
		})
	}
}
