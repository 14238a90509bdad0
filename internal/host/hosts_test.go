package host

import (
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/ownership"
)

// TestHosts lists which host owns what, and for which hosts something is kept.
func TestHosts(t *testing.T) {
	b, h1, h2, data := twoHosts(t)
	delete(b.peers, "a")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	must[api.Volume](t)(h2.Create(ctx, api.CreateRequest{Name: "w", Size: mib, Durability: "sync"}))
	fill(t, h2, "v", 5, 0, 4096)
	must[api.Flush](t)(h2.Flush(ctx, "v"))
	_, err := h1.Flush(ctx, "v")
	wantKind(t, err, errs.Fenced)

	find := func(id string) api.StoreHost {
		for _, s := range must[[]api.StoreHost](t)(h2.Hosts(ctx)) {
			if s.ID == id {
				return s
			}
		}
		return api.StoreHost{}
	}
	if s := find(h1.ID()); s.Kept != 1 || s.Volumes != 0 || s.Self {
		t.Errorf("the fenced host: %+v", s)
	}
	if s := find(h2.ID()); s.Volumes != 2 || !s.Self || s.LastCommit.IsZero() || s.Addresses[0] != "b" {
		t.Errorf("the owner: %+v", s)
	}
	same(t, h1, "v.rescue-1", 0, data)
}

// TestForgetHost: what is kept for a host after a takeover stays until an operator gives
// it up. It cannot be given up while the host responds.
func TestForgetHost(t *testing.T) {
	b, h1, h2, _ := twoHosts(t)
	_, err := h2.ForgetHost(ctx, h1.ID(), false) // it owns v, and responds
	wantKind(t, err, errs.WouldLose)
	_, err = h2.ForgetHost(ctx, h2.ID(), true)
	wantKind(t, err, errs.Invalid)
	_, err = h2.ForgetHost(ctx, "nobody", false)
	wantKind(t, err, errs.NotFound)
	_, err = h2.ForgetHost(ctx, "../x", false)
	wantKind(t, err, errs.Invalid)
	delete(b.peers, "a")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	b.peers["a"] = h1 // it was not dead after all, and has its rescue volume
	_, err = h2.ForgetHost(ctx, h1.ID(), false)
	wantKind(t, err, errs.WouldLose)
	delete(b.peers, "a")
	f := must[api.Forgotten](t)(h2.ForgetHost(ctx, h1.ID(), false))
	if len(f.Volumes) != 1 || f.Volumes[0] != "v" || len(f.Left) != 0 {
		t.Errorf("%+v", f)
	}
	tip, err := commitlog.Newest(ctx, b.logs(), commitlog.Volume{Tenant: "default", Name: "v"})
	if err != nil || len(tip.State.SealedFrom) != 0 {
		t.Errorf("%+v, %v", tip.State.SealedFrom, err)
	}
	fill(t, h2, "v", 6, 0, 4096)
	must[api.Flush](t)(h2.Flush(ctx, "v"))
	events := must[[]api.Event](t)(h2.Events(ctx, 0, 0))
	if len(events) == 0 || !strings.Contains(events[len(events)-1].Message, "forgotten") {
		t.Errorf("%+v", events)
	}
	last := events[len(events)-1].Sequence
	if none := must[[]api.Event](t)(h2.Events(ctx, last, 10*time.Millisecond)); len(none) != 0 {
		t.Errorf("%+v", none)
	}
}

// TestBarrier waits for one write of a volume, with either kind of policy. It publishes
// nothing that is already published.
func TestBarrier(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	for name, policy := range map[string]string{"l": "local", "s": "sync", "c": "continuous"} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: mib, Durability: policy}))
		fill(t, h, name, 1, 0, 4096)
		v := must[api.Volume](t)(h.Show(ctx, name))
		if v.Sequence == 0 || v.PublishedTo >= v.Sequence {
			t.Errorf("%s: %+v", name, v)
		}
		must[api.Flush](t)(h.Barrier(ctx, name, v.Sequence))
		after := must[api.Volume](t)(h.Show(ctx, name))
		if after.PublishedTo < v.Sequence || after.DirtyBytes != 0 {
			t.Errorf("%s: %+v", name, after)
		}
		before := b.count.Counts().Requests()
		must[api.Flush](t)(h.Barrier(ctx, name, v.Sequence))
		if n := b.count.Counts().Requests() - before; n != 0 {
			t.Errorf("%s: a barrier behind the store made %d requests", name, n)
		}
		_, err := h.Barrier(ctx, name, v.Sequence+1000)
		wantKind(t, err, errs.Invalid)
	}
}

// TestForgetAsksOnce: the wait for a host that does not respond happens once, however
// many volumes it owned.
func TestForgetAsksOnce(t *testing.T) {
	b, h1, h2, _ := twoHosts(t)
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "w", Size: mib, Durability: "sync"}))
	delete(b.peers, "a")
	asked := 0
	h2.owners.Dial = func(addr, id string) (ownership.Peer, error) {
		asked++
		if id != h1.ID() {
			t.Errorf("it is asked as host %q, and the log names %q", id, h1.ID())
		}
		return b.dial(addr, id)
	}
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	asked = 0
	must[api.Forgotten](t)(h2.ForgetHost(ctx, h1.ID(), false))
	if asked != 1 {
		t.Errorf("it was asked %d times", asked)
	}
}
