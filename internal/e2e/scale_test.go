package e2e

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd/nbdclient"
)

// percentile returns a percentile of durations, in percent.
func percentile(all []time.Duration, p int) time.Duration {
	all = slices.Clone(all)
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*p/100)]
}

// TestForkToFirstRead: a storm of forks is served at once. The time of a child is its share
// of the fork, its handshake over the unix socket, and its first read of 4 KiB.
func TestForkToFirstRead(t *testing.T) {
	const forks = 100
	d := newDaemon(t, "")
	d.start()
	d.do("create", "log", "--size", "64G")
	d.do("create", "published", "--size", "64G")
	data := pattern(8<<20, 1)
	d.write("log", data, 1<<30)
	d.write("published", data, 1<<30)
	d.do("flush", "published")
	for _, parent := range []string{"log", "published"} {
		attempts(t, func() bool {
			name := fmt.Sprintf("%s-%d", parent, time.Now().UnixNano())
			began := time.Now()
			d.do("fork", parent, name, "-n", fmt.Sprint(forks))
			share := time.Since(began) / forks
			var all []time.Duration
			for i := range forks {
				began, got := time.Now(), make([]byte, page)
				c, err := nbdclient.Dial(context.Background(), "unix", d.nbd(), nbdclient.Options{Export: fmt.Sprintf("%s-%d", name, i+1)})
				must(t, err)
				off := uint64(i * page)
				must(t, c.Read(got, 1<<30+off))
				all = append(all, share+time.Since(began))
				if !bytes.Equal(got, data[off:off+page]) {
					t.Fatalf("fork %d reads something else than its parent", i+1)
				}
				c.Close()
			}
			p50, p99 := percentile(all, 50), percentile(all, 99)
			t.Logf("%s parent: p50 %v, p99 %v, of which the share of the fork is %v", parent, p50, p99, share)
			return p50 <= 2*time.Millisecond && p99 <= 10*time.Millisecond
		})
	}
}
