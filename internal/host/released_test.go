package host

import (
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/volume"
)

// TestReleasedIsShownAsItIs: a released volume is shown as the store has it, whichever
// host woke or removed it since. A list of this host's volumes makes no request, and says
// that it does not know.
func TestReleasedIsShownAsItIs(t *testing.T) {
	b, h1, h2, _ := twoHosts(t)
	slept := must[api.Volume](t)(h1.Sleep(ctx, "v", true, false))
	local := func(h *Host) api.Volume {
		t.Helper()
		before := b.count.Counts()
		list := must[[]api.Volume](t)(h.List(ctx, false))
		if n := b.count.Counts(); n != before || len(list) != 1 {
			t.Fatalf("a list of %+v cost %+v, %+v before", list, n, before)
		}
		return list[0]
	}
	if v := local(h1); v.State != "asleep" || v.Owner != "" || !strings.Contains(v.Reason, "may already have") {
		t.Errorf("%+v", v)
	}
	for _, h := range []*Host{h1, h2} {
		if v := must[api.Volume](t)(h.Show(ctx, "v")); v.Owner != "" || v.Generation != slept.Generation && h == h1 || strings.Contains(v.Reason, "may already have") {
			t.Errorf("%+v", v)
		}
	}
	woken := must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
	if v := local(h1); v.State != "asleep" || v.Owner != "" {
		t.Errorf("%+v", v)
	}
	list := must[[]api.Volume](t)(h1.List(ctx, true))
	for _, v := range append(list, must[api.Volume](t)(h1.Show(ctx, "v"))) {
		if v.State != "remote" || v.Owner != h2.ID() || v.Generation != woken.Generation || len(list) != 1 {
			t.Errorf("%+v", v)
		}
	}
	if err := h2.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	_, err := h1.Show(ctx, "v")
	wantKind(t, err, errs.NotFound)
	wantNames(t, h1, true)
	wantNames(t, h1, false, "v")
	if err := h1.Remove(ctx, "v", false); err != nil {
		t.Fatalf("what another host removed cannot be taken off this one: %v", err)
	}
	wantNames(t, h1, false)
}

// TestReleasedIsNotRemovedElsewhere: if another host woke the volume meanwhile, removing
// it here fails and says so. A second removal removes what is left of it on this host.
func TestReleasedIsNotRemovedElsewhere(t *testing.T) {
	_, h1, h2, data := twoHosts(t)
	must[api.Volume](t)(h1.Sleep(ctx, "v", true, false))
	must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
	wantKind(t, h1.Remove(ctx, "v", false), errs.Fenced)
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.State != "fenced" {
		t.Errorf("%+v", v)
	}
	if err := h1.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	wantNames(t, h1, false)
	same(t, h2, "v", 0, data)
	must[api.Flush](t)(h2.Flush(ctx, "v"))
}

// TestRemoveOfWhatWasTakenInItsSleep: a volume is taken over while it sleeps here. Its
// unpublished data is rescued, and the rest of it can be removed.
func TestRemoveOfWhatWasTakenInItsSleep(t *testing.T) {
	b, h1, h2, data := twoHosts(t)
	must[api.Volume](t)(h1.Sleep(ctx, "v", false, false))
	delete(b.peers, "a")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	wantKind(t, h1.Remove(ctx, "v", false), errs.Fenced)
	wantNames(t, h1, false, "v", "v.rescue-1")
	if err := h1.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	wantNames(t, h1, false, "v.rescue-1")
	same(t, h1, "v.rescue-1", 0, data)
}

// TestTakenWhileTheHostWasAway: a volume is taken over while its host is stopped. It is
// fenced soon after the host starts, whether it is written to or not.
func TestTakenWhileTheHostWasAway(t *testing.T) {
	b, h1, h2, data := twoHosts(t)
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "stays", Size: mib, Durability: volume.Sync}))
	if err := h1.Close(ctx); err != nil {
		t.Fatal(err)
	}
	delete(b.peers, "a")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	h1 = b.host(h1.cfg.Data, "a")
	for deadline := time.Now().Add(10 * time.Second); must[api.Volume](t)(h1.Show(ctx, "v")).State != "fenced"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it goes on being served")
		}
	}
	same(t, h1, "v.rescue-1", 0, data)
	if v := must[api.Volume](t)(h1.Show(ctx, "stays")); v.State != "active" {
		t.Errorf("%+v", v)
	}
}

// TestReleasedAndTheStoreAway: the host shows what it knows, and says what it does not
// know.
func TestReleasedAndTheStoreAway(t *testing.T) {
	b := newBed(t)
	faults := objstore.NewFaults(b.store, 1)
	b.store = faults
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	must[api.Volume](t)(h.Sleep(ctx, "v", true, false))
	faults.Inject(objstore.Fault{})
	if v := must[api.Volume](t)(h.Show(ctx, "v")); v.State != "asleep" || !strings.Contains(v.Reason, "could not be asked") {
		t.Errorf("%+v", v)
	}
}
