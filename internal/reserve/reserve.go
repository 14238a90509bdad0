// Package reserve keeps room on a disk for when it is full: a few files that
// hold nothing. When a write that must succeed finds no room, one of them is
// removed and the write is tried again; when there is room once more, they are
// made anew. Each file is a piece of room and an inode, so that a disk without
// inodes is met as well.
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

// IsFull tells whether an error says that a disk has no room, no inodes, or that
// a quota is used up.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Options configure a Reserve.
type Options struct {
	FS     vfs.FS
	Dir    string // made if it is missing
	Pieces int    // how many files
	Bytes  int64  // of each
	// Keep is how much the disk must have free beyond a piece for that to be made.
	Keep uint64
}

// Reserve is the room that is kept in one directory. It may be used concurrently.
type Reserve struct {
	opts Options

	mu   sync.Mutex
	have []bool // by piece
}

// Open finds the pieces that are there. It makes none: see Fill.
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

// Left is how many bytes are still reserved, of how many.
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

// Fill makes the missing pieces for which the disk has room. An error says why
// it has not made all of them.
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

// make makes one piece, if the disk has more than that free.
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

// occupy gives a piece its size. A file system that cannot reserve is written
// to, with bytes that it cannot compress away.
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
		_, _ = noise.Read(b) // which never fails
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return f.Sync()
}
