package host

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
)

// FuzzHostFile gives a host any identity: it takes it, or says what is wrong.
func FuzzHostFile(f *testing.F) {
	for _, s := range []string{`{"version":1,"id":"0123456789abcdef"}`, `{"version":2,"id":"x"}`, `{"version":1}`, "", "null", "[]", `{"version":1e99,"id":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("data", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(fs, "data", "host.json", b); err != nil {
			t.Fatal(err)
		}
		h := &Host{cfg: Config{FS: fs, Data: "data"}}
		var err error
		fuzztest.Bound(t, len(b), 0, 64, func() { err = h.identify() })
		if err == nil && h.disks.HostID == "" || err != nil && !errors.Is(err, errs.Corrupt) && !errors.Is(err, errs.Unsupported) {
			t.Errorf("%q: id %q, %v", b, h.disks.HostID, err)
		}
	})
}
