package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
	"github.com/paraglide/glide/internal/volume"
)

func runRound(t *testing.T, store objstore.Store, grace time.Duration) gc.Result {
	t.Helper()
	return must[gc.Result](t)(gc.Run(ctx, gc.Options{Store: store, Tenants: tenantstest.New(store, tenantstest.Shared()), By: "test", Grace: grace, Retention: time.Nanosecond, MinDead: 1}))
}

func countKeys(t *testing.T, store objstore.Store, prefix string) int {
	t.Helper()
	return len(keysOf(t, store, prefix))
}

// isPack tells whether a key is that of a pack, of any domain.
func isPack(key string) bool {
	_, err := pack.ParseKey(key)
	return err == nil
}

// TestGarbageGoes: what nothing reaches is gone after three rounds; what something
// reaches stays.
func TestGarbageGoes(t *testing.T) {
	b := newBed(t)
	b.retention = time.Nanosecond
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 16 * mib}))
	want := fill(t, h, "v", 1, 0, 4*mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	fill(t, h, "kid", 2, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "kid"))
	if r := runRound(t, b.store, 0); r.DeletedObjects != 0 || r.LiveObjects == 0 {
		t.Fatalf("%+v, though everything is reached", r)
	}
	for n := range 4 { // history that nothing keeps
		fill(t, h, "v", uint64(n+3), 4*mib, mib)
		must[api.Flush](t)(h.Flush(ctx, "v"))
	}
	if err := h.Remove(ctx, "kid", false); err != nil {
		t.Fatal(err)
	}
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	before := countKeys(t, b.store, "packs/")
	for range 3 {
		runRound(t, b.store, 0)
	}
	if after := countKeys(t, b.store, "packs/"); after >= before {
		t.Errorf("%d packs of %d are left", after, before)
	}
	_, got, err := published(b.store, "v")
	if err != nil || !bytes.Equal(got[:4*mib], want) {
		t.Fatalf("what is reached is not there: %v", err)
	}
	if err := h.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		runRound(t, b.store, 0)
	}
	if n := countKeys(t, b.store, "packs/"); n != 0 {
		t.Errorf("%d packs are left in a store without volumes", n)
	}
	if r := runRound(t, b.store, 0); r.FlaggedObjects != 0 || r.Round != 0 {
		t.Errorf("a store at rest: %+v", r)
	}
	// The names can be used again.
	h = b.host(t.TempDir(), "b")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 16 * mib}))
	want = fill(t, h, "v", 9, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	if _, got, err := published(b.store, "v"); err != nil || !bytes.Equal(got[:mib], want) {
		t.Fatalf("a name that was used before: %v", err)
	}
}

// churn is a random history of volumes on two hosts with one store, whose content is
// known.
type churn struct {
	t     *testing.T
	b     *bed
	r     *rand.Rand
	hosts []*Host
	dirs  []string
	at    map[string]int    // the host of each volume
	has   map[string][]byte // what was flushed to the store, or will be at the next flush
	made  int
}

const churnSize = mib

func (c *churn) write(name string) {
	// Few different blocks, so that blocks come back: dedup hits on what is garbage by now.
	block := random(uint64(c.r.IntN(6)), 128<<10)
	at := c.r.IntN(churnSize / len(block))
	if err := vol(c.t, c.hosts[c.at[name]], name).WriteAt(block, uint64(at*len(block))); err != nil {
		c.t.Fatal(err)
	}
	copy(c.has[name][at*len(block):], block)
}

func (c *churn) pick() string {
	names := slices.Sorted(maps.Keys(c.at))
	if len(names) == 0 {
		return ""
	}
	return names[c.r.IntN(len(names))]
}

// step does one thing at random. Refusals by the collector are fine.
func (c *churn) step() {
	name := c.pick()
	op := c.r.IntN(14)
	c.made++
	fresh := fmt.Sprintf("v%d", c.made)
	if name == "" || len(c.at) < 3 && op < 4 {
		host := c.r.IntN(2)
		must[api.Volume](c.t)(c.hosts[host].Create(ctx, api.CreateRequest{Name: fresh, Size: churnSize, Durability: []string{volume.Local, volume.Continuous, volume.Sync}[c.r.IntN(3)]}))
		c.at[fresh], c.has[fresh] = host, make([]byte, churnSize)
		c.write(fresh)
		return
	}
	h := c.hosts[c.at[name]]
	switch op {
	case 0, 1, 2:
		c.write(name)
	case 3, 4, 5:
		c.write(name)
		must[api.Flush](c.t)(h.Flush(ctx, name))
	case 6: // on the same host
		must[[]api.Fork](c.t)(h.Fork(ctx, api.ForkRequest{Source: name, Name: fresh}))
		c.at[fresh], c.has[fresh] = c.at[name], bytes.Clone(c.has[name])
	case 7: // on the other host; the owner flushes
		must[api.Flush](c.t)(h.Flush(ctx, name))
		other := 1 - c.at[name]
		must[[]api.Fork](c.t)(c.hosts[other].Fork(ctx, api.ForkRequest{Source: name, Name: fresh, Lazy: true}))
		c.at[fresh], c.has[fresh] = other, bytes.Clone(c.has[name])
	case 8, 9:
		if len(c.at) > 3 {
			if err := h.Remove(ctx, name, false); err != nil {
				c.t.Fatal(err)
			}
			delete(c.at, name)
			delete(c.has, name)
		}
	case 10: // moves to the other host
		must[api.Volume](c.t)(h.Sleep(ctx, name, true, false))
		other := 1 - c.at[name]
		must[api.Volume](c.t)(c.hosts[other].Wake(ctx, name, false, ""))
		c.at[name] = other
	case 12: // a restart, with whatever is dirty
		host := c.r.IntN(2)
		if err := c.hosts[host].Close(ctx); err != nil {
			c.t.Fatal(err)
		}
		c.hosts[host] = c.b.host(c.dirs[host], string("ab"[host]))
	case 13: // of an older state, on the other host
		gens := c.history(name)
		if len(gens) == 0 {
			return
		}
		g := gens[c.r.IntN(len(gens))]
		_, err := c.hosts[1-c.at[name]].Fork(ctx, api.ForkRequest{Source: name, Name: fresh, At: g})
		if err != nil && errs.KindOf(err) == errs.NotFound {
			return // it was collected
		}
		if err != nil {
			c.t.Fatalf("fork of %s at %s: %v", name, g, err)
		}
		_, got, err := published(c.b.store, fresh)
		if err != nil {
			c.t.Fatalf("a fork of %s at %s: %v", name, g, err)
		}
		c.at[fresh], c.has[fresh] = 1-c.at[name], got
	case 11:
		st := h.disks.Find(disk.Name{Tenant: "default", Volume: name}).State()
		if st.Published == nil {
			return
		}
		g := disk.Generation(st.Published)
		before, want, err := published(c.b.store, name)
		if err != nil {
			c.t.Fatalf("%s: %v", name, err)
		}
		if before.Generation != g {
			return
		}
		if _, err := h.Rollback(ctx, name, g.String(), false); errs.KindOf(err) == errs.NotFound && err != nil {
			return
		} else if err != nil {
			c.t.Fatal(err)
		}
		c.has[name] = want
	}
}

// history is the generations that the store has of a volume.
func (c *churn) history(name string) (gens []string) {
	err := commitlog.History(ctx, tenantstest.New(c.b.store, tenantstest.Shared()).Keyed(c.b.store), commitlog.Volume{Tenant: "default", Name: name}, commitlog.Generation{}, 0, func(o *commitlog.Object) error {
		if !o.Bare() {
			gens = append(gens, o.Generation.String())
		}
		return nil
	})
	if err != nil && errs.KindOf(err) != errs.NotFound {
		c.t.Fatal(err)
	}
	return gens
}

// check flushes everything, and reads it from the store alone.
func (c *churn) check() {
	c.t.Helper()
	for name, host := range c.at {
		must[api.Flush](c.t)(c.hosts[host].Flush(ctx, name))
		if _, got, err := published(c.b.store, name); err != nil || !bytes.Equal(got, c.has[name]) {
			c.t.Fatalf("%s is not in the store as it was flushed: %v", name, err)
		}
	}
}

func newChurn(t *testing.T, seed uint64) *churn {
	b := newBed(t)
	b.retention = time.Millisecond
	dirs := []string{t.TempDir(), t.TempDir()}
	return &churn{t: t, b: b, r: rand.New(rand.NewPCG(seed, 1)), dirs: dirs, hosts: []*Host{b.host(dirs[0], "a"), b.host(dirs[1], "b")}, at: map[string]int{}, has: map[string][]byte{}}
}

// TestCollectedChurn: rounds at every stage between the steps of random histories lose
// nothing that was flushed, and leave nothing that cannot be reached.
func TestCollectedChurn(t *testing.T) {
	for seed := range uint64(12) {
		c := newChurn(t, seed)
		for range 120 {
			c.step()
			switch c.r.IntN(6) {
			case 0: // flags, if no round is open
				runRound(t, c.b.store, time.Hour)
			case 1:
				runRound(t, c.b.store, 0)
			}
		}
		c.check()
		for name, host := range c.at {
			if err := c.hosts[host].Remove(ctx, name, false); err != nil {
				t.Fatal(err)
			}
		}
		for _, h := range c.hosts {
			// A host keeps its record of what it has released, and pins what that names, until
			// it hears that the volume is gone.
			for _, d := range h.disks.All() {
				if d.State().Released {
					if err := h.Remove(ctx, d.String(), false); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := h.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for range 4 {
			runRound(t, c.b.store, 0)
		}
		if n, m := countKeys(t, c.b.store, "packs/"), countKeys(t, c.b.store, "forwards/"); n+m != 0 {
			t.Errorf("seed %d: %d packs and %d forwards are left in a store without volumes", seed, n, m)
		}
	}
}

// choosy is a store that takes so many objects of a kind, and no more.
type choosy struct {
	objstore.Store
	kind string // "": all are taken
	left int
}

func (s *choosy) takes(key string) error {
	if s.kind != "" && (strings.HasPrefix(key, s.kind) || s.kind == "packs/" && isPack(key)) {
		if s.left--; s.left < 0 {
			return errs.New(errs.Unavailable, "no %s for now", s.kind)
		}
	}
	return nil
}

func (s *choosy) Put(ctx context.Context, key string, data []byte) error {
	if err := s.takes(key); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, data)
}

func (s *choosy) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if err := s.takes(key); err != nil {
		return err
	}
	return s.Store.PutIfAbsent(ctx, key, data)
}

// TestLastLocalSnapshot: a snapshot was uploaded, and the commit that was to list it did not
// come about, so a pin keeps it. When the snapshot goes, so does the pin, although nothing is
// published then; but not while that commit may still take effect.
func TestLastLocalSnapshot(t *testing.T) {
	for _, c := range []struct {
		name    string
		expires bool // else it is removed
		fails   string
		takes   int
		left    int // pins, without the snapshot
	}{
		{"removed", false, "packs/", 1, 0}, {"expired", true, "packs/", 1, 0},
		{"removed under a commit", false, "t/", 0, 1}, {"expired under a commit", true, "t/", 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t)
			store := &choosy{Store: b.store}
			b.store = store
			h := b.host(t.TempDir(), "a")
			for _, name := range []string{"v", "w"} {
				must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: mib}))
			}
			fill(t, h, "v", 1, 0, mib)
			must[api.Flush](t)(h.Flush(ctx, "v"))
			fill(t, h, "v", 2, 0, mib)
			must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
			fill(t, h, "v", 3, 0, mib)
			store.kind, store.left = c.fails, c.takes
			_, err := h.Flush(ctx, "v")
			wantKind(t, err, errs.Unavailable)
			store.kind = ""
			if n := len(pinned(t, store, h.ID())); n != 1 {
				t.Fatalf("%d roots are pinned for a snapshot that no commit lists", n)
			}
			if c.expires {
				s := must[*disk.Disk](t)(h.disks.Local("v@s", true))
				if err := s.Update(func(s *volume.State) { s.ExpiresAt = h.disks.Now().Add(-time.Hour) }); err != nil {
					t.Fatal(err)
				}
				h.undo.Expire(ctx)
			} else if err := h.Remove(ctx, "v@s", false); err != nil {
				t.Fatal(err)
			}
			if _, err := h.disks.Local("v@s", true); err == nil {
				t.Fatal("the snapshot is still there")
			}
			if n := len(pinned(t, store, h.ID())); n != c.left {
				t.Errorf("%d roots are pinned without the snapshot, and %d are to be", n, c.left)
			}
			must[api.Flush](t)(h.Flush(ctx, "w")) // which may drop pins, too
			if n := len(pinned(t, store, h.ID())); n != c.left {
				t.Errorf("%d roots are pinned when another volume was published, and %d are to be", n, c.left)
			}
			must[api.Flush](t)(h.Flush(ctx, "v"))
			if n := len(pinned(t, store, h.ID())); n != 0 {
				t.Errorf("%d roots are pinned when the volume was published", n)
			}
		})
	}
}

// TestLastLocalFork: a published volume moves on over what a local fork needs, which a pin
// keeps. When the fork goes, so does the pin, although nothing is published then.
func TestLastLocalFork(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	fill(t, h, "v", 1, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	fill(t, h, "v", 2, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	if n := countKeys(t, b.store, "pins/"); n != 1 {
		t.Fatalf("%d pins keep what the fork needs", n)
	}
	if err := h.Remove(ctx, "kid", false); err != nil {
		t.Fatal(err)
	}
	if n := countKeys(t, b.store, "pins/"); n != 0 {
		t.Errorf("%d pins are left without the fork", n)
	}
	before := b.count.Counts()
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "w", Size: mib}))
	if err := h.Remove(ctx, "w", false); err != nil {
		t.Fatal(err)
	}
	if after := b.count.Counts(); after != before {
		t.Errorf("a volume that was only here made requests: %+v, %+v", before, after)
	}
}

// TestCollectedMeanwhile: two collectors run all the time beside such a history.
func TestCollectedMeanwhile(t *testing.T) {
	for seed := range uint64(4) {
		c := newChurn(t, 100+seed)
		stop, cancel := context.WithCancel(ctx)
		var collectors sync.WaitGroup
		for i := range 2 {
			collectors.Go(func() {
				for stop.Err() == nil {
					_, err := gc.Run(stop, gc.Options{Store: c.b.store, Tenants: tenantstest.New(c.b.store, tenantstest.Shared()), By: fmt.Sprint("c", i), Retention: time.Nanosecond, MinDead: 1})
					if err != nil && stop.Err() == nil && !errors.Is(err, errs.NotFound) {
						t.Errorf("collector: %v", err)
						return
					}
				}
			})
		}
		for range 150 {
			c.step()
		}
		c.check()
		cancel()
		collectors.Wait()
		c.check()
	}
}

// TestUnreadableRootStopsTheRound: if any root cannot be read, nothing is deleted, and the
// error names it.
func TestUnreadableRootStopsTheRound(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	for _, name := range []string{"v", "w"} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: 4 * mib}))
		fill(t, h, name, uint64(name[0]), 0, mib)
		must[api.Flush](t)(h.Flush(ctx, name))
	}
	if err := h.Remove(ctx, "w", false); err != nil {
		t.Fatal(err)
	}
	key := keysOf(t, b.store, b.logOf("v"))[0]
	raw := must[[]byte](t)(b.store.Get(ctx, key))
	packs := func() (n int) {
		for _, key := range keysOf(t, b.store, "") {
			if isPack(key) {
				n++
			}
		}
		return n
	}
	before := packs()
	for bit := range 8 * (56 + 1) { // of its header, and of its last byte
		bad := bytes.Clone(raw)
		at := bit / 8
		if at == 56 {
			at = len(bad) - 1
		}
		bad[at] ^= 1 << (bit % 8)
		if err := b.store.Put(ctx, key, bad); err != nil {
			t.Fatal(err)
		}
		_, err := gc.Run(ctx, gc.Options{Store: b.store, Tenants: tenantstest.New(b.store, tenantstest.Shared()), By: "test", Retention: time.Nanosecond})
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("an unreadable root, bit %d of byte %d: %v", bit%8, at, err)
		}
	}
	if n := packs(); n != before || n == 0 {
		t.Errorf("%d packs of %d are left after rounds that had to stop", n, before)
	}
}

// hooked is a store that calls a function before it creates an object of a kind, once.
type hooked struct {
	objstore.Store
	suffix string
	once   sync.Once
	before func()
}

func (s *hooked) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if strings.HasSuffix(key, s.suffix) {
		s.once.Do(s.before)
	}
	return s.Store.PutIfAbsent(ctx, key, data)
}

// TestSecondMark: a host announces a dedup hit after a mark has read the pins, and sees no
// round yet. It publishes before the pack is flagged. Only a mark after the flag finds that
// out.
func TestSecondMark(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	for _, name := range []string{"v", "w"} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: 4 * mib}))
		fill(t, h, name, uint64(name[0]), 0, mib)
		must[api.Flush](t)(h.Flush(ctx, name))
	}
	if err := h.Remove(ctx, "w", false); err != nil {
		t.Fatal(err)
	}
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	runRound(t, b.store, 0) // the commits of w
	before := countKeys(t, b.store, "packs/")
	var want []byte
	store := &hooked{Store: b.store, suffix: "/flags", before: func() {
		want = fill(t, h, "v", 'w', 2*mib, mib)
		if f := must[api.Flush](t)(h.Flush(ctx, "v")); f.BlocksNew != 0 {
			t.Errorf("%d blocks were stored again", f.BlocksNew)
		}
		if err := h.publisher.Session.Rotate(ctx); err != nil {
			t.Error(err)
		}
	}}
	if r := runRound(t, store, 0); r.FlaggedObjects == 0 {
		t.Fatalf("nothing was flagged of %d packs: %+v", before, r)
	}
	if _, got, err := published(b.store, "v"); err != nil || !bytes.Equal(got[2*mib:3*mib], want) {
		t.Fatalf("what a commit names is not there: %v", err)
	}
}
