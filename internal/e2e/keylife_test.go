package e2e

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// TestKeyLifeKill9: the daemon is killed in the middle of everything that is done to keys,
// while guests write. Nothing that was acknowledged is lost, and repeated, each ends.
func TestKeyLifeKill9(t *testing.T) {
	const mib = 4
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	store := "file://" + t.TempDir()
	first, _ := keyFile(t)
	second, _ := keyFile(t)
	flags := []string{"--wal-limit", "256M", "--key", first, "--key", second}
	d, other := newDaemon(t, store, flags...), newDaemon(t, store, flags...)
	d.start()
	d.do("tenant", "create", "acme", "--key", first, "--key", second)
	hist := map[string]*history{}
	image := pattern(8<<20, 3)
	for _, name := range []string{"acme/v", "later/v"} { // the other one is plain, and moves
		d.do("create", name, "--size", "4M", "--durability", "continuous", "--rpo", "1s")
		hist[name] = &history{pages: mib << 20 / page}
		base := strings.Replace(name, "/v", "/base", 1)
		d.do("create", base, "--size", "8M")
		d.write(base, image, 0)
		d.do("flush", base)
	}
	changes := [][]string{
		{"tenant", "rotate", "acme"},
		{"tenant", "rekey", "acme"},
		{"tenant", "rewrap", "acme", "--key", second, "--key", first},
		{"tenant", "seal", "later", "--key", first, "--key", second},
		{"tenant", "check", "acme"},
		{"tenant", "rotate", "acme", "--conv"},
		{"flush", "acme/base"},
	}
	var cut, whole int // changes that were cut off, and that had ended
	// round runs guests and does one thing to keys, until the daemon is killed.
	round := func(change []string) {
		var wg sync.WaitGroup
		for name, h := range hist {
			c, tr := d.dial(name), rand.New(rand.NewPCG(r.Uint64(), 2))
			wg.Go(func() {
				_ = h.traffic(c, tr) // ends with the connection
				_ = c.Close()
			})
		}
		time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
		wg.Go(func() {
			if d.try(change...).Code == 0 {
				whole++
			} else {
				cut++
			}
		})
		time.Sleep(time.Duration(r.Float64() * r.Float64() * 0.4 * float64(time.Second)))
		d.kill()
		wg.Wait()
		d.start()
		for name, h := range hist {
			if err := h.check(d.readAll(name, mib<<20)); err != nil {
				t.Fatalf("killed during %v: %s: %v", change, name, err)
			}
		}
		d.holds("acme/base", image, 0)
		d.holds("later/base", image, 0)
	}
	for n := range 3 * len(changes) {
		round(changes[n%len(changes)])
	}
	if cut < len(changes) || whole == 0 {
		t.Errorf("%d changes were cut off, and %d were not", cut, whole)
	}
	for _, c := range changes {
		if c[1] != "seal" { // which ends some minutes after it began
			d.do(c...)
		}
	}
	for _, name := range []string{"acme/v", "acme/base", "later/v", "later/base"} {
		d.do("flush", name)
		d.do("verify", name, "--cold")
	}
	other.start()
	other.do("fork", "acme/base", "acme/fork")
	other.holds("acme/fork", image, 0)

	// An erasure that is cut off is repeated. Others keep what they have.
	hist = map[string]*history{"later/v": hist["later/v"]}
	var wg sync.WaitGroup
	wg.Go(func() { d.try("tenant", "erase", "acme", "--confirm", "acme") })
	time.Sleep(time.Duration(r.Float64() * 0.03 * float64(time.Second)))
	d.kill()
	wg.Wait()
	d.start()
	d.do("tenant", "erase", "acme", "--confirm", "acme")
	var x api.Tenant
	d.json(&x, "tenant", "show", "acme")
	if x.State == api.TenantSealed {
		t.Errorf("%+v", x)
	}
	other.stop()
	other.start()
	refused(t, other.try("fork", "acme/base", "acme/again"), 1, "erased")
	if err := hist["later/v"].check(d.readAll("later/v", mib<<20)); err != nil {
		t.Error(err)
	}
}
