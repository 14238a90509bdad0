package main

import (
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
)

// TestScrub: what it prints, and its exit status.
func TestScrub(t *testing.T) {
	f := newFake(t, api.Options{})
	if out := f.must(t, "scrub", "--local-only"); !strings.Contains(out, "1 damaged, 1 of them repaired") || !strings.Contains(out, "checked 12 blocks") {
		t.Errorf("%q", out)
	}
	o := f.try(t, "scrub", "--store-only")
	if o.Code != 1 || !strings.Contains(o.Out, "lost: 8 KiB at 4 KiB of vm1 (packs/00/00)") || !strings.Contains(o.Err, "1 of 2 damaged places could not be repaired") {
		t.Errorf("exit %d, %q, %q", o.Code, o.Out, o.Err)
	}
	o = f.try(t, "scrub", "--store-only", "--json")
	const want = `{"checked_blocks":12,"checked_bytes":1572864,"damaged":2,"repaired":1,"lost":[{"key":"packs/00/00","volumes":["vm1"],"ranges":[{"offset":4096,"length":8192}]}],"locked":[],"elapsed_ms":12.5}`
	if got := strings.Join(strings.Fields(o.Out), ""); o.Code != 1 || got != want {
		t.Errorf("exit %d, %s", o.Code, got)
	}
	if out := f.must(t, "scrub", "--json"); !strings.Contains(strings.Join(strings.Fields(out), ""), `"lost":[]`) {
		t.Errorf("%q", out)
	}
	refused(t, f.try(t, "scrub", "--store-only", "--local-only"), 2, "--local-only")
	refused(t, f.try(t, "scrub", "vm1"), 2, "scrub")
}
