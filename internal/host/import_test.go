package host

import (
	"sync"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// TestImportSideBySide: several callers, on one host or on several, import one image to
// one name at the same time. One creates the volume, and the others find it created.
func TestImportSideBySide(t *testing.T) {
	b := newBed(t)
	img := random(7, 3*mib)
	hosts := []*Host{b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")}
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for i := range 6 {
		wg.Go(func() {
			r, err := hosts[i%2].Import(ctx, "img", 0, &bytesSource{b: img})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if !r.Unchanged {
				made++
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("%d made it", made)
	}
	_, err := hosts[0].Import(ctx, "img", 0, &bytesSource{b: random(8, mib)})
	wantKind(t, err, errs.Exists)
	for _, h := range hosts {
		if v := must[api.Volume](t)(h.Show(ctx, "img")); v.Size != 3*mib {
			t.Errorf("%+v", v)
		}
	}
}
