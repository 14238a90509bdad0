package datadir

import (
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fuzztest"
)

// FuzzIdentity gives a directory any identity: it is taken, or the error says what
// is wrong.
func FuzzIdentity(f *testing.F) {
	for _, s := range []string{`{"version":1,"id":"0123456789abcdef"}`, `{"version":2,"id":"x"}`, `{"version":1}`, "", "null", "[]", `{"version":1e99,"id":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("data", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(fs, "data", identityFile, b); err != nil {
			t.Fatal(err)
		}
		var id string
		var err error
		fuzztest.Bound(t, len(b), 0, 64, func() { id, err = Identify(fs, "data", strings.NewReader("12345678")) })
		if err == nil && id == "" || err != nil && !errors.Is(err, errs.Corrupt) && !errors.Is(err, errs.Unsupported) {
			t.Errorf("%q: id %q, %v", b, id, err)
		}
	})
}
