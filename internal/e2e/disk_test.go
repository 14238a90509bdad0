package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/programs"
	"github.com/paraglide/glide/nbd"
)

// mountDisk makes a file system in a file, mounts it, and returns where.
func mountDisk(t *testing.T, bytes int64, mkfs ...string) (dir, image string) {
	t.Helper()
	programs.NeedRoot(t)
	image, dir = filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "mnt")
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(bytes), f.Close(), os.Mkdir(dir, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	command(t, append(mkfs, image)...)
	command(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	return dir, image
}

func command(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(programs.Need(t, args[0]), args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// fillUp takes the last byte of a disk; what it returns gives all back.
func fillUp(t *testing.T, dir string) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "fill")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 8<<20); len(b) >= 512; {
		if _, err := f.Write(b); errors.Is(err, syscall.ENOSPC) {
			b = b[:len(b)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		command(t, "sync", "-f", dir)
	}
}

// fillNames takes the last inode.
func fillNames(t *testing.T, dir string) (empty func()) {
	t.Helper()
	many := filepath.Join(dir, "many")
	if err := os.Mkdir(many, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		f, err := os.Create(filepath.Join(many, fmt.Sprint(i)))
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.RemoveAll(many); err != nil {
			t.Fatal(err)
		}
	}
}

// clearError says that an error is one line that names the disk or its want of room,
// and not a bug.
func clearError(t *testing.T, what string, r result) {
	t.Helper()
	if r.Code == 0 {
		return
	}
	if r.Code != 1 || strings.Contains(r.Err, "bug") || strings.Count(r.Err, "\n") != 1 ||
		!strings.Contains(r.Err, "full") && !strings.Contains(r.Err, "room") && !strings.Contains(r.Err, "space") {
		t.Errorf("%s: exit %d: %s", what, r.Code, r.Err)
	}
}

// A full disk, and one without inodes, must not end the daemon, nor keep it from
// starting; and all goes on by itself when there is room.
func TestDiskFull(t *testing.T) {
	for _, c := range []struct {
		name string
		mkfs []string
		fill func(*testing.T, string) func()
	}{
		{"ext4", []string{"mkfs.ext4", "-qFm0"}, fillUp},
		{"btrfs", []string{"mkfs.btrfs", "-q"}, fillUp},
		{"inodes", []string{"mkfs.ext4", "-qFm0", "-N", "600"}, fillNames},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, _ := mountDisk(t, 1<<30, c.mkfs...)
			d := newDaemon(t, "") // the store is on the full disk, too
			d.data = filepath.Join(dir, "data")
			d.start()
			d.do("create", "v", "--size", "1G")
			guest := d.dial("v")
			first := bytes.Repeat([]byte("a disk for Glide"), 4096)
			check(t, guest.Write(first, 0, 0), guest.Flush())
			waitFor(t, "room to be reserved", func() bool {
				_, err := os.Stat(filepath.Join(d.data, "reserve", "room-15"))
				return err == nil
			})

			empty := c.fill(t, dir)
			refused := false
			for i := range 300 {
				verb := [][]string{
					{"create", fmt.Sprint("n", i), "--size", "1G"}, {"snapshot", "v", fmt.Sprint("s", i)},
					{"set", "v", fmt.Sprintf("label.l%d=%060d", i%50, i)}, {"fork", "v", fmt.Sprint("f", i)},
				}[i%4]
				r := d.try(verb...)
				clearError(t, strings.Join(verb, " "), r)
				if refused = refused || r.Code != 0; refused && i%4 == 3 {
					break
				}
			}
			if !refused && c.name != "inodes" {
				t.Error("no verb is refused on a full disk")
			}
			written, err := 0, error(nil)
			for written < 3000 && err == nil {
				if err = guest.Write(first[:64<<10], uint64(written+1)*(64<<10), 0); err == nil {
					written++
				}
			}
			if err != nil && !errors.Is(err, nbd.ENOSPC) {
				t.Errorf("a write on the full disk: %v", err)
			}
			got := make([]byte, len(first))
			if check(t, guest.Read(got, 0)); !bytes.Equal(got, first) {
				t.Error("what was written before cannot be read")
			}
			for _, verb := range [][]string{{"ls"}, {"show", "v"}, {"df", "v"}, {"stats"}} {
				d.do(verb...) // verbs that only read go on
			}
			if r := d.try("doctor"); r.Code != 1 && c.name != "inodes" {
				t.Errorf("doctor calls a full disk ok: %s", r.Out)
			}

			d.kill()
			d.start() // on the full disk
			guest = d.dial("v")
			if check(t, guest.Read(got, 0)); !bytes.Equal(got, first) {
				t.Error("after kill -9, what was flushed is not there")
			}
			_ = d.try("flush", "v")

			empty()
			waitFor(t, "verbs to work again", func() bool { return d.try("create", "after", "--size", "1G").Code == 0 })
			check(t, guest.Write(first, 128<<20, 0), guest.Flush())
			d.do("flush", "v")
			waitFor(t, "doctor to be content", func() bool { return d.try("doctor").Code == 0 })
			d.stop()
		})
	}
}

// A disk that became read-only is read from; one that is gone, and comes back, is
// noticed and used again.
func TestDiskGoesAway(t *testing.T) {
	t.Parallel()
	dir, image := mountDisk(t, 1<<30, "mkfs.ext4", "-qFm0")
	d := newDaemon(t, "file://"+t.TempDir())
	d.data = filepath.Join(dir, "data")
	d.start()
	d.do("create", "v", "--size", "64M")
	guest := d.dial("v")
	first := bytes.Repeat([]byte("a disk for Glide"), 4096)
	check(t, guest.Write(first, 0, 0), guest.Flush())
	got := make([]byte, len(first))

	command(t, "umount", "-l", dir)
	if r := d.try("doctor"); r.Code != 1 || !strings.Contains(r.Out, "is not the one that the daemon opened") {
		t.Errorf("doctor, without the data directory: exit %d: %s", r.Code, r.Out)
	}
	check(t, guest.Write(first, 1<<20, 0), guest.Flush(), guest.Read(got, 1<<20))
	_ = d.try("create", "w", "--size", "1M")
	d.do("ls")
	command(t, "mount", "-o", "loop", image, dir)
	waitFor(t, "doctor to be content", func() bool { return d.try("doctor").Code == 0 })
	d.do("create", "x", "--size", "1M")

	command(t, "mount", "-o", "remount,abort", dir) // as after an error of the disk
	failed := false
	for i := 8; i < 64 && !failed; i++ {
		failed = guest.Write(first, uint64(i)<<19, 0) != nil || guest.Flush() != nil
	}
	if !failed {
		t.Error("writes and flushes are acknowledged on a disk that takes none")
	}
	for _, verb := range [][]string{{"ls"}, {"show", "v"}} {
		d.do(verb...)
	}
	if r := d.try("create", "y", "--size", "1M"); r.Code != 1 || strings.Contains(r.Err, "bug") || !strings.Contains(r.Err, "written") {
		t.Errorf("create on a read-only disk: exit %d: %s", r.Code, r.Err)
	}
	if r := d.try("doctor"); r.Code != 1 {
		t.Errorf("doctor calls it ok: %s", r.Out)
	}
	d.kill()
	command(t, "umount", dir)
	_ = exec.Command(programs.Need(t, "e2fsck"), "-fy", image).Run() // which says that it mended something
	command(t, "mount", "-o", "loop", image, dir)
	d.start()
	guest = d.dial("v")
	if check(t, guest.Read(got, 0)); !bytes.Equal(got, first) {
		t.Error("what was flushed is not there")
	}
	var all []api.Volume
	d.json(&all, "ls")
	if len(all) < 2 {
		t.Errorf("%d volumes are left", len(all))
	}
	d.stop()
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// waitFor waits until something holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 40 s for %s", what)
		}
	}
}

// On a file system that copies on write the log keeps to its limit, too: what is
// overwritten in it takes no more room.
func TestLogOnBtrfs(t *testing.T) {
	t.Parallel()
	dir, _ := mountDisk(t, 1<<30, "mkfs.btrfs", "-q")
	d := newDaemon(t, "file://"+t.TempDir(), "--cache", "64M", "--wal-limit", "500M")
	d.data = filepath.Join(dir, "data")
	d.start()
	d.do("create", "v", "--size", "64M")
	guest := d.dial("v")
	b := bytes.Repeat([]byte("a disk for Glide"), 65536)
	for range 20 { // 1.2 GiB, more than the disk has
		for i := range uint64(60) {
			check(t, guest.Write(b, i<<20, 0))
		}
		check(t, guest.Flush())
	}
	var fs syscall.Statfs_t
	check(t, syscall.Statfs(dir, &fs))
	if free := int64(fs.Bavail) * fs.Bsize; free < 250<<20 {
		t.Errorf("%d MiB are free, after 1.2 GiB were written over 64 MiB", free>>20)
	}
	d.stop()
}
