package nbd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdtest"
)

// BenchmarkFio compares the server, over a device in memory, with nbdkit's
// memory plugin. Runs alternate, and each cell reports the median of the ratios
// of its pairs of runs. It takes some minutes:
//
//	go test -run - -bench Fio -benchtime 3x ./nbd
func BenchmarkFio(b *testing.B) {
	const size = 1 << 30
	ours := filepath.Join(b.TempDir(), "glide.sock")
	serveAt(b, "unix", ours, nbdtest.NewExports(nbd.Export{Device: nbdtest.NewMemory(size)}), nbd.Options{})
	theirs := filepath.Join(b.TempDir(), "nbdkit.sock")
	kit := exec.Command("nbdkit", "-f", "-U", theirs, "memory", fmt.Sprint(size))
	if err := kit.Start(); err != nil {
		b.Fatalf("nbdkit: %v; run make deps", err)
	}
	b.Cleanup(func() {
		_ = kit.Process.Kill()
		_ = kit.Wait()
	})
	for range 100 {
		if _, err := os.Stat(theirs); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, socket := range []string{ours, theirs} {
		fio(b, socket, "--rw=write", "--bs=1M", "--iodepth=8", "--size=1G")
	}
	for _, cell := range []struct {
		name string
		args []string
	}{
		{"randread-4k-qd1", []string{"--rw=randread", "--bs=4k", "--iodepth=1"}},
		{"randread-4k-qd32", []string{"--rw=randread", "--bs=4k", "--iodepth=32"}},
		{"randwrite-4k-qd1", []string{"--rw=randwrite", "--bs=4k", "--iodepth=1"}},
		{"randwrite-4k-qd32", []string{"--rw=randwrite", "--bs=4k", "--iodepth=32"}},
		{"read-128k-qd8", []string{"--rw=read", "--bs=128k", "--iodepth=8"}},
		{"write-128k-qd8", []string{"--rw=write", "--bs=128k", "--iodepth=8"}},
	} {
		b.Run(cell.name, func(b *testing.B) {
			args := append(cell.args, "--time_based", "--runtime=3", "--ramp_time=0.3", "--size=1G")
			var ratios, iops []float64
			for i := 0; b.Loop(); i++ {
				var mine, other float64
				if i%2 == 0 {
					mine = fio(b, ours, args...)
					other = fio(b, theirs, args...)
				} else {
					other = fio(b, theirs, args...)
					mine = fio(b, ours, args...)
				}
				ratios, iops = append(ratios, mine/other), append(iops, mine)
			}
			slices.Sort(ratios)
			slices.Sort(iops)
			b.ReportMetric(iops[len(iops)/2], "iops")
			b.ReportMetric(ratios[0], "ratio-min")
			b.ReportMetric(ratios[len(ratios)/2], "ratio-median")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// fio runs fio's nbd engine on a unix socket and returns the operations per second.
func fio(tb testing.TB, socket string, args ...string) float64 {
	tb.Helper()
	cmd := exec.Command("fio", append([]string{
		"--name=job", "--ioengine=nbd", "--uri=nbd+unix:///?socket=" + socket, "--output-format=json",
	}, args...)...)
	cmd.Dir = tb.TempDir()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("fio: %v; run make deps\n%s", err, out)
	}
	var report struct {
		Jobs []struct {
			Error       int
			Read, Write struct{ IOPS float64 }
		}
	}
	_, out, _ = bytes.Cut(out, []byte("\n")) // the engine greets on standard output
	if err := json.Unmarshal(out, &report); err != nil || len(report.Jobs) != 1 {
		tb.Fatalf("fio said: %v\n%s", err, out)
	}
	if report.Jobs[0].Error != 0 {
		tb.Fatalf("fio: error %d", report.Jobs[0].Error)
	}
	return report.Jobs[0].Read.IOPS + report.Jobs[0].Write.IOPS
}
