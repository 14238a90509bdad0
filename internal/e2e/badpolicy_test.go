package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
)

// TestBadPolicies has durability policies and rpos that make no sense.
func TestBadPolicies(t *testing.T) {
	d := newDaemon(t, "")
	d.start()
	d.do("create", "v", "--size", "1M")
	for _, rpo := range []string{"0", "0s", "-5s", "1ns", "99ms", "24h1s", "1000000h", "99999999999999999999h", "5", "soon", ""} {
		refused(t, d.try("set", "v", "rpo="+rpo), 2, "rpo")
		if rpo != "" { // as if it were not given
			refused(t, d.try("create", "w", "--size", "1M", "--rpo="+rpo), 2, "rpo")
			refused(t, d.try("create", "w", "--size", "1M", "--durability", "continuous", "--rpo="+rpo), 2, "rpo")
		}
	}
	for _, policy := range []string{"paranoid", "Sync", "sync ", "none"} {
		refused(t, d.try("set", "v", "durability="+policy), 2, "local, continuous or sync")
		refused(t, d.try("create", "w", "--size", "1M", "--durability", policy), 2, "local, continuous or sync")
		refused(t, d.try("fork", "v", "w", "--durability", policy), 2, "local, continuous or sync")
	}
	refused(t, d.try("set", "v", "durability="), 2, "durability")
	refused(t, d.try("set", "v", "durability=sync", "durability=local"), 2, "twice")
	// What is wrong with one setting keeps the others from being made.
	refused(t, d.try("set", "v", "durability=sync", "rpo=1ns"), 2, "rpo")
	refused(t, d.try("set", "nothing", "durability=sync"), 1, "nothing")
	var all []api.Volume
	d.json(&all, "ls")
	if len(all) != 1 || all[0].Durability != "local" || all[0].RPOms != 5000 {
		t.Errorf("something was made of it: %+v", all)
	}
	d.do("set", "v", "durability=continuous", "rpo=100ms")
	d.do("set", "v", "rpo=24h")
}

// TestBadWakes claims volumes that cannot be.
func TestBadWakes(t *testing.T) {
	store := "file://" + t.TempDir()
	a, b := newDaemon(t, store), newDaemon(t, store)
	a.start()
	b.start()
	refused(t, b.try("wake", "nothing"), 1, "there is no volume")
	refused(t, b.try("wake", "nothing", "--force"), 1, "there is no volume")
	refused(t, b.try("wake", "nothing@snapshot"), 2, "")

	data := pattern(200<<10, 3)
	a.do("create", "never", "--size", "1M") // only its host knows it
	a.do("sleep", "never")
	refused(t, b.try("wake", "never"), 1, "there is no volume")

	a.do("create", "asleep", "--size", "1M")
	a.do("flush", "asleep")
	a.write("asleep", data, 0)
	a.do("sleep", "asleep")
	refused(t, b.try("wake", "asleep", "--expect-generation", "7.1"), 3, "7.1")
	b.do("wake", "asleep") // its host is asked for what it has
	b.holds("asleep", data, 0)
	refused(t, a.try("show", "asleep", "--json", "x"), 2, "")

	// Removing and waking at once: one of them wins.
	for i := range 6 {
		a.do("create", "r", "--size", "1M", "--durability", "sync")
		removed := make(chan result)
		go func() { removed <- a.try("rm", "r") }()
		w := b.try("wake", "r")
		rm := <-removed
		switch {
		case w.Code == 0 && rm.Code != 0:
			b.holds("r", make([]byte, page), 0)
			b.do("rm", "r")
		case w.Code == 0:
			t.Fatalf("round %d: it was both removed and woken: %s %s", i, w.Out, rm.Out)
		case rm.Code != 0: // neither: each saw the other in its way
			refused(t, w, 1, "")
			a.do("rm", "r")
		default:
			refused(t, w, 1, "r")
		}
		refused(t, a.try("show", "r"), 1, "removed")
		refused(t, b.try("wake", "r", "--force"), 1, "removed")
	}

	// A host that is not there.
	a.do("create", "gone", "--size", "1M", "--durability", "sync")
	a.stop()
	refused(t, b.try("wake", "gone"), 3, "since generation 1.1 (")
	refused(t, b.try("fork", "gone", "f"), 3, "--lazy")
	b.do("fork", "gone", "f", "--lazy")
	b.do("wake", "gone", "--force")
}

// TestTimeTravel forks what is before the history, or beyond it.
func TestTimeTravel(t *testing.T) {
	d := newDaemon(t, "")
	d.start()
	d.do("create", "v", "--size", "1M")
	refused(t, d.try("fork", "v", "f", "--at", "1s"), 1, "never published")
	refused(t, d.try("fork", "v", "f", "--at", "1.1"), 1, "")
	d.write("v", pattern(page, 1), 0)
	d.do("flush", "v")
	for _, at := range []string{"10000h", "2000-01-01T00:00:00Z", "2000-01-01T00:00:00+02:00"} {
		refused(t, d.try("fork", "v", "f", "--at", at), 1, "the history of volume v begins at")
		refused(t, d.try("rollback", "v", at), 1, "the history of volume v begins at")
	}
	for _, at := range []string{"99.1", "1.99"} {
		refused(t, d.try("fork", "v", "f", "--at", at), 1, "no generation "+at)
		refused(t, d.try("rollback", "v", at), 1, "no generation "+at)
	}
	for _, at := range []string{"0.0", "-5s", "yesterday", "1.18446744073709551615", "2000-01-01"} {
		refused(t, d.try("fork", "v", "f", "--at", at), 1, at)
	}
	var all []api.Volume
	d.json(&all, "ls")
	if len(all) != 1 {
		t.Errorf("a fork was left: %+v", all)
	}
	d.do("fork", "v", "f", "--at", "1.1")
	d.do("fork", "v", "g", "--at", "0s")
	d.holds("g", pattern(page, 1), 0)
}

// TestForkOfAFencedVolume: it says who has the volume, and what is left of it here.
func TestForkOfAFencedVolume(t *testing.T) {
	store := "file://" + t.TempDir()
	a, b := newDaemon(t, store), newDaemon(t, store)
	a.start()
	b.start()
	a.do("create", "v", "--size", "1M")
	a.do("flush", "v")
	a.write("v", pattern(page, 1), 0)
	a.kill()
	b.do("wake", "v", "--force")
	a.start()
	refused(t, a.try("flush", "v"), 1, "taken over by host")
	refused(t, a.try("fork", "v", "f"), 1, "v.rescue-1")
	refused(t, a.try("snapshot", "v", "s"), 1, "v.rescue-1")
	refused(t, a.try("set", "v", "durability=sync"), 1, "v.rescue-1")
	a.do("fork", "v.rescue-1", "f")
	a.holds("f", pattern(page, 1), 0)
}

// TestNewerCommit: a volume that a newer release has committed to is left alone,
// and the error says what to do.
func TestNewerCommit(t *testing.T) {
	dir := t.TempDir()
	a, b := newDaemon(t, "file://"+dir), newDaemon(t, "file://"+dir)
	a.start()
	b.start()
	data := pattern(page, 1)
	a.do("create", "v", "--size", "1M", "--durability", "sync")
	a.write("v", data, 0)
	a.stop()
	var log []string
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.Contains(path, "/volumes/v/log/") {
			log = append(log, path)
		}
		return err
	}))
	newest := slices.Max(log) // of its one epoch
	raw, err := os.ReadFile(newest)
	must(t, err)
	raw[4] = 200 // its version
	must(t, os.WriteFile(newest, raw, 0o600))
	const says = "use a newer glide"
	for _, verb := range [][]string{{"wake", "v"}, {"wake", "v", "--force"}, {"fork", "v", "f"}, {"fork", "v", "f", "--lazy"}, {"show", "v"}, {"log", "v"}} {
		refused(t, b.try(verb...), 1, says)
	}
	// Its own host, of the older release, keeps what it has and makes no epoch.
	a.start()
	a.holds("v", data, 0)
	refused(t, a.try("sleep", "v", "--portable"), 1, says)
	refused(t, a.try("set", "v", "durability=local"), 1, says)
	var v api.Volume
	a.json(&v, "show", "v")
	if v.State != "active" {
		t.Errorf("it is %s: %s", v.State, v.Reason)
	}
	now, err := os.ReadFile(newest)
	must(t, err)
	if !slices.Equal(now, raw) {
		t.Error("the newer commit was changed")
	}
	// Mended, or the release brought up to date, all goes on.
	raw[4] = 1
	must(t, os.WriteFile(newest, raw, 0o600))
	a.do("sleep", "v", "--portable")
	b.do("wake", "v")
	b.holds("v", data, 0)
}

// TestSyncWithoutStore: what promises to be in the store is not made without it,
// and leaves nothing behind.
func TestSyncWithoutStore(t *testing.T) {
	store := t.TempDir()
	d := newDaemon(t, "file://"+store)
	d.start()
	d.do("create", "l", "--size", "1M")
	must(t, os.Rename(store, store+".gone"))
	t.Cleanup(func() { _ = os.RemoveAll(store + ".gone") })
	const says = "is gone"
	for _, policy := range []string{"sync", "continuous"} {
		refused(t, d.try("create", "v", "--size", "1M", "--durability", policy), 1, says)
		refused(t, d.try("fork", "l", "v", "--durability", policy), 1, says)
		refused(t, d.try("set", "l", "durability="+policy), 1, says)
	}
	var all []api.Volume
	d.json(&all, "ls")
	if len(all) != 1 || all[0].Name != "l" || all[0].Durability != "local" || all[0].State != "active" {
		t.Errorf("something is left: %+v", all)
	}
	d.do("create", "v", "--size", "1M")
	d.do("rm", "v")
	must(t, os.Rename(store+".gone", store))
	d.do("create", "v", "--size", "1M", "--durability", "sync")
	d.do("rm", "v")
	d.do("fork", "l", "v", "--durability", "sync")
	d.do("set", "l", "durability=sync")
	d.write("v", pattern(page, 1), 0)
}
