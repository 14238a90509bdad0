package host

import (
	"context"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/objstore"
)

// collecting opens a host that runs rounds by itself.
func collecting(t *testing.T, b *bed, every time.Duration) *Host {
	t.Helper()
	h, err := Open(ctx, Config{Data: t.TempDir(), Store: b.store, Keys: b.keys, Retention: time.Nanosecond, CollectEvery: every, CollectGrace: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close(context.Background()) })
	return h
}

// TestRoundsByThemselves: what was removed is gone without a command, and then the host
// asks nothing any more.
func TestRoundsByThemselves(t *testing.T) {
	b := newBed(t)
	h := collecting(t, b, 50*time.Millisecond)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 16 * mib}))
	fill(t, h, "v", 1, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	if err := h.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); countKeys(t, b.store, "packs/") > 0; {
		if time.Now().After(deadline) {
			t.Fatal("packs that nothing refers to are still there")
		}
		time.Sleep(20 * time.Millisecond)
	}
	quiet := func() bool {
		before := b.count.Counts()
		time.Sleep(500 * time.Millisecond)
		return b.count.Counts() == before
	}
	for deadline := time.Now().Add(30 * time.Second); !quiet(); {
		if time.Now().After(deadline) {
			t.Fatal("an idle host asks the store on and on")
		}
	}
}

// TestIdleHostsCollectNothing: local volumes cost the store nothing, whatever the interval.
func TestIdleHostsCollectNothing(t *testing.T) {
	b := newBed(t)
	h := collecting(t, b, 10*time.Millisecond)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 16 * mib}))
	fill(t, h, "v", 1, 0, mib)
	before := b.count.Counts()
	time.Sleep(300 * time.Millisecond)
	if after := b.count.Counts(); after != before {
		t.Errorf("an idle host with local volumes made requests: %+v", after)
	}
}

// TestOneHostCollects: of two hosts that changed the store only one takes the turn.
func TestOneHostCollects(t *testing.T) {
	b := newBed(t)
	const every = 2 * time.Second
	for _, h := range []*Host{collecting(t, b, every), collecting(t, b, every)} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: h.ID()[:8], Size: 16 * mib, Durability: "sync"}))
	}
	turns := func() (keys []string) {
		_ = objstore.ListAll(ctx, b.store, "gc/turns/", "", func(in objstore.Info) bool { keys = append(keys, in.Key); return true })
		return keys
	}
	for deadline := time.Now().Add(20 * time.Second); len(turns()) == 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	first := turns()
	time.Sleep(every / 2)
	if again := turns(); len(first) != 1 || len(again) != 1 || again[0] != first[0] {
		t.Errorf("turns %v, then %v", first, again)
	}
}
