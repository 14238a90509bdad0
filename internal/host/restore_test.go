package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
	"github.com/paraglide/glide/internal/volume"
)

// removedVolume makes a volume with a snapshot and settings and removes it. It returns what
// it was, and the content of its snapshot and of itself.
func removedVolume(t *testing.T, h *Host, name, durability string) (was api.Volume, snap, head []byte) {
	t.Helper()
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: 2 * mib, Durability: durability}))
	must[api.Volume](t)(h.Set(ctx, name, api.Settings{"label.app": "web", "iops": "9000", "keep": "24h:1h"}))
	snap = fill(t, h, name, 1, 0, mib)
	must[api.Snapshot](t)(h.Snapshot(ctx, name, "s", "30d"))
	must[api.Flush](t)(h.Flush(ctx, name))
	head = append(fill(t, h, name, 2, 0, 300*kib), snap[300*kib:]...)
	if durability == volume.Local {
		must[api.Flush](t)(h.Flush(ctx, name))
	} else { // these writes are in data commits
		dev := guest(t, h, name)
		p := random(3, 4096)
		if err := errors.Join(guestWrite(dev, mib-4096, p), dev.Flush()); err != nil {
			t.Fatal(err)
		}
		copy(head[mib-4096:], p)
		must[api.Flush](t)(h.Barrier(ctx, name, must[api.Volume](t)(h.Show(ctx, name)).Sequence))
	}
	was = must[api.Volume](t)(h.Show(ctx, name))
	if err := h.Remove(ctx, name, true); err != nil {
		t.Fatal(err)
	}
	return was, snap, head
}

// isBack checks that a volume is what was removed.
func isBack(t *testing.T, h *Host, v, was api.Volume, snap, head []byte) {
	t.Helper()
	if v.Size != was.Size || v.BlockSize != was.BlockSize || v.Durability != was.Durability || v.RPOms != was.RPOms || v.IOPS != was.IOPS || v.Keep != was.Keep ||
		v.Parent != was.Parent || v.Labels["app"] != "web" || !v.CreatedAt.Equal(was.CreatedAt) || v.State != "active" || v.ID == was.ID || v.DirtyBytes != 0 && was.Durability == volume.Local {
		t.Errorf("restored as %+v\nit was %+v", v, was)
	}
	same(t, h, v.Name, 0, head)
	same(t, h, v.Name+"@s", 0, snap)
	if list := must[[]api.Snapshot](t)(h.Snapshots(ctx, v.Name)); len(list) != 1 || list[0].ExpiresAt.IsZero() {
		t.Errorf("its snapshots are %+v", list)
	}
}

func removedNames(t *testing.T, h *Host) (list []string) {
	t.Helper()
	for _, r := range must[[]api.Removed](t)(h.Removed(ctx)) {
		list = append(list, r.Name)
	}
	return list
}

// TestRestore: a removed volume comes back on any host, with its settings and snapshots, and
// again after another removal.
func TestRestore(t *testing.T) {
	for _, durability := range []string{volume.Local, volume.Continuous, volume.Sync} {
		t.Run(durability, func(t *testing.T) {
			b := newBed(t)
			h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
			was, snap, head := removedVolume(t, h1, "v", durability)
			list := must[[]api.Removed](t)(h2.Removed(ctx))
			if len(list) != 1 || list[0].Name != "v" || list[0].ID != was.ID || !list[0].Until.IsZero() || list[0].RemovedAt.IsZero() || list[0].Labels["app"] != "web" {
				t.Errorf("removed: %+v", list)
			}
			v := must[api.Volume](t)(h2.Restore(ctx, "v", ""))
			isBack(t, h2, v, was, snap, head)
			if list := removedNames(t, h1); len(list) != 0 {
				t.Errorf("restored, and still removed: %v", list)
			}
			// It is a volume as any other: it is written, published, moved, and removed.
			copy(head, fill(t, h2, "v", 9, 0, 64*kib))
			must[api.Flush](t)(h2.Flush(ctx, "v"))
			must[api.Volume](t)(h1.Wake(ctx, "v", false, ""))
			same(t, h1, "v", 0, head)
			if err := h1.Remove(ctx, "v", false); err != nil {
				t.Fatal(err)
			}
			v = must[api.Volume](t)(h1.Restore(ctx, "v", "w"))
			if v.Name != "w" {
				t.Errorf("%+v", v)
			}
			isBack(t, h1, v, was, snap, head)
			// One removal can be restored twice.
			v2 := must[api.Volume](t)(h2.Restore(ctx, "v", ""))
			isBack(t, h2, v2, was, snap, head)
			if v2.ID == v.ID {
				t.Errorf("two volumes have the ID %s", v.ID)
			}
		})
	}
}

// TestRestoreRefused: what cannot be restored, and why.
func TestRestoreRefused(t *testing.T) {
	b := newBed(t)
	b.retention = time.Nanosecond
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	refused := func(h *Host, name, as string, kind errs.Kind, words string) {
		t.Helper()
		_, err := h.Restore(ctx, name, as)
		wantKind(t, err, kind)
		if !strings.Contains(err.Error(), words) {
			t.Errorf("restore %s --as %q: %v", name, as, err)
		}
	}
	refused(h1, "v", "", errs.NotFound, "never published")
	refused(h1, "v", "acme/v", errs.Invalid, "different tenants")
	refused(h1, "v/", "", errs.Invalid, "name")
	refused(h1, "v@s", "", errs.Invalid, "")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	if err := h1.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	refused(h1, "v", "", errs.NotFound, "never published")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "live", Size: mib}))
	must[api.Flush](t)(h1.Flush(ctx, "live"))
	refused(h2, "live", "", errs.Exists, "was not removed")
	refused(h2, "live", "x", errs.Exists, "was not removed")
	refused(h1, "live", "", errs.Exists, "--as NEW")
	must[api.Volume](t)(h1.Rename(ctx, "live", "moved"))
	refused(h2, "live", "", errs.NotFound, `renamed to "moved"`)
	if list := removedNames(t, h2); len(list) != 0 {
		t.Errorf("renamed, not removed: %v", list)
	}
	was, snap, head := removedVolume(t, h1, "v", volume.Local)
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	refused(h1, "v", "", errs.Exists, "taken, by a volume on this host")
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	refused(h2, "v", "", errs.Exists, "--as NEW")
	refused(h1, "v", "moved", errs.Exists, "already")
	refused(h2, "v", "moved", errs.Exists, "--as NEW")
	isBack(t, h2, must[api.Volume](t)(h2.Restore(ctx, "v", "old")), was, snap, head)
	// The newest removal counts. When it is collected, it is gone.
	if err := h1.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	if v := must[api.Volume](t)(h2.Restore(ctx, "v", "newest")); v.Size != mib {
		t.Errorf("%+v", v)
	}
	runRound(t, b.store, 0)
	refused(h2, "v", "", errs.NotFound, "glide gc has collected it")
	if list := removedNames(t, h2); len(list) != 0 {
		t.Errorf("collected, and listed: %v", list)
	}
	isBack(t, h2, must[api.Volume](t)(h2.Show(ctx, "old")), was, snap, head)
}

// TestTwoRestore: of hosts that restore one name at the same time, one does.
func TestTwoRestore(t *testing.T) {
	for range 10 {
		b := newBed(t)
		hosts := []*Host{b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b"), b.host(t.TempDir(), "c")}
		was, snap, head := removedVolume(t, hosts[0], "v", volume.Sync)
		var wg sync.WaitGroup
		errors := make([]error, len(hosts))
		for i, h := range hosts {
			wg.Go(func() { _, errors[i] = h.Restore(ctx, "v", "") })
		}
		wg.Wait()
		won := 0
		for i, h := range hosts {
			if errors[i] == nil {
				won++
				isBack(t, h, must[api.Volume](t)(h.Show(ctx, "v")), was, snap, head)
			} else if k := errs.KindOf(errors[i]); k != errs.Exists && k != errs.Busy {
				t.Errorf("%v", errors[i])
			} else if len(h.disks.All()) != 0 {
				t.Errorf("a restore that failed left %d volumes", len(h.disks.All()))
			}
		}
		if won != 1 {
			t.Fatalf("%d hosts restored it: %v", won, errors)
		}
	}
}

var errStopped = errs.New(errs.Unavailable, "the collector stops")

// stepped is a store that calls a function before the n-th request.
type stepped struct {
	objstore.Store
	mu     sync.Mutex
	n      int
	before func() error
}

func (s *stepped) step() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n--; s.n == 0 {
		return s.before()
	}
	return nil
}

func (s *stepped) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.step(); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, key)
}

func (s *stepped) List(ctx context.Context, prefix, after string, n int) ([]objstore.Info, error) {
	if err := s.step(); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, prefix, after, n)
}

func (s *stepped) Put(ctx context.Context, key string, data []byte) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, data)
}

func (s *stepped) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.Store.PutIfAbsent(ctx, key, data)
}

func (s *stepped) DeleteBatch(ctx context.Context, keys []string) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.Store.DeleteBatch(ctx, keys)
}

// TestRestoreBesideACollector restores at every step of two rounds, either between two
// requests of the collector or after it has died. What is restored stays whole; what is not
// leaves nothing.
func TestRestoreBesideACollector(t *testing.T) {
	for _, durability := range []string{volume.Local, volume.Sync} {
		for _, dies := range []bool{false, true} {
			where := fmt.Sprintf("%s, the collector dies: %v", durability, dies)
			t.Run(where, func(t *testing.T) {
				back, gone := 0, 0
				for at, reached := 1, true; reached; at++ {
					// A step has directories of its own, which go with it: there are hundreds.
					t.Run(fmt.Sprint("step ", at), func(t *testing.T) {
						var restored bool
						if reached, restored = restoreAtStep(t, durability, dies, at); restored {
							back++
						} else if reached {
							gone++
						}
					})
					if t.Failed() {
						return
					}
				}
				if back == 0 || gone == 0 {
					t.Errorf("restored at %d steps, gone at %d", back, gone)
				}
			})
		}
	}
}

// restoreAtStep restores a removed volume before the at-th request of a collector, which
// may die then. It tells whether there was such a request, and whether the volume came back.
func restoreAtStep(t *testing.T, durability string, dies bool, at int) (reached, restored bool) {
	b := newBed(t)
	b.retention = time.Nanosecond
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	was, snap, head := removedVolume(t, h1, "v", durability)
	if err := h1.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	var err error
	s := &stepped{Store: b.store, n: at, before: func() error {
		reached = true
		if dies {
			return errStopped
		}
		_, err = h2.Restore(ctx, "v", "")
		return nil
	}}
	for range 2 {
		if _, rerr := gc.Run(ctx, gc.Options{Store: s, Tenants: tenantstest.New(b.store, tenantstest.Shared()), By: "test", Retention: time.Nanosecond}); rerr != nil && (!dies || !errors.Is(rerr, errStopped)) {
			t.Fatalf("the collector: %v", rerr)
		} else if rerr != nil {
			_, err = h2.Restore(ctx, "v", "")
			break
		}
	}
	if !reached {
		return false, false
	}
	for range 3 {
		runRound(t, b.store, 0)
	}
	if err != nil {
		if errs.KindOf(err) != errs.NotFound || len(h2.disks.All()) != 0 || len(names(t, h2, true)) != 0 {
			t.Fatalf("%v; left are %v", err, names(t, h2, true))
		}
		return true, false
	}
	isBack(t, h2, must[api.Volume](t)(h2.Show(ctx, "v")), was, snap, head)
	if _, got, err := published(b.store, "v"); err != nil || !bytes.Equal(got[:mib], head) {
		t.Fatalf("it is not whole in the store: %v", err)
	}
	return true, true
}

// TestRestoreWhatIsFlagged: in the grace period everything can be restored, and ls tells
// until when.
func TestRestoreWhatIsFlagged(t *testing.T) {
	for _, durability := range []string{volume.Local, volume.Sync} {
		b := newBed(t)
		b.retention = time.Nanosecond
		h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
		was, snap, head := removedVolume(t, h1, "v", durability)
		runRound(t, b.store, 36*time.Hour)
		list := must[[]api.Removed](t)(h2.Removed(ctx))
		if len(list) != 1 || time.Until(list[0].Until) < 35*time.Hour {
			t.Fatalf("flagged: %+v", list)
		}
		isBack(t, h2, must[api.Volume](t)(h2.Restore(ctx, "v", "")), was, snap, head)
		for range 3 {
			runRound(t, b.store, 0)
		}
		if _, got, err := published(b.store, "v"); err != nil || !bytes.Equal(got[:mib], head) {
			t.Fatalf("%s: it is not whole in the store: %v", durability, err)
		}
	}
}

// TestManyRemoved: thousands of removed volumes beside live ones.
func TestManyRemoved(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	var want []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < 1200; i += 8 {
				name := fmt.Sprintf("v%04d", i)
				if _, err := h.Fork(ctx, api.ForkRequest{Source: "v", Name: name}); err != nil {
					t.Error(err)
				}
				if _, err := h.Flush(ctx, name); err != nil {
					t.Error(err)
				}
				if i%3 == 0 {
					continue
				}
				if err := h.Remove(ctx, name, false); err != nil {
					t.Error(err)
				}
				mu.Lock()
				want = append(want, name)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(want)
	before := b.count.Counts()
	if got := removedNames(t, h); !slices.Equal(got, want) {
		t.Errorf("%d are listed of %d", len(got), len(want))
	}
	if n := b.count.Counts().Get - before.Get; n > 2*uint64(len(want))+400+10 {
		t.Errorf("%d GETs for %d removed volumes", n, len(want))
	}
}

// TestChildrenOfARemovedSnapshot: a local fork of a snapshot needs what only the snapshot
// names. It stays when the volume is removed with its snapshots, or handed over.
// reachable-is-kept.
func TestChildrenOfARemovedSnapshot(t *testing.T) {
	for _, leave := range []string{"remove", "release"} {
		b := newBed(t)
		b.retention = time.Nanosecond
		h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
		must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: 2 * mib}))
		want := fill(t, h1, "v", 1, 0, mib)
		must[api.Snapshot](t)(h1.Snapshot(ctx, "v", "s", ""))
		must[api.Flush](t)(h1.Flush(ctx, "v"))
		fill(t, h1, "v", 2, 0, mib)
		must[api.Flush](t)(h1.Flush(ctx, "v"))
		must[[]api.Fork](t)(h1.Fork(ctx, api.ForkRequest{Source: "v@s", Name: "kid"}))
		if leave == "remove" {
			if err := h1.Remove(ctx, "v", false); err != nil {
				t.Fatal(err)
			}
		} else {
			must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
			for _, name := range []string{"v@s", "v"} {
				if err := h2.Remove(ctx, name, false); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, h := range []*Host{h1, h2} {
			if err := h.publisher.Session.Rotate(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for range 4 {
			runRound(t, b.store, 0)
		}
		must[api.Flush](t)(h1.Flush(ctx, "kid"))
		if _, got, err := published(b.store, "kid"); err != nil || !bytes.Equal(got[:mib], want) {
			t.Fatalf("%s: what a fork lies over is gone: %v", leave, err)
		}
	}
}
