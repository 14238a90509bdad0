package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// sealedCells are what a key of the host (--local-key) is measured by, with the least ratio
// of the IOPS with it to those without.
var sealedCells = []cell{
	{"4k random read, depth 1", published, 0.8, "--rw=randread --bs=4k --iodepth=1"},
	{"4k random read, depth 32", published, 0.8, "--rw=randread --bs=4k --iodepth=32"},
	{"128k sequential read, depth 8", published, 0.6, "--rw=read --bs=128k --iodepth=8"},
	{"4k random read, depth 32", inLog, 0.8, "--rw=randread --bs=4k --iodepth=32"},
	{"128k sequential read, depth 8", inLog, 0.6, "--rw=read --bs=128k --iodepth=8"},
	{"4k random write, depth 32", inLog, 0.9, "--rw=randwrite --bs=4k --iodepth=32"},
	{"4k random write, flush each 32, depth 32", inLog, 0.95, "--rw=randwrite --bs=4k --iodepth=32 --fsync=32"},
	{"4k random write, flush each, depth 1", inLog, 0.95, "--rw=randwrite --bs=4k --iodepth=1 --fsync=1"},
	{"128k sequential write, depth 8, flush each 32 MiB", inLog, 0.8, "--rw=write --bs=128k --iodepth=8 --fsync=256"},
}

// local compares a host that seals what it has on its disk with one that does not.
func (b *bench) local(dir string) error {
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef"), 0o600); err != nil {
		return err
	}
	disks := map[string]map[string]string{}
	for name, flags := range map[string][]string{"plain": nil, "sealed": {"--local-key", "file:" + key}} {
		d, err := b.serve(filepath.Join(dir, name), append(flags, "--memory", "128M", "--store", "file://"+dir+"/store-"+name)...)
		if err != nil {
			return err
		}
		disks[name] = map[string]string{published: d.uri("published")}
		if disks[name][inLog], err = d.create("log", b.size); err != nil {
			return err
		}
		base, err := d.create("base", b.size)
		if err != nil {
			return err
		}
		for _, uri := range []string{base, disks[name][inLog]} {
			if err := b.fill(uri); err != nil {
				return err
			}
		}
		for _, args := range [][]string{{"flush", "base"}, {"fork", "base", "published"}} {
			if err := d.do(args...); err != nil {
				return err
			}
		}
	}
	syscall.Sync()
	fmt.Printf("\nIOPS with a key of the host (--local-key) over those without, %d pairs of %d s\n%-50s %-9s %8s %8s %6s %6s\n", b.pairs, b.seconds, "", "state", "plain", "sealed", "floor", "ratio")
	for _, c := range sealedCells {
		if err := b.sealedCell(c, disks); err != nil {
			return err
		}
	}
	return nil
}

// sealedCell runs the pairs of one row.
func (b *bench) sealedCell(c cell, disks map[string]map[string]string) error {
	all, ratios := map[string][]float64{}, []float64{}
	for i := range b.pairs {
		order := []string{"plain", "sealed"}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, name := range order {
			x, err := b.fio(disks[name][c.state], fmt.Sprintf("%s --time_based --runtime=%d", c.args, b.seconds))
			if err != nil {
				return fmt.Errorf("%s, %s: %w", c.name, name, err)
			}
			all[name] = append(all[name], x.iops)
		}
		ratios = append(ratios, all["sealed"][i]/all["plain"][i])
	}
	fmt.Printf("%-50s %-9s %8.0f %8.0f %6.2f %6.2f   %.2f\n", c.name, c.state, median(all["plain"]), median(all["sealed"]), c.floor, median(ratios), ratios)
	return nil
}
