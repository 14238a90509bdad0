package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// objectsUnder counts the files under a directory of a store.
func objectsUnder(t *testing.T, store, prefix string) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(store, prefix), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		if os.IsNotExist(err) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCollect takes a store from volumes to nothing, through a daemon.
func TestCollect(t *testing.T) {
	store := t.TempDir()
	d := start(t, shortDir(t), nil, "--store", "file://"+store, "--retention", "1ns")
	raw := filepath.Join(t.TempDir(), "raw")
	image := []byte(strings.Repeat("what a guest wrote, once. ", 40_000))
	image = append(image, make([]byte, 512-len(image)%512)...)
	if err := os.WriteFile(raw, image, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := d.must("gc"); out != "nothing to collect\n" {
		t.Error(out)
	}
	if out := d.must("gc", "status"); out != "there was no round yet\n" {
		t.Error(out)
	}
	if out := d.must("gc", "plan", "--json"); out != "[]\n" {
		t.Error(out)
	}
	d.must("import", raw, "vm1", "--format", "raw")
	d.must("fork", "vm1", "f")
	d.must("flush", "f")
	d.must("rm", "vm1")
	for range 3 {
		d.must("gc", "--grace", "0s")
	}
	back := filepath.Join(t.TempDir(), "back")
	d.must("verify", "f", "--cold")
	d.must("export", "f", back)
	if got, err := os.ReadFile(back); err != nil || string(got) != string(image) {
		t.Errorf("the fork does not have what it had: %v", err)
	}
	if objectsUnder(t, store, "packs") == 0 {
		t.Fatal("there are no packs to collect")
	}

	// A round with a long grace period is undone.
	d.must("rm", "f")
	c := decode[api.Collection](t, d.must("gc", "--json", "--dry-run"))
	if c.Round != 0 || c.FlaggedObjects == 0 || c.DeletedObjects != 0 {
		t.Errorf("a dry run: %+v", c)
	}
	if out := d.must("gc", "--dry-run"); !strings.HasPrefix(out, "a round would flag ") {
		t.Error(out)
	}
	// The commits of removed volumes go first, then what they named. A short grace period
	// is over at the next run, which only ends the round.
	var packs, commits []string
	for i := 0; len(packs) == 0; i++ {
		out := d.must("gc")
		if i == 4 || !strings.Contains(out, "flagged; they can be deleted from ") {
			t.Fatalf("run %d: %s", i, out)
		}
		for _, p := range decode[[]api.Planned](t, d.must("gc", "plan", "--json")) {
			switch {
			case p.Kind == "pack":
				packs = append(packs, p.Key)
			case p.Kind == "commits":
				commits = append(commits, p.Key)
			}
			if p.Bytes <= 0 || p.FlaggedAt.IsZero() {
				t.Errorf("planned: %+v", p)
			}
		}
		if len(packs) == 0 {
			d.must("gc", "--grace", "1ns")
		}
	}
	if len(commits) == 0 {
		t.Error("no commits were flagged before the packs")
	}
	s := decode[api.CollectStatus](t, d.must("gc", "status", "--json"))
	if s.Round == 0 || s.Stage != "flagged" || s.UndoUntil.Sub(s.FlaggedAt) != 24*time.Hour {
		t.Errorf("status: %+v", s)
	}
	if out := d.must("gc", "status"); !strings.Contains(out, "can be undone until") {
		t.Error(out)
	}
	if out := d.must("debug", "dump", flagsKey(t, store)); !strings.Contains(out, packs[0]) {
		t.Errorf("the flag list is\n%s", out)
	}
	refused(t, d.try("gc", "undelete", packs[0], "packs/1"), 1, "is not flagged")
	if objectsUnder(t, store, "pins/undelete") != 0 {
		t.Error("there is a pin, though a key was refused")
	}
	if out := d.must("gc", "undelete", packs[0]); out != "took back 1 objects; the next round keeps them\n" {
		t.Error(out)
	}
	for range 3 {
		d.must("gc", "--grace", "0s")
	}
	if n := objectsUnder(t, store, "packs"); n != 1 {
		t.Errorf("%d packs are left of the one that was taken back", n)
	}
	refused(t, d.try("gc", "undelete", packs[0]), 1, "is not flagged")
	if out := d.must("gc", "status"); !strings.HasSuffix(out, ": closed\n") {
		t.Error(out)
	}

	// Without its pin it is garbage, also to a collector without a daemon.
	d.must("host", "forget", "undelete")
	d.stop()
	c = decode[api.Collection](t, run(t, glide(t, "gc", "--grace", "0s", "--json", "--store", "file://"+store)).Out)
	if c.DeletedObjects != 1 || c.Round == 0 || c.Requests.Delete == 0 || c.Requests.List == 0 {
		t.Errorf("without a daemon: %+v", c)
	}
	if n := objectsUnder(t, store, "packs"); n != 0 {
		t.Errorf("%d packs are left", n)
	}
}

// flagsKey is the key of the only flag list in a store.
func flagsKey(t *testing.T, store string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(store, "gc/rounds/*/*/flags"))
	if err != nil || len(found) != 1 {
		t.Fatalf("flag lists: %v, %v", found, err)
	}
	return strings.TrimPrefix(found[0], store+"/")
}

// TestCollectCommands: what is typed arrives at the daemon, and what it answers is printed.
func TestCollectCommands(t *testing.T) {
	f := newFake(t, api.Options{})
	when := "2026-11-22 12:00:00"
	for _, c := range []struct{ args, out, call string }{
		{"gc", "round 3: 2 objects (2 MiB) flagged; they can be deleted from 2026-11-23 12:00:00 on\n1 objects in the store are not Glide's, and stay\n", "Collect  false"},
		{"gc --grace 90m", "round 3: 2 objects (2 MiB) flagged; they can be deleted from 2026-11-22 13:30:00 on\n1 objects in the store are not Glide's, and stay\n", "Collect 1h30m0s false"},
		{"gc --dry-run", "a round would flag 2 objects (2 MiB)\n1 objects in the store are not Glide's, and stay\n", "Collect  true"},
		{"gc plan", "KIND  BYTES    FLAGGED              KEY\npack  1048576  " + when + "  packs/good\n", "CollectPlan"},
		{"gc status", "round 3: flagged " + when + ", can be undone until 2026-11-23 12:00:00\n", "CollectStatus"},
		{"gc undelete packs/good", "took back 1 objects; the next round keeps them\n", "Undelete [packs/good]"},
	} {
		if out := f.must(t, strings.Fields(c.args)...); out != c.out {
			t.Errorf("%s prints\n%s, want\n%s", c.args, out, c.out)
		}
		if calls := strings.Join(f.Calls(), "\n"); !strings.Contains(calls, c.call) {
			t.Errorf("%s: no call %s among\n%s", c.args, c.call, calls)
		}
	}
	if out, want := f.must(t, "gc", "--json", "--grace", "0s"), `{
  "round": 3,
  "live_objects": 10,
  "live_bytes": 10485760,
  "flagged_objects": 2,
  "flagged_bytes": 2097152,
  "deleted_objects": 2,
  "deleted_bytes": 2097152,
  "compacted_packs": 0,
  "compacted_bytes": 0,
  "foreign_objects": 1,
  "forgotten_names": 0,
  "skipped": [],
  "store_requests": {
    "put": 0,
    "get": 0,
    "list": 0,
    "head": 0,
    "delete": 0
  },
  "elapsed_ms": 12.5
}
`; out != want {
		t.Errorf("gc --json prints\n%s, want\n%s", out, want)
	}
	refused(t, f.try(t, "gc", "--grace", "-1s"), 2, "negative")
	refused(t, f.try(t, "gc", "--grace", "soon"), 2, "--grace")
	refused(t, f.try(t, "gc", "--grace", "-1s", "--store", "file:///nowhere"), 2, "negative")
	refused(t, f.try(t, "gc", "--store", "ftp://x"), 2, "store URL")
	refused(t, f.try(t, "gc", "--forget-names"), 3, "--force")
	refused(t, f.try(t, "gc", "pln"), 2, "only plan, status and undelete")
	refused(t, f.try(t, "gc", "undelete"), 2, "KEY...")
	refused(t, f.try(t, "gc", "undelete", "packs/bad"), 1, "is not flagged")
}
