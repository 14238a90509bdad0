package host

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
)

// cloneOf copies a data directory, as cloning a machine does.
func cloneOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", "--sparse=always", dir, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

// twinSeen checks that doctor and hosts report the twin.
func twinSeen(t *testing.T, h *Host) {
	t.Helper()
	found := false
	for _, c := range must[[]api.Check](t)(h.Doctor(ctx)) {
		found = found || c.Name == "identity" && !c.OK && strings.Contains(c.Detail, "copy of its data directory")
	}
	if !found {
		t.Error("doctor does not say that two daemons have one identity")
	}
	for _, s := range must[[]api.StoreHost](t)(h.Hosts(ctx)) {
		if s.Self && !s.Twin {
			t.Error("hosts does not say it either")
		}
	}
}

// A machine is cloned with its data directory, and both daemons run on one store. Nothing
// that one of them published is lost to the other, and both report it.
func TestTwoHostsOfOneIdentity(t *testing.T) {
	b, dir := newBed(t), t.TempDir()
	first := b.host(dir, "a")
	for _, v := range []string{"new", "old"} {
		must[api.Volume](t)(first.Create(ctx, api.CreateRequest{Name: v, Size: 1 << 20}))
		fill(t, first, v, 1, 0, 8192)
	}
	must[api.Flush](t)(first.Flush(ctx, "old"))
	if err := first.Close(ctx); err != nil {
		t.Fatal(err)
	}
	clone := cloneOf(t, dir)
	first, second := b.host(dir, "a"), b.host(clone, "b")
	if first.ID() != second.ID() {
		t.Fatal("they have an identity each")
	}

	// A volume that neither has published: the second one to publish it is refused.
	want := fill(t, first, "new", 2, 0, 8192)
	fill(t, second, "new", 3, 0, 8192)
	must[api.Flush](t)(first.Flush(ctx, "new"))
	_, err := second.Flush(ctx, "new")
	if errs.KindOf(err) != errs.Exists || !errors.Is(err, commitlog.ErrTwin) {
		t.Fatalf("the clone publishes over what the other one has: %v", err)
	}
	if v := must[api.Volume](t)(second.Show(ctx, "new")); v.State != "active" {
		t.Errorf("the clone's volume is %s", v.State)
	}
	twinSeen(t, second)

	// A published volume: the first one to commit keeps it, and the other is fenced, with
	// a rescue volume.
	kept := fill(t, second, "old", 4, 0, 8192)
	must[api.Flush](t)(second.Flush(ctx, "old"))
	fill(t, first, "old", 5, 0, 8192)
	if _, err := first.Flush(ctx, "old"); errs.KindOf(err) != errs.Fenced || !errors.Is(err, commitlog.ErrTwin) {
		t.Fatalf("the original publishes over what the clone has: %v", err)
	}
	twinSeen(t, first)
	if v := must[api.Volume](t)(first.Show(ctx, "old.rescue-"+rescueEpoch(t, first))); v.State != "active" {
		t.Errorf("the rescue is %s", v.State)
	}

	third := b.host(filepath.Join(t.TempDir(), "c"), "c")
	for name, want := range map[string][]byte{"new": want, "old": kept} {
		must[[]api.Fork](t)(third.Fork(ctx, api.ForkRequest{Source: name, Name: "f-" + name, Lazy: true}))
		same(t, third, "f-"+name, 0, want)
	}
}

// rescueEpoch returns the epoch in the name of the only rescue volume.
func rescueEpoch(t *testing.T, h *Host) string {
	t.Helper()
	for _, v := range must[[]api.Volume](t)(h.List(ctx, false)) {
		if _, epoch, ok := strings.Cut(v.Name, ".rescue-"); ok {
			return epoch
		}
	}
	t.Fatal("there is no rescue")
	return ""
}
