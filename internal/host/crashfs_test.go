package host

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// lockedReader is a source of randomness for several goroutines.
type lockedReader struct {
	mu sync.Mutex
	b  io.Reader
}

func (r *lockedReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Read(p)
}

func randomSource(seed uint64) io.Reader {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 2})
}

// crashFS calls hook before and after everything that changes a file or a directory, of
// the log and of the metadata.
type crashFS struct {
	vfs.FS
	hook func(where string)
}

type crashFile struct {
	vfs.File
	hook func(where string)
	name string
}

func (f crashFile) around(what string, do func() error) error {
	f.hook("before " + what + " " + f.name)
	err := do()
	f.hook("after " + what + " " + f.name)
	return err
}

func (f crashFile) Write(p []byte) (n int, err error) {
	err = f.around("write", func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f crashFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.around("write", func() (err error) { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f crashFile) Sync() error     { return f.around("sync", f.File.Sync) }
func (f crashFile) SyncData() error { return f.around("sync", f.File.SyncData) }

func (f crashFile) SyncTo(n int64) (full bool, err error) {
	err = f.around("sync", func() (err error) { full, err = f.File.SyncTo(n); return err })
	return full, err
}

func (fs crashFS) wrap(f vfs.File, err error, name string) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return crashFile{f, fs.hook, name}, nil
}

func (fs crashFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return fs.wrap(f, err, name)
}

func (fs crashFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.OpenReadWrite(name, c, o...)
	return fs.wrap(f, err, name)
}

func (fs crashFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(from, to, c)
	return fs.wrap(f, err, to)
}

func (fs crashFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	return fs.wrap(f, err, name)
}

func (fs crashFS) Rename(from, to string) error {
	fs.hook("before rename " + to)
	err := fs.FS.Rename(from, to)
	fs.hook("after rename " + to)
	return err
}

func (fs crashFS) Remove(name string) error {
	fs.hook("before remove " + name)
	err := fs.FS.Remove(name)
	fs.hook("after remove " + name)
	return err
}

// crashStore is the store as one life of the host sees it. A host without power sends
// nothing more. What it sent before may be lost, or may take effect at once or much
// later, while its successor runs.
type crashStore struct {
	objstore.Store
	w   *crashWorld
	gen int
}

func (s crashStore) change(ctx context.Context, what string, do func(context.Context) error) error {
	if !s.w.alive(s.gen) {
		return errs.New(errs.Unavailable, "this host has no power")
	}
	if late := s.w.tick(s.gen, "before "+what); late != nil {
		late(func() error { return do(context.WithoutCancel(ctx)) })
		return errs.New(errs.Unavailable, "this host lost its power")
	}
	err := do(ctx)
	s.w.tick(s.gen, "after "+what)
	return err
}

func (s crashStore) Put(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	return s.change(ctx, "put "+key, func(ctx context.Context) error { return s.Store.Put(ctx, key, data) })
}

func (s crashStore) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	return s.change(ctx, "create "+key, func(ctx context.Context) error { return s.Store.PutIfAbsent(ctx, key, data) })
}

func (s crashStore) Delete(ctx context.Context, key string) error {
	return s.change(ctx, "delete "+key, func(ctx context.Context) error { return s.Store.Delete(ctx, key) })
}
