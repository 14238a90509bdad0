package meta

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/reserve"
)

// fence is the file system of one instance of the database. Pebble ends the
// process, panics or goes round in circles when a write fails; so it never sees
// a write fail. The first one that does fails the instance: the goroutine that
// made it, and every one that writes later, is parked for good, and whoever
// waits for the instance is told by down. Reads go on, and their errors are
// returned.
//
// Compactions are no failure when the disk is full: they need room before they
// make room, nothing depends on them, and they wait for it. They do not take any
// of what is kept for everything else.
//
// A failed instance is out of date as soon as another is opened, and must not
// change a file any more: drain waits until nothing of it is under way.
type fence struct {
	vfs.FS
	give func() bool // frees some room on a full disk; false: there is none left

	flying sync.RWMutex  // held, shared, by whoever changes a file
	down   chan struct{} // closed when the instance has failed

	mu    sync.Mutex
	cause error
	retry chan struct{} // closed by nudge, and replaced
	hurry bool          // nothing waits for room any more
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

// err is why the instance failed, nil if it has not.
func (f *fence) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cause
}

// drain waits until no change of a file is under way. The instance has failed.
func (f *fence) drain() {
	f.flying.Lock()
	//lint:ignore SA2001 the lock is a barrier; whoever comes next is parked
	f.flying.Unlock()
}

// nudge lets what waits for room try again.
func (f *fence) nudge() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.retry)
	f.retry = make(chan struct{})
}

// stopWaiting ends the waiting for room: what does not find any fails.
func (f *fence) stopWaiting() {
	f.mu.Lock()
	f.hurry = true
	f.mu.Unlock()
	f.nudge()
}

// mayWait tells whether there may be a wait for room, and for what.
func (f *fence) mayWait() (retry <-chan struct{}, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.retry, !f.hurry
}

// change makes a change of a file. It does not return if that, or another one
// before it, failed.
func (f *fence) change(op func() error) {
	if f.try(op, f.give) != nil {
		select {} // parked
	}
}

// changeLater is change for what can wait for room.
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

// try makes a change, on a full disk with what give gives. The instance fails if
// it does not succeed, but for want of room if there is no give.
func (f *fence) try(op func() error, give func() bool) error {
	f.flying.RLock()
	defer f.flying.RUnlock()
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

// open opens a file to write it.
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

// Remove implements vfs.FS. What cannot be removed stays: that is no failure, but
// a failed instance must not remove what its successor uses.
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

// Write implements vfs.File. On a full disk it goes on where it was cut off.
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

// Close implements vfs.File. A file that was synced has nothing to lose; what
// was not synced is no promise.
func (w *fencedFile) Close() error { return w.File.Close() }

// logger drops Pebble's messages, and keeps it from ending the process: whoever
// has met an error that Pebble cannot live with is parked.
type logger struct{ fence *fence }

func (logger) Infof(string, ...any)  {}
func (logger) Errorf(string, ...any) {}
func (l logger) Fatalf(format string, args ...any) {
	l.fence.fail(fmt.Errorf(format, args...))
	select {}
}
