// Package reserve reserves room for when a disk is full: a few files without data.
// When a write that must succeed finds no room, one of them is removed and the write
// is tried again. When there is room again, the files are created again. Each file
// reserves room and an inode, so it also helps on a disk without inodes.
package reserve

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// IsFull tells whether an error means that a disk has no room or no inodes, or that
// a quota is used up.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Options configure a Reserve.
type Options struct {
	FS     vfs.FS
	Dir    string // created if it is missing
	Pieces int    // how many files
	Bytes  int64  // of each
	// Keep is how much room must stay free on the disk when a piece is created.
	Keep uint64
}

// Reserve is the room reserved in one directory. It may be used concurrently.
type Reserve struct {
	opts Options

	mu   sync.Mutex
	have []bool // by piece
}

// Open finds the existing pieces. It creates none: see Fill.
func Open(opts Options) (*Reserve, error) {
	r := &Reserve{opts: opts, have: make([]bool, opts.Pieces)}
	if err := opts.FS.MkdirAll(opts.Dir, 0o700); err != nil && !IsFull(err) {
		return nil, fmt.Errorf("make the directory of reserved room: %w", err)
	}
	for i := range r.have {
		st, err := opts.FS.Stat(r.path(i))
		r.have[i] = err == nil && st.Size() > 0
	}
	return r, nil
}

func (r *Reserve) path(i int) string {
	return r.opts.FS.PathJoin(r.opts.Dir, fmt.Sprintf("room-%d", i))
}

// Give removes one piece; false means that none was left.
func (r *Reserve) Give() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, have := range r.have {
		if !have {
			continue
		}
		r.have[i] = false
		if r.opts.FS.Remove(r.path(i)) == nil {
			return true
		}
	}
	return false
}

// Left returns how many bytes are still reserved, and how many should be.
func (r *Reserve) Left() (left, of int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, have := range r.have {
		if have {
			left += r.opts.Bytes
		}
	}
	return left, int64(len(r.have)) * r.opts.Bytes
}

// Fill creates the missing pieces for which the disk has room. The error says why
// some are still missing.
func (r *Reserve) Fill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, have := range r.have {
		if have {
			continue
		}
		if err := r.make(i); err != nil {
			return fmt.Errorf("reserve room on the disk: %w", err)
		}
		r.have[i] = true
	}
	return nil
}

// make creates one piece, if enough room stays free on the disk.
func (r *Reserve) make(i int) error {
	fs := r.opts.FS
	if u, err := fs.GetDiskUsage(fs.PathDir(r.opts.Dir)); err == nil && u.AvailBytes < uint64(r.opts.Bytes)+r.opts.Keep {
		return syscall.ENOSPC
	}
	if err := fs.MkdirAll(r.opts.Dir, 0o700); err != nil {
		return err
	}
	f, err := fs.Create(r.path(i), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if err := errors.Join(r.occupy(f), f.Close()); err != nil {
		_ = fs.Remove(r.path(i))
		return err
	}
	return nil
}

// occupy gives a piece its size. If the file system cannot reserve space, occupy
// writes bytes that cannot be compressed.
func (r *Reserve) occupy(f vfs.File) error {
	if fd := f.Fd(); fd != vfs.InvalidFd {
		err := unix.Fallocate(int(fd), 0, 0, r.opts.Bytes)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	b := make([]byte, min(r.opts.Bytes, 256<<10))
	noise := rand.NewChaCha8([32]byte{})
	for left := r.opts.Bytes; left > 0; left -= int64(len(b)) {
		b = b[:min(left, int64(len(b)))]
		_, _ = noise.Read(b) // never fails
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return f.Sync()
}
