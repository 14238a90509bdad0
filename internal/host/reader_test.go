package host

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pin"
	"github.com/paraglide/glide/internal/tenants"
)

// TestReadingWakesNothing: verbs that only read leave a sleeping volume asleep, and a
// released volume unclaimed.
func TestReadingWakesNothing(t *testing.T) {
	b := newBed(t)
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	for _, name := range []string{"here", "there"} {
		must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: name, Size: mib}))
		fill(t, h1, name, 1, 0, 8192)
	}
	must[api.Volume](t)(h1.Sleep(ctx, "here", false, false))
	slept := must[api.Volume](t)(h1.Sleep(ctx, "there", true, false))
	puts := b.count.Counts().Put
	all := must[api.Usage](t)(h1.Usage(ctx, ""))
	if all.Logical != 2*mib || all.Dirty != 8192 || all.Stored == 0 {
		t.Errorf("%+v", all)
	}
	for _, name := range []string{"here", "there"} {
		if u := must[api.Usage](t)(h1.Usage(ctx, name)); u.Exclusive == 0 {
			t.Errorf("%s: %+v", name, u)
		}
		must[api.Verify](t)(h1.Verify(ctx, name, false))
		must[api.Exported](t)(h1.Export(ctx, name)).Close()
	}
	if diff := must[api.Diff](t)(h1.Diff(ctx, "here", "there")); len(diff.Ranges) != 0 {
		t.Errorf("%+v", diff)
	}
	for _, v := range must[[]api.Volume](t)(h1.List(ctx, false)) {
		if v.State != "asleep" {
			t.Errorf("%s is %s", v.Name, v.State)
		}
	}
	if n := b.count.Counts().Put; n != puts {
		t.Errorf("reading made %d puts", n-puts)
	}
	delete(b.peers, "a") // no host need be asked
	if v := must[api.Volume](t)(h2.Wake(ctx, "there", false, slept.Generation)); v.State != "active" {
		t.Errorf("%+v", v)
	}
}

// TestWokenWhileItIsRead: a volume that was woken during a read stays awake when the last
// reader ends. Otherwise it goes back to sleep then.
func TestWokenWhileItIsRead(t *testing.T) {
	h := newBed(t).host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	want := fill(t, h, "v", 1, 0, 8192)
	for name, wake := range map[string]func(){
		"nobody": nil,
		"wake":   func() { must[api.Volume](t)(h.Wake(ctx, "v", false, "")) },
		"guest": func() {
			e, err := h.exports.Open("v")
			if err != nil {
				t.Fatal(err)
			}
			e.Closed()
		},
		"fork": func() {
			must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "f"}))
		},
	} {
		must[api.Volume](t)(h.Sleep(ctx, "v", false, false))
		one, two := must[api.Exported](t)(h.Export(ctx, "v")), must[api.Exported](t)(h.Export(ctx, "v"))
		one.Close()
		state := "asleep"
		if wake != nil {
			wake()
			state = "active"
		}
		two.Close()
		if v := must[api.Volume](t)(h.Show(ctx, "v")); v.State != state {
			t.Errorf("%s: %s, want %s", name, v.State, state)
		}
		same(t, h, "v", 0, want)
	}
}

// TestStoreThatHangsHoldsUpNoVerb: while a seal check waits for a store that hangs, a
// volume that needs no store can be used.
func TestStoreThatHangsHoldsUpNoVerb(t *testing.T) {
	b := newBed(t)
	faults := objstore.NewFaults(b.store, 1)
	block := make(chan struct{})
	h := small(t, hangs{faults, block}, vfs.NewMem())
	defer close(block)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	fill(t, h, "v", 1, 0, 8192)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[api.Volume](t)(h.Sleep(ctx, "v", false, false))
	e, err := h.exports.Open("v") // which starts a seal check
	if err != nil {
		t.Fatal(err)
	}
	defer e.Closed()
	done := make(chan struct{})
	go func() {
		defer close(done)
		must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v@s", Name: "f"}))
		must[api.Usage](t)(h.Usage(ctx, ""))
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("verbs wait for the store")
	}
}

// TestStartDoesNotWaitForAStoreThatHangs: guests are served again soon after the start.
func TestStartDoesNotWaitForAStoreThatHangs(t *testing.T) {
	store, disk := objstore.NewMem(objstore.Clock{}), vfs.NewMem()
	h := small(t, store, disk)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	fill(t, h, "v", 1, 0, 8192)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	block := make(chan struct{})
	time.AfterFunc(20*time.Second, func() { close(block) })
	began := time.Now()
	wantNames(t, small(t, hangs{store, block}, disk), false, "v")
	if took := time.Since(began); took > pin.RecoverTimeout+3*time.Second {
		t.Fatalf("the start took %v", took)
	}
}

// hangs is a store that does not answer seal checks. It shows what tenants there are, and
// their keys.
type hangs struct {
	objstore.Store
	block chan struct{}
}

func (s hangs) Get(ctx context.Context, key string) ([]byte, error) {
	if strings.HasPrefix(key, tenants.Prefix) || strings.HasPrefix(key, "keys/") {
		return s.Store.Get(ctx, key)
	}
	select {
	case <-s.block:
	case <-ctx.Done():
	}
	return nil, context.Canceled
}

func (s hangs) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if strings.HasPrefix(prefix, "keys/") {
		return s.Store.List(ctx, prefix, after, limit)
	}
	select {
	case <-s.block:
	case <-ctx.Done():
	}
	return nil, errs.New(errs.Unavailable, "no answer")
}
