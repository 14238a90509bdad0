package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/netem"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// slowStore is a real S3 server behind a proxy.
func slowStore(t testing.TB) (url string, p *netem.Proxy) {
	t.Helper()
	direct, _ := s3test.Start(t)
	return behindProxy(t, direct)
}

func behindProxy(t testing.TB, direct string) (string, *netem.Proxy) {
	t.Helper()
	u, err := url.Parse(direct)
	must(t, err)
	q := u.Query()
	end, err := url.Parse(q.Get("endpoint"))
	must(t, err)
	p, err := netem.Listen(end.Host)
	must(t, err)
	t.Cleanup(p.Close)
	end.Host = p.Addr()
	q.Set("endpoint", end.String())
	u.RawQuery = q.Encode()
	return u.String(), p
}

// stamped is one guest that writes pages with rising numbers into a region of
// its own, and notes by a clock of its own when each write was sent and
// acknowledged.
type stamped struct {
	first       uint64 // page
	sent, acked []time.Time
}

const regionPages = 512

func (s *stamped) run(c *nbdclient.Client, stop <-chan struct{}) {
	b := make([]byte, page)
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		fillPage(b, n+1)
		s.sent = append(s.sent, time.Now())
		if err := c.Write(b, (s.first+uint64(n%regionPages))*page, 0); err != nil {
			return
		}
		s.acked = append(s.acked, time.Now())
	}
}

// survived is how many of the writes a disk has, which must be the first ones.
func (s *stamped) survived(t *testing.T, disk []byte) (n int) {
	t.Helper()
	region := disk[s.first*page:][:regionPages*page]
	for i := range regionPages {
		n = max(n, int(binary.LittleEndian.Uint64(region[i*page:])))
	}
	for i := max(0, n-regionPages); i < n; i++ {
		if got := pageOf(region[i%regionPages*page:][:page]); got != i+1 {
			t.Errorf("write %d of %d survivors is lost: its page holds %d", i+1, n, got)
		}
	}
	return n
}

// lossRound runs a continuous volume on a host, kills the host at a random
// moment, deletes its data directory, and returns the span of acknowledgement
// times that were lost, by the clock of the guests.
func lossRound(t *testing.T, store, name string, rpo time.Duration, after time.Duration) time.Duration {
	const guests = 4
	a := newDaemon(t, store, "--wal-limit", "1G", "--cache", "64M")
	a.start()
	a.do("create", name, "--size", "16M", "--durability", "continuous", "--rpo", rpo.String())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	all := make([]*stamped, guests)
	for i := range all {
		all[i] = &stamped{first: uint64(i * regionPages)}
		c := a.dial(name)
		defer c.Close()
		wg.Go(func() { all[i].run(c, stop) })
	}
	time.Sleep(after)
	close(stop)
	a.kill()
	wg.Wait()
	must(t, os.RemoveAll(a.data))
	return measureLoss(t, store, name, all)
}

func measureLoss(t *testing.T, store, name string, all []*stamped) time.Duration {
	t.Helper()
	b := newDaemon(t, store, "--wal-limit", "1G", "--cache", "64M")
	b.start()
	b.do("wake", name, "--force")
	disk := b.readAll(name, 16<<20)
	b.stop()
	return lostSpan(t, disk, all)
}

// lostSpan is the span of acknowledgement times that a disk lacks of what the
// guests wrote.
func lostSpan(t *testing.T, disk []byte, all []*stamped) time.Duration {
	t.Helper()
	var last, firstLost, lastKept time.Time
	total, lost := 0, 0
	for _, s := range all {
		kept := s.survived(t, disk)
		total += len(s.acked)
		if n := len(s.acked); n > 0 && s.acked[n-1].After(last) {
			last = s.acked[n-1]
		}
		if kept < len(s.acked) {
			lost += len(s.acked) - kept
			if at := s.acked[kept]; firstLost.IsZero() || at.Before(firstLost) {
				firstLost = at
			}
		}
		if kept > 0 && s.sent[kept-1].After(lastKept) {
			lastKept = s.sent[kept-1]
		}
	}
	if lost == 0 {
		return 0
	}
	if lastKept.After(firstLost) {
		t.Errorf("a write that was sent %v after another was acknowledged survived, the other did not: no prefix", lastKept.Sub(firstLost))
	}
	t.Logf("%d of %d acknowledged writes lost, acknowledged in %v", lost, total, last.Sub(firstLost))
	return last.Sub(firstLost)
}

// TestLossWindow kills hosts and deletes what they had: never is more lost than
// the rpo of acknowledged writes, however slow the store, and what is left is a
// prefix. GLIDE_SOAK=30m does it at the default rpo for as long.
func TestLossWindow(t *testing.T) {
	store, proxy := slowStore(t)
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	rpo, rounds := time.Second, 4
	limit := time.Now().Add(time.Hour)
	if soak, err := time.ParseDuration(os.Getenv("GLIDE_SOAK")); err == nil {
		rpo, rounds, limit = 5*time.Second, 1000, time.Now().Add(soak)
	}
	var worst time.Duration
	n := 0
	for i := 0; i < rounds && time.Now().Before(limit); i++ {
		delay := []time.Duration{0, 10 * time.Millisecond, rpo / 5, rpo / 2}[i%4] // each way
		proxy.Delay(delay)
		after := time.Duration(r.Int64N(int64(2*rpo))) + rpo/2
		stopDelay := time.AfterFunc(after+rpo/10, func() { proxy.Delay(0) })
		span := lossRound(t, store, "v"+string(rune('a'+i%26))+string(rune('a'+i/26%26)), rpo, after)
		stopDelay.Stop()
		proxy.Delay(0)
		worst = max(worst, span)
		n++
		if span > rpo {
			t.Fatalf("with a store %v away, acknowledgements of %v were lost, %v are promised", 2*delay, span, rpo)
		}
	}
	t.Logf("%d hosts killed: at most %v of acknowledgements lost, %v are promised", n, worst, rpo)
}

// TestUploadsOfContinuous: what a steady load of 4 KiB writes uploads is little
// more than what the guest wrote.
func TestUploadsOfContinuous(t *testing.T) {
	store, _ := s3test.Start(t)
	d := newDaemon(t, store, "--wal-limit", "1G", "--cache", "64M")
	d.start()
	d.do("create", "v", "--size", "1G", "--durability", "continuous", "--rpo", "2s")
	c := d.dial("v")
	defer c.Close()
	r := rand.NewChaCha8([32]byte{9})
	b := make([]byte, page)
	wrote := 0
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		_, _ = r.Read(b)
		must(t, c.Write(b, r.Uint64()%(1<<30/page)*page, 0))
		wrote += page
	}
	d.do("flush", "v")
	var s struct {
		Up uint64 `json:"store_bytes_up"`
	}
	d.json(&s, "stats")
	ratio := float64(s.Up) / float64(wrote)
	t.Logf("%d bytes written, %d uploaded: %.3f", wrote, s.Up, ratio)
	if ratio > 1.5 {
		t.Errorf("%.2f bytes were uploaded for each that was written", ratio)
	}
}

// TestSyncLatency measures a flush of a sync volume against a bare conditional
// put of the same size to the same store, 20 ms away, and what it does to others.
// Other work on the machine slows one side of a comparison or the other, so
// each has a few attempts, and a second peer that waits for processors as much:
// a put and then a local flush; puts that somebody else sends.
func TestSyncLatency(t *testing.T) {
	storeURL, proxy := slowStore(t)
	d := newDaemon(t, storeURL, "--wal-limit", "1G", "--cache", "64M")
	d.start()
	d.do("create", "v", "--size", "64M", "--durability", "sync")
	d.do("create", "local", "--size", "64M")
	proxy.Delay(10 * time.Millisecond)
	store, err := objstore.Open(context.Background(), storeURL, objstore.Options{})
	must(t, err)
	attempts(t, func() (met bool) {
		flush, put, local := flushAndPut(t, d, store)
		t.Logf("median flush %v, median put %v: %.2f; median flush of a local volume %v", flush, put, float64(flush)/float64(put), local)
		return float64(flush) <= 1.3*float64(put) || float64(flush) <= 1.3*float64(put+local)
	})
	attempts(t, func() (met bool) {
		bare := func(c *nbdclient.Client) error {
			return store.PutIfAbsent(context.Background(), "probe/"+time.Now().Format(time.RFC3339Nano), make([]byte, 5<<10))
		}
		flush := func(c *nbdclient.Client) error {
			if err := c.Write(make([]byte, page), 5000*page, 0); err != nil {
				return err
			}
			return c.Flush()
		}
		alone, puts, flushes := others(t, d, nil), others(t, d, bare), others(t, d, flush)
		t.Logf("other requests a second: %.0f alone, %.0f beside bare puts, %.0f beside flushes: %.2f and %.2f", alone, puts, flushes, flushes/alone, flushes/puts)
		return flushes >= 0.9*alone || flushes >= 0.9*puts
	})
}

// attempts fails the test if none of a few measurements meets what is promised.
func attempts(t *testing.T, measure func() (met bool)) {
	t.Helper()
	for range 6 {
		if measure() {
			return
		}
	}
	t.Error("what is promised was not met in any of the attempts")
}

// flushAndPut is the median of a write's flush, of a bare put, and of the flush of
// a local volume, in turns.
func flushAndPut(t *testing.T, d *daemon, store objstore.Store) (flush, put, local time.Duration) {
	t.Helper()
	r := rand.NewChaCha8([32]byte{3})
	b := make([]byte, page)
	v, l := d.dial("v"), d.dial("local")
	defer v.Close()
	defer l.Close()
	const rounds, warmUp = 60, 10
	var took [3][]time.Duration
	for i := range rounds {
		_, _ = r.Read(b)
		must(t, v.Write(b, uint64(i)*page, 0))
		must(t, l.Write(b, uint64(i)*page, 0))
		for k, what := range []func() error{
			v.Flush,
			func() error {
				return store.PutIfAbsent(context.Background(), "probe/"+time.Now().Format(time.RFC3339Nano), bytes.Repeat(b[:1024], 5))
			},
			l.Flush,
		} {
			began := time.Now()
			must(t, what())
			if i >= warmUp {
				took[k] = append(took[k], time.Since(began))
			}
		}
	}
	for k := range took {
		slices.Sort(took[k])
	}
	return took[0][len(took[0])/2], took[1][len(took[1])/2], took[2][len(took[2])/2]
}

// others counts the reads and writes a second of two connections, while another
// one does something again and again, or nothing.
func others(t *testing.T, d *daemon, again func(*nbdclient.Client) error) float64 {
	t.Helper()
	const span = 2 * time.Second
	stop := make(chan struct{})
	time.AfterFunc(span, func() { close(stop) })
	var wg sync.WaitGroup
	until := func(what func() error) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := what(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	counts := make([]int, 2)
	for i := range counts {
		c := d.dial("v")
		defer c.Close()
		r, b := rand.New(rand.NewPCG(uint64(i), 2)), make([]byte, page)
		until(func() error {
			q := nbdclient.Request{Op: nbd.OpRead, Off: r.Uint64N(4096) * page, Data: b}
			if r.IntN(2) == 0 {
				q.Op = nbd.OpWrite
			}
			counts[i]++
			return (<-c.Go(q)).Err
		})
	}
	if again != nil {
		c := d.dial("v")
		defer c.Close()
		until(func() error { return again(c) })
	}
	wg.Wait()
	return float64(counts[0]+counts[1]) / span.Seconds()
}
