package main

import (
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
)

// TestUndo: restore, ls --removed, snapshots that expire, rules and names to forget, on the
// command line.
func TestUndo(t *testing.T) {
	f := newFake(t, api.Options{})
	f.must(t, "create", "a", "--size", "1M")
	if out := f.must(t, "ls", "--removed", "--json"); out != "[]\n" {
		t.Errorf("nothing is removed: %q", out)
	}
	f.must(t, "rm", "a")
	list := decode[[]api.Removed](t, f.must(t, "ls", "--removed", "--json"))
	if len(list) != 1 || list[0].Name != "a" || list[0].RemovedAt.IsZero() || list[0].Until.IsZero() {
		t.Errorf("%+v", list)
	}
	if out := f.must(t, "ls", "--removed"); !strings.HasPrefix(out, "NAME  SIZE") || strings.Count(out, "\n") != 2 {
		t.Error(out)
	}
	if out := f.must(t, "restore", "a"); out != "restored a\n" {
		t.Error(out)
	}
	refused(t, f.try(t, "restore", "a"), 1, "--as")
	if v := decode[api.Volume](t, f.must(t, "restore", "a", "--as", "b", "--json")); v.Name != "b" {
		t.Errorf("%+v", v)
	}
	for _, args := range []string{"restore", "restore a b", "restore a@s", "restore a --as b@s", "ls --removed --all", "gc --force",
		"set a keep=24h", "set a keep=30d:1d,24h:1h", "set a keep=1h:2h", "set a keep=1h:0s", "set a keep=-1h:1h"} {
		refused(t, f.try(t, strings.Fields(args)...), 2, "")
	}
	refused(t, f.try(t, "restore", "a", "--as", ""), 2, "--as has no value")
	refused(t, f.try(t, "snapshot", "a", "s", "--expires", ""), 2, "--expires has no value")
	if s := decode[api.Snapshot](t, f.must(t, "snapshot", "a", "s", "--expires", "30d", "--json")); s.ExpiresAt.IsZero() {
		t.Errorf("%+v", s)
	}
	if calls := strings.Join(f.Calls(), "\n"); !strings.Contains(calls, "Snapshot a s 30d") {
		t.Error(calls)
	}
	f.must(t, "set", "a", "keep=24h:1h,30d:1d")
	refused(t, f.try(t, "gc", "--forget-names"), 3, "--force")
	if out := f.must(t, "gc", "--forget-names", "--force"); !strings.Contains(out, "forgot 1 name(s)") {
		t.Error(out)
	}
	if c := decode[api.Collection](t, f.must(t, "gc", "--forget-names", "--dry-run", "--json")); c.ForgottenNames != 1 {
		t.Errorf("%+v", c)
	}
}
