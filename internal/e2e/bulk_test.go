package e2e

import (
	"cmp"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/netem"
	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// bulk is what writing in a row cost.
type bulk struct {
	ratio float64 // bytes uploaded for each that was written
	took  time.Duration
}

// TestBulk writes much in a row to volumes of each policy, in turns, until the store has it
// all: by a store 20 ms and 100 MB/s away, and by one that is near. What continuous and
// sync upload, and the time they take, is compared with a local volume that is written and
// then flushed. GLIDE_BULK is how many MiB are written; the default is 256.
func TestBulk(t *testing.T) {
	mib, err := strconv.Atoi(cmp.Or(os.Getenv("GLIDE_BULK"), "256"))
	must(t, err)
	t.Run("20 ms and 100 MB a second away", func(t *testing.T) {
		store, proxy := slowStore(t)
		measureBulk(t, store, proxy, mib)
	})
	t.Run("near", func(t *testing.T) {
		store, _ := s3test.Start(t)
		measureBulk(t, store, nil, mib)
	})
}

func measureBulk(t *testing.T, store string, proxy *netem.Proxy, mib int) {
	d := newDaemon(t, store, "--wal-limit", "4G", "--cache", "64M")
	d.start()
	if proxy != nil {
		proxy.Delay(10 * time.Millisecond)
		proxy.Rate(100e6)
	}
	policies := []string{"local", "continuous", "sync"}
	got := map[string][]bulk{}
	const rounds = 3
	for round := range rounds {
		for i := range policies {
			policy := policies[(i+round)%len(policies)] // each comes first once
			got[policy] = append(got[policy], writeBulk(t, d, policy, mib, uint64(round)))
		}
	}
	for _, policy := range policies[1:] {
		var bytes, took []float64
		for i, b := range got[policy] {
			l := got["local"][i]
			t.Logf("%-10s %d MiB: %.3f bytes uploaded for each written, local %.3f; %v, local %v", policy, mib, b.ratio, l.ratio, b.took, l.took)
			bytes, took = append(bytes, b.ratio/l.ratio), append(took, b.took.Seconds()/l.took.Seconds())
		}
		slices.Sort(bytes)
		slices.Sort(took)
		t.Logf("%-10s against local, median: %.3f times the bytes, %.2f times the time", policy, bytes[rounds/2], took[rounds/2])
		if bytes[rounds/2] > 1.1 {
			t.Errorf("%s uploads %.2f times what local does, at most 1.1 is promised", policy, bytes[rounds/2])
		}
		if took[0] > 1.4 { // other work on the machine slows one side or the other
			t.Errorf("%s takes %.2f times what local does, at most 1.4 is promised", policy, took[0])
		}
	}
}

// writeBulk writes so many MiB in a row to a new volume, and flushes it to the store.
func writeBulk(t *testing.T, d *daemon, policy string, mib int, seed uint64) bulk {
	t.Helper()
	name := policy + strconv.FormatUint(seed, 10)
	d.do("create", name, "--size", strconv.Itoa(mib)+"M", "--durability", policy)
	c := d.dial(name)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(len(policy))})
	var before, after struct {
		Up uint64 `json:"store_bytes_up"`
	}
	d.json(&before, "stats")
	began := time.Now()
	const depth = 8
	var sent []<-chan nbdclient.Result
	for i := range mib {
		b := make([]byte, 1<<20)
		_, _ = r.Read(b)
		if len(sent) == depth {
			must(t, (<-sent[0]).Err)
			sent = sent[1:]
		}
		sent = append(sent, c.Go(nbdclient.Request{Op: nbd.OpWrite, Off: uint64(i) << 20, Data: b}))
	}
	for _, s := range sent {
		must(t, (<-s).Err)
	}
	must(t, c.Flush())
	d.do("flush", name)
	took := time.Since(began)
	must(t, c.Close())
	d.do("snapshot", name, "s") // and with it, the next flush folds everything
	d.do("flush", name)
	d.json(&after, "stats")
	d.do("rm", name, "--force")
	return bulk{float64(after.Up-before.Up) / float64(mib<<20), took.Round(time.Millisecond)}
}
