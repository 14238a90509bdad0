package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	"github.com/paraglide/glide/internal/objstore/objstoretest"
	"github.com/paraglide/glide/internal/rekey"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// rekeyBed is a store with a sealed tenant acme, a host with volumes of it, and what these
// hold. Its first root was replaced.
func rekeyBed(t *testing.T) (b *bed, h *Host, want map[string][]byte) {
	t.Helper()
	b = newBed(t)
	b.retention = time.Nanosecond
	if len(b.keys) == 0 {
		b.keys = append(b.keys, tenantstest.Shared())
	}
	tenantstest.Create(t, b.store, tenantstest.Shared(), "acme")
	h = b.host(t.TempDir(), "a")
	want = map[string][]byte{}
	for i, name := range []string{"acme/v", "acme/w"} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: 16 * mib}))
		want[name] = fill(t, h, name, uint64(i), 0, 4*mib)
		must[api.Flush](t)(h.Flush(ctx, name))
	}
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "acme/v", Name: "acme/fork"}))
	want["acme/fork"] = append(fill(t, h, "acme/fork", 5, 0, mib), want["acme/v"][mib:]...)
	must[api.Flush](t)(h.Flush(ctx, "acme/fork"))
	if err := h.Remove(ctx, "acme/w", false); err != nil { // its tombstone stays
		t.Fatal(err)
	}
	delete(want, "acme/w")
	must[tenants.Info](t)(h.disks.Tenants.Rotate(ctx, "acme", false))
	return b, h, want
}

// rekeying is a run as a daemon makes it.
func rekeying(h *Host, store objstore.Store) rekey.Options {
	return rekey.Options{
		Tenants: tenantstest.New(store, tenantstest.Shared()), Store: store, Name: "acme", By: "test",
		Now: func() time.Time { return time.Now().Add(time.Hour) },
		Roll: func(ctx context.Context, vol commitlog.Volume) error {
			d := h.disks.Find(disk.Name{Tenant: vol.Tenant, Volume: vol.Name})
			if d == nil || d.Owned.Load() == nil {
				return errs.New(errs.NotFound, "another's")
			}
			return d.Owned.Load().Roll(ctx)
		},
	}
}

// rekeyed runs rounds and runs until nothing is left.
func rekeyed(t *testing.T, h *Host, store objstore.Store) rekey.Report {
	t.Helper()
	return rekeyedAs(t, h, store, "acme")
}

func rekeyedAs(t *testing.T, h *Host, store objstore.Store, tenant string) (all rekey.Report) {
	t.Helper()
	for range 8 {
		o := rekeying(h, store)
		o.Name = tenant
		r, err := rekey.Run(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		all.Packs += r.Packs
		all.Stubs += r.Stubs
		if all.PacksLeft, all.CommitsLeft = r.PacksLeft, r.CommitsLeft; all.Done() {
			return all
		}
		if err := h.publisher.Session.Rotate(ctx); err != nil {
			t.Fatal(err)
		}
		must[gc.Result](t)(gc.Run(ctx, gc.Options{Store: store, Tenants: tenantstest.New(store, tenantstest.Shared()), By: "test", Retention: time.Nanosecond, MinDead: 1}))
	}
	t.Fatalf("it does not end: %+v", all)
	return all
}

// TestRekey: while a guest writes and a collector runs, everything comes under the new root;
// then the old one is retired, and everything can be read.
func TestRekey(t *testing.T) {
	b, h, want := rekeyBed(t)
	o := rekeying(h, b.store)
	if _, err := rekey.Retire(ctx, o, 1); errs.KindOf(err) != errs.WouldLose {
		t.Fatalf("retired too early: %v", err)
	}
	stop := make(chan struct{})
	var beside sync.WaitGroup
	wrote := 0
	beside.Go(func() {
		for n := uint64(100); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			more := random(n, 256<<10)
			if err := vol(t, h, "acme/v").WriteAt(more, 4*mib); err != nil {
				t.Error(err)
				return
			}
			if _, err := h.Flush(ctx, "acme/v"); err != nil {
				t.Error(err)
				return
			}
			want["acme/v"] = append(want["acme/v"][:4*mib:4*mib], more...)
			wrote++
		}
	})
	beside.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			_, err := gc.Run(ctx, gc.Options{Store: b.store, Tenants: tenantstest.New(b.store, tenantstest.Shared()), By: "beside", Retention: time.Nanosecond, MinDead: 1})
			if err != nil && errs.KindOf(err) != errs.NotFound && errs.KindOf(err) != errs.Busy {
				t.Errorf("the collector: %v", err)
			}
		}
	})
	moved := 0
	for range 5 {
		r, err := rekey.Run(ctx, rekeying(h, b.store))
		if err != nil && errs.KindOf(err) != errs.Busy && errs.KindOf(err) != errs.NotFound {
			t.Errorf("beside a guest and a collector: %v", err)
		}
		moved += r.Packs
	}
	close(stop)
	beside.Wait()
	all := rekeyed(t, h, b.store)
	if moved+all.Packs == 0 || wrote == 0 {
		t.Errorf("%d packs were sealed again beside a guest who wrote %d times, %d after that", moved, wrote, all.Packs)
	}
	if _, err := rekey.Retire(ctx, rekey.Options{Tenants: o.Tenants, Store: b.store, Name: "acme"}, 1); errs.KindOf(err) != errs.Busy {
		t.Errorf("retired just after the rotation: %v", err)
	}
	info := must[tenants.Info](t)(rekey.Retire(ctx, o, 1))
	if len(info.Roots) != 2 || info.Roots[0].State != "retired" {
		t.Fatalf("%+v", info.Roots)
	}
	if _, err := rekey.Retire(ctx, o, 2); errs.KindOf(err) != errs.Invalid {
		t.Errorf("the current root: %v", err)
	}
	far := b.host(t.TempDir(), "b")
	for name, data := range want {
		if _, got, err := published(b.store, name); err != nil || !bytes.Equal(got[:len(data)], data) {
			t.Errorf("%s: %v", name, err)
		}
		must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: name, Name: name + "-far", Lazy: true}))
		same(t, far, name+"-far", 0, data)
		if v := must[api.Verify](t)(far.Verify(ctx, name+"-far", true)); v.Blocks == 0 || len(v.Damaged) > 0 {
			t.Errorf("%s: verified %+v", name, v)
		}
	}
}

// TestRetireTooEarly: one object under an old root is enough for a refusal.
func TestRetireTooEarly(t *testing.T) {
	b, h, _ := rekeyBed(t)
	before := stored(t, b.store)
	rekeyed(t, h, b.store)
	o := rekeying(h, b.store)
	done := 0
	for key, raw := range before {
		if now, err := b.store.Get(ctx, key); err == nil && bytes.Equal(now, raw) || !isPack(key) && !strings.Contains(key, "/log/") {
			continue
		}
		was, err := b.store.Get(ctx, key)
		there := err == nil
		if err := b.store.Put(ctx, key, raw); err != nil {
			t.Fatal(err)
		}
		if _, err := rekey.Retire(ctx, o, 1); errs.KindOf(err) != errs.WouldLose || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is under root 1: %v", key, err)
		}
		if there {
			err = b.store.Put(ctx, key, was)
		} else {
			err = b.store.Delete(ctx, key)
		}
		if err != nil {
			t.Fatal(err)
		}
		done++
	}
	if done < 4 {
		t.Errorf("only %d objects were tried", done)
	}
	must[tenants.Info](t)(rekey.Retire(ctx, o, 1))
}

// TestRekeyDies: it dies before each of its requests that change something, and is run again.
func TestRekeyDies(t *testing.T) {
	for at, died := 1, true; died; at++ {
		t.Run(fmt.Sprint("write ", at), func(t *testing.T) {
			b, h, want := rekeyBed(t)
			died = false
			s := &dying{Store: b.store, left: at - 1}
			o := rekeying(h, s)
			o.Tenants = tenantstest.New(b.store, tenantstest.Shared())
			if _, err := rekey.Run(ctx, o); errors.Is(err, errStopped) {
				died = true
			} else if err != nil {
				t.Fatal(err)
			}
			rekeyed(t, h, b.store)
			must[tenants.Info](t)(rekey.Retire(ctx, rekeying(h, b.store), 1))
			for name, data := range want {
				if _, got, err := published(b.store, name); err != nil || !bytes.Equal(got[:len(data)], data) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		if at > 200 || t.Failed() {
			t.Fatal("it goes on and on")
		}
	}
}

// dying is the store of a process that dies after so many changes.
type dying struct {
	objstore.Store
	mu   sync.Mutex
	left int
}

func (s *dying) change() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left--; s.left < 0 {
		return errStopped
	}
	return nil
}

func (s *dying) Put(ctx context.Context, key string, data []byte) error {
	if err := s.change(); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, data)
}

func (s *dying) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if err := s.change(); err != nil {
		return err
	}
	return s.Store.PutIfAbsent(ctx, key, data)
}

func (s *dying) DeleteBatch(ctx context.Context, keys []string) error {
	if err := s.change(); err != nil {
		return err
	}
	return s.Store.DeleteBatch(ctx, keys)
}

// TestForkAfterARekey: a volume with nothing new is forked elsewhere after what it had published
// before went past retention.
func TestForkAfterARekey(t *testing.T) {
	b, h, want := rekeyBed(t)
	must[api.Rekey](t)(h.Custody().RekeyTenant(ctx, "acme", api.RekeyRequest{}))
	collectWith(t, b.store, b.keys...)
	far := b.host(t.TempDir(), "far")
	for name, data := range want {
		as := name + "-far"
		must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: name, Name: as}))
		same(t, far, as, 0, data)
	}
}

// TestRekeyAtARate: however many requests are under way, together they move no more bytes a
// second than they may.
func TestRekeyAtARate(t *testing.T) {
	b, h, _ := rekeyBed(t)
	must[api.Import](t)(h.Import(ctx, "acme/img", 0, &bytesSource{b: random(78, 24*mib)}))
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	must[tenants.Info](t)(h.disks.Tenants.Rotate(ctx, "acme", false))
	const rate = 32 * mib
	o := rekeying(h, b.store)
	o.Rate = rate
	began := time.Now()
	r := must[rekey.Report](t)(rekey.Run(ctx, o))
	// Each byte is read and written. What is under way last need not be waited for.
	least := time.Duration(float64(2*r.Bytes-16*mib) / rate * float64(time.Second))
	if took := time.Since(began); r.Bytes < 24*mib || took < least {
		t.Errorf("%d bytes took %v, at least %v are right for %d bytes a second", r.Bytes, took, least, rate)
	}
}

// inFlight counts what is under way of one kind at a time.
type inFlight struct{ now, most int }

// counting counts requests that are under way at once, by what they are about.
type counting struct {
	objstore.Store
	mu    sync.Mutex
	kinds map[string]*inFlight
}

// begin counts a request until the function that it returns is called.
func (s *counting) begin(op, key string) func() {
	kind := op + " pack"
	if strings.HasPrefix(key, "forwards/") {
		kind = op + " forward"
	} else if !isPack(key) {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.kinds[kind]
	if n == nil {
		n = &inFlight{}
		s.kinds[kind] = n
	}
	n.now++
	n.most = max(n.most, n.now)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		n.now--
	}
}

func (s *counting) Get(ctx context.Context, key string) ([]byte, error) {
	defer s.begin("get", key)()
	return s.Store.Get(ctx, key)
}

func (s *counting) PutIfAbsent(ctx context.Context, key string, raw []byte) error {
	defer s.begin("put", key)()
	return s.Store.PutIfAbsent(ctx, key, raw)
}

// TestRekeyFar: a store that is far away is not waited for once for each pack. Few packs are
// in memory at a time.
func TestRekeyFar(t *testing.T) {
	b, h, _ := rekeyBed(t)
	img := random(77, 64*mib)
	must[api.Import](t)(h.Import(ctx, "acme/img", 0, &bytesSource{b: img}))
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	s := &counting{Store: objstoretest.Latency(b.store, objstoretest.LatencyOptions{Fixed: 10 * time.Millisecond}), kinds: map[string]*inFlight{}}
	for range 2 { // the second time there are forwards of the first
		must[tenants.Info](t)(h.disks.Tenants.Rotate(ctx, "acme", false))
		if r := must[rekey.Report](t)(rekey.Run(ctx, rekeying(h, s))); r.Packs < 20 {
			t.Fatalf("%+v", r)
		}
	}
	for kind, most := range map[string]int{"get pack": 7, "put pack": 6, "get forward": 32, "put forward": 32} {
		n := s.kinds[kind]
		if n == nil || n.most < 4 || n.most > most || n.now != 0 {
			t.Errorf("%s: %+v, not 4 to %d at a time", kind, n, most)
		}
	}
	same(t, h, "acme/img", 0, img)
}

// refusing is a store that refuses one pack, once.
type refusing struct {
	objstore.Store
	once sync.Once
}

func (s *refusing) PutIfAbsent(ctx context.Context, key string, raw []byte) (err error) {
	if isPack(key) {
		s.once.Do(func() { err = errs.New(errs.Unavailable, "not now") })
	}
	if err != nil {
		return err
	}
	return s.Store.PutIfAbsent(ctx, key, raw)
}

// TestRekeyUploadFails: while one of several packs is refused and all else goes on, nothing
// gives way to it.
func TestRekeyUploadFails(t *testing.T) {
	b, h, want := rekeyBed(t)
	if err := h.publisher.Session.Rotate(ctx); err != nil { // else its packs are pinned
		t.Fatal(err)
	}
	s := &refusing{Store: b.store}
	_, err := rekey.Run(ctx, rekeying(h, s))
	wantKind(t, err, errs.Unavailable)
	for name, data := range want {
		if _, got, err := published(b.store, name); err != nil || !bytes.Equal(got[:len(data)], data) {
			t.Errorf("%s: %v", name, err)
		}
	}
	rekeyed(t, h, b.store)
	for name, data := range want {
		if _, got, err := published(b.store, name); err != nil || !bytes.Equal(got[:len(data)], data) {
			t.Errorf("%s, in the end: %v", name, err)
		}
	}
}
