package host

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forget"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// inStore lists the snapshots that the newest commit of v has.
func inStore(t *testing.T, b *bed) string {
	t.Helper()
	tip := must[*commitlog.Object](t)(commitlog.Newest(ctx, b.logs(), commitlog.Volume{Tenant: "default", Name: "v"}))
	var list []string
	for _, s := range tip.State.Snapshots {
		list = append(list, s.Name)
	}
	return strings.Join(list, " ")
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestExpiry: a snapshot goes when its time is over, at once from the host and within an
// hour from the store, but not under a guest. A host with nothing in the store makes no
// request for it.
func TestExpiry(t *testing.T) { bubble(t, testExpiry) }

func testExpiry(t *testing.T) {
	b := newBed(t)
	born := b.count.Counts()
	fs := vfs.NewMem()
	h := virtualOn(t, b, fs)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	s := must[api.Snapshot](t)(h.Snapshot(ctx, "v", "hour", "1h"))
	if d := s.ExpiresAt.Sub(s.CreatedAt); d < time.Hour-time.Second || d > time.Hour+time.Second {
		t.Errorf("%+v", s)
	}
	pass(time.Millisecond)
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "ever", ""))
	pass(time.Millisecond)
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "week", "7d"))
	pass(time.Millisecond)
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "watched", "1d12h"))
	pass(59 * time.Minute)
	if got := snapshotNames(t, h, "v"); got != "hour ever week watched" {
		t.Errorf("after 59 minutes: %s", got)
	}
	pass(3 * time.Minute)
	if got := snapshotNames(t, h, "v"); got != "ever week watched" {
		t.Errorf("after 62 minutes: %s", got)
	}
	if n := b.count.Counts().Sub(born); n != (objstore.Counts{}) {
		t.Errorf("a local volume: %+v", n)
	}
	must[api.Flush](t)(h.Flush(ctx, "v"))
	before := b.count.Counts()
	e, err := h.exports.Open("v@watched")
	if err != nil {
		t.Fatal(err)
	}
	pass(6 * 24 * time.Hour)
	if got := snapshotNames(t, h, "v"); got != "ever week watched" || b.count.Counts() != before {
		t.Errorf("after six days: %s, %+v", got, b.count.Counts())
	}
	e.Closed()
	pass(2 * time.Minute)
	if got := snapshotNames(t, h, "v") + ", " + inStore(t, b); got != "ever week, ever week watched" {
		t.Errorf("when the guest has gone: %s", got)
	}
	pass(time.Hour)
	if got := inStore(t, b); got != "ever week" {
		t.Errorf("an hour later the store has %s", got)
	}
	before = b.count.Counts()
	pass(12 * time.Hour)
	if b.count.Counts() != before {
		t.Errorf("with nothing to tell, it made requests: %+v", b.count.Counts())
	}
	// With the next publication, the store learns at once. A restart between changes nothing.
	pass(12 * time.Hour)
	if got := snapshotNames(t, h, "v"); got != "ever" {
		t.Errorf("after a week: %s", got)
	}
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h = virtualOn(t, b, fs)
	if got := snapshotNames(t, h, "v"); got != "ever" {
		t.Errorf("after a restart: %s", got)
	}
	must[api.Flush](t)(h.Flush(ctx, "v"))
	if got := inStore(t, b); got != "ever" {
		t.Errorf("after a flush the store has %s", got)
	}
	for _, bad := range []string{"0s", "-1h", "1", "200000d", "101y", "40000d"} {
		_, err := h.Snapshot(ctx, "v", "x", bad)
		wantKind(t, err, errs.Invalid)
	}
}

// TestExpiryOfAParent: a fork of an expired snapshot keeps what it needs; a volume that
// another host has taken is left alone; the new owner removes what has expired.
func TestExpiryOfAParent(t *testing.T) {
	b := newBed(t)
	b.retention = time.Nanosecond
	h, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 2 * mib}))
	want := fill(t, h, "v", 1, 0, mib)
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", "50ms"))
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "later", "1h"))
	must[api.Flush](t)(h.Flush(ctx, "v"))
	fill(t, h, "v", 2, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v@s", Name: "kid"}))
	time.Sleep(60 * time.Millisecond)
	h.undo.Expire(ctx)
	if got := snapshotNames(t, h, "v"); got != "later" {
		t.Fatalf("snapshots: %s", got)
	}
	must[api.Flush](t)(h.Flush(ctx, "v"))
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		runRound(t, b.store, 0)
	}
	must[api.Flush](t)(h.Flush(ctx, "kid"))
	if _, got, err := published(b.store, "kid"); err != nil || !bytes.Equal(got[:mib], want) {
		t.Fatalf("what a fork lies over is gone: %v", err)
	}
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "moved", "50ms"))
	must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
	time.Sleep(60 * time.Millisecond)
	h.undo.Expire(ctx)
	if got := snapshotNames(t, h2, "v"); got != "later moved" {
		t.Errorf("snapshots: %s", got)
	}
	h2.undo.Expire(ctx)
	if got := snapshotNames(t, h2, "v"); got != "later" {
		t.Errorf("snapshots: %s", got)
	}
}

// TestKeepSetting: a rule is checked, shown, published with the next flush, and travels.
func TestKeepSetting(t *testing.T) {
	b := newBed(t)
	h, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	must[api.Flush](t)(h.Flush(ctx, "v"))
	for _, bad := range []string{"24h", "30d:1d,24h:1h", "1h:0s", "1h:2h"} {
		_, err := h.Set(ctx, "v", api.Settings{"keep": bad})
		wantKind(t, err, errs.Invalid)
	}
	const rule = "24h:1h,30d:1d"
	if v := must[api.Volume](t)(h.Set(ctx, "v", api.Settings{"keep": rule})); v.Keep != rule {
		t.Errorf("%+v", v)
	}
	must[api.Flush](t)(h.Flush(ctx, "v"))
	if v := must[api.Volume](t)(h2.Show(ctx, "v")); v.Keep != rule {
		t.Errorf("the store has %+v", v)
	}
	if f := must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "w"})); must[api.Volume](t)(h.Show(ctx, f[0].Name)).Keep != "" {
		t.Error("a fork has the rule")
	}
	if v := must[api.Volume](t)(h2.Wake(ctx, "v", false, "")); v.Keep != rule {
		t.Errorf("woken elsewhere: %+v", v)
	}
	if v := must[api.Volume](t)(h2.Set(ctx, "v", api.Settings{"keep": ""})); v.Keep != "" {
		t.Errorf("%+v", v)
	}
	must[api.Flush](t)(h2.Flush(ctx, "v"))
	if v := must[api.Volume](t)(h.Show(ctx, "v")); v.Keep != "" {
		t.Errorf("the store has %+v", v)
	}
}

// TestKeepRolls: the log of a volume with a rule begins an epoch in each interval, from the
// moment at which the rule is set, and goes on to do so after a restart.
func TestKeepRolls(t *testing.T) { bubble(t, testKeepRolls) }

func testKeepRolls(t *testing.T) {
	b := newBed(t)
	fs := vfs.NewMem()
	h := virtualOn(t, b, fs)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	days := func(n int) (epochs uint64) {
		t.Helper()
		before := must[api.Volume](t)(h.Show(ctx, "v")).Epoch
		for i := range 4 * n {
			fill(t, h, "v", uint64(i), 0, 4096)
			must[api.Flush](t)(h.Flush(ctx, "v"))
			pass(6 * time.Hour)
		}
		return must[api.Volume](t)(h.Show(ctx, "v")).Epoch - before
	}
	if n := days(7); n != 3 {
		t.Errorf("without a rule, %d epochs in seven days", n)
	}
	must[api.Volume](t)(h.Set(ctx, "v", api.Settings{"keep": "24h:1h,30d:1d"}))
	if n := days(4); n != 4 {
		t.Errorf("with a rule of days, %d epochs in four days", n)
	}
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h = virtualOn(t, b, fs)
	if n := days(3); n != 3 {
		t.Errorf("after a restart, %d epochs in three days", n)
	}
}

// TestForgetNames: names of which nothing is left are forgotten when an operator insists, and
// can then be used as if they were new.
func TestForgetNames(t *testing.T) {
	b := newBed(t)
	b.retention = 50 * time.Millisecond
	h := b.host(t.TempDir(), "a")
	for _, name := range []string{"gone", "kept", "live", "renamed", "pinned"} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: mib}))
		fill(t, h, name, uint64(name[0]), 0, 4096)
		must[api.Flush](t)(h.Flush(ctx, name))
	}
	must[api.Volume](t)(h.Rename(ctx, "renamed", "new"))
	pinned := b.logOf("pinned")
	forget := func(q api.CollectRequest) (api.Collection, error) {
		q.Grace, q.Forget = "0s", true
		return h.Collect(ctx, q)
	}
	for _, name := range []string{"gone", "pinned"} {
		if err := h.Remove(ctx, name, false); err != nil {
			t.Fatal(err)
		}
	}
	// Flagged and taken back, its history is not collected; nor that of a young removal.
	must[gc.Result](t)(gc.Run(ctx, gc.Options{Store: b.store, Tenants: tenantstest.New(b.store, tenantstest.Shared()), By: "test", Grace: time.Hour, Retention: time.Nanosecond}))
	for _, p := range must[[]api.Planned](t)(h.CollectPlan(ctx)) {
		if strings.HasPrefix(p.Key, pinned) {
			if err := h.Undelete(ctx, []string{p.Key}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c := must[api.Collection](t)(forget(api.CollectRequest{})); c.ForgottenNames != 0 { // nothing would be forgotten yet
		t.Errorf("%+v", c)
	}
	time.Sleep(60 * time.Millisecond)
	if err := h.Remove(ctx, "kept", false); err != nil {
		t.Fatal(err)
	}
	runRound(t, b.store, 0)
	must[[]api.Volume](t)(h.List(ctx, true)) // it sees the names
	if c := must[api.Collection](t)(forget(api.CollectRequest{DryRun: true})); c.ForgottenNames != 1 {
		t.Errorf("dry run: %+v", c)
	}
	_, err := forget(api.CollectRequest{})
	wantKind(t, err, errs.WouldLose)
	if !strings.Contains(err.Error(), "1 name(s)") || !strings.Contains(err.Error(), "gone") {
		t.Error(err)
	}
	if n := countKeys(t, b.store, b.logOf("gone")); n == 0 {
		t.Error("refused, and forgotten")
	}
	if c := must[api.Collection](t)(forget(api.CollectRequest{Force: true})); c.ForgottenNames != 1 {
		t.Errorf("%+v", c)
	}
	for name, there := range map[string]bool{"gone": false, "kept": true, "live": true, "renamed": true, "new": true, "pinned": true} {
		if n := countKeys(t, b.store, b.logOf(name)); (n > 0) != there {
			t.Errorf("%s has %d objects", name, n)
		}
	}
	// The name begins again.
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "gone", Size: mib}))
	want := fill(t, h, "gone", 9, 0, 4096)
	if f := must[api.Flush](t)(h.Flush(ctx, "gone")); f.Generation != "1.1" {
		t.Errorf("%+v", f)
	}
	must[[]api.Volume](t)(h.List(ctx, true))
	h2 := b.host(t.TempDir(), "b")
	must[api.Volume](t)(h2.Wake(ctx, "gone", false, ""))
	same(t, h2, "gone", 0, want)
	if err := h2.Remove(ctx, "gone", false); err != nil {
		t.Fatal(err)
	}
	must[api.Volume](t)(h2.Restore(ctx, "gone", ""))
	same(t, h2, "gone", 0, want)
	for range 3 {
		runRound(t, b.store, 0)
	}
}

func forgetAll(t *testing.T, o gc.Options) {
	t.Helper()
	if _, _, err := forget.Names(ctx, o, true); err != nil {
		t.Fatal(err)
	}
}

// TestForgetIsInterrupted: after a crash at any step, the name can be used as that of a
// removed volume, or it cannot be used before it is forgotten for good; no volume is lost.
func TestForgetIsInterrupted(t *testing.T) {
	for _, resume := range []bool{false, true} {
		used, refused := 0, 0
		for at, stops := 1, true; stops; at++ {
			b := newBed(t)
			b.retention = time.Nanosecond
			h, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
			for range 2 {
				must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
				must[api.Flush](t)(h.Flush(ctx, "v"))
				if err := h.Remove(ctx, "v", false); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				runRound(t, b.store, 0)
			}
			o := gc.Options{Store: b.store, Tenants: tenantstest.New(b.store, tenantstest.Shared()), By: "test", Retention: time.Nanosecond}
			stopped := o
			stopped.Store = &stepped{Store: b.store, n: at, before: func() error { return errStopped }}
			_, _, err := forget.Names(ctx, stopped, true)
			stops = err != nil
			if resume {
				forgetAll(t, o)
				if n := countKeys(t, b.store, "t/"); n != 0 {
					t.Fatalf("step %d: %d objects are left", at, n)
				}
			}
			must[api.Volume](t)(h2.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
			want := fill(t, h2, "v", 1, 0, 4096)
			if _, err := h2.Flush(ctx, "v"); err != nil {
				if refused++; resume {
					t.Fatalf("step %d: %v", at, err)
				}
				forgetAll(t, o)
				must[api.Flush](t)(h2.Flush(ctx, "v"))
			} else {
				used++
			}
			forgetAll(t, o)
			for range 3 {
				runRound(t, b.store, 0)
			}
			if _, got, err := published(b.store, "v"); err != nil || !bytes.Equal(got[:4096], want) {
				t.Fatalf("step %d, resumed: %v: the new volume: %v", at, resume, err)
			}
			_ = h.Close(ctx)
			_ = h2.Close(ctx)
		}
		if used == 0 || !resume && refused == 0 {
			t.Errorf("resumed: %v: the name could be used %d times, and not %d times", resume, used, refused)
		}
	}
}
