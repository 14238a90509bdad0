package objstore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
)

// memFiles is a file system that forgets what was not synced.
type memFiles struct{ *vfs.MemFS }

func (m memFiles) Create(name string) (writeFile, error) {
	if _, err := m.MemFS.Stat(name); err == nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.EEXIST}
	}
	return m.MemFS.Create(name, vfs.WriteCategoryUnspecified)
}

func (m memFiles) Open(name string) (readFile, error) {
	file, err := m.MemFS.Open(name)
	if err != nil {
		return nil, err
	}
	return memFile{file}, nil
}

type memFile struct{ vfs.File }

func (f memFile) Stat() (fs.FileInfo, error) { return f.File.Stat() }

func (m memFiles) Remove(name string) error {
	if info, err := m.MemFS.Stat(name); err == nil && info.IsDir() {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.EISDIR}
	}
	return m.MemFS.Remove(name)
}

func (m memFiles) Mkdir(name string) error {
	if _, err := m.MemFS.Stat(name); err == nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: syscall.EEXIST}
	}
	if _, err := m.MemFS.Stat(path.Dir(name)); err != nil {
		return err
	}
	return m.MemFS.MkdirAll(name, 0o755)
}

func (m memFiles) MkdirAll(name string) error { return m.MemFS.MkdirAll(name, 0o755) }

func (m memFiles) SyncDir(name string) error {
	dir, err := m.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (m memFiles) ReadDir(name string) ([]fs.DirEntry, error) {
	names, err := m.List(name)
	if err != nil {
		return nil, err
	}
	var entries []fs.DirEntry
	for _, n := range names {
		if info, err := m.MemFS.Stat(path.Join(name, n)); err == nil {
			entries = append(entries, fs.FileInfoToDirEntry(info))
		}
	}
	return entries, nil
}

func (m memFiles) Stat(name string) (fs.FileInfo, error) { return m.MemFS.Stat(name) }

// hooked calls before ahead of every operation that changes something; an
// error from it is the operation's.
type hooked struct {
	fileSystem
	before func(op string) error
}

func (h hooked) do(op string, run func() error) error {
	if err := h.before(op); err != nil {
		return err
	}
	return run()
}

func (h hooked) Create(name string) (file writeFile, err error) {
	err = h.do("create "+name, func() error { file, err = h.fileSystem.Create(name); return err })
	return hookedFile{file, name, h}, err
}

func (h hooked) Link(a, b string) error {
	return h.do("link "+a+" "+b, func() error { return h.fileSystem.Link(a, b) })
}

func (h hooked) Rename(a, b string) error {
	return h.do("rename "+a+" "+b, func() error { return h.fileSystem.Rename(a, b) })
}

func (h hooked) Remove(name string) error {
	return h.do("remove "+name, func() error { return h.fileSystem.Remove(name) })
}

func (h hooked) Mkdir(name string) error {
	return h.do("mkdir "+name, func() error { return h.fileSystem.Mkdir(name) })
}

func (h hooked) MkdirAll(name string) error {
	return h.do("mkdir all "+name, func() error { return h.fileSystem.MkdirAll(name) })
}

func (h hooked) SyncDir(name string) error {
	return h.do("sync dir "+name, func() error { return h.fileSystem.SyncDir(name) })
}

type hookedFile struct {
	writeFile
	name string
	h    hooked
}

func (f hookedFile) Write(p []byte) (n int, err error) {
	err = f.h.do("write "+f.name, func() error { n, err = f.writeFile.Write(p); return err })
	return n, err
}

func (f hookedFile) Sync() error { return f.h.do("sync "+f.name, f.writeFile.Sync) }

func openMemFile(t *testing.T, m *vfs.MemFS, before func(op string) error) *fileStore {
	t.Helper()
	s, err := openFile(hooked{memFiles{m}, before}, "/data/store", Clock{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFileOrder pins the order of the operations on the file system: every
// sync that is missing or late shows here.
func TestFileOrder(t *testing.T) {
	var log []string
	random := regexp.MustCompile(`\.tmp/\w+`)
	s := openMemFile(t, vfs.NewCrashableMem(), func(op string) error {
		log = append(log, random.ReplaceAllString(strings.ReplaceAll(op, "/data/store", "S"), ".tmp/#"))
		return nil
	})
	check := func(what string, want ...string) {
		t.Helper()
		if !slices.Equal(log, want) {
			t.Errorf("%s did\n\t%s\nwant\n\t%s", what, strings.Join(log, "\n\t"), strings.Join(want, "\n\t"))
		}
		log = nil
	}
	ctx := t.Context()
	write := []string{"create S/.tmp/#", "write S/.tmp/#", "sync S/.tmp/#"}
	check("opening", "mkdir all S/.tmp", "sync dir S", "sync dir /data", "sync dir /")
	if err := s.PutIfAbsent(ctx, "v/log/1", []byte("1")); err != nil {
		t.Fatal(err)
	}
	check("the first create", append(slices.Clone(write), "mkdir S/v", "sync dir S", "mkdir S/v/log", "sync dir S/v",
		"link S/.tmp/# S/v/log/1", "remove S/.tmp/#", "sync dir S/v/log")...)
	if err := s.PutIfAbsent(ctx, "v/log/1", []byte("2")); !errors.Is(err, errs.Exists) {
		t.Fatal(err)
	}
	check("a create that loses", append(slices.Clone(write), "link S/.tmp/# S/v/log/1", "remove S/.tmp/#", "sync dir S/v/log")...)
	if err := s.Put(ctx, "v/log/1", []byte("3")); err != nil {
		t.Fatal(err)
	}
	check("replacing", append(slices.Clone(write), "rename S/.tmp/# S/v/log/1", "remove S/.tmp/#", "sync dir S/v/log")...)
	if err := s.DeleteBatch(ctx, []string{"v/log/1", "v/log/2", "x/1"}); err != nil {
		t.Fatal(err)
	}
	check("deleting", "remove S/v/log/1", "remove S/v/log/2", "remove S/x/1", "sync dir S/v/log")
}

// TestFileCrash loses power before every operation on the file system, with
// none, some or all of what was not synced: objects are whole, and those whose
// put returned are there.
func TestFileCrash(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		disk := vfs.NewCrashableMem()
		durable := map[string]string{} // what was acknowledged
		var key, data string           // what is under way
		check := func(string) error {
			clone := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[r.IntN(3)], RNG: r})
			s := openMemFile(t, clone, func(string) error { return nil })
			for _, k := range []string{"a/1", "a/2", "b/c/1", "d"} {
				got, err := s.Get(t.Context(), k)
				was, had := durable[k]
				switch {
				case err != nil && !errors.Is(err, errs.NotFound):
					t.Fatalf("seed %d: %v", seed, err)
				case err == nil && had && string(got) == was, err != nil && !had:
				case k == key && (err == nil && string(got) == data || err != nil && data == ""):
				default:
					t.Fatalf("seed %d: after a crash %s is %.20q, %v; acknowledged is %.20q", seed, k, got, err, was)
				}
			}
			return nil
		}
		s := openMemFile(t, disk, func(string) error { return nil })
		s.fs = hooked{memFiles{disk}, check}
		for i := range 12 {
			key = []string{"a/1", "a/2", "b/c/1", "d"}[r.IntN(4)]
			data = strings.Repeat(fmt.Sprintf("%d,", i), 1+r.IntN(5000))
			var err error
			switch r.IntN(4) {
			case 0:
				data = ""
				err = s.Delete(t.Context(), key)
			case 1:
				err = s.Put(t.Context(), key, []byte(data))
			default:
				err = s.PutIfAbsent(t.Context(), key, []byte(data))
			}
			switch {
			case errors.Is(err, errs.Exists):
			case err != nil:
				t.Fatal(err)
			case data == "":
				delete(durable, key)
			default:
				durable[key] = data
			}
			_ = check("")
		}
	}
}

// TestFileFailures fails every operation on the file system in turn: the
// request fails, nothing half-made is seen, and the next try succeeds.
func TestFileFailures(t *testing.T) {
	for _, c := range []struct {
		errno syscall.Errno
		kind  errs.Kind
	}{
		{syscall.ENOSPC, errs.NoSpace},
		{syscall.EDQUOT, errs.NoSpace},
		{syscall.EROFS, errs.ReadOnly},
		{syscall.EACCES, errs.ReadOnly},
		{syscall.ESTALE, errs.Unavailable},
		{syscall.EIO, errs.Internal},
	} {
		for n := 0; ; n++ {
			i := -1 // opening is not counted
			s := openMemFile(t, vfs.NewMem(), func(op string) error {
				if i >= 0 && !strings.HasPrefix(op, "remove") {
					if i++; i == n+1 {
						return &fs.PathError{Op: op, Path: "x", Err: c.errno}
					}
				}
				return nil
			})
			i = 0
			err := s.PutIfAbsent(t.Context(), "a/b/1", []byte("data"))
			if i <= n {
				break // there are no more operations to fail
			}
			if errs.KindOf(err) != c.kind || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "a/b/1") {
				t.Fatalf("%v at operation %d: %v (%s)", c.errno, n, err, errs.KindOf(err))
			}
			if left, _ := s.fs.ReadDir("/data/store/.tmp"); len(left) != 0 {
				t.Fatalf("%v at operation %d leaves %v", c.errno, n, left)
			}
			if err := s.PutIfAbsent(t.Context(), "a/b/1", []byte("data")); err != nil && !errors.Is(err, errs.Exists) {
				t.Fatal(err)
			}
			if got, err := s.Get(t.Context(), "a/b/1"); err != nil || string(got) != "data" {
				t.Fatalf("%q, %v", got, err)
			}
		}
	}
}

func openDir(t *testing.T, dir string) *fileStore {
	t.Helper()
	s, err := openFile(osFiles{}, dir, Clock{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFileVanished takes the directory away under the open store.
func TestFileVanished(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := openDir(t, dir)
	ctx := t.Context()
	if err := s.Put(ctx, "a/b", []byte("data")); err != nil {
		t.Fatal(err)
	}
	gone := func(state string) {
		t.Helper()
		_, err1 := s.Get(ctx, "a/b")
		_, err2 := s.Head(ctx, "a/b")
		_, err3 := s.List(ctx, "", "", 0)
		_, err4 := s.List(ctx, "a/", "", 0)
		for i, err := range []error{
			err1, err2, err3, err4, s.Put(ctx, "a/c", nil), s.PutIfAbsent(ctx, "n/c", nil), s.Delete(ctx, "a/b"),
		} {
			if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, ErrPersistent) {
				t.Errorf("%s, request %d: %v (%s)", state, i, err, errs.KindOf(err))
			}
		}
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	gone("removed")
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the store was made anew: %v", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil { // a mount point without its mount
		t.Fatal(err)
	}
	gone("replaced by an empty directory")
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(ctx, "a/b"); err != nil || string(got) != "data" {
		t.Fatalf("back again: %q, %v", got, err)
	}
	// Only a part is gone: the directories are made again, not believed to be there.
	if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := s.PutIfAbsent(ctx, "a/b", []byte("new")); err != nil {
		t.Fatal(err)
	}
}

// TestFileNotADirectory: a store that is a file is a mistake in the URL, and not
// one that may be mended while the daemon runs.
func TestFileNotADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openFile(osFiles{}, dir, Clock{})
	if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "no directory") {
		t.Error(err)
	}
	if _, err := openFile(osFiles{}, filepath.Join(dir, "in"), Clock{}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Error(err)
	}
}

// TestFileTmp checks that only what a crash left long ago is cleaned up.
func TestFileTmp(t *testing.T) {
	dir := t.TempDir()
	openDir(t, dir)
	for name, age := range map[string]time.Duration{"old": 2 * time.Hour, "new": time.Minute} {
		file := filepath.Join(dir, tmpDir, name)
		if err := os.WriteFile(file, []byte("half"), 0o644); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	s := openDir(t, dir)
	left, err := s.fs.ReadDir(filepath.Join(dir, tmpDir))
	if err != nil || len(left) != 1 || left[0].Name() != "new" {
		t.Fatalf("left in .tmp: %v, %v", left, err)
	}
	if infos, err := s.List(t.Context(), "", "", 0); err != nil || len(infos) != 0 {
		t.Fatalf("unfinished uploads are listed: %v, %v", infos, err)
	}
}

// TestFileStrangers has things in the directory that Glide did not put there.
func TestFileStrangers(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	ctx := t.Context()
	other := filepath.Join(t.TempDir(), "other")
	for _, d := range []string{filepath.Join(dir, ".hidden"), filepath.Join(dir, "empty", "dir"), filepath.Join(other, "x")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{filepath.Join(dir, ".hidden", "f"), filepath.Join(other, "x", "f")} {
		if err := os.WriteFile(f, []byte("f"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"linked": other, "broken": filepath.Join(other, "nothing")} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	infos, err := s.List(ctx, "", "", 0)
	if err != nil || len(infos) != 1 || infos[0].Key != "linked/x/f" || infos[0].Size != 1 {
		t.Fatalf("listed: %v, %v", infos, err)
	}
	if _, err := s.Get(ctx, "empty"); !errors.Is(err, errs.NotFound) {
		t.Fatalf("a directory is no object: %v", err)
	}
	for _, key := range []string{"empty", "linked/x/f/g"} {
		if err := s.Put(ctx, key, nil); errs.KindOf(err) != errs.Invalid {
			t.Fatalf("put %s: %v (%s)", key, err, errs.KindOf(err))
		}
		if err := s.PutIfAbsent(ctx, key, nil); errs.KindOf(err) != errs.Invalid {
			t.Fatalf("put if absent %s: %v (%s)", key, err, errs.KindOf(err))
		}
	}
	file := filepath.Join(other, "big")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, MaxObject+1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "linked/big"); errs.KindOf(err) != errs.Corrupt {
		t.Fatalf("an object that is too big: %v", err)
	}
}

// TestMemDirectories checks that the store for tests is as strict as a file
// system.
func TestMemDirectories(t *testing.T) {
	s := NewMem(Clock{})
	ctx := t.Context()
	if err := s.Put(ctx, "a/b/c", nil); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "a/b", "a/b/c/d", "a/b/c/d/e"} {
		if err := s.PutIfAbsent(ctx, key, nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("put if absent %s: %v", key, err)
		}
	}
}

// TestFileRepeatedLink is a network file system that did link, and says on
// being asked again that the name exists.
func TestFileRepeatedLink(t *testing.T) {
	s := openDir(t, t.TempDir())
	s.fs = repeatedLink{s.fs}
	if err := s.PutIfAbsent(t.Context(), "a", []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if err := s.PutIfAbsent(t.Context(), "a", []byte("other")); !errors.Is(err, errs.Exists) {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), "a"); err != nil || !bytes.Equal(got, []byte("mine")) {
		t.Fatalf("%q, %v", got, err)
	}
}

type repeatedLink struct{ fileSystem }

func (r repeatedLink) Link(a, b string) error {
	_ = r.fileSystem.Link(a, b)
	return r.fileSystem.Link(a, b)
}
