// Command bench measures glide against `nbdkit file` on the same disk: fio's nbd
// engine over a unix socket, both disks fully written first, short runs in
// alternating order, medians of the ratios of pairs. Run it by `make bench`.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/paraglide/glide/internal/daemon"
)

// cell is one row of the table.
type cell struct {
	name  string
	floor float64 // the ratio that is promised
	args  string
}

var cells = []cell{
	{"128k sequential read, depth 8", 0.9, "--rw=read --bs=128k --iodepth=8"},
	{"128k sequential write, depth 8, flush each 32 MiB", 0.9, "--rw=write --bs=128k --iodepth=8 --fsync=256"},
	{"4k random write, depth 32", 1.1, "--rw=randwrite --bs=4k --iodepth=32"},
	{"4k random write, depth 1", 1.1, "--rw=randwrite --bs=4k --iodepth=1"},
	{"4k random read, depth 32", 0.9, "--rw=randread --bs=4k --iodepth=32"},
	{"4k random read, depth 1", 1.2, "--rw=randread --bs=4k --iodepth=1"},
	{"4k random write, flush each 32, depth 1", 1.5, "--rw=randwrite --bs=4k --iodepth=1 --fsync=32"},
	{"4k random write, flush each 32, depth 32", 1.5, "--rw=randwrite --bs=4k --iodepth=32 --fsync=32"},
	{"4k random write, flush each, depth 1", 0.9, "--rw=randwrite --bs=4k --iodepth=1 --fsync=1"},
	{"4k random write, flush each, depth 32", 1.3, "--rw=randwrite --bs=4k --iodepth=32 --fsync=1"},
}

// bench is one run.
type bench struct {
	glide, dir, size string
	pairs, seconds   int
	procs            []*daemon.Process
}

func main() {
	b := bench{}
	flag.StringVar(&b.glide, "glide", "bin/glide", "the binary")
	flag.StringVar(&b.dir, "dir", "", "where to put both disks; a temporary directory here by default")
	flag.StringVar(&b.size, "size", "1G", "size of the disks")
	flag.IntVar(&b.pairs, "pairs", 3, "pairs of runs for each cell")
	flag.IntVar(&b.seconds, "seconds", 4, "seconds of each run")
	only := flag.String("only", "", "only cells whose name contains this")
	flag.Parse()
	err := b.run(*only)
	b.stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(only string) error {
	dir, err := os.MkdirTemp(b.dir, "glide-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	glide, kit, err := b.start(dir)
	if err != nil {
		return err
	}
	fmt.Printf("writing both disks of %s fully\n", b.size)
	for _, uri := range []string{glide, kit} {
		if _, err := b.fio(uri, "--rw=write --bs=1M --iodepth=4"); err != nil {
			return err
		}
	}
	fmt.Printf("%-52s %7s %7s   %-22s %10s %10s\n", "", "ratio", "floor", "of each pair", "glide", "nbdkit")
	for _, c := range cells {
		if strings.Contains(c.name, only) {
			if err := b.cell(c, glide, kit); err != nil {
				return err
			}
		}
	}
	if strings.Contains("cleaning", only) {
		return b.cleaning(dir)
	}
	return nil
}

// cell runs the pairs of one row.
func (b *bench) cell(c cell, glide, kit string) error {
	args := fmt.Sprintf("%s --time_based --runtime=%d", c.args, b.seconds)
	syscall.Sync()
	var ratios, gs, ks []float64
	for i := range b.pairs {
		var g, k float64
		var err error
		for j := range 2 {
			if (i+j)%2 == 0 {
				g, err = b.fio(glide, args)
			} else {
				k, err = b.fio(kit, args)
			}
			if err != nil {
				return err
			}
		}
		ratios, gs, ks = append(ratios, g/k), append(gs, g), append(ks, k)
	}
	each := make([]string, len(ratios))
	for i, r := range ratios {
		each[i] = fmt.Sprintf("%.2f", r)
	}
	miss := ""
	if median(ratios) < c.floor {
		miss = "  below the floor"
	}
	fmt.Printf("%-52s %7.2f %7.1f   %-22s %10.0f %10.0f IOPS%s\n", c.name, median(ratios), c.floor, strings.Join(each, " "), median(gs), median(ks), miss)
	return nil
}

// cleaning measures a daemon whose log may be twice what is live, against the
// same daemon before it has to clean.
func (b *bench) cleaning(dir string) error {
	uri, stats, err := b.serve(filepath.Join(dir, "half"), "--wal-limit", "2G")
	if err != nil {
		return err
	}
	if _, err := b.fio(uri, "--rw=write --bs=1M --iodepth=4"); err != nil {
		return err
	}
	fresh, err := b.fio(uri, "--rw=randwrite --bs=4k --iodepth=32 --io_size=512M")
	if err != nil {
		return err
	}
	s0, err := stats()
	if err != nil {
		return err
	}
	busy, err := b.fio(uri, "--rw=randwrite --bs=4k --iodepth=32 --io_size=6G")
	if err != nil {
		return err
	}
	s1, err := stats()
	if err != nil {
		return err
	}
	amp := 1 + float64(s1.WAL.Cleaned-s0.WAL.Cleaned)/float64(s1.WAL.Bytes-s0.WAL.Bytes)
	fmt.Printf("%-52s %7.2f %7.1f   write amplification %.2f (at most 1.5) %6.0f %10.0f IOPS before\n", "cleaning at a half-live log, against before", busy/fresh, 0.8, amp, busy, fresh)
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

// walStats is what the cleaning cell needs of `glide stats`.
type walStats struct {
	WAL struct {
		Bytes   uint64 `json:"bytes"`
		Cleaned uint64 `json:"cleaned_bytes"`
	} `json:"wal"`
}

// start runs both servers and returns their URIs.
func (b *bench) start(dir string) (glide, kit string, err error) {
	if glide, _, err = b.serve(filepath.Join(dir, "glide")); err != nil {
		return "", "", err
	}
	file, sock := filepath.Join(dir, "plain.img"), filepath.Join(dir, "kit.sock")
	if err := exec.Command("truncate", "-s", b.size, file).Run(); err != nil {
		return "", "", err
	}
	p, err := daemon.Start(exec.Command("nbdkit", "-f", "-U", sock, "file", file), nil)
	if err != nil {
		return "", "", err
	}
	b.procs = append(b.procs, p)
	for range 500 {
		if _, err := os.Stat(sock); err == nil {
			return glide, "nbd+unix:///?socket=" + sock, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", "", fmt.Errorf("nbdkit did not start: %s", p.Log.LastLine())
}

// serve runs a daemon with one volume.
func (b *bench) serve(data string, flags ...string) (uri string, stats func() (walStats, error), err error) {
	if err := os.Mkdir(data, 0o700); err != nil {
		return "", nil, err
	}
	glide := daemon.Verbs{Glide: b.glide, API: "unix:" + data + "/api"}
	ctx := context.Background()
	cmd := exec.Command(b.glide, append([]string{"serve", "--data", data, "--nbd", "unix:" + data + "/nbd", "--api", glide.API}, flags...)...)
	p, err := daemon.Serve(ctx, cmd, nil, time.Minute)
	if err != nil {
		return "", nil, err
	}
	b.procs = append(b.procs, p)
	if _, err := glide.Do(ctx, "create", "bench", "--size", b.size); err != nil {
		return "", nil, err
	}
	stats = func() (s walStats, err error) {
		err = glide.JSON(ctx, &s, "stats")
		return s, err
	}
	return "nbd+unix:///bench?socket=" + data + "/nbd", stats, nil
}

// stop ends the servers. What a daemon complains of is worth a line.
func (b *bench) stop() {
	for _, p := range b.procs {
		if err := p.Stop(time.Minute); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// fio runs one job and returns its IOPS.
func (b *bench) fio(uri, args string) (float64, error) {
	cmd := exec.Command("fio", append([]string{"--name=x", "--ioengine=nbd", "--uri=" + uri, "--size=" + b.size, "--output-format=json"}, strings.Fields(args)...)...)
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("fio %s: %w", args, err)
	}
	var doc struct {
		Jobs []struct {
			Error       int
			Read, Write struct{ IOPS float64 }
		}
	}
	// fio's nbd engine prints a line before the document.
	if i := strings.IndexByte(string(out), '{'); i > 0 {
		out = out[i:]
	}
	if err := json.Unmarshal(out, &doc); err != nil || len(doc.Jobs) != 1 || doc.Jobs[0].Error != 0 {
		return 0, fmt.Errorf("fio %s: no result: %w", args, err)
	}
	return max(doc.Jobs[0].Read.IOPS, doc.Jobs[0].Write.IOPS), nil
}
