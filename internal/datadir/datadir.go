// Package datadir holds the data directory of a daemon against others, and
// notices when the directory, or a file that is in use, is not the one any more
// that the daemon opened: cleaners of temporary files, a second mount over it, an
// operator.
//
// A directory is held twice: by a lock on its file "lock", which shows in lsof
// and /proc/locks, and by one on the directory itself, which nobody removes by
// mistake.
package datadir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/reserve"
)

// lockName is the name of the file that is locked.
const lockName = "lock"

// Unusable gives an error of a data directory its kind: with one that is wrong it is
// no use trying again, with one whose disk has trouble it is.
func Unusable(path string, err error) error {
	kind := errs.Invalid
	switch {
	case reserve.IsFull(err):
		kind = errs.NoSpace
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EMFILE):
		kind = errs.Unavailable
	}
	return errs.New(kind, "the data directory %s cannot be used: %w", path, err)
}

// Dir is a data directory that this process holds. It may be used concurrently.
type Dir struct {
	fs   vfs.FS
	path string
	dir  vfs.File

	mu   sync.Mutex
	held io.Closer // the lock on the file
	file vfs.File  // that file, to know it again; closing it before held would release the lock
}

// Lock takes a directory, which must exist. One that another process has, or
// this one, is errs.Busy.
func Lock(fsys vfs.FS, path string) (*Dir, error) {
	d := &Dir{fs: fsys, path: path}
	var err error
	if d.dir, err = fsys.OpenDir(path); err != nil {
		return nil, Unusable(path, err)
	}
	if err := d.lock(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// lock takes the directory itself, and then the file.
func (d *Dir) lock() error {
	if fd := d.dir.Fd(); fd != vfs.InvalidFd {
		err := unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return d.busy(err)
		}
		// A file system that cannot lock directories has the file.
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lockFile()
}

func (d *Dir) busy(err error) error {
	return errs.New(errs.Busy, "the data directory %s is in use by another daemon (or cannot be locked: %w)", d.path, err)
}

// lockName makes the file if it is missing, and locks it. Under mu.
func (d *Dir) lockFile() (err error) {
	d.unlockFile()
	path := d.fs.PathJoin(d.path, lockName)
	if d.held, err = d.fs.Lock(path); err != nil {
		return d.busy(err)
	}
	if d.file, err = d.fs.Open(path); errors.Is(err, fs.ErrNotExist) { // of a file system that locks without one
		d.file, err = nil, nil
	}
	return err
}

// unlockFile gives up what lockName took. Under mu.
func (d *Dir) unlockFile() {
	if d.held != nil {
		_ = d.held.Close()
	}
	if d.file != nil {
		_ = d.file.Close()
	}
	d.held, d.file = nil, nil
}

// Close gives the directory up.
func (d *Dir) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unlockFile()
	_ = d.dir.Close()
}

// Check is nil if the directory is still the one that was locked, and can be
// reached by its name. A lock file that went away is made again.
func (d *Dir) Check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if Gone(d.fs, d.path, d.dir) {
		return errs.New(errs.Unavailable, "the data directory %s is not the one that the daemon opened: it was moved, removed, or something else is mounted over it; "+
			"put it back, or stop the daemon: what it holds open is lost with it", d.path)
	}
	if d.file == nil || !Gone(d.fs, d.fs.PathJoin(d.path, lockName), d.file) {
		return nil
	}
	if err := d.lockFile(); err != nil {
		return fmt.Errorf("the lock file was removed: %w", err)
	}
	return nil
}

// Gone tells whether what a path names is not the open file f: it was removed, or
// replaced. When that cannot be told, it is not.
func Gone(fsys vfs.FS, path string, f vfs.File) bool {
	if f == nil {
		return false
	}
	have, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := fsys.Stat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	a, ok := have.Sys().(*syscall.Stat_t)
	b, ok2 := there.Sys().(*syscall.Stat_t)
	return ok && ok2 && (a.Ino != b.Ino || a.Dev != b.Dev)
}
