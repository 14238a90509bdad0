// Command dedup measures how much forks of a real image share in the store, when the same
// software is installed in each of them afterwards. Run it by `make bench-dedup`.
//
// The base is a Debian disk (package guest makes it). Each fork is a copy of it that is
// mounted through the loop device, so that the kernel's ext4 decides where files are placed.
// Programs run in it by chroot: apt and npm, with the same packages in another order in each
// fork. What a fork changed is then written to a fork of the volume over NBD, page by page, and
// flushed. The store's size before and after is what the table says. Blocks of other sizes are
// hashed and compressed from the same disks, without a daemon.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/paraglide/glide/internal/daemon"
	"github.com/paraglide/glide/internal/guest"
)

func main() {
	glide := flag.String("glide", "bin/glide", "the binary")
	cache := flag.String("cache", ".cache", "directory of the Debian disk, and of packages that were fetched")
	forks := flag.Int("forks", 10, "how many forks")
	same := flag.Bool("same-order", false, "install in the same order in each fork")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, *glide, *cache, *forks, *same)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-dedup:", err)
		os.Exit(1)
	}
}

// measure makes the forks one after the other, and prints the tables.
func measure(ctx context.Context, glide, cache string, forks int, same bool) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("loop mounts and chroot need root: use sudo")
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return err
	}
	im, err := guest.Build(ctx, filepath.Join(cache, "guest"), func(s string) { fmt.Println(s) }, "ca-certificates")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "glide-dedup-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // nothing is mounted any more: install sees to that
	s, err := startStore(ctx, glide, dir)
	if err != nil {
		return err
	}
	defer s.stop()
	if _, err := s.Do(ctx, "import", im.Path, "base", "--format", "raw"); err != nil {
		return err
	}
	t := newTable(s.bytes())
	if err := t.addBase(im.Path); err != nil {
		return err
	}
	in := installer{dir: dir, cache: filepath.Join(cache, "dedup"), same: same}
	for n := 1; n <= forks; n++ {
		began := time.Now()
		disk := filepath.Join(dir, "disk")
		if err := in.install(ctx, im.Path, disk, n); err != nil {
			t.print(os.Stdout) // of those before
			return fmt.Errorf("fork %d: %w", n, err)
		}
		runs, err := changes(im.Path, disk)
		if err != nil {
			return err
		}
		if err := s.write(ctx, fmt.Sprintf("fork-%d", n), disk, runs); err != nil {
			return fmt.Errorf("fork %d: %w", n, err)
		}
		if err := t.addFork(disk, runs, s.bytes()); err != nil {
			return err
		}
		fmt.Printf("fork %d: %d MiB changed, %d MiB more in the store (%.0f s)\n", n, t.last.changed>>20, t.last.stored>>20, time.Since(began).Seconds())
		if err := os.Remove(disk); err != nil {
			return err
		}
	}
	t.print(os.Stdout)
	return nil
}

// store is a daemon with a store of its own.
type store struct {
	daemon.Verbs
	proc     *daemon.Process
	dir, nbd string
}

func startStore(ctx context.Context, glide, dir string) (*store, error) {
	glide, err := filepath.Abs(glide)
	if err != nil {
		return nil, err
	}
	s := &store{Verbs: daemon.Verbs{Glide: glide, API: "unix:" + dir + "/api"}, dir: filepath.Join(dir, "store"), nbd: filepath.Join(dir, "nbd")}
	cmd := exec.Command(glide, "serve", "--data", filepath.Join(dir, "data"), "--store", "file://"+s.dir, "--nbd", "unix:"+s.nbd, "--api", s.API,
		"--log-level", "warn", "--gc", "off", "--cache", "1G", "--wal-limit", "8G")
	s.proc, err = daemon.Serve(ctx, cmd, nil, time.Minute)
	return s, err
}

func (s *store) stop() {
	if err := s.proc.Stop(time.Minute); err != nil {
		fmt.Fprintln(os.Stderr, "bench-dedup:", err)
	}
}

// bytes is how much the store holds: packs, block maps and commits.
func (s *store) bytes() (n int64) {
	_ = filepath.WalkDir(s.dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
