package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd/nbdclient"
)

func (d *daemon) dial(export string) *nbdclient.Client {
	d.tb.Helper()
	c, err := nbdclient.Dial(context.Background(), "unix", d.nbd(), nbdclient.Options{Export: export})
	if err != nil {
		d.tb.Fatalf("connect to %s: %v", export, err)
	}
	return c
}

// readAll reads a whole export.
func (d *daemon) readAll(export string, n int) []byte {
	d.tb.Helper()
	c := d.dial(export)
	defer c.Close()
	b := make([]byte, n)
	for off := 0; off < n; off += 1 << 20 {
		if err := c.Read(b[off:min(off+1<<20, n)], uint64(off)); err != nil {
			d.tb.Fatalf("read %s at %d: %v", export, off, err)
		}
	}
	return b
}

// TestKill9 kills the daemon at random moments of random traffic, while volumes
// are flushed, forked, cleaned and recovered, and checks every volume after every restart.
func TestKill9(t *testing.T) { killRounds(t, 25, 0) }

// TestSoakKill9 goes on for as long as GLIDE_SOAK says.
func TestSoakKill9(t *testing.T) {
	limit, err := time.ParseDuration(os.Getenv("GLIDE_SOAK"))
	if err != nil {
		limit = 5 * time.Second // a slice of it
	}
	killRounds(t, 1<<30, limit)
}

func killRounds(t *testing.T, rounds int, limit time.Duration) {
	const volumes, mib = 2, 4
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	// A log of a few small segments, so that cleaning is always under way.
	d := newDaemon(t, "", "--wal-limit", "256M")
	d.start()
	hist := map[string]*history{}
	for i := range volumes {
		name := fmt.Sprintf("v%d", i)
		d.do("create", name, "--size", fmt.Sprintf("%dM", mib))
		hist[name] = &history{pages: mib << 20 / page}
	}
	began := time.Now()
	done := 0
	for ; done < rounds && (limit == 0 || time.Since(began) < limit); done++ {
		var wg sync.WaitGroup
		for name, h := range hist {
			c, tr := d.dial(name), rand.New(rand.NewPCG(r.Uint64(), 2))
			wg.Add(1)
			go func() {
				defer wg.Done()
				_ = h.traffic(c, tr) // ends with the connection
				_ = c.Close()
			}()
		}
		verbs, vr := make(chan struct{}), rand.New(rand.NewPCG(r.Uint64(), 3))
		wg.Add(1)
		go func() {
			defer wg.Done()
			d.verbs(vr, done, verbs)
		}()
		time.Sleep(time.Duration(r.Float64() * 0.6 * float64(time.Second)))
		close(verbs)
		d.kill()
		wg.Wait()
		if r.IntN(4) == 0 {
			d.killWhileStarting(r) // recovery is interrupted too
		}
		d.start()
		for name, h := range hist {
			if err := h.check(d.readAll(name, mib<<20)); err != nil {
				t.Fatalf("round %d, %s: %v", done, name, err)
			}
		}
		d.do("verify", "v0")
	}
	total := 0
	for _, h := range hist {
		total += h.total()
	}
	t.Logf("%d rounds, %d writes in the histories", done, total)
}

// verbs runs flushes and forks until the daemon is gone.
func (d *daemon) verbs(r *rand.Rand, round int, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		switch r.IntN(3) {
		case 0:
			d.try("flush", fmt.Sprintf("v%d", r.IntN(2)))
		case 1:
			name := fmt.Sprintf("f%d-%d", round, i)
			if d.try("fork", "v0", name).Code == 0 && r.IntN(2) == 0 {
				d.try("rm", name)
			}
		default:
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// killWhileStarting starts the daemon and kills it within its first moments.
func (d *daemon) killWhileStarting(r *rand.Rand) {
	must(d.tb, d.spawn())
	time.Sleep(time.Duration(r.Float64() * 0.15 * float64(time.Second)))
	d.kill()
}

// TestSigterm: a stop finishes what is under way and exits 0; the next start
// serves what was active, and leaves asleep what slept.
func TestSigterm(t *testing.T) {
	d := newDaemon(t, "")
	d.start()
	d.do("create", "a", "--size", "16M")
	d.do("create", "b", "--size", "16M")
	c := d.dial("a")
	must(t, c.Write([]byte("not flushed, but stopped in good order"), 777, 0))
	d.do("sleep", "b")
	d.stop()
	_ = c.Close()
	d.start()
	var b struct {
		State string `json:"state"`
	}
	d.json(&b, "show", "b")
	if b.State != "asleep" {
		t.Errorf("b is %s", b.State)
	}
	if got := d.readAll("a", 1024); string(got[777:788]) != "not flushed" {
		t.Errorf("a holds %q", got[777:788])
	}
	_ = d.readAll("b", 4096) // connecting wakes it
	d.json(&b, "show", "b")
	if b.State != "active" {
		t.Errorf("b is %s after a connection", b.State)
	}
	d.stop()
}
