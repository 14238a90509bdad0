package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// beside measures the p99.9 of page reads while another connection writes to the same
// disk as fast as it can, against nbdkit file, in pairs.
func (b *bench) beside(disks map[string]string) ([]figure, error) {
	one := func(uri string) (p999 float64, err error) {
		ctx, stop := context.WithCancel(context.Background())
		writer := exec.CommandContext(ctx, "fio", "--name=w", "--thread", "--ioengine=nbd", "--uri="+uri, "--rw=write", "--bs=128k", "--iodepth=8", "--size=512M", "--time_based", "--runtime=300")
		if err := writer.Start(); err != nil {
			stop()
			return 0, err
		}
		defer func() {
			stop()
			if _ = writer.Wait(); err == nil && writer.ProcessState.Exited() {
				err = fmt.Errorf("the writer beside the reads ended by itself: %v", writer.ProcessState)
			}
		}()
		time.Sleep(500 * time.Millisecond)
		x, err := b.fio(uri, fmt.Sprintf("--rw=randread --bs=4k --iodepth=1 --offset=512M --size=512M --time_based --runtime=%d", b.seconds))
		return x.p999, err
	}
	var ratios, ours []float64
	for range b.pairs {
		g, err := one(disks[inLog])
		if err != nil {
			return nil, err
		}
		f, err := one(disks["file"])
		if err != nil {
			return nil, err
		}
		ratios, ours = append(ratios, g/f), append(ours, g)
	}
	fig := figure{Name: "4k random read beside a sequential writer, p99.9", Value: median(ours), Unit: "µs", Ratio: median(ratios), Of: "nbdkit file"}
	fmt.Printf("%s: %.0f µs, %.2f times that of nbdkit file (at most 2)\n", fig.Name, fig.Value, fig.Ratio)
	return []figure{fig}, nil
}
