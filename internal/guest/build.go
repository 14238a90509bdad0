package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// fsLabel is the label of the disk's file system, by which a disk made here is known.
	fsLabel = "glide-guest"
	// DiskSize is the size of the disk, in bytes.
	DiskSize = 2 << 30
	// TailSize is how much of the disk's end lies behind the file system, zeros
	// that a test may write to from outside.
	TailSize = 64 << 20

	packages = "e2fsprogs,nbd-client" // on every disk
	recipe   = "1"                    // changes when what build does with the inputs changes
)

// Image is a disk and what boots it.
type Image struct {
	Path   string // a raw disk image; leave it as it is
	Kernel string
	Initrd string
	Cached bool // the disk was there already
}

// Build makes the disk and the initramfs in dir, or finds them there from an
// earlier time. It needs root or sudo, for debootstrap. Progress, which may be
// nil, is called with a line for each step that takes a while. A disk with more
// packages of Debian's is another disk.
func Build(ctx context.Context, dir string, progress func(string), more ...string) (Image, error) {
	im, err := Loader(ctx, dir)
	if err != nil {
		return Image{}, err
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	m, err := findMirror()
	if err != nil {
		return Image{}, err
	}
	list := strings.Join(append([]string{packages}, more...), ",")
	im.Path = filepath.Join(dir, "disk-"+key(recipe, m.suite, list, fsLabel, fmt.Sprint(DiskSize, TailSize)))
	if im.Cached = exists(im.Path); im.Cached {
		return im, nil
	}
	if progress == nil {
		progress = func(string) {}
	}
	return im, makeDisk(ctx, im.Path, m, list, progress)
}

// Loader is Build without the disk: a kernel, and an initramfs for it.
func Loader(ctx context.Context, dir string) (Image, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Image{}, err
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	kernel, release, err := findKernel()
	if err != nil {
		return Image{}, err
	}
	im := Image{
		Kernel: kernel,
		Initrd: filepath.Join(dir, "initrd-"+key(recipe, release, strings.Join(modules, ","), string(initScript), string(stage2Script))),
	}
	if exists(im.Initrd) {
		return im, nil
	}
	b, err := initramfs(release)
	if err != nil {
		return Image{}, err
	}
	if err := os.WriteFile(im.Initrd+".tmp", b, 0o644); err != nil {
		return Image{}, err
	}
	return im, os.Rename(im.Initrd+".tmp", im.Initrd)
}

// makeDisk fetches a Debian system and makes a file system of it at path.
func makeDisk(ctx context.Context, path string, m mirror, packages string, progress func(string)) error {
	tmp, err := os.MkdirTemp(filepath.Dir(path), "build-")
	if err != nil {
		return err
	}
	defer func() {
		// As root: what debootstrap made belongs to root.
		_ = run(context.WithoutCancel(ctx), "rm", "-rf", "--one-file-system", tmp)
	}()
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	root, disk := filepath.Join(tmp, "root"), filepath.Join(tmp, "disk")

	progress("fetching Debian " + m.suite + " with debootstrap")
	args := []string{"--variant=minbase", "--include=" + packages}
	if m.keyring != "" {
		args = append(args, "--keyring="+m.keyring)
	}
	if err := run(ctx, "debootstrap", append(args, m.suite, root, m.url)...); err != nil {
		return err
	}
	progress("making a file system of it")
	if err := run(ctx, "sh", "-c", `rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/* && mkdir -p "$1/srv"`, "sh", root); err != nil {
		return err
	}
	f, err := os.Create(disk) // so that it belongs to us
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(DiskSize), f.Close()); err != nil {
		return err
	}
	// All of the file system is there at once, so that the guest finds nothing left to initialise.
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-L", fsLabel, "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", root,
		disk, fmt.Sprintf("%dk", (DiskSize-TailSize)>>10)); err != nil {
		return err
	}
	return os.Rename(disk, path)
}

// HasLabel tells whether a disk that begins with these bytes (4 KiB or more)
// was made here: it looks into the superblock of ext4.
func HasLabel(head []byte) bool {
	const superblock, magic, label = 1024, 0x38, 0x78
	if len(head) < superblock+1024 {
		return false
	}
	s := head[superblock:]
	return s[magic] == 0x53 && s[magic+1] == 0xef && string(bytes.TrimRight(s[label:label+16], "\x00")) == fsLabel
}

// run runs a program as root. The error is its last line.
func run(ctx context.Context, name string, args ...string) error {
	argv := append([]string{name}, args...)
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	// /usr/sbin is not in everyone's path.
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C")
	if p, err := exec.LookPath("/usr/sbin/" + argv[0]); err == nil && cmd.Err != nil {
		cmd.Path, cmd.Err = p, nil
	}
	// A program that is interrupted is asked first: debootstrap has mounts to undo.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("guest: %s: %w: %s", name, err, lastLine(string(out)))
	}
	return nil
}

// lastLine is the last line that is not empty.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}

// key is a short name for a recipe.
func key(parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h[:6])
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lock waits until no other process builds in the directory.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("guest: lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
