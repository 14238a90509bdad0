package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// eight runs do for each number below n, eight at a time.
func eight(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	next, failed := make(chan int), make(chan error, 8)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var all error
			for i := range next {
				if err := do(i); err != nil {
					all = errors.Join(all, fmt.Errorf("%d: %w", i, err))
				}
			}
			failed <- all
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	for range 8 {
		must(t, <-failed)
	}
}

// onDisk is the room that a directory takes on its disk.
func onDisk(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if s, ok := i.Sys().(*syscall.Stat_t); ok {
			bytes += s.Blocks * 512
		}
		return err
	}))
	return bytes
}

// readyWithin ends the daemon and starts it, more than once if the machine may have been busy,
// and fails the test if it is never ready in time.
func (d *daemon) readyWithin(limit time.Duration, end func(), after string) {
	d.tb.Helper()
	for try := range 6 {
		if try > 0 {
			time.Sleep(5 * time.Second) // guests of other tests boot beside
		}
		end()
		began := time.Now()
		d.start()
		took := time.Since(began)
		d.tb.Logf("ready %v after %s", took.Round(time.Millisecond), after)
		if took <= limit {
			return
		}
	}
	d.tb.Errorf("after %s the daemon was not ready within %v", after, limit)
}

// TestThousandVolumes: one daemon serves a thousand forks that wrote a megabyte each. In
// `make test` there are a hundred, and the bounds are a tenth, plus what a daemon takes
// without volumes. GLIDE_SOAK (make soak) and GLIDE_LONG make it a thousand.
func TestThousandVolumes(t *testing.T) {
	volumes, mostLog, mostMemory, started, killed, rest := 100, 128+4096/10, 30+300/10, time.Second, 2*time.Second, 2*time.Second
	if long(t) || os.Getenv("GLIDE_SOAK") != "" {
		volumes, mostLog, mostMemory, started, killed, rest = 1000, 4096, 300, 5*time.Second, 10*time.Second, time.Minute
	}
	d := newDaemon(t, "", "--wal-limit", "8G")
	d.start()
	d.do("create", "base", "--size", "100G")
	d.write("base", pattern(1<<20, 1), 0)
	d.do("fork", "base", "vm", "-n", fmt.Sprint(volumes))
	name := func(i int) string { return fmt.Sprintf("vm-%d", i+1) }
	with := func(i int, do func(*nbdclient.Client) error) error {
		c, err := nbdclient.Dial(context.Background(), "unix", d.nbd(), nbdclient.Options{Export: name(i)})
		if err != nil {
			return err
		}
		defer c.Close()
		return do(c)
	}
	data := func(i int) []byte {
		b := make([]byte, 1<<20)
		_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), 1}).Read(b)
		return b
	}
	write := func(i int) error {
		return with(i, func(c *nbdclient.Client) error {
			return errors.Join(c.Write(data(i), 1<<30, 0), c.Zero(2<<30, 1<<20, 0), c.Write(make([]byte, 64<<10), 3<<30, 0), c.Flush())
		})
	}
	read := func(i int) error {
		return with(i, func(c *nbdclient.Client) error {
			got := make([]byte, 1<<20)
			if err := c.Read(got, 1<<30); err != nil || !bytes.Equal(got, data(i)) {
				return errors.Join(err, fmt.Errorf("%s does not hold what it wrote", name(i)))
			}
			return nil
		})
	}
	eight(t, volumes, write)
	d.readyWithin(killed, d.kill, "kill -9")
	eight(t, volumes, read)
	log := int(onDisk(t, filepath.Join(d.data, "wal")) >> 20)
	t.Logf("the log takes %d MiB", log)
	if log > mostLog {
		t.Errorf("the log takes %d MiB, %d are allowed", log, mostLog)
	}
	d.readyWithin(started, d.stop, "a stop")
	time.Sleep(rest)
	var took []time.Duration
	for range 7 {
		began := time.Now()
		var all []api.Volume
		if d.json(&all, "ls"); len(all) != volumes+1 {
			t.Fatalf("ls shows %d volumes", len(all))
		}
		took = append(took, time.Since(began))
	}
	rss, ls := residentMiB(t, d.proc.Cmd.Process.Pid), percentile(took, 50)
	t.Logf("%d MiB resident with %d volumes; ls takes %v", rss, volumes, ls.Round(time.Millisecond))
	if rss > mostMemory {
		t.Errorf("%d MiB resident, %d are allowed", rss, mostMemory)
	}
	if ls > 100*time.Millisecond {
		t.Errorf("ls takes %v, 100 ms are allowed", ls)
	}
	eight(t, volumes, read)
}
