package commitlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// unsteady is a store whose conditional puts take a random time, and may fail
// before or after their effect.
type unsteady struct {
	objstore.Store
	mu   sync.Mutex
	rand *rand.Rand
	fail float64
	hold map[string]chan struct{} // puts of these keys wait
}

func (u *unsteady) PutIfAbsent(ctx context.Context, key string, b []byte) error {
	u.mu.Lock()
	before, after := u.rand.Float64() < u.fail, u.rand.Float64() < u.fail
	nap := time.Duration(u.rand.Int64N(int64(300 * time.Microsecond)))
	hold := u.hold[key]
	u.mu.Unlock()
	if hold != nil {
		<-hold
	}
	time.Sleep(nap)
	if before {
		return errs.New(errs.Unavailable, "lost on the way")
	}
	if err := u.Store.PutIfAbsent(ctx, key, b); err != nil || !after {
		return err
	}
	return errs.New(errs.Unavailable, "the answer was lost")
}

// shipData ships one page whose content is the number.
func shipData(t tb, o *Owner, seq uint64) *Shipment {
	t.Helper()
	data, err := EncodeData([]Range{{Off: seq % 16 * 4096, Len: 8, Data: binary.LittleEndian.AppendUint64(nil, seq)}})
	check(t, err)
	sh, err := o.Ship(ctx, seq, data, func(s *State) { s.Cause = CauseData })
	check(t, err)
	return sh
}

// replayed is what the tip of the log says: its root's number, and the pages on top.
func replayed(t tb, store objstore.Store) (root, through uint64, pages map[uint64]uint64) {
	t.Helper()
	tip := newest(t, store, disk)
	pages = map[uint64]uint64{}
	check(t, Replay(ctx, store, tip, func(ranges []Range) error {
		for _, r := range ranges {
			pages[r.Off/4096] = binary.LittleEndian.Uint64(r.Data)
		}
		return nil
	}))
	return tip.State.Seq, tip.State.Through(), pages
}

// TestPipeline ships data commits and folds through a store that is slow, out of
// order and lossy: whatever was acknowledged is there, in order, and the tip is
// a prefix.
func TestPipeline(t *testing.T) {
	for seed := range uint64(30) {
		u := &unsteady{Store: newStore(), rand: rand.New(rand.NewPCG(seed, 1)), fail: 0.1}
		o := newOwner(t, u.Store, "a", 1)
		o.opts.RollAt = 13
		_, err := o.OpenFirst(ctx, someState(1))
		check(t, err)
		o.opts.Store = u
		var acked, root uint64 = 1, 1
		r := rand.New(rand.NewPCG(seed, 2))
		var way []*Shipment
		for seq := uint64(2); seq < 60; {
			if r.IntN(10) == 0 { // a fold of some cut before
				root = max(root, seq-1-r.Uint64N(min(seq-1, 5)))
				if _, err := o.Commit(ctx, someState(root)); err != nil && !errors.Is(err, errs.Unavailable) {
					t.Fatal(err)
				}
			}
			if len(way) < 5 {
				data, err := EncodeData([]Range{{Off: seq % 16 * 4096, Len: 8, Data: binary.LittleEndian.AppendUint64(nil, seq)}})
				check(t, err)
				if sh, err := o.Ship(ctx, seq, data, func(*State) {}); err == nil {
					way = append(way, sh)
					seq++
					continue
				} else if !errors.Is(err, errs.Unavailable) {
					t.Fatal(err)
				}
			}
			if len(way) > 0 {
				if _, err := way[0].Wait(ctx); err != nil {
					_, _ = o.Resolve(ctx)
					continue
				}
				acked, way = seq-uint64(len(way)), way[1:]
			}
			_, through, pages := replayed(t, u.Store)
			if through < acked {
				t.Fatalf("seed %d: acknowledged through %d, the store has %d", seed, acked, through)
			}
			wantPages(t, u.Store, through, pages)
		}
	}
}

// wantPages checks that the pages are those of a prefix that ends at through.
func wantPages(t tb, store objstore.Store, through uint64, pages map[uint64]uint64) {
	t.Helper()
	root, _, _ := replayed(t, store)
	for seq := through; seq > root && seq > through-min(16, through); seq-- {
		if got := pages[seq%16]; got != seq {
			t.Fatalf("page %d holds write %d, not %d (root %d, through %d)", seq%16, got, seq, root, through)
		}
	}
}

// TestPipelineBeyondASeal: a commit that was sent ahead of one that never
// arrived, or of another host's seal, is no part of the log.
func TestPipelineBeyondASeal(t *testing.T) {
	u := &unsteady{Store: newStore(), rand: rand.New(rand.NewPCG(1, 1)), hold: map[string]chan struct{}{}}
	a := opened(t, u.Store, "a")
	a.opts.Store = u
	stall := make(chan struct{})
	u.hold[disk.Key(Generation{Epoch: 1, Number: 3})] = stall
	_, err := shipData(t, a, 2).Wait(ctx)
	check(t, err)
	third, fourth := shipData(t, a, 3), shipData(t, a, 4)
	for newestKey(t, u.Store, Generation{Epoch: 1, Number: 4}) == nil {
		time.Sleep(time.Millisecond)
	}
	if _, through, _ := replayed(t, u.Store); through != 2 {
		t.Fatalf("beyond a gap: through %d", through)
	}
	b := newOwner(t, u.Store, "b", 1)
	first, err := b.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	if first.State.Through() != 2 {
		t.Fatalf("claimed through %d", first.State.Through())
	}
	close(stall)
	for _, s := range []*Shipment{fourth, third} {
		_, err := s.Wait(ctx)
		wantKind(t, err, errs.Fenced)
	}
	_, err = a.Ship(ctx, 9, []byte{1}, func(*State) {})
	wantKind(t, err, errs.Fenced)
	wantShape(t, historyOf(t, u.Store, disk), "1.1 first", "1.2 commit", "1.3 seal", "2.1 first")
}

func newestKey(t tb, store objstore.Store, g Generation) *Object {
	t.Helper()
	o, err := get(ctx, store, disk, g)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	check(t, err)
	return o
}

// TestReplayRefuses: data commits that are not those the volume names.
func TestReplayRefuses(t *testing.T) {
	build := func() *objstore.Faults {
		store := newStore()
		o := opened(t, store, "a")
		for seq := uint64(2); seq < 7; seq++ {
			_, err := shipData(t, o, seq).Wait(ctx)
			check(t, err)
		}
		return store
	}
	for name, spoil := range map[string]func(*objstore.Faults){
		"missing": func(s *objstore.Faults) { check(t, s.Delete(ctx, disk.Key(Generation{Epoch: 1, Number: 3}))) },
		"another": func(s *objstore.Faults) {
			o, err := get(ctx, s, disk, Generation{Epoch: 1, Number: 3})
			check(t, err)
			o.Mark[0] ^= 1
			raw, err := o.Encode()
			check(t, err)
			check(t, s.Put(ctx, disk.Key(o.Generation), raw))
		},
		"rotten": func(s *objstore.Faults) {
			raw, err := s.Get(ctx, disk.Key(Generation{Epoch: 1, Number: 4}))
			check(t, err)
			raw = bytes.Clone(raw)
			raw[len(raw)-1] ^= 1
			check(t, s.Put(ctx, disk.Key(Generation{Epoch: 1, Number: 4}), raw))
		},
	} {
		store := build()
		tip := newest(t, store, disk)
		spoil(store)
		if err := Replay(ctx, store, tip, func([]Range) error { return nil }); err == nil {
			t.Errorf("%s: replayed", name)
		}
	}
}

// TestPinsOfFormerOwnersStay: they end by Forget alone, not with the next commit.
func TestPinsOfFormerOwnersStay(t *testing.T) {
	store := newStore()
	opened(t, store, "a")
	b := newOwner(t, store, "b", 1)
	_, err := b.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	commit(t, b, 2)
	if kept := newest(t, store, disk).State.SealedFrom; len(kept) != 1 || kept[0].Host != "a" {
		t.Fatalf("kept for %+v", kept)
	}
	check(t, b.Forget(ctx, "a"))
	commit(t, b, 3)
	if kept := newest(t, store, disk).State.SealedFrom; len(kept) != 0 {
		t.Fatalf("kept for %+v", kept)
	}
}

// TestDataOlderThanTheRoot: changes that were taken before a fold's cut and are shipped
// after its commit must not go over the root, which may hold newer bytes of the same ranges.
func TestDataOlderThanTheRoot(t *testing.T) {
	store := newStore()
	o := opened(t, store, "a")
	commit(t, o, 5)
	g, err := shipData(t, o, 4).Wait(ctx)
	check(t, err)
	if root, through, pages := replayed(t, store); root != 5 || through != 5 || len(pages) != 0 {
		t.Errorf("%s says that data through %d, %v, lies over write 5", g, through, pages)
	}
	if count, bytes := o.Unfolded(); count != 0 || bytes != 0 {
		t.Errorf("%d data commits of %d bytes are to be folded", count, bytes)
	}
	_, err = shipData(t, o, 6).Wait(ctx)
	check(t, err)
	if root, through, pages := replayed(t, store); root != 5 || through != 6 || pages[6] != 6 {
		t.Errorf("data through %d, %v, lies over write %d", through, pages, root)
	}
}
