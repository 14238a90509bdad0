package hardware

import (
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// files is a disk as one life of a host sees it; it implements vfs.FS. Every
// operation calls before, which takes its time, and may crash the host.
type files struct {
	d      *disk
	before func(op fileOp, name string) error
	locks  map[string]bool // under d.mu
}

// fileOp is a kind of file operation.
type fileOp string

const (
	fileWrite  fileOp = "write"
	fileSync   fileOp = "sync"
	fileChange fileOp = "change" // of a directory
)

var _ vfs.FS = (*files)(nil)

func split(name string) (dir []string, base string) {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil, ""
	}
	parts := strings.Split(name[1:], "/")
	return parts[:len(parts)-1], parts[len(parts)-1]
}

func missing(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// parent finds the directory that a name is in. Under mu.
func (f *files) parent(op, name string) (*node, string, error) {
	dir, base := split(name)
	n := f.d.root
	for _, p := range dir {
		if n = n.entries[p]; n == nil || !n.isDir() {
			return nil, "", missing(op, name)
		}
	}
	return n, base, nil
}

// find finds what a name names. Under mu.
func (f *files) find(op, name string) (*node, error) {
	dir, base, err := f.parent(op, name)
	if err != nil {
		return nil, err
	}
	if base == "" {
		return dir, nil
	}
	if n := dir.entries[base]; n != nil {
		return n, nil
	}
	return nil, missing(op, name)
}

// change changes an entry of the directory that the name is in.
func (f *files) change(op, name string, do func(dir *node, base string) error) error {
	if err := f.before(fileChange, name); err != nil {
		return err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	dir, base, err := f.parent(op, name)
	if err != nil {
		return err
	}
	return do(dir, base)
}

func (f *files) open(n *node, name string) *file { return &file{fs: f, n: n, name: name} }

// Create implements vfs.FS.
func (f *files) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	n := newFile()
	err := f.change("create", name, func(dir *node, base string) error {
		dir.change(func(e map[string]*node) { e[base] = n })
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f.open(n, name), nil
}

// Link implements vfs.FS.
func (f *files) Link(from, to string) error {
	return f.change("link", to, func(dir *node, base string) error {
		n, err := f.find("link", from)
		if err != nil {
			return err
		}
		if dir.entries[base] != nil {
			return &fs.PathError{Op: "link", Path: to, Err: fs.ErrExist}
		}
		dir.change(func(e map[string]*node) { e[base] = n })
		return nil
	})
}

// Open implements vfs.FS.
func (f *files) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f.d.mu.Lock()
	n, err := f.find("open", name)
	f.d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	x := f.open(n, name)
	for _, o := range opts {
		o.Apply(x)
	}
	return x, nil
}

// OpenReadWrite implements vfs.FS.
func (f *files) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	x, err := f.Open(name, opts...)
	if os.IsNotExist(err) {
		return f.Create(name, c)
	}
	return x, err
}

// OpenDir implements vfs.FS.
func (f *files) OpenDir(name string) (vfs.File, error) { return f.Open(name) }

// Remove implements vfs.FS.
func (f *files) Remove(name string) error {
	return f.change("remove", name, func(dir *node, base string) error {
		if dir.entries[base] == nil {
			return missing("remove", name)
		}
		dir.change(func(e map[string]*node) { delete(e, base) })
		return nil
	})
}

// RemoveAll implements vfs.FS.
func (f *files) RemoveAll(name string) error {
	if err := f.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// Rename implements vfs.FS. Both names are in one directory, as they are
// everywhere in Glide and Pebble.
func (f *files) Rename(from, to string) error {
	return f.change("rename", to, func(dir *node, base string) error {
		old, oldBase, err := f.parent("rename", from)
		if err != nil {
			return err
		}
		n := old.entries[oldBase]
		switch {
		case n == nil:
			return missing("rename", from)
		case old != dir:
			return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrInvalid}
		}
		dir.change(func(e map[string]*node) {
			delete(e, oldBase)
			e[base] = n
		})
		return nil
	})
}

// ReuseForWrite implements vfs.FS.
func (f *files) ReuseForWrite(from, to string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Rename(from, to); err != nil {
		return nil, err
	}
	return f.Open(to)
}

// MkdirAll implements vfs.FS.
func (f *files) MkdirAll(name string, _ os.FileMode) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	dir, base := split(name)
	n := f.d.root
	for _, p := range append(slices.Clone(dir), base) {
		if p != "" && n.entries[p] == nil {
			sub := newDir()
			n.change(func(e map[string]*node) { e[p] = sub })
		}
		if p != "" {
			n = n.entries[p]
		}
	}
	return nil
}

type lock struct {
	f    *files
	name string
}

func (l lock) Close() error {
	l.f.d.mu.Lock()
	defer l.f.d.mu.Unlock()
	delete(l.f.locks, l.name)
	return nil
}

// Lock implements vfs.FS.
func (f *files) Lock(name string) (io.Closer, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.locks[name] {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: fs.ErrExist}
	}
	if f.locks == nil {
		f.locks = map[string]bool{}
	}
	f.locks[name] = true
	return lock{f, name}, nil
}

// List implements vfs.FS.
func (f *files) List(name string) ([]string, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n, err := f.find("list", name)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.entries)), nil
}

// Stat implements vfs.FS.
func (f *files) Stat(name string) (vfs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n, err := f.find("stat", name)
	if err != nil {
		return nil, err
	}
	return info{path.Base(name), n.size, n.isDir()}, nil
}

// PathBase, PathJoin and PathDir implement vfs.FS.
func (f *files) PathBase(p string) string    { return path.Base(p) }
func (f *files) PathJoin(e ...string) string { return path.Join(e...) }
func (f *files) PathDir(p string) string     { return path.Dir(p) }

// GetDiskUsage implements vfs.FS.
func (f *files) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{}, vfs.ErrUnsupported
}

// Unwrap implements vfs.FS.
func (f *files) Unwrap() vfs.FS { return nil }

type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string { return i.name }
func (i info) Size() int64  { return i.size }
func (i info) Mode() fs.FileMode {
	return map[bool]fs.FileMode{false: 0o600, true: fs.ModeDir | 0o700}[i.dir]
}
func (i info) ModTime() time.Time     { return time.Time{} }
func (i info) IsDir() bool            { return i.dir }
func (i info) Sys() any               { return nil }
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

// file is an open file; it implements vfs.File.
type file struct {
	fs   *files
	n    *node
	name string
	pos  int64 // of Read and Write
}

func (f *file) Close() error { return nil }

func (f *file) Read(b []byte) (int, error) {
	n, err := f.ReadAt(b, f.pos)
	if f.pos += int64(n); n > 0 {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(b []byte, off int64) (int, error) {
	f.fs.d.mu.Lock()
	defer f.fs.d.mu.Unlock()
	n := f.n.readAt(b, off)
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(b []byte) (int, error) {
	n, err := f.WriteAt(b, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *file) WriteAt(b []byte, off int64) (int, error) {
	if err := f.fs.before(fileWrite, f.name); err != nil {
		return 0, err
	}
	f.fs.d.mu.Lock()
	defer f.fs.d.mu.Unlock()
	f.n.writeAt(b, off)
	return len(b), nil
}

func (f *file) Preallocate(int64, int64) error { return nil }

func (f *file) Stat() (vfs.FileInfo, error) {
	f.fs.d.mu.Lock()
	defer f.fs.d.mu.Unlock()
	return info{path.Base(f.name), f.n.size, f.n.isDir()}, nil
}

func (f *file) Sync() error {
	f.fs.d.mu.Lock()
	s := f.n.beginSync()
	f.fs.d.mu.Unlock()
	err := f.fs.before(fileSync, f.name)
	f.fs.d.mu.Lock()
	defer f.fs.d.mu.Unlock()
	if err != nil {
		f.n.failSync(s)
		return err
	}
	f.n.endSync(s)
	return nil
}

func (f *file) SyncData() error             { return f.Sync() }
func (f *file) SyncTo(int64) (bool, error)  { return true, f.Sync() }
func (f *file) Prefetch(int64, int64) error { return nil }
func (f *file) Fd() uintptr                 { return vfs.InvalidFd }
