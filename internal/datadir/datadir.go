// Package datadir locks a daemon's data directory against other daemons, and
// notices when the directory, or a file in use, is no longer the one that the daemon
// opened. Causes are cleaners of temporary files, a mount over the directory, or an
// operator.
//
// There are two locks: one on the file "lock", which lsof and /proc/locks show,
// and one on the directory itself, which nobody removes by mistake.
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

// lockName is the name of the locked file.
const lockName = "lock"

// Unusable gives an error of a data directory its kind: a wrong directory is not
// worth another try, a disk error may be.
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

// Dir is a data directory that this process has locked. It may be used concurrently.
type Dir struct {
	fs   vfs.FS
	path string
	dir  vfs.File

	mu   sync.Mutex
	held io.Closer // the lock on the file
	file vfs.File  // that file, to compare with; closing it before held would release the lock
}

// Lock locks a directory, which must exist. If this or another process has locked
// it, the error is errs.Busy.
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

// lock locks the directory itself, and then the file.
func (d *Dir) lock() error {
	if fd := d.dir.Fd(); fd != vfs.InvalidFd {
		err := unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return d.busy(err)
		}
		// If the file system cannot lock directories, the file's lock is enough.
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lockFile()
}

func (d *Dir) busy(err error) error {
	return errs.New(errs.Busy, "the data directory %s is in use by another daemon (or cannot be locked: %w)", d.path, err)
}

// lockFile creates the file if it is missing, and locks it. Under mu.
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

// unlockFile undoes lockFile. Under mu.
func (d *Dir) unlockFile() {
	if d.held != nil {
		_ = d.held.Close()
	}
	if d.file != nil {
		_ = d.file.Close()
	}
	d.held, d.file = nil, nil
}

// Close unlocks the directory.
func (d *Dir) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unlockFile()
	_ = d.dir.Close()
}

// Check returns nil if the path still leads to the locked directory. It creates a
// missing lock file again.
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

// Gone tells whether the open file f was removed from its path, or replaced there.
// If that cannot be found out, it returns false.
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
