package objstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// fileStore keeps each object in a file of its own, at root/key.
//
// An object is written to a file in root/.tmp and synced, and only then gets its
// name: by link(2), which fails atomically if the name exists, or by rename(2), which
// replaces atomically. Then its directory is synced; new directories were synced into
// their parents before. So after a crash an object is complete or absent, and an
// object whose Put returned is there.
//
// Directories are never removed: another host may be about to link into one, and
// Glide's keys need only a few. root/.tmp also marks the directory as a store. If it
// is missing, somebody unmounted or removed the store, which must not be mistaken for
// an empty one or created again.
type fileStore struct {
	fs   fileSystem
	root string // absolute
	encryption

	mu sync.Mutex
	// durable has the directories, relative to root, that are known to be
	// synced into their parents.
	durable map[string]bool
}

const (
	tmpDir = ".tmp"
	// staleTmp is the age after which a file in .tmp is no upload under way
	// (of any host that shares the store) but the remains of a crash.
	staleTmp = time.Hour
)

// fileSystem is what the driver needs of a file system; tests have one that
// loses what was not synced.
type fileSystem interface {
	// Create makes a file for writing; it is an error if it exists.
	Create(name string) (writeFile, error)
	Open(name string) (readFile, error)
	Link(oldname, newname string) error
	Rename(oldname, newname string) error
	// Remove removes a file; that it is a directory is an error.
	Remove(name string) error
	Mkdir(name string) error
	MkdirAll(name string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
}

type writeFile interface {
	io.WriteCloser
	Sync() error
}

type readFile interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// openFile opens the store in a directory, which is made if it is missing.
func openFile(fsys fileSystem, root string, clock Clock) (*fileStore, error) {
	f := &fileStore{fs: fsys, root: root, durable: map[string]bool{".": true}}
	if st, err := fsys.Stat(root); err == nil && !st.IsDir() {
		return nil, errs.New(errs.Invalid, "the store %s is no directory: name one, or the place for a new one", f)
	}
	tmp := f.path(tmpDir)
	if _, err := fsys.Stat(tmp); errors.Is(err, fs.ErrNotExist) {
		if err := f.create(tmp); err != nil {
			return nil, f.fail(OpPut, tmpDir, err)
		}
	} else if err != nil {
		return nil, f.fail(OpGet, tmpDir, err)
	}
	f.cleanTmp(clock.withDefaults().Now())
	return f, nil
}

// create makes the root and what marks it, durably. The root's own parents are
// synced too: a store in a fresh data directory must survive as a whole.
func (f *fileStore) create(tmp string) error {
	if err := f.fs.MkdirAll(tmp); err != nil {
		return err
	}
	for dir := f.root; ; dir = filepath.Dir(dir) {
		if err := f.fs.SyncDir(dir); err != nil && dir == f.root {
			return err // above the root there may be directories that we may not read
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// cleanTmp removes the remains of crashed uploads. A file that cannot be removed is
// harmless.
func (f *fileStore) cleanTmp(now time.Time) {
	entries, _ := f.fs.ReadDir(f.path(tmpDir))
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && now.Sub(info.ModTime()) > staleTmp {
			_ = f.fs.Remove(f.path(tmpDir, e.Name()))
		}
	}
}

func (f *fileStore) path(parts ...string) string {
	return filepath.Join(f.root, filepath.FromSlash(path.Join(parts...)))
}

func (f *fileStore) String() string { return location{scheme: schemeFile, dir: f.root}.String() }

func (f *fileStore) Get(ctx context.Context, key string) ([]byte, error) {
	if err := checkRequest(ctx, OpGet, key); err != nil {
		return nil, err
	}
	return f.read(OpGet, key, func(size int64) (off, n int64, err error) {
		if size > MaxObject {
			err = tooBig(key, f.String(), size)
		}
		return 0, size, err
	})
}

func (f *fileStore) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := checkRange(ctx, key, off, n); err != nil {
		return nil, err
	}
	return f.read(OpGetRange, key, func(size int64) (int64, int64, error) {
		if off+n > size {
			return 0, 0, tooShort(key, f.String(), size, off, n)
		}
		return off, n, nil
	})
}

// read reads the range that choose picks, knowing the size.
func (f *fileStore) read(op Op, key string, choose func(size int64) (off, n int64, err error)) ([]byte, error) {
	file, err := f.fs.Open(f.path(key))
	if err != nil {
		return nil, f.fail(op, key, err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, f.fail(op, key, err)
	}
	if info.IsDir() {
		return nil, f.fail(op, key, syscall.EISDIR)
	}
	off, n, err := choose(info.Size())
	if err != nil {
		return nil, err
	}
	buf := make([]byte, n)
	switch got, err := file.ReadAt(buf, off); {
	case int64(got) == n:
		return buf, nil
	case errors.Is(err, io.EOF):
		return nil, tooShort(key, f.String(), off+int64(got), off, n)
	default:
		return nil, f.fail(op, key, err)
	}
}

func (f *fileStore) Head(ctx context.Context, key string) (Info, error) {
	if err := checkRequest(ctx, OpHead, key); err != nil {
		return Info{}, err
	}
	info, err := f.fs.Stat(f.path(key))
	if err == nil && info.IsDir() {
		err = syscall.EISDIR
	}
	if err != nil {
		return Info{}, f.fail(OpHead, key, err)
	}
	return Info{Key: key, Size: info.Size(), Modified: info.ModTime(), Version: fileVersion(info)}, nil
}

func (f *fileStore) Put(ctx context.Context, key string, data []byte) error {
	return f.put(ctx, OpPut, key, data, f.fs.Rename)
}

func (f *fileStore) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return f.put(ctx, OpPutIfAbsent, key, data, f.linkAbsent)
}

// put writes the data aside and publishes it under its name.
func (f *fileStore) put(ctx context.Context, op Op, key string, data []byte, publish func(tmp, name string) error) error {
	if err := cmp.Or(checkPut(ctx, op, key, data), f.refuse(op, key, f)); err != nil {
		return err
	}
	tmp := f.path(tmpDir, rand.Text())
	if err := f.writeTmp(tmp, data); err != nil {
		_ = f.fs.Remove(tmp)
		if errors.Is(err, fs.ErrNotExist) {
			return f.vanished(op, key)
		}
		return f.fail(op, key, err)
	}
	dir := path.Dir(key)
	err := f.makeDir(dir)
	if err == nil {
		err = publish(tmp, f.path(key))
	}
	if errors.Is(err, fs.ErrNotExist) { // somebody removed a directory that was there
		f.forgetDirs()
		if err = f.makeDir(dir); err == nil {
			err = publish(tmp, f.path(key))
		}
	}
	_ = f.fs.Remove(tmp) // a second name by now, if still there
	// An existing object may be another host's and not synced yet, and the caller
	// will build on it: sync in that case, too.
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = cmp.Or(f.fs.SyncDir(f.path(dir)), err)
	}
	if err != nil {
		return f.fail(op, key, err)
	}
	return nil
}

func (f *fileStore) writeTmp(name string, data []byte) error {
	file, err := f.fs.Create(name)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return cmp.Or(err, file.Close())
}

// linkAbsent gives tmp the name unless that exists.
func (f *fileStore) linkAbsent(tmp, name string) error {
	err := f.fs.Link(tmp, name)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, terr := f.fs.Stat(name)
	if terr != nil {
		return err
	}
	if there.IsDir() {
		return syscall.EISDIR
	}
	// A network file system may send the request twice, and report the fate
	// of the second.
	if ours, oerr := f.fs.Stat(tmp); oerr == nil && sameFile(ours, there) {
		return nil
	}
	return err
}

// makeDir makes a directory and those above it durable, below a root that
// must be there.
func (f *fileStore) makeDir(dir string) error {
	f.mu.Lock()
	known := f.durable[dir]
	f.mu.Unlock()
	if known {
		return nil
	}
	parent := path.Dir(dir)
	if err := f.makeDir(parent); err != nil {
		return err
	}
	if err := f.fs.Mkdir(f.path(dir)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Even if it existed: its creator may not have synced it yet.
	if err := f.fs.SyncDir(f.path(parent)); err != nil {
		return err
	}
	f.mu.Lock()
	f.durable[dir] = true
	f.mu.Unlock()
	return nil
}

func (f *fileStore) forgetDirs() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.durable = map[string]bool{".": true}
}

func (f *fileStore) Delete(ctx context.Context, key string) error {
	return f.delete(ctx, OpDelete, []string{key})
}

func (f *fileStore) DeleteBatch(ctx context.Context, keys []string) error {
	return f.delete(ctx, OpDeleteBatch, keys)
}

// delete removes files and syncs each directory once: deleted objects must not
// reappear after a crash.
func (f *fileStore) delete(ctx context.Context, op Op, keys []string) error {
	changed := make(map[string]bool)
	for _, key := range keys {
		if err := checkRequest(ctx, op, key); err != nil {
			return err
		}
		switch err := f.fs.Remove(f.path(key)); {
		case err == nil:
			changed[path.Dir(key)] = true
		case !isAbsent(err):
			return f.fail(op, key, err)
		case !f.present():
			return f.vanished(op, key)
		}
	}
	for dir := range changed {
		if err := f.fs.SyncDir(f.path(dir)); err != nil {
			return f.fail(op, dir, err)
		}
	}
	return nil
}

// present tells whether the directory is still the store that was opened.
func (f *fileStore) present() bool {
	_, err := f.fs.Stat(f.path(tmpDir))
	return !errors.Is(err, fs.ErrNotExist)
}

func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR)
}
