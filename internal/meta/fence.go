package meta

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/reserve"
)

// fence is the file system of one instance of the database. When a write fails,
// Pebble ends the process, panics or retries for ever, so it must never see a
// failed write. The first failed write fails the instance: its goroutine, and every
// goroutine that writes later, is parked for good, and the channel down wakes
// everything that waits for the instance. Reads continue, and return their errors.
//
// On a full disk, compactions do not fail the instance. They need room before they
// free room, and nothing depends on them, so they wait. They take nothing of the
// room that is reserved for everything else. They do not wait while the database is
// being opened: Pebble's Open waits for them.
//
// A failed instance is out of date as soon as another is opened, and must not
// change a file any more: drain waits until none of its changes is in progress.
type fence struct {
	vfs.FS
	give func() bool // frees some room on a full disk; false: there is none left

	changing sync.RWMutex  // held shared while a file is changed
	down     chan struct{} // closed when the instance has failed

	mu    sync.Mutex
	cause error
	retry chan struct{} // closed by nudge, and replaced
	hurry bool          // do not wait for room any more
}

func newFence(fs vfs.FS, give func() bool) *fence {
	return &fence{FS: fs, give: give, down: make(chan struct{}), retry: make(chan struct{})}
}

// fail fails the instance.
func (f *fence) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause == nil {
		f.cause = err
		close(f.down)
	}
}

// err returns why the instance failed, nil if it has not.
func (f *fence) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cause
}

// drain waits until no change of a file is in progress. The instance has failed.
func (f *fence) drain() {
	f.changing.Lock()
	//lint:ignore SA2001 the lock is a barrier; later changes are parked
	f.changing.Unlock()
}

// nudge makes changes that wait for room try again.
func (f *fence) nudge() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.retry)
	f.retry = make(chan struct{})
}

// setHurry says whether changes without room fail instead of waiting for it.
func (f *fence) setHurry(hurry bool) {
	f.mu.Lock()
	f.hurry = hurry
	f.mu.Unlock()
	f.nudge()
}

// mayWait tells whether a change may wait for room, and on which channel.
func (f *fence) mayWait() (retry <-chan struct{}, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.retry, !f.hurry
}

// change changes a file. It does not return if this change, or an earlier one,
// failed.
func (f *fence) change(op func() error) {
	if f.try(op, f.give) != nil {
		select {} // parked
	}
}

// changeLater is change for changes that can wait for room.
func (f *fence) changeLater(op func() error) {
	for {
		retry, ok := f.mayWait()
		if !ok {
			f.change(op)
			return
		}
		switch err := f.try(op, nil); {
		case err == nil:
			return
		case !reserve.IsFull(err) || f.err() != nil:
			select {} // parked
		}
		<-retry
	}
}

// try makes a change; on a full disk it uses the room that give frees. If it does not
// succeed, the instance fails, unless the disk is full and give is nil.
func (f *fence) try(op func() error, give func() bool) error {
	f.changing.RLock()
	defer f.changing.RUnlock()
	if err := f.err(); err != nil {
		return err
	}
	err := op()
	for give != nil && reserve.IsFull(err) && give() {
		err = op()
	}
	if err != nil && (give != nil || !reserve.IsFull(err)) {
		f.fail(err)
	}
	return err
}

// open opens a file for writing.
func (f *fence) open(c vfs.DiskWriteCategory, open func() (vfs.File, error)) (vfs.File, error) {
	w := &fencedFile{change: f.change}
	if c == compaction {
		w.change = f.changeLater
	}
	w.change(func() (err error) { w.File, err = open(); return err })
	return w, nil
}

// compaction is what Pebble calls the files of its compactions.
const compaction = "pebble-compaction"

// Create implements vfs.FS.
func (f *fence) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(c, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

// OpenReadWrite implements vfs.FS.
func (f *fence) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.open(c, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, opts...) })
}

// ReuseForWrite implements vfs.FS.
func (f *fence) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(c, func() (vfs.File, error) { return f.FS.ReuseForWrite(from, to, c) })
}

// OpenDir implements vfs.FS: directories are opened to be synced.
func (f *fence) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fencedFile{dir, f.change}, nil
}

// Rename implements vfs.FS.
func (f *fence) Rename(from, to string) error {
	f.change(func() error { return f.FS.Rename(from, to) })
	return nil
}

// Link implements vfs.FS.
func (f *fence) Link(from, to string) error {
	f.change(func() error { return f.FS.Link(from, to) })
	return nil
}

// MkdirAll implements vfs.FS.
func (f *fence) MkdirAll(dir string, perm os.FileMode) error {
	f.change(func() error { return f.FS.MkdirAll(dir, perm) })
	return nil
}

// Remove implements vfs.FS. A file that cannot be removed stays, which is not a
// failure. But a failed instance must not remove files that its successor uses.
func (f *fence) Remove(name string) (err error) {
	f.change(func() error { err = f.FS.Remove(name); return nil })
	return err
}

// RemoveAll implements vfs.FS, as Remove.
func (f *fence) RemoveAll(name string) (err error) {
	f.change(func() error { err = f.FS.RemoveAll(name); return nil })
	return err
}

// Lock implements vfs.FS: the directory is locked by the DB, for all instances.
func (f *fence) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// Unwrap implements vfs.FS.
func (f *fence) Unwrap() vfs.FS { return f.FS }

// fencedFile is a file that an instance writes.
type fencedFile struct {
	vfs.File
	change func(op func() error) // fence.change, or changeLater
}

// Write implements vfs.File. After a full disk, it continues where it was cut off.
func (w *fencedFile) Write(p []byte) (int, error) {
	done := 0
	w.change(func() error {
		n, err := w.File.Write(p[done:])
		done += n
		return err
	})
	return done, nil
}

// WriteAt implements vfs.File.
func (w *fencedFile) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	w.change(func() error {
		n, err := w.File.WriteAt(p[done:], off+int64(done))
		done += n
		return err
	})
	return done, nil
}

// Sync implements vfs.File.
func (w *fencedFile) Sync() error {
	w.change(w.File.Sync)
	return nil
}

// SyncData implements vfs.File.
func (w *fencedFile) SyncData() error {
	w.change(w.File.SyncData)
	return nil
}

// SyncTo implements vfs.File.
func (w *fencedFile) SyncTo(length int64) (full bool, err error) {
	w.change(func() (err error) { full, err = w.File.SyncTo(length); return err })
	return full, nil
}

// Close implements vfs.File. Its error does not matter: synced data is safe, and
// unsynced data was never promised.
func (w *fencedFile) Close() error { return w.File.Close() }

// logger drops Pebble's messages, and keeps Pebble from ending the process: a
// goroutine with a fatal error is parked.
type logger struct{ fence *fence }

func (logger) Infof(string, ...any)  {}
func (logger) Errorf(string, ...any) {}
func (l logger) Fatalf(format string, args ...any) {
	l.fence.fail(fmt.Errorf(format, args...))
	select {}
}
