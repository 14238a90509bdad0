package crashtest

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// NewMem makes a file system that can lose its power, with a directory in it that
// is durable.
func NewMem(dir string) (*vfs.MemFS, error) {
	mem := vfs.NewCrashableMem()
	if err := mem.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, d := range []string{"/", ""} {
		f, err := mem.OpenDir(d)
		if err != nil {
			continue // it has one of these names
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return nil, err
		}
	}
	return mem, nil
}

// PowerLoss is what a file system holds after a loss of power now: all that was
// synced, and some of what was not, chosen by fate. Percent says how much: 0, 30, 70
// or 100, for which = 0 to 3, and so on.
func PowerLoss(mem *vfs.MemFS, which, fate uint64) (left *vfs.MemFS, percent int) {
	percent = []int{0, 30, 70, 100}[which%4]
	return mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(fate, 3))}), percent
}

// FS calls a hook around everything that changes a file or a directory, and lets
// syncs fail.
type FS struct {
	vfs.FS
	hook func(where string)
	// BeforeSync, if there is one, is called before the data of a file is synced.
	BeforeSync atomic.Pointer[func()]
	// FailSyncs is how many syncs of data fail from now on.
	FailSyncs atomic.Int32
}

// NewFS wraps a file system. The hook is told "before" or "after", what, and the name.
func NewFS(fs vfs.FS, hook func(where string)) *FS { return &FS{FS: fs, hook: hook} }

func (fs *FS) around(what, name string, do func() error) error {
	fs.hook("before " + what + " " + name)
	err := do()
	fs.hook("after " + what + " " + name)
	return err
}

func (fs *FS) wrap(f vfs.File, err error, name string) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return file{f, fs, name}, nil
}

// Create, OpenReadWrite, ReuseForWrite and OpenDir return files with the hook.
func (fs *FS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return fs.wrap(f, err, name)
}

func (fs *FS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.OpenReadWrite(name, c, o...)
	return fs.wrap(f, err, name)
}

func (fs *FS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(from, to, c)
	return fs.wrap(f, err, to)
}

func (fs *FS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	return fs.wrap(f, err, name)
}

func (fs *FS) Rename(from, to string) error {
	return fs.around("rename", to, func() error { return fs.FS.Rename(from, to) })
}

func (fs *FS) Remove(name string) error {
	return fs.around("remove", name, func() error { return fs.FS.Remove(name) })
}

type file struct {
	vfs.File
	fs   *FS
	name string
}

func (f file) Write(p []byte) (n int, err error) {
	err = f.fs.around("write", f.name, func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f file) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.around("write", f.name, func() (err error) { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f file) Sync() error { return f.fs.around("sync", f.name, f.File.Sync) }

func (f file) SyncData() error {
	if before := f.fs.BeforeSync.Load(); before != nil {
		(*before)()
	}
	return f.fs.around("sync", f.name, func() error {
		if f.fs.FailSyncs.Add(-1) >= 0 {
			return errors.New("input/output error")
		}
		return f.File.SyncData()
	})
}

func (f file) SyncTo(n int64) (full bool, err error) {
	err = f.fs.around("sync", f.name, func() (err error) { full, err = f.File.SyncTo(n); return err })
	return full, err
}
