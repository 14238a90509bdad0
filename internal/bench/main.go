// Command bench measures glide against other NBD servers on the same disk: fio's nbd
// engine over a unix socket, all disks fully written first, short runs in alternating
// order, medians of the ratios of pairs. Run it by `make bench`.
//
// A second table has what depends on the store, which is 20 ms and 100 MB/s away: bulk
// writes of each durability policy, small writes with flushes, cold reads.
//
// Another has what a flood or long work for one volume does to a quiet one, and another
// what rounds of garbage collection do to a guest. -only local has what a key of the host
// costs (--local-key).
//
// It prints the tables, and writes what it measured as JSON and as an SVG plot. With
// -check it compares the ratios to `nbdkit file` with those of a JSON file, and fails
// if one is lower by more than the margin.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/paraglide/glide/internal/daemon"
)

// bench is one run.
type bench struct {
	glide, dir, size string
	pairs, seconds   int
	peers            []string
	procs            []*daemon.Process
}

func main() {
	b := bench{}
	flag.StringVar(&b.glide, "glide", "bin/glide", "the binary")
	flag.StringVar(&b.dir, "dir", "", "where to put the disks; a temporary directory here by default")
	flag.StringVar(&b.size, "size", "1G", "size of the disks")
	flag.IntVar(&b.pairs, "pairs", 3, "pairs of runs for each cell")
	flag.IntVar(&b.seconds, "seconds", 4, "seconds of each run: 4 for a look, 60 for a steady state")
	peers := flag.String("peers", "file,memory,qemu", "servers to compare with, of these: nbdkit file, nbdkit memory, qemu-nbd")
	only := flag.String("only", "", "only cells whose name or state contains this; also beside, cleaning, fair, far, gc, local, rekey, sealed")
	out := flag.String("out", "", "write the results to FILE.json and FILE.svg")
	check := flag.String("check", "", "compare the ratios with those in this JSON file")
	margin := flag.Float64("margin", 0.25, "with -check: the part of a ratio that it may be lower")
	flag.Parse()
	b.peers = strings.Split(*peers, ",")
	r, err := b.run(*only, *check != "")
	if err == nil && *out != "" {
		err = write(*out, r)
	}
	if err == nil && *check != "" {
		err = compare(*check, r.Cells, *margin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures. A check compares cells, and needs nothing else.
func (b *bench) run(only string, check bool) (all report, err error) {
	dir, err := os.MkdirTemp(b.dir, "glide-bench")
	if err != nil {
		return all, err
	}
	defer func() {
		b.stop()
		_ = os.RemoveAll(dir)
	}()
	if only == "sealed" {
		return all, b.sealed(dir)
	}
	if only == "local" {
		return all, b.local(dir)
	}
	if only == "rekey" {
		return all, b.rekey(dir)
	}
	if only != "far" && only != "fair" && only != "gc" {
		if err = b.runCells(dir, only, &all); err != nil {
			return all, err
		}
	}
	if check {
		return all, nil
	}
	if only == "" || only == "fair" {
		if all.Fair, err = b.fair(dir); err != nil {
			return all, err
		}
	}
	if only == "" || only == "gc" {
		if all.Collecting, err = b.runCollecting(dir); err != nil {
			return all, err
		}
	}
	if only == "" || only == "far" {
		all.Far, err = b.runFar(dir)
	}
	return all, err
}

// runCells runs the cells whose name or state contains only.
func (b *bench) runCells(dir, only string, all *report) error {
	disks, err := b.start(dir)
	if err != nil {
		return err
	}
	fmt.Printf("%d pairs of %d s; ratios are glide's IOPS over the peer's, latencies glide's\n", b.pairs, b.seconds)
	fmt.Printf("%-50s %-9s %8s %6s", "", "state", "IOPS", "floor")
	for _, p := range b.peers {
		fmt.Printf(" %8s", "/"+p)
	}
	fmt.Printf("   %-18s %8s %8s %8s\n", "pairs with "+b.peers[0], "p50 µs", "p99 µs", "p99.9 µs")
	for _, c := range cells {
		if !strings.Contains(c.name, only) && !strings.Contains(c.state, only) {
			continue
		}
		r, err := b.cell(c, disks)
		if err != nil {
			return err
		}
		all.Cells = append(all.Cells, r)
		r.print(b.peers)
	}
	if strings.Contains("beside", only) && disks["file"] != "" {
		if all.Beside, err = b.beside(disks); err != nil {
			return err
		}
	}
	if strings.Contains("cleaning", only) {
		err = b.cleaning(dir)
	}
	return err
}

// cell runs the pairs of one row.
func (b *bench) cell(c cell, disks map[string]string) (result, error) {
	args := fmt.Sprintf("%s --time_based --runtime=%d", c.args, b.seconds)
	syscall.Sync()
	r := result{Name: c.name, State: c.state, Floor: c.floor, Ratios: map[string]float64{}, Pairs: map[string][]float64{}}
	var glide []run
	for i := range b.pairs {
		order := append([]string{c.state}, b.peers...)
		if i%2 == 1 {
			slices.Reverse(order)
		}
		got := map[string]run{}
		for _, name := range order {
			x, err := b.fio(disks[name], args)
			if err != nil {
				return r, fmt.Errorf("%s on %s: %w", c.name, name, err)
			}
			got[name] = x
		}
		glide = append(glide, got[c.state])
		for _, p := range b.peers {
			r.Pairs[p] = append(r.Pairs[p], got[c.state].iops/got[p].iops)
		}
	}
	for _, p := range b.peers {
		r.Ratios[p] = median(r.Pairs[p])
	}
	pick := func(f func(run) float64) float64 {
		var all []float64
		for _, g := range glide {
			all = append(all, f(g))
		}
		return median(all)
	}
	r.IOPS = pick(func(g run) float64 { return g.iops })
	r.P50, r.P99, r.P999 = pick(func(g run) float64 { return g.p50 }), pick(func(g run) float64 { return g.p99 }), pick(func(g run) float64 { return g.p999 })
	return r, nil
}

// cleaning measures a daemon whose log may be twice what is live, against the
// same daemon before it has to clean.
func (b *bench) cleaning(dir string) error {
	d, err := b.serve(filepath.Join(dir, "half"), "--wal-limit", "2G")
	if err != nil {
		return err
	}
	uri, err := d.create("bench", b.size)
	if err != nil {
		return err
	}
	if err := b.fill(uri); err != nil {
		return err
	}
	fresh, err := b.fio(uri, "--rw=randwrite --bs=4k --iodepth=32 --io_size=512M")
	if err != nil {
		return err
	}
	s0, err := d.stats()
	if err != nil {
		return err
	}
	busy, err := b.fio(uri, "--rw=randwrite --bs=4k --iodepth=32 --io_size=6G")
	if err != nil {
		return err
	}
	s1, err := d.stats()
	if err != nil {
		return err
	}
	amp := 1 + float64(s1.WAL.Cleaned-s0.WAL.Cleaned)/float64(s1.WAL.Bytes-s0.WAL.Bytes)
	fmt.Printf("cleaning at a half-live log: %.2f of the IOPS before (at least 0.8), write amplification %.2f (at most 1.5), %.0f and %.0f IOPS\n", busy.iops/fresh.iops, amp, busy.iops, fresh.iops)
	return nil
}

func median(v []float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
