package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	// The commits of removed volumes go first, then what they named.
	d.must("gc", "--grace", "0s")
	if out := d.must("gc"); !strings.Contains(out, "flagged; they can be deleted from ") {
		t.Fatal(out)
	}
	var packs []string
	for _, p := range decode[[]api.Planned](t, d.must("gc", "plan", "--json")) {
		if p.Kind == "pack" {
			packs = append(packs, p.Key)
		}
		if p.Bytes <= 0 || p.FlaggedAt.IsZero() {
			t.Errorf("planned: %+v", p)
		}
	}
	if len(packs) == 0 {
		t.Fatal("the packs of a removed volume are not flagged")
	}
	d.must("gc", "undelete", packs[0])
	if s := decode[api.CollectStatus](t, d.must("gc", "status", "--json")); s.Round == 0 {
		t.Errorf("%+v", s)
	}
	for range 3 {
		d.must("gc", "--grace", "0s")
	}
	if n := objectsUnder(t, store, packs[0]); n != 1 {
		t.Error("what was taken back is deleted")
	}
	for _, key := range packs[1:] {
		if objectsUnder(t, store, key) != 0 {
			t.Errorf("%s is still there", key)
		}
	}
	refused(t, d.try("gc", "undelete", packs[0]), 1, "is not flagged")
	refused(t, d.try("gc", "--grace", "-1s"), 2, "")
	refused(t, d.try("gc", "--forget-names"), 1, "this release of glide does not")
}
