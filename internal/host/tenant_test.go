package host

import (
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// TestTenantOfAFork: volumes of a tenant are forked, published, renamed and shown like
// any other. The parent has the name that users write.
func TestTenantOfAFork(t *testing.T) {
	b := newBed(t)
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "acme/v", Size: mib}))
	data := fill(t, h1, "acme/v", 1, 0, 8192)
	for name, durability := range map[string]string{"acme/child": volume.Local, "acme/safe": volume.Sync} {
		must[[]api.Fork](t)(h1.Fork(ctx, api.ForkRequest{Source: "acme/v", Name: name, Durability: durability}))
		must[api.Flush](t)(h1.Flush(ctx, name))
		for _, h := range []*Host{h1, h2} {
			if v := must[api.Volume](t)(h.Show(ctx, name)); v.Parent != "acme/v" || v.Tenant != "acme" {
				t.Errorf("%s shows %+v", name, v)
			}
		}
	}
	must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "acme/child", Name: "acme/grandchild"}))
	same(t, h2, "acme/grandchild", 0, data)
	if v := must[api.Volume](t)(h2.Show(ctx, "acme/grandchild")); v.Parent != "acme/child" {
		t.Errorf("a fork from another host shows %+v", v)
	}
	must[api.Volume](t)(h1.Rename(ctx, "acme/child", "acme/adult"))
	_, err := h2.Show(ctx, "acme/child")
	wantKind(t, err, errs.NotFound)
	if !strings.Contains(err.Error(), `renamed to "acme/adult"`) {
		t.Error(err)
	}
}

// TestDefaultTenantIsNotPrinted: neither in a field nor in an error.
func TestDefaultTenantIsNotPrinted(t *testing.T) {
	b := newBed(t)
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "default/v", Size: mib}))
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	for _, h := range []*Host{h1, h2} {
		if v := must[api.Volume](t)(h.Show(ctx, "default/v")); v.Tenant != "" || v.Name != "v" {
			t.Errorf("shown as %+v", v)
		}
	}
	_, err := h1.Rename(ctx, "v", "acme/v")
	wantKind(t, err, errs.Invalid)
	if strings.Contains(err.Error(), "default") {
		t.Error(err)
	}
}

// TestForkElsewhereHasAnRPO: a fork of another host's volume that becomes continuous has
// the default loss window, not one of zero, which no store can keep.
func TestForkElsewhereHasAnRPO(t *testing.T) {
	_, _, h2, _ := twoHosts(t)
	must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "child"}))
	v := must[api.Volume](t)(h2.Set(ctx, "child", api.Settings{"durability": volume.Continuous}))
	if v.RPOms != float64(disk.DefaultRPO/time.Millisecond) {
		t.Fatalf("it became %+v", v)
	}
	if err := guestWrite(guest(t, h2, "child"), 0, random(3, 4096)); err != nil {
		t.Fatal(err)
	}
}

// TestSnapshotThatIsNotThere: the error says that the snapshot is missing, not the
// volume.
func TestSnapshotThatIsNotThere(t *testing.T) {
	_, h1, h2, _ := twoHosts(t)
	must[api.Snapshot](t)(h1.Snapshot(ctx, "v", "s", ""))
	f := must[api.Flush](t)(h1.Flush(ctx, "v"))
	for _, err := range []error{
		func() error { _, err := h1.URI(ctx, "v@t"); return err }(),
		func() error { _, err := h1.Verify(ctx, "v@t", false); return err }(),
		func() error { _, err := h2.Verify(ctx, "v@t", false); return err }(),
		func() error { _, err := h1.Diff(ctx, "v@t", "v"); return err }(),
		h1.Remove(ctx, "v@t", false),
	} {
		wantKind(t, err, errs.NotFound)
		if !strings.Contains(err.Error(), `"v" has no snapshot "t"`) {
			t.Error(err)
		}
	}
	for _, h := range []*Host{h1, h2} {
		if list := must[[]api.Snapshot](t)(h.Snapshots(ctx, "v")); len(list) != 1 || list[0].Generation != f.Generation {
			t.Errorf("the snapshots are %+v, of a volume at %s", list, f.Generation)
		}
	}
}
