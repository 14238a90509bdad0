package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/netem"
	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/internal/programs"
	"github.com/paraglide/glide/nbd/nbdclient"
)

const (
	churnSize  = 4 << 20 // of a volume
	churnBlock = 128 << 10
	churners   = 3 // workers
)

// TestChurn has volumes come, change and go on two hosts, while rounds of garbage
// collection follow each other all the time, without a grace period: through the daemons,
// and by processes of their own. One of the hosts is far from the store, now and then. In the end everything that is left has the contents that it
// should have, on a third host that has nothing but the store, and after three more rounds
// the bucket holds little else. GLIDE_SOAK=1h goes on for as long.
func TestChurn(t *testing.T) {
	limit := 20 * time.Second
	if soak, err := time.ParseDuration(os.Getenv("GLIDE_SOAK")); err == nil {
		limit = soak
	} else if testing.Short() {
		limit = 5 * time.Second
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	url, _ := s3test.Start(t)
	far, proxy := behindProxy(t, url)
	c := &churn{t: t, url: url, far: proxy, hosts: [2]*daemon{churnHost(t, url), churnHost(t, far)}}
	workers := make([]*churner, churners)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { c.collect(ctx) })
	for i := range workers {
		w := &churner{churn: c, id: i, r: rand.New(rand.NewPCG(seed, uint64(i))), did: map[string]int{}}
		workers[i] = w
		wg.Go(func() {
			if err := w.run(ctx); err != nil {
				cancel()
				t.Errorf("worker %d, after %v: %v", w.id, w.did, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	var left []*churned
	for _, w := range workers {
		t.Logf("worker %d did %v", w.id, w.did)
		left = append(left, w.volumes...)
	}
	t.Logf("%d rounds deleted %d objects, compacted %d packs", c.rounds.Load(), c.deleted.Load(), c.compacted.Load())
	if c.deleted.Load() == 0 && c.rounds.Load() > 10 {
		t.Error("nothing was deleted meanwhile")
	}
	for _, v := range left {
		c.hosts[v.host].do("flush", v.name)
		c.hosts[v.host].do("verify", v.name, "--cold")
	}
	c.settle(left)
	c.compare(left)
}

// churn is what the workers share.
type churn struct {
	t     *testing.T
	url   string
	hosts [2]*daemon
	far   *netem.Proxy // between the store and the second host

	rounds, deleted, compacted atomic.Int64
}

func churnHost(t *testing.T, url string) *daemon {
	d := newDaemon(t, url, "--wal-limit", "1G", "--cache", "64M", "--retention", "1s", "--gc-interval", "1s", "--gc-grace", "100ms", "--log-level", "warn")
	d.start()
	return d
}

// collect runs rounds through a daemon and by itself, until ctx ends.
func (c *churn) collect(ctx context.Context) {
	defer c.far.Delay(0)
	for i := 0; ctx.Err() == nil; i++ {
		if i%20 == 0 { // rounds pass between an upload and its commit
			c.far.Delay(150 * time.Millisecond)
		} else if i%20 == 10 {
			c.far.Delay(0)
		}
		cmd := exec.Command(programs.Glide(c.t), "gc", "--grace", "0s", "--store", c.url, "--json")
		if i%2 == 0 { // the other host runs some by itself
			cmd = c.hosts[0].cli().Command(context.Background(), "gc", "--grace", "0s", "--json")
		}
		if _, err := c.round(cmd); err != nil {
			c.t.Errorf("round %d: %v", i, err)
			return
		}
	}
}

func (c *churn) round(cmd *exec.Cmd) (got api.Collection, err error) {
	r := finish(c.t, cmd)
	if r.Code != 0 {
		return got, errors.New(r.Err)
	}
	if err := json.Unmarshal([]byte(r.Out), &got); err != nil {
		return got, err
	}
	c.rounds.Add(1)
	c.deleted.Add(int64(got.DeletedObjects))
	c.compacted.Add(int64(got.CompactedPacks))
	return got, nil
}

// churned is a volume, and what it has to hold.
type churned struct {
	name      string
	host      int
	data      []byte
	snapshots map[string][]byte
}

// churner is a worker, with volumes of its own.
type churner struct {
	*churn
	id      int
	r       *rand.Rand
	volumes []*churned
	names   int
	did     map[string]int
}

func (w *churner) run(ctx context.Context) error {
	for ctx.Err() == nil {
		verb, err := w.step()
		if err != nil {
			return fmt.Errorf("%s: %w", verb, err)
		}
		w.did[verb]++
	}
	return nil
}

func (w *churner) name() string {
	w.names++
	return fmt.Sprintf("w%d-%d", w.id, w.names)
}

func (w *churner) do(host int, args ...string) error {
	_, err := w.hosts[host].cli().Do(context.Background(), args...)
	return err
}

// step does one thing to one volume.
func (w *churner) step() (verb string, err error) {
	if len(w.volumes) < 2 {
		return "create", w.create()
	}
	i := w.r.IntN(len(w.volumes))
	v := w.volumes[i]
	switch n := w.r.IntN(20); {
	case n < 8:
		return "write", w.write(v)
	case n < 11:
		return "flush", w.do(v.host, "flush", v.name)
	case n < 12:
		return "read", w.same(v.host, v.name, v.data)
	case n < 14:
		if len(w.volumes) >= 6 {
			break
		}
		kid := &churned{name: w.name(), host: w.r.IntN(len(w.hosts)), data: bytes.Clone(v.data), snapshots: map[string][]byte{}}
		if kid.host != v.host { // what was never published is on one host only
			if err := w.do(v.host, "flush", v.name); err != nil {
				return "flush", err
			}
		}
		w.volumes = append(w.volumes, kid)
		return "fork", w.do(kid.host, "fork", v.name, kid.name)
	case n < 15:
		if len(v.snapshots) >= 2 {
			break
		}
		s := fmt.Sprintf("s%d", w.names)
		w.names++
		v.snapshots[s] = bytes.Clone(v.data)
		return "snapshot", w.do(v.host, "snapshot", v.name, s)
	case n < 16:
		for s, data := range v.snapshots {
			if w.r.IntN(2) == 0 {
				delete(v.snapshots, s)
				return "rm snapshot", w.do(v.host, "rm", v.name+"@"+s)
			}
			copy(v.data, data)
			return "rollback", w.do(v.host, "rollback", v.name, s)
		}
	case n < 17:
		if err := w.do(v.host, "flush", v.name); err != nil {
			return "flush", err
		}
		v.host = 1 - v.host
		return "wake on the other host", w.do(v.host, "wake", v.name)
	case n < 18:
		return "create", w.create()
	}
	if len(w.volumes) < 4 {
		return "pass", nil
	}
	w.volumes = slices.Delete(w.volumes, i, i+1)
	return "rm", w.do(v.host, "rm", v.name)
}

func (w *churner) create() error {
	v := &churned{name: w.name(), host: w.r.IntN(len(w.hosts)), data: make([]byte, churnSize), snapshots: map[string][]byte{}}
	w.volumes = append(w.volumes, v)
	policy := []string{"local", "local", "continuous", "sync"}[w.r.IntN(4)]
	if err := w.do(v.host, "create", v.name, "--size", fmt.Sprint(churnSize), "--durability", policy); err != nil {
		return err
	}
	return w.write(v)
}

// write writes a few ranges: blocks that other volumes have too, or may have had, or bytes
// that are new.
func (w *churner) write(v *churned) error {
	c, err := nbdclient.Dial(context.Background(), "unix", w.hosts[v.host].nbd(), nbdclient.Options{Export: v.name})
	if err != nil {
		return err
	}
	defer c.Close()
	for range 1 + w.r.IntN(6) {
		off, n := w.r.IntN(churnSize/churnBlock)*churnBlock, churnBlock
		var b []byte
		switch w.r.IntN(4) {
		case 0:
			b = pattern(n, 1+w.r.IntN(50))
		case 1:
			off, n = w.r.IntN(churnSize/page)*page, page
			fallthrough
		default:
			b = pattern(n, w.r.Int())
		}
		copy(v.data[off:], b)
		if err := c.Write(b, uint64(off), 0); err != nil {
			return err
		}
	}
	if w.r.IntN(8) == 0 {
		off := w.r.IntN(churnSize/churnBlock) * churnBlock
		clear(v.data[off:][:churnBlock])
		if err := c.Trim(uint64(off), churnBlock, 0); err != nil {
			return err
		}
	}
	return c.Flush()
}

// same reads a volume.
func (c *churn) same(host int, name string, want []byte) error {
	return c.hosts[host].compare(name, want)
}

func (d *daemon) compare(name string, want []byte) error {
	c, err := nbdclient.Dial(context.Background(), "unix", d.nbd(), nbdclient.Options{Export: name})
	if err != nil {
		return err
	}
	defer c.Close()
	got := make([]byte, len(want))
	if err := c.Read(got, 0); err != nil {
		return err
	}
	for at := 0; at < len(want); at += page {
		if !bytes.Equal(got[at:at+page], want[at:at+page]) {
			return fmt.Errorf("%s has other bytes at %d than were written", name, at)
		}
	}
	return nil
}

// settle runs three rounds when nothing else happens, and compares the bucket with what is
// live: what a walk of all commits reaches, and what the volumes hold.
func (c *churn) settle(left []*churned) {
	t := c.t
	unique := map[string]bool{}
	for _, v := range left {
		for _, data := range append(slices.Collect(maps.Values(v.snapshots)), v.data) {
			for b := range slices.Chunk(data, churnBlock) {
				if !bytes.Equal(b, zeroBlock[:]) {
					unique[string(b)] = true
				}
			}
		}
	}
	held := int64(len(unique)) * churnBlock
	for _, d := range c.hosts { // whose upload sessions end so
		d.stop()
	}
	time.Sleep(1100 * time.Millisecond) // past retention
	c.hosts[0].start()
	for range 3 {
		r, err := c.round(c.hosts[0].cli().Command(context.Background(), "gc", "--grace", "0s", "--json"))
		must(t, err)
		t.Logf("a round at rest: deleted %d objects (%.1f MB), compacted %d packs; %v requests, %.0f ms", r.DeletedObjects, float64(r.DeletedBytes)/1e6, r.CompactedPacks, r.Requests, r.ElapsedMs)
	}
	live, stored := reached(t, c.url)
	t.Logf("%d volumes hold %.1f MB of distinct blocks; commits reach %.1f MB; the bucket holds %.1f MB (%v): %.3f and %.3f times",
		len(left), float64(held)/1e6, float64(live)/1e6, float64(stored.total)/1e6, stored.kinds, float64(stored.total)/float64(held), float64(stored.total)/float64(live))
	if float64(stored.total) > 1.1*float64(live) {
		t.Errorf("the bucket holds more than 1.1 times what is live")
	}
	c.hosts[1].start()
}

var zeroBlock [churnBlock]byte

// compare reads everything on a third host, which has only the store.
func (c *churn) compare(left []*churned) {
	far := churnHost(c.t, c.url)
	for _, v := range left {
		for s, data := range v.snapshots {
			kid := v.name + "-" + s
			far.do("fork", v.name+"@"+s, kid)
			must(c.t, far.compare(kid, data))
		}
		kid := v.name + "-far"
		far.do("fork", v.name, kid)
		must(c.t, far.compare(kid, v.data))
		far.do("verify", kid, "--cold")
		must(c.t, c.same(v.host, v.name, v.data))
		c.hosts[v.host].do("verify", v.name, "--cold")
	}
}
