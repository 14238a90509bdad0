package kernelnbd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/errs"
)

// maxIndex bounds the N of /dev/nbdN: minor numbers have 20 bits.
const maxIndex = 1<<20 - 1

const devicePrefix = "/dev/nbd"

// Path is the path of a device.
func Path(index int) string { return devicePrefix + strconv.Itoa(index) }

// ParsePath returns the number of the device at a path.
func ParsePath(path string) (int, error) {
	digits, ok := strings.CutPrefix(path, devicePrefix)
	n, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil || n > maxIndex || strconv.FormatUint(n, 10) != digits {
		return 0, errs.New(errs.Invalid, "%.60q is not an nbd device: they are %s0, %s1, …", path, devicePrefix, devicePrefix)
	}
	return int(n), nil
}

// Connected lists the connected devices, each with a unique identity: the Backend it
// was created with or, if the kernel does not keep that, the process that created
// it and the boot.
func (Kernel) Connected() map[int]string { return connected("/sys/block", "/proc") }

func connected(sys, proc string) map[int]string {
	out := map[int]string{}
	dirs, _ := filepath.Glob(filepath.Join(sys, "nbd*"))
	for _, dir := range dirs {
		index, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "nbd"))
		if err != nil {
			continue
		}
		pid := readLine(filepath.Join(dir, "pid")) // exists while the device is connected
		if backend := readLine(filepath.Join(dir, "backend")); backend != "" {
			out[index] = backend
		} else if pid != "" {
			out[index] = "pid " + pid + " boot " + readLine(filepath.Join(proc, "sys/kernel/random/boot_id"))
		}
	}
	return out
}

// readLine returns the one line of a small file, "" if there is none.
func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// noModule says what to do about a kernel without the nbd module loaded.
func noModule() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return errs.New(errs.Unsupported, "the kernel has no nbd: %w", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	if list, err := os.ReadFile(filepath.Join("/lib/modules", release, "modules.dep")); err == nil && strings.Contains(string(list), "/nbd.ko") {
		return errs.New(errs.Unsupported, "the kernel's nbd module is not loaded: modprobe nbd")
	}
	return errs.New(errs.Unsupported, "this machine's kernel (Linux %s) has no nbd module, so it can have no kernel devices: give the volume's NBD URI (glide uri) to what uses it", release)
}

// Some programs, such as udev, open every device for a moment. Hold tries again so
// often, so far apart.
const (
	looks     = 5
	lookPause = 100 * time.Millisecond
)

// Hold opens a device exclusively, so that nobody can mount it, writes out what the
// kernel has in memory for it, and returns a function that closes it. A device in use
// is errs.Busy. Writing may take as long as the kernel waits for a connection; ctx
// ends the wait.
func (Kernel) Hold(ctx context.Context, index int) (release func(), err error) {
	fd, err := open(index)
	for i := 1; i < looks && errs.KindOf(err) == errs.Busy; i++ {
		time.Sleep(lookPause)
		fd, err = open(index)
	}
	if err != nil {
		return nil, err
	}
	path := Path(index)
	release = func() { _ = unix.Close(fd) }
	synced := make(chan error, 1)
	go func() { synced <- unix.Fsync(fd) }()
	select {
	case err = <-synced:
		if err == nil {
			return release, nil
		}
		err = fmt.Errorf("sync %s: %w: --force gives up what was not written", path, err)
	case <-ctx.Done():
		go func() { <-synced; release() }()
		return nil, fmt.Errorf("sync %s: %w", path, context.Cause(ctx))
	}
	release()
	return nil, err
}

// open opens a device exclusively.
func open(index int) (fd int, err error) {
	path := Path(index)
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err == unix.EBUSY {
		return 0, errs.New(errs.Busy, "%s is in use (mounted, or part of another device): unmount it, or use --force", path)
	}
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	if who := users("/proc", fd); len(who) > 0 {
		_ = unix.Close(fd)
		return 0, errs.New(errs.Busy, "%s is in use by %s: stop that, or use --force", path, strings.Join(who, ", "))
	}
	return fd, nil
}

// users names the other processes that have the device open, as far as this process
// can see them. A VM's monitor opens its disk without claiming it, often by another
// path, so the search is by device number.
func users(proc string, fd int) (who []string) {
	var dev unix.Stat_t
	if err := unix.Fstat(fd, &dev); err != nil {
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	for _, f := range files {
		target, err := os.Readlink(f)
		if err != nil || !strings.HasPrefix(target, "/") {
			continue // gone, or a socket or pipe
		}
		var st unix.Statx_t
		// Do not ask a network file system.
		err = unix.Statx(unix.AT_FDCWD, f, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Mkdev(st.Rdev_major, st.Rdev_minor) != dev.Rdev {
			continue
		}
		dir := filepath.Dir(filepath.Dir(f))
		if filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue
		}
		name := fmt.Sprintf("%s (process %s)", readLine(filepath.Join(dir, "comm")), filepath.Base(dir))
		if !slices.Contains(who, name) {
			who = append(who, name)
		}
	}
	return who
}

// IsGone tells whether an error of Reconnect or Resize means that the device no
// longer exists, or belongs to another program.
func IsGone(err error) bool { return errors.Is(err, unix.EINVAL) }
