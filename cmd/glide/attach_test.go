package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
)

// TestAttach: attach prints the device and nothing else, so that scripts can use it.
func TestAttach(t *testing.T) {
	f := newFake(t, api.Options{})
	f.must(t, "create", "vm1", "--size", "1G")
	if out := f.must(t, "attach", "vm1", "--timeout", "5s"); out != "/dev/nbd0\n" {
		t.Errorf("attach prints %q", out)
	}
	refused(t, f.try(t, "attach", "vm1"), 1, "/dev/nbd0")
	if out := f.must(t, "show", "vm1"); !strings.Contains(out, "/dev/nbd0") {
		t.Errorf("show prints %s", out)
	}
	refused(t, f.try(t, "rm", "vm1"), 1, "1 open connections")
	if out := f.must(t, "detach", "/dev/nbd0"); out != "vm1 is detached from /dev/nbd0\n" {
		t.Errorf("detach prints %q", out)
	}
	refused(t, f.try(t, "detach", "vm1"), 1, "not attached")
	a := decode[api.Attachment](t, f.must(t, "attach", "vm1", "--device", "/dev/nbd7", "--dead-timeout", "1h", "--json"))
	if a.Name != "vm1" || a.Device != "/dev/nbd7" || a.DeadTimeoutMs != 3_600_000 {
		t.Errorf("%+v", a)
	}
	a = decode[api.Attachment](t, f.must(t, "detach", "vm1", "--force", "--json"))
	if a.Device != "/dev/nbd7" {
		t.Errorf("%+v", a)
	}
	for _, want := range []string{"Attach vm1  5000 600000", "Detach  /dev/nbd0 false", "Attach vm1 /dev/nbd7 30000 3.6e+06", "Detach vm1  true"} {
		if !slices.Contains(f.Calls(), want) {
			t.Errorf("no call %q among %q", want, f.Calls())
		}
	}
}
