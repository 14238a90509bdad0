package wal

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fullFS has no space for new files, or only the first files have space for records.
type fullFS struct {
	vfs.FS
	files, records *bool
}

type fullFile struct {
	vfs.File
	full *bool
}

var errFull = errors.New("no room")

func (fs fullFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if *fs.files {
		return nil, errFull
	}
	f, err := fs.FS.Create(name, c)
	if err == nil && !strings.HasSuffix(name, "0.seg") {
		f = fullFile{f, fs.records}
	}
	return f, err
}

func (f fullFile) WriteAt(b []byte, off int64) (int, error) {
	if *f.full && off >= pageSize {
		return 0, errFull
	}
	return f.File.WriteAt(b, off)
}

// TestNoSegmentForTheRest: a write is longer than the rest of its segment, and there is
// no segment for the remainder. Nothing of it may be in the log. Otherwise half of it
// could be published, or reappear after a crash, as if the guest had written only that.
// prefix.
func TestNoSegmentForTheRest(t *testing.T) {
	files, records := false, false
	fs := fullFS{vfs.NewMem(), &files, &records}
	l := newTestLog(testPool(t, fs), 0)
	l.write(t, 0, []byte("before it"))
	for _, n := range []int{minSegment - pageSize, 2 * minSegment} {
		files = true
		got, err := l.Append([]uint64{0, 4096}, [][]byte{frame([]byte("with it")), frame(make([]byte, n))})
		if len(got) != 1 || !errors.Is(err, errFull) || errors.Is(err, ErrTorn) {
			t.Fatalf("a write of %d bytes: %d pieces, %v", n, len(got), err)
		}
		files = false
	}
	if l.Last() != 3 {
		t.Fatalf("the last of 3 writes has number %d", l.Last())
	}
	l.write(t, 4096, bytes.Repeat([]byte{1}, 2*minSegment))
	l.write(t, 0, []byte("after it"))
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	r, err := l.recoverAll(t, fs, 0)
	if err != nil || r.Last != l.Last() || uint64(len(r.Entries)) != r.Last {
		t.Fatalf("%d of %d records are there, through %d: %v", len(r.Entries), l.Last(), r.Last, err)
	}
}

// TestRestNotWritten: if the disk accepts a part of a write and not the rest, the log
// accepts no more writes, and recovery drops the part.
func TestRestNotWritten(t *testing.T) {
	for _, closed := range []bool{false, true} {
		files, records := false, false
		fs := fullFS{vfs.NewMem(), &files, &records}
		l := newTestLog(testPool(t, fs), 0)
		l.write(t, 0, []byte("before it"))
		records = true
		got, err := l.Append([]uint64{0, 4096, 0}, [][]byte{frame([]byte("with it")), frame(make([]byte, minSegment)), frame([]byte("behind it"))})
		if len(got) != 1 || !errors.Is(err, ErrTorn) || !errors.Is(err, errFull) || l.Last() != 2 {
			t.Fatalf("%d pieces, the last one is %d: %v", len(got), l.Last(), err)
		}
		records = false
		if _, err := l.Append([]uint64{0}, [][]byte{frame([]byte("after it"))}); !errors.Is(err, ErrTorn) {
			t.Fatalf("a write after it: %v", err)
		}
		if err := l.AppendZero(0, 4096); !errors.Is(err, ErrTorn) {
			t.Fatalf("a zero after it: %v", err)
		}
		if err := l.Sync(); err != nil || l.Durable() != 2 {
			t.Fatalf("durable through %d: %v", l.Durable(), err)
		}
		if closed {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		r, err := l.recoverAll(t, fs, 2)
		if err != nil || r.Last != 2 || len(r.Entries) != 2 {
			t.Fatalf("closed %v: %d records are there, through %d: %v", closed, len(r.Entries), r.Last, err)
		}
	}
}
