package host

import (
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// TestHistoryIsTheVolumesOwn: if a volume was never published, or had another name, then
// what the store has under its name is not its history, and it cannot be rolled back to
// that.
func TestHistoryIsTheVolumesOwn(t *testing.T) {
	_, h1, h2, _ := twoHosts(t)
	must[api.Snapshot](t)(h1.Snapshot(ctx, "v", "s", ""))
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	must[api.Volume](t)(h2.Create(ctx, api.CreateRequest{Name: "v", Size: 2 * mib}))
	data := fill(t, h2, "v", 3, 0, 4096)
	for _, at := range []string{"1.1", "0s", "s"} {
		_, err := h2.Rollback(ctx, "v", at, false)
		wantKind(t, err, errs.NotFound)
	}
	for _, at := range []string{"1.1", "0s", "s"} {
		_, err := h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "child", At: at})
		wantKind(t, err, errs.NotFound)
	}
	_, err := h2.Export(ctx, "v@s")
	wantKind(t, err, errs.NotFound)
	if log := must[[]api.Commit](t)(h2.Log(ctx, "v", "", 0)); log == nil || len(log) != 0 {
		t.Errorf("it was never published, and has the history %+v", log)
	}
	same(t, h2, "v", 0, data)

	if err := h1.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: 3 * mib, Durability: volume.Sync}))
	_, err = h1.Rollback(ctx, "v", "1.1", false)
	wantKind(t, err, errs.NotFound)
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.Size != 3*mib || !strings.Contains(err.Error(), "another volume") {
		t.Errorf("%v: %+v", err, v)
	}
}

// TestRollbackToNothing: a request without a target is refused. It must not take the
// volume for a snapshot of itself, and wait for itself for ever.
func TestRollbackToNothing(t *testing.T) {
	_, h1, _, data := twoHosts(t)
	_, err := h1.Rollback(ctx, "v", "", false)
	wantKind(t, err, errs.Invalid)
	same(t, h1, "v", 0, data)
}

// TestHistoryOfNothing: the error for a volume that does not exist does not say that it
// lacks a snapshot.
func TestHistoryOfNothing(t *testing.T) {
	h := newBed(t).host(t.TempDir(), "a")
	for _, at := range []string{"s", "1.1", "1h"} {
		_, err := h.Fork(ctx, api.ForkRequest{Source: "v", Name: "child", At: at})
		wantKind(t, err, errs.NotFound)
		if !strings.Contains(err.Error(), `no volume "v"`) {
			t.Errorf("--at %s: %v", at, err)
		}
	}
}

// TestGuestOfASnapshot: a volume is not removed while a guest reads its snapshot over
// NBD.
func TestGuestOfASnapshot(t *testing.T) {
	_, h1, _, _ := twoHosts(t)
	must[api.Snapshot](t)(h1.Snapshot(ctx, "v", "s", ""))
	e, err := h1.exports.Open("v@s")
	if err != nil {
		t.Fatal(err)
	}
	err = h1.Remove(ctx, "v", false)
	wantKind(t, err, errs.Busy)
	if !strings.Contains(err.Error(), `"v@s" has 1 open NBD connection`) {
		t.Error(err)
	}
	e.Closed()
	if err := h1.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
}

// TestRenameOfAVolumeInUse: the advice in the error can be followed.
func TestRenameOfAVolumeInUse(t *testing.T) {
	_, h1, _, _ := twoHosts(t)
	e, err := h1.exports.Open("v")
	if err != nil {
		t.Fatal(err)
	}
	_, err = h1.Rename(ctx, "v", "w")
	wantKind(t, err, errs.Busy)
	if !strings.Contains(err.Error(), "sleep with --force first") {
		t.Error(err)
	}
	must[api.Volume](t)(h1.Sleep(ctx, "v", false, true))
	e.Closed()
	must[api.Volume](t)(h1.Rename(ctx, "v", "w"))
}

// TestListWithADamagedVolume: a commit that cannot be read hides no other volume.
func TestListWithADamagedVolume(t *testing.T) {
	b, h1, h2, _ := twoHosts(t)
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "w", Size: mib, Durability: volume.Sync}))
	key := keysOf(t, b.store, b.logOf("v"))[0]
	raw := must[[]byte](t)(b.store.Get(ctx, key))
	raw[len(raw)/2] ^= 1
	if err := b.store.Put(ctx, key, raw); err != nil {
		t.Fatal(err)
	}
	list := must[[]api.Volume](t)(h2.List(ctx, true))
	if len(list) != 2 || list[0].State != "failed" || !strings.Contains(list[0].Reason, key) || list[1].State != "remote" {
		t.Errorf("listed are %+v", list)
	}
}
