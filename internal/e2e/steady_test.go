package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/programs"
)

// written returns the bytes that a process has sent to the disk, as the kernel counts
// them: pages that it made dirty, once for each time that they go to the disk. Pages that
// were dropped before that are subtracted.
func written(t *testing.T, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	must(t, err)
	var n float64
	for line := range strings.Lines(string(b)) {
		var v float64
		if _, err := fmt.Sscanf(line, "write_bytes: %f", &v); err == nil {
			n += v
		} else if _, err := fmt.Sscanf(line, "cancelled_write_bytes: %f", &v); err == nil {
			n -= v
		}
	}
	return n
}

// fio runs a job against an NBD server, and returns the bytes that it wrote.
func fio(ctx context.Context, uri, args string) (bytes float64, err error) {
	out, err := exec.CommandContext(ctx, "fio", append([]string{"--name=x", "--ioengine=nbd", "--uri=" + uri, "--output-format=json"}, strings.Fields(args)...)...).Output()
	if err != nil {
		return 0, fmt.Errorf("fio %s: %w: %s", args, err, out)
	}
	var doc struct {
		Jobs []struct {
			Write struct {
				Bytes float64 `json:"io_bytes"`
			}
		}
	}
	if err := json.Unmarshal(out[max(0, slices.Index(out, '{')):], &doc); err != nil || len(doc.Jobs) != 1 {
		return 0, fmt.Errorf("fio %s: no result: %w", args, err)
	}
	return doc.Jobs[0].Write.Bytes, nil
}

// uri returns where fio finds an export.
func (d *daemon) uri(export string) string { return "nbd+unix:///" + export + "?socket=" + d.nbd() }

// TestLocalWriteAmplification: what a volume that is written over and over costs its
// SSD. The log has been filled before, so that its segments are reused and cleaned.
func TestLocalWriteAmplification(t *testing.T) {
	programs.Need(t, "fio")
	for _, c := range []struct {
		name, args string
		most       float64
	}{
		{"large writes", "--rw=write --bs=1M --iodepth=4 --size=256M --loops=4 --end_fsync=1", 1.1},
		{"random pages", "--rw=randwrite --bs=4k --iodepth=32 --size=256M --io_size=1G --end_fsync=1", 2.2},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDaemon(t, "", "--wal-limit", "1G")
			d.start()
			d.do("create", "v", "--size", "256M")
			run := func() float64 {
				n, err := fio(t.Context(), d.uri("v"), c.args)
				must(t, err)
				return n
			}
			run() // until the log is as large as it gets
			run()
			pid := d.proc.Cmd.Process.Pid
			before := written(t, pid)
			n := run() + run() + run()  // a spare segment that is zeroed now and then is a part of the steady state
			time.Sleep(2 * time.Second) // what the daemon does afterwards counts, too
			times := (written(t, pid) - before) / n
			t.Logf("%.2f bytes to the disk for each byte of the guest", times)
			if times > c.most {
				t.Errorf("at most %.1f are right", c.most)
			}
		})
	}
}
