package inspect

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
)

// TestDumpPacks: a pack is shown under the key of its domain, which only its own key tells.
func TestDumpPacks(t *testing.T) {
	raw, err := os.ReadFile("../pack/testdata/v1.pack")
	if err != nil {
		t.Fatal(err)
	}
	const key = "packs/65/65ea8a83081ed58bc32eacf3-0102030405060708090a0b0c"
	for _, key := range []string{key, "d/0000002a/" + key} {
		var out bytes.Buffer
		if err := DumpObject(t.Context(), &out, key, raw, nil); err != nil || !strings.Contains(out.String(), " "+key+"\n") {
			t.Errorf("%s: %v\n%s", key, err, out.String())
		}
	}
	for _, bad := range []string{"d/", "d/00000000/" + key, "d/2a/" + key, "d/0000002a/refs/x", "x/" + key} {
		if err := DumpObject(t.Context(), &bytes.Buffer{}, bad, raw, nil); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
