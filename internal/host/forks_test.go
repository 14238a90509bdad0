package host

import (
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/volume"
)

// names lists what a host shows, and with all also what only the store has.
func names(t *testing.T, h *Host, all bool) (out []string) {
	t.Helper()
	for _, v := range must[[]api.Volume](t)(h.List(ctx, all)) {
		out = append(out, v.Name)
	}
	return out
}

func wantNames(t *testing.T, h *Host, all bool, want ...string) {
	t.Helper()
	if got := names(t, h, all); !slices.Equal(got, want) {
		t.Fatalf("the volumes are %v, want %v", got, want)
	}
}

// TestForksAreAllOrNone: if one of the forks cannot be created, none is, here or in the
// store.
func TestForksAreAllOrNone(t *testing.T) {
	_, h1, h2, _ := twoHosts(t)
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "there-2", Size: mib, Durability: volume.Sync}))
	must[api.Volume](t)(h2.Create(ctx, api.CreateRequest{Name: "here-3", Size: mib}))
	must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "mine"}))
	for _, r := range []api.ForkRequest{
		{Source: "v", Name: "here", Count: 4}, // from another host's volume
		{Source: "v", Name: "there", Count: 3},
		{Source: "mine", Name: "here", Count: 4},
		{Source: "mine", Name: "there", Count: 3, Durability: volume.Sync},
	} {
		_, err := h2.Fork(ctx, r)
		wantKind(t, err, errs.Exists)
		wantNames(t, h2, false, "here-3", "mine")
		wantNames(t, h1, true, "mine", "there-2", "v")
	}
	must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "here", Count: 2}))
	wantNames(t, h1, true, "here-1", "here-2", "mine", "there-2", "v")
}

// TestForksWithAFailingStore: whichever request fails, once or from then on, with or
// without effect, either all forks exist or none, and they can be created later.
func TestForksWithAFailingStore(t *testing.T) {
	b := newBed(t)
	h1 := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	fill(t, h1, "v", 1, 0, 8192)
	must[api.Volume](t)(h1.Sleep(ctx, "v", true, false))
	faults := objstore.NewFaults(b.store, 1)
	b.store = faults
	h2 := small(t, faults, vfs.NewMem())
	must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "mine"}))
	for _, r := range []api.ForkRequest{
		{Source: "v", Name: "f", Count: 3},
		{Source: "mine", Name: "f", Count: 3, Durability: volume.Sync},
	} {
		for _, fault := range []objstore.Fault{
			{Times: 1, Effect: objstore.FailBefore}, {Times: 1, Effect: objstore.FailAfter},
			{Effect: objstore.FailBefore}, {Effect: objstore.FailAfter},
		} {
			for reached := true; reached; fault.Skip++ {
				faults.Inject(fault)
				before := faults.Requests()
				_, err := h2.Fork(ctx, r)
				reached = faults.Requests()-before > fault.Skip
				faults.Clear()
				if err != nil {
					wantKind(t, err, errs.Unavailable)
					wantNames(t, h2, false, "mine")
					if fault.Times == 1 {
						wantNames(t, h1, true, "mine", "v")
					}
					must[[]api.Fork](t)(h2.Fork(ctx, r))
				}
				wantNames(t, h2, false, "f-1", "f-2", "f-3", "mine")
				for _, name := range []string{"f-1", "f-2", "f-3"} {
					if err := h2.Remove(ctx, name, false); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
}

// TestNameTakenInTheStore: the advice fits the verb.
func TestNameTakenInTheStore(t *testing.T) {
	_, h1, h2, _ := twoHosts(t)
	must[api.Volume](t)(h2.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	must[api.Volume](t)(h2.Create(ctx, api.CreateRequest{Name: "w", Size: mib, Durability: volume.Sync}))
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "x", Size: mib, Durability: volume.Sync}))
	const choose, rename = ": choose another name", ": rename this one with glide rename v NEW"
	for verb, want := range map[string]struct {
		do     func() error
		advice string
	}{
		"create": {func() error {
			_, err := h2.Create(ctx, api.CreateRequest{Name: "x", Size: mib, Durability: volume.Sync})
			return err
		}, choose},
		"fork": {func() error {
			_, err := h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "x", Durability: volume.Sync})
			return err
		}, choose},
		"fork of what is elsewhere": {func() error {
			_, err := h2.Fork(ctx, api.ForkRequest{Source: "x", Name: "x"})
			return err
		}, choose},
		"rename": {func() error { _, err := h2.Rename(ctx, "w", "x"); return err }, choose},
		"flush":  {func() error { _, err := h2.Flush(ctx, "v"); return err }, rename},
		"set":    {func() error { _, err := h2.Set(ctx, "v", api.Settings{"durability": volume.Sync}); return err }, rename},
		"sleep":  {func() error { _, err := h2.Sleep(ctx, "v", true, false); return err }, rename},
	} {
		err := want.do()
		wantKind(t, err, errs.Exists)
		if !strings.HasSuffix(err.Error(), want.advice) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	wantNames(t, h2, false, "v", "w")
}

// TestForkThatTheStoreKept: the store failed before a fork could be withdrawn. Its host
// can remove the fork, or create it again, which withdraws it first.
func TestForkThatTheStoreKept(t *testing.T) {
	b := newBed(t)
	faults := objstore.NewFaults(b.store, 1)
	b.store = faults
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: mib, Durability: volume.Sync}))
	must[api.Volume](t)(h1.Sleep(ctx, "v", true, false))
	of := func(name string) func(string) bool {
		log := b.logOf(name)
		return func(key string) bool { return strings.HasPrefix(key, log) }
	}
	faults.Inject(objstore.Fault{Match: of("f-2")})
	faults.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Match: of("f-1"), Skip: 1})
	_, err := h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "f", Count: 2})
	faults.Clear()
	wantKind(t, err, errs.Unavailable)
	wantNames(t, h2, false)
	wantNames(t, h2, true, "f-1", "v")
	must[api.Volume](t)(h2.Wake(ctx, "f-1", false, ""))
	if err := h2.Remove(ctx, "f-1", false); err != nil {
		t.Fatal(err)
	}
	wantNames(t, h2, true, "v")
	must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "f", Count: 2}))
}
