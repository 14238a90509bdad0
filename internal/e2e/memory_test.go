package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/programs"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// residentMiB is the memory of a process as the kernel counts it.
func residentMiB(tb testing.TB, pid int) int {
	tb.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(tb, err)
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "VmRSS:" {
			n, err := strconv.Atoi(f[1])
			must(tb, err)
			return n >> 10
		}
	}
	tb.Fatal("no VmRSS")
	return 0
}

// idle is how long a daemon is left alone before its memory is looked at: a few
// seconds, which is harder on it than the minute that is promised, since the
// runtime gives memory back slowly. GLIDE_LONG=1 (make bench) waits that minute.
func idle(tb testing.TB) time.Duration {
	if long(tb) {
		return time.Minute
	}
	return 5 * time.Second
}

func long(tb testing.TB) bool {
	tb.Helper()
	return os.Getenv("GLIDE_LONG") != ""
}

// TestMemoryIdle: a daemon with 100 idle volumes of 100 GB stays small.
func TestMemoryIdle(t *testing.T) {
	t.Parallel() // it waits
	d := newDaemon(t, "")
	d.start()
	d.do("create", "v-0", "--size", "100G")
	d.write("v-0", bytes.Repeat([]byte{1}, 1<<20), 0)
	for i := 1; i < 100; i++ {
		d.do("create", fmt.Sprintf("v-%d", i), "--size", "100G")
	}
	time.Sleep(idle(t))
	rss := residentMiB(t, d.proc.Cmd.Process.Pid)
	t.Logf("%d MiB resident with 100 volumes, idle for %v", rss, idle(t))
	if rss > 150 {
		t.Errorf("%d MiB resident, 150 are allowed", rss)
	}
}

// fullImage is an image without holes: its blocks are of 4096 kinds, in an order
// that does not repeat, so that little is uploaded and yet no two pages of the
// block map are alike, and each names as many packs as it can.
type fullImage struct {
	left  int64 // blocks
	next  uint64
	block [128 << 10]byte
	rest  []byte
}

func (f *fullImage) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		if f.left == 0 {
			return 0, io.EOF
		}
		f.left--
		f.next++
		h := f.next * 0x9e3779b97f4a7c15
		h ^= h >> 29
		h *= 0xbf58476d1ce4e5b9
		binary.LittleEndian.PutUint64(f.block[:], h>>52|1<<63)
		f.rest = f.block[:]
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// TestMemoryMapped: a volume of which every block is mapped adds little to what
// the daemon takes without it, even when all of its map was walked through.
// Another process makes the volume: what an import leaves to the collector is
// not the volume's. With GLIDE_LONG=1 it has 100 GB and a minute of rest, as
// promised.
func TestMemoryMapped(t *testing.T) {
	t.Parallel() // it waits
	gib, allowed := uint64(4), 30
	if long(t) {
		gib, allowed = 100, 60
	}
	store := "file://" + t.TempDir()
	cmd := exec.Command(programs.Glide(t), "import", "-", "full", "--size", fmt.Sprintf("%dG", gib), "--store", store)
	cmd.Stdin = &fullImage{left: int64(gib << 30 / (128 << 10))}
	began := time.Now()
	if r := finish(t, cmd); r.Code != 0 {
		t.Fatalf("import: exit %d: %s", r.Code, r.Err)
	}
	took := time.Since(began)
	d := newDaemon(t, store)
	d.start()
	time.Sleep(idle(t))
	before := residentMiB(t, d.proc.Cmd.Process.Pid)
	d.do("wake", "full")
	d.mapped("full", gib<<30)
	time.Sleep(idle(t))
	after := residentMiB(t, d.proc.Cmd.Process.Pid)
	t.Logf("%d GiB mapped in %v; %d MiB resident without the volume, %d MiB with it, idle for %v", gib, took.Round(time.Second), before, after, idle(t))
	if after-before > allowed {
		t.Errorf("a volume with all of its blocks adds %d MiB, %d are allowed", after-before, allowed)
	}
}

// mapped asks for the extents of a whole export, of which all has to be data.
func (d *daemon) mapped(export string, size uint64) {
	d.tb.Helper()
	c, err := nbdclient.Dial(context.Background(), "unix", d.nbd(), nbdclient.Options{Export: export, Contexts: []string{"base:allocation"}})
	must(d.tb, err)
	defer c.Close()
	const step = 1 << 31
	for off := uint64(0); off < size; off += step {
		got, err := c.BlockStatus(off, step, 0)
		must(d.tb, err)
		var sum uint64
		for _, e := range got["base:allocation"] {
			if e.Flags != 0 {
				d.tb.Fatalf("%d bytes behind %d are a hole", e.Length, off+sum)
			}
			sum += uint64(e.Length)
		}
		if sum != step {
			d.tb.Fatalf("%d bytes at %d were described, of %d", sum, off, step)
		}
	}
}
