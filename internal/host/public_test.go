package host

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/rekey"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// publicBed has a public tenant with an image of 8 MiB whose snapshot 12 is in the store, on
// the host that it returns, and sealed tenants t0 to t9.
func publicBed(t *testing.T) (*bed, *Host, []byte) {
	t.Helper()
	b := newBed(t)
	key := tenantstest.Shared()
	if len(b.keys) == 0 {
		b.keys = append(b.keys, key)
	}
	known := tenantstest.New(b.store, key)
	if _, err := known.Create(ctx, tenants.Birth{Name: "public", Keys: b.keys[len(b.keys)-1:], OneKey: true, Suite: seal.AES256GCM, Public: true}); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		tenantstest.Create(t, b.store, key, fmt.Sprint("t", i))
	}
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "public/debian", Size: 64 * mib}))
	image := fill(t, h, "public/debian", 1, 0, 8*mib)
	must[api.Snapshot](t)(h.Snapshot(ctx, "public/debian", "12", ""))
	must[api.Flush](t)(h.Flush(ctx, "public/debian"))
	return b, h, image
}

func bytesOf(t *testing.T, b *bed) (n int64) {
	for k, raw := range stored(t, b.store) {
		if strings.HasPrefix(k, "d/") || strings.HasPrefix(k, "t/") {
			n += int64(len(raw))
		}
	}
	return n
}

func forkOf(t *testing.T, h *Host, source, name string) api.Fork {
	t.Helper()
	return must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: source, Name: name}))[0]
}

// TestPublicImage: ten tenants fork one public image, which the store has once; each writes
// under its own keys. The image goes, and what the forks name of it stays until the last of
// them is gone, whoever collects.
func TestPublicImage(t *testing.T) {
	b, a, image := publicBed(t)
	far := b.host(t.TempDir(), "c") // it has keys of t0 that say nothing of the image yet
	must[api.Volume](t)(far.Create(ctx, api.CreateRequest{Name: "t0/early", Size: mib}))
	must[api.Flush](t)(far.Flush(ctx, "t0/early"))
	alone := bytesOf(t, b)
	h := b.host(t.TempDir(), "b")
	unique := int64(0)
	want := map[string][]byte{}
	for i := range 10 {
		tenant := fmt.Sprint("t", i)
		forkOf(t, h, "public/debian@12", tenant+"/first")
		f := forkOf(t, h, "public/debian@12", tenant+"/vm")
		if r := f.Requests; r.Put+r.Get+r.List+r.Head+r.Delete > 7 {
			t.Errorf("a fork of another tenant's image takes more than 7 requests: %+v", r)
		}
		if v := must[api.Volume](t)(h.Show(ctx, tenant+"/vm")); v.Parent != "public/debian" || !v.Encrypted {
			t.Errorf("%+v", v)
		}
		same(t, h, tenant+"/vm", 0, image)
		want[tenant+"/vm"] = append(fill(t, h, tenant+"/vm", uint64(100+i), 0, 256<<10), image[256<<10:]...)
		unique += 256 << 10
		must[api.Flush](t)(h.Flush(ctx, tenant+"/vm"))
		same(t, h, tenant+"/vm", 0, want[tenant+"/vm"])
	}
	if n := bytesOf(t, b); float64(n) > 1.05*float64(alone+unique) {
		t.Errorf("the store has %d bytes; the image alone has %d, and the forks wrote %d", n, alone, unique)
	}
	if _, err := a.Custody().EraseTenant(ctx, "public"); errs.KindOf(err) != errs.WouldLose || !strings.Contains(err.Error(), "t0/first") {
		t.Errorf("erased under its forks: %v", err)
	}
	// Rewriting what was there costs nothing, though it is another tenant's.
	before := bytesOf(t, b)
	if err := vol(t, h, "t0/vm").WriteAt(image[4*mib:6*mib], 4*mib); err != nil {
		t.Fatal(err)
	}
	must[api.Flush](t)(h.Flush(ctx, "t0/vm"))
	if n := bytesOf(t, b); n > before+128<<10 {
		t.Errorf("writing what the image has takes %d bytes", n-before)
	}
	for i := range 10 {
		if err := h.Remove(ctx, fmt.Sprintf("t%d/first", i), false); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Remove(ctx, "public/debian", true); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(ctx); err != nil { // its pins go
		t.Fatal(err)
	}
	if r := collectWith(t, b.store, b.keys...); len(r.Skipped) > 0 {
		t.Errorf("skipped: %+v", r.Skipped)
	}
	check := func() {
		t.Helper()
		for name, data := range want {
			as := strings.Replace(name, "/vm", "/far", 1)
			must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: name, Name: as, Lazy: true}))
			same(t, far, as, 0, data)
			if v := must[api.Verify](t)(far.Verify(ctx, as, true)); v.Blocks == 0 || len(v.Damaged) > 0 {
				t.Errorf("%s: verified %+v", name, v)
			}
			if err := far.Remove(ctx, as, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	check()
	for name := range want {
		if name == "t3/vm" {
			continue
		}
		if err := h.Remove(ctx, name, false); err != nil {
			t.Fatal(err)
		}
		delete(want, name)
	}
	collectWith(t, b.store, b.keys...)
	check()
	if err := errors.Join(h.Remove(ctx, "t3/vm", false), far.Remove(ctx, "t0/early", false)); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*Host{h, far} {
		if err := h.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	collectWith(t, b.store, b.keys...)
	for k := range stored(t, b.store) {
		if strings.Contains(k, "/packs/") {
			t.Errorf("no fork is left, and %s is", k)
		}
	}
}

// TestPublicImageLocked: as long as a tenant is locked to a collector, nothing of a public
// tenant goes: its forks may name it.
func TestPublicImageLocked(t *testing.T) {
	b, a, image := publicBed(t)
	own := tenantstest.Key(t)
	b.keys = append(b.keys, own)
	tenantstest.Create(t, b.store, own, "other")
	h := b.host(t.TempDir(), "b")
	forkOf(t, h, "public/debian@12", "other/vm")
	if err := a.Remove(ctx, "public/debian", true); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if r := collectWith(t, b.store, tenantstest.Shared()); len(r.Skipped) != 2 {
		t.Errorf("skipped: %+v", r.Skipped)
	}
	h = b.host(t.TempDir(), "c")
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "other/vm", Name: "other/far", Lazy: true}))
	same(t, h, "other/far", 0, image)
}

// TestPublicImageRekeyed: the public tenant gets a new root, and everything of it is sealed
// anew. Hosts that have read its image before, and those that have not, read on.
func TestPublicImageRekeyed(t *testing.T) {
	b, a, image := publicBed(t)
	h := b.host(t.TempDir(), "b")
	forkOf(t, h, "public/debian@12", "t0/vm")
	same(t, h, "t0/vm", 0, image[:4096]) // its map is here, and one block
	idle := b.host(t.TempDir(), "d")
	forkOf(t, idle, "public/debian@12", "t1/vm") // neither
	if _, err := tenantstest.New(b.store, b.keys...).Rotate(ctx, "public", false); err != nil {
		t.Fatal(err)
	}
	if _, err := a.disks.Tenants.Hasher("public").Renewed(ctx); err != nil {
		t.Fatal(err)
	}
	a.disks.Tenants.Refresh(ctx)
	if err := a.disks.Tenants.Renew(ctx, "public"); err != nil {
		t.Fatal(err)
	}
	fill(t, a, "public/debian", 9, 0, 4096)
	must[api.Flush](t)(a.Flush(ctx, "public/debian"))
	all := rekeyedAs(t, a, b.store, "public")
	if all.Packs == 0 {
		t.Errorf("nothing was sealed again: %+v", all)
	}
	o := rekeying(a, b.store)
	o.Name = "public"
	if info, err := rekey.Retire(ctx, o, 1); err != nil || info.Roots[0].State != "retired" {
		t.Fatalf("%+v, %v", info.Roots, err)
	}
	collectWith(t, b.store, b.keys...)
	same(t, h, "t0/vm", 0, image)
	same(t, idle, "t1/vm", 0, image)
	far := b.host(t.TempDir(), "c")
	must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: "t0/vm", Name: "t0/far", Lazy: true}))
	same(t, far, "t0/far", 0, image)
	forkOf(t, far, "public/debian@12", "t0/again")
	same(t, far, "t0/again", 0, image)
}

// TestForeignForks: of other tenants nothing can be forked but snapshots of public ones, and
// the answer does not tell what there is.
func TestForeignForks(t *testing.T) {
	b, a, _ := publicBed(t)
	must[api.Volume](t)(a.Create(ctx, api.CreateRequest{Name: "t1/secret", Size: mib}))
	must[api.Snapshot](t)(a.Snapshot(ctx, "t1/secret", "s", ""))
	must[api.Flush](t)(a.Flush(ctx, "t1/secret"))
	must[api.Snapshot](t)(a.Snapshot(ctx, "public/debian", "unpublished", ""))
	gen := must[api.Flush](t)(a.Flush(ctx, "public/debian")).Generation
	refused := func(source, at, to string, kind error, text string) string {
		t.Helper()
		_, err := a.Fork(ctx, api.ForkRequest{Source: source, At: at, Name: to})
		if errs.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("fork of %s at %q as %s: %v", source, at, to, err)
		}
		return fmt.Sprint(err)
	}
	is := refused("t1/secret@s", "", "t0/x", errs.Invalid, "not public")
	if none := refused("t7/secret@s", "", "t0/x", errs.Invalid, "not public"); strings.ReplaceAll(none, "t7", "t1") != is {
		t.Errorf("a volume that is there: %s; one that is not: %s", is, none)
	}
	if none := refused("nobody/secret@s", "", "t0/x", errs.Invalid, "not public"); strings.ReplaceAll(none, "nobody", "t1") != is {
		t.Errorf("a volume that is there: %s; of a tenant that is not: %s", is, none)
	}
	refused("public/debian", "", "t0/x", errs.Invalid, "@NAME")
	refused("public/debian", gen, "t0/x", errs.NotFound, "no snapshot")
	refused("public/debian@none", "", "t0/x", errs.NotFound, "glide publish")
	refused("public/none@12", "", "t0/x", errs.NotFound, "public/none")
	refused("public/debian@12", "", "plain/x", errs.Invalid, "glide tenant seal plain")
	known := tenantstest.New(b.store, b.keys...)
	if _, err := known.Create(ctx, tenants.Birth{Name: "images", Keys: b.keys[:1], OneKey: true, Suite: seal.AES256GCM, Public: true}); err != nil {
		t.Fatal(err)
	}
	refused("public/debian@12", "", "images/x", errs.Invalid, "public itself")
	if _, err := known.Create(ctx, tenants.Birth{Name: "keyless", Public: true}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a public tenant without keys: %v", err)
	}
}

// TestRecordsDoNotPublish: whoever can write to the store cannot make a tenant public.
func TestRecordsDoNotPublish(t *testing.T) {
	b, a, _ := publicBed(t)
	must[api.Volume](t)(a.Create(ctx, api.CreateRequest{Name: "t1/secret", Size: mib}))
	must[api.Snapshot](t)(a.Snapshot(ctx, "t1/secret", "s", ""))
	must[api.Flush](t)(a.Flush(ctx, "t1/secret"))
	tenantstest.Publish(t, b.store, "t1")
	h := b.host(t.TempDir(), "b")
	if _, err := h.Fork(ctx, api.ForkRequest{Source: "t1/secret@s", Name: "t0/x"}); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "not public") {
		t.Errorf("%v", err)
	}
}
