package wal

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// failingFS makes syncs of files fail while the test says so.
type failingFS struct {
	vfs.FS
	fails *atomic.Bool
}

type failingFile struct {
	vfs.File
	fails *atomic.Bool
}

func (f failingFile) SyncData() error {
	if f.fails.Load() {
		return errors.New("input/output error")
	}
	return f.File.SyncData()
}

func (fs failingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return failingFile{f, fs.fails}, err
}

// TestSyncAfterAFailedOne: after a failed sync, the disk would report success for the
// next one. No caller may get that success before the data of the failed sync is
// rewritten. flush-is-durable.
func TestSyncAfterAFailedOne(t *testing.T) {
	var fails atomic.Bool
	p := testPool(t, failingFS{vfs.NewMem(), &fails})
	l := newTestLog(p, 0)
	for i := range 3 { // enough that a full segment waits for its sync too
		l.write(t, uint64(i)<<20, bytes.Repeat([]byte{byte(i + 1)}, minSegment/3))
	}
	fails.Store(true)
	if err := l.Sync(); !errors.Is(err, ErrSync) {
		t.Fatalf("a failed sync: %v", err)
	}
	fails.Store(false)
	l.write(t, 0, []byte("written after it"))
	for range 2 {
		if err := l.Sync(); !errors.Is(err, ErrSync) || l.Durable() != 0 || !l.Failed() {
			t.Fatalf("the sync after it: %v, durable through %d", err, l.Durable())
		}
	}
	last := l.Last()
	got, err := l.Rewrite()
	if err != nil || uint64(len(got)) != last || l.Failed() || l.Durable() != last {
		t.Fatalf("%d records were written again: %v, durable through %d", len(got), err, l.Durable())
	}
	l.write(t, 0, []byte("and goes on"))
	if err := l.Sync(); err != nil || l.Durable() != last+1 {
		t.Fatalf("after that: %v, durable through %d", err, l.Durable())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
