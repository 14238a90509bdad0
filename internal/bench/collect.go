package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// collecting measures what rounds of garbage collection take from a guest: the throughput of
// a local volume while rounds run, against none, in pairs. A disk of nbdkit (if peers has
// file) beside the same rounds tells what comes from sharing two processors and an SSD. The
// store has an image and forks of it, and all the time some of them are changed and flushed,
// so that each round finds packs to delete and to compact.
type collecting struct {
	b      *bench
	d      *glide
	api    *client.Client
	store  string
	rounds int
	took   time.Duration
}

const collectedForks = 100

// collectRow is a way to run rounds.
type collectRow struct {
	name  string
	pause time.Duration
	own   bool // in a process of its own, not in the daemon; only beside the first load
	nice  bool
}

// collectLoad is what the guest does meanwhile.
type collectLoad struct{ name, fio string }

var collectLoads = []collectLoad{
	{"4k random reads and writes, depth 32", "--rw=randrw --bs=4k --iodepth=32"},
	{"4k random writes, depth 32, a flush after each 32", "--rw=randwrite --bs=4k --iodepth=32 --fsync=32"},
	{"128k sequential writes, depth 8", "--rw=write --bs=128k --iodepth=8"},
}

var collectRows = []collectRow{
	{name: "rounds in the daemon, one a second", pause: time.Second},
	{name: "rounds in the daemon, one after the other"},
	{name: "rounds in a process, one after the other", own: true},
	{name: "the same, nice 19", own: true, nice: true},
}

func (b *bench) runCollecting(dir string) (figures []figure, err error) {
	c := &collecting{b: b, store: "file://" + filepath.Join(dir, "collected-store")}
	if err := c.start(dir); err != nil {
		return nil, err
	}
	peer := ""
	if slices.Contains(b.peers, "file") {
		if peer, err = b.peer(dir, "file"); err == nil {
			err = b.fill(peer)
		}
		if err != nil {
			return nil, err
		}
	}
	for i, load := range collectLoads {
		fmt.Printf("\n%s, of a local volume beside rounds of collection, against none\n", load.name)
		for _, row := range collectRows {
			if i > 0 && row.own {
				continue
			}
			f, err := c.row(row, load, peer)
			if err != nil {
				return figures, fmt.Errorf("%s, %s: %w", load.name, row.name, err)
			}
			figures = append(figures, f)
		}
		peer = "" // once is enough
	}
	return figures, nil
}

// row measures one way to run rounds beside one load, and nbdkit's disk if there is one.
func (c *collecting) row(row collectRow, load collectLoad, peer string) (figure, error) {
	var with, ratios, peers []float64
	c.rounds, c.took = 0, 0
	for i := range c.b.pairs {
		iops, ratio, err := c.pair(c.d.uri("guest"), row, load, i)
		if err != nil {
			return figure{}, err
		}
		with, ratios = append(with, iops), append(ratios, ratio)
		if peer == "" {
			continue
		}
		if _, ratio, err = c.pair(peer, row, load, i); err != nil {
			return figure{}, fmt.Errorf("nbdkit: %w", err)
		}
		peers = append(peers, ratio)
	}
	f := figure{Name: row.name + ", " + load.name, Value: median(with), Unit: "IOPS", Ratio: median(ratios), Of: "no rounds"}
	fmt.Printf("%-42s %8.0f IOPS, %.2f of those without, pairs %.2f; %d rounds of %.0f ms", row.name, f.Value, f.Ratio, ratios, c.rounds, float64(c.took.Milliseconds())/float64(max(1, c.rounds)))
	if peer != "" {
		fmt.Printf("; nbdkit %.2f, pairs %.2f", median(peers), peers)
	}
	fmt.Println()
	return f, nil
}

// pair measures a disk with rounds and without, in an order that alternates.
func (c *collecting) pair(uri string, row collectRow, load collectLoad, i int) (iops, ratio float64, err error) {
	var got [2]float64 // without, with
	for k := range 2 {
		on := (i + k) % 2
		if got[on], err = c.one(uri, on == 1, row, load); err != nil {
			return 0, 0, err
		}
	}
	return got[1], got[1] / got[0], nil
}

// start fills the store and writes the guest's disk.
func (c *collecting) start(dir string) (err error) {
	if c.d, err = c.b.serve(filepath.Join(dir, "collected"), "--store", c.store, "--gc", "off", "--retention", "1s"); err != nil {
		return err
	}
	if c.api, err = client.New(c.d.API, client.Options{}); err != nil {
		return err
	}
	for _, name := range []string{"image", "guest"} {
		uri, err := c.d.create(name, c.b.size)
		if err == nil {
			err = c.b.fill(uri)
		}
		if err != nil {
			return err
		}
	}
	if err := c.d.do("flush", "image"); err != nil {
		return err
	}
	for i := range collectedForks {
		name := fmt.Sprintf("fork-%d", i)
		if err := c.d.do("fork", "image", name); err != nil {
			return err
		}
		if err := c.change(name, 1<<20); err != nil {
			return err
		}
	}
	return nil
}

// change writes random bytes to random blocks, and flushes the volume.
func (c *collecting) change(name string, n int) error {
	conn, err := nbdclient.Dial(context.Background(), "unix", c.d.nbd, nbdclient.Options{Export: name})
	if err != nil {
		return err
	}
	defer conn.Close()
	b := make([]byte, 128<<10)
	for range n / len(b) {
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		if err := conn.Write(b, rand.Uint64N(256)*uint64(len(b)), 0); err != nil {
			return err
		}
	}
	return c.d.do("flush", name)
}

// one is one run of the guest.
func (c *collecting) one(uri string, on bool, row collectRow, load collectLoad) (iops float64, err error) {
	ctx, stop := context.WithCancel(context.Background())
	var changed, collected error
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil && changed == nil; i++ {
			changed = c.change(fmt.Sprintf("fork-%d", i%4), 2<<20)
			pausing(ctx, 200*time.Millisecond)
		}
	})
	if on {
		wg.Go(func() {
			for ctx.Err() == nil && collected == nil {
				began := time.Now()
				collected = c.round(row)
				c.rounds++
				c.took += time.Since(began)
				pausing(ctx, row.pause-time.Since(began))
			}
		})
	}
	x, err := c.b.fio(uri, fmt.Sprintf("%s --time_based --runtime=%d", load.fio, c.b.seconds))
	stop()
	wg.Wait()
	for _, e := range []error{changed, collected} {
		if err == nil {
			err = e
		}
	}
	return x.iops, err // of the reads, if there are some
}

// round runs one round. That of the daemon is asked for without a process, which would cost
// the guest something, too.
func (c *collecting) round(row collectRow) error {
	if !row.own {
		_, err := c.api.Collect(context.Background(), client.CollectRequest{Grace: "0s"})
		return err
	}
	cmd := c.d.Command(context.Background(), "gc", "--grace", "0s", "--store", c.store)
	if row.nice {
		cmd = exec.Command("nice", append([]string{"-n", "19"}, cmd.Args...)...)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return err
}

func pausing(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
