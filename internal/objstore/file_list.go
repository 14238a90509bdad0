package objstore

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
)

func (f *fileStore) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	w := walk{ctx: ctx, store: f, prefix: prefix, after: after, limit: listLimit(limit)}
	dir, _ := splitPrefix(prefix)
	if err := w.dir(dir); err != nil && !isAbsent(err) { // a directory that nobody has made yet is empty
		return nil, f.fail(OpList, prefix, err)
	}
	if len(w.found) == 0 && !f.present() {
		return nil, f.vanished(OpList, prefix)
	}
	return w.found, nil
}

// walk goes through the tree in byte order of the keys and reads only the
// directories that can hold what is looked for.
type walk struct {
	ctx           context.Context
	store         *fileStore
	prefix, after string
	limit         int
	found         []Info
}

// entry is a name below a directory as a beginning of keys: that of a
// directory ends with a slash, which also makes the order of the entries that
// of the keys ("a-b" lies before "a/b").
type entry struct {
	key  string
	file fs.DirEntry
}

func (e entry) isDir() bool { return strings.HasSuffix(e.key, "/") }

// dir visits what is below dir, which is empty or ends with a slash.
func (w *walk) dir(dir string) error {
	if err := checkContext(w.ctx, OpList, w.prefix); err != nil {
		return err
	}
	entries, err := w.entries(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if len(w.found) == w.limit {
			return nil
		}
		if e.isDir() {
			err = w.dir(e.key)
		} else {
			err = w.file(e)
		}
		// A name that is gone since the directory was read was deleted.
		if err != nil && !isAbsent(err) {
			return err
		}
	}
	return nil
}

// entries has what is of interest in a directory, in order.
func (w *walk) entries(dir string) ([]entry, error) {
	names, err := w.store.fs.ReadDir(w.store.path(dir))
	if err != nil {
		return nil, err
	}
	entries := make([]entry, 0, len(names))
	for _, n := range names {
		if CheckKey(n.Name()) != nil {
			continue // .tmp, and what others may have left
		}
		e := entry{key: dir + n.Name(), file: n}
		isDir, err := w.isDir(e)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		if isDir {
			e.key += "/"
		}
		if w.wants(e) {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	return entries, nil
}

// isDir follows symbolic links: an operator may have put a part of the store
// on another disk, and what List leaves out the collector believes gone.
func (w *walk) isDir(e entry) (bool, error) {
	if e.file.Type()&fs.ModeSymlink == 0 {
		return e.file.IsDir(), nil
	}
	info, err := w.store.fs.Stat(w.store.path(e.key))
	if err != nil {
		return false, err
	}
	return info.IsDir(), nil
}

// wants tells whether the entry is, or may contain, a key with the prefix that
// is greater than after.
func (w *walk) wants(e entry) bool {
	if !e.isDir() {
		return strings.HasPrefix(e.key, w.prefix) && e.key > w.after
	}
	reaches := strings.HasPrefix(e.key, w.prefix) || strings.HasPrefix(w.prefix, e.key)
	return reaches && (e.key > w.after || strings.HasPrefix(w.after, e.key))
}

func (w *walk) file(e entry) error {
	info, err := w.store.fs.Stat(w.store.path(e.key))
	if err != nil {
		return err
	}
	w.found = append(w.found, Info{Key: e.key, Size: info.Size(), Modified: info.ModTime(), Version: fileVersion(info)})
	return nil
}
